package logtest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// cluster is the log itself: what outlives the processes that use it. One mutex guards it and everything of its members.
type cluster struct {
	h Hostility

	mu      sync.Mutex
	rng     *rand.Rand
	members []*Memory
	byName  map[string]*memTopic
	byID    map[eventlog.TopicID]*memTopic
	born    uint64 // topics created
	seq     uint64 // appends
	strange int    // records of somebody else

	chores       []func() // what happens sooner or later, in any order
	afterRestart []func() // what happens only after some process ended
}

type memTopic struct {
	eventlog.Topic
	parts []*memPart
}

func (t *memTopic) describe() eventlog.Topic {
	d := t.Topic
	d.Config = maps.Clone(t.Config)
	return d
}

type memPart struct {
	topic   *memTopic
	part    eventlog.Part
	entries []*entry // in offset order
	open    []*entry // transactions that hold the stable offset back, in offset order
	start   int64
	end     int64
	epoch   int64 // of the last claim
}

// state is what became of the transaction that an entry is part of.
type state uint8

const (
	committed state = iota
	aborted
	undecided
)

type entry struct {
	batch *eventlog.Batch
	state state
}

func (c *cluster) join() *Memory {
	m := &Memory{c: c, bytes: map[eventlog.Part]int{}, rooms: map[eventlog.Part]chan struct{}{},
		wake: make(chan struct{}, 1), gone: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = append(c.members, m)
	if !c.h.Manual {
		go m.run()
		c.kick()
	}
	return m
}

// kick makes every member's goroutine look for something to do.
func (c *cluster) kick() {
	for _, m := range c.members {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

func (c *cluster) chance(p float64) bool { return p > 0 && c.rng.Float64() < p }

func (c *cluster) later(do func()) {
	c.chores = append(c.chores, do)
	c.kick()
}

func (c *cluster) part(p eventlog.Part) (*memPart, error) {
	t := c.byID[p.Topic]
	if t == nil || p.Index < 0 || int(p.Index) >= len(t.parts) {
		return nil, fmt.Errorf("partition %v: %w", p, eventlog.ErrUnknownTopic)
	}
	return t.parts[p.Index], nil
}

// apply decides what becomes of an append and fills in its outcomes.
func (c *cluster) apply(a *pending) {
	if err := c.admit(a, false); err != nil {
		a.fail(err)
		return
	}
	refuse, unknown := c.h.Refuse, c.h.Unknown
	if a.writer != nil {
		refuse, unknown = 0, c.h.WriterLost
		if c.chance(c.h.WriterRefuse) {
			a.fail(ErrRefused)
			return
		}
	} else if len(a.batches) > 1 { // all or nothing
		if c.chance(refuse) {
			a.fail(ErrRefused)
			return
		}
		refuse = 0
	}
	if c.chance(unknown) {
		c.lose(a, true)
		a.fail(fmt.Errorf("the producer's state is lost: %w", eventlog.ErrUnknownOutcome))
		return
	}
	for i, b := range a.batches {
		a.out[i] = c.land(b, refuse)
	}
}

// admit refuses what can never enter. A late twin comes from a writer that may have ended, but not been fenced.
func (c *cluster) admit(a *pending, late bool) error {
	for _, b := range a.batches {
		mp, err := c.part(b.Part)
		if err != nil {
			return err
		}
		if w := a.writer; w != nil {
			if w.part != mp {
				return fmt.Errorf("%w: writer of %v cannot append to %v", eventlog.ErrInvalid, w.part.part, b.Part)
			}
			if !late && w.life != w.m.life {
				return eventlog.ErrClosed
			}
			if w.epoch != mp.epoch || !late && w.spent {
				return fmt.Errorf("writer %d of %v: %w", w.epoch, b.Part, eventlog.ErrFenced)
			}
		}
		limit := 1 << 20
		if s, ok := mp.topic.Config["max.message.bytes"]; ok {
			limit, _ = strconv.Atoi(s)
		}
		if b.Size() > limit {
			return fmt.Errorf("batch of %d bytes, limit %d: %w", b.Size(), limit, eventlog.ErrTooLarge)
		}
	}
	return nil
}

// lose makes the outcome of an append unknown: it lands now, after the answer, after a restart, or never.
func (c *cluster) lose(a *pending, mayNow bool) {
	if a.writer != nil {
		a.writer.spent = true
	}
	if !c.chance(c.h.Late) {
		return
	}
	land := func() {
		if c.admit(a, true) != nil {
			return
		}
		for _, b := range a.batches {
			c.land(b, 0)
		}
	}
	switch n := c.rng.IntN(3); {
	case n == 0 && mayNow:
		land()
	case n == 1:
		a.twin = func() { c.afterRestart = append(c.afterRestart, land) }
	default:
		a.twin = func() { c.later(land) }
	}
}

// land puts a batch into its partition, among what hostility puts around it, and says where its records are.
func (c *cluster) land(b *eventlog.Batch, refuse float64) eventlog.Outcome {
	mp, err := c.part(b.Part)
	if err != nil {
		return eventlog.Outcome{Err: err}
	}
	c.surround(mp)
	refused := make([]bool, b.Len())
	any, all := false, true
	for i := range refused {
		refused[i] = c.chance(refuse)
		any = any || refused[i]
		all = all && refused[i]
	}
	out := eventlog.Outcome{Base: mp.end}
	gap := c.chance(c.h.Gap)
	switch {
	case all:
		out = eventlog.Outcome{Err: ErrRefused}
	case b.Raw() != nil && !any && (!gap || c.chance(0.5)):
		if gap {
			mp.end += 1 + c.rng.Int64N(3)
			out.Base = mp.end
		}
		own := eventlog.NewRawBatch(b.Part, slices.Clone(b.Raw()))
		own.Raw().SetBase(mp.end)
		own.Own, own.Side = b.Own, b.Side
		c.store(mp, own, committed)
	default:
		out.Each = make([]eventlog.Result, b.Len())
		var recs []eventlog.Record
		offset := mp.end
		for i, r := range records(b) {
			if refused[i] {
				out.Each[i] = eventlog.Result{Offset: -1, Err: ErrRefused}
				continue
			}
			if gap {
				offset += c.rng.Int64N(2)
			}
			r.Offset = offset
			out.Each[i].Offset = offset
			recs = append(recs, r)
			offset++
		}
		own := eventlog.NewRecordBatch(b.Part, recs, offset)
		own.Own = b.Own
		if !any {
			own.Side = b.Side
		}
		c.store(mp, own, committed)
	}
	c.publish(mp)
	c.wearOut(mp)
	return out
}

// surround puts what others do before a batch.
func (c *cluster) surround(mp *memPart) {
	somebody := func() *eventlog.Batch {
		c.strange++
		return foreign(mp, []eventlog.Record{c.h.ForeignRecord(mp.part, c.strange)})
	}
	dead := func() *eventlog.Batch {
		return foreign(mp, []eventlog.Record{{Key: []byte(AbortedValue), Value: []byte(AbortedValue)}})
	}
	claimed := mp.epoch > 0
	if !claimed && c.chance(c.h.Foreign) {
		c.store(mp, somebody(), committed)
	}
	if c.chance(c.h.Aborted) {
		c.store(mp, dead(), aborted)
		mp.end++ // the marker
	}
	if c.chance(c.h.Held) {
		commit := !claimed && c.chance(0.5)
		b := dead()
		if commit {
			b = somebody()
		}
		e := c.store(mp, b, undecided)
		mp.open = append(mp.open, e)
		c.later(func() { c.endTxn(mp, e, commit) })
	}
}

// wearOut lets retention and compaction at a partition, some time.
func (c *cluster) wearOut(mp *memPart) {
	if c.chance(c.h.Trim) {
		c.later(func() {
			if room := mp.stable() - mp.start; room > 0 {
				c.trim(mp, mp.start+1+c.rng.Int64N(room))
			}
		})
	}
	if mp.topic.Config["cleanup.policy"] == "compact" && c.chance(c.h.Compact) {
		c.later(func() { c.compact(mp) })
	}
}

func (c *cluster) store(mp *memPart, b *eventlog.Batch, s state) *entry {
	e := &entry{batch: b, state: s}
	mp.entries = append(mp.entries, e)
	mp.end = b.Next()
	return e
}

func (c *cluster) endTxn(mp *memPart, e *entry, commit bool) {
	i := slices.Index(mp.open, e)
	if i < 0 {
		return
	}
	mp.open = slices.Delete(mp.open, i, i+1)
	e.state = aborted
	if commit {
		e.state = committed
	}
	mp.end++ // the marker
	c.publish(mp)
}

func (c *cluster) trim(mp *memPart, to int64) {
	if to <= mp.start {
		return
	}
	mp.start = to
	mp.entries = slices.DeleteFunc(mp.entries, func(e *entry) bool { return e.batch.Next() <= to })
	c.publish(mp)
}

// compact removes the stable records that a later stable one of the same key supersedes, below some place.
func (c *cluster) compact(mp *memPart) {
	below := mp.stable()
	last := map[string]int64{}
	mp.scan(mp.start, below, func(e *entry) bool {
		for _, r := range records(e.batch) {
			last[string(r.Key)] = r.Offset
		}
		return true
	})
	if below > mp.start {
		below -= c.rng.Int64N(below - mp.start)
	}
	var kept []*entry
	for _, e := range mp.entries {
		if e.batch.Next() > below || e.state != committed {
			kept = append(kept, e)
			continue
		}
		recs := slices.DeleteFunc(slices.Clone(records(e.batch)), func(r eventlog.Record) bool { return last[string(r.Key)] > r.Offset })
		if len(recs) == 0 {
			continue
		}
		b := eventlog.NewRecordBatch(mp.part, recs, e.batch.Next())
		b.Own = e.batch.Own
		kept = append(kept, &entry{batch: b})
	}
	mp.entries = kept
}

// publish shows every tail what became stable, or leaves that for later.
func (c *cluster) publish(mp *memPart) {
	for _, m := range c.members {
		for _, t := range m.tails {
			for _, tp := range t.parts {
				if tp.mp != mp {
					continue
				}
				if tp.shown < mp.stable() && !c.chance(c.h.TailDelay) {
					tp.shown = mp.stable()
				}
				t.notify()
			}
		}
	}
	c.kick()
}

// hidden lists what tails do not see yet though it is stable, as functions that let them.
func (c *cluster) hidden() (shows []func()) {
	if c.h.TailDelay == 0 {
		return nil
	}
	for _, m := range c.members {
		for _, t := range m.tails {
			for _, tp := range t.parts {
				if tp.shown < tp.mp.stable() {
					shows = append(shows, func() {
						to := tp.mp.stable()
						if c.chance(0.5) {
							to = tp.mp.scan(tp.shown, to, func(*entry) bool { return false })
						}
						tp.shown = to
						t.notify()
					})
				}
			}
		}
	}
	return shows
}

// stable is the next offset to become stable.
func (mp *memPart) stable() int64 {
	if len(mp.open) > 0 {
		return mp.open[0].batch.Base()
	}
	return mp.end
}

// scan visits the entries with visible records in [from, to) until f says stop, and returns the place after: the next offset to scan.
func (mp *memPart) scan(from, to int64, f func(*entry) bool) int64 {
	for _, e := range mp.entries {
		if e.batch.Next() <= from || e.state != committed {
			continue
		}
		if e.batch.Next() > to {
			break
		}
		if !f(e) {
			return e.batch.Next()
		}
	}
	return max(from, to)
}

// view is a stored batch as a reader gets it.
func (c *cluster) view(mp *memPart, e *entry, tail bool) *eventlog.Batch {
	v := *e.batch
	if c.chance(c.h.Decoded) {
		v = *eventlog.NewRecordBatch(mp.part, records(e.batch), e.batch.Next())
		v.Own, v.Side = e.batch.Own, e.batch.Side
	}
	if !tail || c.chance(c.h.NoSide) {
		v.Side = nil
	}
	return &v
}

// foreign is a batch of somebody else's records at the partition's end.
func foreign(mp *memPart, recs []eventlog.Record) *eventlog.Batch {
	at := mp.end
	recs = slices.Clone(recs)
	for i := range recs {
		recs[i].Offset = at + int64(i)
	}
	return eventlog.NewRecordBatch(mp.part, recs, at+int64(len(recs)))
}

// records decodes a batch that was built in this process.
func records(b *eventlog.Batch) []eventlog.Record {
	recs, err := b.Records()
	if err != nil {
		panic(fmt.Sprintf("a batch of %v that its appender built: %v", b.Part, err))
	}
	return recs
}

// knownConfigs are the topic configs that a Memory log keeps; it acts on cleanup.policy and max.message.bytes.
var knownConfigs = []string{
	"cleanup.policy", "compression.type", "delete.retention.ms", "max.compaction.lag.ms", "max.message.bytes",
	"message.timestamp.type", "min.cleanable.dirty.ratio", "min.compaction.lag.ms", "min.insync.replicas",
	"retention.bytes", "retention.ms", "segment.bytes", "segment.ms",
}

func checkConfig(name string) error {
	if !slices.Contains(knownConfigs, name) {
		return fmt.Errorf("%w: unknown topic config %q", eventlog.ErrInvalid, name)
	}
	return nil
}
