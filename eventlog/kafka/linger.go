package kafka

import "time"

// A request costs the brokers, and us, about the same whatever is in it: the leader's append, the followers' fetches, the wake-ups around
// them. So requests of few records begin Options.Linger apart at the least, and what comes meanwhile shares the next one. What comes
// when nothing waits goes at once, so whoever is alone and waits for each answer is not held up; and bulk never is.

const (
	fewRecords = 128
	fewBytes   = 64 << 10
)

// rest is the time between an answer and the next request to a broker.
type rest struct {
	records, bytes int           // that the next request could carry by now
	over           chan struct{} // closed when that is not few any more, or nobody shall wait
	ended          bool          // over is closed
}

// add counts what has come.
func (r *rest) add(records, bytes int) {
	r.records, r.bytes = r.records+records, r.bytes+bytes
	if r.records >= fewRecords || r.bytes >= fewBytes {
		r.end()
	}
}

func (r *rest) end() {
	if !r.ended {
		r.ended = true
		close(r.over)
	}
}

// mark remembers which lanes of a broker have something queued now that its answer is there. What comes from those who are given that answer
// is no reason to rest: they may be alone.
func (p *producer) mark(leader int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.order {
		if p.leader(l) == leader {
			l.early = len(l.queue) > 0
		}
	}
}

// rest waits, after an answer, until the next request to a broker may begin. The broker stays busy meanwhile.
func (p *producer) rest(leader int32, began time.Time) {
	d := p.d.o.Linger - time.Since(began)
	if d <= 0 {
		return
	}
	r := p.few(leader)
	if r == nil {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.over:
	case <-p.d.ctx.Done(): // somebody hurries
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.resting, leader)
}

// few begins a rest if something waited for a broker that is not worth a request yet; nil: there is no such thing.
func (p *producer) few(leader int32) *rest {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return nil
	}
	r, early := &rest{over: make(chan struct{})}, false
	now := time.Now()
	for _, l := range p.order {
		if p.leader(l) != leader || !p.ready(l, now) {
			continue
		}
		early = early || l.early
		if l.shot != nil {
			r.add(int(l.shot.count), len(l.shot.raw))
		}
		for i := 0; i < len(l.queue) && !r.ended; i++ {
			r.add(l.queue[i].b.Len(), l.queue[i].b.Size())
		}
		if r.ended {
			return nil
		}
	}
	if !early {
		return nil
	}
	p.resting[leader] = r
	return r
}

// join counts a job that came to a lane of a busy broker, which may end its rest.
func (p *producer) join(leader int32, l *lane, j *job) {
	if r := p.resting[leader]; r != nil && p.ready(l, time.Now()) {
		r.add(j.b.Len(), j.b.Size())
	}
}

// unrest ends all rests.
func (p *producer) unrest() {
	for _, r := range p.resting {
		r.end()
	}
}
