package vfs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestDirectOrNot: a file whose direct writes the system refuses, when it is opened so or later, is written all the same; and what is opened directly
// is the file that is open, whatever has its name.
func TestDirectOrNot(t *testing.T) {
	dir := t.TempDir()
	f, err := OS(dir)
	check(t, err)
	write := func(h File, c byte) {
		t.Helper()
		p := Aligned(DirectBlock)
		copy(p, bytes.Repeat([]byte{c}, DirectBlock))
		if n, err := h.WriteDirect(p, DirectBlock); n != DirectBlock || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		q := make([]byte, DirectBlock)
		if _, err := h.ReadAt(q, DirectBlock); err != nil || !bytes.Equal(p, q) {
			t.Fatalf("read back: %v, %q", err, q[:8])
		}
	}
	h, err := f.Create("x")
	check(t, err)
	check(t, f.Rename("x", "moved"))
	put(t, f, "x", "another")
	write(h, 'a')
	if get(t, f, "x") != "another" {
		t.Fatal("wrote into another file of the same name")
	}
	o := h.(*osFile)
	t.Logf("direct: %v", o.direct.f.Load() != nil)
	refusing, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0) // takes numbers only: EINVAL
	check(t, err)
	if d := o.direct.f.Swap(refusing); d != nil {
		check(t, d.Close())
	}
	write(h, 'b')
	if o.direct.f.Load() != nil {
		t.Error("it is tried again and again")
	}
	write(h, 'c')
	check(t, h.Close())

	h, err = f.Open("moved")
	check(t, err)
	h.(*osFile).direct.once.Do(func() {}) // as if it could not be opened
	write(h, 'd')
	check(t, h.Close())
	if fi, err := os.Stat(filepath.Join(dir, "moved")); err != nil || fi.Size() != 2*DirectBlock {
		t.Fatal(fi, err)
	}
}

// TestDirectFails: a failed direct write is the writer's to know.
func TestDirectFails(t *testing.T) {
	f, err := OS(t.TempDir())
	check(t, err)
	h, err := f.Create("x")
	check(t, err)
	defer h.Close()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	check(t, err)
	h.(*osFile).direct.once.Do(func() {})
	h.(*osFile).direct.f.Store(full)
	if _, err := h.WriteDirect(Aligned(DirectBlock), 0); err == nil {
		t.Fatal("a direct write that failed went on as another")
	}
}
