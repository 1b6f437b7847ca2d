package broker_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
)

// brokenStore panics when it is told to.
type brokenStore struct {
	*memStore
	appends, reads atomic.Bool
}

func (s *brokenStore) Append(msgs []session.Message, done func([]session.Result)) <-chan struct{} {
	if s.appends.Load() {
		panic("append")
	}
	return s.memStore.Append(msgs, done)
}

func (s *brokenStore) Read(ctx context.Context, pos session.Position, maxBytes int) (session.Batch, error) {
	if s.reads.Load() {
		panic("read")
	}
	return s.memStore.Read(ctx, pos, maxBytes)
}

func TestPanicOfTheStore(t *testing.T) {
	var store *brokenStore
	n := newNode(t, func(o *broker.Options) {
		store = &brokenStore{memStore: o.Store.(*memStore)}
		o.Store = store
	})
	s := n.connected("CONNECT v5 id=s expiry=100")
	s.send("SUBSCRIBE #1 x:1")
	s.expect("SUBACK #1 0x01")
	s.nc.Close()
	eventually(t, "the subscriber to be away", func() bool { return n.b.Stats().Connections == 0 }) // or it would be sent, and sent again
	p := n.connected("CONNECT v5 id=p expiry=100")
	other := n.connected("CONNECT v5 clean id=other")
	store.appends.Store(true)
	p.send(`PUBLISH q2 #5 t=x "m"`)
	p.expectClosed()
	eventually(t, "the panic to be counted", func() bool { return n.b.Stats().Panics["connection"] == 1 })
	store.appends.Store(false)
	p = n.dial()
	p.send("CONNECT v5 id=p expiry=100")
	p.expect("CONNACK present")
	p.send(`PUBLISH q2 #5 t=x "m"`) // the id is not stuck
	p.expect("PUBREC #5")
	p.send("PUBREL #5")
	p.expect("PUBCOMP #5")
	if x := n.b.Stats().Appending; x != 0 {
		t.Errorf("%d messages are on their way for ever", x)
	}

	store.reads.Store(true)
	s = n.dial()
	s.send("CONNECT v5 id=s expiry=100")
	s.expect("CONNACK present")
	eventually(t, "a read to panic", func() bool { return n.b.Stats().Panics["read"] > 0 })
	store.reads.Store(false)
	s.expect(`PUBLISH q1 #1 t=x "m"`)
	other.send(`PUBLISH q1 #1 t=y "m"`)
	other.expect("PUBACK #1")
}

// notPublish panics when a client publishes on a topic.
type notPublish struct{}

func (notPublish) Allowed(_ session.Key, a broker.Action, topic string) bool {
	if a == broker.Publish && topic == "bad" {
		panic("authorizer")
	}
	return true
}

// What a burst has gathered before the panic is not on its way, and its ids are free again.
func TestPanicInABurst(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Authorizer = notPublish{} })
	p := n.connected("CONNECT v5 id=p expiry=100")
	p.send(`PUBLISH q2 #5 t=x "m"`, `PUBLISH q1 #6 t=bad "m"`)
	p.expectClosed()
	p = n.dial()
	p.send("CONNECT v5 id=p expiry=100")
	p.expect("CONNACK present")
	p.send(`PUBLISH q2 #5 t=x "again"`)
	p.expect("PUBREC #5")
	if got := n.store.logged("x"); len(got) != 1 || got[0] != "again" {
		t.Errorf("logged %q", got)
	}
}
