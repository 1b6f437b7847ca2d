package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// producer is the idempotent producer behind Driver.Append. A lane per partition keeps the order; each lane has one shot in
// flight and each broker one request, which carries the shots of all lanes it leads. The scheduler (run) starts requests; a
// request's goroutine makes the shots, takes the answer, calls done, and goes on with what has gathered, until nothing has.
type producer struct {
	d *Driver

	mu       sync.Mutex
	freed    *sync.Cond // a lane is not held any more
	lanes    map[eventlog.Part]*lane
	order    []*lane // lanes with work
	turn     int     // which of them comes first
	busy     map[int32]bool
	resting  map[int32]*rest // of the busy brokers
	identity *identity       // for shots to come; nil: to be asked for
	asking   bool            // somebody asks for an identity
	looking  bool            // somebody refreshes the metadata
	closing  bool

	wake chan struct{} // one token: the scheduler looks again
	end  chan struct{} // the scheduler has ended
}

// identity is a producer id and epoch, announced as ours.
type identity struct {
	id    int64
	epoch int16
}

type lane struct {
	part     eventlog.Part
	queue    []*job
	shot     *shot
	listed   bool // it is in order
	held     bool // somebody answers jobs, or a request is on its way
	early    bool // something was queued when its broker's last answer came
	lost     bool // the leader is to be looked for
	missing  time.Time
	identity *identity // of seq
	seq      int32
	limit    int // up to which jobs are merged
	single   int // the next so many shots carry one job each: something in a merged one was refused
	tries    int
	not      time.Time // not before
}

func (l *lane) idle() bool { return len(l.queue) == 0 && l.shot == nil && !l.held }

func newProducer(d *Driver) *producer {
	p := &producer{d: d, lanes: map[eventlog.Part]*lane{}, busy: map[int32]bool{}, resting: map[int32]*rest{},
		wake: make(chan struct{}, 1), end: make(chan struct{})}
	p.freed = sync.NewCond(&p.mu)
	go p.run()
	return p
}

func (p *producer) append(b *eventlog.Batch, done func(eventlog.Outcome)) {
	if err := whole(b); err != nil {
		go done(eventlog.Outcome{Err: err})
		return
	}
	j := &job{b: b, size: cost(b), done: done}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		go done(eventlog.Outcome{Err: eventlog.ErrClosed})
		return
	}
	p.d.rooms.take(b.Part, j.size)
	l := p.lanes[b.Part]
	if l == nil {
		l = &lane{part: b.Part, limit: p.d.o.BatchBytes}
		p.lanes[b.Part] = l
	}
	if !l.listed {
		l.listed = true
		p.order = append(p.order, l)
	}
	l.queue = append(l.queue, j)
	if l.held { // it is looked at when it is free
		return
	}
	if leader := p.leader(l); p.busy[leader] { // as it is when its broker has answered
		p.join(leader, l, j)
	} else {
		p.look()
	}
}

// free lets go of a held lane.
func (p *producer) free(l *lane) {
	l.held = false
	p.freed.Broadcast()
}

// look makes the scheduler look again.
func (p *producer) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *producer) run() {
	defer close(p.end)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-p.wake:
		case <-timer.C:
		case <-p.d.ctx.Done():
			return
		}
		wait, over := p.schedule()
		if over {
			return
		}
		timer.Reset(wait)
	}
}

// schedule starts what can be started and says how long nothing will change by itself. over: it is closing and all is answered.
func (p *producer) schedule() (wait time.Duration, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait = time.Hour
	now := time.Now()
	var lost []*lane
	kept := p.order[:0]
	for _, l := range p.order {
		if l.idle() {
			l.listed = false
			if l.identity == nil { // its topic is gone, or it never had anything appended
				delete(p.lanes, l.part)
			}
			continue
		}
		kept = append(kept, l)
	}
	clear(p.order[len(kept):])
	p.order = kept
	for _, l := range p.order {
		if d := l.not.Sub(now); !l.held && d > 0 {
			wait = min(wait, d)
			continue
		}
		switch leader := p.leader(l); {
		case l.held:
		case leader < 0:
			lost = append(lost, l)
		case p.busy[leader]:
		default:
			if lanes := p.gather(leader, now); len(lanes) > 0 {
				p.busy[leader] = true
				go p.send(leader, lanes)
			}
		}
	}
	if len(lost) > 0 && !p.looking {
		p.looking = true
		for _, l := range lost {
			l.held = true
		}
		go p.find(lost)
	}
	if len(p.busy) > 0 { // who waits for a broker's answer may have another leader meanwhile
		wait = min(wait, askAgain)
	}
	return wait, p.closing && len(p.order) == 0
}

// leader is the broker that a lane's shots go to; -1: it is to be looked for.
func (p *producer) leader(l *lane) int32 {
	if l.lost {
		return -1
	}
	return p.d.topics.cached(l.part.Topic).leader(l.part.Index)
}

// gather holds the lanes that the next request to a broker can carry.
func (p *producer) gather(leader int32, now time.Time) (lanes []*lane) {
	p.turn++ // not always the same lanes have to wait for the next request
	for i := range p.order {
		l := p.order[(p.turn+i)%len(p.order)]
		if p.leader(l) == leader && p.ready(l, now) {
			l.held = true
			lanes = append(lanes, l)
		}
	}
	return lanes
}

// ready tells whether a request could carry something of a lane now.
func (p *producer) ready(l *lane, now time.Time) bool {
	return !l.held && !l.idle() && !l.not.After(now) && p.known(l)
}

// known makes sure that a lane has a producer id, or has it asked for.
func (p *producer) known(l *lane) bool {
	switch {
	case l.shot != nil || l.identity != nil:
		return true
	case p.identity != nil:
		l.identity, l.seq = p.identity, 0
		p.d.vet(l.part.Topic)
		return true
	case !p.asking:
		p.asking = true
		go p.identify()
	}
	return false
}

// aim makes sure that a held lane has a shot; without the lock, so that others go on appending.
func (p *producer) aim(l *lane) bool {
	if l.shot != nil {
		return true
	}
	p.mu.Lock()
	queue, limit := l.queue, l.limit
	if l.single > 0 {
		limit = 0
		l.single--
	}
	p.mu.Unlock()
	s, err := load(l.part, queue, limit)
	n := 1
	if err == nil {
		n = len(s.jobs)
		s.notAhead(p.d.o.Now())
		s.aim(l.identity.id, l.identity.epoch, l.seq, false)
	}
	p.mu.Lock()
	l.queue = l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil // a queue that was long is not kept
	}
	l.shot = s
	p.mu.Unlock()
	if err != nil { // only a batch that no Builder made: it is alone to blame
		p.refuse(l, queue[:1:1], fmt.Errorf("append to %v: %w: %w", l.part, eventlog.ErrInvalid, err))
	}
	return err == nil
}

// refuse answers jobs that were taken out of a held lane, and frees it.
func (p *producer) refuse(l *lane, jobs []*job, err error) {
	miss(p.d.rooms, jobs, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free(l)
	p.look()
}

// send carries the shots of some lanes to their leader, and of what has gathered meanwhile, until nothing has.
func (p *producer) send(leader int32, lanes []*lane) {
	for len(lanes) > 0 {
		began := time.Now()
		p.carry(leader, lanes)
		p.rest(leader, began)
		p.mu.Lock()
		if lanes = p.gather(leader, time.Now()); len(lanes) == 0 {
			delete(p.busy, leader)
		}
		p.mu.Unlock()
	}
	p.look()
}

// requestBytes is how large a request grows, or one shot more.
const requestBytes = 8 << 20

// carry makes the shots of held lanes, sends them in one request, and deals with the answers.
func (p *producer) carry(leader int32, held []*lane) {
	req := newProduce(nil)
	lanes, of := make([]*lane, 0, len(held)), make([]*topic, 0, len(held))
	size := 0
	for _, l := range held {
		if size > requestBytes {
			p.mu.Lock()
			p.free(l)
			p.mu.Unlock()
			continue
		}
		if !p.aim(l) {
			continue
		}
		t := p.d.topics.cached(l.part.Topic)
		if t != nil {
			addProduce(req, t, l.part.Index, l.shot.raw)
		}
		lanes, of = append(lanes, l), append(of, t)
		size += len(l.shot.raw)
	}
	if len(lanes) == 0 {
		return
	}
	slow := func(err error) {
		for _, l := range lanes {
			p.d.trouble.add(false, l, err)
		}
	}
	answer, err := p.d.ask(p.d.ctx, p.d.cl, leader, req, slow, func() bool {
		for i, l := range lanes {
			if p.d.movedFrom(leader, of[i], l.part.Index) {
				return true
			}
		}
		return false
	})
	resp, _ := answer.(*kmsg.ProduceResponse)
	p.mark(leader)
	for i, l := range lanes {
		p.settle(l, of[i], resp, err)
	}
}

// settle deals with the answer to a lane's shot.
func (p *producer) settle(l *lane, t *topic, resp *kmsg.ProduceResponse, err error) {
	s := l.shot
	v := elsewhere
	if t == nil {
		v = gone
	} else if err == nil {
		a, ok := answerOf(resp, t, l.part.Index)
		if !ok {
			err = errNoAnswer
		} else if v, err = judge(a.ErrorCode); v == accepted {
			s.base = a.BaseOffset
			s.moved = s.moved || a.LogAppendTime >= 0
		} else if a.ErrorMessage != nil {
			err = fmt.Errorf("%w: %s", err, *a.ErrorMessage)
		}
	}
	// A refusal is about this attempt. If an earlier one may be in the log we shall never know, and what comes needs a sequence
	// that cannot be taken for the repetition of that.
	if v == rejected && s.maybe {
		v = stateless
	}
	if v == accepted || v == rejected {
		p.d.trouble.end(false, l, true)
	} else {
		p.d.trouble.add(false, l, err)
	}
	switch v {
	case accepted:
		p.d.live.appended(s)
		s.hit(p.d.rooms)
	case rejected:
		if len(s.jobs) == 1 {
			miss(p.d.rooms, s.jobs, fmt.Errorf("append to %v: %w", l.part, translate(err)))
		}
	case stateless:
		p.d.o.Logger.Warn("the producer's state is lost", "partition", l.part, "error", err, "unknown", s.maybe)
		if s.maybe {
			miss(p.d.rooms, s.jobs, unknown(fmt.Errorf("append to %v: %w", l.part, err)))
		}
	default:
		p.d.o.Logger.Debug("append is repeated", "partition", l.part, "error", err)
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	p.free(l)
	switch v {
	case accepted:
		l.seq = after(l.seq, s.count)
		l.shot, l.tries, l.missing = nil, 0, time.Time{}
	case rejected:
		l.shot = nil
		if len(s.jobs) > 1 { // one by one, to find whose fault it is
			l.single += len(s.jobs)
			l.queue = append(s.jobs, l.queue...)
			if errors.Is(translate(err), eventlog.ErrTooLarge) {
				l.limit = len(s.raw) / 2
			}
		}
	case stateless:
		// A new identity for what comes. What is surely not in the log comes again under it.
		if !s.maybe {
			l.queue = append(s.jobs, l.queue...)
		}
		if p.identity == l.identity {
			p.identity = nil
		}
		l.shot, l.identity = nil, nil
		p.later(l)
	case gone:
		l.lost = true
		p.later(l)
	case elsewhere:
		s.maybe, l.lost = true, true
		p.later(l)
	case again:
		s.maybe = true
		p.later(l)
	case later:
		if errors.Is(err, kerr.InvalidTimestamp) {
			s.retime(p.d.o.Now())
		}
		p.later(l)
	}
	if v != accepted {
		p.look()
	}
	if l.idle() { // what was in doubt is given up: nothing waits any more
		p.d.trouble.end(false, l, false)
	}
}

func (p *producer) later(l *lane) {
	l.not = time.Now().Add(backoff(p.d.o.Backoff, l.tries))
	l.tries++
}

// find looks for the leaders of held lanes, and refuses the jobs of topics that are no more.
func (p *producer) find(lanes []*lane) {
	err := p.d.topics.refresh(p.d.ctx)
	if err != nil && !isDone(err) {
		p.d.o.Logger.Debug("no metadata from the cluster", "error", err)
	}
	now := time.Now()
	for _, l := range lanes {
		t := p.d.topics.cached(l.part.Topic)
		p.mu.Lock()
		switch {
		case err != nil:
			p.d.trouble.add(false, l, err)
			p.later(l)
		case t.has(l.part.Index):
			l.lost, l.missing = false, time.Time{}
			if t.leader(l.part.Index) < 0 {
				p.d.trouble.add(false, l, kerr.LeaderNotAvailable)
				p.later(l)
			}
		case l.missing.IsZero():
			l.missing = now
			p.later(l)
		case now.Sub(l.missing) < p.d.o.Grace:
			p.later(l)
		default:
			p.bury(l)
			continue
		}
		p.free(l)
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looking = false
	p.look()
}

// bury answers everything in a held lane whose topic is gone. It is called with the lock and returns without.
func (p *producer) bury(l *lane) {
	p.d.trouble.end(false, l, false)
	s, queue := l.shot, l.queue
	l.shot, l.queue, l.identity, l.lost, l.missing, l.tries = nil, nil, nil, false, time.Time{}, 0
	p.mu.Unlock()
	err := fmt.Errorf("append to %v: %w", l.part, eventlog.ErrUnknownTopic)
	if s != nil {
		if s.maybe {
			miss(p.d.rooms, s.jobs, unknown(err))
		} else {
			miss(p.d.rooms, s.jobs, err)
		}
	}
	miss(p.d.rooms, queue, err)
	p.mu.Lock()
	p.free(l)
	p.mu.Unlock()
}

// identify asks the cluster for a producer id and announces it.
func (p *producer) identify() {
	defer p.look()
	for n := 0; ; n++ {
		id, err := p.d.newIdentity(p.d.ctx)
		if err == nil {
			p.mu.Lock()
			p.identity, p.asking = id, false
			p.mu.Unlock()
			p.d.trouble.end(false, p, true)
			return
		}
		p.d.trouble.add(false, p, err)
		if !isDone(err) {
			p.d.o.Logger.Debug("no producer id", "error", err)
		}
		if p.d.pause(p.d.ctx, n) != nil {
			p.mu.Lock()
			p.asking = false
			p.mu.Unlock()
			return
		}
	}
}

func (d *Driver) newIdentity(ctx context.Context) (*identity, error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := req.RequestWith(ctx, d.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("init producer id: %w", err)
	}
	if err := d.reg.announce(ctx, resp.ProducerID, resp.ProducerEpoch); err != nil {
		return nil, err
	}
	return &identity{resp.ProducerID, resp.ProducerEpoch}, nil
}

// close waits until everything is answered, or until the driver's context ends; then it answers what is left.
func (p *producer) close() {
	p.mu.Lock()
	p.closing = true
	p.unrest()
	p.look()
	p.mu.Unlock()
	<-p.end
	// The context has ended if anything is left: requests and searches end soon.
	p.mu.Lock()
	for slices.ContainsFunc(p.order, func(l *lane) bool { return l.held }) {
		p.freed.Wait()
	}
	left := p.order
	p.order = nil
	p.mu.Unlock()
	for _, l := range left {
		if l.shot != nil {
			if l.shot.maybe {
				miss(p.d.rooms, l.shot.jobs, unknown(eventlog.ErrClosed))
			} else {
				miss(p.d.rooms, l.shot.jobs, eventlog.ErrClosed)
			}
		}
		miss(p.d.rooms, l.queue, eventlog.ErrClosed)
	}
}
