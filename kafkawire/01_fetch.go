package kafkawire

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
)

// Fetch: key 1, versions 4–17.
//
// Answers when MinBytes are readable over all partitions, one of them is in error, or MaxWait is over; what is written is the
// log's own bytes. It runs in the connection's writer when it is its turn.
//
//   - sessions from 7 on (fetchsession.go); topics by id from 13 on. A session keeps to the one or the other
//   - nobody reads what is not durable. Who reads only what is committed gets nothing from the last stable offset on, and is told which
//     transactions were aborted in what it gets
//   - zstd from 10 on: older versions get what is before it, then UNSUPPORTED_COMPRESSION_TYPE
//   - a topic id is looked up in the table that the records come from, so INCONSISTENT_TOPIC_ID cannot happen: a topic that was
//     deleted, or made again, is UNKNOWN_TOPIC_ID
//   - 18 adds a field only brokers use
func init() {
	registerStart(int16(kmsg.Fetch), 4, 17, `i32:0-14 i32 i32 i32 i8 i32:7+ i32:7+
		[ s:0-12 uuid:13+ [ i32 i32:9+ i64 i32:12+ i64:5+ i32 ] ]
		[:7+ s:7-12 uuid:13+ *i32 ] s:11+ !1`, startFetch)
}

// leaderEpoch is the epoch of every partition: there is one leader, and what it showed is never taken back.
const leaderEpoch = 0

// fetch is one Fetch request. It is used again once its response is written.
type fetch struct {
	c       *conn
	r       request
	req     kmsg.FetchRequest
	code    int16 // of the whole response
	set     *fetchSet
	session int32 // of the response
	all     bool  // the response has every partition
	held    int64 // of Options.MaxFetched
	files   []engine.Span
	reply   reply
	out     fetchEncoder
}

var fetches sync.Pool

func startFetch(c *conn, r *request) (*reply, error) {
	defer r.release()
	f, ok := fetches.Get().(*fetch)
	if !ok {
		f = &fetch{}
		f.reply.slow, f.reply.finish, f.reply.sent = true, f.run, f.recycle
	}
	f.c, f.r = c, request{api: r.api, version: r.version, correlation: r.correlation}
	f.req.SetVersion(r.version)
	if err := f.req.ReadFrom(r.body); err != nil {
		return nil, err
	}
	return &f.reply, nil
}

// recycle lets go of what the response held, and makes the fetch ready for another request.
func (f *fetch) recycle() {
	f.release()
	if cap(f.out.b) > smallBuffer || cap(f.out.cuts) > keptParts {
		return
	}
	clear(f.out.cuts)
	f.reply.reset()
	f.c, f.req, f.set, f.code, f.session, f.all = nil, kmsg.FetchRequest{}, nil, 0, 0, false
	fetches.Put(f)
}

// committed tells whether the client reads only what is committed.
func (f *fetch) committed() bool { return f.req.IsolationLevel == readCommitted }

// readable is about how much there is to read of a partition.
func (f *fetch) readable(p *fetchPart, limit int) int {
	if f.committed() {
		return f.c.s.Engine.ReadableCommitted(p.part, p.offset, limit)
	}
	return f.c.s.Engine.ReadableBytes(p.part, p.offset, limit)
}

// reserve takes memory for the records of partitions, as much as there are up to limit. When clients that take their responses slowly hold
// it all, the others go on in small steps.
func (f *fetch) reserve(parts []*fetchPart, limit int) int {
	n := 0
	for _, p := range parts {
		if n >= limit {
			break
		}
		if p.code == 0 {
			n += f.readable(p, min(limit-n, p.maxBytes))
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
	for i := range f.files {
		f.files[i].Release()
	}
	f.files = f.files[:0]
}

// smallFetch is the size of a response, but for a larger first batch, that needs no memory reserved.
const smallFetch = 64 << 10

// Records from here on are sent from the file they are in, where that can be (sendfile.go): nothing of them passes through memory of ours.
// Fewer are not worth the calls.
const sendFrom = 16 << 10

func (f *fetch) run(out *frame) error {
	f.begin()
	if f.set == nil {
		f.set = &fetchSet{}
	} else {
		defer f.end()
		f.resolve()
		f.wait()
		f.collect()
		if f.req.SessionEpoch == newSessionEpoch && f.sessions() {
			f.session = f.c.s.sessions.add(f.set)
		}
	}
	f.encode(out)
	return f.c.ctx.Err()
}

// sessions tells whether the request's version knows them.
func (f *fetch) sessions() bool { return f.req.Version >= 7 }

// begin finds out which partitions are asked for: f.set, or f.code.
func (f *fetch) begin() {
	sessions, byID := f.c.s.sessions, f.req.Version >= 13
	if epoch := f.req.SessionEpoch; !f.sessions() || epoch == newSessionEpoch || epoch == finalSessionEpoch {
		if f.sessions() && f.req.SessionID != 0 {
			sessions.close(f.req.SessionID, f.c.account())
		}
		f.req.ForgottenTopics = nil
		f.set, f.all = &fetchSet{byID: byID, account: f.c.account()}, true
		f.set.update(&f.req)
		return
	}
	set, err := sessions.take(f.req.SessionID, f.req.SessionEpoch, byID, f.c.account())
	if err != nil {
		f.code = err.Code
		return
	}
	changed := len(f.req.Topics)+len(f.req.ForgottenTopics) > 0
	if changed {
		set.update(&f.req)
	}
	if len(set.parts) == 0 { // there is nothing in it, or nothing left
		sessions.close(set.id, set.account)
		f.set, f.all = &fetchSet{byID: byID, account: f.c.account()}, true
		return
	}
	if changed && !sessions.grown(set) {
		f.code = kerr.FetchSessionIDNotFound.Code
		return
	}
	f.set, f.session = set, set.id
}

// end lets the next request have the session. What the response needs of the records it has.
func (f *fetch) end() {
	for _, p := range f.set.parts {
		p.raw, p.file = nil, engine.Span{}
	}
	if f.session == 0 {
		f.c.watch.end()
		return
	}
	f.c.s.sessions.release(f.set)
}

// resolve finds the partitions.
func (f *fetch) resolve() {
	for _, t := range f.set.topics {
		t.asked = false
		if !t.ok || !f.set.byID { // an id that was found is found again, or its partitions say that it is gone
			f.lookUp(t)
		}
	}
	f.authorize()
	for _, p := range f.set.parts {
		t := p.topic
		if p.index >= t.partitions {
			f.lookUp(t) // it may have grown
		}
		p.code, p.high, p.stable, p.low, p.aborted = 0, -1, -1, -1, nil
		if part := (eventlog.Part{Topic: t.at, Index: p.index}); p.part != part {
			p.part = part
			f.set.changes++
		}
		switch {
		case !t.ok && f.set.byID:
			p.code = kerr.UnknownTopicID.Code
		case !t.may:
			p.code = kerr.TopicAuthorizationFailed.Code
		case !t.ok || p.index < 0 || p.index >= t.partitions:
			p.code = kerr.UnknownTopicOrPartition.Code
		case p.epoch > leaderEpoch:
			p.code = kerr.UnknownLeaderEpoch.Code
		}
	}
}

// lookUp finds a topic, once in a request.
func (f *fetch) lookUp(t *fetchTopic) {
	if t.asked {
		return
	}
	t.asked = true
	var topic eventlog.Topic
	if f.set.byID {
		if topic, t.ok = f.c.s.topicByID(t.id); t.name != topic.Name {
			t.name, f.set.rights = topic.Name, stamp{}
		}
	} else {
		topic, t.ok = f.c.s.topic(t.name)
	}
	if t.partitions != topic.Partitions {
		f.set.changes++ // a partition that was not there could not be watched
	}
	t.at, t.partitions = topic.ID, topic.Partitions
}

// authorize asks what the client may read, unless nothing has changed since it was asked.
func (f *fetch) authorize() (changed bool) {
	now := f.c.stamp()
	if now == f.set.rights {
		return false
	}
	f.set.rights = now
	for _, t := range f.set.topics {
		t.may = f.c.mayTopic(kmsg.ACLOperationRead, t.name)
	}
	return true
}

// ready tells whether there is something to answer: MinBytes, or an error, which collect meets again.
func (f *fetch) ready() bool {
	want := int(min(f.req.MinBytes, int32(f.c.s.MaxFetchBytes)))
	for _, p := range f.set.parts {
		if p.code != 0 {
			return true
		}
		if _, err := f.c.s.Engine.FetchRaw(p.part, p.offset, 0, false); err != nil {
			return true
		}
		if want -= f.readable(p, want); want <= 0 {
			return true
		}
	}
	return false
}

// wait waits until there is enough to answer.
func (f *fetch) wait() {
	wait := min(time.Duration(f.req.MaxWaitMillis)*time.Millisecond, f.c.s.MaxFetchWait)
	if len(f.set.parts) == 0 || f.req.MinBytes <= 0 || wait <= 0 || f.ready() {
		return
	}
	f.c.watch.on(f.c.s.Engine, f.set)
	timeout := f.c.watch.within(wait)
	defer timeout.Stop()
	for !f.ready() { // once after on, and then whenever something moved
		select {
		case <-f.c.watch.moved:
		case <-timeout.C:
			return
		case <-f.c.s.drain:
			return
		case <-f.c.ctx.Done():
			return
		}
	}
}

// collect reads the records, in the order the client asked for, or the session rotated to: none starves. The first batch of
// all is sent however large it is, or a client with small limits would be stuck before it for ever (KIP-74).
func (f *fetch) collect() {
	left := min(int(max(f.req.MaxBytes, 0)), f.c.s.MaxFetchBytes)
	room := -1 // memory for what is read; not known before something is
	empty := true
	asked := !mutant(mutantWaiting) && f.authorize() // a right may have gone while we waited
	for i, p := range f.set.parts {
		if asked && p.code == 0 && !p.topic.may {
			p.code = kerr.TopicAuthorizationFailed.Code
		}
		if p.code != 0 || f.fromFile(p, min(left, p.maxBytes)) {
			left -= int(p.file.Size)
			empty = empty && p.file.Size == 0
			continue
		}
		if room < 0 {
			room = f.reserve(f.set.parts[i:], left)
		}
		f.fromMemory(p, min(left, room, p.maxBytes), empty)
		empty = empty && len(p.raw) == 0
		left, room = max(left-len(p.raw), 0), max(room-len(p.raw), 0)
	}
}

// fromFile finds the records of a partition in a file from which they can be sent, at most so many bytes; false if they are not.
func (f *fetch) fromFile(p *fetchPart, most int) bool {
	if most < sendFrom || f.req.Version < 10 || !f.c.sendsFiles() || mutant(mutantFetchSkips) { // older versions: see withoutZstd
		return false
	}
	got, ok := f.c.s.Engine.FetchFile(p.part, p.offset, sendFrom, most, f.committed())
	if ok {
		p.file, p.high, p.stable, p.low, p.aborted = got.File, got.High, got.Stable, got.Start, got.Aborted
		f.files = append(f.files, got.File)
	}
	return ok
}

// fromMemory reads the records of a partition.
func (f *fetch) fromMemory(p *fetchPart, most int, minOne bool) {
	read := f.c.s.Engine.FetchRaw
	if f.committed() {
		read = f.c.s.Engine.FetchCommitted
	}
	got, err := read(p.part, p.offset, most, minOne)
	if err != nil {
		p.code = f.failed(err)
		p.topic.ok = p.topic.ok && !errors.Is(err, eventlog.ErrUnknownTopic)
		return
	}
	p.raw, p.high, p.stable, p.low, p.aborted = got.Raw, got.High, got.Stable, got.Start, got.Aborted
	if mutant(mutantFetchSkips) {
		p.raw = skipBatch(p.raw)
	}
	if f.req.Version < 10 {
		p.withoutZstd()
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
	told := f.set.news(f.all)
	e := &f.out
	e.version, e.flexible, e.cuts = f.req.Version, f.req.Version >= f.r.api.flexible, e.cuts[:0]
	e.b = f.r.header(slices.Grow(e.b[:0], 128+64*told))
	e.i32(0) // throttle
	if e.version >= 7 {
		e.i16(f.code)
		e.i32(f.session)
	}
	parts := f.set.parts
	e.array(runs(parts))
	for len(parts) > 0 {
		run, n, rest := nextRun(parts)
		if parts = rest; n == 0 {
			continue
		}
		t := run[0].topic
		if e.version >= 13 {
			e.b = append(e.b, t.id[:]...)
		} else {
			e.string(t.name)
		}
		e.array(n)
		for _, p := range run {
			if p.tell {
				e.partition(p, f.committed())
			}
		}
		e.tags()
	}
	e.tags()
	e.finish(out)
	if f.session != 0 {
		f.set.rotate()
	}
}

// nextRun is the longest run of partitions of one topic that parts begins with, and how many of them are to be told. Those of
// other topics that are not to be told do not end it.
func nextRun(parts []*fetchPart) (run []*fetchPart, told int, rest []*fetchPart) {
	for i, p := range parts {
		if !p.tell {
			continue
		}
		if told == 0 {
			run = parts[i:]
		} else if p.topic != run[0].topic {
			at := len(parts) - i
			return run[:len(run)-at], told, parts[i:]
		}
		told++
	}
	return run, told, nil
}

// runs counts them.
func runs(parts []*fetchPart) (n int) {
	var last *fetchTopic
	for _, p := range parts {
		if p.tell && p.topic != last {
			n, last = n+1, p.topic
		}
	}
	return n
}

// fetchEncoder writes a Fetch response as pieces: its own bytes, and the log's between them.
type fetchEncoder struct {
	encoder
	cuts []cut
}

// cut is a place in b where records go.
type cut struct {
	at   int
	raw  []byte
	file engine.Span
}

func (e *fetchEncoder) partition(p *fetchPart, committed bool) {
	e.i32(p.index)
	e.i16(p.code)
	e.i64(p.high)
	e.i64(p.stable)
	if e.version >= 5 {
		e.i64(p.low)
	}
	e.abortedTransactions(p.aborted, committed)
	if e.version >= 11 {
		e.i32(-1) // preferred read replica: none
	}
	n := p.size()
	if e.flexible {
		e.uvarint(n + 1)
	} else {
		e.i32(int32(n))
	}
	if n > 0 {
		e.cuts = append(e.cuts, cut{len(e.b), p.raw, p.file})
	}
	e.tags()
}

// abortedTransactions is null for who did not ask for committed records only.
func (e *fetchEncoder) abortedTransactions(aborted []engine.Aborted, committed bool) {
	if !committed {
		e.array(-1)
		return
	}
	e.array(len(aborted))
	for _, a := range aborted {
		e.i64(a.ProducerID)
		e.i64(a.First)
		e.tags()
	}
}

// finish fills in the length and puts the pieces together.
func (e *fetchEncoder) finish(out *frame) {
	size, from := len(e.b), 0
	out.bufs = out.bufs[:0]
	for _, c := range e.cuts {
		out.bufs = append(out.bufs, e.b[from:c.at])
		if from = c.at; c.file.Size > 0 {
			out.files = append(out.files, filePiece{len(out.bufs), c.file})
			size += int(c.file.Size)
			continue
		}
		out.bufs = append(out.bufs, c.raw)
		size += len(c.raw)
	}
	binary.BigEndian.PutUint32(e.b, uint32(size-4))
	if from < len(e.b) { // before version 12 a response may end with records
		out.bufs = append(out.bufs, e.b[from:])
	}
}
