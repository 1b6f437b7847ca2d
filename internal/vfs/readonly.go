package vfs

import "io/fs"

// ReadOnly returns fs as it is for who may only look: files are opened for reading, and whatever would change something is refused with
// fs.ErrPermission.
func ReadOnly(fs FS) FS { return readOnly{fs} }

type readOnly struct{ FS }

func refuse(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission}
}

func (r readOnly) Open(name string) (File, error)         { return r.OpenRead(name) }
func (r readOnly) Create(name string) (File, error)       { return nil, refuse("create", name) }
func (r readOnly) Rename(oldname, _ string) error         { return refuse("rename", oldname) }
func (r readOnly) Remove(name string) error               { return refuse("remove", name) }
func (r readOnly) RemoveAll(name string) error            { return refuse("remove", name) }
func (r readOnly) MkdirAll(name string) error             { return refuse("mkdir", name) }
func (r readOnly) SyncDir(dir string) error               { return refuse("sync", dir) }
func (r readOnly) Lock(name string) (func() error, error) { return nil, refuse("lock", name) }
