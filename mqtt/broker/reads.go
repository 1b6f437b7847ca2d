package broker

import (
	"context"
	"sort"
	"sync"

	"github.com/millrace-io/millrace/mqtt/session"
)

// readers read the log for sessions that lag, a few at a time. What was read is remembered for a while: sessions that come back
// together ask for the same.
type readers struct {
	o      *owner
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	wake   *sync.Cond
	queue  []readRequest
	recent []session.Batch // the latest last
	bytes  int
}

type readRequest struct {
	token    uint64
	pos      session.Position
	maxBytes int
	asks     []session.HistoryAsk // instead of pos: where does history begin?
}

const (
	recentBatches = 1024
	recentBytes   = 8 << 20
)

func newReaders(o *owner) *readers {
	r := &readers{o: o}
	r.ctx, r.cancel = context.WithCancel(o.b.ctx)
	r.wake = sync.NewCond(&r.mu)
	context.AfterFunc(r.ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.wake.Broadcast()
	})
	for range o.b.o.Limits.Readers {
		o.b.work.Go(r.run)
	}
	return r
}

func (r *readers) push(q readRequest) {
	r.mu.Lock()
	r.queue = append(r.queue, q)
	r.mu.Unlock()
	r.wake.Signal()
}

func (r *readers) run() {
	for {
		q, b, known := r.next()
		if r.ctx.Err() != nil {
			return
		}
		if q.asks != nil {
			r.answer(q)
			continue
		}
		var err error
		if !known {
			b, err = r.read(q)
		}
		r.o.post(func(now int64) { r.o.core.ReadDone(now, q.token, b, err) })
	}
}

// read asks the store. A read that panics has failed, and is tried again.
func (r *readers) read(q readRequest) (b session.Batch, err error) {
	err = guard(func() (err error) {
		if b, err = r.o.b.store.Read(r.ctx, q.pos, q.maxBytes); err == nil {
			r.remember(b)
			b = from(b, q.pos.Offset)
		}
		return err
	})
	r.o.b.notePanic("read", err)
	return b, err
}

// next waits for a request, and answers it from memory if it can.
func (r *readers) next() (q readRequest, b session.Batch, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 && r.ctx.Err() == nil {
		r.wake.Wait()
	}
	if r.ctx.Err() != nil {
		return q, b, false
	}
	q = r.queue[0]
	r.queue = r.queue[1:]
	if q.asks == nil {
		b, known = r.recall(q.pos)
	}
	return q, b, known
}

// recall finds a recent batch that holds pos, without what lies before pos.
func (r *readers) recall(pos session.Position) (session.Batch, bool) {
	for i := len(r.recent) - 1; i >= 0; i-- {
		b := &r.recent[i]
		if b.Part != pos.Part || pos.Offset < b.Base || pos.Offset >= b.Next {
			continue
		}
		return from(*b, pos.Offset), true
	}
	return session.Batch{}, false
}

// from is a batch without what lies before an offset.
func from(b session.Batch, offset int64) session.Batch {
	b.Msgs = b.Msgs[sort.Search(len(b.Msgs), func(i int) bool { return b.Msgs[i].Offset >= offset }):]
	b.Base = offset
	return b
}

func (r *readers) remember(b session.Batch) {
	size := batchBytes(&b)
	if len(b.Msgs) == 0 || size > recentBytes/4 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent = append(r.recent, b)
	r.bytes += size
	for len(r.recent) > recentBatches || r.bytes > recentBytes {
		r.bytes -= batchBytes(&r.recent[0])
		r.recent[0] = session.Batch{}
		r.recent = r.recent[1:]
	}
}

func batchBytes(b *session.Batch) (n int) {
	for i := range b.Msgs {
		n += 128 + len(b.Msgs[i].Topic) + len(b.Msgs[i].Payload)
	}
	return n
}
