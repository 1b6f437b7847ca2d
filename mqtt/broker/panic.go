package broker

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// A panic is a bug, and whatever a client has sent must not make it the end of the program, nor a silence. One in the owner's loop ends
// the owner, and the next one reads the log again; one in what is done for a connection ends that connection; each is counted and
// logged. Locks are held across nothing that calls further than this package, or by a deferred unlock.

// guard makes an error of a panic.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicked{r, debug.Stack()}
		}
	}()
	return f()
}

// panicked is the error that a panic was made.
type panicked struct {
	what  any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v\n%s", p.what, p.stack) }

// survive runs f, and notes where it panicked if it does; then it is false.
func (b *Broker) survive(where string, f func()) bool {
	return !b.notePanic(where, guard(func() error { f(); return nil }))
}

// notePanic counts and logs an error that was a panic.
func (b *Broker) notePanic(where string, err error) bool {
	var p *panicked
	if !errors.As(err, &p) {
		return false
	}
	b.stats.panics.add(where, 1)
	//nolint:errcheck // a logger that panics too has nothing to say
	guard(func() error {
		b.samples.warn("panic: please report it", "where", where, "panic", fmt.Sprint(p.what), "stack", string(p.stack))
		return nil
	})
	return true
}

var errPanicked = errors.New("a panic ended the connection")

// abandonBurst settles what a panic has left of the burst that the reader was at.
func (c *conn) abandonBurst() {
	s := c.doing
	if s == nil {
		return
	}
	c.doing = nil
	if s.flight != nil { // gathered, and not on its way
		c.settleAll(s.flight.promised())
	}
	if s.sending != nil {
		c.b.stats.appending.Add(-int64(len(s.msgs)))
		c.giveBack(s.sending)
		c.abandon(s.sending)
	}
}

// abandon settles what a flight on its way promised that a panic has cut short. One that has landed may be another connection's by now.
func (c *conn) abandon(f *flight) {
	c.mu.Lock()
	var list []receipt
	for under := c.first; under != nil; under = under.next {
		if under == f {
			list = f.promised()
		}
	}
	c.mu.Unlock()
	c.settleAll(list)
}

// promised are the receipts of messages of QoS 2 that are not decided.
func (f *flight) promised() (list []receipt) {
	for _, r := range f.receipts {
		if r.kind == packet.PUBREC && r.msg != noMessage {
			list = append(list, r)
		}
	}
	return list
}

// settleAll frees ids of QoS 2, which must not wait for ever for an answer that does not come. The client's resend decides; it carries
// the same triple.
func (c *conn) settleAll(list []receipt) {
	for i := range list {
		c.b.survive("receipts", func() { c.settle(&list[i], errPanicked) })
	}
}
