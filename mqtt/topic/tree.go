package topic

import "strings"

// Tree holds subscriptions: filter → key → value. One goroutine writes and reads (the owner's loop). The zero Tree is empty and
// ready for use. Filters must be valid.
type Tree[K comparable, V any] struct {
	root node[K, V]
	len  int

	// What Epoch returns. Every change takes the next value of clock and stores it where the names that it may concern look:
	// in the node of its literal first level, in wild, or, when that node goes away, in absent.
	clock, wild, absent uint64
}

// node is one level of some filters. hash and plus are the children for the wildcards.
type node[K comparable, V any] struct {
	children table[string, *node[K, V]]
	plus     *node[K, V]
	hash     *node[K, V]
	here     table[K, V] // subscriptions of the filter that ends here
	epoch    uint64      // of a literal first level
}

// Len is how many subscriptions there are.
func (t *Tree[K, V]) Len() int { return t.len }

// Set makes v the value of a subscription, new or not.
func (t *Tree[K, V]) Set(filter string, k K, v V) (old V, replaced bool) {
	n := &t.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = cut(rest)
		n = n.grow(level)
	}
	if old, replaced = n.here.set(k, v); !replaced {
		t.len++
	}
	t.touch(filter)
	return old, replaced
}

// Delete ends a subscription.
func (t *Tree[K, V]) Delete(filter string, k K) (old V, ok bool) {
	if old, ok = t.root.delete(filter, true, k); ok {
		t.len--
		t.touch(filter)
	}
	return old, ok
}

// Match calls yield for every subscription that matches a name. The same key may come more than once (overlapping filters).
// The order is the same after the same calls. yield must not change the tree.
func (t *Tree[K, V]) Match(name string, yield func(k K, v V)) {
	if !hidden(name) {
		t.root.match(name, true, yield)
		return
	}
	level, rest, more := cut(name)
	if child, ok := t.root.children.get(level); ok {
		child.match(rest, more, yield)
	}
}

// Epoch changes whenever Set or Delete touched a filter that could match a name: one whose first level is the name's, or a
// wildcard. It tags match caches.
func (t *Tree[K, V]) Epoch(name string) uint64 {
	level, _, _ := cut(name)
	epoch := t.absent
	if child, ok := t.root.children.get(level); ok {
		epoch = child.epoch
	}
	if hidden(name) {
		return epoch
	}
	return max(epoch, t.wild)
}

func (t *Tree[K, V]) touch(filter string) {
	t.clock++
	level, _, _ := cut(filter)
	if leadsWild(filter) {
		t.wild = t.clock
	} else if child, ok := t.root.children.get(level); ok {
		child.epoch = t.clock
	} else {
		t.absent = t.clock
	}
}

// grow returns the child for a level of a filter, making it if it is not there.
func (n *node[K, V]) grow(level string) *node[K, V] {
	if at := n.wildcard(level); at != nil {
		if *at == nil {
			*at = &node[K, V]{}
		}
		return *at
	}
	child, ok := n.children.get(level)
	if !ok {
		child = &node[K, V]{}
		n.children.set(strings.Clone(level), child) // a part of the filter would keep all of it
	}
	return child
}

// wildcard is the place of the child for a wildcard, nil for a literal level.
func (n *node[K, V]) wildcard(level string) **node[K, V] {
	switch level {
	case "+":
		return &n.plus
	case "#":
		return &n.hash
	}
	return nil
}

// delete ends a subscription below n and removes the nodes that nothing needs any more.
func (n *node[K, V]) delete(rest string, more bool, k K) (old V, ok bool) {
	if !more {
		return n.here.delete(k)
	}
	level, rest, more := cut(rest)
	at := n.wildcard(level)
	var child *node[K, V]
	var found bool
	if at != nil {
		child, found = *at, *at != nil
	} else {
		child, found = n.children.get(level)
	}
	if !found {
		return old, false
	}
	old, ok = child.delete(rest, more, k)
	if ok && child.bare() {
		if at != nil {
			*at = nil
		} else {
			n.children.delete(level)
		}
	}
	return old, ok
}

func (n *node[K, V]) bare() bool {
	return len(n.here.list) == 0 && len(n.children.list) == 0 && n.plus == nil && n.hash == nil
}

// match visits what is below n, which stands for the levels of the name before rest. more tells whether there are others.
func (n *node[K, V]) match(rest string, more bool, yield func(k K, v V)) {
	if n.hash != nil {
		n.hash.visit(yield)
	}
	if !more {
		n.visit(yield)
		return
	}
	level, rest, more := cut(rest)
	if child, ok := n.children.get(level); ok {
		child.match(rest, more, yield)
	}
	if n.plus != nil {
		n.plus.match(rest, more, yield)
	}
}

func (n *node[K, V]) visit(yield func(k K, v V)) {
	for i := range n.here.list {
		yield(n.here.list[i].key, n.here.list[i].value)
	}
}
