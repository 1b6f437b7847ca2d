package engine

import (
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
	o := segment.CompactOptions{DeleteRetention: millis(c.deleteRetentionMs), MinDirty: c.minDirtyRatio,
		Aborted: func(b eventlog.RawBatch) bool { return p.isAborted(b.ProducerID(), b.Base()) },
		Ended:   IsCommit, // an abort's marker stays: it tells a consumer where what it must skip ends
	}
	if c.minDirtyRatio <= 0 || c.maxLagMs < math.MaxInt64 {
		o.MinDirty = math.SmallestNonzeroFloat64 // whatever there is
	}
	defer e.markDirty(p)
	_, err = log.Compact(e.o.Now(), below, o)
	return err
}
