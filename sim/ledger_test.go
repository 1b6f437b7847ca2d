package sim

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}

func stampedMessage(device string, n uint64, qos byte) *packet.Publish {
	s := Stamp{Device: device, Sequence: n, Due: time.UnixMicro(int64(n))}
	return &packet.Publish{QoS: qos, Topic: []byte("t/" + device), Payload: []byte("x"), Props: packet.Properties{User: s.properties()}}
}

func plainMessage(device string, n uint64, qos byte) *packet.Publish {
	return &packet.Publish{QoS: qos, Topic: []byte("t/" + device), Payload: fmt.Append(nil, n)}
}

// The ledger has teeth: every wrong that is done to five acknowledged messages shows, and shows as what it is.
func TestLedgerFindsEveryWrong(t *testing.T) {
	type report = Report
	cases := []struct {
		name string
		qos  byte
		do   func(got []*packet.Publish) []*packet.Publish
		want func(r *report)
		ok   bool
	}{
		{"nothing wrong", 1, func(g []*packet.Publish) []*packet.Publish { return g }, func(r *report) {}, true},
		{"one missing", 1, func(g []*packet.Publish) []*packet.Publish { return append(g[:2:2], g[3:]...) },
			func(r *report) { r.Missing, r.Received = 1, 4 }, false},
		{"QoS 0 may be missing", 0, func(g []*packet.Publish) []*packet.Publish { return g[:2] },
			func(r *report) { r.Received = 2 }, true},
		{"redelivered in order at QoS 1", 1, func(g []*packet.Publish) []*packet.Publish { return append(append(g[:4:4], g[2:4]...), g[4]) },
			func(r *report) { r.Duplicates = 2 }, true},
		{"twice at QoS 2", 2, func(g []*packet.Publish) []*packet.Publish { return append(g, g[4]) },
			func(r *report) { r.Duplicates, r.Twice = 1, 1 }, false},
		{"two swapped", 1, func(g []*packet.Publish) []*packet.Publish { g[1], g[2] = g[2], g[1]; return g },
			func(r *report) { r.Reordered = 1 }, false},
		{"one never sent", 1, func(g []*packet.Publish) []*packet.Publish { return append(g, stampedMessage("d", 6, 1)) },
			func(r *report) { r.Phantoms = 1 }, false},
		{"one from nobody", 1, func(g []*packet.Publish) []*packet.Publish { return append(g, stampedMessage("e", 1, 1)) },
			func(r *report) { r.Phantoms = 1 }, false},
		{"one without a stamp", 1, func(g []*packet.Publish) []*packet.Publish { return append(g, plainMessage("d", 1, 1)) },
			func(r *report) { r.Phantoms = 1 }, false},
		{"payload altered", 1, func(g []*packet.Publish) []*packet.Publish { g[3].Payload = []byte("y"); return g },
			func(r *report) { r.Altered, r.Missing, r.Received = 1, 1, 4 }, false},
		{"topic altered", 1, func(g []*packet.Publish) []*packet.Publish { g[3].Topic = []byte("t/e"); return g },
			func(r *report) { r.Altered, r.Missing, r.Received = 1, 1, 4 }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := NewLedger()
			early := stampedMessage("d", 1, 1)
			l.Acked(l.Sent("d", 1, early), 0)
			r := l.Reader("reader", "t/#", 2)
			var got []*packet.Publish
			for n := uint64(2); n <= 5; n++ {
				p := stampedMessage("d", n, c.qos)
				got = append(got, client.Clone(p))
				l.Acked(l.Sent("d", n, p), 0)
			}
			p := stampedMessage("other", 1, c.qos)
			got = append(got, client.Clone(p))
			l.Acked(l.Sent("other", 1, p), 0)
			for _, p := range c.do(got) {
				r.Got(p)
			}
			want := Report{Reader: "reader", Sent: 5, Acked: 5, Received: 5}
			c.want(&want)
			rep := r.Report()
			if (rep.Err() == nil) != c.ok || (len(rep.Examples) > 0) == c.ok {
				t.Errorf("%v %q", rep.Err(), rep.Examples)
			}
			rep.Examples = nil
			if !reflect.DeepEqual(rep, want) {
				t.Errorf("\n%v\n%v", &rep, &want)
			}
		})
	}
}

func TestLedgerRefusedAndInDoubt(t *testing.T) {
	l := NewLedger()
	r := l.Reader("r", "t/#", 1)
	refusedOne, open := stampedMessage("d", 1, 1), stampedMessage("d", 2, 1)
	l.Acked(l.Sent("d", 1, refusedOne), packet.NotAuthorized)
	l.Sent("d", 2, open)
	l.Acked(l.Sent("far", 1, &packet.Publish{QoS: 1, Topic: []byte("u")}), 0)
	if late := l.Reader("late", "#", 1).Report(); late.Sent != 0 || late.Missing != 0 {
		t.Fatal(&late)
	}
	if all := l.Reader("late", "#", 1).All().Report(); all.Sent != 3 || all.Missing != 1 {
		t.Fatal(&all)
	}
	rep := r.Report()
	if rep.Sent != 2 || rep.Refused != 1 || rep.InDoubt != 1 || rep.Missing != 0 || rep.Err() != nil {
		t.Fatal(&rep)
	}
	r.Got(open)
	if rep = r.Report(); rep.Err() != nil {
		t.Fatal(&rep)
	}
	gone := l.Reader("gone", "t/#", 1)
	l.Acked(l.Sent("e", 1, stampedMessage("e", 1, 1)), 0)
	gone.End()
	l.Acked(l.Sent("e", 2, stampedMessage("e", 2, 1)), 0)
	if rep := gone.Report(); rep.Sent != 1 || rep.Missing != 1 {
		t.Fatal(&rep)
	}
	gone.Begin()
	l.Acked(l.Sent("e", 3, stampedMessage("e", 3, 1)), 0)
	if rep := gone.Report(); rep.Sent != 1 || rep.Missing != 1 {
		t.Fatal(&rep)
	}
	r.Got(refusedOne)
	if rep = r.Report(); rep.Unwanted != 1 || rep.Err() == nil {
		t.Fatal(&rep)
	}
}

// Without stamps equal messages are told apart by their order.
func TestLedgerByContent(t *testing.T) {
	l := NewLedger()
	r := l.Reader("r", "#", 1)
	var all []*packet.Publish
	for n := range uint64(6) {
		p := plainMessage("d", n%2, 1) // 0 1 0 1 0 1
		all = append(all, p)
		l.Acked(l.Sent("d", n+1, p), 0)
	}
	for _, p := range all[:5] {
		r.Got(p)
	}
	if rep := r.Report(); rep.Missing != 1 || rep.Received != 5 || rep.Reordered != 0 || rep.Duplicates != 0 {
		t.Fatal(&rep)
	}
	r.Got(all[5])
	r.Got(all[5])
	if rep := r.Report(); rep.Missing != 0 || rep.Duplicates != 1 || rep.Err() != nil {
		t.Fatal(&rep)
	}
	r.Got(plainMessage("d", 7, 1))
	if rep := r.Report(); rep.Phantoms != 1 {
		t.Fatal(&rep)
	}
}

func TestLedgerRefusesHolesInItsOwnBooks(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Fatal("a sequence was left out without a word")
		}
	}()
	NewLedger().Sent("d", 2, stampedMessage("d", 2, 1))
}

func memFile(t *testing.T) vfs.File {
	t.Helper()
	f, err := vfs.NewMem().Create("ledger")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// fill writes a bit of everything, with some wrongs.
func fill(l *Ledger, rounds int) {
	r := l.Reader("r", "t/#", 2)
	for i := range rounds {
		device := fmt.Sprint("d", i%7)
		n := l.Last(device) + 1
		p := stampedMessage(device, n, byte(i%3))
		ref := l.Sent(device, n, p)
		switch {
		case i%11 == 0:
			l.Acked(ref, packet.QuotaExceeded)
		case i%13 > 0:
			l.Acked(ref, 0)
		}
		switch {
		case i%17 == 0:
			r.Got(stampedMessage("nobody", 1, 0))
		case i%19 == 0:
			p.Payload = []byte("?")
			r.Got(p)
		case i%23 > 0:
			r.Got(p)
		}
		if i == 40 {
			r.Begin()
			l.Reader("second", "t/d1", 1)
			l.Reader("all", "#", 1).All()
			l.Reader("gone", "#", 1)
		}
		if i == 60 {
			l.Reader("gone", "", 0).End()
		}
	}
}

// A ledger from a file says what the one that wrote it said, and goes on from there.
func TestLedgerFile(t *testing.T) {
	f := memFile(t)
	l, err := OpenLedger(f)
	if err != nil {
		t.Fatal(err)
	}
	inMemory := NewLedger()
	for round := range 3 {
		fill(l, 5000)
		fill(inMemory, 5000)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if l, err = OpenLedger(f); err != nil {
			t.Fatal(err)
		}
		for i, r := range inMemory.readers {
			want, got := r.Report(), l.Reader(r.name, "", 0).Report()
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("round %d, reader %d:\n%v\n%v", round, i, &got, &want)
			}
		}
	}
}

// What others read of a ledger's file is what it was told, to the second, and reading changes nothing.
func TestReadLedger(t *testing.T) {
	f := memFile(t)
	l, err := OpenLedger(f)
	if err != nil {
		t.Fatal(err)
	}
	second := int64(1_700_000_000)
	l.now = func() time.Time { second += 7 - second%11; return time.Unix(second, 999) } // back, too
	fill(l, 300)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	fill(l, 5)
	size, _ := f.Size()
	f.WriteAt([]byte("unfinished"), size)
	read, err := ReadLedger(f)
	if err != nil {
		t.Fatal(err)
	}
	got, want := slices.Collect(read.Entries), slices.Collect(l.Entries)
	if !reflect.DeepEqual(got, want[:300]) {
		t.Errorf("%+v\n%+v", got[:3], want[:3])
	}
	p := stampedMessage("d1", 1, 0)
	if e := got[1]; e.Device != "d1" || e.Topic != "t/d1" || e.Sequence != 1 || e.QoS != 1 || !e.Acked || e.Refused ||
		e.Content != ContentHash(p.Topic, p.Payload) || e.Sent.Unix() < 1_700_000_000 {
		t.Errorf("%+v", e)
	}
	if after, _ := f.Size(); after != size+10 {
		t.Errorf("the file was changed: %d bytes, then %d", size+10, after)
	}
	rs := read.Readers()
	if name, filter, qos := rs[2].Name(); len(rs) != 4 || name != "all" || filter != "#" || qos != 1 {
		t.Errorf("%d readers, the last is %q %q %d", len(rs), name, filter, qos)
	}
	if _, err := ReadLedger(memFile(t)); err == nil {
		t.Error("an empty file is a ledger")
	}
}

// Wherever the file ends, what was flushed whole before is there, and the ledger can go on.
func TestLedgerFileCut(t *testing.T) {
	whole := memFile(t)
	l, _ := OpenLedger(whole)
	var ends []int64
	for range 4 {
		fill(l, 60)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, l.journal.off)
	}
	size, _ := whole.Size()
	bytes := make([]byte, size)
	whole.ReadAt(bytes, 0)
	for cut := int64(len(journalHeader)); cut <= size; cut += 1 + size/int64(tier.N(2000)) {
		f := memFile(t)
		f.WriteAt(bytes[:cut], 0)
		l, err := OpenLedger(f)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		frames := 0
		for frames < len(ends) && ends[frames] <= cut {
			frames++
		}
		if len(l.messages) != 60*frames {
			t.Fatalf("cut at %d: %d messages of %d frames", cut, len(l.messages), frames)
		}
		fill(l, 10)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if again, err := OpenLedger(f); err != nil || len(again.messages) != 60*frames+10 {
			t.Fatalf("cut at %d and written on: %v", cut, err)
		}
	}
	f := memFile(t)
	f.WriteAt([]byte(strings.Repeat("no ledger ", 10)), 0)
	if _, err := OpenLedger(f); err == nil {
		t.Fatal("any file is a ledger")
	}
}

// FuzzJournal: no file makes a ledger panic.
func FuzzJournal(f *testing.F) {
	l, err := OpenLedger(must(vfs.NewMem().Create("l")))
	if err != nil {
		f.Fatal(err)
	}
	fill(l, 50)
	f.Add(append([]byte(nil), l.journal.buf[frameHeader:]...))
	f.Add([]byte("S\x01d\x01tM\x00\x01\x01\x0212345678A\x00R\x01r\x01#\x02G\x00\x00P\x00\x01x"))
	f.Add([]byte("M\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, body []byte) {
		l := NewLedger()
		r := records{b: body}
		for len(r.b) > 0 {
			r.apply(l)
		}
		for _, reader := range l.readers {
			reader.Report()
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func BenchmarkLedger(b *testing.B) {
	l, err := OpenLedger(must(vfs.NewMem().Create("l")))
	if err != nil {
		b.Fatal(err)
	}
	r := l.Reader("r", "#", 1)
	p := &packet.Publish{QoS: 1, Topic: []byte("fleet/v1/telemetry"), Payload: make([]byte, 300)}
	s := Stamp{Device: "device-1", Due: time.Now()}
	b.ReportAllocs()
	for b.Loop() {
		s.Sequence++
		p.Payload = appendPayloadStamp(p.Payload[:0], &s)[:300]
		l.Acked(l.Sent(s.Device, s.Sequence, p), 0)
		r.Got(p)
	}
	if rep := r.Report(); rep.Err() != nil || rep.Received != b.N {
		b.Fatal(&rep)
	}
}

// A reader that subscribes between a message and its resent twin gets a later message first; only what it is owed has an order.
func TestLedgerTwinOfWhatWasBefore(t *testing.T) {
	l := NewLedger()
	early := stampedMessage("d", 1, 1)
	l.Sent("d", 1, early)
	r := l.Reader("reader", "t/#", 1)
	owed := []*packet.Publish{stampedMessage("d", 2, 1), stampedMessage("d", 3, 1), stampedMessage("d", 4, 1)}
	for i, p := range owed {
		l.Acked(l.Sent("d", uint64(i+2), p), 0)
	}
	for _, p := range []*packet.Publish{owed[1], owed[0], early} { // before the SUBACK came
		r.Got(p)
	}
	r.Begin()
	r.Got(owed[2])
	if rep := r.Report(); rep.Err() != nil || rep.Received != 4 {
		t.Error(rep.String())
	}
	all := l.Reader("log", "t/#", 1).All()
	for _, p := range []*packet.Publish{owed[0], early, owed[1]} {
		all.Got(p)
	}
	if rep := all.Report(); rep.Reordered != 1 {
		t.Errorf("one who is owed everything: %v", rep.String())
	}
}
