package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// sector is the unit a disk writes; usually as a whole.
const sector = 512

// Kill ends the process that uses the file system: its handles and locks die. The returned file system has everything that
// was written, still unsynced where it was.
func (m *Mem) Kill() *Mem {
	c := m.clone()
	c.next.ops = c.ops(m.ops)
	return c.next
}

// Crash cuts the power and returns the disk as it may look afterwards; the handles of m are dead. What was synced is there.
// Of each unsynced write any subset of its sectors is there, seldom with a torn one; a size is the synced one or any since.
// Of the unsynced changes of names any subset is there, except that a change needs those before it that touched the same
// name: a rename over a file leaves the old or the new one. Crash may be called again for another outcome of the same cut.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	c := m.clone()
	ops := c.ops(m.ops)
	for _, op := range slices.Backward(ops) {
		for _, e := range slices.Backward(op.edits) {
			e.undo()
		}
	}
	lost := map[nameKey]bool{}
	for _, op := range ops {
		if rng.IntN(2) == 0 || slices.ContainsFunc(op.edits, func(e nameEdit) bool { return lost[e.key()] }) {
			for _, e := range op.edits {
				lost[e.key()] = true
			}
			continue
		}
		for _, e := range op.edits {
			e.apply()
		}
	}
	c.next.root.crash(rng)
	c.next.free.Add(m.root.bytes() - c.next.root.bytes())
	return c.next
}

// cloner copies a tree of names to a new Mem. Content is shared until somebody writes.
type cloner struct {
	next  *Mem
	nodes map[*node]*node
}

// clone ends m and copies its names as they are, with the journals of the files but without pending changes of names.
func (m *Mem) clone() *cloner {
	m.dead.Store(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &cloner{next: &Mem{locks: map[string]bool{}}, nodes: map[*node]*node{}}
	c.next.root = c.node(m.root)
	c.next.free.Store(m.free.Load())
	return c
}

func (c *cloner) node(n *node) *node {
	if n == nil {
		return nil
	}
	if d := c.nodes[n]; d != nil {
		return d
	}
	d := &node{}
	c.nodes[n] = d
	if n.entries != nil {
		d.entries = make(map[string]*node, len(n.entries))
		for name, child := range n.entries {
			d.entries[name] = c.node(child)
		}
		return d
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.shared = true
	d.data, d.shared, d.gone = n.data, true, n.gone
	d.journal = slices.Clone(n.journal)
	return d
}

func (c *cloner) ops(ops []nameOp) []nameOp {
	out := make([]nameOp, len(ops))
	for i, op := range ops {
		out[i].edits = make([]nameEdit, len(op.edits))
		for j, e := range op.edits {
			out[i].edits[j] = nameEdit{c.node(e.dir), e.name, c.node(e.old), c.node(e.new)}
		}
	}
	return out
}

// crash lets a file, or all files below a directory in the order of their names, lose what was unsynced.
func (n *node) crash(rng *rand.Rand) {
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		n.entries[name].crash(rng)
	}
	n.gone = false
	if len(n.journal) > 0 {
		n.lose(rng)
	}
}

// bytes is the size of a file, or of all below a directory.
func (n *node) bytes() int64 {
	sum := int64(len(n.data))
	for _, child := range n.entries {
		sum += child.bytes()
	}
	return sum
}

// lose rebuilds the content from what was synced and those sectors of the journal's writes that the dice leave.
func (n *node) lose(rng *rand.Rand) {
	journal := n.journal
	n.journal = nil
	sizes := []int64{journal[0].size}
	if rng.IntN(4) > 0 {
		for _, c := range journal {
			sizes = append(sizes, c.after)
		}
	}
	size := sizes[rng.IntN(len(sizes))]
	written := n.rewind(journal)
	synced := int64(len(n.data))

	top := synced
	for _, c := range journal {
		top = max(top, c.after)
	}
	n.resize(top)
	n.noise(rng, synced)
	keep := keeper(rng)
	for i, c := range journal {
		if c.after < c.size { // a truncation: what grows over it again finds zeros, if it reached the disk
			if keep() {
				clear(n.data[c.after:])
			}
			continue
		}
		n.redo(rng, keep, written[i], c.off)
	}
	n.resize(size)
}

// keeper decides for each sector whether it reached the disk. Some cuts keep nearly all, some nearly nothing.
func keeper(rng *rand.Rand) func() bool {
	odds := []int{0, 1, 4, 8, 12, 15, 16}[rng.IntN(7)]
	return func() bool { return rng.IntN(16) < odds }
}

// rewind undoes the journal and returns what each of its writes wrote.
func (n *node) rewind(journal []change) [][]byte {
	n.own()
	written := make([][]byte, len(journal))
	for i, c := range slices.Backward(journal) {
		if c.n > 0 {
			written[i] = slices.Clone(n.data[c.off : c.off+c.n])
		}
		n.resize(c.size)
		copy(n.data[c.off:], c.old)
	}
	return written
}

// noise is what an old file left in blocks that this one got and never wrote; mostly the file system zeroes them.
func (n *node) noise(rng *rand.Rand, from int64) {
	if rng.IntN(8) != 0 {
		return
	}
	for i := from; i < int64(len(n.data)); i++ {
		n.data[i] = byte(rng.Uint32())
	}
}

// redo writes those sectors of a write that reached the disk.
func (n *node) redo(rng *rand.Rand, keep func() bool, p []byte, off int64) {
	for len(p) > 0 {
		k := min(int64(len(p)), sector-off%sector)
		switch {
		case keep():
			copy(n.data[off:], p[:k])
		case rng.IntN(64) == 0: // torn: some bytes old, some new
			for i := range p[:k] {
				if rng.IntN(2) == 0 {
					n.data[off+int64(i)] = p[i]
				}
			}
		}
		p, off = p[k:], off+k
	}
}
