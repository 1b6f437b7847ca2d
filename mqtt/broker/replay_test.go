package broker_test

import (
	"context"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// History is the store's: every partition may have messages for every filter.
func (s *memStore) History(_ context.Context, ask session.HistoryAsk) session.History {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := session.History{From: session.Vector{}}
	for i := range s.data {
		from := s.starts[i]
		switch f := &ask.From; {
		case f.Time != 0:
			from = int64(sort.Search(len(s.data[i]), func(n int) bool { return s.data[i][n].Time >= f.Time }))
		case f.Offset >= 0:
			from = f.Offset
		}
		if lost := s.starts[i] - from; lost > 0 {
			h.Lost += lost
		}
		h.From[dataPart(i)] = max(from, s.starts[i])
	}
	return h
}

// History over a socket: by a prefix, to every version; refusals; the right to subscribe is that to the filter without the prefix.
func TestReplay(t *testing.T) {
	run(t, nil, []flow{
		{"3.1.1", `
			a> CONNECT v4 clean id=a
			a< CONNACK
			a> PUBLISH q1 #1 t=x "one"
			a< PUBACK #1
			a> PUBLISH q0 t=x "two"
			a> PUBLISH q1 retain #2 t=y "three"
			a< PUBACK #2
			a> SUBSCRIBE #3 $replay/earliest/x:1 $replay/x/y:1
			a< SUBACK #3 0x01 0x80
			a< PUBLISH q1 #1 t=x "one"
			a< PUBLISH q0 t=x "two"
			a> PUBACK #1
			a> UNSUBSCRIBE #4 $replay/-15m/x
			a< UNSUBACK #4
			a> PUBLISH q1 #5 t=x "four"
			a< PUBACK #5
			a<-`},
	})
}

// A 5.0 client is told when a message was received, of a gap, and what is wrong, unless it does not want to know.
func TestReplayTells(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		n := newNode(t, nil)
		pub := n.connected("CONNECT v5 clean id=pub")
		for _, text := range []string{"one", "two"} {
			pub.send(`PUBLISH q1 #1 t=x user:own=1 "` + text + `"`)
			pub.expect("PUBACK #1")
		}
		n.store.trim("x", 1)
		line := "CONNECT v5 clean id=sub"
		if quiet {
			line += " problem=0"
		}
		c := n.connected(line)
		s := &packet.Subscribe{PacketID: 7, Filters: []packet.Filter{{Filter: "x", QoS: 1}, {Filter: "$replay/x/y", QoS: 1}}}
		s.Props.User = []packet.UserProperty{{Name: session.ReplayFrom, Value: "offset:0"}}
		b, err := s.Append(nil, packet.V5)
		if err != nil {
			t.Fatal(err)
		}
		c.write(b)
		a, ok := c.next().(*packet.Suback)
		if !ok || !slices.Equal(a.Codes, []packet.Code{1, packet.TopicFilterInvalid}) {
			t.Fatalf("%+v", a)
		}
		told := strings.Contains(a.Props.ReasonString, "retention") && strings.Contains(a.Props.ReasonString, "write earliest") && len(a.Props.User) == 1
		if told == quiet || quiet && a.Props.ReasonString != "" {
			t.Errorf("quiet %v: %+v", quiet, a.Props)
		}
		p, ok := c.next().(*packet.Publish)
		if !ok || string(p.Payload) != "two" || len(p.Props.User) != 3 || p.Props.User[0].Name != "own" || p.Props.User[1].Name != session.TimeProperty ||
			p.Props.User[2] != (packet.UserProperty{Name: session.GapProperty, Value: "1"}) {
			t.Fatalf("%+v", p)
		}
		if at, err := time.Parse(time.RFC3339, p.Props.User[1].Value); err != nil || time.Since(at) > time.Hour {
			t.Errorf("%v %v", p.Props.User[1], err)
		}
		pub.send(`PUBLISH q1 #1 t=x user:own=1 "live"`)
		pub.expect("PUBACK #1")
		c.expect(`PUBLISH q1 #2 user:own=1 t=x "live"`)
	}
}

// trim moves the start of the partition of a topic, as retention does.
func (s *memStore) trim(topic string, to int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.data {
		if slices.ContainsFunc(s.data[i], func(m session.Message) bool { return m.Topic == topic }) {
			s.starts[i] = to
		}
	}
}

// Rights are asked for the filter without its prefix, and for each message of history.
func TestReplayRights(t *testing.T) {
	n := newNode(t, func(o *broker.Options) {
		o.Authorizer = asks(func(a broker.Action, topic string) bool {
			return a == broker.Publish || topic != "secret" && topic != "a/secret"
		})
	})
	pub := n.connected("CONNECT v4 clean id=pub")
	for _, topic := range []string{"a/1", "a/secret", "a/1"} {
		pub.send("PUBLISH q1 #1 t=" + topic + ` "m"`)
		pub.expect("PUBACK #1")
	}
	c := n.connected("CONNECT v4 clean id=sub")
	c.send("SUBSCRIBE #1 $replay/earliest/secret:1 $replay/earliest/a/+:0")
	c.expect("SUBACK #1 0x80 0x00", `PUBLISH q0 t=a/1 "m"`, `PUBLISH q0 t=a/1 "m"`)
	c.quiet()
	if got := n.b.Stats().Dropped[session.DropDenied]; got != 1 {
		t.Errorf("%d deliveries were denied", got)
	}
}
