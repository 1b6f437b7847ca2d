package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
	"github.com/millrace-io/millrace/internal/vfs"
)

// Info is a cut of a backup, for people.
type Info struct {
	Commit    uint64 `json:"commit"`
	Time      int64  `json:"time"` // milliseconds since 1970
	ClusterID string `json:"cluster_id"`
	Segments  int    `json:"segments"`
	Bytes     int64  `json:"bytes"`
	Left      int    `json:"left"` // segments that were damaged when it was taken, and are not in it
}

func (m *Manifest) info() Info {
	i := Info{Commit: m.Commit, Time: m.Time, ClusterID: m.ClusterID, Segments: len(m.Parts)}
	for _, p := range m.Parts {
		if p.Left {
			i.Left++
			continue
		}
		i.Bytes += p.Size
	}
	return i
}

// List describes the cuts of a backup, oldest first.
func List(fsys vfs.FS) ([]Info, error) {
	names, err := list(fsys)
	if err != nil {
		return nil, fmt.Errorf("list the backup: %w", err)
	}
	out := []Info{}
	for _, name := range names {
		m, err := readManifest(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("list the backup: %w", err)
		}
		out = append(out, m.info())
	}
	return out, nil
}

// RestoreOptions say which cut is restored.
type RestoreOptions struct {
	Commit   uint64                  // 0: the newest
	Check    bool                    // only verify it
	Progress func(done, total int64) // bytes; may be nil
}

// Restore puts a cut into an empty folder, and verifies every byte of it. The folder is a log only once all of it is there and right.
func Restore(ctx context.Context, from, to vfs.FS, o RestoreOptions) (*Info, error) {
	m, err := choose(from, o.Commit)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if !o.Check {
		names, err := to.List(".")
		if err != nil {
			return nil, fmt.Errorf("restore: %w", err)
		}
		if len(names) > 0 {
			return nil, fmt.Errorf("restore: the folder is not empty, it has %s: %w", names[0], fs.ErrExist)
		}
	}
	info := m.info()
	done, left := int64(0), map[string]bool{}
	for i := range m.Parts {
		p := &m.Parts[i]
		if p.Left {
			left[p.Name] = true
			continue
		}
		r := &restoring{ctx: ctx, from: from, to: to, p: p, check: o.Check, wrote: func(n int64) {
			if o.Progress != nil {
				o.Progress(done+n, info.Bytes)
			}
		}}
		if err := r.run(); err != nil {
			return nil, fmt.Errorf("restore: segment %s, %s/%s of the backup: %w", p.Name, segmentsDir, p.SHA256, err)
		}
		done += p.Size
	}
	if !o.Check {
		if err := engine.Restore(engine.Options{FS: to}, m.Checkpoint, left); err != nil {
			return nil, err
		}
	}
	return &info, nil
}

func choose(from vfs.FS, commit uint64) (*Manifest, error) {
	names, err := list(from)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return nil, fmt.Errorf("%w: there is no %s folder with cuts in it", ErrNone, cutsDir)
	}
	if err != nil {
		return nil, err
	}
	if commit == 0 {
		return readManifest(from, names[len(names)-1])
	}
	m, err := readManifest(from, fmt.Sprintf("%020d%s", commit, cutSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no cut at commit %d", ErrNone, commit)
	}
	return m, err
}

// restoring is one segment on its way back.
type restoring struct {
	ctx      context.Context
	from, to vfs.FS
	p        *Part
	check    bool
	wrote    func(n int64)
}

func (r *restoring) run() error {
	if raw, err := hex.DecodeString(r.p.SHA256); err != nil || len(raw) != sha256.Size {
		return fmt.Errorf("%w: %q is no hash", ErrDamaged, r.p.SHA256)
	}
	name := segmentsDir + "/" + r.p.SHA256
	if err := r.verify(name); err != nil || r.check {
		return err
	}
	if err := r.to.MkdirAll(path.Dir(r.p.Name)); err != nil {
		return err
	}
	h, err := r.to.Create(r.p.Name)
	if err != nil {
		return err
	}
	err = r.copy(name, &writer{h: h, sum: sha256.New(), wrote: r.wrote})
	if err == nil {
		err = h.Sync()
	}
	return errors.Join(err, h.Close())
}

// verify finds out whether the batches are whole; copy, whether the bytes are those that were written.
func (r *restoring) verify(name string) error {
	var damage *segment.Damage
	if err := segment.VerifyPart(r.from, name, r.p.part(), func(d *segment.Damage) { damage = d }); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: it is missing", ErrDamaged)
		}
		return err
	}
	if damage != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, damage)
	}
	if !r.check {
		return nil
	}
	return r.copy(name, &writer{h: nowhere{}, sum: sha256.New(), wrote: r.wrote})
}

func (r *restoring) copy(name string, w *writer) error {
	h, err := r.from.OpenRead(name)
	if err != nil {
		return err
	}
	defer h.Close()
	size, err := h.Size()
	if err != nil {
		return err
	}
	for chunk := int64(1 << 20); w.at < size; {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, size-w.at)
		if _, err := io.Copy(struct{ io.Writer }{w}, io.NewSectionReader(h, w.at, n)); err != nil {
			return err
		}
	}
	if got := hex.EncodeToString(w.sum.Sum(nil)); got != r.p.SHA256 || size != r.p.Size {
		return fmt.Errorf("%w: %d bytes with the hash %s", ErrDamaged, size, got)
	}
	return nil
}

// nowhere is a file that takes what is written to it.
type nowhere struct{ vfs.File }

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
