package group

import (
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Offsets that are committed in a producer's transaction. Their records are in the log from the start, as a part of the
// transaction; they count once it is committed, unless something newer was committed meanwhile: newer by the order of the log, in
// which the calls of Replay and Pend come.

// txnOffsets is what one producer's open transaction would commit.
type txnOffsets map[string]map[int32]*pendingOffset

type pendingOffset struct {
	Offset
	order uint64 // among all that are pending in the group
	old   bool   // something newer is committed already
}

// CommitTxn is a TxnOffsetCommit request, whose topics the caller has resolved to ids. What it wants appended belongs to its producer's transaction; once that is durable, Pend is
// called with it. Partitions that refused names keep its error.
func (g *Group) CommitTxn(now time.Time, req *kmsg.TxnOffsetCommitRequest, refused func(topic string, partition int32) *kerr.Error) ([]Record, *kmsg.TxnOffsetCommitResponse) {
	g.now = now
	resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	late, all := g.mayCommitTxn(req)
	var records []Record
	for _, t := range req.Topics {
		rt := kmsg.NewTxnOffsetCommitResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
			rp.Partition = p.Partition
			o := Offset{At: p.Offset, LeaderEpoch: p.LeaderEpoch, Committed: g.now}
			if p.Metadata != nil {
				o.Metadata = *p.Metadata
			}
			refusal := all
			if late != nil && late.mayCommitOld(t.TopicID, p.Partition, req.Generation) != nil {
				refusal = kerr.IllegalGeneration // what this request calls a stale epoch
			}
			if refusal == nil {
				refusal = refused(t.Topic, p.Partition)
			}
			if refusal == nil && len(o.Metadata) > g.cfg.MaxMetadata {
				refusal = kerr.OffsetMetadataTooLarge
			}
			if refusal != nil {
				rp.ErrorCode = refusal.Code
			} else {
				records = append(records, offsetRecord(g.name, t.Topic, p.Partition, &o))
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return records, resp
}

// mayCommitTxn decides whether the sender owns what it commits. The transactional id fences producers already, so one that says nothing of
// a member is believed (KIP-447). A member that says a past epoch is returned, see mayCommitConsumer.
func (g *Group) mayCommitTxn(req *kmsg.TxnOffsetCommitRequest) (late *consumerMember, err *kerr.Error) {
	if g.unwelcome() {
		return nil, kerr.GroupMaxSizeReached
	}
	if req.Generation < 0 && req.MemberID == "" && req.InstanceID == nil {
		return nil, nil
	}
	if g.consumer != nil {
		m := g.consumer.members[req.MemberID]
		switch {
		case m == nil:
			return nil, kerr.UnknownMemberID
		case req.Generation > m.epoch:
			return nil, kerr.IllegalGeneration
		case req.Generation < m.epoch:
			return m, nil
		}
		return nil, nil
	}
	if g.Forgettable() {
		return nil, kerr.IllegalGeneration
	}
	m, err := g.find(req.MemberID, req.InstanceID)
	switch {
	case err != nil:
		return nil, err
	case req.Generation != g.generation:
		return nil, kerr.IllegalGeneration
	}
	g.alive(m)
	return nil, nil
}

// Pend notes a record that is durable as a part of a producer's transaction.
func (g *Group) Pend(producer int64, r Record) error {
	topic, partition, o, err := g.readOffset(r)
	if err != nil {
		return err
	}
	if o == nil {
		return fmt.Errorf("group %q: a tombstone in a transaction", g.name)
	}
	if g.txns == nil {
		g.txns = map[int64]txnOffsets{}
	}
	if g.txns[producer] == nil {
		g.txns[producer] = txnOffsets{}
	}
	if g.txns[producer][topic] == nil {
		g.txns[producer][topic] = map[int32]*pendingOffset{}
	}
	g.dueKnown = false
	g.pended++
	g.txns[producer][topic][partition] = &pendingOffset{Offset: *o, order: g.pended}
	return nil
}

// EndTxn ends a producer's transaction: its offsets count, or never were.
func (g *Group) EndTxn(producer int64, commit bool) {
	g.dueKnown = false
	ended := g.txns[producer]
	delete(g.txns, producer)
	if !commit {
		return
	}
	for topic, parts := range ended {
		for partition, o := range parts {
			if o.old {
				continue
			}
			if g.offsets[topic] == nil {
				g.offsets[topic] = map[int32]Offset{}
			}
			g.offsets[topic][partition] = o.Offset
			g.supersede(topic, partition, o.order)
		}
	}
}

// supersede notes that something was committed that is newer than what is pending up to an order.
func (g *Group) supersede(topic string, partition int32, upto uint64) {
	for _, t := range g.txns {
		if o := t[topic][partition]; o != nil && o.order <= upto {
			o.old = true
		}
	}
}

// Unstable tells whether an open transaction would commit an offset in a partition: whoever must not read what may change waits.
func (g *Group) Unstable(topic string, partition int32) bool {
	for _, t := range g.txns {
		if t[topic][partition] != nil {
			return true
		}
	}
	return false
}

// PendingTopics calls f with the topics of offsets that open transactions would commit; more than once with some.
func (g *Group) PendingTopics(f func(topic string)) {
	for _, t := range g.txns {
		for topic := range t {
			f(topic)
		}
	}
}
