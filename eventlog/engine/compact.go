package engine

import (
	"context"
	"fmt"
	"math"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine/segment"
)

// compact leaves one record per key in the rolled segments of a partition whose topic asks for it. It goes no further than the
// last checkpoint, so that a replay finds what it would append to.
func (e *Engine) compact(p *partition) error {
	c := p.topic.cfg.Load()
	if !c.compact || p.safe.Load() == 0 || p.topic.gone.Load() || e.quarantine.has(p) {
		return nil
	}
	if err := e.compactBelow(p, c); err != nil && !p.topic.gone.Load() {
		e.noteDamage(p, err)
		return fmt.Errorf("compact topic %q, %v: %w", p.topic.name, p.part, err)
	}
	return nil
}

func (e *Engine) compactBelow(p *partition, c *topicConfig) error {
	log, err := e.segmentsOf(p)
	if err != nil {
		return err
	}
	below := min(p.safe.Load(), p.stable.Load()) // an open transaction may be aborted yet
	if c.minLagMs > 0 {
		old, err := firstSince(log, e.Now()-c.minLagMs)
		if err != nil {
			return err
		}
		below = min(below, old)
	}
	o := segment.CompactOptions{DeleteRetention: millis(c.deleteRetentionMs), MinDirty: c.minDirtyRatio, MaxLag: millis(c.maxLagMs),
		Aborted: func(b eventlog.RawBatch) bool { return p.isAborted(b.ProducerID(), b.Base()) },
		Ended:   p.markerEnded,
	}
	if c.minDirtyRatio <= 0 {
		o.MinDirty = math.SmallestNonzeroFloat64 // whatever there is
	}
	defer e.markDirty(p)
	if _, err = log.Compact(e.o.Now(), below, o); err != nil {
		return err
	}
	return e.forgetAborted(p, log.Clean())
}

// markerEnded tells whether nobody needs a marker any more. An abort's tells a consumer where what it must skip ends, for as long as the
// consumer is told to skip anything.
func (p *partition) markerEnded(b eventlog.RawBatch) bool {
	if IsCommit(b) {
		return true
	}
	aborted := p.abortedSince(b.Base())
	return len(aborted) == 0 || aborted[0].Last != b.Base()
}

// forgetAborted forgets, durably, the aborted transactions whose records compaction has taken: those that ended below an offset. Their markers
// go with a later compaction.
func (e *Engine) forgetAborted(p *partition, below int64) error {
	all := p.abortedSince(0)
	if len(all) == 0 || all[0].Last >= below {
		return nil
	}
	return e.do(context.Background(), func(*state) ([]entry, func(), error) {
		if p.topic.head.gone {
			return nil, nil, nil
		}
		return []entry{{kind: entryForgotten, part: p.part, value: below}}, func() {
			p.forgotten.Store(below) // before readers miss them in aborted
			p.showStable(p.high.Load(), p.start.Load())
		}, nil
	})
}
