package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
)

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// outcomes counts what a file looks like over many crashes of what setup leaves.
func outcomes(t *testing.T, setup func(m *Mem), look func(m *Mem) string) map[string]int {
	t.Helper()
	m := NewMem()
	setup(m)
	seen := map[string]int{}
	for seed := range uint64(300) {
		seen[look(m.Crash(rng(seed)))]++
	}
	return seen
}

func wantExactly(t *testing.T, seen map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if seen[w] == 0 {
			t.Errorf("never saw %q", w)
		}
		delete(seen, w)
	}
	for s := range seen {
		t.Errorf("saw %.60q", s)
	}
}

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	seen := outcomes(t, func(m *Mem) {
		check(t, MkdirDurable(m, "a/b"))
		put(t, m, "a/b/x", "synced")
		check(t, m.SyncDir("a/b"))
	}, func(m *Mem) string { return get(t, m, "a/b/x") })
	wantExactly(t, seen, "synced")
}

func TestCrashDropsNames(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(m *Mem)
		want []string // a, then b
	}{
		"created":  {func(m *Mem) { put(t, m, "b", "2") }, []string{"1 -", "1 2"}},
		"removed":  {func(m *Mem) { check(t, m.Remove("a")) }, []string{"1 -", "- -"}},
		"renamed":  {func(m *Mem) { check(t, m.Rename("a", "b")) }, []string{"1 -", "- 1"}},
		"replaced": {func(m *Mem) { put(t, m, "t", "2"); check(t, m.Rename("t", "a")) }, []string{"1 -", "2 -"}},
		"rotated":  {func(m *Mem) { check(t, m.Rename("a", "b")); put(t, m, "a", "2") }, []string{"1 -", "- 1", "2 1"}},
		"two": {func(m *Mem) { check(t, m.Remove("a")); put(t, m, "b", "2") },
			[]string{"1 -", "- -", "1 2", "- 2"}},
		"synced": {func(m *Mem) { check(t, m.Rename("a", "b")); check(t, m.SyncDir(".")) }, []string{"- 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			seen := outcomes(t, func(m *Mem) {
				put(t, m, "a", "1")
				check(t, m.SyncDir("."))
				c.do(m)
			}, func(m *Mem) string { return get(t, m, "a") + " " + get(t, m, "b") })
			wantExactly(t, seen, c.want...)
		})
	}
}

func TestCrashAcrossDirectories(t *testing.T) {
	setup := func(m *Mem) {
		check(t, MkdirDurable(m, "d"))
		check(t, MkdirDurable(m, "e"))
		put(t, m, "d/x", "1")
		check(t, m.SyncDir("d"))
		check(t, m.Rename("d/x", "e/x"))
	}
	look := func(m *Mem) string { return get(t, m, "d/x") + " " + get(t, m, "e/x") }
	wantExactly(t, outcomes(t, setup, look), "1 -", "- 1")
	wantExactly(t, outcomes(t, func(m *Mem) { setup(m); check(t, m.SyncDir("e")) }, look), "- 1")
	wantExactly(t, outcomes(t, func(m *Mem) { // only the name of the directory is missing
		check(t, m.MkdirAll("n"))
		put(t, m, "n/x", "1")
		check(t, m.SyncDir("n"))
	}, func(m *Mem) string { return get(t, m, "n/x") }), "-", "1")
}

func TestCrashLosesAnySectors(t *testing.T) {
	old, new := strings.Repeat("o", 3*sector), strings.Repeat("n", 3*sector)
	whole, torn := map[string]bool{}, 0
	outcomes(t, func(m *Mem) {
		put(t, m, "x", old)
		check(t, m.SyncDir("."))
		h, err := m.Open("x")
		check(t, err)
		_, err = h.WriteAt([]byte(new), 0)
		check(t, err)
	}, func(m *Mem) string {
		got, s := get(t, m, "x"), ""
		if len(got) != len(old) {
			t.Fatalf("size %d", len(got))
		}
		for i := range 3 {
			switch got[i*sector : (i+1)*sector] {
			case old[:sector]:
				s += "o"
			case new[:sector]:
				s += "n"
			default:
				s += "t"
				torn++
			}
		}
		whole[s] = true
		return s
	})
	for _, w := range []string{"ooo", "oon", "ono", "onn", "noo", "non", "nno", "nnn"} {
		if !whole[w] {
			t.Errorf("never saw %s", w)
		}
	}
	if torn == 0 {
		t.Error("never saw a torn sector")
	}
}

// TestCrashOfAppends appends without sync and checks that sizes are ones the file had, that what was synced stays, and that
// bytes never written are zeros or noise.
func TestCrashOfAppends(t *testing.T) {
	sizes := map[int]bool{}
	noise := false
	outcomes(t, func(m *Mem) {
		put(t, m, "x", "synced")
		check(t, m.SyncDir("."))
		h, err := m.Open("x")
		check(t, err)
		for i := range 4 {
			_, err = h.WriteAt(bytes.Repeat([]byte("n"), 600), int64(6+i*600))
			check(t, err)
		}
	}, func(m *Mem) string {
		got := get(t, m, "x")
		if !strings.HasPrefix(got, "synced") || (len(got)-6)%600 != 0 {
			t.Fatalf("%d bytes: %.20q", len(got), got)
		}
		sizes[len(got)] = true
		noise = noise || strings.Trim(got[6:], "n\x00") != ""
		return ""
	})
	if len(sizes) != 5 {
		t.Errorf("sizes %v, want 5 of them", sizes)
	}
	if !noise {
		t.Error("never saw what an old file left")
	}
}

func TestCrashOfTruncation(t *testing.T) {
	seen := outcomes(t, func(m *Mem) {
		put(t, m, "x", "abcd")
		check(t, m.SyncDir("."))
		h, err := m.Open("x")
		check(t, err)
		check(t, h.Truncate(2))
	}, func(m *Mem) string { return strings.TrimRight(get(t, m, "x"), "\x00") })
	wantExactly(t, seen, "abcd", "ab")
}

func TestSyncedHandlesOutliveNothing(t *testing.T) {
	for name, end := range map[string]func(m *Mem) *Mem{
		"crash": func(m *Mem) *Mem { return m.Crash(rng(1)) },
		"kill":  func(m *Mem) *Mem { return m.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMem()
			put(t, m, "x", "x")
			check(t, m.SyncDir("."))
			_, err := m.Lock("lock")
			check(t, err)
			h, err := m.Open("x")
			check(t, err)
			next := end(m)
			if _, err := h.WriteAt([]byte("late"), 0); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("write of the dead: %v", err)
			}
			if err := h.Sync(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("sync of the dead: %v", err)
			}
			if err := m.Remove("x"); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("remove of the dead: %v", err)
			}
			if got := get(t, next, "x"); got != "x" {
				t.Errorf("%q", got)
			}
			if _, err := next.Lock("lock"); err != nil {
				t.Errorf("lock of the dead: %v", err)
			}
		})
	}
}

func TestKillKeepsWhatWasWrittenUntilPowerFails(t *testing.T) {
	m := NewMem()
	h, err := m.Create("x")
	check(t, err)
	_, err = h.WriteAt([]byte("x"), 0)
	check(t, err)
	m = m.Kill()
	if got := get(t, m, "x"); got != "x" {
		t.Fatalf("after the kill: %q", got)
	}
	seen := map[string]int{}
	for seed := range uint64(300) {
		seen[strings.TrimRight(get(t, m.Crash(rng(seed)), "x"), "\x00")]++
	}
	if seen["-"] == 0 || seen["x"] == 0 || seen[""] == 0 {
		t.Fatalf("saw %v", seen)
	}
}

// TestCrashTwice: what survives a crash is what is on the disk: another crash takes nothing more.
func TestCrashTwice(t *testing.T) {
	for seed := range uint64(100) {
		m := NewMem()
		h, err := m.Create("x")
		check(t, err)
		_, err = h.WriteAt(bytes.Repeat([]byte("n"), 5000), 0)
		check(t, err)
		m = m.Crash(rng(seed))
		first := get(t, m, "x")
		if again := get(t, m.Crash(rng(seed+1)), "x"); again != first {
			t.Fatalf("seed %d: another crash changed the disk", seed)
		}
	}
}

// TestImagesAreApart: file systems that share content must not see each other's writes.
func TestImagesAreApart(t *testing.T) {
	m := NewMem()
	put(t, m, "x", "same")
	check(t, m.SyncDir("."))
	a, b := m.Crash(rng(1)), m.Crash(rng(2))
	h, err := a.Open("x")
	check(t, err)
	_, err = h.WriteAt([]byte("S"), 0)
	check(t, err)
	if get(t, a, "x") != "Same" || get(t, b, "x") != "same" {
		t.Fatalf("a %q, b %q", get(t, a, "x"), get(t, b, "x"))
	}
}

func TestFreeSpace(t *testing.T) {
	m := NewMem()
	m.SetFree(10)
	h, err := m.Create("x")
	check(t, err)
	_, err = h.WriteAt(make([]byte, 8), 0)
	check(t, err)
	if _, err := h.WriteAt(make([]byte, 8), 8); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v, want ENOSPC", err)
	}
	if free, _, _ := m.Free(); free != 2 {
		t.Fatalf("free %d, want 2", free)
	}
	_, err = h.WriteAt(make([]byte, 8), 0) // in place
	check(t, err)
	check(t, h.Truncate(4))
	check(t, m.Remove("x"))
	if free, _, _ := m.Free(); free != 10 {
		t.Fatalf("free %d after all is removed, want 10", free)
	}
	if free, _, _ := m.Crash(rng(3)).Free(); free != 10 {
		t.Fatalf("free %d after a crash, want 10: x was never synced", free)
	}
}
