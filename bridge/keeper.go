package bridge

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// keeper writes how far one bridge is: now and then, and whenever somebody waits for it. One goroutine; writes that are asked for while
// one is under way are one.
type keeper struct {
	b     *bridge
	kicks chan struct{}
	done  chan struct{} // closed when run has ended

	mu     sync.Mutex
	asked  uint64
	saved  uint64        // what was asked for up to here is durable
	again  chan struct{} // closed and made anew with each write
	last   []byte        // of run: what is durable
	failed bool          // of run: the last write
}

func newKeeper(b *bridge) *keeper {
	return &keeper{b: b, kicks: make(chan struct{}, 1), again: make(chan struct{}), done: make(chan struct{})}
}

func (k *keeper) kick() {
	select {
	case k.kicks <- struct{}{}:
	default:
	}
}

// save waits until what the books say now is durable.
func (k *keeper) save(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	want := k.asked
	k.kick()
	for k.saved < want {
		again := k.again
		k.mu.Unlock()
		var err error
		select {
		case <-again:
		case <-ctx.Done():
			err = ctx.Err()
		case <-k.done:
			err = eventlog.ErrClosed
		}
		k.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *keeper) run(ctx context.Context) {
	defer close(k.done)
	tick := time.NewTicker(k.b.set.o.SaveEvery)
	defer tick.Stop()
	for {
		select {
		case <-k.kicks:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !k.write(ctx) {
			return
		}
	}
}

// write saves once; false: nothing can be saved any more.
func (k *keeper) write(ctx context.Context) bool {
	k.mu.Lock()
	asked := k.asked
	k.mu.Unlock()
	s, release := k.b.books.snapshot()
	s.remote, s.received = k.b.subscribed(), k.b.receiver.leftOver()
	if value := s.encode(); !bytes.Equal(value, k.last) {
		if err := k.b.set.ledger.save(ctx, bridgeKey(k.b.spec.Name), value); err != nil {
			return k.notSaved(ctx, err)
		}
		k.last, k.failed = value, false
	}
	k.b.books.tell(release)
	for _, f := range release {
		k.b.mqtt.Release(f.id)
	}
	k.mu.Lock()
	k.saved = asked
	close(k.again)
	k.again = make(chan struct{})
	k.mu.Unlock()
	return true
}

func (k *keeper) notSaved(ctx context.Context, err error) bool {
	switch {
	case ctx.Err() != nil, errors.Is(err, eventlog.ErrClosed):
		return false
	case errors.Is(err, eventlog.ErrFenced):
		k.b.fence(err)
		return false
	}
	if !k.failed {
		k.b.failed("save how far it is", err)
	}
	k.failed = true
	return true // with the next tick
}
