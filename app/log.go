package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
)

// openLog opens the embedded log, or the cluster that the configuration names.
func (n *Node) openLog(ctx context.Context) error {
	if len(n.o.Config.Log.Kafka) > 0 {
		return n.openCluster(ctx)
	}
	return n.openEngine()
}

func (n *Node) openEngine() error {
	c := &n.o.Config.Log
	var err error
	fsys := n.o.Files
	if fsys == nil {
		if fsys, err = vfs.OS(c.Data); err != nil {
			return n.dataError(err)
		}
	}
	if d := n.o.Test.DatasyncDelay; d > 0 {
		fsys = vfs.Faults(fsys, vfs.Delay(d, vfs.OpDatasync))
	}
	retention := time.Duration(c.Retention)
	o := engine.Options{FS: fsys, Now: n.o.Now, Logger: n.o.Logger.With("part", "log"), DefaultPartitions: int32(c.Partitions),
		DefaultRetention: retention, ScrubEvery: time.Duration(c.Scrub), OpenFiles: n.budget.files, CheckpointEvery: n.o.Test.CheckpointEvery, CommitDelay: time.Duration(c.CommitDelay)}
	if o.MaxLogBytes, err = maxLogBytes(fsys, c.MaxBytes); err != nil {
		return n.dataError(err)
	}
	if n.o.tune.engine != nil {
		n.o.tune.engine(&o)
	}
	if n.engine, err = engine.Open(o); err != nil {
		return n.dataError(err)
	}
	n.log, n.now = eventlog.New(n.engine), n.engine.Now
	return nil
}

// maxLogBytes is the budget of all topics. A percentage is of what is free, with what the log has already. The usual percentage is
// left to the log, which remembers what was free when it was made.
func maxLogBytes(fsys vfs.FS, s config.Share) (int64, error) {
	if s.Percent == 0 {
		return int64(s.Bytes), nil
	}
	if s.Percent == config.Default().Log.MaxBytes.Percent {
		return 0, nil
	}
	free, _, err := fsys.Free()
	if err != nil {
		return 0, fmt.Errorf("ask for the free disk space: %w", err)
	}
	used, err := treeSize(fsys, ".")
	return (free + used) / 100 * int64(s.Percent), err
}

func treeSize(fsys vfs.FS, dir string) (sum int64, err error) {
	names, err := fsys.List(dir)
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		name = path.Join(dir, name)
		info, err := fsys.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return 0, fmt.Errorf("look at %s: %w", name, err)
		case info.IsDir():
			below, err := treeSize(fsys, name)
			if err != nil {
				return 0, err
			}
			sum += below
		default:
			sum += info.Size()
		}
	}
	return sum, nil
}

// dataError says what is wrong with the data folder, and what to do, in one line.
func (n *Node) dataError(err error) error {
	dir := n.o.Config.Log.Data
	var fix string
	switch {
	case errors.Is(err, vfs.ErrLocked):
		fix = "another millrace uses it: stop that one, or give this one a folder of its own with --data"
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		fix = "it cannot be written: change its owner, or choose another with --data"
	case errors.Is(err, syscall.ENOSPC):
		fix = "the disk is full: make room, and start again; nothing is lost"
	case errors.Is(err, engine.ErrNewer):
		fix = "run the newer version, or restore a backup"
	case errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrExist):
		fix = "it is not a folder: choose another with --data"
	default:
		return fmt.Errorf("data folder %s (log.data): %w", dir, err)
	}
	return fmt.Errorf("data folder %s (log.data): %s: %w", dir, fix, err)
}

func (n *Node) closeLog(ctx context.Context) error {
	if n.cluster != nil {
		defer context.AfterFunc(ctx, n.cluster.Hurry)()
	}
	return n.log.Close()
}

// DeleteData deletes a data folder, unless a node is running on it.
func DeleteData(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	fsys, err := vfs.OS(dir)
	if err != nil {
		return fmt.Errorf("delete data folder %s: %w", dir, err)
	}
	unlock, err := fsys.Lock(engine.LockName)
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("data folder %s: another millrace uses it: stop that one first", dir)
	}
	if err != nil {
		return fmt.Errorf("delete data folder %s: %w", dir, err)
	}
	if err := unlock(); err != nil { // some systems delete no file that is open
		return fmt.Errorf("delete data folder %s: %w", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("delete data folder: %w", err)
	}
	return nil
}

// clock is the system's, but never goes back while the program runs. (The embedded log's own does not across restarts either.)
type clock struct {
	system func() time.Time
	last   atomic.Int64
}

func newClock(system func() time.Time) *clock {
	if system == nil {
		system = time.Now
	}
	return &clock{system: system}
}

func (c *clock) now() int64 {
	for {
		last, t := c.last.Load(), c.system().UnixMilli()
		if t <= last {
			return last
		}
		if c.last.CompareAndSwap(last, t) {
			return t
		}
	}
}
