package engine

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
)

// applier is the one goroutine that writes committed batches into segments, behind the committer and never in its way. It waits
// until there is enough for large writes, or until somebody needs it done: readers do not, memory serves them.
type applier struct {
	*Engine
	wake     chan struct{}     // one token: there is enough
	requests chan applyRequest // apply through a commit, then answer
	waiting  []applyRequest    // taken, not answered
	entries  []ringEntry
	parts    []*partition
	buf      []byte   // small batches of a write
	bufs     [][]byte // all of one
}

type applyRequest struct {
	commit uint64
	done   chan error
}

// errNoRoom says that what is committed does not fit on the disk yet: memory and the WAL have it.
var errNoRoom = errors.New("no room for segments")

const (
	applyAtOnce   = 8 << 20 // bytes of one round
	applyWrite    = 1 << 20 // bytes of one write
	applyRetry    = 100 * time.Millisecond
	maxApplyBuild = 4 << 20 // a larger write buffer is not kept
	keepCap       = 256     // nor are longer lists, per partition
)

func (a *applier) hurry() { signal(a.wake) }

func (a *applier) run() {
	defer close(a.applied)
	for {
		select {
		case <-a.wake:
			if a.round() && a.ring.unappliedBytes() >= a.applyFrom {
				a.hurry()
			}
		case r := <-a.requests:
			a.waiting = append(a.waiting, r)
			for len(a.waiting) > 0 && !a.ring.appliedThrough(r.commit) && a.round() {
			}
			a.answerWaiting(nil)
		case <-a.stop:
			return
		}
	}
}

// answerWaiting answers who waits. Nobody waits for a disk that is full: retention, which makes room, comes after a checkpoint.
func (a *applier) answerWaiting(err error) {
	for _, r := range a.waiting {
		r.done <- err
	}
	a.waiting = a.waiting[:0]
}

// appliedThrough tells whether everything up to a commit is in segments.
func (r *ring) appliedThrough(commit uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.head + int(r.applied-r.first)
	return i >= len(r.entries) || r.entries[i].commit > commit
}

// applyThrough waits until everything up to a commit is in segments.
func (e *Engine) applyThrough(commit uint64) error {
	r := applyRequest{commit, make(chan error, 1)}
	select {
	case e.applier.requests <- r:
	case <-e.failed:
		return e.failure()
	case <-e.stop:
		return fmt.Errorf("write segments: %w", eventlog.ErrClosed)
	}
	select {
	case err := <-r.done:
		return errors.Join(err, e.failure())
	case <-e.failed:
		return e.failure()
	}
}

// round applies what is there, partition by partition; false if there was nothing, or the log has failed.
func (a *applier) round() bool {
	if a.failure() != nil {
		return false
	}
	a.entries = a.ring.toApply(a.entries[:0], applyAtOnce)
	if len(a.entries) == 0 {
		return false
	}
	for i := range a.entries {
		p := a.entries[i].p
		if len(p.applying) == 0 {
			a.parts = append(a.parts, p)
		}
		p.applying = append(p.applying, a.entries[i].batch)
	}
	for _, p := range a.parts {
		if err := a.applyTo(p); err != nil {
			a.fail(fmt.Errorf("write the segments of %v: %w", p.part, err))
			return false
		}
		clear(p.applying)
		if p.applying = p.applying[:0]; cap(p.applying) > keepCap {
			p.applying = nil
		}
	}
	n := len(a.entries)
	clear(a.entries)
	clear(a.parts)
	a.parts = a.parts[:0]
	a.ring.advance(n)
	return true
}

// applyTo writes a partition's batches and lets go of them in memory. While the disk is full it tries again: what is not
// written is in the WAL, and appends are being refused.
func (a *applier) applyTo(p *partition) error {
	if !p.topic.gone.Load() {
		for {
			err := a.write(p)
			if err == nil || p.topic.gone.Load() {
				break
			}
			if !errors.Is(err, syscall.ENOSPC) && a.checkSpace() { // some systems name a full disk otherwise
				return err
			}
			full := fmt.Errorf("%w: %v", errNoRoom, err) //nolint:errorlint // it passes, whatever err is
			a.answerWaiting(full)
			select {
			case <-time.After(applyRetry):
			case r := <-a.requests:
				r.done <- full
			case <-a.failed:
				return a.failure()
			case <-a.quit:
				return err
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.applying)
	p.applied = p.applying[n-1].Next()
	k := copy(p.mem, p.mem[n:])
	clear(p.mem[k:])
	p.mem = p.mem[:k]
	if k == 0 && cap(p.mem) > keepCap { // there may be thousands of partitions
		p.mem = nil
	}
	return nil
}

// write appends what the segments do not have yet of a partition's batches: after a failed write, a part may be there.
func (a *applier) write(p *partition) error {
	log, err := a.segmentsOf(p)
	if err != nil {
		return err
	}
	defer a.markDirty(p)
	batches := p.applying
	for end := log.End(); len(batches) > 0 && batches[0].Base() < end; {
		batches = batches[1:]
	}
	if end := log.End(); len(batches) > 0 && batches[0].Base() != end {
		return fmt.Errorf("the segments end at %d, the next batch is at %d: %w", end, batches[0].Base(), ErrDamaged)
	}
	return a.writeAll(log, batches)
}

// writeAll appends batches in large writes: large ones are written from where they lie, small ones gathered before.
func (a *applier) writeAll(log *segment.Log, batches []*eventlog.Batch) error {
	defer func() {
		clear(a.bufs[:cap(a.bufs)])
		if a.bufs = a.bufs[:0]; cap(a.buf) > maxApplyBuild {
			a.buf = nil
		}
	}()
	for len(batches) > 0 {
		n, size := 0, 0
		a.buf, a.bufs = a.buf[:0], a.bufs[:0]
		for small := 0; n < len(batches) && (n == 0 || size+batches[n].Size() <= applyWrite); n++ {
			raw := batches[n].Raw()
			if size += len(raw); len(raw) >= copyBelow {
				a.bufs, small = append(a.bufs, raw), 0
				continue
			}
			a.buf = append(a.buf, raw...)
			if small += len(raw); small > len(raw) { // it lies behind the one before
				a.bufs = a.bufs[:len(a.bufs)-1]
			}
			a.bufs = append(a.bufs, a.buf[len(a.buf)-small:])
		}
		if err := log.Append(a.bufs...); err != nil {
			return err
		}
		batches = batches[n:]
	}
	return nil
}
