package kafka

import "time"

// A request costs the brokers, and us, about the same whatever is in it: the leader's append, the followers' fetches, the wake-ups around
// them. So requests of few records begin Options.Linger apart at the least, and what comes meanwhile shares the next one. What comes
// when nothing waits goes at once, so whoever is alone and waits for each answer is not held up; and bulk never is.

const (
	fewRecords = 128
	fewBytes   = 64 << 10
)

// rest waits, after an answer, until the next request to a broker may begin. The broker stays busy meanwhile.
func (p *producer) rest(leader int32, began time.Time) {
	if d := p.d.o.Linger - time.Since(began); d > 0 && p.few(leader) {
		_ = sleep(p.d.ctx, d) // its end hurries
	}
}

// few tells whether something waits for a broker that is not worth a request yet.
func (p *producer) few(leader int32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return false
	}
	records, bytes := 0, 0
	for _, l := range p.order {
		if l.held || p.leader(l) != leader {
			continue
		}
		for _, j := range l.queue {
			records, bytes = records+j.b.Len(), bytes+j.b.Size()
			if records >= fewRecords || bytes >= fewBytes {
				return false
			}
		}
	}
	return records > 0
}
