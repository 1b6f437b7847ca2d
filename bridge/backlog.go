package bridge

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
)

// backlog counts the bytes that are in the log for the remote, ahead of the sender, so that buffer.max_bytes can be held. It reads the
// log a second time, in a goroutine of its own, and only where there is such a bound.
type backlog struct {
	b     *bridge
	total atomic.Int64

	anew chan struct{} // of one
}

// waiting is how many bytes wait for who has passed so many.
func (l *backlog) waiting(passed int64) int64 { return l.total.Load() - passed }

// restart counts from the sender's place again: the log has lost what was counted already.
func (l *backlog) restart() {
	select {
	case l.anew <- struct{}{}:
	default:
	}
}

func (l *backlog) run(ctx context.Context) {
	var tail broker.Tail
	defer func() {
		if tail != nil {
			tail.Close()
		}
	}()
	var into []broker.TailEvent
	for ctx.Err() == nil {
		var wake <-chan struct{}
		var again <-chan time.Time
		if tail == nil {
			var err error
			l.total.Store(l.b.sender.passed.Load())
			if tail, err = l.b.set.o.Store.Follow(l.b.books.vector()); err != nil {
				l.b.failed("read the log", err)
				again = time.After(tailRetry)
			}
		}
		if tail != nil {
			events, err := tail.Poll(into[:0], pollBytes)
			for i := range events {
				l.add(&events[i])
			}
			busy := len(events) > 0
			clear(events)
			into, wake = events, tail.Wake()
			if err != nil {
				again = time.After(tailRetry)
			} else if busy {
				continue
			}
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-again:
		case <-l.anew:
			if tail != nil {
				tail.Close()
				tail = nil
			}
		}
	}
}

func (l *backlog) add(e *broker.TailEvent) {
	if e.Batch == nil {
		return
	}
	sum := 0
	for i := range e.Batch.Msgs {
		m := &e.Batch.Msgs[i]
		if t, _, _ := l.b.wanted(m); t != nil && m.Offset >= e.Batch.Base {
			sum += len(m.Payload)
		}
	}
	l.total.Add(int64(sum))
}
