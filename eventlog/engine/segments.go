package engine

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
)

// segmentLog is a partition's segments, opened when they are first needed.
type segmentLog struct {
	mu     sync.Mutex
	log    *segment.Log
	at     segment.State // as of their last sync; where they open
	closed bool
}

// segmentsOf opens a partition's segments when they are first needed.
func (e *Engine) segmentsOf(p *partition) (*segment.Log, error) {
	s := &p.segments
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.log != nil:
		return s.log, nil
	case s.closed && p.topic.gone.Load():
		return nil, fmt.Errorf("segments of %v: %w", p.part, eventlog.ErrUnknownTopic)
	case s.closed:
		return nil, fmt.Errorf("segments of %v: %w", p.part, eventlog.ErrClosed)
	}
	at := s.at
	at.Start = max(at.Start, min(p.start.Load(), at.End)) // it may have moved since, and files been deleted
	log, err := segment.Open(e.o.FS, p.dir(), e.segmentOptions(p.topic.cfg.Load()), e.files, at)
	if err != nil {
		return nil, fmt.Errorf("open the segments of %v: %w", p.part, err)
	}
	s.log = log
	return log, nil
}

// synced is what a checkpoint records.
func (s *segmentLog) synced() segment.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

func (s *segmentLog) setSynced(at segment.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = at
}

// end is the offset after the last record in segments.
func (s *segmentLog) end() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil {
		return s.log.End()
	}
	return s.at.End
}

func (s *segmentLog) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil {
		return s.log.Size()
	}
	return s.at.Bytes
}

func (s *segmentLog) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.log == nil {
		return nil
	}
	log := s.log
	s.log = nil
	return log.Close()
}

// size is the bytes of a partition: in segments, and in memory only.
func (p *partition) size() int64 {
	n := p.segments.bytes()
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, b := range p.mem {
		n += int64(b.Size())
	}
	return n
}

// segmentOptions is how a topic's partitions are kept.
func (e *Engine) segmentOptions(c *topicConfig) segment.Options {
	return segment.Options{SegmentBytes: c.segmentBytes, SegmentAge: c.segmentAge(), Now: e.o.Now}
}

// segmentAge is when a segment is rolled for its age: what is in the active one cannot be compacted.
func (c *topicConfig) segmentAge() time.Duration {
	if c.compact {
		return millis(min(c.segmentMs, c.maxLagMs))
	}
	return millis(c.segmentMs)
}

// millis is a number of milliseconds as a duration, the longest one if it does not fit.
func millis(ms int64) time.Duration {
	if ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

func (s *segmentLog) setLimits(c *topicConfig) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil {
		s.log.SetLimits(c.segmentBytes, c.segmentAge())
	}
}
