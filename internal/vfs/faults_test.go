package vfs

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFaults(t *testing.T) {
	boom := errors.New("boom")
	var log []Op
	var fail func(Op) error
	m := NewMem()
	f := Faults(m, func(op Op) error {
		log = append(log, op)
		if fail != nil {
			return fail(op)
		}
		return nil
	})
	h, err := f.Create("x")
	check(t, err)
	_, err = h.WriteAt([]byte("abc"), 5)
	check(t, err)
	check(t, f.Rename("x", "y"))
	want := []Op{{Kind: OpCreate, Name: "x"}, {Kind: OpWrite, Name: "x", Off: 5, Len: 3}, {Kind: OpRename, Name: "x", To: "y"}}
	for i := range want {
		if log[i] != want[i] {
			t.Errorf("operation %d: %+v, want %+v", i, log[i], want[i])
		}
	}

	fail = func(op Op) error {
		if op.Kind == OpDatasync || op.Kind == OpRemove {
			return boom
		}
		return nil
	}
	if err := h.Datasync(); !errors.Is(err, boom) {
		t.Errorf("datasync: %v", err)
	}
	if err := f.Remove("y"); !errors.Is(err, boom) || get(t, m, "y") == "-" {
		t.Errorf("remove: %v", err)
	}

	fail = func(op Op) error { return &PartialWrite{2, boom} }
	if n, err := h.Writev([][]byte{[]byte("x"), []byte("yz")}, 0); n != 2 || !errors.Is(err, boom) {
		t.Errorf("partial write: %d, %v", n, err)
	}
	if got := get(t, m, "y"); got != "xy\x00\x00\x00abc" {
		t.Errorf("%q", got)
	}
}

func TestSkipLies(t *testing.T) {
	m := NewMem()
	put(t, Faults(m, func(op Op) error {
		if op.Kind == OpSync {
			return Skip
		}
		return nil
	}), "x", "lost")
	check(t, m.SyncDir("."))
	lost := false
	for seed := range uint64(100) {
		lost = lost || get(t, m.Crash(rng(seed)), "x") != "lost"
	}
	if !lost {
		t.Error("a sync that was skipped made the file durable")
	}
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := Faults(NewMem(), Delay(5*time.Millisecond, OpDatasync))
		h, err := f.Create("x")
		check(t, err)
		start := time.Now()
		check(t, h.Sync())
		if d := time.Since(start); d != 0 {
			t.Errorf("sync took %v", d)
		}
		check(t, h.Datasync())
		if d := time.Since(start); d != 5*time.Millisecond {
			t.Errorf("datasync took %v", d)
		}
	})
}
