package kafkawire

import (
	"context"
	"net"
	"sync"

	"github.com/millrace-io/millrace/eventlog/engine"
)

// reply is a response's place in its connection's order.
type reply struct {
	later  bool               // it goes when it is settled
	finish func(*frame) error // nil, or makes the frame when it is the reply's turn; an error ends the connection
	slow   bool               // finish may wait
	frame  frame
	sent   func() // nil, or called when the frame is written, or could not be. Not of one that never had its turn: the collector has that

	settled bool // by replies.settle
}

// frame is a response on its way out, whole, with its length before it. Empty: nothing is sent.
type frame struct {
	bufs  net.Buffers
	files []filePiece
}

// filePiece is a part of a file that is sent before bufs[before].
type filePiece struct {
	before int
	span   engine.Span
}

// reset makes it a reply that is not settled yet.
func (r *reply) reset() {
	clear(r.frame.bufs)
	clear(r.frame.files)
	r.settled, r.frame = false, frame{r.frame.bufs[:0], r.frame.files[:0]}
}

// replies are a connection's, in the order of the requests. The reader puts them. The writer takes the first as soon as it goes, and is not
// woken before: what is durable together is answered together.
type replies struct {
	wake chan struct{} // one token, the writer's: the first goes, or there will be no more
	room chan struct{} // one token, the reader's: there are fewer than maxInFlight again

	mu     sync.Mutex
	due    []*reply
	head   int  // those before it are taken
	closed bool // the reader has ended
	gone   bool // the writer has
}

func newReplies() replies {
	return replies{wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func (q *replies) waiting() int { return len(q.due) - q.head }

// goes tells whether the first one can be taken.
func (q *replies) goes() bool {
	return q.waiting() > 0 && (!q.due[q.head].later || q.due[q.head].settled)
}

// put adds a reply once there is room; false: it will not be sent.
func (q *replies) put(ctx context.Context, rep *reply) bool {
	q.mu.Lock()
	for !q.gone && q.waiting() >= maxInFlight {
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-ctx.Done():
			return false
		}
		q.mu.Lock()
	}
	defer q.mu.Unlock()
	if q.gone {
		return false
	}
	if q.head >= maxInFlight {
		n := copy(q.due, q.due[q.head:])
		clear(q.due[n:])
		q.due, q.head = q.due[:n], 0
	}
	q.due = append(q.due, rep)
	if q.waiting() == 1 && q.goes() {
		signal(q.wake)
	}
	return true
}

// settle says that a later reply goes now, put or not yet. From here on it is the writer's.
func (q *replies) settle(rep *reply) {
	q.mu.Lock()
	defer q.mu.Unlock()
	rep.settled = true
	if q.waiting() > 0 && q.due[q.head] == rep {
		signal(q.wake)
	}
}

// take returns the first reply if it goes; over: there will be none any more.
func (q *replies) take() (rep *reply, over bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.goes() {
		return nil, q.closed && q.waiting() == 0
	}
	if rep = q.due[q.head]; q.waiting() == maxInFlight {
		signal(q.room)
	}
	q.due[q.head] = nil
	if q.head++; q.waiting() == 0 {
		q.due, q.head = q.due[:0], 0
	}
	return rep, false
}

// wait waits for another look at take.
func (q *replies) wait(ctx context.Context) error {
	select {
	case <-q.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close says that no more are put.
func (q *replies) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	signal(q.wake)
}

// abandon says that no more are taken, and returns those that are left.
func (q *replies) abandon() []*reply {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.gone = true
	return q.due[q.head:]
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
