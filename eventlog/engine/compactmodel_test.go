package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// compactModel is a compacted partition that is written, compacted, trimmed, restarted and cut off at random, and everything that was ever
// written to it.
type compactModel struct {
	t    testing.TB
	rng  *rand.Rand
	mem  *vfs.Mem
	opts Options
	now  atomic.Int64
	dead atomic.Bool         // the power is off
	left atomic.Int64        // changes of files until then
	cut  func(*vfs.Mem) bool // what happens then

	e       *Engine
	p       eventlog.Part
	recs    []*modelRec // by offset; nil: a marker
	start   int64
	open    map[int64][]*modelRec // by producer
	seqs    map[int64]int32
	epochs  map[int64]int16
	readers []*modelReader
	passes  int
}

// modelRec is one record that was written.
type modelRec struct {
	offset, time int64
	key, value   string // an empty value is a tombstone
	fate         txnFate
	compacted    int64 // when compaction can first have seen it; 0: not yet
	gone         bool  // it was missing once
}

const modelRetention = 10 * time.Minute

func newCompactModel(t testing.TB, seed uint64) *compactModel {
	m := &compactModel{t: t, rng: rand.New(rand.NewPCG(seed, 0x636f6d70)), mem: vfs.NewMem(), open: map[int64][]*modelRec{},
		seqs: map[int64]int32{}, epochs: map[int64]int16{}}
	m.now.Store(1_700_000_000_000)
	m.opts = small(nil)
	m.opts.Now = func() time.Time { return time.UnixMilli(m.now.Load()) }
	m.opts.SegmentBytes = 300 + m.rng.Int64N(3000)
	return m
}

// wrongModel is what ends a run that is not as it should be.
type wrongModel struct{ err error }

func (m *compactModel) wrong(format string, args ...any) {
	panic(wrongModel{fmt.Errorf(format, args...)})
}

func (m *compactModel) run() (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case wrongModel:
			m.dead.Store(true)
			_ = m.e.Close()
			err = r.err
		default:
			panic(r)
		}
	}()
	m.reopen()
	topic, err := m.e.CreateTopic(context.Background(), eventlog.TopicSpec{Name: "compacted", Partitions: 1, Config: map[string]string{
		"cleanup.policy": "compact", "min.cleanable.dirty.ratio": []string{"0", "0.1", "0.5"}[m.rng.IntN(3)],
		"delete.retention.ms": fmt.Sprint(modelRetention.Milliseconds())}})
	if err != nil {
		return err
	}
	m.p = eventlog.Part{Topic: topic.ID}
	for range 3 {
		m.readers = append(m.readers, &modelReader{})
	}
	for range 60 + m.rng.IntN(60) {
		m.step()
	}
	m.finish()
	return m.e.Close()
}

func (m *compactModel) step() {
	switch m.rng.IntN(16) {
	case 0, 1, 2, 3, 4:
		m.append(-1)
	case 5, 6, 7:
		m.append(int64(1 + m.rng.IntN(2)))
	case 8:
		m.end(int64(1+m.rng.IntN(2)), m.rng.IntN(2) == 0)
	case 9:
		m.now.Add(m.rng.Int64N(2 * modelRetention.Milliseconds()))
	case 10, 11:
		m.maintain()
	case 12:
		m.crash()
	case 13:
		_ = m.e.Close()
		m.reopen()
	case 14:
		m.trim()
	case 15:
		m.check()
	}
	r := m.readers[m.rng.IntN(len(m.readers))]
	if err := r.read(m, m.e, m.rng.IntN(4)); err != nil {
		m.wrong("%w", err)
	}
	if m.rng.IntN(12) == 0 {
		r.done(m)
	}
}

// reopen opens the log on a disk that may lose power later on.
func (m *compactModel) reopen() {
	m.dead.Store(false)
	m.left.Store(-1)
	disk := m.mem
	m.opts.FS = vfs.Faults(disk, func(op vfs.Op) error {
		if m.dead.Load() {
			return fs.ErrClosed
		}
		if changes[op.Kind] && m.left.Add(-1) == 0 {
			m.dead.Store(true)
			m.cut(disk)
			return fs.ErrClosed
		}
		return nil
	})
	var err error
	if m.e, err = Open(m.opts); err != nil {
		panic(wrongModel{fmt.Errorf("open: %w", err)})
	}
}

// append appends a batch, in a transaction if it is a producer's.
func (m *compactModel) append(id int64) {
	var recs []eventlog.Record
	var written []*modelRec
	base := int64(len(m.recs))
	for i := range 1 + m.rng.Int64N(5) {
		r := &modelRec{offset: base + i, time: m.now.Add(1), key: fmt.Sprint("k", m.rng.IntN(12)), fate: txnCommitted}
		er := eventlog.Record{Timestamp: r.time, Key: []byte(r.key)}
		if m.rng.IntN(5) > 0 {
			r.value = fmt.Sprint(r.offset, strings.Repeat("v", m.rng.IntN(120)))
			er.Value = []byte(r.value)
		}
		recs, written = append(recs, er), append(written, r)
	}
	var got Produced
	if id < 0 {
		got = produce(m.t, m.e, m.p, foreign(m.t, m.p, -1, -1, -1, recs...), AcksDurable)
	} else {
		got = transact(m.t, m.e, foreign(m.t, m.p, id, m.epochs[id], m.seqs[id], recs...), m.p)
		m.seqs[id] += int32(len(recs))
		m.open[id] = append(m.open[id], written...)
		for _, r := range written {
			r.fate = txnOpen
		}
	}
	if got.Err != nil || got.Base != base {
		m.wrong("an append at %d: %+v", base, got)
	}
	m.recs = append(m.recs, written...)
}

// end ends a producer's transaction, if it has one.
func (m *compactModel) end(id int64, commit bool) {
	if len(m.open[id]) == 0 {
		return
	}
	m.epochs[id]++
	endTxn(m.t, m.e, End{id, m.epochs[id], commit, []eventlog.Part{m.p}, nil})
	for _, r := range m.open[id] {
		if r.fate = txnAborted; commit {
			r.fate = txnCommitted
		}
	}
	m.open[id], m.seqs[id] = nil, 0
	m.recs = append(m.recs, nil)
}

// maintain compacts, while somebody reads.
func (m *compactModel) maintain() {
	m.seen()
	for _, err := range m.maintainAndRead() {
		if err != nil {
			m.wrong("%w", err)
		}
	}
	m.clean()
}

// seen notes that compaction may see everything that is there.
func (m *compactModel) seen() {
	for _, r := range m.recs {
		if r != nil && r.compacted == 0 {
			r.compacted = m.now.Load()
		}
	}
	m.passes++
}

func (m *compactModel) maintainAndRead() (errs [2]error) {
	r := m.readers[m.rng.IntN(len(m.readers))]
	e := m.e
	var wg sync.WaitGroup
	wg.Go(func() { errs[0] = r.read(m, e, 1000) })
	errs[1] = e.Maintain(context.Background())
	wg.Wait()
	return errs
}

// crash cuts the power, or kills the process, somewhere in a compaction. Readers go on behind it.
func (m *compactModel) crash() {
	var next *vfs.Mem
	seed := m.rng.Uint64()
	m.cut = func(disk *vfs.Mem) bool {
		if seed%3 == 0 {
			next = disk.Kill()
		} else {
			next = disk.Crash(rand.New(rand.NewPCG(seed, 1)))
		}
		return true
	}
	m.left.Store(1 + m.rng.Int64N(60))
	m.seen()
	_ = m.maintainAndRead()
	_ = m.e.Close() // with its last checkpoint, in which the power may go too
	if m.dead.Load() {
		m.mem = next
	}
	m.reopen()
	m.check()
}

func (m *compactModel) trim() {
	ends, err := m.e.Ends(context.Background(), m.p.Topic)
	if err != nil {
		m.wrong("%w", err)
	}
	to := m.start + m.rng.Int64N(max(1, (ends[0]-m.start)/3))
	if err := m.e.Trim(context.Background(), eventlog.Position{Part: m.p, Offset: to}); err != nil {
		m.wrong("trim to %d: %w", to, err)
	}
	m.start = to
}

// stable is where the first open transaction begins.
func (m *compactModel) stable() int64 {
	s := int64(len(m.recs))
	for _, recs := range m.open {
		if len(recs) > 0 {
			s = min(s, recs[0].offset)
		}
	}
	return max(s, m.start)
}

// contents is what a reader of the log is shown of [from, stable).
func (m *compactModel) contents(from int64) map[int64]bool {
	there := map[int64]bool{}
	last := int64(-1)
	for at := from; at < m.stable(); {
		batches, next, err := m.e.Read(context.Background(), eventlog.Position{Part: m.p, Offset: at}, 4000)
		if err != nil || next <= at {
			m.wrong("read at %d: next %d, %w", at, next, err)
		}
		if err := m.look(batches, at, &last, there); err != nil {
			m.wrong("%w", err)
		}
		at = next
	}
	return there
}

// look holds batches that were read against what was written.
func (m *compactModel) look(batches []*eventlog.Batch, from int64, last *int64, there map[int64]bool) error {
	for _, b := range batches {
		err := b.Each(func(r *eventlog.Record) error {
			if r.Offset < from {
				return nil
			}
			var w *modelRec
			if r.Offset < int64(len(m.recs)) {
				w = m.recs[r.Offset]
			}
			switch {
			case r.Offset <= *last:
				return fmt.Errorf("a record at %d comes after one at %d", r.Offset, *last)
			case w == nil:
				return fmt.Errorf("a record at %d, where none was written", r.Offset)
			case w.key != string(r.Key) || w.value != string(r.Value) || w.time != r.Timestamp || (w.value == "") != (r.Value == nil):
				return fmt.Errorf("at %d is %s=%.20q of %d, written was %s=%.20q of %d", r.Offset, r.Key, r.Value, r.Timestamp, w.key, w.value, w.time)
			case w.fate != txnCommitted:
				return fmt.Errorf("the record at %d is shown, and has fate %d", r.Offset, w.fate)
			}
			*last = r.Offset
			there[r.Offset] = true
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// check holds the whole log against what was written: what is missing is superseded, or a tombstone whose time is over, and never comes back.
func (m *compactModel) check() {
	ends, err := m.e.Ends(context.Background(), m.p.Topic)
	if err != nil || ends[0] != m.stable() {
		m.wrong("%v are stable, want %d, %w", ends, m.stable(), err)
	}
	there := m.contents(m.start)
	later := map[string]bool{}
	for o := m.stable() - 1; o >= m.start; o-- {
		r := m.recs[o]
		if r == nil || r.fate != txnCommitted {
			continue
		}
		expired := r.value == "" && r.compacted > 0 && m.now.Load() >= r.compacted+modelRetention.Milliseconds()
		switch {
		case there[o] && r.gone:
			m.wrong("the record at %d is back", o)
		case !there[o] && !later[r.key] && !expired:
			m.wrong("the record at %d, the last of %s (%.10q), is gone; compaction has seen it %d ms ago", o, r.key, r.value, m.now.Load()-r.compacted)
		}
		r.gone = !there[o]
		later[r.key] = true
	}
}

// clean checks that below where compaction says it has been there is one record of each key, and nothing of what was aborted.
func (m *compactModel) clean() {
	m.check()
	part, err := m.e.partition(m.p)
	if err != nil {
		m.wrong("%w", err)
	}
	log, err := m.e.segmentsOf(part)
	if err != nil {
		m.wrong("%w", err)
	}
	below := log.Clean()
	once := map[string]int64{}
	eachRaw(m.t, m.e, m.p, func(b eventlog.RawBatch) {
		if b.Attributes()&eventlog.AttrControl != 0 {
			return
		}
		for _, r := range records(m.t, m.p, b) {
			if r.Offset < m.start || r.Offset >= below {
				continue
			}
			if at, twice := once[string(r.Key)]; twice {
				m.wrong("below %d all is compacted, and %s is at %d and %d", below, r.Key, at, r.Offset)
			}
			once[string(r.Key)] = r.Offset
			if w := m.recs[r.Offset]; w != nil && w.fate == txnAborted {
				m.wrong("below %d all is compacted, and at %d is what was aborted", below, r.Offset)
			}
		}
	})
}

// finish lets everything become old and compacts all of it: what is left is the last value of each key, and nothing else.
func (m *compactModel) finish() {
	for id := range int64(3) {
		m.end(id, true)
	}
	end := int64(len(m.recs))
	for range 4 { // what was aborted goes, then its markers, and tombstones when their time is over
		m.now.Add(2 * modelRetention.Milliseconds())
		for range 3 {
			r := &modelRec{offset: int64(len(m.recs)), time: m.now.Add(1), key: "pad", value: strings.Repeat("p", 3500), fate: txnCommitted}
			raw := foreign(m.t, m.p, -1, -1, -1, eventlog.Record{Timestamp: r.time, Key: []byte(r.key), Value: []byte(r.value)})
			if got := produce(m.t, m.e, m.p, raw, AcksDurable); got.Err != nil || got.Base != r.offset {
				m.wrong("%+v", got)
			}
			m.recs = append(m.recs, r)
		}
		m.maintain()
	}
	last := map[string]*modelRec{}
	for _, r := range m.recs[m.start:min(end, int64(len(m.recs)))] {
		if r != nil && r.fate == txnCommitted {
			last[r.key] = r
		}
	}
	var want []int64
	for _, r := range last {
		if r.value != "" {
			want = append(want, r.offset)
		}
	}
	slices.Sort(want)
	var got []int64
	for o := range m.contents(m.start) {
		if o < end {
			got = append(got, o)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		m.wrong("in the end the log holds %v, the last values are at %v", got, want)
	}
	eachRaw(m.t, m.e, m.p, func(b eventlog.RawBatch) {
		if b.Attributes()&eventlog.AttrControl != 0 && b.Base() < end {
			m.wrong("in the end a marker is left at %d", b.Base())
		}
	})
}

// modelReader reads from the start again and again, a few batches at a time, whatever happens to the log between and meanwhile.
type modelReader struct {
	at, from, last int64
	there          map[int64]bool
}

// read reads some batches. At the end of a pass everything that is still there must have been seen.
func (r *modelReader) read(m *compactModel, e *Engine, times int) error {
	for range times {
		if r.there == nil {
			*r = modelReader{at: m.start, from: m.start, last: -1, there: map[int64]bool{}}
		}
		if r.at >= m.stable() {
			return nil
		}
		batches, next, err := e.Read(context.Background(), eventlog.Position{Part: m.p, Offset: r.at}, 700)
		var out *eventlog.OutOfRangeError
		switch {
		case errors.As(err, &out) && r.at < m.start:
			r.at = m.start
			continue
		case err != nil && m.dead.Load():
			return nil
		case err != nil || next <= r.at:
			return fmt.Errorf("a reader at %d: next %d, %w", r.at, next, err)
		}
		if err := m.look(batches, r.at, &r.last, r.there); err != nil {
			return fmt.Errorf("a reader at %d: %w", r.at, err)
		}
		r.at = next
	}
	return nil
}

// done is the end of a pass.
func (r *modelReader) done(m *compactModel) {
	if r.there == nil {
		return
	}
	for o := range m.contents(m.start) {
		if o >= r.from && o < r.at && !r.there[o] {
			m.wrong("a reader went from %d to %d and was not shown what is at %d", r.from, r.at, o)
		}
	}
	r.there = nil
}

// TestCompactionModel writes, compacts, trims, restarts and cuts the power at random, while readers are under way: offsets never move, the last value of
// each key is there, tombstones for as long as they shall, nothing aborted is shown, nothing that is gone comes back; below where compaction has
// been there is one record of each key, and in the end nothing but the last values is left. A reader is shown everything that stays, once and in order.
func TestCompactionModel(t *testing.T) {
	for seed := range uint64(tier.N(200)) {
		if err := newCompactModel(t, tier.Seed()+seed).run(); err != nil {
			t.Fatalf("seed %d: %v", tier.Seed()+seed, err)
		}
	}
}
