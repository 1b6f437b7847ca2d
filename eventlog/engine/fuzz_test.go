package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
	"github.com/millrace-io/millrace/internal/vfs"
)

// killed is a log of synced commits whose process was killed, with its frames.
type killed struct {
	mem    *vfs.Mem
	part   eventlog.Part
	values []string
	frames []walFrame // the first is the topic's; then one per value
}

var killedLog = sync.OnceValue(func() *killed {
	k := &killed{mem: vfs.NewMem()}
	o := small(k.mem)
	o.WALFileBytes, o.WALFiles = minWALFileBytes, 2
	e, err := Open(o)
	if err != nil {
		panic(err)
	}
	t, err := e.CreateTopic(context.Background(), eventlog.TopicSpec{Name: "t", Partitions: 1})
	if err != nil {
		panic(err)
	}
	k.part = eventlog.Part{Topic: t.ID}
	for i := range 8 {
		v := fmt.Sprint(i, strings.Repeat("v", i*900))
		var bl eventlog.Builder
		bl.Add(1, nil, []byte(v), nil)
		b, _, err := bl.Batch(k.part, eventlog.None)
		if err != nil {
			panic(err)
		}
		if _, err := eventlog.New(e).AppendWait(context.Background(), b); err != nil {
			panic(err)
		}
		k.values = append(k.values, v)
	}
	s, err := readCheckpoint(k.mem)
	if err != nil {
		panic(err)
	}
	k.mem = k.mem.Kill()
	e.Close()
	if k.frames, err = walSince(Options{FS: k.mem}, s); err != nil || len(k.frames) != len(k.values)+1 {
		panic(fmt.Sprint(len(k.frames), err))
	}
	return k
})

// FuzzRecovery damages the WAL anywhere. Recovery never panics and never invents; it keeps every commit before the damage, and
// refuses to open rather than lose one that a whole one follows.
func FuzzRecovery(f *testing.F) {
	f.Add(uint16(0), []byte{1})
	f.Add(uint16(4096), []byte("MWAL"))
	f.Add(uint16(40_960), bytes.Repeat([]byte{0}, 5000))
	f.Add(uint16(36_900), []byte{0xff, 0, 0xff})
	f.Add(uint16(53_248), bytes.Repeat([]byte("MWAL\x01\x00"), 50))
	f.Add(uint16(65_000), []byte("the end"))
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		k := killedLog()
		mem := k.mem.Kill()
		content, err := readAll(mem, walName(0))
		if err != nil {
			t.Fatal(err)
		}
		was := slices.Clone(content)
		copy(content[at:], patch)
		h, err := mem.Open(walName(0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		whole := len(k.frames) // frames before the first damaged one
		for i, fr := range k.frames {
			n := int64(frameHeader) + payloadLen(was[fr.off:])
			if !bytes.Equal(was[fr.off:fr.off+n], content[fr.off:fr.off+n]) {
				whole = i
				break
			}
		}
		o := small(mem)
		o.WALFileBytes, o.WALFiles = minWALFileBytes, 2
		e, err := Open(o)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("open: %v", err)
			}
			if whole == len(k.frames) {
				t.Fatalf("all is whole, yet: %v", err)
			}
			return
		}
		defer e.Close()
		if whole == 0 {
			if len(e.ListTopics()) != 0 {
				t.Fatal("the topic was invented")
			}
			return
		}
		if got := values(t, e, k.part); !slices.Equal(got, k.values[:whole-1]) {
			t.Fatalf("%d records are left of %d whole commits", len(got), whole)
		}
	})
}

func payloadLen(frame []byte) int64 {
	return int64(frame[40])<<24 | int64(frame[41])<<16 | int64(frame[42])<<8 | int64(frame[43])
}

// TestTornEverywhere cuts the last frame at every sector, and a few places between.
func TestTornEverywhere(t *testing.T) {
	if err := tornEverywhere(t); err != nil {
		t.Fatal(err)
	}
}

func tornEverywhere(t *testing.T) error {
	k := killedLog()
	last := k.frames[len(k.frames)-1]
	for at := last.off; at < last.off+7000; at += 512 {
		mem := k.mem.Kill()
		h, err := mem.Open(walName(0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.WriteAt(make([]byte, last.next-at), at); err != nil {
			t.Fatal(err)
		}
		o := small(mem)
		o.WALFileBytes, o.WALFiles = minWALFileBytes, 2
		e, err := Open(o)
		if err != nil {
			return fmt.Errorf("cut at %d: %w", at-last.off, err)
		}
		want := k.values[:len(k.values)-1]
		if at >= last.off+frameHeader+payloadLenOf(t, k) {
			want = k.values
		}
		if got := values(t, e, k.part); !slices.Equal(got, want) {
			err = fmt.Errorf("cut at %d: %d records", at-last.off, len(got))
		}
		if err = errors.Join(err, e.Close()); err != nil {
			return err
		}
	}
	return nil
}

func payloadLenOf(t *testing.T, k *killed) int64 {
	content, err := readAll(k.mem.Kill(), walName(0))
	if err != nil {
		t.Fatal(err)
	}
	return payloadLen(content[k.frames[len(k.frames)-1].off:])
}

func someEntries() []entry {
	id := eventlog.TopicID{1, 2, 3}
	return []entry{
		{kind: entryCreate, part: eventlog.Part{Topic: id}, name: "topic", count: 3, configs: map[string]string{"a": "b", "c": ""}},
		{kind: entryDelete, part: eventlog.Part{Topic: id}},
		{kind: entryConfigure, part: eventlog.Part{Topic: id}, configs: map[string]string{"retention.ms": "5"}},
		{kind: entryPartitions, part: eventlog.Part{Topic: id}, count: 7},
		{kind: entryStart, part: eventlog.Part{Topic: id, Index: 2}, value: 1 << 40},
		{kind: entryClaim, part: eventlog.Part{Topic: id, Index: 1}, value: 9},
		{kind: entryIDs, value: 1000},
		{kind: entryForgotten, part: eventlog.Part{Topic: id, Index: 3}, value: 77},
	}
}

func TestEntriesRoundTrip(t *testing.T) {
	for _, want := range someEntries() {
		b := appendEntry(nil, &want)
		got, rest, err := nextEntry(append(b, "rest"...))
		if err != nil || string(rest) != "rest" || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v came back as %+v, %q, %v", want, got, rest, err)
		}
		for n := range b {
			if _, _, err := nextEntry(b[:n]); err == nil {
				t.Errorf("%d of %d bytes are an entry", n, len(b))
			}
		}
	}
}

// FuzzEntry: no bytes make the decoder of entries panic, and what it takes it gives back.
func FuzzEntry(f *testing.F) {
	for _, e := range someEntries() {
		f.Add(appendEntry(nil, &e))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		e, rest, err := nextEntry(p)
		if err != nil || e.kind == entryBatch {
			return
		}
		again, none, err := nextEntry(appendEntry(nil, &e))
		if err != nil || len(none) != 0 || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v came back as %+v, %v", e, again, err)
		}
		if len(rest) >= len(p) {
			t.Fatal("nothing was taken")
		}
	})
}

func someSnapshot() *snapshot {
	p := &producer{epoch: 3, n: 2, active: 77}
	p.last[0], p.last[1] = sent{5, 9, 100, -1}, sent{0, 4, 95, 12}
	txns := &transactions{open: map[int64]openTxn{}, aborted: []Aborted{{42, 3, 9, 10}, {43, 4, 12, 11}}}
	txns.begin(42, openTxn{20, 7})
	txns.begin(7, openTxn{21, 8})
	return &snapshot{clusterID: [16]byte{9}, commit: 5, salt: 6, generation: 7, time: 8, nextID: 9, maxLog: 10, topics: []topicSnapshot{
		{id: eventlog.TopicID{1}, name: "empty", configs: map[string]string{}},
		{id: eventlog.TopicID{2}, name: "full", configs: map[string]string{"k": "v"}, parts: []partSnapshot{
			{start: 1, end: 200, claim: 4, state: segment.State{Start: 1, End: 200, Base: 150, Size: 10, Bytes: 20, MaxTime: -1}, producers: p.append(nil, 42),
				transactions: txns.append(nil)},
			{},
		}},
	}}
}

func TestCheckpointRoundTrip(t *testing.T) {
	want := someSnapshot()
	want.format = checkpointVersion
	b := want.encode()
	got, err := decodeCheckpoint(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.topics[1].parts[1].producers, got.topics[1].parts[1].transactions = nil, nil; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v came back as %+v", want, got)
	}
	for i := range b {
		broken := slices.Clone(b)
		broken[i] ^= 0x10
		if _, err := decodeCheckpoint(broken); !errors.Is(err, ErrDamaged) {
			t.Fatalf("a flipped bit in byte %d: %v", i, err)
		}
		if _, err := decodeCheckpoint(b[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%d of %d bytes: %v", i, len(b), err)
		}
	}
}

// FuzzCheckpoint gives the decoder bodies whose checksum is right.
func FuzzCheckpoint(f *testing.F) {
	f.Add(someSnapshot().encode()[checkpointHeader:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := decodeCheckpoint(sealCheckpoint(append(make([]byte, checkpointHeader), body...)))
		if err != nil {
			return
		}
		d := newTopicDefaults(&Options{WALFileBytes: 1 << 20})
		if err := newState(&d).load(s); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}
