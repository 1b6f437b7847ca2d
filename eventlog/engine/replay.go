package engine

import (
	"errors"
	"fmt"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
	"github.com/millrace-io/millrace/internal/vfs"
)

// replay is what a start does with the WAL's frames. It goes through them twice: first in their order, for what they make of the state, which notes
// where the batches of each partition lie; then partition by partition, several at a time, for the segments. So each partition's files are opened,
// cut, written and synced once, and the memory it takes is a few windows.
type replay struct {
	*Engine
	files []string // of the WAL, as extents name them
	parts map[*partition][]extent
}

// extent is where one batch lies in the WAL.
type extent struct {
	file int32 // in replay.files
	n    int32
	off  int64
}

const (
	replayers   = 8        // partitions at a time: each waits for the disk more than for a processor
	replayRead  = 1 << 20  // bytes read at once
	readThrough = 16 << 10 // what lies between two batches of a partition is read along if it is no more
)

// replay takes the frames' entries, in order, and writes their batches into segments, durably.
func (e *Engine) replay(frames []walFrame, salt uint64) error {
	r := &replay{Engine: e, parts: map[*partition][]extent{}}
	if err := e.eachFrame(frames, salt, r.entry); err != nil {
		return err
	}
	for p := range r.parts {
		if p.topic.head.gone { // its files may be, too
			delete(r.parts, p)
			continue
		}
		p.applied = p.head.end
		p.high.Store(p.head.end)
		p.showStable(p.head.end, p.start.Load())
	}
	if err := r.write(); err != nil {
		return err
	}
	return r.syncNames()
}

// entry is what the committer and publish did.
func (r *replay) entry(f *walFrame, en *entry, end int64) error {
	st := r.committer.state
	st.commit, st.time = f.commit, max(st.time, f.time)
	if en.kind != entryBatch {
		t := st.topics[en.part.Topic]
		if err := st.step(en); err != nil {
			return fmt.Errorf("%w: %w", err, ErrDamaged)
		}
		r.show(en, t)
		return nil
	}
	p, err := st.partition(en.part)
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	if en.raw.Base() != p.head.end {
		return fmt.Errorf("batch at offset %d of %v, which ends at %d: %w", en.raw.Base(), en.part, p.head.end, ErrDamaged)
	}
	st.batch(p, en.raw, f.time)
	r.counters.commit.RecoveredBatches++
	if n := len(r.files); n == 0 || r.files[n-1] != f.file { // each file's frames follow each other
		r.files = append(r.files, f.file)
	}
	r.parts[p] = append(r.parts[p], extent{int32(len(r.files) - 1), int32(len(en.raw)), end - int64(len(en.raw))})
	return nil
}

// show publishes what an entry changed; t is the topic as it was found before.
func (r *replay) show(en *entry, t *topic) {
	switch en.kind {
	case entryCreate:
		r.showTopic(r.committer.state.topics[en.part.Topic])
	case entryDelete:
		r.hideTopic(t)
	case entryConfigure, entryPartitions:
		t.publish()
	case entryForgotten:
		p := t.head.parts[en.part.Index]
		p.showStable(p.high.Load(), p.start.Load())
	case entryStart:
		p := t.head.parts[en.part.Index]
		p.moveStart(max(p.start.Load(), p.head.start))
	}
}

// write writes every partition's batches into its segments, and syncs those.
func (r *replay) write() error {
	files := make([]vfs.File, len(r.files))
	defer func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close() // it was only read
			}
		}
	}()
	for i, name := range r.files {
		var err error
		if files[i], err = r.o.FS.OpenRead(name); err != nil {
			return fmt.Errorf("read WAL file: %w", err)
		}
	}
	parts := make(chan *partition)
	errs := make([]error, min(replayers, len(r.parts)))
	var wg sync.WaitGroup
	for i := range errs {
		w := &partReplay{replay: r, files: files}
		wg.Go(func() {
			for p := range parts {
				if errs[i] == nil {
					errs[i] = w.run(p)
				}
			}
		})
	}
	for p := range r.parts {
		parts <- p
	}
	close(parts)
	wg.Wait()
	return errors.Join(errs...)
}

// syncNames makes the directories of the partitions that were replayed durable. A process that was killed may have made them
// and not come to it: they look as if they were there for good, and a power cut can still take them.
func (r *replay) syncNames() error {
	topics := map[*topic]bool{}
	for p := range r.parts {
		topics[p.topic] = true
	}
	for t := range topics {
		if err := r.o.FS.SyncDir(t.dir()); err != nil {
			return fmt.Errorf("sync the directory of topic %q: %w", t.name, err)
		}
	}
	return nil
}

// partReplay writes one partition after the other.
type partReplay struct {
	*replay
	files   []vfs.File
	in, out []byte
}

// run writes a partition's batches. A segment may have been synced beyond the checkpoint: what it has already is passed over.
func (w *partReplay) run(p *partition) error {
	log, err := w.segmentsOf(p)
	if err != nil {
		return err
	}
	for rest := w.parts[p]; len(rest) > 0; {
		n := together(rest)
		raw, err := w.read(rest[:n], log.End())
		if err == nil && len(raw) > 0 {
			err = log.Append(raw)
		}
		if err != nil {
			return fmt.Errorf("write the segments of %v: %w", p.part, err)
		}
		rest = rest[n:]
	}
	var st segment.State
	if st, err = log.Sync(); err != nil {
		return fmt.Errorf("sync %v: %w", p.part, err)
	}
	p.segments.setSynced(st)
	return nil
}

// together is how many of a partition's batches are read at once.
func together(x []extent) (n int) {
	for n = 1; n < len(x); n++ {
		last, next := x[n-1], x[n]
		if next.file != last.file || next.off-(last.off+int64(last.n)) > readThrough || next.off+int64(next.n)-x[0].off > replayRead {
			break
		}
	}
	return n
}

// read returns the batches of some extents that lie next to each other, from an offset on.
func (w *partReplay) read(x []extent, from int64) ([]byte, error) {
	last := x[len(x)-1]
	size := last.off + int64(last.n) - x[0].off
	if int64(cap(w.in)) < size {
		w.in = make([]byte, max(size, 64<<10))
	}
	in := w.in[:size]
	if err := readFull(w.files[x[0].file], in, x[0].off); err != nil {
		return nil, fmt.Errorf("read WAL file %s at %d: %w", w.replay.files[x[0].file], x[0].off, err)
	}
	w.out = w.out[:0]
	for _, e := range x {
		at := e.off - x[0].off
		b, err := eventlog.CheckBatch(in[at : at+int64(e.n)])
		switch {
		case err != nil || len(b) != int(e.n):
			return nil, fmt.Errorf("WAL file %s at %d: a batch changed while it was read: %w", w.replay.files[e.file], e.off, ErrDamaged)
		case b.Base() < from && len(w.out) == 0:
			continue
		case b.Base() != from:
			return nil, fmt.Errorf("the segments end at %d, the next batch is at %d: %w", from, b.Base(), ErrDamaged)
		}
		w.out = append(w.out, b...)
		from = b.Next()
	}
	return w.out, nil
}
