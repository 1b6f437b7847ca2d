package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
	"github.com/millrace-io/millrace/internal/vfs"
)

// Report is what Check has found.
type Report struct {
	Format     int     `json:"format"` // of the checkpoint
	ClusterID  string  `json:"cluster_id"`
	Commit     uint64  `json:"commit"`      // of the checkpoint
	WALCommits int     `json:"wal_commits"` // behind it, to be replayed by the next start
	Topics     int     `json:"topics"`
	Partitions int     `json:"partitions"`
	Segments   int     `json:"segments"`
	Batches    int64   `json:"batches"`
	Records    int64   `json:"records"`
	Bytes      int64   `json:"bytes"`
	Damage     []Fault `json:"damage"` // what is lost unless it is mended
	Notes      []Fault `json:"notes"`  // what the next start, or the first use, puts right
}

// Fault is one thing that is not as it should be.
type Fault struct {
	Topic     string `json:"topic,omitempty"`
	Partition *int32 `json:"partition,omitempty"`
	From      *int64 `json:"from,omitempty"` // the first offset, and
	To        *int64 `json:"to,omitempty"`   // the first behind
	File      string `json:"file"`
	Byte      *int64 `json:"byte,omitempty"`
	What      string `json:"what"`
	Meaning   string `json:"meaning,omitempty"`
}

// CheckOptions say what Check looks at, and whom it tells how far it is.
type CheckOptions struct {
	Topic    string                  // only its segments, if it is set
	Progress func(done, total int64) // bytes of segments; may be nil
}

const (
	noStart   = "no node starts on this folder: restore the file, or the folder, from a backup"
	lostRange = "these records cannot be read; a node serves everything else, and answers reads of them with an error. Restore the file from a backup to mend it"
)

// Check reads everything that a log has on disk, verifies it, and changes nothing. The log must not be open.
func Check(ctx context.Context, fsys vfs.FS, o CheckOptions) (*Report, error) {
	c := &checking{ctx: ctx, o: o, report: &Report{Damage: []Fault{}, Notes: []Fault{}}}
	unlock, err := lockToLook(fsys)
	if err != nil {
		return nil, fmt.Errorf("check the log: %w", err)
	}
	defer unlock()
	c.Engine, err = offline(fsys)
	if err != nil {
		return nil, fmt.Errorf("check the log: %w", err)
	}
	if err := c.run(); err != nil {
		return nil, fmt.Errorf("check the log: %w", err)
	}
	return c.report, nil
}

// lockToLook keeps nodes away, where the folder can be written at all.
func lockToLook(fsys vfs.FS) (unlock func(), err error) {
	if _, err := fsys.Stat(checkpointName); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no log here: no %s: %w", checkpointName, err)
	}
	if _, err := fsys.Stat(LockName); err != nil {
		return func() {}, nil //nolint:nilerr // a copy, which no node has ever run on; one that starts now would make the file
	}
	release, err := fsys.Lock(LockName)
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("a node is running on it, and what its files say changes while they are read: %w", err)
	}
	if err != nil {
		return func() {}, nil //nolint:nilerr // on a medium that cannot be written nobody runs
	}
	return func() { _ = release() }, nil
}

// offline is an engine that only looks: nothing of it runs, and nothing it does reaches the disk.
func offline(fsys vfs.FS) (*Engine, error) {
	o, err := Options{FS: vfs.ReadOnly(fsys)}.withDefaults()
	if err != nil {
		return nil, err
	}
	return newEngine(o), nil
}

type checking struct {
	*Engine
	ctx         context.Context
	o           CheckOptions
	report      *Report
	done, total int64
}

func (c *checking) run() error {
	s, err := readCheckpoint(c.Engine.o.FS)
	if err == nil && s == nil {
		err = fs.ErrNotExist
	}
	switch {
	case errors.Is(err, ErrDamaged):
		c.lost(Fault{File: checkpointName, What: err.Error(), Meaning: noStart})
		return nil
	case err != nil:
		return err
	}
	c.report.Format, c.report.ClusterID, c.report.Commit = s.format, eventlog.TopicID(s.clusterID).String(), s.commit
	st := c.committer.state
	if err := st.load(s); err != nil {
		c.lost(Fault{File: checkpointName, What: err.Error(), Meaning: noStart})
		return nil //nolint:nilerr // as above
	}
	if err := c.wal(s); err != nil {
		return err
	}
	for i := range s.topics {
		for j := range s.topics[i].parts {
			c.total += s.topics[i].parts[j].state.Bytes
		}
	}
	for i := range s.topics {
		if err := c.topic(&s.topics[i]); err != nil {
			return err
		}
	}
	return c.debris()
}

func (c *checking) lost(f Fault) { c.report.Damage = append(c.report.Damage, f) }
func (c *checking) note(f Fault) { c.report.Notes = append(c.report.Notes, f) }

// wal verifies the frames behind the checkpoint, and takes what they say.
func (c *checking) wal(s *snapshot) error {
	frames, err := walSince(c.Engine.o, s)
	if err == nil {
		err = c.eachFrame(frames, s.salt, c.follow)
	}
	if errors.Is(err, ErrDamaged) {
		c.lost(Fault{File: walDir, What: err.Error(), Meaning: noStart})
		return nil
	}
	c.report.WALCommits = len(frames)
	if torn := c.counters.commit.TornBytes; torn > 0 {
		last := frames[len(frames)-1]
		c.note(Fault{File: last.file, Byte: &last.next, What: fmt.Sprintf("the last frame, of %d bytes, is not whole", torn),
			Meaning: "a commit was being written when the power went: nobody was told that it is durable, and the next start cuts it off. If no power went, it is damage: the last commit is lost"})
	}
	return err
}

// follow takes an entry of the WAL as a replay does, without the segments.
func (c *checking) follow(f *walFrame, en *entry, _ int64) error {
	st := c.committer.state
	st.commit = f.commit
	if en.kind != entryBatch {
		if err := st.step(en); err != nil {
			return fmt.Errorf("%w: %w", err, ErrDamaged)
		}
		return nil
	}
	p, err := st.partition(en.part)
	if err == nil && en.raw.Base() != p.head.end {
		err = fmt.Errorf("batch at offset %d of %v, which ends at %d", en.raw.Base(), en.part, p.head.end)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	st.batch(p, en.raw, f.time)
	return nil
}

func (c *checking) topic(t *topicSnapshot) error {
	now := c.committer.state.topics[t.id] // nil: deleted behind the checkpoint
	if now == nil || c.o.Topic != "" && c.o.Topic != t.name {
		return nil
	}
	c.report.Topics++
	for i := range t.parts {
		c.report.Partitions++
		if err := c.partition(t.name, now.head.parts[i], &t.parts[i]); err != nil {
			return fmt.Errorf("topic %q, partition %d: %w", t.name, i, err)
		}
	}
	return nil
}

func (c *checking) partition(name string, p *partition, ps *partSnapshot) error {
	at := func(f Fault) Fault {
		f.Topic, f.Partition = name, &p.part.Index
		return f
	}
	if ps.state.End < ps.end {
		c.lost(at(Fault{File: checkpointName, From: &ps.state.End, To: &ps.end, What: fmt.Sprintf("the segments end at %d, the log at %d", ps.state.End, ps.end),
			Meaning: noStart}))
	}
	for id, pr := range p.head.producers {
		if what := pr.wrong(p.head.end); what != "" {
			c.lost(at(Fault{File: checkpointName, What: fmt.Sprintf("what is remembered of producer %d: %s", id, what),
				Meaning: "a resend of that producer may be taken twice, or its next batch refused"}))
		}
	}
	began := c.done
	v := segment.Verification{
		Pace: func(n int64) error {
			c.done += n
			if c.o.Progress != nil {
				c.o.Progress(min(c.done, c.total), c.total)
			}
			return c.ctx.Err()
		},
		Damaged: func(d *segment.Damage) {
			meaning := lostRange
			if strings.Contains(d.Err.Error(), "no node starts") {
				meaning = noStart
			}
			c.lost(at(Fault{File: d.File, Byte: &d.Pos, From: &d.Offset, To: &d.Next, What: d.Err.Error(), Meaning: meaning}))
		},
		Wrong: func(file, what string) { c.note(at(Fault{File: file, What: what})) },
	}
	state := ps.state
	state.Start = max(state.Start, min(p.head.start, state.End))
	got, err := v.Run(c.Engine.o.FS, p.dir(), state)
	c.report.Segments += got.Segments
	c.report.Batches += got.Batches
	c.report.Records += got.Records
	c.report.Bytes += got.Bytes
	c.done = began + ps.state.Bytes
	return err
}

// wrong says what of a producer cannot be, in a log of that end.
func (p *producer) wrong(end int64) string {
	for i, s := range p.last[:p.n] {
		switch {
		case p.epoch < 0 || s.first < 0 || s.last < 0:
			return "an epoch or a sequence below 0"
		case s.base >= end:
			return fmt.Sprintf("a batch at offset %d, behind the end at %d", s.base, end)
		case i > 0 && s.base >= p.last[i-1].base:
			return fmt.Sprintf("batches at offsets %d and %d in the wrong order", s.base, p.last[i-1].base)
		case i > 0 && addSequence(s.last, 1) != p.last[i-1].first:
			return fmt.Sprintf("sequence %d follows %d", p.last[i-1].first, s.last)
		}
	}
	return ""
}

// debris names what belongs to no topic.
func (c *checking) debris() error {
	names, err := c.Engine.o.FS.List(topicsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	known := map[string]bool{}
	for id := range c.committer.state.topics {
		known[topicDir(id)] = true
	}
	slices.Sort(names)
	for _, n := range names {
		if dir := topicsDir + "/" + n; len(dir) == len(topicDir(eventlog.TopicID{})) && !known[dir] {
			c.note(Fault{File: dir, What: "it belongs to no topic: to a deleted one, or to one that never became durable; the next start removes it"})
		}
	}
	return nil
}
