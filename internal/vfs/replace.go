package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrReplacing says that somebody else is changing the file, or was interrupted at it.
var ErrReplacing = errors.New("is being changed")

// Replace puts what edit makes of a small file of the user's in its place, as a whole: after a crash there is the old one or the new one, and its owner
// stays its owner. A file that is not there is nil for edit. While it lasts nobody else gets to change the file by Replace; what
// keeps them away is the new one's name, which also stands in the way after a crash. A link is followed.
func Replace(name string, edit func(old []byte) ([]byte, error)) error {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	fresh := name + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w: %s is there; if nobody is at work, remove that file", name, ErrReplacing, fresh)
	}
	if err != nil {
		return fmt.Errorf("change %s: %w", name, err)
	}
	if err := fill(f, name, edit); err != nil {
		f.Close()
		os.Remove(fresh) //nolint:errcheck // it is empty or half a file: whoever comes next says that it is there
		return err
	}
	if err := os.Rename(fresh, name); err != nil {
		os.Remove(fresh) //nolint:errcheck // as above
		return fmt.Errorf("change %s: %w", name, err)
	}
	if d, err := os.Open(filepath.Dir(name)); err == nil {
		d.Sync() //nolint:errcheck // not every system syncs folders; the file is in place
		d.Close()
	}
	return nil
}

// fill writes the new file, and closes it.
func fill(f *os.File, name string, edit func(old []byte) ([]byte, error)) error {
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := edit(old)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = keepOwner(f, name)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
