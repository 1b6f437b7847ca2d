package kafkawire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
)

// node is an engine and a server over it, on a file system in memory.
type node struct {
	t    testing.TB
	fs   *vfs.Mem
	wrap func(*vfs.Mem) vfs.FS // nil, or what the engine sees of fs
	opts Options
	eng  *engine.Engine
	srv  *Server
	addr string

	listener net.Listener
	conns    chan net.Conn
}

// start runs a node until the test ends.
func start(t testing.TB, o Options) *node {
	n := startOn(t, o, nil)
	t.Cleanup(n.stop)
	return n
}

// startOn is start for a node on files that may fail, and that the caller stops.
func startOn(t testing.TB, o Options, wrap func(*vfs.Mem) vfs.FS) *node {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, fs: vfs.NewMem(), wrap: wrap, opts: o, listener: l, conns: make(chan net.Conn), addr: l.Addr().String()}
	n.up()
	go n.doorman()
	return n
}

func (n *node) stop() {
	n.listener.Close()
	n.down()
}

func (n *node) up() {
	n.t.Helper()
	var err error
	var files vfs.FS = n.fs
	if n.wrap != nil {
		files = n.wrap(n.fs)
	}
	n.eng, err = engine.Open(engine.Options{
		FS: files, Logger: testLogger(n.t), WALFileBytes: 2 << 20, WALFiles: 2, SegmentBytes: 4 << 20, DefaultPartitions: 2, MaintainEvery: -1,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	o := n.opts
	o.Engine, o.Logger = n.eng, testLogger(n.t)
	if n.srv, err = New(o); err != nil {
		n.t.Fatal(err)
	}
	go n.srv.Serve(&door{n: n, shut: make(chan struct{})})
}

// doorman lets clients in at one address for as long as the test runs: who comes during a restart waits.
func (n *node) doorman() {
	for {
		nc, err := n.listener.Accept()
		if err != nil {
			return
		}
		select {
		case n.conns <- nc:
		case <-n.t.Context().Done():
			nc.Close()
		}
	}
}

// door is the listener of one life of the server.
type door struct {
	n    *node
	shut chan struct{}
	once sync.Once
}

func (d *door) Accept() (net.Conn, error) {
	select {
	case nc := <-d.n.conns:
		return nc, nil
	case <-d.shut:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error   { d.once.Do(func() { close(d.shut) }); return nil }
func (d *door) Addr() net.Addr { return d.n.listener.Addr() }

func (n *node) down() {
	n.srv.Close()
	n.eng.Close()
}

// restart stops and starts the node, in good order.
func (n *node) restart() {
	n.down()
	n.up()
}

// back starts the node again with what the disk has after the power was cut.
func (n *node) back(disk *vfs.Mem) {
	n.down()
	n.fs = disk
	n.up()
}

func (n *node) topic(name string, partitions int32, config map[string]string) eventlog.Topic {
	n.t.Helper()
	t, err := n.eng.CreateTopic(n.t.Context(), eventlog.TopicSpec{Name: name, Partitions: partitions, Config: config})
	if err != nil {
		n.t.Fatal(err)
	}
	return t
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func testLogger(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// client is a connection on which a test says exactly what it wants.
type client struct {
	t    testing.TB
	nc   net.Conn
	br   *bufio.Reader
	next int32
}

func (n *node) dial() *client {
	n.t.Helper()
	return dialTo(n.t, n.addr)
}

func dialTo(t testing.TB, addr string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return &client{t: t, nc: nc, br: bufio.NewReader(nc)}
}

// tryDo sends a request and returns the response, if there is one.
func (c *client) tryDo(req kmsg.Request) (kmsg.Response, error) {
	c.next++
	if _, err := c.nc.Write(frameOf(req, c.next)); err != nil {
		return nil, err
	}
	return c.tryReceive(req, c.next)
}

// frameOf is a request as it goes over the wire.
func frameOf(req kmsg.Request, correlation int32) []byte {
	b := make([]byte, 4, 256)
	b = binary.BigEndian.AppendUint16(b, uint16(req.Key()))
	b = binary.BigEndian.AppendUint16(b, uint16(req.GetVersion()))
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	b = binary.BigEndian.AppendUint16(b, 4)
	b = append(b, "test"...)
	if req.IsFlexible() {
		b = append(b, 0)
	}
	b = req.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// send writes a request and returns its correlation id.
func (c *client) send(req kmsg.Request) int32 {
	c.t.Helper()
	c.next++
	if _, err := c.nc.Write(frameOf(req, c.next)); err != nil {
		c.t.Fatal(err)
	}
	return c.next
}

// receive reads the response to a request.
func (c *client) receive(req kmsg.Request, correlation int32) kmsg.Response {
	c.t.Helper()
	resp, err := c.tryReceive(req, correlation)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *client) tryReceive(req kmsg.Request, correlation int32) (kmsg.Response, error) {
	var size [4]byte
	if _, err := io.ReadFull(c.br, size[:]); err != nil {
		return nil, fmt.Errorf("%T version %d: %w", req, req.GetVersion(), err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c.br, b); err != nil {
		return nil, err
	}
	if got := int32(binary.BigEndian.Uint32(b)); got != correlation {
		return nil, fmt.Errorf("response to request %d, want %d", got, correlation)
	}
	b = b[4:]
	if req.IsFlexible() && req.Key() != int16(kmsg.ApiVersions) {
		if b[0] != 0 {
			return nil, fmt.Errorf("%T: tags in the response header", req)
		}
		b = b[1:]
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if err := resp.ReadFrom(b); err != nil {
		return nil, fmt.Errorf("%T version %d: %w", resp, req.GetVersion(), err)
	}
	if again := resp.AppendTo(nil); len(again) != len(b) && req.Key() != int16(kmsg.Fetch) {
		return nil, fmt.Errorf("%T version %d: %d bytes, its fields take %d", resp, req.GetVersion(), len(b), len(again))
	}
	return resp, nil
}

// do sends a request at a version and returns the response.
func do[R kmsg.Response](c *client, version int16, req kmsg.Request) R {
	c.t.Helper()
	req.SetVersion(version)
	return c.receive(req, c.send(req)).(R)
}

// batchOf is a RecordBatch v2 of these values.
func batchOf(codec eventlog.Codec, values ...string) eventlog.RawBatch {
	var b eventlog.Builder
	for i, v := range values {
		b.Add(1000+int64(i), nil, []byte(v), nil)
	}
	batch, _, err := b.Batch(eventlog.Part{}, codec)
	if err != nil {
		panic(err)
	}
	return batch.Raw()
}

// produceRequest puts a batch into a partition.
func produceRequest(topic string, partition int32, acks int16, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks = acks
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, records
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// produce puts values into a partition and returns the first offset.
func (c *client) produce(topic string, partition int32, values ...string) int64 {
	c.t.Helper()
	resp := do[*kmsg.ProduceResponse](c, 9, produceRequest(topic, partition, -1, batchOf(eventlog.None, values...)))
	p := resp.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		c.t.Fatalf("produce to %s/%d: error %d", topic, partition, p.ErrorCode)
	}
	return p.BaseOffset
}

// fetchRequest asks for one partition.
func fetchRequest(topic eventlog.Topic, partition int32, offset int64, minBytes, maxWait int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MinBytes, req.MaxWaitMillis, req.MaxBytes, req.SessionEpoch = minBytes, maxWait, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic.Name, topic.ID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = partition, offset, 1<<20, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// values decodes what a fetch returned, from an offset on.
func values(t testing.TB, records []byte, from int64) (out []string) {
	t.Helper()
	for len(records) > 0 {
		raw, err := eventlog.CheckBatch(records)
		if err != nil {
			t.Fatal(err)
		}
		recs, err := eventlog.NewRawBatch(eventlog.Part{}, raw).Records()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			if r.Offset >= from {
				out = append(out, string(r.Value))
			}
		}
		records = records[len(raw):]
	}
	return out
}

// stored is what the log holds of a partition.
func (n *node) stored(topic eventlog.Topic, partition int32) (out []eventlog.RawBatch) {
	n.t.Helper()
	got, err := n.eng.FetchRaw(eventlog.Part{Topic: topic.ID, Index: partition}, 0, 64<<20, true)
	if err != nil {
		n.t.Fatal(err)
	}
	for rest := got.Raw; len(rest) > 0; {
		b, err := eventlog.CheckBatch(rest)
		if err != nil {
			n.t.Fatal(err)
		}
		out, rest = append(out, b), rest[len(b):]
	}
	return out
}
