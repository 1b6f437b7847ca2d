package kafkawire

import (
	"bytes"
	"errors"
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
	table[kmsg.Produce].advertisedMin = 0
}

// production is one Produce request on its way.
type production struct {
	c           *conn
	r           *request
	acks        int16
	txn         *string
	resp        *kmsg.ProduceResponse
	mayTransact bool
	left        atomic.Int32 // batches without an answer, and one for the reader
	errs        atomic.Int32
	reply       reply
}

func startProduce(c *conn, r *request) (*reply, error) {
	var req kmsg.ProduceRequest
	req.SetVersion(r.version)
	if err := req.UnsafeReadFrom(r.body); err != nil { // the bytes stay: the log keeps them
		r.release()
		return nil, err
	}
	p := &production{c: c, r: r, acks: req.Acks, txn: req.TransactionID, resp: kmsg.NewPtrProduceResponse()}
	p.mayTransact = p.txn == nil || c.mayTransact(kmsg.ACLOperationWrite, *p.txn)
	p.reply.ready, p.reply.finish = make(chan struct{}), p.finish
	p.left.Store(1)
	p.resp.Topics = make([]kmsg.ProduceResponseTopic, len(req.Topics))
	for i := range req.Topics {
		t, rt := &req.Topics[i], &p.resp.Topics[i]
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		rt.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(t.Partitions))
		topic, ok := p.topic(&req, t)
		may := c.mayTopic(kmsg.ACLOperationWrite, t.Topic) || !ok && byTopicID(&req)
		for j := range t.Partitions {
			rp := &rt.Partitions[j]
			rp.Default()
			rp.Partition, rp.BaseOffset, rp.LogAppendTime, rp.LogStartOffset = t.Partitions[j].Partition, -1, -1, -1
			if refusal := p.admit(&req, t.Topic, may, topic, ok, &t.Partitions[j]); refusal != nil {
				refusal.set(&rp.ErrorCode, &rp.ErrorMessage)
				p.errs.Add(1)
				continue
			}
			p.append(topic.Name, eventlog.Part{Topic: topic.ID, Index: rp.Partition}, t.Partitions[j].Records, rp)
		}
	}
	p.done()
	return &p.reply, nil
}

// admit refuses what must not go into the log, or may not go there.
func (p *production) admit(req *kmsg.ProduceRequest, name string, may bool, topic eventlog.Topic, ok bool, part *kmsg.ProduceRequestTopicPartition) *refusal {
	if !may {
		return refuse(kerr.TopicAuthorizationFailed, "the account may not write to the topic")
	}
	if refusal := p.check(req, name, topic, ok, part); refusal != nil {
		return refusal
	}
	return p.c.mayPublish(name, part.Records)
}

// byTopicID tells whether a request names its topics by id.
func byTopicID(req *kmsg.ProduceRequest) bool { return req.Version >= 13 }

// refused makes a refusal of an error of the log.
func (p *production) refused(err error) *refusal {
	r := refused(err)
	if r.code == kerr.UnknownTopicOrPartition && p.r.version >= 13 { // deleted meanwhile
		r.code = kerr.UnknownTopicID
	}
	return r
}

// topic finds a topic, and gives one named by its id its name.
func (p *production) topic(req *kmsg.ProduceRequest, t *kmsg.ProduceRequestTopic) (eventlog.Topic, bool) {
	if !byTopicID(req) {
		return p.c.s.topic(t.Topic)
	}
	topic, ok := p.c.s.topicByID(t.TopicID)
	t.Topic = topic.Name
	return topic, ok
}

// check refuses what needs no look into the log.
func (p *production) check(req *kmsg.ProduceRequest, name string, topic eventlog.Topic, ok bool, part *kmsg.ProduceRequestTopicPartition) *refusal {
	switch {
	case req.Acks < -1 || req.Acks > 1:
		return refuse(kerr.InvalidRequiredAcks, "acks must be -1, 0 or 1")
	case req.TransactionID != nil && !p.mayTransact:
		return refuse(kerr.TransactionalIDAuthorizationFailed, "the account may not write with the transactional id")
	case isInternal(name):
		return refuse(kerr.InvalidTopicException, internalTopic)
	case !ok && byTopicID(req):
		return refuse(kerr.UnknownTopicID, "no topic with this id")
	case !ok || part.Partition < 0 || part.Partition >= topic.Partitions:
		return refuse(kerr.UnknownTopicOrPartition, "no such topic or partition")
	}
	if refusal := checkOneBatch(part.Records, req.TransactionID != nil); refusal != nil {
		return refusal
	}
	if req.Version < 7 && eventlog.RawBatch(part.Records).Codec() == eventlog.Zstd {
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

// append hands one batch to the log, as soon as the partition has room. Waiting for room here is what pauses the client.
func (p *production) append(topic string, part eventlog.Part, raw []byte, rp *kmsg.ProduceResponseTopicPartition) {
	for room := p.c.s.Engine.Room(part); room != nil; room = p.c.s.Engine.Room(part) {
		select {
		case <-room:
			continue
		case <-p.c.ctx.Done():
		}
		rp.ErrorCode = kerr.RequestTimedOut.Code
		p.errs.Add(1)
		return
	}
	p.left.Add(1)
	done := func(done engine.Produced) {
		rp.LogStartOffset = done.LogStart
		if done.Err != nil {
			p.refused(done.Err).set(&rp.ErrorCode, &rp.ErrorMessage)
			p.errs.Add(1)
		} else {
			rp.BaseOffset, rp.LogAppendTime = done.Base, done.LogAppendTime
			if mutant(mutantWrongOffset) && done.Base%16 == 7 {
				rp.BaseOffset++
			}
		}
		p.done()
	}
	raw = toKeep(raw, p.r.body)
	b := eventlog.RawBatch(raw)
	if b.Attributes()&eventlog.AttrTransactional == 0 {
		p.c.s.Engine.Produce(part, raw, engine.Acks(p.acks), done)
		return
	}
	version := int16(txnVersion1)
	if p.r.version >= 12 {
		version = txnVersion2
	}
	at := txn.Part{Topic: topic, Index: part.Index}
	err := p.c.s.txns.within(*p.txn, b.ProducerID(), b.ProducerEpoch(), version, at, func() {
		p.c.s.Engine.ProduceTransactional(part, raw, engine.Acks(p.acks), version == txnVersion2, done)
	})
	if err != nil {
		rp.ErrorCode = produceCode(err, p.r.version)
		p.errs.Add(1)
		p.done()
	}
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

// toKeep is a batch as the log may have it. The log keeps it for a while and counts its size only, but all bytes of the request
// stay in memory with it; so a batch that is a small share of them is copied.
func toKeep(raw, body []byte) []byte {
	if len(raw) < len(body)/4 {
		return bytes.Clone(raw)
	}
	return raw
}

// errAcksNone ends a connection whose request failed but wants no answer: nothing else could tell the client.
var errAcksNone = errors.New("a produce request with acks=0 failed")

// done counts an answer. It runs in the log's goroutine, so the response is made elsewhere.
func (p *production) done() {
	if p.left.Add(-1) == 0 {
		p.r.release()
		close(p.reply.ready)
	}
}

// finish makes the response once all answers are there.
func (p *production) finish(f *frame) error {
	failed := p.errs.Load()
	p.c.s.stats.produceErrors.Add(uint64(failed))
	if p.acks != 0 {
		f.set(p.r, p.resp)
	} else if failed > 0 {
		return errAcksNone
	}
	return nil
}
