package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
	"github.com/millrace-io/millrace/internal/vfs"
)

// The checkpoint is what the log had come to at a commit: a restart loads it and replays the WAL from there. It is also what
// says that a directory is ours. It is replaced whole, by a rename. In big-endian order (docs/formats/checkpoint.md):
//
//	magic "MRCP" 4, version 1, flags 1, zero 2, body length 8, crc32c 4 (of all before it, then the body)
//	body: cluster id 16, commit 8, salt 8, WAL generation 8, time 8, next producer id 8, log budget 8,
//	      topics: id 16, name, configs, partitions: start 8, end 8, claim 8, segment state, producers, transactions
const (
	checkpointName    = "checkpoint"
	checkpointTemp    = "checkpoint.tmp"
	checkpointHeader  = 20
	checkpointVersion = 4 // 1: segments' states without Gapless; 2: no transactions; 3: the WAL's frames are of version 1
)

var checkpointMagic = [4]byte{'M', 'R', 'C', 'P'}

// snapshot is the state at a commit, taken between two commits; the segments' states are added when they are synced. Nothing
// in it changes afterwards.
type snapshot struct {
	clusterID  [16]byte
	commit     uint64
	salt       uint64
	generation uint64
	time       int64
	nextID     int64
	maxLog     int64
	topics     []topicSnapshot
	format     int // that it was read in
}

type topicSnapshot struct {
	id      eventlog.TopicID
	name    string
	configs map[string]string
	parts   []partSnapshot
}

type partSnapshot struct {
	p                 *partition // nil once read from a file
	start, end, claim int64
	state             segment.State
	producers         []byte
	transactions      []byte
}

// snapshot copies the committer's state. It runs between two commits, so it must be quick: what partitions remember of
// producers is encoded only if it changed since the last time. After a failed commit there is none to be had: the state is
// ahead of what is durable.
func (c *committer) snapshot() *snapshot {
	if c.failure() != nil {
		return nil
	}
	s := c.state.snapshot()
	s.clusterID, s.maxLog, s.salt, s.generation = c.clusterID, c.firstBudget, c.wal.salt, c.wal.lastGeneration()
	return s
}

func (s *state) snapshot() *snapshot {
	snap := &snapshot{commit: s.commit, time: s.time, nextID: s.nextID, topics: make([]topicSnapshot, 0, len(s.topics))}
	for _, t := range s.topics {
		snap.topics = append(snap.topics, t.snapshot())
	}
	return snap
}

func (t *topic) snapshot() topicSnapshot {
	ts := topicSnapshot{id: t.id, name: t.name, configs: t.head.cfg.set, parts: make([]partSnapshot, len(t.head.parts))}
	for i, p := range t.head.parts {
		ts.parts[i] = partSnapshot{p: p, start: p.head.start, end: p.head.end, claim: p.head.claim, producers: p.encodedProducers(),
			transactions: p.encodedTransactions()}
	}
	return ts
}

func (s *snapshot) encode() []byte {
	b := make([]byte, checkpointHeader, 64<<10)
	b = append(b, s.clusterID[:]...)
	for _, v := range []uint64{s.commit, s.salt, s.generation, uint64(s.time), uint64(s.nextID), uint64(s.maxLog)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(s.topics)))
	for i := range s.topics {
		b = s.topics[i].append(b)
	}
	return sealCheckpoint(b)
}

// sealCheckpoint writes the header before a body.
func sealCheckpoint(b []byte) []byte {
	copy(b, checkpointMagic[:])
	b[4] = checkpointVersion
	binary.BigEndian.PutUint64(b[8:], uint64(len(b)-checkpointHeader))
	crc := crc32.Update(crc32.Checksum(b[:16], castagnoli), castagnoli, b[checkpointHeader:])
	binary.BigEndian.PutUint32(b[16:], crc)
	return b
}

func (t *topicSnapshot) append(b []byte) []byte {
	b = append(b, t.id[:]...)
	b = appendString(b, t.name)
	b = appendConfigs(b, t.configs)
	b = binary.AppendUvarint(b, uint64(len(t.parts)))
	for i := range t.parts {
		p := &t.parts[i]
		for _, v := range []int64{p.start, p.end, p.claim} {
			b = binary.BigEndian.AppendUint64(b, uint64(v))
		}
		b = p.state.Append(b)
		b = binary.AppendUvarint(b, uint64(len(p.producers)))
		b = append(b, p.producers...)
		b = binary.AppendUvarint(b, uint64(len(p.transactions)))
		b = append(b, p.transactions...)
	}
	return b
}

// decodeCheckpoint takes a checkpoint apart.
func decodeCheckpoint(p []byte) (*snapshot, error) {
	if len(p) < checkpointHeader || [4]byte(p) != checkpointMagic {
		return nil, fmt.Errorf("not a checkpoint: %w", ErrDamaged)
	}
	body := p[checkpointHeader:]
	crc := crc32.Update(crc32.Checksum(p[:16], castagnoli), castagnoli, body)
	switch {
	case binary.BigEndian.Uint64(p[8:]) != uint64(len(body)) || binary.BigEndian.Uint32(p[16:]) != crc:
		return nil, fmt.Errorf("length or checksum is wrong: %w", ErrDamaged)
	case p[4] > checkpointVersion:
		return nil, fmt.Errorf("checkpoint format %d, this program reads up to %d: %w", p[4], checkpointVersion, ErrNewer)
	case p[4] < 1:
		return nil, fmt.Errorf("checkpoint format %d: %w", p[4], ErrDamaged)
	case p[5] != 0:
		return nil, fmt.Errorf("checkpoint flags %#x: %w", p[5], ErrNewer)
	}
	r := &reader{b: body}
	s := &snapshot{format: int(p[4])}
	copy(s.clusterID[:], r.take(len(s.clusterID)))
	s.commit, s.salt, s.generation = r.u64(), r.u64(), r.u64()
	s.time, s.nextID, s.maxLog = r.i64(), r.i64(), r.i64()
	for range r.count(16) {
		s.topics = append(s.topics, readTopicSnapshot(r, int(p[4])))
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("checkpoint: %w: %w", err, ErrDamaged)
	}
	return s, nil
}

func readTopicSnapshot(r *reader, format int) (t topicSnapshot) {
	copy(t.id[:], r.take(len(t.id)))
	t.name, t.configs = r.str(), r.configs()
	for range r.count(24) {
		p := partSnapshot{start: r.i64(), end: r.i64(), claim: r.i64()}
		if r.bad {
			break
		}
		var err error
		if p.state, r.b, err = segment.DecodeState(r.b, format); err != nil {
			r.bad = true
		}
		p.producers = r.take(r.count(1))
		if format >= 3 {
			p.transactions = r.take(r.count(1))
		}
		t.parts = append(t.parts, p)
	}
	return t
}

// writeCheckpoint replaces the checkpoint. A crash leaves the old one or the new one.
func writeCheckpoint(fsys vfs.FS, s *snapshot) error {
	if err := replaceFile(fsys, checkpointTemp, checkpointName, s.encode()); err != nil {
		return fmt.Errorf("write checkpoint at commit %d: %w", s.commit, err)
	}
	return nil
}

func replaceFile(fsys vfs.FS, temp, name string, content []byte) error {
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temp, name); err != nil {
		return err
	}
	if mutant(mutantSkipDirSync) {
		return nil
	}
	return fsys.SyncDir(".")
}

// readCheckpoint returns nil if there is none.
func readCheckpoint(fsys vfs.FS) (*snapshot, error) {
	p, err := readAll(fsys, checkpointName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", checkpointName, err)
	}
	s, err := decodeCheckpoint(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", checkpointName, err)
	}
	return s, nil
}

// checkpointer makes checkpoints, one at a time: on demand of the committer, of Maintain, and at Close.
type checkpointer struct {
	wake chan struct{} // one token: make one

	mu     sync.Mutex // held while one is made
	commit uint64     // of the last one
	took   atomic.Int64
	full   atomic.Bool // the last one found no room

	dirtyMu sync.Mutex
	dirty   map[*partition]struct{} // written since they were last synced
}

func (e *Engine) requestCheckpoint() { signal(e.checkpoints.wake) }

// markDirty notes that a partition's segments have unsynced bytes. Whoever wrote them says so afterwards: said before, a
// checkpoint could take the note and sync before the write.
func (e *Engine) markDirty(p *partition) {
	e.checkpoints.dirtyMu.Lock()
	defer e.checkpoints.dirtyMu.Unlock()
	e.checkpoints.dirty[p] = struct{}{}
}

func (e *Engine) checkpointLoop() {
	defer close(e.checkpointed)
	var due <-chan time.Time
	if every := e.o.CheckpointEvery; every > 0 {
		tick := time.NewTicker(every)
		defer tick.Stop()
		due = tick.C
	}
	for {
		select {
		case <-due:
		case <-e.checkpoints.wake:
		case <-e.stop:
			return
		}
		if err := e.checkpoint(); err != nil && e.failure() == nil {
			e.checkpointFailed(err)
			select { // the committer asks again whenever it is asked for a snapshot
			case <-time.After(applyRetry):
			case <-e.stop:
				return
			}
		}
	}
}

// checkpointFailed ends the log, unless there was no room and nothing is half done: then the old checkpoint stands, the WAL has all that came
// since, and it is tried again.
func (e *Engine) checkpointFailed(err error) {
	if !passing(err) {
		e.fail(err)
		return
	}
	if e.checkpoints.full.CompareAndSwap(false, true) {
		e.o.Logger.Error("no room for a checkpoint; it is tried again", "error", err)
	}
	e.requestCheckpoint()
}

// passing tells whether an error is that of a full disk and nothing else, met before anything was synced: what the system could not keep is known.
func passing(err error) bool {
	if err == errNoRoom { // not errors.Is: all that an error wraps is looked at
		return true
	}
	switch x := err.(type) {
	case nil:
		return false
	case *fs.PathError:
		return errors.Is(x.Err, syscall.ENOSPC) && !strings.Contains(x.Op, "sync")
	case interface{ Unwrap() []error }:
		for _, err := range x.Unwrap() {
			if !passing(err) {
				return false
			}
		}
		return true
	case interface{ Unwrap() error }:
		return passing(x.Unwrap())
	}
	return false
}

// checkpoint makes what is committed now the place a restart begins at. Commits go on meanwhile: the state is copied between
// two of them, and what the segments have beyond it when they are synced does no harm, because replay passes over what is
// there already. Its error is the log's failure: a sync that failed is not tried again.
func (e *Engine) checkpoint() error {
	e.checkpoints.mu.Lock()
	defer e.checkpoints.mu.Unlock()
	began := time.Now()
	s, err := e.takeSnapshot()
	if err != nil {
		return err
	}
	if s.commit == e.checkpoints.commit {
		return nil
	}
	e.walSince.Store(0)
	if err := e.applyThrough(s.commit); err != nil {
		return err
	}
	if err := e.syncDirty(); err != nil {
		return err
	}
	if err := e.writeSnapshot(s); err != nil {
		return err
	}
	e.checkpoints.full.Store(false)
	e.wal.release(s.commit)
	e.removeDeleted(s)
	e.checkpoints.took.Store(int64(time.Since(began)))
	e.counters.checkpoints.Add(1)
	return nil
}

// writeSnapshot adds the segments' states to a snapshot and makes it the checkpoint. Called with checkpoints.mu.
func (e *Engine) writeSnapshot(s *snapshot) error {
	for i := range s.topics {
		for j := range s.topics[i].parts {
			ps := &s.topics[i].parts[j]
			ps.state = ps.p.segments.synced()
			if ps.state.End < ps.end && !ps.p.topic.gone.Load() { // the WAL is the only one to have the rest: keep it
				return fmt.Errorf("checkpoint at commit %d: the segments of %v are synced to %d, the log ends at %d: %w", s.commit,
					ps.p.part, ps.state.End, ps.end, ErrDamaged)
			}
		}
	}
	if err := writeCheckpoint(e.o.FS, s); err != nil {
		return err
	}
	e.checkpoints.commit = s.commit
	for i := range s.topics {
		for j := range s.topics[i].parts {
			ps := &s.topics[i].parts[j]
			ps.p.safe.Store(ps.state.End)
		}
	}
	return nil
}

func (e *Engine) takeSnapshot() (*snapshot, error) {
	reply := make(chan *snapshot, 1)
	select {
	case e.snapshots <- reply:
		if s := <-reply; s != nil {
			return s, nil
		}
		return nil, e.failure()
	case <-e.gone:
		return nil, fmt.Errorf("checkpoint: %w", eventlog.ErrClosed)
	case <-e.failed:
		return nil, e.failure()
	}
}

// syncers is how many partitions are synced at a time: enough to keep a disk busy, too few to keep a commit waiting.
const syncers = 4

// syncDirty makes the segments of every partition written since the last time durable.
func (e *Engine) syncDirty() error {
	e.checkpoints.dirtyMu.Lock()
	dirty := e.checkpoints.dirty
	e.checkpoints.dirty = make(map[*partition]struct{}, len(dirty))
	e.checkpoints.dirtyMu.Unlock()

	parts := make(chan *partition)
	errs := make([]error, syncers)
	var wg sync.WaitGroup
	for i := range syncers {
		wg.Go(func() {
			for p := range parts {
				if errs[i] == nil {
					errs[i] = e.syncPartition(p)
				}
				if errs[i] != nil { // if it is tried again, all of it is
					e.markDirty(p)
				}
			}
		})
	}
	for p := range dirty {
		parts <- p
	}
	close(parts)
	wg.Wait()
	return errors.Join(errs...)
}

func (e *Engine) syncPartition(p *partition) error {
	if p.topic.gone.Load() {
		return nil
	}
	log, err := e.segmentsOf(p)
	if err != nil {
		return fmt.Errorf("sync %v: %w", p.part, err)
	}
	state, err := log.Sync()
	if err != nil {
		if p.topic.gone.Load() {
			return nil
		}
		return fmt.Errorf("sync %v: %w", p.part, err)
	}
	p.segments.setSynced(state)
	return nil
}
