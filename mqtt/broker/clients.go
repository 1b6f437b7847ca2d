package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Client is what an operator is shown of a session and its connection. Numbers and times of a connection are of the present one.
type Client struct {
	session.Info
	Connected    bool
	Since        time.Time // connected, or not connected, since; zero: not known, the node has been restarted
	Seen         time.Time // when a packet of it came last, to a quarter of a second
	Address      string
	Listener     string
	Transport    string
	Version      packet.Version
	KeepAlive    uint16 // in force, seconds
	CleanStart   bool
	Waiting      int  // bytes that the client has not taken yet
	Slow         bool // as much waits for it as may
	BytesIn      int64
	BytesOut     int64
	MessagesIn   int64
	MessagesOut  int64
	PausedReason string // why it is not read; "": it is
}

// errNotRunning: there is no owner's loop to ask.
var errNotRunning = errors.New("the broker does not run, or reads its session state again")

// ask has the owner's loop make a call, and returns what it made.
func ask[T any](ctx context.Context, b *Broker, call func(o *owner, now int64) T) (result T, err error) {
	if b.owners == nil {
		return result, errNotRunning
	}
	o, made := b.owner.Load(), make(chan T, 1)
	o.post(func(now int64) { made <- call(o, now) })
	select {
	case result = <-made:
		return result, nil
	case <-o.done:
		return result, errNotRunning
	case <-ctx.Done():
		return result, fmt.Errorf("the sessions' loop is busy: %w", ctx.Err())
	}
}

// walkStep is how many of what is walked over the loop looks at before it does other work.
const walkStep = 256

// walk visits what a walk of the core brings, a step of the loop at a time. The visits are the caller's goroutine's.
func walk[T any](ctx context.Context, b *Broker, begin func(*session.Core) *session.Walk[T], visit func(*T)) error {
	select { // one at a time: they cost the loop as much as each is long
	case b.walking <- struct{}{}:
		defer func() { <-b.walking }()
	case <-ctx.Done():
		return fmt.Errorf("others look at the sessions: %w", ctx.Err())
	}
	if b.owners == nil {
		return errNotRunning
	}
	o := b.owner.Load()
	var w *session.Walk[T]
	steps, ended := make(chan []T, 1), make(chan struct{})
	buffer := make([]T, 0, walkStep)
	stop := func(int64) {
		if w != nil && !isClosed(ended) {
			w.Stop()
			close(ended)
		}
	}
	step := func(now int64) {
		if w == nil {
			w = begin(o.core)
		}
		list := w.Next(buffer[:0], walkStep)
		if len(list) < walkStep {
			stop(now)
		}
		steps <- list // there is room: the one before has been taken
	}
	for {
		o.post(step)
		select {
		case list := <-steps:
			for i := range list {
				visit(&list[i])
			}
			if len(list) < walkStep {
				return nil
			}
		case <-o.done:
			stop(0) // the loop is over: nobody else does
			return errNotRunning
		case <-ctx.Done():
			o.post(stop)
			go func() {
				select {
				case <-ended:
				case <-o.done:
					stop(0)
				}
			}()
			return fmt.Errorf("the sessions' loop is busy: %w", ctx.Err())
		}
	}
}

// Clients visits every session that want is true for, connected or not, in no order. A node that has many does other work meanwhile.
func (b *Broker) Clients(ctx context.Context, want func(k session.Key, connected bool) bool, visit func(*Client)) error {
	return walk(ctx, b, (*session.Core).Walk, func(in *session.Info) {
		if want(in.Key, in.Conn != nil) {
			c := b.client(in)
			visit(&c)
		}
	})
}

// client adds what its connection knows of a session.
func (b *Broker) client(in *session.Info) Client {
	x := Client{Info: *in}
	x.Conn = nil
	c, ok := in.Conn.(*conn)
	if !ok {
		if in.Offline > 0 {
			x.Since = time.UnixMilli(in.Offline)
			x.Seen = x.Since
		}
		return x
	}
	x.Connected = true
	x.Address, x.Listener, x.Transport = c.nc.RemoteAddr().String(), c.lis.o.Name, c.lis.o.Transport.Name()
	x.KeepAlive, x.CleanStart = c.keepAlive, c.cleanStart
	silent := time.Duration(max(0, b.roster.now.Load()-c.heard.Load())) * tick
	x.Seen = b.o.Now().Add(-silent)
	x.BytesIn, x.MessagesIn = c.bytesIn.Load(), c.messagesIn.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	x.Version, x.Since = c.version, b.began.Add(c.since)
	x.Waiting, x.Slow = c.out.bytes, c.out.full
	x.BytesOut, x.MessagesOut = c.out.written, c.out.delivered
	x.PausedReason = c.pausedFor()
	return x
}

// Client describes the session of a key, with its subscriptions and its history; false: there is none, but perhaps a history of one that was.
func (b *Broker) Client(ctx context.Context, k session.Key) (c Client, subs []session.Subscription, past []Event, ok bool, err error) {
	type answer struct {
		in   session.Info
		subs []session.Subscription
		ok   bool
	}
	a, err := ask(ctx, b, func(o *owner, _ int64) (a answer) {
		a.in, a.subs, a.ok = o.core.Session(k)
		return a
	})
	if err != nil {
		return c, nil, nil, false, err
	}
	if a.ok {
		c = b.client(&a.in)
	}
	return c, a.subs, b.history.find(k), a.ok, nil
}

// Find lists the keys of the sessions with a client id: one for each account that uses it. If there are none, it is those of which a history
// is left.
func (b *Broker) Find(ctx context.Context, clientID string) (keys []session.Key, err error) {
	err = walk(ctx, b, (*session.Core).Walk, func(in *session.Info) {
		if in.ClientID == clientID {
			keys = append(keys, in.Key)
		}
	})
	if err == nil && len(keys) == 0 {
		keys = b.history.named(clientID)
	}
	return keys, err
}

// Reasons that the end of a connection is counted and remembered under.
const (
	reasonKicked    = "kicked"
	reasonTakenOver = "session_taken_over"
)

const kickWithin = 10 * time.Second // that the owner's loop may take to look at it

// Kick ends the connection of a session with a code; false: it has none. The session stays, and the will fires: it was not the client who
// said goodbye.
func (b *Broker) Kick(k session.Key, code packet.Code) bool {
	ctx, cancel := context.WithTimeout(b.ctx, kickWithin)
	defer cancel()
	done, err := ask(ctx, b, func(o *owner, _ int64) bool {
		in, _, _ := o.core.Session(k)
		c, ok := in.Conn.(*conn)
		if ok {
			c.endAs(code, "the connection was ended by an administrator", reasonKicked)
		}
		return ok
	})
	return done && err == nil
}

// EndSession ends a session for good, connected or not: its will fires, and what is queued for it is given up. It returns how many
// deliveries that was, once no restart can bring the session back. Errors are session.ErrNoSession, session.ErrBusy, or of waiting.
func (b *Broker) EndSession(ctx context.Context, k session.Key) (given int64, err error) {
	type ended struct {
		given int64
		err   error
	}
	told := make(chan ended, 1)
	if _, err := ask(ctx, b, func(o *owner, now int64) bool {
		o.core.EndSession(now, k, packet.AdministrativeAction, func(n int64, err error) { told <- ended{n, err} })
		return true
	}); err != nil {
		return 0, err
	}
	select {
	case e := <-told:
		if e.err == nil {
			b.tell(k, EventEnded, "")
		}
		return e.given, e.err
	case <-ctx.Done():
		return 0, fmt.Errorf("the end of the session is not written yet: %w", ctx.Err())
	}
}

// Receivers says who would get a message on a topic now, at most n of them, and how many there are.
func (b *Broker) Receivers(ctx context.Context, topic string, n int) (list []session.Receiver, total int, err error) {
	type answer struct {
		list  []session.Receiver
		total int
	}
	a, err := ask(ctx, b, func(o *owner, _ int64) (a answer) {
		a.list, a.total = o.core.Receivers(topic, n)
		return a
	})
	return a.list, a.total, err
}

// retainedLooks is how many names a step of the loop looks at for Retained.
const retainedLooks = 4096

// Retained lists the retained messages that a filter matches, in order of topic and behind after, at most n of them. more tells that there
// may be others behind last.
func (b *Broker) Retained(ctx context.Context, filter, after string, n int) (list []session.RetainedInfo, last string, more bool, err error) {
	type page struct {
		list []session.RetainedInfo
		last string
		done bool
	}
	for last = after; ; {
		from, left := last, n-len(list)
		p, err := ask(ctx, b, func(o *owner, _ int64) (p page) {
			p.list, p.last, p.done = o.core.RetainedPage(filter, from, left, retainedLooks)
			return p
		})
		if err != nil {
			return nil, "", false, err
		}
		list, last = append(list, p.list...), p.last
		if p.done || len(list) >= n {
			return list, last, !p.done, nil
		}
	}
}

// Topics visits the topics that messages have come on, as far as they are known one by one, and returns the sum of the others, and since
// when they are counted: since the session state was read, which is the node's start as a rule.
func (b *Broker) Topics(ctx context.Context, visit func(*session.TopicCount)) (others session.TopicCount, since time.Time, err error) {
	if err := walk(ctx, b, (*session.Core).Topics, visit); err != nil {
		return others, since, err
	}
	since = b.owner.Load().born
	others, err = ask(ctx, b, func(o *owner, _ int64) session.TopicCount {
		sum, _ := o.core.OtherTopics()
		return sum
	})
	return others, since, err
}

// Groups lists the groups of shared subscriptions.
func (b *Broker) Groups(ctx context.Context) ([]session.Group, error) {
	return ask(ctx, b, func(o *owner, _ int64) []session.Group { return o.core.Groups() })
}
