package engine

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// recover brings the log to the last whole commit: it loads the checkpoint, replays the WAL from there into the segments,
// makes them durable, writes a checkpoint, and starts a fresh WAL. Nothing is published before, and nothing the old checkpoint
// or the WAL says is touched until the new checkpoint has taken its place, so a crash on the way changes nothing.
func (e *Engine) recover() error {
	began := time.Now()
	s, err := e.loadCheckpoint()
	if err != nil {
		return err
	}
	e.clusterID, e.firstBudget, e.maxLog = s.clusterID, s.maxLog, s.maxLog
	if e.o.MaxLogBytes > 0 {
		e.maxLog = e.o.MaxLogBytes
	}
	st := e.committer.state
	if err := st.load(s); err != nil {
		return fmt.Errorf("%s: %w", checkpointName, err)
	}
	for _, t := range st.topics {
		e.showTopic(t)
	}
	frames, err := walSince(e.o, s)
	if err != nil {
		return err
	}
	if err := e.replay(frames, s.salt); err != nil {
		return err
	}
	if err := e.settle(s); err != nil {
		return err
	}
	e.clock.last.Store(max(e.clock.last.Load(), st.time))
	e.counters.commit.RecoveredCommits = uint64(len(frames))
	e.counters.commit.RecoveryTime = time.Since(began)
	if len(frames) > 0 {
		e.o.Logger.Info("log recovered", "commits", len(frames), "batches", e.counters.commit.RecoveredBatches,
			"torn_bytes", e.counters.commit.TornBytes, "took", time.Since(began))
	}
	return nil
}

// loadCheckpoint reads the checkpoint, or makes the first one in an empty directory.
func (e *Engine) loadCheckpoint() (*snapshot, error) {
	s, err := readCheckpoint(e.o.FS)
	if s != nil || err != nil {
		return s, err
	}
	names, err := e.o.FS.List(".")
	if err != nil {
		return nil, fmt.Errorf("list the data directory: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		return n == LockName || n == checkpointTemp || n == "lost+found"
	})
	if len(names) > 0 {
		return nil, fmt.Errorf("the data directory has no %s but has %s: it belongs to something else, or the checkpoint was lost; "+
			"use an empty directory, or restore it: %w", checkpointName, strings.Join(names[:min(3, len(names))], ", "), eventlog.ErrInvalid)
	}
	if s, err = e.firstSnapshot(); err != nil {
		return nil, err
	}
	return s, writeCheckpoint(e.o.FS, s)
}

// budgetShare is how much of what is free at first start the log may take, in percent.
const budgetShare = 80

func (e *Engine) firstSnapshot() (*snapshot, error) {
	s := &snapshot{time: e.Now()}
	if _, err := io.ReadFull(e.o.Rand, s.clusterID[:]); err != nil {
		return nil, fmt.Errorf("draw a cluster id: %w", err)
	}
	free, _, err := e.o.FS.Free()
	if err != nil {
		return nil, fmt.Errorf("ask for the free disk space: %w", err)
	}
	s.maxLog = free / 100 * budgetShare
	return s, nil
}

// load takes over what a checkpoint says.
func (s *state) load(snap *snapshot) error {
	s.commit, s.time, s.nextID = snap.commit, snap.time, snap.nextID
	for i := range snap.topics {
		ts := &snap.topics[i]
		create := entry{kind: entryCreate, part: eventlog.Part{Topic: ts.id}, name: ts.name, count: int32(len(ts.parts)), configs: ts.configs}
		if err := s.create(&create); err != nil {
			return fmt.Errorf("%w: %w", err, ErrDamaged)
		}
		for j, p := range s.topics[ts.id].head.parts {
			if err := p.load(&ts.parts[j]); err != nil {
				return fmt.Errorf("partition %v: %w: %w", p.part, err, ErrDamaged)
			}
		}
	}
	return nil
}

func (p *partition) load(ps *partSnapshot) error {
	if ps.start < 0 || ps.end < ps.start || ps.claim < 0 {
		return fmt.Errorf("start %d, end %d, claim %d", ps.start, ps.end, ps.claim)
	}
	p.head.start, p.head.end, p.head.claim = ps.start, ps.end, ps.claim
	p.start.Store(ps.start)
	p.high.Store(ps.end)
	p.segments.at = ps.state
	p.safe.Store(ps.state.End)
	p.applied = ps.end
	r := &reader{b: ps.producers}
	for len(r.b) > 0 {
		id, pr := readProducer(r)
		if p.head.producers == nil {
			p.head.producers = map[int64]*producer{}
		}
		p.head.producers[id] = pr
	}
	if err := r.end(); err != nil {
		return err
	}
	if len(ps.transactions) > 0 {
		r = &reader{b: ps.transactions}
		p.head.txns = readTransactions(r)
	}
	p.showStable(ps.end, ps.start)
	return r.end()
}

// settle starts over, now that what was replayed is durable where it belongs: a checkpoint with a new salt, so that nothing in
// the old WAL counts any more, then a fresh WAL.
func (e *Engine) settle(old *snapshot) error {
	for _, t := range e.committer.state.topics {
		for _, p := range t.head.parts {
			if end := p.segments.end(); end != p.head.end {
				return fmt.Errorf("the segments of %v (topic %q) end at %d, the log at %d: %w", p.part, t.name, end, p.head.end, ErrDamaged)
			}
		}
	}
	if err := e.o.FS.MkdirAll(topicsDir); err != nil {
		return fmt.Errorf("make %s: %w", topicsDir, err)
	}
	if err := e.o.FS.SyncDir("."); err != nil {
		return fmt.Errorf("sync the data directory: %w", err)
	}
	if err := e.o.FS.SyncDir(topicsDir); err != nil {
		return fmt.Errorf("sync %s: %w", topicsDir, err)
	}
	salt, err := e.newSalt()
	if err != nil {
		return err
	}
	s := e.committer.state.snapshot()
	s.clusterID, s.maxLog, s.salt, s.generation = e.clusterID, e.firstBudget, salt, old.generation
	if err := e.writeSnapshot(s); err != nil {
		return err
	}
	if e.wal, err = openWAL(e.o.FS, e.o.WALFiles, e.o.WALFileBytes, salt, old.generation); err != nil {
		return err
	}
	return e.removeDebris(s)
}

func (e *Engine) newSalt() (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(e.o.Rand, b[:]); err != nil {
		return 0, fmt.Errorf("draw a salt: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

// removeDebris removes the directories of topics that the checkpoint does not know: deleted ones, and those of a commit that
// never became durable.
func (e *Engine) removeDebris(s *snapshot) error {
	known := map[string]bool{}
	for i := range s.topics {
		known[topicDir(s.topics[i].id)] = true
	}
	names, err := e.o.FS.List(topicsDir)
	if err != nil {
		return fmt.Errorf("list %s: %w", topicsDir, err)
	}
	for _, n := range names {
		dir := topicsDir + "/" + n
		if len(dir) != len(topicDir(eventlog.TopicID{})) || known[dir] {
			continue
		}
		if err := e.o.FS.RemoveAll(dir); err != nil {
			e.o.Logger.Warn("remove the files of a topic that is no more; the next start tries again", "dir", dir, "error", err)
		}
	}
	return nil
}
