package kafkawire

import (
	"encoding/binary"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// Fetch: key 1, versions 4–17.
//
// Answers when MinBytes are readable over all partitions, one of them is in error, or MaxWait is over; what is written is the
// log's own bytes. It runs in the connection's writer when it is its turn.
//
//   - no fetch sessions: every response has session id 0, which tells the client to go on with full requests (KIP-227). A
//     session id that a client makes up is FETCH_SESSION_ID_NOT_FOUND
//   - nobody reads what is not durable, so both isolation levels see the same records, up to the high watermark
//   - zstd from 10 on: older versions get what is before it, then UNSUPPORTED_COMPRESSION_TYPE
//   - 18 adds a field only brokers use
func init() {
	registerStart(int16(kmsg.Fetch), 4, 17, `i32:0-14 i32 i32 i32 i8 i32:7+ i32:7+
		[ s:0-12 uuid:13+ [ i32 i32:9+ i64 i32:12+ i64:5+ i32 ] ]
		[:7+ s:7-12 uuid:13+ *i32 ] s:11+ !1`, startFetch)
}

// leaderEpoch is the epoch of every partition: there is one leader, and what it showed is never taken back.
const leaderEpoch = 0

// fetch is one Fetch request.
type fetch struct {
	c     *conn
	r     *request
	req   kmsg.FetchRequest
	code  int16 // of the whole response
	parts []fetchPart
	at    []int // where each topic's partitions begin in parts
	held  int64 // of Options.MaxFetched
}

type fetchPart struct {
	part     eventlog.Part
	offset   int64
	maxBytes int
	code     int16

	raw               []byte
	high, stable, low int64
}

func startFetch(c *conn, r *request) (*reply, error) {
	defer r.release()
	f := &fetch{c: c, r: r}
	f.req.SetVersion(r.version)
	if err := f.req.ReadFrom(r.body); err != nil {
		return nil, err
	}
	if f.req.SessionID != 0 && f.req.SessionEpoch > 0 {
		f.code = kerr.FetchSessionIDNotFound.Code
		f.req.Topics = nil
	}
	return &reply{slow: true, finish: f.run, sent: f.release}, nil
}

// reserve takes memory for the records, as much as there are up to limit. When clients that take their responses slowly hold
// it all, the others go on in small steps.
func (f *fetch) reserve(limit int) int {
	n := 0
	for i := range f.parts {
		if p := &f.parts[i]; p.code == 0 && n < limit {
			n += f.c.s.Engine.ReadableBytes(p.part, p.offset, min(limit-n, p.maxBytes))
		}
	}
	if n <= smallFetch {
		return min(limit, smallFetch)
	}
	if !f.c.s.fetches.TryAcquire(int64(n)) {
		return min(limit, smallFetch)
	}
	f.held = int64(n)
	return n
}

func (f *fetch) release() {
	f.c.s.fetches.Release(f.held)
	f.held = 0
}

// smallFetch is the size of a response, but for a larger first batch, that needs no memory reserved.
const smallFetch = 64 << 10

func (f *fetch) run(out *frame) error {
	f.resolve()
	if f.code == 0 {
		f.wait()
		f.collect()
	}
	f.encode(out)
	return f.c.ctx.Err()
}

// resolve finds the partitions. One named twice would be watched twice, and looked at twice whenever it moves.
func (f *fetch) resolve() {
	asked := once[eventlog.Part]{}
	for i := range f.req.Topics {
		rt := &f.req.Topics[i]
		f.at = append(f.at, len(f.parts))
		var topic eventlog.Topic
		var ok bool
		if f.req.Version < 13 {
			topic, ok = f.c.s.topic(rt.Topic)
		} else {
			topic, ok = f.c.s.topicByID(rt.TopicID)
		}
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			p := fetchPart{
				part:     eventlog.Part{Topic: topic.ID, Index: rp.Partition},
				offset:   rp.FetchOffset,
				maxBytes: int(max(rp.PartitionMaxBytes, 0)),
				high:     -1, stable: -1, low: -1,
			}
			switch {
			case !ok && f.req.Version >= 13:
				p.code = kerr.UnknownTopicID.Code
			case !ok || rp.Partition < 0 || rp.Partition >= topic.Partitions:
				p.code = kerr.UnknownTopicOrPartition.Code
			case rp.CurrentLeaderEpoch > leaderEpoch:
				p.code = kerr.UnknownLeaderEpoch.Code
			case !asked.first(p.part):
				p.code = kerr.InvalidRequest.Code
			}
			f.parts = append(f.parts, p)
		}
	}
}

// failing tells whether a partition has an error to tell already.
func (f *fetch) failing() bool {
	for i := range f.parts {
		p := &f.parts[i]
		if p.code != 0 {
			return true
		}
		if _, err := f.c.s.Engine.FetchRaw(p.part, p.offset, 0, false); err != nil {
			return true // collect meets it again
		}
	}
	return false
}

// wait waits until there is enough to answer.
func (f *fetch) wait() {
	wait := min(time.Duration(f.req.MaxWaitMillis)*time.Millisecond, f.c.s.MaxFetchWait)
	if len(f.parts) == 0 || f.req.MinBytes <= 0 || wait <= 0 || f.failing() || f.enough() {
		return
	}
	parts := make([]eventlog.Part, len(f.parts))
	for i := range f.parts {
		parts[i] = f.parts[i].part
	}
	moved := make(chan struct{}, 1)
	stop := f.c.s.Engine.Watch(parts, func(eventlog.Part) {
		select {
		case moved <- struct{}{}:
		default:
		}
	})
	defer stop()
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for !f.enough() && !f.deleted() { // once after Watch, and then whenever something moved
		select {
		case <-moved:
		case <-timeout.C:
			return
		case <-f.c.s.drain:
			return
		case <-f.c.ctx.Done():
			return
		}
	}
}

// enough tells whether MinBytes are there.
func (f *fetch) enough() bool {
	want := int(min(f.req.MinBytes, int32(f.c.s.MaxFetchBytes)))
	for i := range f.parts {
		p := &f.parts[i]
		if want -= f.c.s.Engine.ReadableBytes(p.part, p.offset, want); want <= 0 {
			return true
		}
	}
	return false
}

// deleted tells whether a topic went away.
func (f *fetch) deleted() bool {
	for i, at := range f.at {
		if len(f.req.Topics[i].Partitions) == 0 {
			continue
		}
		if _, ok := f.c.s.Engine.TopicByID(f.parts[at].part.Topic); !ok {
			return true
		}
	}
	return false
}

// collect reads the records, in the order the client asked for: it rotates its partitions, so none starves. The first batch of
// all is sent however large it is, or a client with small limits would be stuck before it for ever (KIP-74).
func (f *fetch) collect() {
	left := f.reserve(min(int(max(f.req.MaxBytes, 0)), f.c.s.MaxFetchBytes))
	empty := true
	for i := range f.parts {
		p := &f.parts[i]
		if p.code != 0 {
			continue
		}
		got, err := f.c.s.Engine.FetchRaw(p.part, p.offset, min(left, p.maxBytes), empty)
		if err != nil {
			p.code = f.failed(err)
			continue
		}
		p.raw, p.high, p.stable, p.low = got.Raw, got.High, got.Stable, got.Start
		if f.req.Version < 10 {
			p.withoutZstd()
		}
		if len(got.Raw) > 0 {
			empty = false
		}
		left = max(left-len(got.Raw), 0)
	}
}

// withoutZstd keeps the batches before the first that is compressed with zstd, which versions before 10 do not know; with none
// before it that is an error.
func (p *fetchPart) withoutZstd() {
	for at := 0; at < len(p.raw); {
		b := eventlog.RawBatch(p.raw[at:])
		if b.Codec() == eventlog.Zstd {
			if p.raw = p.raw[:at]; at == 0 {
				p.code = kerr.UnsupportedCompressionType.Code
			}
			return
		}
		n, err := eventlog.BatchSize(b)
		if err != nil || n == 0 {
			return
		}
		at += n
	}
}

func (f *fetch) failed(err error) int16 {
	c := code(err)
	if c == kerr.UnknownTopicOrPartition && f.req.Version >= 13 {
		c = kerr.UnknownTopicID
	}
	if c == kerr.UnknownServerError || c == kerr.CorruptMessage {
		f.c.s.Logger.Error("kafka: fetch failed", "error", err)
	}
	return c.Code
}

// encode writes the response around the records without copying them.
func (f *fetch) encode(out *frame) {
	e := fetchEncoder{version: f.req.Version, flexible: f.req.Version >= f.r.api.flexible}
	e.b = f.r.header(make([]byte, 0, 128+64*len(f.parts)))
	e.i32(0) // throttle
	if e.version >= 7 {
		e.i16(f.code)
		e.i32(0) // session
	}
	e.array(len(f.req.Topics))
	for i := range f.req.Topics {
		t := &f.req.Topics[i]
		if e.version >= 13 {
			e.b = append(e.b, t.TopicID[:]...)
		} else {
			e.string(t.Topic)
		}
		e.array(len(t.Partitions))
		for j := range t.Partitions {
			e.partition(t.Partitions[j].Partition, &f.parts[f.at[i]+j], f.req.IsolationLevel)
		}
		e.tags()
	}
	e.tags()
	out.bufs = e.buffers()
}

// fetchEncoder writes a Fetch response as pieces: its own bytes, and the log's between them.
type fetchEncoder struct {
	version  int16
	flexible bool
	b        []byte
	cuts     []cut
}

// cut is a place in b where records go.
type cut struct {
	at  int
	raw []byte
}

func (e *fetchEncoder) partition(index int32, p *fetchPart, isolation int8) {
	e.i32(index)
	e.i16(p.code)
	e.i64(p.high)
	e.i64(p.stable)
	if e.version >= 5 {
		e.i64(p.low)
	}
	e.abortedTransactions(isolation)
	if e.version >= 11 {
		e.i32(-1) // preferred read replica: none
	}
	if e.flexible {
		e.uvarint(len(p.raw) + 1)
	} else {
		e.i32(int32(len(p.raw)))
	}
	if len(p.raw) > 0 {
		e.cuts = append(e.cuts, cut{len(e.b), p.raw})
	}
	e.tags()
}

// abortedTransactions: none, or null for who did not ask for committed records only.
func (e *fetchEncoder) abortedTransactions(isolation int8) {
	n := 0
	if isolation == 0 {
		n = -1
	}
	e.array(n)
}

func (e *fetchEncoder) i16(v int16) { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *fetchEncoder) i32(v int32) { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *fetchEncoder) i64(v int64) { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }

func (e *fetchEncoder) uvarint(n int) { e.b = binary.AppendUvarint(e.b, uint64(n)) }

func (e *fetchEncoder) array(n int) {
	if e.flexible {
		e.uvarint(n + 1)
	} else {
		e.i32(int32(n))
	}
}

func (e *fetchEncoder) string(s string) {
	if e.flexible {
		e.uvarint(len(s) + 1)
	} else {
		e.i16(int16(len(s)))
	}
	e.b = append(e.b, s...)
}

func (e *fetchEncoder) tags() {
	if e.flexible {
		e.b = append(e.b, 0)
	}
}

// buffers fills in the length and puts the pieces together.
func (e *fetchEncoder) buffers() net.Buffers {
	size, from := len(e.b), 0
	bufs := make(net.Buffers, 0, 2*len(e.cuts)+1)
	for _, c := range e.cuts {
		bufs = append(bufs, e.b[from:c.at], c.raw)
		from, size = c.at, size+len(c.raw)
	}
	binary.BigEndian.PutUint32(e.b, uint32(size-4))
	return append(bufs, e.b[from:])
}
