package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	set := func(want, text string) error {
		return Replace(name, func(old []byte) ([]byte, error) {
			if string(old) != want || old == nil && want != "" {
				t.Errorf("edit is given %q, want %q", old, want)
			}
			return []byte(text), nil
		})
	}
	if err := set("", "one"); err != nil {
		t.Fatal(err)
	}
	if i, err := os.Stat(name); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", i, err)
	}
	if err := set("one", "two"); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("no")
	if err := Replace(name, func([]byte) ([]byte, error) { return []byte("three"), failed }); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if err := Replace(name, func([]byte) ([]byte, error) {
		if err := set("two", "four"); !errors.Is(err, ErrReplacing) {
			t.Errorf("two at once: %v", err)
		}
		return nil, failed
	}); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "two" {
		t.Errorf("%q %v", b, err)
	}
	if names, _ := filepath.Glob(name + "*"); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if err := Replace(filepath.Join(dir, "none", "f"), func([]byte) ([]byte, error) { return nil, nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(name, link); err != nil {
		t.Skip(err)
	}
	if err := Replace(link, func([]byte) ([]byte, error) { return []byte("linked"), nil }); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(name); string(b) != "linked" {
		t.Errorf("what the link leads to has %q", b)
	}
	if i, err := os.Lstat(link); err != nil || i.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is none any more: %v %v", i, err)
	}
}
