package broker

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/session"
)

// Counts hands over what the session cores have counted of deliveries since the last call, oldest first: more than one if a core has
// failed meanwhile. It works on a broker that is closed too. When ctx ends first, what is missing comes with the next call.
func (b *Broker) Counts(ctx context.Context) []session.Counts {
	if b.owners != nil {
		o := b.owner.Load()
		done := make(chan struct{})
		o.post(func(now int64) {
			o.count(now)
			close(done)
		})
		select {
		case <-done:
		case <-o.done:
		case <-ctx.Done():
		}
	}
	return b.left.take()
}

// count leaves what the core has counted for Counts. The books visit every session: they are not made all the time.
func (o *owner) count(now int64) {
	began, books := time.Now(), now >= o.nextBooks
	c := o.core.Counts(books)
	if books {
		o.nextBooks = now + 100*time.Since(began).Milliseconds()
	}
	o.b.left.put(c)
}

// leftCounts wait for Broker.Counts.
type leftCounts struct {
	mu      sync.Mutex
	list    []session.Counts
	matched session.Vector // how far all cores so far have counted what is owed
}

func (l *leftCounts) put(c session.Counts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, c)
	if l.matched == nil {
		l.matched = session.Vector{}
	}
	for p, next := range c.Matched {
		l.matched[p] = max(l.matched[p], next)
	}
}

func (l *leftCounts) counted() session.Vector {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.matched)
}

func (l *leftCounts) take() []session.Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

// lastCount is that of a loop that has ended.
func (o *owner) lastCount() {
	if o.core == nil {
		return
	}
	// What made the loop end may end this as well; then its counts are gone with it.
	_ = guard(func() error {
		o.b.left.put(o.core.Counts(true))
		return nil
	})
}
