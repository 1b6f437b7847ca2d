package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// wire delivers a message and returns the packet that was queued for it; nil: none was.
func wire(t *testing.T, c *conn, d session.Delivery) *packet.Publish {
	t.Helper()
	c.b.owner.Load().encoder.forget()
	c.Deliver(&d)
	q := c.out.q
	if q == nil {
		return nil
	}
	q.pieces()
	var b []byte
	for _, p := range q.iov {
		b = append(b, p...)
	}
	c.discard()
	dec := packet.Decoder{Version: c.version}
	p, n, _, err := dec.Next(b)
	if err != nil || n != len(b) {
		t.Fatalf("%v, %d of %d bytes: % x", err, n, len(b), b)
	}
	return p.(*packet.Publish)
}

func TestOutboundAliases(t *testing.T) {
	br := New(Options{Store: &instantStore{}, Limits: Limits{TopicAliases: 3}})
	payload := func(size int) []byte { return []byte(strings.Repeat("x", size)) }
	deliver := func(c *conn, topic string, size int, qos byte, props *session.Props) (name string, alias uint16) {
		t.Helper()
		p := wire(t, c, session.Delivery{Msg: &session.Message{Topic: topic, Payload: payload(size), Props: props}, QoS: qos, PacketID: 77})
		if p == nil {
			return "nothing", 0
		}
		if len(p.Payload) != size || qos > 0 && p.PacketID != 77 || props != nil && p.Props.PayloadFormat != props.PayloadFormat {
			t.Fatalf("%+v", p)
		}
		return string(p.Topic), p.Props.TopicAlias
	}
	for _, client := range []uint16{2, 100} { // its maximum, or ours
		c := testConn(br, packet.V5)
		c.named = newOutAliases(client, 3)
		limit := min(client, 3)
		for round := range 3 {
			for i := range uint16(5) {
				topic, size := fmt.Sprintf("topic/%d", i), 10
				if i%2 == 1 {
					size = 5000 // shared, not copied
				}
				want, alias := topic, i+1
				if alias > limit {
					alias = 0
				} else if round > 0 {
					want = ""
				}
				var props *session.Props
				if i%3 == 0 {
					props = &session.Props{PayloadFormat: 1, ContentType: "c"}
				}
				if got, n := deliver(c, topic, size, byte(round), props); got != want || n != alias {
					t.Errorf("round %d, %s: topic %q, alias %d; want %q, %d", round, topic, got, n, want, alias)
				}
			}
		}
	}
	// None is asked for, or it is not worth it.
	c := testConn(br, packet.V5)
	c.named = newOutAliases(0, 3)
	if _, n := deliver(c, "topic/1", 1, 0, nil); n != 0 {
		t.Errorf("alias %d", n)
	}
	c.named = newOutAliases(9, 3)
	for _, topic := range []string{"a/b", strings.Repeat("x", maxAliased+1)} {
		if _, n := deliver(c, topic, 1, 0, nil); n != 0 {
			t.Errorf("%.10s: alias %d", topic, n)
		}
	}
	// What is too large only with its alias goes without; the alias is still to be set.
	c = testConn(br, packet.V5)
	c.named = newOutAliases(9, 3)
	c.maxPacket = uint32(2 + 2 + 7 + 1 + 20)
	if name, n := deliver(c, "topic/1", 20, 0, nil); name != "topic/1" || n != 0 {
		t.Errorf("topic %q, alias %d", name, n)
	}
	// A packet that is not sent sets no alias.
	c.maxPacket, c.out.full = 0, true
	if name, _ := deliver(c, "topic/1", 10, 0, nil); name != "nothing" {
		t.Errorf("topic %q through a full queue", name)
	}
	c.out.full = false
	if name, n := deliver(c, "topic/1", 10, 0, nil); name != "topic/1" || n != 1 {
		t.Errorf("topic %q, alias %d", name, n)
	}
}

// Receivers with and without aliases share the encodings of their kind, and get their own numbers.
func TestAliasesOfManyReceivers(t *testing.T) {
	br := New(Options{Store: &instantStore{}})
	var conns []*conn
	for i := range uint16(4) {
		c := testConn(br, packet.V5)
		c.named = newOutAliases(i*5, 32)
		for n := range i { // what each has had before differs
			wire(t, c, session.Delivery{Msg: &session.Message{Topic: fmt.Sprint("before/", n)}})
		}
		conns = append(conns, c)
	}
	m := &session.Message{Topic: "for/all"}
	for round := range 2 {
		br.owner.Load().encoder.forget()
		for i, c := range conns {
			c.Deliver(&session.Delivery{Msg: m})
			q := c.out.q
			q.pieces()
			dec := packet.Decoder{Version: packet.V5}
			p, _, _, err := dec.Next(q.iov[0])
			if err != nil {
				t.Fatal(err)
			}
			want, topic := uint16(i+1), "for/all"
			if i == 0 {
				want = 0
			} else if round > 0 {
				topic = ""
			}
			if p := p.(*packet.Publish); p.Props.TopicAlias != want || string(p.Topic) != topic {
				t.Errorf("round %d, client %d: alias %d, topic %q", round, i, p.Props.TopicAlias, p.Topic)
			}
			c.discard()
		}
	}
}
