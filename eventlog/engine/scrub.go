package engine

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
)

// scrubber reads every segment now and then, so that damage is found while there is a backup to mend it from, and not when somebody needs
// the record. It is one goroutine; it goes as slowly as lets a pass take Options.ScrubEvery, and never faster than Options.ScrubRate.
type scrubber struct {
	*Engine
	pace    func(bytes int64) error
	last    int64                // when the last pass ended, milliseconds since 1970, or 0
	done    map[*partition]int64 // how far the pass under way has come
	written time.Time            // when that was last written down
}

const (
	scrubSlowest = 64 << 10  // bytes per second: a small log is through in an hour, not in a week
	scrubStep    = 256 << 10 // bytes between two sleeps, at most
	scrubPause   = time.Minute
	scrubNotes   = time.Minute // how often it is written down how far it is
)

func (e *Engine) scrubLoop() {
	defer close(e.scrubbed)
	if e.o.ScrubEvery < 0 {
		return
	}
	s := &scrubber{Engine: e, done: map[*partition]int64{}}
	if s.resume() != nil {
		return
	}
	for s.sleep(s.untilPass()) == nil && s.pass() == nil {
	}
}

// untilPass is how long it is until a pass goes on or begins.
func (s *scrubber) untilPass() time.Duration {
	if s.last == 0 || len(s.done) > 0 {
		return 0
	}
	return max(scrubPause, time.Duration(s.last-s.Now())*time.Millisecond+s.o.ScrubEvery/2)
}

// sleep waits, unless the log is closed.
func (s *scrubber) sleep(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.quit:
		return eventlog.ErrClosed
	}
}

// at sets the pace, in bytes per second. It sleeps once there is something to sleep for.
func (s *scrubber) at(rate int64) {
	owed := int64(0)
	s.pace = func(n int64) error {
		if owed += n; owed < min(rate, scrubStep) {
			return s.open()
		}
		d := time.Duration(float64(owed) / float64(rate) * float64(time.Second))
		owed = 0
		return s.sleep(d)
	}
}

// resume takes up what the last life has left: it reads the partitions in which damage was found, for somebody may have mended it.
func (s *scrubber) resume() error {
	notes := s.readScrub()
	s.last = min(notes.LastPass, s.Now()) // the file has no checksum: a wrong bit must not put the next pass off for years
	for _, d := range notes.Done {
		if p := s.partOf(d.TopicID, d.Partition); p != nil {
			s.done[p] = d.Next
		}
	}
	again := map[*partition]bool{}
	for _, run := range notes.Quarantined {
		if p := s.partOf(run.TopicID, run.Partition); p != nil {
			s.quarantine.add(p, run)
			again[p] = true
		}
	}
	s.at(s.o.ScrubRate)
	for p := range again {
		if err := s.partition(p, 0); err != nil {
			return err
		}
	}
	return nil
}

// pass reads everything once, from where the last life has come to. Its error is that the log is closed.
func (s *scrubber) pass() error {
	total := int64(0)
	parts := s.allPartitions()
	for _, p := range parts {
		total += p.segments.bytes()
	}
	s.at(min(max(total/max(1, int64(s.o.ScrubEvery.Seconds())), scrubSlowest), s.o.ScrubRate))
	slices.SortFunc(parts, func(a, b *partition) int {
		if c := bytes.Compare(a.part.Topic[:], b.part.Topic[:]); c != 0 {
			return c
		}
		return int(a.part.Index - b.part.Index)
	})
	for _, p := range parts {
		if err := s.partition(p, s.done[p]); err != nil {
			return err
		}
	}
	clear(s.done)
	s.last = s.Now()
	s.counters.scrubPasses.Add(1)
	s.write()
	return nil
}

// partition reads a partition from an offset on. What goes wrong is told, and the next pass looks again.
func (s *scrubber) partition(p *partition, from int64) error {
	next, err := s.scrub(p, from, s.pace)
	closed := s.open()
	if err != nil && closed == nil && !p.topic.gone.Load() {
		s.o.Logger.Error("scrubbing", "topic", p.topic.name, "partition", p.part.Index, "from", next, "error", err)
	}
	s.done[p] = next
	if closed != nil || s.quarantine.changed() || time.Since(s.written) > scrubNotes {
		s.write()
	}
	return closed
}

// write writes down what is quarantined and how far the pass has come.
func (s *scrubber) write() {
	s.written = time.Now()
	notes := scrubFile{LastPass: s.last}
	for p, next := range s.done {
		notes.Done = append(notes.Done, scrubbed{p.part.Topic.String(), p.part.Index, next})
	}
	s.writeScrub(notes)
}

// scrub reads a partition from an offset on. A reading of all of it says anew what is quarantined.
func (e *Engine) scrub(p *partition, from int64, pace func(bytes int64) error) (next int64, err error) {
	log, err := e.segmentsOf(p)
	if err != nil {
		return from, err
	}
	var found []Quarantined
	whole := from <= p.start.Load()
	next, err = log.Scrub(max(from, p.start.Load()), func(n int64) error {
		e.counters.scrubbed.Add(uint64(n))
		return pace(n)
	}, func(d *segment.Damage) {
		found = append(found, e.quarantined(p, d))
		e.damaged(p, d)
	})
	if err == nil && whole {
		e.quarantine.replace(p, found)
	}
	return next, err
}

// Scrub reads everything once, as fast as the disk gives it, and quarantines what is damaged.
func (e *Engine) Scrub(ctx context.Context) error {
	var errs []error
	for _, p := range e.allPartitions() {
		_, err := e.scrub(p, 0, func(int64) error { return ctx.Err() })
		if err != nil && !p.topic.gone.Load() {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
