package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// TestConformance holds every FS to the same contract.
func TestConformance(t *testing.T) {
	systems := map[string]func(t *testing.T) FS{
		"os": func(t *testing.T) FS {
			f, err := OS(filepath.Join(t.TempDir(), "made"))
			check(t, err)
			return f
		},
		"mem":    func(t *testing.T) FS { return NewMem() },
		"faults": func(t *testing.T) FS { return Faults(NewMem(), func(Op) error { return nil }) },
	}
	cases := map[string]func(*testing.T, FS){
		"names": conformNames, "escape": conformEscape, "content": conformContent, "writev": conformWritev,
		"truncate": conformTruncate, "unlinked": conformUnlinked, "lock": conformLock, "closed": conformClosed,
		"readonly": conformReadOnly, "concurrent": conformConcurrent,
	}
	for sys, make := range systems {
		for name, run := range cases {
			t.Run(sys+"/"+name, func(t *testing.T) { run(t, make(t)) })
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, f FS, name, content string) {
	t.Helper()
	h, err := f.Create(name)
	check(t, err)
	_, err = h.WriteAt([]byte(content), 0)
	check(t, err)
	check(t, h.Sync())
	check(t, h.Close())
}

// get returns the content of a file, or "-" if there is none.
func get(t *testing.T, f FS, name string) string {
	t.Helper()
	h, err := f.OpenRead(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	check(t, err)
	defer h.Close()
	n, err := h.Size()
	check(t, err)
	p := make([]byte, n)
	if _, err := h.ReadAt(p, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return string(p)
}

func list(t *testing.T, f FS, dir string) []string {
	t.Helper()
	names, err := f.List(dir)
	check(t, err)
	return names
}

func conformNames(t *testing.T, f FS) {
	check(t, MkdirDurable(f, "a/b"))
	check(t, f.MkdirAll("a/b")) // again
	put(t, f, "a/b/two", "2")
	put(t, f, "a/b/one", "1")
	if got := list(t, f, "a/b"); !slices.Equal(got, []string{"one", "two"}) {
		t.Fatalf("list: %q", got)
	}
	check(t, f.Rename("a/b/one", "a/b/two"))
	check(t, f.SyncDir("a/b"))
	if got := get(t, f, "a/b/two"); got != "1" {
		t.Fatalf("renamed over: %q", got)
	}
	fi, err := f.Stat("a/b/two")
	check(t, err)
	if fi.Size() != 1 || fi.IsDir() || fi.Name() != "two" {
		t.Fatalf("stat: %v", fi)
	}
	fi, err = f.Stat("a")
	check(t, err)
	if !fi.IsDir() {
		t.Fatal("a is a directory")
	}
	for name, err := range map[string]error{
		"open missing":   second(f.Open("a/none")),
		"read missing":   second(f.OpenRead("none/none")),
		"stat missing":   second(f.Stat("a/none")),
		"list missing":   second(f.List("none")),
		"remove missing": f.Remove("a/none"),
		"rename missing": f.Rename("a/none", "a/x"),
		"create nowhere": second(f.Create("none/x")),
		"sync missing":   f.SyncDir("none"),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v, want fs.ErrNotExist", name, err)
		}
	}
	if err := f.Remove("a/b"); err == nil {
		t.Error("removed a directory that is not empty")
	}
	check(t, f.Remove("a/b/two"))
	check(t, f.Remove("a/b"))
	check(t, f.MkdirAll("a/c/d"))
	put(t, f, "a/c/d/x", "x")
	check(t, f.RemoveAll("a"))
	check(t, f.RemoveAll("a"))
	check(t, f.SyncDir("."))
	if got := list(t, f, "."); len(got) != 0 {
		t.Fatalf("left: %q", got)
	}
	if _, total, err := f.Free(); err != nil || total <= 0 {
		t.Fatalf("free: %d, %v", total, err)
	}
}

func second[T any](_ T, err error) error { return err }

func conformEscape(t *testing.T, f FS) {
	put(t, f, "in", "x")
	for _, name := range []string{"../x", "a/../../x", "/etc/passwd", "a\xff/x"} {
		for op, err := range map[string]error{
			"create": second(f.Create(name)), "open": second(f.Open(name)), "read": second(f.OpenRead(name)),
			"rename from": f.Rename(name, "y"), "rename to": f.Rename("in", name), "remove": f.Remove(name),
			"remove all": f.RemoveAll(name), "mkdir": f.MkdirAll(name), "list": second(f.List(name)),
			"stat": second(f.Stat(name)), "sync": f.SyncDir(name), "lock": second(f.Lock(name)),
		} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s %q: %v, want fs.ErrInvalid", op, name, err)
			}
		}
	}
	if got := get(t, f, "./none/../in"); got != "x" {
		t.Errorf("a name that stays inside: %q", got)
	}
}

func conformContent(t *testing.T, f FS) {
	h, err := f.Create("x")
	check(t, err)
	defer h.Close()
	_, err = h.WriteAt([]byte("world"), 6)
	check(t, err)
	_, err = h.WriteAt([]byte("hello"), 0)
	check(t, err)
	check(t, h.Datasync())
	h.StartWriteback(0, 11)
	if got := get(t, f, "x"); got != "hello\x00world" {
		t.Fatalf("%q", got)
	}
	p := make([]byte, 8)
	if n, err := h.ReadAt(p, 6); n != 5 || err != io.EOF {
		t.Fatalf("read over the end: %d, %v", n, err)
	}
	if n, err := h.ReadAt(p, 99); n != 0 || err != io.EOF {
		t.Fatalf("read past the end: %d, %v", n, err)
	}
	if n, err := h.ReadAt(p[:5], 6); n != 5 || err != nil && err != io.EOF {
		t.Fatalf("read to the end: %d, %v", n, err)
	}
	h2, err := f.Open("x")
	check(t, err)
	defer h2.Close()
	_, err = h2.WriteAt([]byte("J"), 0)
	check(t, err)
	if got := get(t, f, "x"); got != "Jello\x00world" {
		t.Fatalf("two handles: %q", got)
	}
	put(t, f, "x", "short")
	if n, err := h.Size(); n != 5 || err != nil {
		t.Fatalf("created over: %d, %v", n, err)
	}
}

func conformWritev(t *testing.T, f FS) {
	h, err := f.Create("x")
	check(t, err)
	defer h.Close()
	var bufs [][]byte
	for i := range 2500 { // more than one system call takes
		bufs = append(bufs, bytes.Repeat([]byte{byte(i)}, i%7))
	}
	want := "ab" + string(slices.Concat(bufs...))
	_, err = h.WriteAt([]byte("ab"), 0)
	check(t, err)
	n, err := h.Writev(bufs, 2)
	if n != len(want)-2 || err != nil {
		t.Fatalf("writev: %d, %v", n, err)
	}
	if get(t, f, "x") != want {
		t.Fatal("content differs")
	}
	if n, err := h.Writev(nil, 0); n != 0 || err != nil {
		t.Fatalf("nothing: %d, %v", n, err)
	}
}

func conformTruncate(t *testing.T, f FS) {
	h, err := f.Create("x")
	check(t, err)
	defer h.Close()
	_, err = h.WriteAt([]byte("abcdef"), 0)
	check(t, err)
	check(t, h.Truncate(2))
	check(t, h.Truncate(4))
	if got := get(t, f, "x"); got != "ab\x00\x00" {
		t.Fatalf("%q", got)
	}
	_, err = h.WriteAt([]byte("z"), 5)
	check(t, err)
	if got := get(t, f, "x"); got != "ab\x00\x00\x00z" {
		t.Fatalf("%q", got)
	}
}

func conformUnlinked(t *testing.T, f FS) {
	put(t, f, "x", "still here")
	h, err := f.OpenRead("x")
	check(t, err)
	defer h.Close()
	check(t, f.Remove("x"))
	p := make([]byte, 10)
	if _, err := h.ReadAt(p, 0); err != nil && err != io.EOF || string(p) != "still here" {
		t.Fatalf("%q, %v", p, err)
	}
}

func conformLock(t *testing.T, f FS) {
	unlock, err := f.Lock("lock")
	check(t, err)
	if _, err := f.Lock("lock"); !errors.Is(err, ErrLocked) {
		t.Fatalf("second holder: %v", err)
	}
	check(t, unlock())
	unlock, err = f.Lock("lock")
	check(t, err)
	check(t, unlock())
}

func conformClosed(t *testing.T, f FS) {
	h, err := f.Create("x")
	check(t, err)
	check(t, h.Close())
	for op, err := range map[string]error{
		"write": second(h.WriteAt([]byte("x"), 0)), "writev": second(h.Writev([][]byte{{1}, {2}}, 0)),
		"read": second(h.ReadAt(make([]byte, 1), 0)), "truncate": h.Truncate(3), "size": second(h.Size()),
		"sync": h.Sync(), "datasync": h.Datasync(), "close": h.Close(),
	} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: %v, want fs.ErrClosed", op, err)
		}
	}
}

func conformReadOnly(t *testing.T, f FS) {
	put(t, f, "x", "x")
	h, err := f.OpenRead("x")
	check(t, err)
	defer h.Close()
	if _, err := h.WriteAt([]byte("y"), 0); err == nil {
		t.Error("wrote through a handle for reading")
	}
	if err := h.Truncate(0); err == nil {
		t.Error("truncated through a handle for reading")
	}
}

func conformConcurrent(t *testing.T, f FS) {
	h, err := f.Create("x")
	check(t, err)
	defer h.Close()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				p := bytes.Repeat([]byte{byte(i + 1)}, 100)
				off := int64(j*8+i) * 100
				if _, err := h.WriteAt(p, off); err != nil {
					t.Error(err)
				}
				q := make([]byte, 100)
				if _, err := h.ReadAt(q, off); err != nil && err != io.EOF || !bytes.Equal(p, q) {
					t.Errorf("read back: %v", err)
				}
			}
			if err := h.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestOSRefusesLinksOut(t *testing.T) {
	dir := t.TempDir()
	f, err := OS(filepath.Join(dir, "root"))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o600))
	if err := os.Symlink(filepath.Join(dir, "secret"), filepath.Join(dir, "root", "link")); err != nil {
		t.Skip(err)
	}
	if _, err := f.OpenRead("link"); err == nil {
		t.Fatal("followed a link out of the root")
	}
}

func TestOSLockIsKeptFromOtherInstances(t *testing.T) {
	dir := t.TempDir()
	a, err := OS(dir)
	check(t, err)
	b, err := OS(dir)
	check(t, err)
	unlock, err := a.Lock("lock")
	check(t, err)
	defer unlock()
	if _, err := b.Lock("lock"); !errors.Is(err, ErrLocked) {
		t.Fatalf("%v, want ErrLocked", err)
	}
}
