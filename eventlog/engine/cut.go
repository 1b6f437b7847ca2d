package engine

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/millrace-io/millrace/eventlog/engine/segment"
)

// Cut is the log as it was at one commit: a checkpoint, and the files it speaks of. It does not hold up commits. As long as it is not closed
// nothing is compacted, and nothing is deleted that retention or somebody wants deleted: the disk has to have room for that.
type Cut struct {
	Commit     uint64
	ClusterID  string
	Time       int64 // the node's clock, milliseconds since 1970
	Checkpoint []byte
	Parts      []CutPart

	e *Engine
}

// CutPart is a segment of a Cut. Modified, in nanoseconds since 1970, tells one content of that name and size from another.
type CutPart struct {
	segment.Part
	Modified int64
}

// Cut takes one, which the caller closes. It waits for maintenance that is under way, and for another Cut.
func (e *Engine) Cut(ctx context.Context) (*Cut, error) {
	if err := e.usable(ctx); err != nil {
		return nil, fmt.Errorf("cut: %w", err)
	}
	e.maintainMu.Lock()
	e.deleted.keep(true)
	c := &Cut{e: e}
	if err := c.take(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("cut: %w", err)
	}
	return c, nil
}

// Close lets compaction and deletion go on.
func (c *Cut) Close() {
	c.e.deleted.keep(false)
	c.e.maintainMu.Unlock()
}

func (c *Cut) take(ctx context.Context) error {
	e := c.e
	s, err := e.takeSnapshot()
	if err != nil {
		return err
	}
	if err := e.applyThrough(s.commit); err != nil {
		return err
	}
	for i := range s.topics {
		for j := range s.topics[i].parts {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := c.partition(&s.topics[i].parts[j]); err != nil {
				return fmt.Errorf("topic %q, partition %d: %w", s.topics[i].name, j, err)
			}
		}
	}
	c.Commit, c.ClusterID, c.Time, c.Checkpoint = s.commit, e.ClusterID(), s.time, s.encode()
	return nil
}

func (c *Cut) partition(ps *partSnapshot) error {
	if ps.end == 0 {
		return nil
	}
	log, err := c.e.segmentsOf(ps.p)
	if err != nil {
		return err
	}
	st, parts, err := log.CutAt(ps.end)
	if err != nil {
		c.e.noteDamage(ps.p, err)
		return err
	}
	ps.state = st
	for _, p := range parts {
		fi, err := c.e.o.FS.Stat(p.Name)
		if err != nil {
			return err
		}
		c.Parts = append(c.Parts, CutPart{p, fi.ModTime().UnixNano()})
	}
	return nil
}

// Copy writes a part's bytes.
func (c *Cut) Copy(p CutPart, w io.Writer) error {
	if err := p.CopyTo(c.e.o.FS, w); err != nil {
		return fmt.Errorf("copy %s: %w", p.Name, err)
	}
	return nil
}

// Restore makes a log of a cut in an empty folder whose segments have been put in place already: it writes the checkpoint, without which the
// folder is no log. Segments that are left out, by the names of their files, are damage of the log, which goes on behind them.
func Restore(o Options, checkpoint []byte, left map[string]bool) error {
	s, err := decodeCheckpoint(checkpoint)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	dirs := []string{topicsDir, "."}
	for i := range s.topics {
		t := &s.topics[i]
		for j := range t.parts {
			st := &t.parts[j].state
			dir := topicDir(t.id) + "/" + strconv.Itoa(j)
			if st.Bytes > 0 {
				dirs = append(dirs, dir, topicDir(t.id))
			}
			if left[segment.FileName(dir, st.Base)] { // there is nothing to append to: the next batch begins a segment
				st.Base, st.Size, st.Entries = st.End, 0, 0
			}
		}
	}
	if err := o.FS.MkdirAll(topicsDir); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	for _, dir := range dirs {
		if err := o.FS.MkdirAll(dir); err != nil { // of nothing but what is left out there is no folder yet
			return fmt.Errorf("restore: %w", err)
		}
		if err := o.FS.SyncDir(dir); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	if err := replaceFile(o.FS, checkpointTemp, checkpointName, s.encode()); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}
