package session

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// inGroups connects a client that is alone in so many groups.
func inGroups(c *Core, h *nullHost, filter string, groups int) *nullConn {
	n := connectCost(c, h, "many", "own", 1, 0)
	p := &packet.Subscribe{PacketID: 2}
	for i := range groups {
		p.Filters = append(p.Filters, packet.Filter{Filter: fmt.Sprintf("$share/%d/%s", i, filter), QoS: 1})
	}
	c.Packet(1, n, p)
	h.settle()
	return n
}

// shortest is what f takes when nothing disturbs it.
func shortest(times int, f func()) time.Duration {
	best := time.Hour
	for range times {
		began := time.Now()
		f()
		best = min(best, time.Since(began))
	}
	return best
}

// What a client does costs the loop the same whether it is in few groups or in as many as it may be: thousands that have nothing for it are not
// looked at.
func TestManyGroupsOfOneClientCostNobodyElse(t *testing.T) {
	of := map[int]time.Duration{}
	for _, groups := range []int{10, 9000} {
		c, h, parts := newCost(t, Options{}, 1, nil)
		n := inGroups(c, h, "nothing/comes/here", groups)
		b := &Batch{Part: parts[0], Msgs: []Message{{Topic: "own", Payload: []byte("x"), QoS: 1, Client: "x"}}}
		of[groups] = shortest(200, func() {
			b.Base, b.Next = b.Next, b.Next+1
			b.Msgs[0].Offset = b.Base
			c.Tail(1, b)
			for _, id := range n.ids {
				c.Packet(1, n, &packet.Ack{Kind: packet.PUBACK, PacketID: id})
			}
			n.ids = n.ids[:0]
		})
		if n.count < 200 {
			t.Fatalf("%d deliveries", n.count)
		}
	}
	if of[9000] > 30*of[10] {
		t.Errorf("a delivery and its ack take %v in 10 groups, and %v in 9000", of[10], of[9000])
	}
}

// Each of many groups has its turn, however little room there is.
func TestManyGroupsOfOneClientAllHaveTheirTurn(t *testing.T) {
	const groups, each = 300, 3
	s := newScene(t)
	n := &nullConn{ids: make([]uint16, 0, 1024)}
	s.core.Connect(s.now, n, &Connect{Key: Key{"t", "p", "many"}, Version: packet.V5, ReceiveMaximum: 2})
	p := &packet.Subscribe{PacketID: 2}
	for i := range groups {
		p.Filters = append(p.Filters, packet.Filter{Filter: fmt.Sprintf("$share/%d/x", i), QoS: 1})
	}
	s.core.Packet(s.now, n, p)
	s.settle()
	s.numbered("x", 1, 1, each)
	for len(n.ids) > 0 {
		id := n.ids[0]
		n.ids = append(n.ids[:0], n.ids[1:]...)
		s.core.Packet(s.now, n, &packet.Ack{Kind: packet.PUBACK, PacketID: id})
		s.settle()
	}
	st := s.core.Stats()
	s.want(n.count == groups*each && st.GroupQueue == 0 && st.Inflight == 0, "%d deliveries of %d; %+v", n.count, groups*each, st)
}
