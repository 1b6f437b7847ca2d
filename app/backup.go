package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/millrace-io/millrace/backup"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
)

type (
	BackupOptions  = backup.Options
	BackupResult   = backup.Result
	BackupInfo     = backup.Info
	BackupSource   = backup.Source
	RestoreOptions = backup.RestoreOptions
)

// backup is what the console sends.
func (n *Node) backup(ctx context.Context, since int64, w io.Writer) error {
	return backup.Send(ctx, n.engine, since, w)
}

// Backup adds a cut to the backup in a folder, which is made if it is not there.
func Backup(dir string, o BackupOptions, source BackupSource) (*BackupResult, error) {
	fsys, err := vfs.OS(dir)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	r, err := backup.Take(fsys, o, source)
	if err != nil {
		return nil, fmt.Errorf("backup to %s: %w", dir, err)
	}
	return r, nil
}

// StoppedNode is the source of a backup of a node that does not run. The caller closes it.
func StoppedNode(ctx context.Context, data string) (source BackupSource, closer func() error, err error) {
	fsys, err := dataFolder(data)
	if err != nil {
		return nil, nil, err
	}
	if _, err := fsys.Stat(engine.CheckpointName); err != nil {
		return nil, nil, fmt.Errorf("data folder %s: there is no log here", data)
	}
	e, err := engine.Open(engine.Options{FS: fsys, MaintainEvery: -1})
	if errors.Is(err, vfs.ErrLocked) {
		return nil, nil, fmt.Errorf("data folder %s: a node is running on it: back it up through --http", data)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("data folder %s: %w", data, err)
	}
	return func(since int64) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(backup.Send(ctx, e, since, w)) }() // ends with the stream, which Take closes
		return r, nil
	}, e.Close, nil
}

// backupFolder is the folder of a backup that is there.
func backupFolder(dir string) (vfs.FS, error) {
	fi, err := os.Stat(filepath.Join(dir, "cuts"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
		return nil, fmt.Errorf("%s is no backup: it has no folder cuts", dir)
	}
	if err != nil {
		return nil, err
	}
	return vfs.OS(dir)
}

// Backups lists the cuts in a folder.
func Backups(dir string) ([]BackupInfo, error) {
	fsys, err := backupFolder(dir)
	if err != nil {
		return nil, err
	}
	return backup.List(fsys)
}

// Restore makes a data folder of a cut, or only verifies it.
func Restore(ctx context.Context, dir, data string, o RestoreOptions) (*BackupInfo, error) {
	from, err := backupFolder(dir)
	if err != nil {
		return nil, err
	}
	to := vfs.FS(vfs.NewMem())
	if !o.Check {
		if to, err = vfs.OS(data); err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
	}
	info, err := backup.Restore(ctx, from, to, o)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: name a new folder with --data; a log is never written over", err)
	}
	return info, err
}
