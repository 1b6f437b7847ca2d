package meter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/session"
)

const start = 1_800_000_000_000 // a time, milliseconds since 1970

type bench struct {
	*testing.T
	log *eventlog.Log
	now int64
	run uint64
}

func newBench(t *testing.T, h logtest.Hostility) *bench {
	return &bench{T: t, log: eventlog.New(logtest.NewMemory(1, h)), now: start}
}

func (b *bench) open(change ...func(*Options)) *Meter {
	b.Helper()
	b.run++
	o := Options{Log: b.log, Run: b.run, Now: func() int64 { b.now += 10; return b.now }, Every: 1 << 40}
	for _, f := range change {
		f(&o)
	}
	m, err := Open(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func (b *bench) flush(m *Meter) {
	b.Helper()
	if err := m.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// read reads all flushes.
func (b *bench) read() (fs []*Flush) {
	b.Helper()
	r, err := NewReader(b.Context(), b.log, 0)
	if err != nil {
		b.Fatal(err)
	}
	for {
		f, err := r.Next(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if f == nil {
			break
		}
		fs = append(fs, f)
	}
	if r.Broken > 0 {
		b.Fatalf("%d records are broken", r.Broken)
	}
	return fs
}

// sum adds up what all flushes say, by row and name.
func sum(fs []*Flush) map[string]uint64 {
	m := map[string]uint64{}
	for _, f := range fs {
		for _, r := range f.Rows {
			for _, c := range r.Counts {
				m[fmt.Sprintf("%d %s %s %v %s", r.Minute-Minute(start), r.Topic, r.Device, r.Over, c.Name)] += c.N
			}
		}
	}
	return m
}

func TestCountsAreAddedUp(t *testing.T) {
	b := newBench(t, logtest.Hostility{})
	m := b.open()
	part := m.Part(eventlog.Part{Topic: eventlog.TopicID{1}}, "telemetry", 40)
	tele := m.Topic("telemetry")
	for i := range 3 {
		c := tele.Cell(Minute(start), "truck-1")
		e := m.Enter(uint32(i))
		c.Published(e, 2)
		part.Published(e, 2)
		part.Sent(e, 2)
		e.Leave()
		if i == 1 {
			b.flush(m) // two of three are under way
		}
		e = m.Enter(1)
		c.Logged(e, 1, 0xFFFFFFFF)
		c.Failed(e, "too_large")
		part.Logged(e, 1, int64(41+i))
		part.Refused(e, 1)
		e.Leave()
	}
	e := m.Enter(0)
	tele.Cell(Minute(start)+1, "truck-2").Unknown(e, 1)
	m.Topic("store: false live/#").Cell(Minute(start), "").Unlogged(e, 5)
	e.Leave()
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	fs := b.read()
	got := sum(fs)
	got["0 telemetry truck-1 false digest"] &= 0xFFFFFFFF
	want := map[string]uint64{
		"0 telemetry truck-1 false published": 6, "0 telemetry truck-1 false logged": 3, "0 telemetry truck-1 false failed:too_large": 3,
		"0 telemetry truck-1 false digest": 0xFFFFFFFD, "1 telemetry truck-2 false unknown": 1, "0 store: false live/#  false unlogged": 5,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	mid, last := fs[0].Parts[0], fs[len(fs)-1]
	if mid.Published-mid.Sent != 0 || mid.Sent-mid.Logged-mid.Refused != 2 || mid.Next != 41 {
		t.Errorf("while two are under way: %+v", mid)
	}
	if p := last.Parts[0]; !last.Clean || p.Start != 40 || p.Next != 43 || p.Sent != 6 || p.Logged != 3 || p.Refused != 3 {
		t.Errorf("at the end: %+v", last)
	}
	if fs[0].Clean || fs[0].Run != 1 || fs[0].Seq != 0 {
		t.Errorf("first: %+v", fs[0])
	}
}

// What is counted between Enter and Leave is in one flush: partition totals and rows never disagree.
func TestFlushesAreConsistent(t *testing.T) {
	b := newBench(t, logtest.Hostility{})
	var clock sync.Mutex
	m := b.open(func(o *Options) {
		o.Now = func() int64 { clock.Lock(); defer clock.Unlock(); b.now++; return b.now }
	})
	part := m.Part(eventlog.Part{}, "t", 0)
	var work sync.WaitGroup
	for n := range 4 {
		work.Go(func() {
			for i := range 3000 {
				c := m.Topic("t").Cell(Minute(start), fmt.Sprint(n, i%50))
				e := m.Enter(uint32(n))
				part.Published(e, 1)
				c.Published(e, 1)
				e.Leave()
			}
		})
	}
	work.Go(func() {
		for range 20 {
			b.flush(m)
		}
	})
	work.Wait()
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := uint64(0)
	for _, f := range b.read() {
		for _, r := range f.Rows {
			rows += r.Counts[0].N
		}
		for _, p := range f.Parts {
			if uint64(p.Published) != rows {
				t.Fatalf("flush %d: the partition has %d, the rows %d", f.Seq, p.Published, rows)
			}
		}
	}
	if rows != 12000 {
		t.Errorf("%d in all", rows)
	}
}

func TestRowsAreBounded(t *testing.T) {
	b := newBench(t, logtest.Hostility{})
	m := b.open(func(o *Options) { o.MaxRows = 10 })
	names := []string{strings.Repeat("n", maxDevice+1), strings.Repeat("m", 60_000)} // too long for a row
	for i := range 23 {
		names = append(names, fmt.Sprint("flood", i))
	}
	for _, name := range names {
		e := m.Enter(0)
		m.Topic("t").Cell(Minute(start), name).Published(e, 1)
		e.Leave()
	}
	b.flush(m)
	fs := b.read()
	single, over := uint64(0), uint64(0)
	for _, r := range fs[0].Rows {
		if len(r.Device) > maxDevice {
			t.Errorf("a row of a device with %d bytes", len(r.Device))
		}
		if r.Over {
			over += r.Counts[0].N
		} else {
			single += r.Counts[0].N
		}
	}
	if single != 10 || over != 15 || fs[0].Overflow != 15 {
		t.Errorf("%d rows of one device, %d without a row, overflow %d", single, over, fs[0].Overflow)
	}
	b.now += 60_000
	b.flush(m)
	e := m.Enter(0)
	m.Topic("t").Cell(Minute(b.now), "late").Published(e, 1)
	e.Leave()
	b.flush(m)
	if r := b.read()[2].Rows; len(r) != 1 || r[0].Device != "late" {
		t.Errorf("the next minute has room again, but: %+v", r)
	}
	for i := range 4 * shards * shardCells { // of old minutes, as a lagging reader asks for them
		m.Topic("t").Cell(int64(i), "d")
	}
	n := 0
	for i := range m.shards {
		n += len(m.shards[i].young) + len(m.shards[i].old)
	}
	if n > 2*shards*shardCells {
		t.Errorf("%d cells are kept", n)
	}
}

// A cell that nobody finds any more still counts.
func TestAForgottenCellCounts(t *testing.T) {
	b := newBench(t, logtest.Hostility{})
	m := b.open()
	c := m.Topic("t").Cell(Minute(start), "d")
	c.shard.young, c.shard.old = nil, nil
	for _, c := range []*Cell{c, m.Topic("t").Cell(Minute(start), "d")} {
		e := m.Enter(0)
		c.Published(e, 1)
		e.Leave()
	}
	b.flush(m)
	if got := sum(b.read()); got["0 t d false published"] != 2 {
		t.Errorf("got %v", got)
	}
}

func TestDeliveriesAndBooksAreWritten(t *testing.T) {
	b := newBench(t, logtest.Hostility{})
	m := b.open()
	cell := m.Topic("t").Cell(Minute(start), "d")
	p := session.Part{Topic: [16]byte{7}, Index: 3}
	m.Follow(Sources{
		Deliveries: func(context.Context) []session.Counts {
			return []session.Counts{{Life: 9, Ready: true, Matched: session.Vector{p: 77, {Topic: [16]byte{8}}: 5},
				Tallies: []session.TallyCount{{Row: cell.Tally().Row, Owed: 4, Delivered: 2, Dropped: []session.Dropped{{Reason: "message_expired", N: 1}}}},
				Books:   []session.Book{{Part: p, Next: 77, Carried: 1, Owed: 4, Delivered: 2, Lost: 1, Loose: 1, Pending: 2, Merged: true}}}}
		},
		Refused: func() map[string]int64 { return map[string]int64{"not_authorized": 3} },
	})
	b.flush(m)
	f := b.read()[0]
	want := &Flush{Run: 1, Began: f.Began, Time: f.Time, Parts: []PartCount{}, Refused: []Count{{"not_authorized", 3}},
		Rows: []Row{{Minute: Minute(start), Topic: "t", Device: "d", Counts: []Count{{Owed, 4}, {Delivered, 2}, {"dropped:message_expired", 1}}}},
		Books: []BookCount{
			{Part: eventlog.Part{Topic: p.Topic, Index: 3}, Life: 9, Matched: 77, Known: true,
				Book: session.Book{Part: p, Next: 77, Carried: 1, Owed: 4, Delivered: 2, Lost: 1, Loose: 1, Pending: 2, Merged: true}},
			{Part: eventlog.Part{Topic: eventlog.TopicID{8}}, Life: 9, Matched: 5},
		}}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
	next := b.open() // killed, and begun again
	if got := next.Counted(eventlog.Part{Topic: p.Topic, Index: 3}); got != 77 {
		t.Errorf("deliveries are counted up to %d", got)
	}
	if got := next.Counted(eventlog.Part{Topic: eventlog.TopicID{99}}); got != 0 {
		t.Errorf("deliveries of a partition nobody knows are counted up to %d", got)
	}
}

// A flush whose outcome nobody knows is written again and counts once; one that is refused is written later.
func TestFlushesCountOnce(t *testing.T) {
	for seed := range uint64(tier.N(100)) {
		b := &bench{T: t, log: eventlog.New(logtest.NewMemory(seed, logtest.Hostility{Refuse: 0.2, Unknown: 0.3, Late: 0.7})), now: start}
		b.run++
		var m *Meter
		var err error
		for range 50 {
			if m, err = Open(t.Context(), Options{Log: b.log, Run: 5, Now: func() int64 { b.now += 10; return b.now }}); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		total := uint64(0)
		for i := range 10 {
			for d := range 600 { // several records
				e := m.Enter(0)
				m.Topic("t").Cell(Minute(start), fmt.Sprintf("a device with a rather long name, so that batches are full %d", d)).Published(e, uint32(i+1))
				e.Leave()
				total += uint64(i + 1)
			}
			_ = m.Flush(t.Context())
		}
		for range 1000 {
			if err = m.Flush(t.Context()); err == nil {
				break
			}
		}
		got := uint64(0)
		for _, n := range sum(b.read()) {
			got += n
		}
		if err != nil || got != total {
			t.Fatalf("seed %d: %d counted, %d written, %v", seed, total, got, err)
		}
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	b := newBench(t, logtest.Hostility{})
	m := b.open()
	part := m.Part(eventlog.Part{}, "t", 0)
	name := "device"
	count := func() {
		c := m.Topic("t").Cell(Minute(start), name)
		e := m.Enter(0)
		c.Published(e, 1)
		part.Published(e, 1)
		e.Leave()
		e = m.Enter(1)
		c.Logged(e, 1, 77)
		part.Logged(e, 1, 5)
		e.Leave()
	}
	count()
	if n := testing.AllocsPerRun(100, count); n > 0 {
		t.Errorf("counting a message allocates %v times", n)
	}
}

func BenchmarkCount(b *testing.B) {
	m, err := Open(b.Context(), Options{Log: eventlog.New(logtest.NewMemory(1, logtest.Hostility{})), Now: func() int64 { return start }})
	if err != nil {
		b.Fatal(err)
	}
	part := m.Part(eventlog.Part{}, "t", 0)
	c := m.Topic("t").Cell(Minute(start), "d")
	for b.Loop() {
		e := m.Enter(0)
		c.Published(e, 1)
		part.Published(e, 1)
		e.Leave()
		e = m.Enter(1)
		c.Logged(e, 1, 77)
		part.Logged(e, 1, 5)
		e.Leave()
	}
}

func FuzzDecode(f *testing.F) {
	fl := &Flush{Run: 1, Seq: 2, Began: 3, Time: 4, Clean: true, Mapping: 1 << 60, Rows: []Row{{Minute: 5, Topic: "t", Device: "d", Over: true, Counts: []Count{{Owed, 6}}}},
		Parts: []PartCount{{Topic: "t", Next: 9}}, Books: []BookCount{{Life: 1, Known: true}}, Refused: []Count{{"x", 1}}}
	rows, _ := fl.rows(0, fl.Rows)
	f.Add(rows)
	f.Add(fl.end(1))
	f.Add([]byte{version, kindRows})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, got, n, err := decode(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error %v", err)
			}
			return
		}
		var again []byte
		if kind == kindEnd {
			again = got.end(n)
		} else if len(got.Rows) > 0 {
			var left []Row
			if again, left = got.rows(n, got.Rows); len(left) > 0 {
				return
			}
		} else {
			return
		}
		_, twice, _, err := decode(again)
		if err != nil || !reflect.DeepEqual(got, twice) {
			t.Fatalf("%v\n%+v\n%+v\n%x", err, got, twice, bytes.Clone(b))
		}
	})
}
