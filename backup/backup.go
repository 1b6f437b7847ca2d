// Package backup copies an embedded log to another folder and back: consistently, while a node runs, and only what has changed.
//
// A backup is a folder with one file per cut of the log, and the segments that the cuts are made of, each stored once, under the hash of its
// content:
//
//	cuts/COMMIT.cut      what the log was at a commit: the checkpoint and the list of segments, with a hash of itself
//	segments/SHA256      bytes of a segment
//	lock                 held while somebody writes
//
// A cut is written last, so an interrupted backup leaves segments that the next one uses, and nothing that could be restored by mistake. Every
// segment is verified when it is copied, batch by batch, and when it is restored: damage of the log is never taken for a copy of it. Keys,
// certificates and the configuration are not in it.
//
// The package starts no goroutines. What it reads from a backup may have been written by anybody: no name in it leads out of the folders.
package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
	"github.com/millrace-io/millrace/internal/vfs"
)

// Part is a segment of a cut.
type Part struct {
	Name     string `json:"name"` // its file in the log
	Base     int64  `json:"base"`
	Limit    int64  `json:"limit"` // offsets [Base, Limit)
	Size     int64  `json:"size"`
	Gaps     bool   `json:"gaps,omitempty"`
	Modified int64  `json:"modified"`         // nanoseconds since 1970: tells one content of that name and size from another
	SHA256   string `json:"sha256,omitempty"` // of its content
	Left     bool   `json:"left,omitempty"`   // it was damaged, and is not in the backup
}

// key is what makes a part the same as one that is there already.
func (p *Part) key() string { return fmt.Sprintf("%s|%d|%d", p.Name, p.Size, p.Modified) }

func (p *Part) part() segment.Part {
	return segment.Part{Name: p.Name, Base: p.Base, Limit: p.Limit, Size: p.Size, Gaps: p.Gaps}
}

// Manifest is one cut.
type Manifest struct {
	Format     int    `json:"format"`
	ClusterID  string `json:"cluster_id"`
	Commit     uint64 `json:"commit"`
	Time       int64  `json:"time"` // of the node at the commit, milliseconds since 1970
	Checkpoint []byte `json:"checkpoint"`
	Parts      []Part `json:"segments"`
}

const (
	manifestFormat = 1
	cutsDir        = "cuts"
	segmentsDir    = "segments"
	cutSuffix      = ".cut"
	tempName       = "incoming"
	lockName       = "lock"

	maxManifest = 256 << 20
)

var (
	// ErrDamaged says that a backup, or what was to be backed up, is not what it should be.
	ErrDamaged = errors.New("damaged")
	// ErrNone says that there is no such cut in a backup.
	ErrNone = errors.New("no such backup")
)

// partName is what the files of a log's segments are called.
var partName = regexp.MustCompile(`^topics/[0-9a-f]{32}/(0|[1-9][0-9]{0,5})/[0-9]{20}\.log$`)

func (m *Manifest) check() error {
	if m.Format > manifestFormat {
		return fmt.Errorf("backup format %d, this program reads up to %d: %w", m.Format, manifestFormat, engine.ErrNewer)
	}
	for i := range m.Parts {
		p := &m.Parts[i]
		if !partName.MatchString(p.Name) || p.Size < 0 || p.Size > math.MaxUint32 || p.Base < 0 || p.Limit <= p.Base {
			return fmt.Errorf("a segment %q of %d bytes: %w", p.Name, p.Size, ErrDamaged)
		}
	}
	return nil
}

// Send takes a cut of a log and writes it, but for segments that were last written before a time, in nanoseconds since 1970. The stream is a tar
// archive: the manifest, the segments, and a last entry that says that it is whole.
func Send(ctx context.Context, e *engine.Engine, since int64, w io.Writer) error {
	cut, err := e.Cut(ctx)
	if err != nil {
		return err
	}
	defer cut.Close()
	m := Manifest{Format: manifestFormat, ClusterID: cut.ClusterID, Commit: cut.Commit, Time: cut.Time, Checkpoint: cut.Checkpoint}
	for _, p := range cut.Parts {
		m.Parts = append(m.Parts, Part{Name: p.Name, Base: p.Base, Limit: p.Limit, Size: p.Size, Gaps: p.Gaps, Modified: p.Modified})
	}
	b, err := json.Marshal(&m)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	put := func(name string, size int64, write func(io.Writer) error) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600}); err != nil {
			return err
		}
		return write(t)
	}
	if err := put("manifest", int64(len(b)), func(w io.Writer) error { _, err := w.Write(b); return err }); err != nil {
		return err
	}
	for _, p := range cut.Parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.Modified < since {
			continue
		}
		if err := put(p.Name, p.Size, func(w io.Writer) error { return cut.Copy(p, w) }); err != nil {
			return err
		}
	}
	if err := put("end", 0, func(io.Writer) error { return nil }); err != nil {
		return err
	}
	return t.Close()
}

// Options are how a backup is taken.
type Options struct {
	AllowDamaged bool                    // leave out segments that are damaged, and say so
	Keep         int                     // how many cuts to keep; 0: all
	Progress     func(done, total int64) // bytes; may be nil
}

// Result is what a backup has done.
type Result struct {
	Commit   uint64   `json:"commit"`
	Time     int64    `json:"time"` // milliseconds since 1970
	Segments int      `json:"segments"`
	Bytes    int64    `json:"bytes"`   // of all segments
	Copied   int64    `json:"copied"`  // of those that were copied
	Damaged  []string `json:"damaged"` // segments that are left out
	Removed  int      `json:"removed"` // older cuts
}

// Source gives the stream that Send writes.
type Source func(since int64) (io.ReadCloser, error)

// Take adds a cut to a backup.
func Take(fsys vfs.FS, o Options, source Source) (*Result, error) {
	unlock, err := fsys.Lock(lockName)
	if err != nil {
		return nil, fmt.Errorf("backup: somebody else writes it: %w", err)
	}
	defer unlock() //nolint:errcheck // it is only a lock
	t := &taking{fs: fsys, o: o, known: map[string]*Part{}}
	since, err := t.prepare()
	if err == nil {
		err = t.receive(source, since)
	}
	if errors.Is(err, errMissing) { // what was there before is not any more, or a clock went back: all of it, then
		err = t.receive(source, math.MinInt64)
	}
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return &t.result, nil
}

type taking struct {
	fs     vfs.FS
	o      Options
	known  map[string]*Part // of the last cuts, by key
	last   *Manifest
	m      Manifest
	result Result
}

// prepare finds out what is there already: all of the last cut's segments that were written before since.
func (t *taking) prepare() (since int64, err error) {
	since = math.MinInt64
	for _, dir := range []string{cutsDir, segmentsDir} {
		if err := vfs.MkdirDurable(t.fs, dir); err != nil {
			return 0, err
		}
	}
	names, err := list(t.fs)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if t.last, err = readManifest(t.fs, name); err != nil {
			return 0, err
		}
		for i := range t.last.Parts {
			p := &t.last.Parts[i]
			since = max(since, p.Modified)
			if !p.Left && t.there(p) {
				t.known[p.key()] = p
			}
		}
	}
	return since, nil
}

func (t *taking) there(p *Part) bool {
	fi, err := t.fs.Stat(segmentsDir + "/" + p.SHA256)
	return err == nil && fi.Size() == p.Size
}

// errMissing says that a segment did not come that is not there.
var errMissing = errors.New("a segment is missing")

// receive takes a stream.
func (t *taking) receive(source Source, since int64) error {
	stream, err := source(since)
	if err != nil {
		return err
	}
	defer stream.Close()
	r := tar.NewReader(stream)
	h, err := r.Next()
	if err != nil || h.Name != "manifest" || h.Size > maxManifest {
		return fmt.Errorf("what comes is no backup: %w", errors.Join(err, ErrDamaged))
	}
	t.m = Manifest{}
	if err := json.NewDecoder(io.LimitReader(r, h.Size)).Decode(&t.m); err != nil {
		return fmt.Errorf("the list of segments: %w", err)
	}
	if err := t.m.check(); err != nil {
		return err
	}
	if t.last != nil && t.last.ClusterID != t.m.ClusterID {
		return fmt.Errorf("the folder has backups of another log, %s, and this one is %s: use a folder of its own", t.last.ClusterID, t.m.ClusterID)
	}
	t.result = Result{Commit: t.m.Commit, Time: t.m.Time, Segments: len(t.m.Parts), Damaged: []string{}}
	byName := map[string]*Part{}
	for i := range t.m.Parts {
		p := &t.m.Parts[i]
		t.result.Bytes += p.Size
		byName[p.Name] = p
		if old := t.known[p.key()]; old != nil {
			p.SHA256 = old.SHA256
		}
	}
	for {
		h, err := r.Next()
		if err != nil {
			return fmt.Errorf("the stream ends too soon: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
		if h.Name == "end" {
			return t.finish()
		}
		p := byName[h.Name]
		if p == nil || h.Size != p.Size {
			return fmt.Errorf("%q of %d bytes comes, which is not in the list: %w", h.Name, h.Size, ErrDamaged)
		}
		if p.SHA256 == "" && !p.Left {
			if err := t.segment(r, p); err != nil {
				return err
			}
		}
	}
}

// segment takes a segment of the stream: into a file of its own, verified, under the hash of its content.
func (t *taking) segment(r io.Reader, p *Part) error {
	sum, err := t.write(r)
	if err != nil {
		return fmt.Errorf("segment %s: %w", p.Name, err)
	}
	p.SHA256 = sum
	var damage *segment.Damage
	if err := segment.VerifyPart(t.fs, tempName, p.part(), func(d *segment.Damage) { damage = d }); err != nil {
		return fmt.Errorf("segment %s: %w", p.Name, err)
	}
	t.result.Copied += p.Size
	switch {
	case damage == nil:
		return t.fs.Rename(tempName, segmentsDir+"/"+sum)
	case !t.o.AllowDamaged:
		return fmt.Errorf("segment %s is %w at offsets %d to %d (%w): restore it from an older backup (node stopped), or leave it out with --allow-damaged", p.Name,
			ErrDamaged, damage.Offset, damage.Next-1, damage.Err)
	}
	t.result.Damaged = append(t.result.Damaged, p.Name)
	p.SHA256, p.Left = "", true
	return nil
}

// write writes what comes to a file, durably, and returns its hash.
func (t *taking) write(r io.Reader) (sum string, err error) {
	h, err := t.fs.Create(tempName)
	if err != nil {
		return "", err
	}
	w := &writer{h: h, sum: sha256.New(), wrote: func(n int64) {
		if t.o.Progress != nil {
			t.o.Progress(min(t.result.Copied+n, t.result.Bytes), t.result.Bytes)
		}
	}}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 1<<20))
	if err == nil {
		err = h.Sync()
	}
	if err := errors.Join(err, h.Close()); err != nil {
		return "", err
	}
	return hex.EncodeToString(w.sum.Sum(nil)), nil
}

// writer writes to the end of a file.
type writer struct {
	h     vfs.File
	at    int64
	sum   hash.Hash
	wrote func(n int64)
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.h.WriteAt(p, w.at)
	w.at += int64(n)
	w.sum.Write(p[:n])
	w.wrote(w.at)
	return n, err
}

// finish makes the cut one that can be restored, and removes older ones.
func (t *taking) finish() error {
	for _, p := range t.m.Parts {
		if p.SHA256 == "" && !p.Left {
			return fmt.Errorf("%w: %s", errMissing, p.Name)
		}
	}
	if err := t.fs.SyncDir(segmentsDir); err != nil {
		return err
	}
	b, err := json.Marshal(&t.m)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	b = append([]byte(hex.EncodeToString(sum[:])+"\n"), b...)
	name := fmt.Sprintf("%s/%020d%s", cutsDir, t.m.Commit, cutSuffix)
	if err := replace(t.fs, name, b); err != nil {
		return err
	}
	if t.o.Keep > 0 {
		t.result.Removed, err = Prune(t.fs, t.o.Keep)
	}
	return err
}

func replace(fsys vfs.FS, name string, b []byte) error {
	h, err := fsys.Create(name + ".tmp")
	if err != nil {
		return err
	}
	_, err = h.WriteAt(b, 0)
	if err == nil {
		err = h.Sync()
	}
	if err := errors.Join(err, h.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(name+".tmp", name); err != nil {
		return err
	}
	return fsys.SyncDir(cutsDir)
}

// list is the names of the cuts, oldest first.
func list(fsys vfs.FS) ([]string, error) {
	names, err := fsys.List(cutsDir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, cutSuffix) })
	slices.Sort(names)
	return names, nil
}

func readManifest(fsys vfs.FS, name string) (*Manifest, error) {
	b, err := readFile(fsys, cutsDir+"/"+name)
	if err != nil {
		return nil, err
	}
	sum, body, ok := bytes.Cut(b, []byte("\n"))
	want := sha256.Sum256(body)
	if !ok || string(sum) != hex.EncodeToString(want[:]) {
		return nil, fmt.Errorf("%s/%s: %w: it is not what was written", cutsDir, name, ErrDamaged)
	}
	m := &Manifest{}
	if err := json.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("%s/%s: %w: %w", cutsDir, name, ErrDamaged, err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%s/%s: %w", cutsDir, name, err)
	}
	return m, nil
}

func readFile(fsys vfs.FS, name string) ([]byte, error) {
	h, err := fsys.OpenRead(name)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	size, err := h.Size()
	if err != nil {
		return nil, err
	}
	if size > maxManifest {
		return nil, fmt.Errorf("%s: %d bytes: %w", name, size, ErrDamaged)
	}
	b := make([]byte, size)
	if n, err := h.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("read %s: %w", name, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return b, nil
}

// Prune removes all cuts but the newest ones, and the segments that no cut has. A crash leaves segments too many, which the next one removes.
func Prune(fsys vfs.FS, keep int) (removed int, err error) {
	names, err := list(fsys)
	if err != nil {
		return 0, err
	}
	used := map[string]bool{}
	for i, name := range names {
		if i < len(names)-keep {
			if err := fsys.Remove(cutsDir + "/" + name); err != nil {
				return removed, err
			}
			removed++
			continue
		}
		m, err := readManifest(fsys, name)
		if err != nil {
			return removed, err
		}
		for _, p := range m.Parts {
			used[p.SHA256] = true
		}
	}
	if err := fsys.SyncDir(cutsDir); err != nil {
		return removed, err
	}
	segments, err := fsys.List(segmentsDir)
	if err != nil {
		return removed, err
	}
	for _, name := range segments {
		if used[name] {
			continue
		}
		if err := fsys.Remove(segmentsDir + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
	}
	return removed, nil
}
