package app

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// kafkaConn is a connection of a Kafka client that has no opinions.
type kafkaConn struct {
	patience time.Duration
	nc       net.Conn
	br       *bufio.Reader
	next     int32
}

func (w *world) dialKafka(l *life) (*kafkaConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.patience)
	defer cancel()
	nc, err := l.doors.dial(doorKafka)(ctx)
	if err != nil {
		return nil, err
	}
	return &kafkaConn{patience: w.patience, nc: nc, br: bufio.NewReader(nc)}, nil
}

// send writes a request of a version without flexible fields.
func (c *kafkaConn) send(req kmsg.Request, version int16) error {
	c.next++
	req.SetVersion(version)
	b := make([]byte, 4, 256)
	b = binary.BigEndian.AppendUint16(b, uint16(req.Key()))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(c.next))
	b = binary.BigEndian.AppendUint16(b, 4)
	b = req.AppendTo(append(b, "test"...))
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	c.nc.SetDeadline(time.Now().Add(c.patience))
	_, err := c.nc.Write(b)
	return err
}

func (c *kafkaConn) receive(resp kmsg.Response, version int16) error {
	var size [4]byte
	if _, err := io.ReadFull(c.br, size[:]); err != nil {
		return err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c.br, b); err != nil {
		return err
	}
	resp.SetVersion(version)
	return resp.ReadFrom(b[4:])
}

func (c *kafkaConn) ask(req kmsg.Request, resp kmsg.Response, version int16) error {
	if err := c.send(req, version); err != nil {
		return err
	}
	return c.receive(resp, version)
}

const (
	rawTopic    = "raw"      // of Kafka clients only
	mixedTopic  = "commands" // what they write there reaches MQTT
	devicesOnly = "telemetry"
)

// kafkaProducer is an idempotent producer. It sends every batch until it is acknowledged, in order.
type kafkaProducer struct {
	w     *world
	id    int64 // -1: none yet
	ids   map[int64]bool
	parts []*producerPart
}

type producerPart struct {
	topic   string
	index   int32
	device  string
	next    int32
	pending []*producedBatch
	acked   []string // of rawTopic: values in order
}

type producedBatch struct {
	seq   int32
	raw   []byte
	sends []*sending
	vals  []string
}

func newKafkaProducer(w *world) *kafkaProducer {
	return &kafkaProducer{w: w, id: -1, ids: map[int64]bool{}, parts: []*producerPart{
		{topic: mixedTopic, index: 0, device: "kafka0"}, {topic: mixedTopic, index: 1, device: "kafka1"}, {topic: rawTopic, device: "kafka2"},
	}}
}

func (k *kafkaProducer) live(l *life, rng *rand.Rand) {
	for round := range 1 + rng.IntN(3) {
		k.w.await(l, k.w.progress.Load()+int64(rng.IntN(20)), 20*time.Millisecond)
		if l.over() {
			return
		}
		if err := k.round(l, rng, round == 0); err != nil && !l.over() {
			k.w.wrong("idempotent producer: %w", err)
			return
		}
	}
}

// round makes some batches, and sends all that have no answer.
func (k *kafkaProducer) round(l *life, rng *rand.Rand, fresh bool) error {
	c, err := k.w.dialKafka(l)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	if err := k.identify(l, c, fresh); err != nil {
		return err
	}
	for _, p := range k.parts {
		for len(p.pending) < 3 && rng != nil && rng.IntN(3) > 0 {
			k.make(p, rng)
		}
		if err := k.flush(l, c, p, rng); err != nil {
			return fmt.Errorf("%s/%d: %w", p.topic, p.index, err)
		}
	}
	return nil
}

// identify gets a producer id, the first time, and one more to see that none is given out twice.
func (k *kafkaProducer) identify(l *life, c *kafkaConn, fresh bool) error {
	if k.id >= 0 && !fresh {
		return nil
	}
	if _, err := l.node.log.Ensure(context.Background(), eventlog.TopicSpec{Name: rawTopic, Partitions: 1}); err != nil {
		return err
	}
	resp := kmsg.NewPtrInitProducerIDResponse()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionTimeoutMillis = 1000
	if err := c.ask(req, resp, 1); err != nil {
		return err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return err
	}
	if k.ids[resp.ProducerID] {
		k.w.wrong("producer id %d was given out twice", resp.ProducerID)
	}
	k.ids[resp.ProducerID] = true
	if k.id < 0 {
		k.id = resp.ProducerID
	}
	return nil
}

// make puts a new batch behind the others.
func (k *kafkaProducer) make(p *producerPart, rng *rand.Rand) {
	batch := &producedBatch{seq: p.next}
	var b eventlog.Builder
	for i := range 1 + rng.IntN(3) {
		value := fmt.Appendf(nil, "raw %d", p.next+int32(i))
		var key []byte
		if p.topic == mixedTopic {
			key = fmt.Appendf(nil, "v%d", p.index)
			m := &packet.Publish{Topic: append([]byte("cmd/"), key...), QoS: 2}
			batch.sends = append(batch.sends, k.w.send(p.device, m, rng.IntN(100), false))
			value = m.Payload
		} else {
			batch.vals = append(batch.vals, string(value))
		}
		b.Add(k.w.now().UnixMilli(), key, value, nil)
		met.produced.Add(1)
	}
	built, _, err := b.Batch(eventlog.Part{}, eventlog.None)
	if err != nil {
		panic(err)
	}
	raw := built.Raw()
	raw.SetProducer(k.id, 0, p.next)
	raw.Reseal()
	batch.raw = raw
	p.next += raw.Count()
	p.pending = append(p.pending, batch)
}

// flush sends what has no answer, and reads the answers; seldom it does not wait for them.
func (k *kafkaProducer) flush(l *life, c *kafkaConn, p *producerPart, rng *rand.Rand) error {
	for _, b := range p.pending {
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10_000
		rt, rp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
		rt.Topic, rp.Partition, rp.Records = p.topic, p.index, b.raw
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		if err := c.send(req, 8); err != nil {
			return err
		}
	}
	if rng != nil && rng.IntN(6) == 0 {
		c.nc.Close()
		return k.again(l, c)
	}
	for len(p.pending) > 0 {
		resp := kmsg.NewPtrProduceResponse()
		if err := c.receive(resp, 8); err != nil {
			return err
		}
		b := p.pending[0]
		if err := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode); err != nil && err != kerr.DuplicateSequenceNumber {
			return fmt.Errorf("sequence %d: %w", b.seq, err)
		}
		for _, s := range b.sends {
			k.w.acked(s, packet.Success)
		}
		p.acked = append(p.acked, b.vals...)
		p.pending = p.pending[1:]
	}
	return nil
}

// again connects anew.
func (k *kafkaProducer) again(l *life, c *kafkaConn) error {
	n, err := k.w.dialKafka(l)
	if err == nil {
		*c = *n
	}
	return err
}

// settle sends what is left, and reads what only Kafka clients wrote.
func (k *kafkaProducer) settle(l *life) {
	if err := k.round(l, nil, true); err != nil {
		k.w.wrong("idempotent producer: %w", err)
		return
	}
	ctx := context.Background()
	t, err := l.node.log.Topic(ctx, rawTopic)
	if err != nil {
		k.w.wrong("%w", err)
		return
	}
	var got []string
	if err := k.w.readPartition(ctx, l, t, 0, func(r *eventlog.Record) { got = append(got, string(r.Value)) }); err != nil {
		k.w.wrong("read %s: %w", rawTopic, err)
	}
	if want := k.parts[2].acked; fmt.Sprint(got) != fmt.Sprint(want) {
		k.w.wrong("%s holds %q, want %q", rawTopic, got, want)
	}
}

// kafkaCommitter commits offsets, each higher than the one before.
type kafkaCommitter struct {
	w           *world
	sent, acked map[groupPart]int64
}

type groupPart struct {
	group string
	index int32
}

func newKafkaCommitter(w *world) *kafkaCommitter {
	return &kafkaCommitter{w: w, sent: map[groupPart]int64{}, acked: map[groupPart]int64{}}
}

func (k *kafkaCommitter) live(l *life, rng *rand.Rand) {
	c, err := k.w.dialKafka(l)
	if err != nil {
		return
	}
	defer c.nc.Close()
	for range 2 + rng.IntN(12) {
		gp := groupPart{fmt.Sprint("group", rng.IntN(2)), int32(rng.IntN(3))}
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Group, req.Generation = gp.group, -1
		rt, rp := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitRequestTopicPartition()
		k.sent[gp]++
		rt.Topic, rp.Partition, rp.Offset = devicesOnly, gp.index, k.sent[gp]
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp := kmsg.NewPtrOffsetCommitResponse()
		err := c.ask(req, resp, 7)
		if err == nil {
			err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
		}
		if err != nil {
			if !l.over() {
				k.w.wrong("commit %+v: %w", gp, err)
			}
			return
		}
		k.acked[gp] = k.sent[gp]
		met.commits.Add(1)
		k.w.await(l, k.w.progress.Load()+int64(rng.IntN(8)), 10*time.Millisecond)
	}
}

// check asks what is committed: at least what was acknowledged, nothing that was not sent.
func (k *kafkaCommitter) check(l *life) {
	c, err := k.w.dialKafka(l)
	if err != nil {
		return
	}
	defer c.nc.Close()
	for _, group := range []string{"group0", "group1"} {
		req := kmsg.NewPtrOffsetFetchRequest()
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = devicesOnly, []int32{0, 1, 2}
		req.Group, req.Topics = group, append(req.Topics, rt)
		resp := kmsg.NewPtrOffsetFetchResponse()
		err := c.ask(req, resp, 5)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil {
			if !l.over() {
				k.w.wrong("fetch offsets of %s: %w", group, err)
			}
			return
		}
		for _, p := range resp.Topics[0].Partitions {
			gp := groupPart{group, p.Partition}
			if got := max(0, p.Offset); p.ErrorCode != 0 || got < k.acked[gp] || got > k.sent[gp] {
				k.w.wrong("offset of %+v is %d (error %d), want %d to %d", gp, p.Offset, p.ErrorCode, k.acked[gp], k.sent[gp])
			} else {
				k.acked[gp] = got // what was read must stay
			}
		}
	}
}

// kafkaReader reads the devices' topics as Kafka and remembers what it saw.
type kafkaReader struct {
	w    *world
	next map[readPart]int64
	seen map[readPart]map[int64]uint32 // by offset
}

type readPart struct {
	topic string
	index int32
}

func newKafkaReader(w *world) *kafkaReader {
	k := &kafkaReader{w: w, next: map[readPart]int64{}, seen: map[readPart]map[int64]uint32{}}
	for topic, n := range map[string]int32{"telemetry": 3, "commands": 2, "states": 2} {
		for i := range n {
			k.seen[readPart{topic, i}] = map[int64]uint32{}
		}
	}
	return k
}

func (k *kafkaReader) live(l *life, _ *rand.Rand) {
	c, err := k.w.dialKafka(l)
	if err != nil {
		return
	}
	defer c.nc.Close()
	for !l.ending() {
		n, err := k.fetch(c)
		if err != nil {
			if !l.over() {
				k.w.wrong("fetch: %w", err)
			}
			return
		}
		if n == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// fetch asks for all partitions once.
func (k *kafkaReader) fetch(c *kafkaConn) (n int, err error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.SessionEpoch = 1<<20, -1
	for p := range k.seen {
		rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
		rt.Topic = p.topic
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = p.index, k.next[p], 1<<20, -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
	}
	resp := kmsg.NewPtrFetchResponse()
	if err := c.ask(req, resp, 11); err != nil {
		return 0, err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return n, fmt.Errorf("%s/%d at %d: %w", t.Topic, p.Partition, k.next[readPart{t.Topic, p.Partition}], err)
			}
			m, err := k.enter(readPart{t.Topic, p.Partition}, p.RecordBatches)
			if err != nil {
				return n, err
			}
			n += m
		}
	}
	return n, nil
}

func (k *kafkaReader) enter(p readPart, records []byte) (n int, err error) {
	for len(records) > 0 {
		raw, err := eventlog.CheckBatch(records)
		if err != nil {
			return n, err
		}
		records = records[len(raw):]
		recs, err := eventlog.NewRawBatch(eventlog.Part{}, raw).Records()
		if err != nil {
			return n, err
		}
		for i := range recs {
			if r := &recs[i]; r.Offset >= k.next[p] {
				k.seen[p][r.Offset] = crc32.ChecksumIEEE(r.Value)
				k.next[p] = r.Offset + 1
				n++
				met.reread.Add(1)
			}
		}
	}
	return n, nil
}

// check looks whether all that was read is still where it was.
func (k *kafkaReader) check(l *life) {
	ctx := context.Background()
	for p, seen := range k.seen {
		t, err := l.node.log.Topic(ctx, p.topic)
		if err != nil {
			k.w.wrong("%w", err)
			return
		}
		err = k.w.readPartition(ctx, l, t, p.index, func(r *eventlog.Record) {
			if sum, ok := seen[r.Offset]; ok && sum == crc32.ChecksumIEEE(r.Value) {
				delete(seen, r.Offset)
			}
		})
		if err != nil {
			k.w.wrong("read %s/%d: %w", p.topic, p.index, err)
		}
		for offset := range seen {
			k.w.wrong("somebody read %s/%d at %d, and it is not there any more", p.topic, p.index, offset)
		}
	}
}
