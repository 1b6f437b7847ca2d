package broker

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// instantStore says at once that everything is durable.
type instantStore struct {
	results []session.Result
	msgs    int
}

func (s *instantStore) Append(msgs []session.Message, done func([]session.Result)) <-chan struct{} {
	s.msgs += len(msgs)
	for len(s.results) < len(msgs) {
		s.results = append(s.results, session.Result{Pos: session.Position{Part: session.Part{Topic: [16]byte{1}}}})
	}
	done(s.results[:len(msgs)])
	return nil
}

func (*instantStore) Data(context.Context) (session.Vector, session.Vector, error) {
	return nil, nil, nil
}
func (*instantStore) Tail(session.Vector) (Tail, error) { return idleTail{}, nil }
func (*instantStore) Read(context.Context, session.Position, int) (session.Batch, error) {
	return session.Batch{}, io.EOF
}
func (*instantStore) Targets() []session.Target              { return []session.Target{{}} }
func (*instantStore) TargetPart(session.Target) session.Part { return session.Part{} }
func (*instantStore) Claim(context.Context, session.Target) (StateWriter, func(func(int64, session.StateRecord) error) error, error) {
	return idleWriter{}, func(func(int64, session.StateRecord) error) error { return nil }, nil
}

type idleWriter struct{}

func (idleWriter) Epoch() int64 { return 1 }
func (idleWriter) Append(recs []session.StateRecord, done func([]session.Result)) {
	done(make([]session.Result, len(recs)))
}

type idleTail struct{}

func (idleTail) Wake() <-chan struct{}                             { return nil }
func (idleTail) Poll(into []TailEvent, _ int) ([]TailEvent, error) { return into, nil }
func (idleTail) Close()                                            {}

// testConn is an accepted connection without a socket, whose output is thrown away by discard.
func testConn(b *Broker, v packet.Version) *conn {
	nc, _ := net.Pipe()
	c := &conn{b: b, lis: &listener{limits: b.o.Limits}, nc: nc, version: v, accepted: true, inbound: &session.Inbound{}, owner: b.owner.Load()}
	c.key = session.Key{Principal: "p", ClientID: "bench"}
	c.out.scheduled = true // no flush
	return c
}

func (c *conn) discard() {
	if q := c.out.q; q != nil {
		c.out.q = nil
		c.out.bytes, c.out.answers = 0, 0
		q.free()
	}
}

func publishes(t testing.TB, v packet.Version, qos byte, n, payload int) (b []byte) {
	for i := range n {
		p := &packet.Publish{QoS: qos, Topic: []byte("fleet/vehicle-0042/telemetry"), Payload: make([]byte, payload)}
		if qos > 0 {
			p.PacketID = uint16(i + 1)
		}
		var err error
		if b, err = p.Append(b, v); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

const burstOf = 100

// ingest handles one burst as the reader does.
func ingest(c *conn, data []byte) {
	s := bursts.Get().(*burst)
	n := copy(s.buf[:], data)
	c.consume(s, s.buf[:n])
	if s.fault != nil {
		panic(s.fault.text)
	}
	s.free()
	c.discard()
}

func TestIngestDoesNotAllocate(t *testing.T) {
	for qos := range byte(2) {
		store := &instantStore{}
		c := testConn(New(Options{Store: store}), packet.V5)
		data := publishes(t, packet.V5, qos, burstOf, 100)
		ingest(c, data)
		if store.msgs != burstOf {
			t.Fatalf("%d messages appended", store.msgs)
		}
		// Pools may be emptied by a collection at any time, so a few allocations per run are allowed; none per message.
		if a := testing.AllocsPerRun(200, func() { ingest(c, data) }); a > burstOf/10 {
			t.Errorf("QoS %d: %.1f allocations per burst of %d", qos, a, burstOf)
		}
	}
}

func BenchmarkIngest(b *testing.B) {
	for qos := range byte(2) {
		b.Run(fmt.Sprint("QoS", qos), func(b *testing.B) {
			c := testConn(New(Options{Store: &instantStore{}}), packet.V5)
			data := publishes(b, packet.V5, qos, burstOf, 100)
			b.ReportAllocs()
			for range b.N {
				ingest(c, data)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*burstOf), "ns/msg")
		})
	}
}

// BenchmarkFanOut delivers one message to 100 connections.
func BenchmarkFanOut(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		for qos := range byte(2) {
			b.Run(fmt.Sprintf("%dB/QoS%d", size, qos), func(b *testing.B) {
				br := New(Options{Store: &instantStore{}})
				var conns [100]*conn
				for i := range conns {
					conns[i] = testConn(br, packet.V5)
				}
				m := &session.Message{Topic: "fleet/vehicle-0042/telemetry", Payload: make([]byte, size), QoS: qos}
				d := &session.Delivery{Msg: m, QoS: qos}
				b.ReportAllocs()
				for n := range b.N {
					m.Offset = int64(n)
					br.owner.Load().encoder.forget()
					for _, c := range conns {
						if qos > 0 {
							d.PacketID = uint16(n) | 1
						}
						c.Deliver(d)
						if n%16 == 15 {
							c.discard()
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(conns)), "ns/delivery")
			})
		}
	}
}

// TestSharedEncoding checks what receivers of one message share, and what is each one's own.
func TestSharedEncoding(t *testing.T) {
	for _, size := range []int{10, 5000} {
		br := New(Options{Store: &instantStore{}})
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(i)
		}
		m := &session.Message{Topic: "t", Payload: payload, Props: &session.Props{HasExpiry: true, Expiry: 9, ContentType: "c"}}
		type want struct {
			v packet.Version
			d session.Delivery
		}
		for i, w := range []want{
			{packet.V5, session.Delivery{QoS: 1, PacketID: 300, Expiry: 9}},
			{packet.V5, session.Delivery{QoS: 1, PacketID: 301, Expiry: 9, Dup: true}},
			{packet.V5, session.Delivery{QoS: 2, PacketID: 7, Expiry: 8, Retain: true, SubIDs: []uint32{3, 4}}},
			{packet.V5, session.Delivery{QoS: 1, PacketID: 302, Expiry: 9}},
			{packet.V5, session.Delivery{QoS: 0, Expiry: 9}},
			{packet.V311, session.Delivery{QoS: 1, PacketID: 5}},
			{packet.V31, session.Delivery{QoS: 1, PacketID: 6}},
		} {
			c := testConn(br, w.v)
			w.d.Msg = m
			c.Deliver(&w.d)
			q := c.out.q
			q.pieces()
			var wire []byte
			for _, p := range q.iov {
				wire = append(wire, p...)
			}
			dec := packet.Decoder{Version: w.v}
			p, n, _, err := dec.Next(wire)
			if err != nil || n != len(wire) {
				t.Fatalf("%d: %v, %d of %d bytes", i, err, n, len(wire))
			}
			got := p.(*packet.Publish)
			if got.QoS != w.d.QoS || got.PacketID != w.d.PacketID || got.Dup != w.d.Dup || got.Retain != w.d.Retain ||
				string(got.Payload) != string(payload) || string(got.Topic) != "t" || len(got.Props.SubscriptionIDs) != len(w.d.SubIDs) {
				t.Errorf("%d: got %+v", i, got)
			}
			if w.v == packet.V5 && (got.Props.MessageExpiry != w.d.Expiry || got.Props.ContentType != "c") {
				t.Errorf("%d: properties %+v", i, got.Props)
			}
			if shared := len(q.iov) > 1; shared != (size > shareAbove) {
				t.Errorf("%d: shared %v", i, shared)
			}
		}
	}
}
