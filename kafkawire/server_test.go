package kafkawire

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
)

// ends tells that the server ends the connection, without an answer.
func (c *client) ends() {
	c.t.Helper()
	if b, err := io.ReadAll(c.br); len(b) > 0 || errors.Is(err, net.ErrClosed) {
		c.t.Fatalf("answered with %d bytes, %v", len(b), err)
	} else if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		c.t.Fatal("the connection goes on")
	}
}

func (c *client) raw(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func TestHostileBytes(t *testing.T) {
	n := start(t, Options{})
	size := func(n uint32, rest ...byte) []byte { return append(binary.BigEndian.AppendUint32(nil, n), rest...) }
	metadata := frameOf(kmsg.NewPtrMetadataRequest(), 1)
	for name, b := range map[string][]byte{
		"http":                        []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
		"tls":                         {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"negative size":               size(0xffffffff, 0, 3),
		"no room for a header":        size(4, 0, 3, 0, 1),
		"2 GiB":                       size(0x7fffffff, 0, 3),
		"too large for a first word":  size(firstLimit+1, 0, 0, 0, 9),
		"unknown API":                 size(8, 0, 99, 0, 0, 0, 0, 0, 1),
		"negative API":                size(8, 0xff, 0xff, 0, 0, 0, 0, 0, 1),
		"unknown version":             size(10, 0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff),
		"client id beyond the end":    size(10, 0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff),
		"header with many tags":       size(15, 0, 3, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f),
		"array of 2^31-1":             size(14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff),
		"produce without a topic":     size(20, 0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0, 0, 0, 0x7f, 0xff),
		"a response instead":          size(8, 0, 0, 0, 1, 0, 0, 0, 0),
		"everything is a string":      size(12, 0, 10, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff),
		"metadata that ends too soon": append(size(uint32(len(metadata)-5)), metadata[4:len(metadata)-1]...),
	} {
		t.Run(name, func(t *testing.T) {
			c := n.dial()
			c.t = t
			c.raw(b)
			c.ends()
		})
	}
	if s := n.srv.Stats(); s.Panics != 0 || s.BadRequests == 0 || s.Unsupported == 0 {
		t.Fatalf("%+v", s)
	}
	do[*kmsg.MetadataResponse](n.dial(), 12, kmsg.NewPtrMetadataRequest())
}

// Every request, cut off after each of its bytes and with each byte damaged, costs at most its connection.
func TestTruncatedAndDamagedRequests(t *testing.T) {
	n := start(t, Options{IdleTimeout: 50 * time.Millisecond})
	n.topic("a", 1, nil)
	reqs := []kmsg.Request{
		produceRequest("a", 0, -1, batchOf(eventlog.None, "x")), fetchRequest(eventlog.Topic{Name: "a"}, 0, 0, 0, 0),
		metadataOf("a"), commitRequest("g", "a", 0, 1), offsetFetchRequest("g", "a", 0),
		syncRequest("g", &kmsg.JoinGroupResponse{MemberID: "m"}, "m", "x"),
	}
	try := func(b []byte) {
		c := n.dial()
		defer c.nc.Close()
		c.raw(b)
		c.nc.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c.br)
	}
	for _, req := range reqs {
		a := lookup(req.Key())
		req.SetVersion(min(a.max, 9))
		whole := frameOf(req, 1)
		step := max(1, len(whole)/tier.N(200))
		for i := 0; i < len(whole); i += step {
			try(whole[:i])
			damaged := append([]byte(nil), whole...)
			damaged[i] ^= 0xff
			try(damaged)
			cut := append([]byte(nil), whole[:max(i, 4)]...) // a frame that is shorter than its content
			binary.BigEndian.PutUint32(cut, uint32(len(cut)-4))
			try(cut)
		}
	}
	if s := n.srv.Stats(); s.Panics != 0 {
		t.Fatalf("%d panics", s.Panics)
	}
}

// Sizes that are announced and never come cost no memory.
func TestAnnouncedSizesCostNothing(t *testing.T) {
	n := start(t, Options{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const conns = 100
	for range conns {
		c := n.dial()
		do[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest()) // it may send large requests now
		c.raw(append(binary.BigEndian.AppendUint32(nil, 90<<20), 0, 0, 0, 9, 0, 0, 0, 1))
	}
	waitFor(t, func() bool { return n.srv.Stats().Requests["ApiVersions"] == conns })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Fatalf("%d connections that announced 90 MiB each take %d MiB", conns, grown>>20)
	}
}

func TestLargeRequestsShareABudget(t *testing.T) {
	n := start(t, Options{MaxRequestBytes: 4 << 20, MaxBuffered: 4 << 20})
	n.topic("a", 8, nil)
	const clients = 8
	var done sync.WaitGroup
	for range clients {
		c := n.dial()
		do[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest())
		req := produceRequest("a", 0, -1, nil)
		req.SetVersion(9)
		req.Topics[0].Partitions = nil
		for i := range int32(8) {
			p := kmsg.NewProduceRequestTopicPartition()
			p.Partition, p.Records = i, batchOf(eventlog.None, string(make([]byte, 300_000)))
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, p)
		}
		done.Go(func() {
			resp, err := c.tryReceive(req, c.send(req))
			if err != nil {
				t.Error(err)
				return
			}
			for _, p := range resp.(*kmsg.ProduceResponse).Topics[0].Partitions {
				if p.ErrorCode != 0 {
					t.Errorf("partition %d: error %d", p.Partition, p.ErrorCode)
				}
			}
		})
	}
	done.Wait()
	topic, _ := n.eng.TopicByName("a")
	ends, err := n.eng.Ends(t.Context(), topic.ID)
	if err != nil || slices.Min(ends) != clients || slices.Max(ends) != clients {
		t.Fatalf("ends %v, %v", ends, err)
	}
	c := n.dial()
	do[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest())
	c.raw(append(binary.BigEndian.AppendUint32(nil, 5<<20), 0, 0, 0, 9, 0, 0, 0, 1))
	c.ends()
}

// Clients that ask for much and take little hold a bounded amount of memory; others go on beside them, in small steps.
func TestSlowReadersShareABudget(t *testing.T) {
	n := start(t, Options{MaxFetchBytes: 1 << 20, MaxFetched: 1 << 20})
	topic := n.topic("a", 1, nil)
	writer := n.dial()
	const batches = 40
	for range batches {
		writer.produce("a", 0, string(make([]byte, 30_000)))
	}
	fetch := func(offset int64) *kmsg.FetchRequest {
		req := fetchRequest(topic, 0, offset, 1, 1000)
		req.SetVersion(12)
		return req
	}
	size := func(c *client) int {
		return len(do[*kmsg.FetchResponse](c, 12, fetch(0)).Topics[0].Partitions[0].RecordBatches)
	}
	quick, slow := n.dial(), n.dial()
	if got := size(quick); got < 900_000 {
		t.Fatalf("alone: %d bytes", got)
	}
	var ids []int32
	slow.nc.(*net.TCPConn).SetReadBuffer(64 << 10)
	for range 60 { // more than the sockets' buffers take
		ids = append(ids, slow.send(fetch(0)))
	}
	// Until the slow one is stuck, with all the memory. It is only watched: who takes memory beside it makes its responses small.
	sent, since := uint64(0), time.Now()
	waitFor(t, func() bool {
		if now := n.srv.Stats().BytesOut; now != sent {
			sent, since = now, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
	waitFor(t, func() bool { return size(quick) < 100_000 })
	offset := int64(0)
	for offset < batches {
		p := do[*kmsg.FetchResponse](quick, 12, fetch(offset)).Topics[0].Partitions[0]
		offset += int64(len(values(t, p.RecordBatches, offset)))
	}
	for _, id := range ids {
		slow.receive(fetch(0), id)
	}
	waitFor(t, func() bool { return size(quick) >= 900_000 })
}

func TestSilentClientsAreDropped(t *testing.T) {
	n := start(t, Options{IdleTimeout: 100 * time.Millisecond, StallTimeout: 100 * time.Millisecond})
	c := n.dial()
	c.ends()
	c = n.dial()
	do[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest())
	c.ends()
	c = n.dial()
	c.raw([]byte{0, 0, 0, 50, 0, 3, 0, 1})
	c.ends()
	if s := n.srv.Stats(); s.Stalled == 0 {
		t.Fatalf("%+v", s)
	}
}

func TestTooManyConnections(t *testing.T) {
	n := start(t, Options{MaxConnections: 2})
	a, b := n.dial(), n.dial()
	do[*kmsg.ApiVersionsResponse](a, 0, kmsg.NewPtrApiVersionsRequest())
	do[*kmsg.ApiVersionsResponse](b, 0, kmsg.NewPtrApiVersionsRequest())
	c := n.dial()
	c.ends()
	if s := n.srv.Stats(); s.Refused != 1 || s.Connections != 2 {
		t.Fatalf("%+v", s)
	}
	a.nc.Close()
	waitFor(t, func() bool { return n.srv.Stats().Connections == 1 })
	do[*kmsg.ApiVersionsResponse](n.dial(), 0, kmsg.NewPtrApiVersionsRequest())
}

// A panic in a handler ends its connection, and only that.
func TestPanicEndsOneConnection(t *testing.T) {
	n := start(t, Options{Fixed: func(string) string { panic("as a bug would") }})
	n.topic("a", 1, nil)
	good, bad := n.dial(), n.dial()
	do[*kmsg.ApiVersionsResponse](good, 0, kmsg.NewPtrApiVersionsRequest())
	req := kmsg.NewPtrCreatePartitionsRequest()
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic, rt.Count = "a", 2
	req.Topics = append(req.Topics, rt)
	bad.send(req)
	bad.ends()
	do[*kmsg.MetadataResponse](good, 12, metadataOf("a"))
	if s := n.srv.Stats(); s.Panics != 1 {
		t.Fatalf("%+v", s)
	}
}

// Close ends everybody: who waits in a fetch, in a join, and who does nothing.
func TestCloseEndsWaiters(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	var conns []*client
	fetch := fetchRequest(topic, 0, 0, 1, 60_000)
	fetch.SetVersion(12)
	c := n.dial()
	c.send(fetch)
	conns = append(conns, c, n.dial())
	j := join(n.dial(), 3, "g")
	c = n.dial()
	waiting := joinRequest("g", "")
	waiting.SetVersion(3)
	c.send(waiting)
	conns = append(conns, c)
	other := n.dial()
	waitFor(t, func() bool { return beat(other, 4, "g", j) != 0 })
	closed := make(chan struct{})
	go func() { n.srv.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		buf := make([]byte, 1<<16)
		t.Fatalf("does not close:\n%s", buf[:runtime.Stack(buf, true)])
	}
	for _, c := range conns {
		if _, err := io.Copy(io.Discard, c.br); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("connection: %v", err)
		}
	}
	if err := n.srv.Serve(nil); err != ErrServerClosed {
		t.Errorf("Serve after Close: %v", err)
	}
}

// Close answers what was read: an acknowledgement that is on its way is not lost, and who just came is not sent away unheard.
func TestCloseAnswersWhatWasRead(t *testing.T) {
	for range tier.N(100) {
		n := start(t, Options{})
		n.topic("a", 1, nil)
		c, late := n.dial(), n.dial()
		c.produce("a", 0, "x")
		before := n.srv.Stats().Requests["Produce"]
		req := produceRequest("a", 0, -1, batchOf(eventlog.None, "y"))
		req.SetVersion(9)
		const count = 20
		for range count {
			c.send(req)
		}
		waitFor(t, func() bool {
			s := n.srv.Stats()
			return s.Requests["Produce"] > before && s.Connections == 2
		})
		versions := late.send(kmsg.NewPtrApiVersionsRequest())
		n.srv.Close()
		answered := int64(0)
		for id := c.next - count + 1; ; id++ {
			resp, err := c.tryReceive(req, id)
			if err != nil {
				break
			}
			if code := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
				t.Fatalf("error %d", code)
			}
			answered++
		}
		topic, _ := n.eng.TopicByName("a")
		if ends, err := n.eng.Ends(t.Context(), topic.ID); err != nil || ends[0] != answered+1 {
			t.Fatalf("%v records are there (%v), %d of the last ones were answered", ends, err, answered)
		}
		late.receive(kmsg.NewPtrApiVersionsRequest(), versions)
		n.down()
	}
}

// Responses come in the order of the requests, however long each takes.
func TestResponsesInOrder(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	slow := fetchRequest(topic, 0, 0, 1, 300)
	slow.SetVersion(12)
	produce := produceRequest("a", 0, -1, batchOf(eventlog.None, "x"))
	produce.SetVersion(9)
	list := kmsg.NewPtrListGroupsRequest()
	reqs := []kmsg.Request{slow, metadataOf("a"), produce, slow, list, produce}
	var ids []int32
	for _, r := range reqs {
		ids = append(ids, c.send(r))
	}
	for i, r := range reqs {
		c.receive(r, ids[i])
	}
}
