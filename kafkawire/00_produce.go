package kafkawire

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/kafkawire/txn"
)

// Produce: key 0, versions 3–13, advertised from 0 (see api.advertisedMin).
//
// Batches go into the log as they are. The reader does not wait for the disk: requests of one connection enter the log in
// their order, and each is answered when its last batch is.
//
//   - a transaction has the partitions that it was given before, and from 12 on those it produces to (transactions of version 2)
//   - topics by id from 13 on
//   - acks=-1 is answered when the batch is durable, acks=1 when it survives the process; consumers see neither before it is
//     durable. acks=0 is not answered, but an error ends the connection
//   - zstd from 7 on, as everywhere
//   - one RecordBatch v2 per partition, as Kafka wants it; older formats are INVALID_RECORD
func init() {
	registerStart(int16(kmsg.Produce), 3, 13, "ns i16 i32 [ s:0-12 uuid:13+ [ i32 nb ] ]", startProduce)
	table[kmsg.Produce].advertisedMin, table[kmsg.Produce].decodes = 0, true
}

// production is one Produce request on its way, and what became of it. It is decoded and answered by hand (produce_codec.go), and used again
// and again: a request costs nothing but its batches.
type production struct {
	c           *conn
	r           request
	acks        int16
	txn         *string
	topics      []producedTopic
	parts       []*produced // those in use, of all topics
	spare       []*produced // all there are, in the same order
	mayTransact bool
	memory      *engine.Memory // the log keeps the batches where they are, in here; nil: it gets copies
	left        atomic.Int32   // batches without an answer, and one for the reader
	errs        atomic.Int32
	reply       reply
	out         []byte
}

// producedTopic is a topic of a request.
type producedTopic struct {
	name  []byte // as the request has it, until its batches are in the log
	id    [16]byte
	parts int // of production.parts, those behind the topics before

	found     eventlog.Topic
	ok        bool
	may       bool // be written by who asks
	publishes bool // to all that its records go on to on MQTT
}

// produced is one partition of a request: its batch, and the answer.
type produced struct {
	of      *production
	index   int32
	records []byte // nil once the log has them, or they are refused
	done    func(engine.Produced)

	code     int16
	message  *string
	base     int64
	appended int64
	start    int64
}

// keptParts is how many partitions' worth of memory a production keeps for the next request.
const keptParts = 1024

var productions sync.Pool

func newProduction(c *conn, r *request) *production {
	p, ok := productions.Get().(*production)
	if !ok {
		p = &production{}
		p.reply.later, p.reply.finish, p.reply.sent = true, p.finish, p.recycle
	}
	p.c, p.r = c, *r
	return p
}

func startProduce(c *conn, r *request) (*reply, error) {
	p := newProduction(c, r)
	p.left.Store(1)
	if err := p.decode(r.body); err != nil {
		r.release()
		return nil, err
	}
	p.mayTransact = p.txn == nil || c.mayTransact(kmsg.ACLOperationWrite, *p.txn)
	for i := range p.topics {
		p.find(&p.topics[i])
	}
	p.eachPart(func(t *producedTopic, part *produced) {
		if refusal := p.admit(t, part); refusal != nil {
			part.refuse(refusal)
			part.records = nil
		}
	})
	p.keep()
	p.eachPart(func(t *producedTopic, part *produced) {
		if part.records != nil {
			p.append(t, part)
		}
	})
	r.recycle() // the log has copies, or else there is nothing to recycle
	p.r.body = nil
	p.done()
	return &p.reply, nil
}

// leastStaying is the size of batches that the log keeps in the memory of their request. For smaller ones that would be much for little.
const leastStaying = 8 << 10

// keep decides whether the log keeps the batches where they are. Some that were admitted may still be refused by the log: so it counts the memory, and
// not only the batches that it keeps there.
func (p *production) keep() {
	size := int(p.r.held)
	if size == 0 {
		return // small
	}
	if p.c.fills = p.mostlyBatches(size); p.c.fills && p.r.lasts {
		p.memory = engine.NewMemory(size)
	}
}

// mostlyBatches tells whether a request of so many bytes is admitted batches of some size, and little else.
func (p *production) mostlyBatches(size int) bool {
	n := 0
	for _, part := range p.parts {
		if part.records == nil {
			continue // refused
		}
		if len(part.records) < leastStaying {
			return false
		}
		n += len(part.records)
	}
	return n > 0 && n >= size/4*3
}

// recycle makes the production ready for another request. Its reply is written, or never will be (reply.sent).
func (p *production) recycle() {
	if len(p.spare) > keptParts || cap(p.topics) > keptParts || cap(p.out) > smallBuffer {
		return
	}
	for _, part := range p.parts {
		part.records, part.message = nil, nil
	}
	clear(p.topics)
	p.c, p.r, p.txn, p.topics, p.parts = nil, request{}, nil, p.topics[:0], p.parts[:0]
	p.memory = nil
	p.errs.Store(0)
	p.reply.reset()
	productions.Put(p)
}

// byTopicID tells whether the request names its topics by id.
func (p *production) byTopicID() bool { return p.r.version >= 13 }

// find looks a topic up, and asks what the client may do to it. One named by its id gets its name.
func (p *production) find(t *producedTopic) {
	if p.byTopicID() {
		t.found, t.ok = p.c.s.topicByID(t.id)
	} else {
		if p.c.topic != string(t.name) {
			p.c.topic = string(t.name)
		}
		t.found, t.ok = p.c.s.topic(p.c.topic)
		t.found.Name = p.c.topic
	}
	name := t.found.Name
	t.may = p.c.mayTopic(kmsg.ACLOperationWrite, name) || !t.ok && p.byTopicID()
	t.publishes = t.ok && t.may && p.c.publishesAll(name)
}

// eachPart calls f for all partitions of the request.
func (p *production) eachPart(f func(*producedTopic, *produced)) {
	parts := p.parts
	for i := range p.topics {
		t := &p.topics[i]
		for _, part := range parts[:t.parts] {
			f(t, part)
		}
		parts = parts[t.parts:]
	}
}

// admit refuses what must not go into the log, or may not go there.
func (p *production) admit(t *producedTopic, part *produced) *refusal {
	if !t.may {
		return refuse(kerr.TopicAuthorizationFailed, "the account may not write to the topic")
	}
	if refusal := p.check(t, part); refusal != nil || t.publishes {
		return refusal
	}
	return p.c.mayPublish(t.found.Name, part.records)
}

// refused makes a refusal of an error of the log.
func (p *production) refused(err error) *refusal {
	r := refused(err)
	if r.code == kerr.UnknownTopicOrPartition && p.byTopicID() { // deleted meanwhile
		r.code = kerr.UnknownTopicID
	}
	return r
}

// check refuses what needs no look into the log.
func (p *production) check(t *producedTopic, part *produced) *refusal {
	switch {
	case p.acks < -1 || p.acks > 1:
		return refuse(kerr.InvalidRequiredAcks, "acks must be -1, 0 or 1")
	case p.txn != nil && !p.mayTransact:
		return refuse(kerr.TransactionalIDAuthorizationFailed, "the account may not write with the transactional id")
	case isInternal(t.found.Name):
		return refuse(kerr.InvalidTopicException, internalTopic)
	case !t.ok && p.byTopicID():
		return refuse(kerr.UnknownTopicID, "no topic with this id")
	case !t.ok || part.index < 0 || part.index >= t.found.Partitions:
		return refuse(kerr.UnknownTopicOrPartition, "no such topic or partition")
	}
	if refusal := checkOneBatch(part.records, p.txn != nil); refusal != nil {
		return refusal
	}
	if p.r.version < 7 && eventlog.RawBatch(part.records).Codec() == eventlog.Zstd {
		return refuse(kerr.UnsupportedCompressionType, "zstd needs version 7 of Produce")
	}
	return nil
}

const (
	internalTopic = "the topic belongs to the server itself: clients cannot write or change it"
)

// checkOneBatch wants exactly one RecordBatch v2, transactional only in a transaction. Its checksum and sequence are the log's to check.
func checkOneBatch(records []byte, transaction bool) *refusal {
	if len(records) >= eventlog.HeaderSize && records[16] < 2 {
		return refuse(kerr.InvalidRecord, "record batches of format 2 only (message formats 0 and 1 are gone)")
	}
	n, err := eventlog.BatchSize(records)
	if err != nil || n == 0 || n > len(records) {
		return refuse(kerr.CorruptMessage, "no whole record batch")
	}
	if n < len(records) {
		return refuse(kerr.InvalidRecord, "more than one record batch for a partition in one request")
	}
	switch attrs := eventlog.RawBatch(records).Attributes(); {
	case attrs&eventlog.AttrControl != 0:
		return refuse(kerr.InvalidRecord, "control batches are the server's to write")
	case attrs&eventlog.AttrTransactional != 0 && !transaction:
		return refuse(kerr.InvalidTxnState, "a transactional batch in a request without a transactional id")
	}
	return nil
}

// append hands one batch to the log, as soon as the partition has room. Waiting for room here is what pauses the client. The log keeps the
// batch for a while: where it is in a large request that batches fill, of all others as a copy of its size, so that their buffer is free for the next one.
func (p *production) append(t *producedTopic, part *produced) {
	at := eventlog.Part{Topic: t.found.ID, Index: part.index}
	for room := p.c.s.Engine.Room(at); room != nil; room = p.c.s.Engine.Room(at) {
		select {
		case <-room:
			continue
		case <-p.c.ctx.Done():
		}
		part.fail(kerr.RequestTimedOut.Code)
		return
	}
	p.left.Add(1)
	raw := part.records
	if p.memory == nil {
		raw = bytes.Clone(raw)
	}
	part.records = nil
	b := eventlog.RawBatch(raw)
	if b.Attributes()&eventlog.AttrTransactional == 0 {
		p.c.s.Engine.ProduceAs(at, raw, engine.Acks(p.acks), engine.Producing{Memory: p.memory}, part.done)
		return
	}
	version := int16(txnVersion1)
	if p.r.version >= 12 {
		version = txnVersion2
	}
	how := engine.Producing{Transactional: true, Fresh: version == txnVersion2, Memory: p.memory}
	err := p.c.s.txns.within(*p.txn, b.ProducerID(), b.ProducerEpoch(), version, txn.Part{Topic: t.found.Name, Index: part.index}, func() {
		p.c.s.Engine.ProduceAs(at, raw, engine.Acks(p.acks), how, part.done)
	})
	if err != nil {
		part.fail(produceCode(err, p.r.version))
		p.done()
	}
}

// answered takes the log's answer. It runs in a goroutine of the log's.
func (part *produced) answered(done engine.Produced) {
	p := part.of
	if part.start = done.LogStart; done.Err != nil {
		part.refuse(p.refused(done.Err))
	} else {
		part.base, part.appended = done.Base, done.LogAppendTime
		if mutant(mutantWrongOffset) && done.Base%16 == 7 {
			part.base++
		}
	}
	p.done()
}

func (part *produced) refuse(r *refusal) {
	r.set(&part.code, &part.message)
	part.of.errs.Add(1)
}

func (part *produced) fail(code int16) {
	part.code = code
	part.of.errs.Add(1)
}

// produceCode is what Produce calls an error of the transactions' coordinator: an old client knows how to try again after
// NOT_ENOUGH_REPLICAS, and one that can abort its transaction is told to.
func produceCode(err *kerr.Error, version int16) int16 {
	switch {
	case err == kerr.ConcurrentTransactions && version < 12:
		err = kerr.NotEnoughReplicas
	case err == kerr.ProducerFenced:
		err = kerr.InvalidProducerEpoch
	case err == kerr.InvalidTxnState && version >= 11:
		err = kerr.TransactionAbortable
	}
	return err.Code
}

// errAcksNone ends a connection whose request failed but wants no answer: nothing else could tell the client.
var errAcksNone = errors.New("a produce request with acks=0 failed")

// done counts an answer. It runs in the log's goroutine, so the response is made elsewhere.
func (p *production) done() {
	if p.left.Add(-1) == 0 {
		p.r.release()
		p.c.replies.settle(&p.reply)
	}
}

// finish makes the response once all answers are there.
func (p *production) finish(f *frame) error {
	failed := p.errs.Load()
	p.c.s.stats.produceErrors.Add(uint64(failed))
	if p.acks != 0 {
		p.encode()
		f.bufs = append(f.bufs[:0], p.out)
	} else if failed > 0 {
		return errAcksNone
	}
	return nil
}
