package session

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// nullHost answers writes when asked to, and lets every delivery through.
type nullHost struct {
	core   *Core
	writes []struct {
		token uint64
		n     int
	}
	offset int64
	failed error
}

func (h *nullHost) Write(token uint64, to Target, recs []StateRecord) {
	h.writes = append(h.writes, struct {
		token uint64
		n     int
	}{token, len(recs)})
}

func (h *nullHost) settle() {
	for len(h.writes) > 0 {
		w := h.writes[0]
		h.writes = h.writes[1:]
		results := make([]Result, w.n)
		for i := range results {
			h.offset++
			results[i].Pos.Offset = h.offset
		}
		h.core.Written(1, w.token, results)
	}
}

func (h *nullHost) Read(uint64, Position, int)     {}
func (h *nullHost) Publish(uint64, *Message)       {}
func (h *nullHost) Allowed(Key, bool, string) bool { return true }
func (h *nullHost) Count(string, int)              {}
func (h *nullHost) Failed(err error)               { h.failed = err }

type nullConn struct {
	ids   []uint16
	count int
}

func (n *nullConn) Accept(Accepted)                {}
func (n *nullConn) Refuse(c packet.Code, s string) { panic(s) }
func (n *nullConn) Send(packet.Packet)             {}
func (n *nullConn) Close(c packet.Code, s string)  {}
func (n *nullConn) Deliver(d *Delivery) bool {
	n.count++
	if d.PacketID != 0 && len(n.ids) < cap(n.ids) {
		n.ids = append(n.ids, d.PacketID)
	}
	return true
}

var costTargets = []Target{{Partition: 0}, {Partition: 1}, {Retained: true}}

// newCost returns a core that is ready, with data partitions.
func newCost(tb testing.TB, o Options, parts int, records [][]StateRecord) (*Core, *nullHost, []Part) {
	h := &nullHost{}
	c := New(o, h, costTargets)
	h.core = c
	for i, t := range costTargets {
		err := c.Restore(t, Part{[16]byte{0xA0, byte(i)}, 0}, 1, func(visit func(int64, StateRecord) error) error {
			if i >= len(records) {
				return nil
			}
			for off, r := range records[i] {
				if err := visit(int64(off), r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	ends := Vector{}
	var list []Part
	for i := range parts {
		p := Part{[16]byte{1}, int32(i)}
		ends[p] = 0
		list = append(list, p)
	}
	c.Restored(1, ends, Vector{})
	h.settle()
	if !c.Ready() {
		tb.Fatal("not ready")
	}
	return c, h, list
}

func connectCost(c *Core, h *nullHost, id string, filter string, qos byte, expiry uint32) *nullConn {
	n := &nullConn{ids: make([]uint16, 0, 1024)}
	c.Connect(1, n, &Connect{Key: Key{"t", "p", id}, Version: packet.V5, Expiry: expiry, ReceiveMaximum: 65535})
	h.settle()
	c.Packet(1, n, &packet.Subscribe{PacketID: 1, Filters: []packet.Filter{{Filter: filter, QoS: qos}}})
	h.settle()
	return n
}

// stored makes the records of many persistent sessions with two subscriptions each.
func stored(sessions int) [][]StateRecord {
	vector := make([]Position, 8)
	for i := range vector {
		vector[i] = Position{Part{[16]byte{1}, int32(i)}, 0}
	}
	recs := make([][]StateRecord, 2)
	for i := range sessions {
		k := Key{"tenant", "principal", fmt.Sprintf("vehicle-%06d", i)}
		inc := Incarnation(i + 1)
		sv, f1, f2 := sessionValue{inc: inc, expiry: 3600}, subValue{inc: inc, opts: options{qos: 1}, start: vector}, subValue{inc: inc, start: vector}
		recs[i%2] = append(recs[i%2], StateRecord{sessionKey(kindSession, k), sv.append(nil)},
			StateRecord{subKey(k, "fleet/"+k.ClientID+"/cmd"), f1.append(nil)},
			StateRecord{subKey(k, "fleet/all/cmd"), f2.append(nil)})
	}
	return recs
}

func TestRestoreOfManySessionsIsFast(t *testing.T) {
	n := tier.N(200_000)
	recs := stored(n)
	start := time.Now()
	c, _, _ := newCost(t, Options{}, 8, recs)
	took := time.Since(start)
	if st := c.Stats(); st.Sessions != n || st.Subscriptions != 2*n {
		t.Fatalf("%+v", st)
	}
	t.Logf("%d sessions, %d records: %v", n, 3*n, took)
	if took > time.Minute { // far from the aim of 1.5 s for 100,000, for slow machines and the race detector
		t.Errorf("restore took %v", took)
	}
}

func TestMemoryOfManyPositions(t *testing.T) {
	var before, after runtime.MemStats
	queues := make([]queue, 1000)
	runtime.GC()
	runtime.ReadMemStats(&before)
	off := int64(0)
	for i := range 200_000 {
		off += 3
		queues[i*7919%1000].add(int32(i%8), off, 64<<10, nil)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	mb := float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
	t.Logf("200,000 positions of 1,000 queues: %.1f MiB", mb)
	if mb > 6 {
		t.Errorf("%.1f MiB", mb)
	}
	runtime.KeepAlive(queues)
}

// oneMessage feeds single messages to one subscriber and has them acknowledged.
func oneMessage(c *Core, h *nullHost, n *nullConn, p Part) func() {
	b := &Batch{Part: p, Msgs: []Message{{Topic: "fleet/v1/telemetry", Payload: make([]byte, 100), QoS: 1, Client: "x"}}}
	ack := &packet.Ack{Kind: packet.PUBACK}
	return func() {
		b.Base, b.Next = b.Next, b.Next+1
		b.Msgs[0].Offset = b.Base
		c.Tail(1, b)
		for _, id := range n.ids {
			ack.PacketID = id
			c.Packet(1, n, ack)
		}
		n.ids = n.ids[:0]
	}
}

func TestDeliveryDoesNotAllocate(t *testing.T) {
	for _, qos := range []byte{0, 1} {
		for _, expiry := range []uint32{0, 100} {
			c, h, parts := newCost(t, Options{}, 1, nil)
			n := connectCost(c, h, "a", "fleet/+/telemetry", qos, expiry)
			f := oneMessage(c, h, n, parts[0])
			for range 100 {
				f()
			}
			if allocs := testing.AllocsPerRun(1000, f); allocs > 0 {
				t.Errorf("QoS %d, expiry %d: %v allocations per delivery", qos, expiry, allocs)
			}
			if n.count < 1000 {
				t.Fatalf("%d deliveries", n.count)
			}
		}
	}
}

// oneShared is oneMessage for a group.
func oneShared(c *Core, h *nullHost, p Part, members int) func() {
	var conns []*nullConn
	for i := range members {
		conns = append(conns, connectCost(c, h, fmt.Sprint(i), "$share/g/fleet/+/telemetry", 1, 100))
	}
	b := &Batch{Part: p, Msgs: []Message{{Topic: "fleet/v1/telemetry", Payload: make([]byte, 100), QoS: 1, Client: "x"}}}
	ack := &packet.Ack{Kind: packet.PUBACK}
	return func() {
		b.Base, b.Next = b.Next, b.Next+1
		b.Msgs[0].Offset = b.Base
		c.Tail(1, b)
		for _, n := range conns {
			for _, id := range n.ids {
				ack.PacketID = id
				c.Packet(1, n, ack)
			}
			n.ids = n.ids[:0]
		}
	}
}

func TestGroupDeliveryDoesNotAllocate(t *testing.T) {
	for _, members := range []int{1, 4} {
		c, h, parts := newCost(t, Options{}, 1, nil)
		f := oneShared(c, h, parts[0], members)
		for range 100 {
			f()
		}
		if allocs := testing.AllocsPerRun(1000, f); allocs > 0 {
			t.Errorf("%d members: %v allocations per delivery", members, allocs)
		}
		if st := c.Stats(); st.GroupQueue+int64(st.Inflight) > 0 {
			t.Fatalf("%+v", st)
		}
	}
}

func BenchmarkGroup(b *testing.B) {
	for _, members := range []int{1, 10, 1000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			c, h, parts := newCost(b, Options{}, 1, nil)
			f := oneShared(c, h, parts[0], members)
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

func BenchmarkRestore(b *testing.B) {
	recs := stored(100_000)
	for b.Loop() {
		newCost(b, Options{}, 8, recs)
	}
}

func BenchmarkDeliver(b *testing.B) {
	for _, qos := range []byte{0, 1} {
		b.Run(fmt.Sprintf("qos%d", qos), func(b *testing.B) {
			c, h, parts := newCost(b, Options{}, 1, nil)
			f := oneMessage(c, h, connectCost(c, h, "a", "fleet/+/telemetry", qos, 100), parts[0])
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

func BenchmarkFanOut(b *testing.B) {
	c, h, parts := newCost(b, Options{}, 1, nil)
	for i := range 1000 {
		connectCost(c, h, fmt.Sprint(i), "fleet/#", 0, 0)
	}
	batch := &Batch{Part: parts[0], Msgs: []Message{{Topic: "fleet/v1/telemetry", Payload: make([]byte, 100), QoS: 0}}}
	b.ReportAllocs()
	for b.Loop() {
		batch.Base, batch.Next = batch.Next, batch.Next+1
		batch.Msgs[0].Offset = batch.Base
		c.Tail(1, batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/delivery")
}

func BenchmarkOffline(b *testing.B) {
	c, h, parts := newCost(b, Options{}, 1, nil)
	for i := range 1000 {
		n := connectCost(c, h, fmt.Sprint(i), "fleet/#", 1, 100)
		c.Disconnected(1, n, Lost, nil)
		h.settle()
	}
	batch := &Batch{Part: parts[0], Msgs: []Message{{Topic: "fleet/v1/telemetry", Payload: make([]byte, 100), QoS: 1}}}
	b.ReportAllocs()
	for b.Loop() {
		batch.Base, batch.Next = batch.Next, batch.Next+1
		batch.Msgs[0].Offset = batch.Base
		c.Tail(1, batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/position")
}

// TestLongTopicsDoNotFillTheCache: what is remembered of matches is bounded in bytes, however long the topics that clients make up.
func TestLongTopicsDoNotFillTheCache(t *testing.T) {
	c := New(Options{}, nil, nil)
	long := strings.Repeat("x", 60_000)
	for i := range 500 {
		c.match(fmt.Sprint(long, i))
		bytes := 0
		for name := range c.cache.topics {
			bytes += len(name)
		}
		if bytes > cachedTargets*nameBytes+2*len(long) {
			t.Fatalf("%d bytes of names are remembered", bytes)
		}
	}
}
