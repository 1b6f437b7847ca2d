package topic

// table maps keys to values. It is a plain list while it is small, which most are; a map finds the places in a longer one.
// Its order is that of the calls alone, so that the same calls give the same order.
type table[K comparable, V any] struct {
	list  []pair[K, V]
	index map[K]int // nil while the list is short
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

const shortList = 12

func (t *table[K, V]) find(k K) int {
	if t.index != nil {
		if i, ok := t.index[k]; ok {
			return i
		}
		return -1
	}
	for i := range t.list {
		if t.list[i].key == k {
			return i
		}
	}
	return -1
}

func (t *table[K, V]) get(k K) (v V, ok bool) {
	if i := t.find(k); i >= 0 {
		return t.list[i].value, true
	}
	return v, false
}

func (t *table[K, V]) set(k K, v V) (old V, replaced bool) {
	if i := t.find(k); i >= 0 {
		old, t.list[i].value = t.list[i].value, v
		return old, true
	}
	t.list = append(t.list, pair[K, V]{k, v})
	if t.index != nil {
		t.index[k] = len(t.list) - 1
	} else if len(t.list) > shortList {
		t.index = make(map[K]int, 2*shortList)
		for i := range t.list {
			t.index[t.list[i].key] = i
		}
	}
	return old, false
}

// delete puts the last pair in the place of the one deleted.
func (t *table[K, V]) delete(k K) (old V, ok bool) {
	i := t.find(k)
	if i < 0 {
		return old, false
	}
	last := len(t.list) - 1
	old = t.list[i].value
	t.list[i] = t.list[last]
	t.list[last] = pair[K, V]{}
	t.list = t.list[:last]
	if t.index != nil {
		if i < last {
			t.index[t.list[i].key] = i
		}
		delete(t.index, k)
	}
	if last <= shortList/2 && t.index != nil || last == 0 {
		t.index = nil
		t.list = append([]pair[K, V](nil), t.list...)
	}
	return old, true
}
