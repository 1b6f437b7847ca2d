package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

// sized is an intact batch of so many bytes.
func sized(t testing.TB, n int) eventlog.RawBatch {
	t.Helper()
	for value := n - 60; ; value-- {
		var bl eventlog.Builder
		bl.Add(1_700_000_000_000, nil, bytes.Repeat([]byte{byte(n)}, value), nil)
		b, _, err := bl.Batch(eventlog.Part{}, eventlog.None)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Raw()) <= n {
			return b.Raw()
		}
	}
}

func sealed(f *frame) []byte { return bytes.Join(f.seal(7, 3, 9, 1000), nil) }

func someFrame(t testing.TB, sizes ...int) []byte {
	var f frame
	f.reset()
	entries := someEntries()
	for i, n := range sizes {
		f.add(&entries[i%len(entries)])
		raw := sized(t, n)
		raw.SetBase(int64(i))
		f.batch(eventlog.Part{Topic: eventlog.TopicID{9}, Index: int32(i)}, raw)
	}
	f.add(&entries[0])
	return sealed(&f)
}

// TestFrameSums: every bit of a frame is covered, by its checksum or by that of a large batch in it; a batch is large or not alike for who writes and who reads.
func TestFrameSums(t *testing.T) {
	for _, sizes := range [][]int{nil, {100}, {largeFrom - 1}, {largeFrom}, {largeFrom + 1, 100, largeFrom}, {100, largeFrom + 3000, largeFrom - 1}} {
		p := someFrame(t, sizes...)
		info, ok := checkFrame(p, 7)
		if !ok || info.version != frameVersion || info.commit != 9 || info.generation != 3 || info.time != 1000 || info.readable() != nil {
			t.Fatalf("%v: %v, %+v", sizes, ok, info)
		}
		batches := 0
		if err := eachEntry(info.payload, func(en *entry, _ int) error {
			if en.kind == entryBatch {
				batches++
			}
			return nil
		}); err != nil || batches != len(sizes) {
			t.Fatalf("%v: %d batches, %v", sizes, batches, err)
		}
		for at := range frameHeader + len(info.payload) {
			p[at] ^= 1 << (at % 8)
			if _, ok := checkFrame(p, 7); ok {
				t.Fatalf("%v: a bit of byte %d is not covered", sizes, at)
			}
			p[at] ^= 1 << (at % 8)
		}
		if _, ok := checkFrame(p[:frameHeader+len(info.payload)-1], 7); ok {
			t.Fatalf("%v: it is cut off", sizes)
		}
	}
}

// TestFrameOfLies: a frame whose checksum is right says of its entries what cannot be: it is intact, and not believed.
func TestFrameOfLies(t *testing.T) {
	lie := func(at int, what uint32) []byte {
		p := someFrame(t, largeFrom+10, 90)
		binary.BigEndian.PutUint32(p[at:], what)
		crc, ok := sumPayload(crc32c(p[:44]), p[frameHeader:frameHeader+payloadLen(p)])
		if !ok {
			t.Fatal("a batch's own checksum is wrong")
		}
		binary.BigEndian.PutUint32(p[44:], crc)
		return p
	}
	p := someFrame(t, largeFrom+10, 90)
	large := bytes.Index(p, []byte{byte(entryBatch), 0, 0, largeFrom >> 8})
	if large < 0 {
		t.Fatal("where is the batch?")
	}
	for what, p := range map[string][]byte{
		"the batch is longer":         lie(large+batchHeader+8, largeFrom+10-12+1),
		"the batch is shorter":        lie(large+batchHeader+8, largeFrom-100),
		"the batch has no length":     lie(large+batchHeader+8, 0),
		"the entry has no end":        lie(large+1, 1<<32-1),
		"the entry is nearly nothing": lie(large+1, 0),
		"the entry is a small one":    lie(large+1, 100),
	} {
		info, ok := checkFrame(p, 7)
		if !ok {
			t.Errorf("%s: not intact", what)
			continue
		}
		if err := eachEntry(info.payload, func(*entry, int) error { return nil }); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzFrame gives the reader payloads of all sorts. It never panics; and of what is intact no byte can change unnoticed.
func FuzzFrame(f *testing.F) {
	for _, sizes := range [][]int{{100}, {largeFrom}, {largeFrom + 100, 90, largeFrom - 1}} {
		p := someFrame(f, sizes...)
		f.Add(p[frameHeader:frameHeader+payloadLen(p)], uint16(len(p)/2))
	}
	f.Add([]byte(strings.Repeat("\x01\x00\x00\x20\x00", 2000)), uint16(6))
	f.Fuzz(func(t *testing.T, payload []byte, at uint16) {
		p := append(make([]byte, frameHeader), payload...)
		copy(p, frameMagic[:])
		p[4] = frameVersion
		binary.BigEndian.PutUint32(p[40:], uint32(len(payload)))
		crc, ok := sumPayload(crc32c(p[:44]), payload)
		binary.BigEndian.PutUint32(p[44:], crc)
		if _, intact := checkFrame(p, 0); intact != ok {
			t.Fatalf("intact: %v, want %v", intact, ok)
		}
		if !ok || len(payload) == 0 {
			return
		}
		p[frameHeader+int(at)%len(payload)] ^= 4
		if _, intact := checkFrame(p, 0); intact {
			t.Fatal("a change went unnoticed")
		}
	})
}
