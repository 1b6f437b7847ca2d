package logtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/millrace-io/millrace/eventlog"
)

// ErrRefused is the error of records that the Memory log refused out of hostility.
var ErrRefused = errors.New("refused by the hostile log")

// Memory is one process's driver on a log in memory that does everything the contract of eventlog.Driver allows, as its
// Hostility and its seed say. Peer opens another process's driver on the same log; Restart is the death of this process.
//
// It has one goroutine of its own, which calls every done, or none if Hostility.Manual is set. It knows nothing of disks:
// what is applied is durable.
type Memory struct {
	c *cluster

	// Everything below is guarded by c.mu.
	queues  fifos // appends not applied yet
	acks    fifos // appends applied, or refused, and not answered yet
	bytes   map[eventlog.Part]int
	rooms   map[eventlog.Part]chan struct{}
	tails   []*memTail
	life    int // grows with each Restart; what an earlier life left behind is dead
	closing bool
	closed  bool
	held    bool
	restart chan struct{} // non-nil: Restart waits for the goroutine to do it

	wake chan struct{} // one token: the goroutine looks again
	gone chan struct{} // closed when the goroutine has ended
}

var (
	_ eventlog.Driver         = (*Memory)(nil)
	_ eventlog.AtomicAppender = (*Memory)(nil)
)

// NewMemory returns the driver of a new, empty log.
func NewMemory(seed uint64, h Hostility) *Memory {
	if h.RoomBytes == 0 {
		h.RoomBytes = 1 << 20
	}
	if h.Partitions == 0 {
		h.Partitions = 4
	}
	if h.ForeignRecord == nil {
		h.ForeignRecord = func(_ eventlog.Part, n int) eventlog.Record {
			return eventlog.Record{Value: fmt.Appendf(nil, "somebody else's record %d", n)}
		}
	}
	c := &cluster{h: h, rng: rand.New(rand.NewPCG(seed, 0x6d696c6c72616365)), byName: map[string]*memTopic{}, byID: map[eventlog.TopicID]*memTopic{}}
	return c.join()
}

// Peer opens another process's driver on the same log.
func (m *Memory) Peer() *Memory { return m.c.join() }

// Append implements eventlog.Driver.
func (m *Memory) Append(b *eventlog.Batch, done func(eventlog.Outcome)) {
	m.append(nil, []*eventlog.Batch{b}, func(o []eventlog.Outcome) { done(o[0]) })
}

// AppendAtomic implements eventlog.AtomicAppender.
func (m *Memory) AppendAtomic(batches []*eventlog.Batch, done func([]eventlog.Outcome)) {
	m.append(nil, batches, done)
}

func (m *Memory) append(w *memWriter, batches []*eventlog.Batch, done func([]eventlog.Outcome)) {
	a := &pending{batches: batches, writer: w, done: done, out: make([]eventlog.Outcome, len(batches))}
	for _, b := range batches {
		a.size += b.Size()
	}
	c := m.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.closed || m.closing || len(batches) == 0 {
		a.fail(eventlog.ErrClosed)
		defer m.tell(a)
		return
	}
	c.seq++
	a.seq = c.seq
	for _, b := range batches {
		m.bytes[b.Part] += b.Size()
	}
	m.queues.push(a)
	c.kick()
}

// tell answers an append that came too late for the queues.
func (m *Memory) tell(a *pending) {
	if !m.c.h.Manual {
		go a.done(a.out)
		return
	}
	m.c.mu.Unlock()
	defer m.c.mu.Lock()
	a.done(a.out)
}

// Room implements eventlog.Driver.
func (m *Memory) Room(p eventlog.Part) <-chan struct{} {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.closed || m.bytes[p] < m.c.h.RoomBytes {
		return nil
	}
	if m.rooms[p] == nil {
		m.rooms[p] = make(chan struct{})
	}
	return m.rooms[p]
}

func (m *Memory) answered(a *pending) {
	if a.twin != nil {
		a.twin()
	}
	for _, b := range a.batches {
		m.bytes[b.Part] -= b.Size()
		if ch := m.rooms[b.Part]; ch != nil && m.bytes[b.Part] < m.c.h.RoomBytes {
			close(ch)
			delete(m.rooms, b.Part)
		}
	}
}

// Step does one thing that is waiting to be done: applies an append, answers one, lets a delayed batch show, lets a late twin
// land, ends a transaction, trims. It reports whether there was anything.
func (m *Memory) Step() bool {
	m.c.mu.Lock()
	call := m.step(true)
	m.c.mu.Unlock()
	if call == nil {
		return false
	}
	call()
	return true
}

// Drain steps until there is nothing left to do. What waits for a restart goes on waiting.
func (m *Memory) Drain() {
	for m.Step() {
	}
}

var nothing = func() {}

// step does one thing under the lock and returns what is to be called without it; nil if there was nothing to do.
func (m *Memory) step(chores bool) func() {
	if m.held && !m.closing {
		return nil
	}
	c := m.c
	queued, acks := m.queues.ready(), m.acks.ready()
	if !c.h.Shuffle {
		if len(acks) > 0 {
			return m.answer(oldest(acks))
		}
		if len(queued) > 0 {
			return m.apply(oldest(queued))
		}
	}
	n := len(queued) + len(acks)
	var shows []func()
	if chores {
		shows = c.hidden()
		n += len(shows) + len(c.chores)
	}
	if n == 0 {
		return nil
	}
	i := c.rng.IntN(n)
	if i < len(queued) {
		return m.apply(queued[i])
	}
	if i -= len(queued); i < len(acks) {
		return m.answer(acks[i])
	}
	if i -= len(acks); i < len(shows) {
		shows[i]()
		return nothing
	}
	i -= len(shows)
	do := c.chores[i]
	c.chores = slices.Delete(c.chores, i, i+1)
	do()
	return nothing
}

func oldest(as []*pending) *pending {
	return slices.MinFunc(as, func(a, b *pending) int { return cmp.Compare(a.seq, b.seq) })
}

func (m *Memory) apply(a *pending) func() {
	m.queues.pop(a)
	m.c.apply(a)
	m.acks.push(a)
	return nothing
}

func (m *Memory) answer(a *pending) func() {
	m.acks.pop(a)
	m.answered(a)
	return func() { a.done(a.out) }
}

func (m *Memory) run() {
	defer close(m.gone)
	for range m.wake {
		for {
			m.c.mu.Lock()
			if m.restart != nil {
				calls := m.die()
				m.c.mu.Unlock()
				for _, f := range calls {
					f()
				}
				m.c.mu.Lock()
				m.reborn()
				m.c.mu.Unlock()
				continue
			}
			call := m.step(!m.closing)
			if call == nil && m.closing {
				m.end()
				m.c.mu.Unlock()
				return
			}
			m.c.mu.Unlock()
			if call == nil {
				break
			}
			call()
		}
	}
}

// Restart is kill -9 of the process, and its next start: appends without an answer become unknown (their done says so, and
// whatever it appends is refused), some of them are in the log, now or later. Tails, writers and whoever waits for room of
// the life before are dead.
func (m *Memory) Restart() {
	m.c.mu.Lock()
	if m.closed || m.closing {
		m.c.mu.Unlock()
		return
	}
	if !m.c.h.Manual {
		done := make(chan struct{})
		m.restart, m.held = done, false
		m.c.kick()
		m.c.mu.Unlock()
		<-done
		return
	}
	calls := m.die()
	m.c.mu.Unlock()
	for _, f := range calls {
		f()
	}
	m.c.mu.Lock()
	m.reborn()
	m.c.mu.Unlock()
}

func (m *Memory) die() (calls []func()) {
	c := m.c
	m.closed = true
	m.closeTails()
	unanswered := append(m.acks.all(), m.queues.all()...)
	for _, a := range m.queues.all() {
		c.lose(a, false)
	}
	for _, a := range unanswered {
		m.answered(a)
		a.out = make([]eventlog.Outcome, len(a.batches))
		a.fail(eventlog.ErrUnknownOutcome)
		calls = append(calls, func() { a.done(a.out) })
	}
	m.queues, m.acks = fifos{}, fifos{}
	return calls
}

func (m *Memory) reborn() {
	m.closed = false
	m.life++
	m.c.chores = append(m.c.chores, m.c.afterRestart...)
	m.c.afterRestart = nil
	if m.restart != nil {
		close(m.restart)
		m.restart = nil
	}
}

func (m *Memory) closeTails() {
	for _, t := range m.tails {
		t.dead = true
		t.notify()
	}
	m.tails = nil
}

// Hold stops the log's goroutine from doing anything until the returned function is called: appends pile up.
func (m *Memory) Hold() (release func()) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	m.held = true
	return func() {
		m.c.mu.Lock()
		defer m.c.mu.Unlock()
		m.held = false
		m.c.kick()
	}
}

// Close implements eventlog.Driver. The log itself stays: Peer opens it again.
func (m *Memory) Close() error {
	m.c.mu.Lock()
	if m.closed || m.closing {
		m.c.mu.Unlock()
		<-m.gone
		return nil
	}
	m.closing = true
	if !m.c.h.Manual {
		m.c.kick()
		m.c.mu.Unlock()
		<-m.gone
		return nil
	}
	for call := m.step(false); call != nil; call = m.step(false) {
		m.c.mu.Unlock()
		call()
		m.c.mu.Lock()
	}
	m.end()
	m.c.mu.Unlock()
	close(m.gone)
	return nil
}

func (m *Memory) end() {
	m.closed = true
	m.closeTails()
	m.c.members = slices.DeleteFunc(m.c.members, func(o *Memory) bool { return o == m })
	for p, ch := range m.rooms {
		close(ch)
		delete(m.rooms, p)
	}
	m.c.chores = append(m.c.chores, m.c.afterRestart...)
	m.c.afterRestart = nil
}

// Foreign appends records as somebody else would, in a transaction of their own, at once: committed, or aborted.
func (m *Memory) Foreign(p eventlog.Part, recs []eventlog.Record, commit bool) error {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	mp, err := m.c.part(p)
	if err != nil {
		return err
	}
	m.c.store(mp, foreign(mp, recs), map[bool]state{true: committed, false: aborted}[commit])
	mp.end++ // the marker
	m.c.publish(mp)
	return nil
}

func (m *Memory) open(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.closed || m.closing {
		return eventlog.ErrClosed
	}
	return nil
}

// Claim implements eventlog.Driver.
func (m *Memory) Claim(ctx context.Context, p eventlog.Part) (eventlog.Writer, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if err := m.open(ctx); err != nil {
		return nil, err
	}
	mp, err := m.c.part(p)
	if err != nil {
		return nil, err
	}
	for len(mp.open) > 0 { // an earlier writer's records must not become stable behind the claim
		m.c.endTxn(mp, mp.open[0], false)
	}
	mp.epoch++
	if m.c.chance(m.c.h.Gap) {
		mp.end++
		m.c.publish(mp)
	}
	return &memWriter{m: m, part: mp, epoch: mp.epoch, life: m.life}, nil
}

type memWriter struct {
	m     *Memory
	part  *memPart
	epoch int64
	life  int
	spent bool // guarded by c.mu: an outcome is unknown, so nothing more may follow it
}

func (w *memWriter) Epoch() int64 { return w.epoch }

func (w *memWriter) Append(b *eventlog.Batch, done func(eventlog.Outcome)) {
	w.m.append(w, []*eventlog.Batch{b}, func(o []eventlog.Outcome) { done(o[0]) })
}
