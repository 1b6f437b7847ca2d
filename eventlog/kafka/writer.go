package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// writer is the claim on one partition. Its goroutine lives while there is work: it takes what is waiting, commits it in one
// transaction, and answers.
type writer struct {
	d     *Driver
	part  eventlog.Part
	epoch int64

	mu      sync.Mutex
	freed   *sync.Cond
	queue   []*job
	running bool
	spent   error // why nothing can be appended any more
	limit   int   // up to which jobs are merged
	single  int   // the next so many transactions carry one job each

	txn txn // used by the running goroutine
}

// Claim implements eventlog.Driver. The order matters: InitProducerID fences the earlier writer at the coordinator, so that
// nothing of his can be committed any more; then the claim is counted; then an aborted transaction in the partition makes
// its leader know the new epoch, so that nothing of his can even be appended, and proves that nobody claimed after us.
func (d *Driver) Claim(ctx context.Context, p eventlog.Part) (eventlog.Writer, error) {
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	t, err := d.topics.fresh(ctx, p.Topic)
	if err == nil && !t.has(p.Index) {
		err = eventlog.ErrUnknownTopic
	}
	if err != nil {
		return nil, d.fail(err, "claim %v", p)
	}
	w := &writer{d: d, part: p, limit: d.o.BatchBytes, txn: txn{d: d, id: fmt.Sprintf("%sclaim-%v-%d", eventlog.InternalPrefix, p.Topic, p.Index)}}
	w.freed = sync.NewCond(&w.mu)
	if err := w.txn.init(ctx); err != nil {
		return nil, d.fail(err, "claim %v", p)
	}
	if w.epoch, err = d.reg.claim(ctx, p); err != nil {
		return nil, d.fail(err, "claim %v", p)
	}
	defer d.trouble.end(false, &w.txn, false)
	if err := w.mark(ctx); err != nil {
		return nil, d.fail(err, "claim %v", p)
	}
	if err := d.settle(ctx, p); err != nil {
		return nil, d.fail(err, "claim %v: wait until what is there is stable", p)
	}
	d.vet(p.Topic)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, eventlog.ErrClosed
	}
	d.writers[w] = struct{}{}
	return w, nil
}

// mark leaves a record in an aborted transaction in the partition.
func (w *writer) mark(ctx context.Context) error {
	var bl eventlog.Builder
	bl.Add(time.Now().UnixMilli(), []byte("millrace-claim"), nil, nil)
	b, _, err := bl.Batch(w.part, eventlog.None)
	if err != nil {
		return err
	}
	s := &shot{part: w.part, raw: b.Raw(), count: 1}
	s.aim(w.txn.pid, w.txn.epoch, w.txn.seq[w.part], true)
	if err := w.txn.enter(ctx, []*shot{s}); err != nil {
		return err
	}
	if err := w.txn.send(ctx, s); err != nil {
		return err
	}
	return w.txn.finish(ctx, false)
}

// settle waits until everything in a partition is stable. Only a transaction that is not ours could hold that up.
func (d *Driver) settle(ctx context.Context, p eventlog.Part) error {
	high, err := d.highWatermark(ctx, p)
	for n := 0; err == nil; n++ {
		var ends []int64
		if ends, err = d.Ends(ctx, p.Topic); err == nil {
			if ends[p.Index] >= high {
				return nil
			}
			err = d.pause(ctx, n)
		}
	}
	return err
}

// Epoch implements eventlog.Writer.
func (w *writer) Epoch() int64 { return w.epoch }

// Append implements eventlog.Writer.
func (w *writer) Append(b *eventlog.Batch, done func(eventlog.Outcome)) {
	err := whole(b)
	if err == nil && b.Part != w.part {
		err = fmt.Errorf("append to %v: %w: the writer has claimed %v", b.Part, eventlog.ErrInvalid, w.part)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		err = w.spent
	}
	if err != nil {
		go done(eventlog.Outcome{Err: err})
		return
	}
	j := &job{b: b, size: cost(b), done: done}
	w.d.rooms.take(b.Part, j.size)
	w.queue = append(w.queue, j)
	if !w.running {
		w.running = true
		go w.run()
	}
}

func (w *writer) run() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > 0 {
		limit := w.limit
		if w.single > 0 {
			limit = 0
			w.single--
		}
		s, err := load(w.part, w.queue, limit)
		if err != nil {
			s = &shot{jobs: w.queue[:1:1]}
		}
		w.queue = w.queue[len(s.jobs):]
		w.mu.Unlock()
		if err != nil {
			miss(w.d.rooms, s.jobs, fmt.Errorf("append to %v: %w: %w", w.part, eventlog.ErrInvalid, err))
		} else {
			w.fire(s)
		}
		w.mu.Lock()
	}
	w.running = false
	w.freed.Broadcast()
	if w.spent != nil { // nothing more for Close to wait for
		w.d.mu.Lock()
		defer w.d.mu.Unlock()
		delete(w.d.writers, w)
	}
}

// fire commits one shot and answers its jobs, or puts them back to come one by one.
func (w *writer) fire(s *shot) {
	refused, err := w.txn.commit(w.d.ctx, []*shot{s})
	if err == nil {
		s.hit(w.d.rooms)
		return
	}
	if why := refused[s]; why != nil {
		if len(s.jobs) > 1 {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.single += len(s.jobs)
			w.queue = append(s.jobs, w.queue...)
			if errors.Is(why, eventlog.ErrTooLarge) {
				w.limit = len(s.raw) / 2
			}
			return
		}
		miss(w.d.rooms, s.jobs, why)
		return
	}
	if isDone(err) {
		err = errors.Join(eventlog.ErrClosed, err)
	}
	w.spend(err, s.jobs)
}

// spend answers jobs with why they failed, and everything after them as fenced: the writer has lost its claim, or does not
// know what became of an append.
func (w *writer) spend(err error, jobs []*job) {
	w.mu.Lock()
	fence := eventlog.ErrFenced
	switch {
	case errors.Is(err, eventlog.ErrUnknownTopic):
		fence = eventlog.ErrUnknownTopic
	case errors.Is(err, eventlog.ErrClosed):
		fence = eventlog.ErrClosed
	}
	if w.spent == nil {
		w.spent = fmt.Errorf("writer %d of %v: %w", w.epoch, w.part, fence)
	}
	rest, spent := w.queue, w.spent
	w.queue = nil
	w.mu.Unlock()
	miss(w.d.rooms, jobs, fmt.Errorf("append to %v: %w", w.part, err))
	miss(w.d.rooms, rest, spent)
}

// close waits until everything is answered; the end of the driver's context hurries that.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.spent == nil {
		w.spent = fmt.Errorf("writer %d of %v: %w", w.epoch, w.part, eventlog.ErrClosed)
	}
	for w.running {
		w.freed.Wait()
	}
}

// atomics carries out AppendAtomic: one transaction per call, one after the other, under a transactional id of this process.
type atomics struct {
	d   *Driver
	txn txn

	mu      sync.Mutex
	queue   []*group
	running bool
	closing bool
	end     chan struct{} // closed when it is closing and nothing runs
}

type group struct {
	jobs []*job
	done func([]eventlog.Outcome)
	outs []eventlog.Outcome
}

func (g *group) fail(err error) {
	for i := range g.outs {
		g.outs[i] = eventlog.Outcome{Err: err}
	}
}

func (a *atomics) append(batches []*eventlog.Batch, done func([]eventlog.Outcome)) {
	g := &group{done: done, outs: make([]eventlog.Outcome, len(batches))}
	var err error
	for _, b := range batches {
		g.jobs = append(g.jobs, &job{b: b, size: cost(b)})
		if e := whole(b); e != nil {
			err = e
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		err = eventlog.ErrClosed
	}
	if err != nil || len(batches) == 0 {
		g.fail(err)
		go done(g.outs)
		return
	}
	for _, j := range g.jobs {
		a.d.rooms.take(j.b.Part, j.size)
	}
	a.queue = append(a.queue, g)
	if !a.running {
		a.running = true
		go a.run()
	}
}

func (a *atomics) run() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) > 0 {
		g := a.queue[0]
		a.queue = a.queue[1:]
		a.mu.Unlock()
		a.fire(g)
		for _, j := range g.jobs {
			a.d.rooms.give(j.b.Part, j.size)
		}
		g.done(g.outs)
		a.mu.Lock()
	}
	a.running = false
	if a.closing {
		close(a.end)
	}
}

func (a *atomics) fire(g *group) {
	shots, of, err := g.load()
	if err != nil {
		g.fail(err)
		return
	}
	refused, err := a.commit(shots)
	if err != nil {
		g.fail(a.why(err))
		for i := range g.outs {
			if why := refused[of[i]]; why != nil {
				g.outs[i].Err = a.why(why)
			}
		}
		return
	}
	g.placed(of)
}

// placed says where the batches of a committed group are; of[i] is the shot of the i-th.
func (g *group) placed(of []*shot) {
	next := map[*shot]int64{}
	for i, j := range g.jobs {
		s := of[i]
		g.outs[i] = eventlog.Outcome{Base: s.base + next[s]}
		next[s] += int64(j.b.Len())
	}
}

// commit commits shots, and takes the transactional id over again when the cluster has taken it from us, which only time-outs
// do: nobody else knows it.
func (a *atomics) commit(shots []*shot) (refused map[*shot]error, err error) {
	for range 3 {
		if !a.txn.started {
			if err := a.txn.init(a.d.ctx); err != nil {
				return nil, err
			}
		}
		refused, err = a.txn.commit(a.d.ctx, shots)
		if err != nil && !errors.Is(err, errAborted) {
			a.txn.started = false
		}
		if !errors.Is(err, eventlog.ErrFenced) {
			break
		}
	}
	return refused, err
}

func (a *atomics) why(err error) error {
	if isDone(err) && a.d.ctx.Err() != nil {
		err = errors.Join(eventlog.ErrClosed, err)
	}
	return fmt.Errorf("append atomically: %w", err)
}

// load makes one shot per partition of the group, and says which batch is in which.
func (g *group) load() (shots []*shot, of []*shot, err error) {
	byPart := map[eventlog.Part][]*job{}
	for _, j := range g.jobs {
		byPart[j.b.Part] = append(byPart[j.b.Part], j)
	}
	made := map[eventlog.Part]*shot{}
	for _, j := range g.jobs {
		p := j.b.Part
		if made[p] == nil {
			s, err := load(p, byPart[p], 1<<30)
			if err != nil {
				return nil, nil, fmt.Errorf("%w: %w", eventlog.ErrInvalid, err)
			}
			if len(s.jobs) != len(byPart[p]) {
				return nil, nil, fmt.Errorf("%w: batches for %v with different compressions in one atomic append", eventlog.ErrInvalid, p)
			}
			made[p] = s
			shots = append(shots, s)
		}
		of = append(of, made[p])
	}
	return shots, of, nil
}

// close waits until everything is answered; the end of the driver's context hurries that.
func (a *atomics) close() {
	a.mu.Lock()
	a.closing = true
	if !a.running {
		close(a.end)
	}
	a.mu.Unlock()
	<-a.end
}
