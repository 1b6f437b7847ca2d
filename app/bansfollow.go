package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/broker"
)

// followBans has bans that other nodes of the cluster make, and lift, be in force here. An embedded log has no other nodes.
func (n *Node) followBans(context.Context) error {
	if n.cluster == nil {
		return nil
	}
	b := n.bans
	tail, err := n.log.Tail(eventlog.Vector{b.part: b.next})
	if err != nil {
		return fmt.Errorf("follow topic %q: %w", bansTopic, err)
	}
	b.mu.Lock()
	b.follows, b.settled.L = true, &b.mu
	b.mu.Unlock()
	f := &banFollower{book: b, tail: tail, broker: n.broker, ended: make(chan struct{}), said: func(err error) {
		n.o.Logger.Error("what other nodes say of bans is not heard", "part", "bans", "err", err)
	}}
	n.bansFollow = f
	go f.run()
	return nil
}

func (n *Node) unfollowBans(context.Context) error {
	if n.bansFollow != nil {
		n.bansFollow.close()
	}
	return nil
}

// banFollower reads what is written to the topic, our own records too: who is banned is what the last of them says, on every node.
type banFollower struct {
	book   *banBook
	tail   eventlog.Tail
	broker *broker.Broker
	said   func(error)
	ended  chan struct{}
}

func (f *banFollower) close() {
	f.book.mu.Lock()
	f.book.closing = true
	f.book.settled.Broadcast()
	f.book.mu.Unlock()
	f.tail.Close()
	f.tail.Poke()
	<-f.ended
}

func (f *banFollower) run() {
	defer close(f.ended)
	var events []eventlog.Event
	for {
		var err error
		events, err = f.tail.Poll(events[:0], 1<<20)
		if errors.Is(err, eventlog.ErrClosed) {
			return
		}
		if err != nil {
			f.said(err)
		}
		for _, ev := range events {
			switch {
			case ev.Kind == eventlog.Deleted, ev.Kind == eventlog.Recreated:
				f.said(fmt.Errorf("topic %q was deleted; start the nodes again", bansTopic))
			case ev.Batch != nil:
				err = ev.Batch.Each(func(r *eventlog.Record) error {
					f.hear(r)
					return nil
				})
				if err != nil {
					f.said(err)
				}
			}
		}
		if len(events) == 0 {
			<-f.tail.Wake()
		}
	}
}

// hear takes over what a record says, unless we have said something later.
func (f *banFollower) hear(r *eventlog.Record) {
	k, w, ok := decodeBan(r)
	if !ok || !f.book.wants(k, r.Offset) {
		return
	}
	x := w.ban
	if x == nil {
		b, _ := k.ban(&banValue{})
		if w.over.IsZero() {
			f.broker.HearUnban(b)
		} else if now, banned := f.broker.BanOf(b); banned && !w.touches(&now) { // it hides another ban from who reads the topic later
			f.book.repeat(k, now)
		}
		return
	}
	if f.book.isOver(x) {
		return
	}
	if err := f.broker.HearBan(*x); err != nil {
		f.said(fmt.Errorf("%+v: %w", k, err))
	}
}

// wants tells whether a record may be the last word: it waits until what we are about to write of the same key has its place in the log, and passes over
// what is before that. Our own last one counts too: what we said while one of another node was being taken over is in the log after it, but may have been
// in force here before it.
func (b *banBook) wants(k banKey, offset int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closing {
		if w, waits := b.pending[k]; !waits || !w.over.IsZero() {
			break
		}
		b.settled.Wait()
	}
	at, ours := b.wrote[k]
	if ours && offset >= at {
		delete(b.wrote, k)
	}
	return !b.closing && (!ours || offset >= at)
}
