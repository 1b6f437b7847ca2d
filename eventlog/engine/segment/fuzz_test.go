package segment

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

// FuzzDamaged opens a partition with any bytes in its files: one rolled segment and an active one. Nothing may panic or loop,
// and every batch that is read must be intact.
func FuzzDamaged(f *testing.F) {
	log, offs, times := sampleFiles(f)
	f.Add(log, offs, times, log, int64(len(log)), int64(40), int64(0), false)
	f.Add(log, []byte{}, []byte{}, []byte{}, int64(0), int64(0), int64(0), false)
	f.Add(log[:len(log)-7], offs, times[:5], log[3:], int64(50), int64(20), int64(3), false)
	for i := 0; i < len(log); i += 97 {
		bad := slices.Clone(log)
		bad[i] ^= 0x41
		f.Add(bad, offs, times, bad, int64(len(bad)), int64(40), int64(1), false)
	}
	for i := 61; i < len(log); i += 53 { // records that are wrong though the checksum holds
		bad := slices.Clone(log)
		bad[i] ^= 0x21
		f.Add(bad, offs, times, bad, int64(len(bad)), int64(40), int64(1), true)
	}
	huge := slices.Clone(log)
	copy(huge[8:12], []byte{0x7f, 0xff, 0xff, 0xff})
	f.Add(huge, offs, times, huge, int64(len(huge)), int64(40), int64(0), false)
	f.Fuzz(func(t *testing.T, log, offs, times, active []byte, size, end, entries int64, sound bool) {
		if len(log)+len(offs)+len(times)+len(active) > 1<<16 || size < 0 || end < 0 || end > 1<<40 || entries < 0 {
			return
		}
		if sound {
			log, active = reseal(log), reseal(active)
		}
		m := vfs.NewMem()
		check(t, m.MkdirAll("topic/0"))
		for name, p := range map[string][]byte{
			fileName(0, logSuffix): log, fileName(0, indexSuffix): offs, fileName(0, timeSuffix): times,
			fileName(20, logSuffix): active, fileName(20, indexSuffix): offs, fileName(20, timeSuffix): times,
		} {
			check(t, writeFile(m, "topic/0/"+name, p))
		}
		st := State{End: 20 + end, Base: 20, Size: size, Entries: entries, MaxTime: 100, Bytes: size}
		useDamaged(t, m, st)
	})
}

// reseal gives batches the checksum of what they hold.
func reseal(p []byte) []byte {
	p = slices.Clone(p)
	for rest := p; len(rest) >= eventlog.HeaderSize; {
		n, err := eventlog.BatchSize(rest)
		if err != nil || n > len(rest) {
			break
		}
		eventlog.RawBatch(rest[:n]).Reseal()
		rest = rest[n:]
	}
	return p
}

func useDamaged(t *testing.T, m *vfs.Mem, st State) {
	l, err := Open(m, "topic/0", Options{IndexBytes: 100}, NewFileCache(2), st)
	if err != nil {
		return
	}
	for _, from := range []int64{0, 1, 7, 19, 20, 25, st.End / 2, st.End} {
		for steps := 0; steps < 100 && from <= st.End; steps++ {
			raw, err := l.Read(from, 300, true)
			if !known(err) {
				t.Fatal(err)
			}
			if len(raw) == 0 {
				break
			}
			next := from
			for rest := raw; len(rest) > 0; {
				b, err := eventlog.CheckBatch(rest)
				if err != nil {
					t.Fatalf("read at %d: %v", from, err)
				}
				if b.Last() < next {
					t.Fatalf("read at %d: batch of %d to %d", from, b.Base(), b.Last())
				}
				rest, next = rest[len(b):], b.Next()
			}
			from = next
		}
	}
	for _, ts := range []int64{-1, 0, 50, 1 << 60} {
		if _, _, err := l.FindTime(ts, 0); !known(err) {
			t.Fatal(err)
		}
	}
	if _, _, err := l.FindMaxTime(0); !known(err) {
		t.Fatal(err)
	}
	if err := l.Append(encode(t, 0, rec{l.End() + 1, 1, "k", "v"})); !known(err) {
		t.Fatal(err)
	}
	if _, err := l.Compact(time.UnixMilli(5), st.End, CompactOptions{MinDirty: 1e-9, MemoryBytes: 1}); !known(err) {
		t.Fatal(err)
	}
	if _, _, err := l.Retain(time.UnixMilli(5), 1, 1, st.End); !known(err) {
		t.Fatal(err)
	}
}

// known tells whether an error is one that damage may cause.
func known(err error) bool {
	var out *eventlog.OutOfRangeError
	return err == nil || errors.As(err, &out) || errors.Is(err, eventlog.ErrCorrupt) || errors.Is(err, eventlog.ErrInvalid) ||
		errors.Is(err, fs.ErrNotExist)
}

// sampleFiles returns the files of a rolled segment with offsets 0 to 19.
func sampleFiles(f *testing.F) (log, offs, times []byte) {
	m := vfs.NewMem()
	fx := newFixture(f, m, Options{IndexBytes: 100})
	for i := range 10 {
		fx.add(eventlog.Codec(i%2), 2, 20)
	}
	if _, err := fx.log.roll(20, 0); err != nil {
		f.Fatal(err)
	}
	fx.sync()
	return content(f, m, logSuffix), content(f, m, indexSuffix), content(f, m, timeSuffix)
}

func content(f *testing.F, m *vfs.Mem, suffix string) []byte {
	h, err := m.OpenRead("topic/0/" + fileName(0, suffix))
	if err != nil {
		f.Fatal(err)
	}
	size, _ := h.Size()
	p := make([]byte, size)
	if err := readFull(h, p, 0); err != nil {
		f.Fatal(err)
	}
	return p
}

func FuzzDecodeState(f *testing.F) {
	f.Add(State{}.Append(nil))
	f.Add(State{1, 99, 50, 4096, 2, 1 << 41, 1 << 41, 3, 9999, 77}.Append(nil))
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Add([]byte(strings.Repeat("\x80", 90)))
	f.Fuzz(func(t *testing.T, p []byte) {
		st, rest, err := DecodeState(p, 2)
		if err != nil {
			return
		}
		again, _, err := DecodeState(st.Append(nil), 2)
		if err != nil || again != st {
			t.Fatalf("%+v, %v; want %+v", again, err, st)
		}
		if len(rest) > len(p) {
			t.Fatal("grew")
		}
	})
}
