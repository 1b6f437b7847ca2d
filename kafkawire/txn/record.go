package txn

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Record is one record of the topic __transaction_state, in Kafka's own formats, so that tools which read that topic read ours. A nil Value
// is a tombstone.
type Record struct{ Key, Value []byte }

// Versions of what is written. 1, with tagged fields, came with transactions of version 2.
const keyVersion, valueVersion = 0, 1

func (p *producer) record(id string) Record {
	r := Record{Key: (&kmsg.TxnMetadataKey{Version: keyVersion, TransactionalID: id}).AppendTo(nil)}
	if p.state == Dead {
		return r
	}
	v := kmsg.NewTxnMetadataValue()
	v.Version, v.ProducerID, v.ProducerEpoch, v.State = valueVersion, p.id, p.epoch, kmsg.TransactionState(p.state)
	v.TimeoutMillis, v.LastUpdateTimestamp, v.StartTimestamp = int32(p.timeout.Milliseconds()), p.updated.UnixMilli(), -1
	v.PreviousProducerID, v.ClientTransactionVersion = p.before, p.version
	if !p.started.IsZero() {
		v.StartTimestamp = p.started.UnixMilli()
	}
	for _, part := range (&Txn{p: *p}).Parts() {
		if n := len(v.Topics); n == 0 || v.Topics[n-1].Topic != part.Topic {
			t := kmsg.NewTxnMetadataValueTopic()
			t.Topic = part.Topic
			v.Topics = append(v.Topics, t)
		}
		t := &v.Topics[len(v.Topics)-1]
		t.Partitions = append(t.Partitions, part.Index)
	}
	r.Value = v.AppendTo(nil)
	return r
}

// NameOf returns the transactional id that a record belongs to; ok is false for a record of a kind we do not know.
func NameOf(key []byte) (id string, ok bool) {
	var k kmsg.TxnMetadataKey
	if len(key) < 2 || key[0] != 0 || key[1] != keyVersion {
		return "", false
	}
	err := k.ReadFrom(key)
	return k.TransactionalID, err == nil
}

// Replay changes the id by one of its records.
func (t *Txn) Replay(r Record) error {
	if r.Value == nil {
		t.reset()
		return nil
	}
	if len(r.Value) < 2 || r.Value[0] != 0 || r.Value[1] > valueVersion {
		return fmt.Errorf("transactional id %q: record of an unknown version", t.id)
	}
	if r.Value[1] >= 1 && !whole(r.Value) {
		return fmt.Errorf("transactional id %q: a record is cut off", t.id)
	}
	v := kmsg.NewTxnMetadataValue()
	if err := v.ReadFrom(slices.Clone(r.Value)); err != nil {
		return fmt.Errorf("transactional id %q: %w", t.id, err)
	}
	p := producer{
		state: State(v.State), id: v.ProducerID, epoch: v.ProducerEpoch, before: -1, lastEpoch: -1,
		timeout: time.Duration(v.TimeoutMillis) * time.Millisecond, updated: time.UnixMilli(v.LastUpdateTimestamp),
	}
	if r.Value[1] >= 1 {
		p.before, p.version = v.PreviousProducerID, v.ClientTransactionVersion
	}
	switch {
	case p.before == p.id:
		p.lastEpoch = p.epoch - 1
	case p.before >= 0:
		p.lastEpoch = maxEpoch
	}
	switch p.state {
	case Ongoing:
		p.started, p.parts = time.UnixMilli(v.StartTimestamp), map[Part]struct{}{}
		for _, topic := range v.Topics {
			for _, i := range topic.Partitions {
				p.parts[Part{topic.Topic, i}] = struct{}{}
			}
		}
	case Empty, CompleteCommit, CompleteAbort:
	default:
		return fmt.Errorf("transactional id %q: a record of state %d", t.id, p.state)
	}
	t.put(p)
	t.busy = false
	return nil
}

// whole tells whether a value of version 1 has all that it claims to have. The codec believes how many tagged fields are announced, and would
// look for billions of them for minutes.
func whole(value []byte) bool {
	r := kbin.Reader{Src: value}
	r.Span(2 + 8 + 2 + 4 + 1)
	for n := r.CompactArrayLen(); n > 0 && r.Ok(); n-- {
		r.CompactString()
		r.Span(4 * int(max(r.CompactArrayLen(), 0)))
		skipTags(&r)
	}
	r.Span(8 + 8)
	skipTags(&r)
	return r.Ok()
}

func skipTags(r *kbin.Reader) {
	for n := r.Uvarint(); n > 0 && r.Ok(); n-- {
		r.Uvarint()
		r.Span(int(r.Uvarint()))
	}
}
