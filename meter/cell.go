package meter

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Entry is the right to count until Leave: what is counted between Enter and Leave is in one flush as a whole, or in the next.
type Entry struct {
	gate *gate
	half uint8
}

// Enter begins to count. lane spreads those who count at the same time. It must not be held while anything is waited for.
func (m *Meter) Enter(lane uint32) Entry { return m.enter(lane % (gates - 1)) }

// EnterAnswer is Enter for who counts the log's answers, mostly one goroutine: it has a gate for itself.
func (m *Meter) EnterAnswer() Entry { return m.enter(gates - 1) }

func (m *Meter) enter(gate uint32) Entry {
	g := &m.gates[gate]
	g.RLock()
	return Entry{g, m.half}
}

// Leave ends it.
func (e Entry) Leave() { e.gate.RUnlock() }

// Cell is one row: a minute, a topic, a device. It is used as long as somebody holds it, and is written again whenever it has counted.
type Cell struct {
	tally  session.Tally
	topic  *Topics
	device string
	minute int64
	over   bool
	shard  *shard
	halves [2]half
	mu     sync.Mutex // of the halves' reasons
}

type half struct {
	published, logged, digest, unknown, unlogged atomic.Uint32

	listed  atomic.Bool
	reasons []Count
}

// Is tells whether the cell is that of a minute and a device.
func (c *Cell) Is(minute int64, device string) bool {
	return c.minute == minute && c.device == device && !c.over
}

// Minute is the cell's.
func (c *Cell) Minute() int64 { return c.minute }

// Tally is what counts the deliveries of the cell's messages.
func (c *Cell) Tally() *session.Tally { return &c.tally }

func (c *Cell) in(e Entry) *half {
	h := &c.halves[e.half]
	if !h.listed.Load() && h.listed.CompareAndSwap(false, true) {
		c.shard.mu.Lock()
		c.shard.listed[e.half] = append(c.shard.listed[e.half], c)
		c.shard.mu.Unlock()
	}
	return h
}

// Published counts messages that were accepted.
func (c *Cell) Published(e Entry, n uint32) { c.in(e).published.Add(n) }

// Logged counts messages that are in the log, and the sum of their digests.
func (c *Cell) Logged(e Entry, n, digest uint32) {
	h := c.in(e)
	h.logged.Add(n)
	h.digest.Add(digest)
}

// Unknown counts messages of which nobody knows whether they will be in the log.
func (c *Cell) Unknown(e Entry, n uint32) { c.in(e).unknown.Add(n) }

// Unlogged counts messages that are not kept, by their route's wish.
func (c *Cell) Unlogged(e Entry, n uint32) { c.in(e).unlogged.Add(n) }

// Refused counts a message that was not accepted.
func (c *Cell) Refused(e Entry, reason string) { c.because(e, RefusedPrefix, reason) }

// Failed counts a message that was accepted and then refused by the log.
func (c *Cell) Failed(e Entry, reason string) { c.because(e, FailedPrefix, reason) }

func (c *Cell) because(e Entry, prefix, reason string) {
	h := c.in(e)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range h.reasons {
		if n := h.reasons[i].Name; len(n) == len(prefix)+len(reason) && n[:len(prefix)] == prefix && n[len(prefix):] == reason {
			h.reasons[i].N++
			return
		}
	}
	h.reasons = append(h.reasons, Count{prefix + reason, 1})
}

// shard is a part of the cells. It keeps two generations and forgets the older one when the younger is full; a forgotten cell that
// somebody still holds goes on counting, beside its successor.
type shard struct {
	mu         sync.RWMutex
	young, old map[cellKey]*Cell
	listed     [2][]*Cell
}

type cellKey struct {
	topic  *Topics
	minute int64
	device string
	over   bool
}

// Topics is a log topic as the meter knows it: a handle for route.
type Topics struct {
	m    *Meter
	name string
}

// Topic returns the handle of a log topic, or of what stands for one.
func (m *Meter) Topic(name string) *Topics {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.topics[name]
	if t == nil {
		t = &Topics{m, name}
		m.topics[name] = t
	}
	return t
}

// maxDevice bounds the name of a row's device, bytes: a key may be as long as a topic. Those with longer ones share a row.
const maxDevice = 1 << 10

// Cell returns a row. device may alias a buffer.
func (t *Topics) Cell(minute int64, device string) *Cell {
	k := cellKey{t, minute, device, false}
	s := &t.m.shards[maphash.String(t.m.seed, device)%shards]
	if c := s.find(k); c != nil {
		return c
	}
	if len(device) > maxDevice || t.m.fresh.Add(1) > int64(t.m.o.MaxRows) {
		t.m.over.Add(1)
		k.device, k.over = "", true
		if c := s.find(k); c != nil {
			return c
		}
	}
	return s.make(k)
}

func (s *shard) find(k cellKey) *Cell {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.young[k]; c != nil {
		return c
	}
	return s.old[k]
}

func (s *shard) make(k cellKey) *Cell {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.young[k]; c != nil {
		return c
	}
	if s.young == nil || len(s.young) >= shardCells {
		s.young, s.old = map[cellKey]*Cell{}, s.young
	}
	k.device = strings.Clone(k.device)
	c := &Cell{topic: k.topic, device: k.device, minute: k.minute, over: k.over, shard: s}
	c.tally.Row = c
	s.young[k] = c
	return c
}

// Part counts what went into one partition.
type Part struct {
	total  PartCount // of the flusher
	halves [2]struct {
		published, sent                atomic.Int64
		_                              [48]byte // who publishes and who answers are on other processors
		logged, refused, unknown, next atomic.Int64
		_                              [32]byte
	}
}

// Part returns the counter of a partition, where this run began at start.
func (m *Meter) Part(p eventlog.Part, topic string, start int64) *Part {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.byPart[p]
	if c == nil {
		c = &Part{total: PartCount{Part: p, Topic: topic, Start: start, Next: start}}
		m.byPart[p] = c
		m.parts = append(m.parts, c)
	}
	return c
}

// Published counts messages that were accepted for the partition.
func (p *Part) Published(e Entry, n int) { p.halves[e.half].published.Add(int64(n)) }

// Sent counts records that are handed to the log.
func (p *Part) Sent(e Entry, n int) { p.halves[e.half].sent.Add(int64(n)) }

// Logged counts records that are in the log, below next. The log answers a partition's batches in order.
func (p *Part) Logged(e Entry, n int, next int64) {
	h := &p.halves[e.half]
	h.logged.Add(int64(n))
	for old := h.next.Load(); old < next && !h.next.CompareAndSwap(old, next); old = h.next.Load() {
	}
}

// Refused counts records that the log refused.
func (p *Part) Refused(e Entry, n int) { p.halves[e.half].refused.Add(int64(n)) }

// Unknown counts records of which nobody knows.
func (p *Part) Unknown(e Entry, n int) { p.halves[e.half].unknown.Add(int64(n)) }

// fold adds a half that is at rest to the total.
func (p *Part) fold(half uint8) (changed bool) {
	h, t, was := &p.halves[half], &p.total, p.total
	t.Published += h.published.Swap(0)
	t.Sent += h.sent.Swap(0)
	t.Logged += h.logged.Swap(0)
	t.Refused += h.refused.Swap(0)
	t.Unknown += h.unknown.Swap(0)
	t.Next = max(t.Next, h.next.Swap(0))
	return *t != was
}
