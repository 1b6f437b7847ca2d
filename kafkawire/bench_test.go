package kafkawire

import (
	"encoding/binary"
	"io"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// One small batch per request, pipelined on one connection: what a request costs.
func BenchmarkProduce(b *testing.B) {
	n := start(b, Options{})
	n.topic("a", 1, nil)
	c := n.dial()
	req := produceRequest("a", 0, -1, batchOf(eventlog.None, string(make([]byte, 100))))
	req.SetVersion(9)
	frame := frameOf(req, 1)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			c.nc.Write(frame)
		}
	}()
	for range b.N {
		c.skip()
	}
}

// Fetches of 64 KiB that are there, one after another.
func BenchmarkFetch(b *testing.B) {
	n := start(b, Options{})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	do[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest())
	for range 16 {
		c.produce("a", 0, string(make([]byte, 64<<10)))
	}
	req := fetchRequest(topic, 0, 3, 1, 1000)
	req.SetVersion(13)
	req.Topics[0].Partitions[0].PartitionMaxBytes = 64 << 10
	frame := frameOf(req, 1)
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		c.nc.Write(frame)
		c.skip()
	}
}

// skip reads one response and forgets it.
func (c *client) skip() {
	var size [4]byte
	if _, err := io.ReadFull(c.br, size[:]); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.br.Discard(int(binary.BigEndian.Uint32(size[:]))); err != nil {
		c.t.Fatal(err)
	}
}

func BenchmarkShape(b *testing.B) {
	req := fetchRequest(eventlog.Topic{Name: "a"}, 0, 0, 0, 0)
	for range 99 {
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, req.Topics[0].Partitions[0])
	}
	req.SetVersion(12)
	body := req.AppendTo(nil)
	shape := lookup(int16(kmsg.Fetch)).shape
	b.ReportAllocs()
	for range b.N {
		if err := shape.walk(body, 12, true); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMay is what a decision costs that was made before.
func BenchmarkMay(b *testing.B) {
	r := &fakeRights{}
	r.allow("anonymous", opRead, topicKind, "fleet-telemetry")
	n := start(b, Options{Rights: r})
	c := newConn(n.srv, n.dial().nc, &ListenerOptions{}, "", 0)
	c.become(anonymous)
	b.ReportAllocs()
	for b.Loop() {
		if !c.mayTopic(opRead, "fleet-telemetry") {
			b.Fatal("no")
		}
	}
}
