package kafkawire

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

func TestProduceAndFetchEveryVersion(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	var want []string
	for v := int16(3); v <= 13; v++ {
		for _, codec := range []eventlog.Codec{eventlog.None, eventlog.Gzip, eventlog.Snappy, eventlog.LZ4, eventlog.Zstd} {
			req := produceRequest("a", 0, -1, batchOf(codec, fmt.Sprint(v, codec, 0), fmt.Sprint(v, codec, 1)))
			req.Topics[0].TopicID = topic.ID
			resp := do[*kmsg.ProduceResponse](c, v, req)
			p := resp.Topics[0].Partitions[0]
			if codec == eventlog.Zstd && v < 7 {
				if p.ErrorCode != kerr.UnsupportedCompressionType.Code {
					t.Fatalf("zstd in version %d: error %d", v, p.ErrorCode)
				}
				continue
			}
			if p.ErrorCode != 0 || p.BaseOffset != int64(len(want)) || p.LogAppendTime != -1 || v >= 5 && p.LogStartOffset != 0 {
				t.Fatalf("version %d, %v: %+v", v, codec, p)
			}
			want = append(want, fmt.Sprint(v, codec, 0), fmt.Sprint(v, codec, 1))
		}
	}
	firstZstd := int64(4*8 + 8) // versions 3 to 6 have four codecs, then comes zstd's turn in 7
	if p := do[*kmsg.FetchResponse](c, 9, fetchRequest(topic, 0, firstZstd, 1, 5000)).Topics[0].Partitions[0]; p.ErrorCode != kerr.UnsupportedCompressionType.Code {
		t.Fatalf("zstd for a client that cannot know it: error %d, %d bytes", p.ErrorCode, len(p.RecordBatches))
	}
	for v := int16(4); v <= 17; v++ {
		resp := do[*kmsg.FetchResponse](c, v, fetchRequest(topic, 0, 1, 1, 5000))
		p := resp.Topics[0].Partitions[0]
		if got := values(t, p.RecordBatches, 1); v < 10 && int64(len(got)) != firstZstd-1 { // what is before the first zstd
			t.Fatalf("version %d: got %d records %v", v, len(got), got)
		}
		if resp.ErrorCode != 0 || resp.SessionID != 0 || p.ErrorCode != 0 || p.HighWatermark != int64(len(want)) ||
			p.LastStableOffset != p.HighWatermark || v >= 5 && p.LogStartOffset != 0 || p.AbortedTransactions != nil {
			t.Fatalf("version %d: %+v", v, resp)
		}
		if got := values(t, p.RecordBatches, 1); v >= 10 && !slices.Equal(got, want[1:]) {
			t.Fatalf("version %d: got %d records %v", v, len(got), got)
		}
	}
}

func TestProduceRefusals(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	n.topic("small", 1, map[string]string{"max.message.bytes": "100"})
	good := func() eventlog.RawBatch { return batchOf(eventlog.None, "v") }
	broken := good()
	broken[30] ^= 1
	old := good()
	old[16] = 1
	attrs := func(bit byte) eventlog.RawBatch {
		b := good()
		b[22] |= bit
		b.Reseal()
		return b
	}
	reserved := good()
	reserved.SetProducer(1<<62, 0, 0)
	reserved.Reseal()
	for _, tc := range []struct {
		name      string
		topic     string
		partition int32
		acks      int16
		records   []byte
		want      *kerr.Error
	}{
		{"no such topic", "b", 0, -1, good(), kerr.UnknownTopicOrPartition},
		{"no such partition", "a", 1, -1, good(), kerr.UnknownTopicOrPartition},
		{"negative partition", "a", -1, -1, good(), kerr.UnknownTopicOrPartition},
		{"internal topic", offsetsTopic, 0, -1, good(), kerr.InvalidTopicException},
		{"the log's own topic", eventlog.InternalPrefix + "sessions", 0, -1, good(), kerr.InvalidTopicException},
		{"acks 2", "a", 0, 2, good(), kerr.InvalidRequiredAcks},
		{"nothing", "a", 0, -1, nil, kerr.CorruptMessage},
		{"half a batch", "a", 0, -1, good()[:40], kerr.CorruptMessage},
		{"two batches", "a", 0, -1, append(good(), good()...), kerr.InvalidRecord},
		{"checksum", "a", 0, -1, broken, kerr.CorruptMessage},
		{"old format", "a", 0, -1, old, kerr.InvalidRecord},
		{"control batch", "a", 0, -1, attrs(eventlog.AttrControl), kerr.InvalidRecord},
		{"transactional batch", "a", 0, -1, attrs(eventlog.AttrTransactional), kerr.InvalidTxnState},
		{"reserved producer", "a", 0, -1, reserved, kerr.InvalidRecord},
		{"too large", "small", 0, -1, batchOf(eventlog.None, string(make([]byte, 200))), kerr.MessageTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := n.dial()
			for v := int16(3); v <= 12; v += 3 {
				resp := do[*kmsg.ProduceResponse](c, v, produceRequest(tc.topic, tc.partition, tc.acks, slices.Clone(tc.records)))
				if p := resp.Topics[0].Partitions[0]; p.ErrorCode != tc.want.Code || p.BaseOffset != -1 {
					t.Fatalf("version %d: error %d (%v), want %v", v, p.ErrorCode, kerr.ErrorForCode(p.ErrorCode), tc.want)
				}
			}
		})
	}
	c := n.dial()
	txn := produceRequest("a", 0, -1, good())
	txn.TransactionID, txn.Topics[0].Partitions[0].Records = kmsg.StringPtr("t"), attrs(eventlog.AttrTransactional)
	if p := do[*kmsg.ProduceResponse](c, 9, txn).Topics[0].Partitions[0]; p.ErrorCode != kerr.InvalidProducerIDMapping.Code {
		t.Fatalf("in the transaction of an id that nobody has: error %d", p.ErrorCode)
	}
	if got := c.produce("a", 0, "v"); got != 0 {
		t.Fatalf("something refused is in the log: the next offset is %d", got)
	}
}

// Pipelined produce requests enter the log in their order and are answered in their order; acks=0 is not answered at all.
func TestProducePipeline(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	var ids []int32
	var reqs []*kmsg.ProduceRequest
	const count = 200
	for i := range count {
		req := produceRequest("a", 0, []int16{-1, 1, 0}[i%3], batchOf(eventlog.None, fmt.Sprint(i)))
		req.SetVersion(9)
		reqs, ids = append(reqs, req), append(ids, c.send(req))
	}
	for i, req := range reqs {
		if i%3 == 2 {
			continue
		}
		resp := c.receive(req, ids[i]).(*kmsg.ProduceResponse)
		if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != int64(i) {
			t.Fatalf("request %d: %+v", i, p)
		}
	}
	resp := do[*kmsg.FetchResponse](c, 12, fetchRequest(topic, 0, 0, 1<<20, 500))
	for i, v := range values(t, resp.Topics[0].Partitions[0].RecordBatches, 0) {
		if v != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, v)
		}
	}
}

// What is in the log is what was sent, whether its batches stay in the memory of their request or are copied out of it.
func TestProduceLarge(t *testing.T) {
	const parts, rounds = 8, 12
	n := start(t, Options{})
	topic := n.topic("a", parts, nil)
	c := n.dial()
	do[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest()) // strangers may send little
	want := make([][]string, parts)
	for round := range rounds {
		var reqs []*kmsg.ProduceRequest
		var ids []int32
		for k := range 4 { // pipelined: a buffer that comes too early would be written over
			size := []int{12 << 10, 40 << 10, 1 << 10, 12 << 10}[(round+k)%4]
			var req *kmsg.ProduceRequest
			for i := range int32(parts) {
				v := fmt.Sprint(round, k, i) + strings.Repeat(string(rune('a'+k)), size)
				want[i] = append(want[i], v)
				one := produceRequest("a", i, -1, batchOf(eventlog.None, v))
				if req == nil {
					req = one
					continue
				}
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, one.Topics[0].Partitions...)
			}
			req.SetVersion(9)
			reqs, ids = append(reqs, req), append(ids, c.send(req))
		}
		for i, req := range reqs {
			for _, p := range c.receive(req, ids[i]).(*kmsg.ProduceResponse).Topics[0].Partitions {
				if p.ErrorCode != 0 {
					t.Fatalf("round %d: %+v", round, p)
				}
			}
		}
	}
	for i := range int32(parts) {
		var got []string
		for from := int64(0); from < int64(len(want[i])); from = int64(len(got)) {
			raw, err := n.eng.FetchRaw(eventlog.Part{Topic: topic.ID, Index: i}, from, 1<<20, true)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, values(t, raw.Raw, from)...)
		}
		if !slices.Equal(got, want[i]) {
			t.Fatalf("partition %d has other records than were sent", i)
		}
	}
	if !n.srv.buffers.TryAcquire(n.srv.MaxBuffered) {
		t.Error("what the requests held is not given back")
	}
}

// Only what a client has shown to send gets memory before it has come, and only a request that batches fill is kept for them.
func TestProduceMemory(t *testing.T) {
	produce, fetch := int16(kmsg.Produce), int16(kmsg.Fetch)
	for _, tt := range []struct {
		key           int16
		size, largest int
		want          memory // if the last one was filled
	}{
		{produce, smallBuffer, 1 << 20, shared}, {produce, smallBuffer + 1, 100, shared}, {produce, smallBuffer + 2, smallBuffer/2 + 1, lasting},
		{produce, 200_000, 99_999, shared}, {produce, 200_000, 100_000, lasting}, {produce, maxLasting, 100 << 20, lasting},
		{produce, maxLasting + 1, 100 << 20, shared}, {fetch, 200_000, 200_000, shared},
	} {
		if got := memoryOf(tt.key, tt.size, tt.largest, true); got != tt.want {
			t.Errorf("request %d of %d bytes after one of %d: %d, want %d", tt.key, tt.size, tt.largest, got, tt.want)
		}
		if got := memoryOf(tt.key, tt.size, tt.largest, false); got != shared {
			t.Errorf("request %d of %d bytes after one that was not filled: %d", tt.key, tt.size, got)
		}
	}
	for _, tt := range []struct {
		size    int
		batches []int
		want    bool
	}{
		{100_000, []int{50_000, 49_000}, true}, {100_000, []int{50_000, 20_000}, false}, {100_000, []int{95_000, 3000}, false}, {100, nil, false},
		{16*leastStaying + 1000, slices.Repeat([]int{leastStaying}, 16), true},
		{100_000, []int{50_000, -50_000}, false}, {100_000, []int{90_000, -3000}, true}, {100_000, []int{-100_000}, false},
	} {
		p := &production{}
		for _, n := range tt.batches {
			part := &produced{}
			if n >= 0 { // else it is refused
				part.records = make([]byte, n)
			}
			p.parts = append(p.parts, part)
		}
		if got := p.mostlyBatches(tt.size); got != tt.want {
			t.Errorf("%d bytes with batches of %v: %v", tt.size, tt.batches, got)
		}
	}
	if b := unset(100_000); len(b) != 100_000 || cap(b) != len(b) {
		t.Errorf("%d bytes, room for %d", len(b), cap(b))
	}
}

// What a request pins in memory is counted, whatever became of some of its batches.
func TestProduceMemoryIsCounted(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 2, nil)
	tail, err := n.eng.Tail(eventlog.Vector{{Topic: topic.ID}: 0, {Topic: topic.ID, Index: 1}: 0}) // that sees nothing: the ring holds everything
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	c := n.dial()
	id := do[*kmsg.InitProducerIDResponse](c, 4, kmsg.NewPtrInitProducerIDRequest()).ProducerID
	batch := func(seq int32, size int) eventlog.RawBatch {
		b := batchOf(eventlog.None, strings.Repeat("x", size))
		b.SetProducer(id, 0, seq)
		b.Reseal()
		return b
	}
	const kb = 1 << 10
	for _, step := range []struct {
		what        string
		part, other int32
		seq, next   int32 // of the two batches
		size, last  int
		code        *kerr.Error // of the second one
		least, most int         // counted
	}{
		{"into a shared buffer", 0, 1, 0, 0, 100 * kb, 100 * kb, nil, 200 * kb, 202 * kb},
		{"into memory of its own", 0, 1, 1, 1, 100 * kb, 100 * kb, nil, 200 * kb, 202 * kb},
		{"the first is there already", 0, 1, 1, 2, 100 * kb, 20 * kb, nil, 120 * kb, 122 * kb},
		{"the second comes out of order", 0, 1, 2, 9, 20 * kb, 100 * kb, kerr.OutOfOrderSequenceNumber, 120 * kb, 122 * kb},
		{"both are there already", 0, 1, 2, 2, 20 * kb, 100 * kb, nil, 0, 0},
		{"the second is for no partition: a copy", 0, 7, 3, 0, 20 * kb, 100 * kb, kerr.UnknownTopicOrPartition, 20 * kb, 22 * kb},
		{"after one that was not filled", 0, 1, 3, 3, 100 * kb, 20 * kb, nil, 20 * kb, 22 * kb}, // the first is there already
	} {
		before := n.eng.Stats().RingBytes
		req := produceRequest("a", step.part, -1, batch(step.seq, step.size))
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, produceRequest("a", step.other, -1, batch(step.next, step.last)).Topics[0].Partitions...)
		var want int16
		if step.code != nil {
			want = step.code.Code
		}
		got := do[*kmsg.ProduceResponse](c, 9, req).Topics[0].Partitions
		if got[0].ErrorCode != 0 || got[1].ErrorCode != want {
			t.Fatalf("%s: %+v", step.what, got)
		}
		if counted := int(n.eng.Stats().RingBytes - before); counted < step.least || counted > step.most {
			t.Errorf("%s: %d bytes are counted, want %d to %d", step.what, counted, step.least, step.most)
		}
	}
}

func TestAcksNoneErrorEndsTheConnection(t *testing.T) {
	n := start(t, Options{})
	c := n.dial()
	req := produceRequest("missing", 0, 0, batchOf(eventlog.None, "v"))
	req.SetVersion(9)
	if _, err := c.tryReceive(req, c.send(req)); err == nil {
		t.Fatal("answered")
	}
}

func TestIdempotentProducer(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	c := n.dial()
	id := do[*kmsg.InitProducerIDResponse](c, 4, kmsg.NewPtrInitProducerIDRequest())
	if id.ErrorCode != 0 || id.ProducerID < 0 || id.ProducerEpoch != 0 {
		t.Fatalf("%+v", id)
	}
	send := func(epoch int16, seq int32) (code int16, base int64) {
		b := batchOf(eventlog.None, "x", "y")
		b.SetProducer(id.ProducerID, epoch, seq)
		b.Reseal()
		p := do[*kmsg.ProduceResponse](c, 9, produceRequest("a", 0, -1, b)).Topics[0].Partitions[0]
		return p.ErrorCode, p.BaseOffset
	}
	for i, step := range []struct {
		epoch int16
		seq   int32
		want  *kerr.Error
		base  int64
	}{
		{0, 0, nil, 0},
		{0, 2, nil, 2},
		{0, 0, nil, 0}, // a resend is answered with where it is
		{0, 6, kerr.OutOfOrderSequenceNumber, -1},
		{0, 4, nil, 4},
		{1, 2, kerr.OutOfOrderSequenceNumber, -1},
		{1, 0, nil, 6},
		{0, 6, kerr.InvalidProducerEpoch, -1},
	} {
		code, base := send(step.epoch, step.seq)
		if want := step.want; want == nil && code != 0 || want != nil && code != want.Code || base != step.base {
			t.Fatalf("step %d: error %v at %d, want %v at %d", i, kerr.ErrorForCode(code), base, step.want, step.base)
		}
	}
	n.restart()
	c = n.dial()
	if code, base := send(1, 0); code != 0 || base != 6 {
		t.Fatalf("a resend after a restart: error %d at %d", code, base)
	}
	next := do[*kmsg.InitProducerIDResponse](c, 0, kmsg.NewPtrInitProducerIDRequest())
	if next.ProducerID == id.ProducerID {
		t.Fatal("producer id given out twice")
	}
}

func TestFetchErrors(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	c.produce("a", 0, "x")
	internal, _ := n.eng.TopicByName(offsetsTopic)
	for _, tc := range []struct {
		name    string
		version int16
		change  func(*kmsg.FetchRequest)
		want    *kerr.Error
	}{
		{"unknown topic", 12, func(r *kmsg.FetchRequest) { r.Topics[0].Topic = "b" }, kerr.UnknownTopicOrPartition},
		{"unknown id", 13, func(r *kmsg.FetchRequest) { r.Topics[0].TopicID[0]++ }, kerr.UnknownTopicID},
		{"unknown partition", 13, func(r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].Partition = 7 }, kerr.UnknownTopicOrPartition},
		{"internal topic", 12, func(r *kmsg.FetchRequest) { r.Topics[0].Topic = offsetsTopic }, kerr.UnknownTopicOrPartition},
		{"internal topic's id", 13, func(r *kmsg.FetchRequest) { r.Topics[0].TopicID = internal.ID }, kerr.UnknownTopicID},
		{"beyond the end", 12, func(r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].FetchOffset = 2 }, kerr.OffsetOutOfRange},
		{"negative offset", 12, func(r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].FetchOffset = -1 }, kerr.OffsetOutOfRange},
		{"newer epoch", 12, func(r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].CurrentLeaderEpoch = 1 }, kerr.UnknownLeaderEpoch},
	} {
		req := fetchRequest(topic, 0, 1, 1, 20_000) // would wait, were there no error
		tc.change(req)
		began := time.Now()
		p := do[*kmsg.FetchResponse](c, tc.version, req).Topics[0].Partitions[0]
		if p.ErrorCode != tc.want.Code {
			t.Errorf("%s: error %v, want %v", tc.name, kerr.ErrorForCode(p.ErrorCode), tc.want)
		}
		if time.Since(began) > 10*time.Second {
			t.Errorf("%s: waited for records", tc.name)
		}
	}
	session := fetchRequest(topic, 0, 0, 1, 0)
	session.SessionID, session.SessionEpoch = 7, 3
	if r := do[*kmsg.FetchResponse](c, 12, session); r.ErrorCode != kerr.FetchSessionIDNotFound.Code {
		t.Errorf("made-up session: error %d", r.ErrorCode)
	}
}

func TestFetchWaits(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 2, nil)
	writer := n.dial()
	t.Run("for MaxWait", func(t *testing.T) {
		began := time.Now()
		p := do[*kmsg.FetchResponse](n.dial(), 12, fetchRequest(topic, 0, 0, 1, 300)).Topics[0].Partitions[0]
		if took := time.Since(began); p.ErrorCode != 0 || len(p.RecordBatches) != 0 || took < 300*time.Millisecond {
			t.Fatalf("error %d, %d bytes after %v", p.ErrorCode, len(p.RecordBatches), took)
		}
	})
	t.Run("not at all", func(t *testing.T) {
		do[*kmsg.FetchResponse](n.dial(), 12, fetchRequest(topic, 0, 0, 0, 60_000)) // else the deadline of the test's connection
		do[*kmsg.FetchResponse](n.dial(), 12, fetchRequest(topic, 0, 0, 1, 0))
	})
	t.Run("for records", func(t *testing.T) {
		c := n.dial()
		req := fetchRequest(topic, 0, 0, 1, 25_000)
		req.SetVersion(12)
		id := c.send(req)
		waitFor(t, func() bool { return n.srv.Stats().Requests["Fetch"] >= 4 })
		writer.produce("a", 0, "x")
		if got := values(t, c.receive(req, id).(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches, 0); !slices.Equal(got, []string{"x"}) {
			t.Fatalf("got %v", got)
		}
	})
	t.Run("for MinBytes over all partitions", func(t *testing.T) {
		c := n.dial()
		req := fetchRequest(topic, 1, 0, 1500, 25_000)
		more := req.Topics[0].Partitions[0]
		more.Partition, more.FetchOffset = 0, 1
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, more)
		req.SetVersion(12)
		id := c.send(req)
		writer.produce("a", 1, string(make([]byte, 1000)))
		writer.produce("a", 0, string(make([]byte, 1000)))
		ps := c.receive(req, id).(*kmsg.FetchResponse).Topics[0].Partitions
		if len(ps[0].RecordBatches) < 1000 || len(ps[1].RecordBatches) < 1000 {
			t.Fatalf("%d and %d bytes", len(ps[0].RecordBatches), len(ps[1].RecordBatches))
		}
	})
	t.Run("until the topic goes", func(t *testing.T) {
		doomed := n.topic("doomed", 1, nil)
		for _, v := range []int16{12, 13} {
			if v == 13 {
				doomed = n.topic("doomed", 1, nil)
			}
			c := n.dial()
			before := n.srv.Stats().Requests["Fetch"]
			req := fetchRequest(doomed, 0, 0, 1, 25_000)
			req.SetVersion(v)
			id := c.send(req)
			waitFor(t, func() bool { return n.srv.Stats().Requests["Fetch"] > before })
			if err := n.eng.DeleteTopic(t.Context(), "doomed"); err != nil {
				t.Fatal(err)
			}
			p := c.receive(req, id).(*kmsg.FetchResponse).Topics[0].Partitions[0]
			if want := map[int16]int16{12: 3, 13: 100}[v]; p.ErrorCode != want {
				t.Fatalf("version %d: error %d, want %d", v, p.ErrorCode, want)
			}
		}
	})
	t.Run("until the client goes", func(t *testing.T) {
		c := n.dial()
		req := fetchRequest(topic, 0, 2, 1, 60_000)
		req.SetVersion(12)
		before := n.srv.Stats().Requests["Fetch"]
		c.send(req)
		waitFor(t, func() bool { return n.srv.Stats().Requests["Fetch"] > before })
		open := n.srv.Stats().Connections
		c.nc.Close()
		waitFor(t, func() bool { return n.srv.Stats().Connections < open })
	})
}

// waitFor polls until a condition holds.
func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited too long")
		}
	}
}

// The first batch comes whole, whatever the limits say; after that they hold (KIP-74).
func TestFetchLimits(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 2, nil)
	c := n.dial()
	big := string(bytes.Repeat([]byte("x"), 5000))
	for range 3 {
		c.produce("a", 0, big)
		c.produce("a", 1, big)
	}
	count := func(maxBytes, partitionMax int32) [2]int {
		req := fetchRequest(topic, 0, 0, 1, 1000)
		req.MaxBytes = maxBytes
		req.Topics[0].Partitions[0].PartitionMaxBytes = partitionMax
		more := req.Topics[0].Partitions[0]
		more.Partition = 1
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, more)
		ps := do[*kmsg.FetchResponse](c, 12, req).Topics[0].Partitions
		return [2]int{len(values(t, ps[0].RecordBatches, 0)), len(values(t, ps[1].RecordBatches, 0))}
	}
	for _, tc := range []struct {
		max, partitionMax int32
		want              [2]int
	}{
		{1, 1, [2]int{1, 0}},
		{1 << 20, 1, [2]int{1, 0}},
		{1 << 20, 6000, [2]int{1, 1}},
		{6000, 1 << 20, [2]int{1, 0}},
		{12000, 1 << 20, [2]int{2, 0}},
		{1 << 20, 1 << 20, [2]int{3, 3}},
		{-1, -1, [2]int{1, 0}},
	} {
		if got := count(tc.max, tc.partitionMax); got != tc.want {
			t.Errorf("limits %d, %d per partition: %v records, want %v", tc.max, tc.partitionMax, got, tc.want)
		}
	}
}

func TestListOffsets(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	list := func(version int16, at int64) kmsg.ListOffsetsResponseTopicPartition {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID = -1
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = "a"
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Timestamp, rp.CurrentLeaderEpoch = at, -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		return do[*kmsg.ListOffsetsResponse](c, version, req).Topics[0].Partitions[0]
	}
	for v := int16(1); v <= 11; v++ {
		if p := list(v, -1); p.ErrorCode != 0 || p.Offset != 0 {
			t.Fatalf("version %d, the end of an empty partition: %+v", v, p)
		}
		if p := list(v, 0); p.ErrorCode != 0 || p.Offset != -1 || p.Timestamp != -1 {
			t.Fatalf("version %d, by time in an empty partition: %+v", v, p)
		}
	}
	// Records at 1000, 1001, 1002 in a compressed batch.
	do[*kmsg.ProduceResponse](c, 9, produceRequest("a", 0, -1, batchOf(eventlog.Zstd, "x", "y", "z")))
	if err := n.eng.Trim(t.Context(), eventlog.Position{Part: eventlog.Part{Topic: topic.ID}, Offset: 1}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ at, offset, time int64 }{
		{-1, 3, -1}, {-2, 1, -1}, {-3, 2, 1002}, {-4, 1, -1}, {-5, -1, -1}, {-6, -1, -1},
		{0, 1, 1001}, {1001, 1, 1001}, {1002, 2, 1002}, {1003, -1, -1},
	} {
		if p := list(11, tc.at); p.ErrorCode != 0 || p.Offset != tc.offset || p.Timestamp != tc.time {
			t.Errorf("at %d: offset %d, time %d, error %d, want %d, %d", tc.at, p.Offset, p.Timestamp, p.ErrorCode, tc.offset, tc.time)
		}
	}
	for at, since := range map[int64]int16{-3: 7, -4: 8, -5: 9, -6: 11, -7: 12} {
		if p := list(since-1, at); p.ErrorCode != kerr.UnsupportedVersion.Code {
			t.Errorf("special time %d in version %d: error %d", at, since-1, p.ErrorCode)
		}
	}
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	c := n.dial()
	c.produce("a", 0, "x", "y")
	for v := int16(2); v <= 4; v++ {
		for _, tc := range []struct {
			current, epoch int32
			code           int16
			wantEpoch      int32
			wantEnd        int64
		}{
			{-1, 0, 0, 0, 2}, {0, 0, 0, 0, 2}, {-1, 1, 0, -1, -1}, {1, 0, kerr.UnknownLeaderEpoch.Code, -1, -1},
		} {
			req := kmsg.NewPtrOffsetForLeaderEpochRequest()
			rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
			rt.Topic = "a"
			rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			rp.CurrentLeaderEpoch, rp.LeaderEpoch = tc.current, tc.epoch
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
			p := do[*kmsg.OffsetForLeaderEpochResponse](c, v, req).Topics[0].Partitions[0]
			if p.ErrorCode != tc.code || p.LeaderEpoch != tc.wantEpoch || p.EndOffset != tc.wantEnd {
				t.Errorf("version %d, epoch %d (current %d): %+v", v, tc.epoch, tc.current, p)
			}
		}
	}
}
