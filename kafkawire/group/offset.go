package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Offset is a committed offset.
type Offset struct {
	At          int64
	LeaderEpoch int32
	Metadata    string
	Committed   time.Time
	Expires     time.Time // zero: Config.Retention after the group is empty
}

// Commit is an OffsetCommit request, whose topics the caller has resolved to names and ids. Partitions that refused names keep its
// error; the offsets of the others are answered once they are durable. Commits may be made while an Output's records are on
// their way.
func (g *Group) Commit(now time.Time, c Caller, req *kmsg.OffsetCommitRequest, refused func(topic string, partition int32) *kerr.Error) Output {
	g.now = now
	resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	all := g.mayCommit(req)
	var late *consumerMember // one that says a past epoch
	if g.consumer != nil && all == nil {
		late, all = g.mayCommitConsumer(req)
	}
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition = p.Partition
			refusal := all
			if late != nil && refusal == nil {
				refusal = late.mayCommitOld(t.TopicID, p.Partition, req.Generation)
			}
			if err := g.commit(refusal, req, t.Topic, &p, refused); err != nil {
				rp.ErrorCode = err.Code
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	g.reply(c.Ticket, resp)
	if g.consumer != nil || g.nextLook.IsZero() {
		return g.take()
	}
	return g.keepDue()
}

// mayCommit decides whether the sender owns what it commits. An offset without generation and member comes from an
// administrator or a consumer that assigns itself: only a group without members takes it.
func (g *Group) mayCommit(req *kmsg.OffsetCommitRequest) *kerr.Error {
	if g.unwelcome() {
		return kerr.GroupMaxSizeReached
	}
	if g.consumer != nil || req.Generation < 0 && g.state == Empty {
		return nil
	}
	if g.Forgettable() {
		if req.Version >= firstVersionWithMemberEpoch {
			return kerr.GroupIDNotFound
		}
		return kerr.IllegalGeneration
	}
	m, err := g.find(req.MemberID, req.InstanceID)
	switch {
	case err != nil:
		return err
	case req.Generation != g.generation:
		return kerr.IllegalGeneration
	}
	g.alive(m)
	if g.state == CompletingRebalance {
		return kerr.RebalanceInProgress
	}
	return nil
}

func (g *Group) commit(all *kerr.Error, req *kmsg.OffsetCommitRequest, topic string, p *kmsg.OffsetCommitRequestTopicPartition,
	refused func(string, int32) *kerr.Error,
) *kerr.Error {
	if all != nil {
		return all
	}
	if err := refused(topic, p.Partition); err != nil {
		return err
	}
	o := Offset{At: p.Offset, LeaderEpoch: p.LeaderEpoch, Committed: g.now}
	if p.Metadata != nil {
		if o.Metadata = *p.Metadata; len(o.Metadata) > g.cfg.MaxMetadata {
			return kerr.OffsetMetadataTooLarge
		}
	}
	if req.Version <= 4 && req.RetentionTimeMillis >= 0 {
		o.Expires = g.now.Add(time.Duration(min(req.RetentionTimeMillis, maxRetentionMillis)) * time.Millisecond)
	}
	g.out.Records = append(g.out.Records, offsetRecord(g.name, topic, p.Partition, &o))
	return nil
}

const maxRetentionMillis = int64(100 * 365 * 24 * time.Hour / time.Millisecond)

// Offset returns a committed offset.
func (g *Group) Offset(topic string, partition int32) (Offset, bool) {
	o, ok := g.offsets[topic][partition]
	return o, ok
}

// Offsets calls f for all committed offsets, in no order.
func (g *Group) Offsets(f func(topic string, partition int32, o Offset)) {
	for t, ps := range g.offsets {
		for p, o := range ps {
			f(t, p, o)
		}
	}
}

// Forget removes the offsets of topics that are gone.
func (g *Group) Forget(now time.Time, gone func(topic string) bool) Output {
	g.now = now
	for t, ps := range g.offsets {
		if gone(t) {
			for p := range ps {
				g.out.Records = append(g.out.Records, offsetRecord(g.name, t, p, nil))
			}
		}
	}
	return g.take()
}

// Delete is the group's part of a DeleteGroups request, as a response that holds this group only.
func (g *Group) Delete(now time.Time, c Caller) Output {
	g.now = now
	rg := kmsg.NewDeleteGroupsResponseGroup()
	rg.Group = g.name
	switch {
	case g.Forgettable():
		rg.ErrorCode = kerr.GroupIDNotFound.Code
	case g.state != Empty || g.consumer != nil && len(g.consumer.members) > 0:
		rg.ErrorCode = kerr.NonEmptyGroup.Code
	default:
		g.bury()
	}
	resp := kmsg.NewPtrDeleteGroupsResponse()
	resp.Groups = append(resp.Groups, rg)
	g.reply(c.Ticket, resp)
	return g.take()
}

// bury writes the tombstones of everything the log holds of the group.
func (g *Group) bury() {
	g.Offsets(func(t string, p int32, _ Offset) {
		g.out.Records = append(g.out.Records, offsetRecord(g.name, t, p, nil))
	})
	if g.stored {
		g.out.Records = append(g.out.Records, Record{Key: metadataKey(g.name)})
	}
	g.buryConsumer()
}

// buryConsumer writes the tombstones of a group of the consumer protocol that has no members.
func (g *Group) buryConsumer() {
	if g.consumer == nil {
		return
	}
	for _, kind := range []int16{targetEpochKey, partitionsKey, groupEpochKey} {
		g.out.Records = append(g.out.Records, Record{Key: consumerKey(kind, g.name, "")})
	}
}

// expires tells when an offset may go; ok is false while somebody may still need it.
func (g *Group) expires(topic string, o *Offset, subscribed map[string]bool) (at time.Time, ok bool) {
	switch {
	case !o.Expires.IsZero():
		return o.Expires, true
	case g.consumer != nil:
		return o.Committed.Add(g.cfg.Retention), !subscribed[topic]
	case g.state == Empty && g.protocolType != "":
		return later(g.since, o.Committed).Add(g.cfg.Retention), true
	case g.state == Empty:
		return o.Committed.Add(g.cfg.Retention), true
	case g.state == Stable && subscribed != nil && !subscribed[topic]:
		return later(g.since, o.Committed).Add(g.cfg.Retention), true
	}
	return time.Time{}, false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// subscribed returns the topics that the members of a group of consumers named; nil if that cannot be known. Of a group of the
// consumer protocol it returns those with offsets only.
func (g *Group) subscribed() map[string]bool {
	if g.consumer != nil {
		topics, wanted := map[string]bool{}, g.consumer.wanted()
		for t := range g.offsets {
			topics[t] = wanted(t)
		}
		return topics
	}
	if g.protocolType != "consumer" || g.protocol == nil {
		return nil
	}
	topics := map[string]bool{}
	for _, m := range g.members {
		var md kmsg.ConsumerMemberMetadata
		if md.ReadFrom(m.metadata(*g.protocol)) != nil {
			return nil
		}
		for _, t := range md.Topics {
			topics[t] = true
		}
	}
	return topics
}

// expireOffsets removes offsets nobody came back for, and then the group itself.
func (g *Group) expireOffsets() {
	left, subscribed := 0, g.subscribed()
	g.Offsets(func(t string, p int32, o Offset) {
		if at, ok := g.expires(t, &o, subscribed); ok && !at.After(g.now) && !g.Unstable(t, p) {
			g.out.Records = append(g.out.Records, offsetRecord(g.name, t, p, nil))
		} else {
			left++
		}
	})
	if left > 0 || g.state != Empty || len(g.pending) > 0 || len(g.txns) > 0 || g.since.Add(emptyLinger).After(g.now) {
		return
	}
	if g.stored {
		g.out.Records = append(g.out.Records, Record{Key: metadataKey(g.name)})
	}
	if g.consumer != nil && len(g.consumer.members) == 0 {
		g.buryConsumer()
	}
}

// DeleteOffsets is an OffsetDelete request. Partitions that refused names keep its error, topics that a member subscribes to
// their offsets.
func (g *Group) DeleteOffsets(now time.Time, c Caller, req *kmsg.OffsetDeleteRequest, refused func(topic string, partition int32) *kerr.Error) Output {
	g.now = now
	resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
	if err := g.mayDeleteOffsets(); err != nil {
		resp.ErrorCode = err.Code
		g.reply(c.Ticket, resp)
		return g.take()
	}
	wanted := g.wanted()
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		subscribed := wanted(t.Topic)
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetDeleteResponseTopicPartition()
			rp.Partition = p.Partition
			_, stored := g.offsets[t.Topic][p.Partition]
			err := refused(t.Topic, p.Partition)
			switch {
			case err != nil:
				rp.ErrorCode = err.Code
			case subscribed:
				rp.ErrorCode = kerr.GroupSubscribedToTopic.Code
			case stored:
				g.out.Records = append(g.out.Records, offsetRecord(g.name, t.Topic, p.Partition, nil))
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	g.reply(c.Ticket, resp)
	return g.take()
}

func (g *Group) mayDeleteOffsets() *kerr.Error {
	switch {
	case g.Forgettable():
		return kerr.GroupIDNotFound
	case g.state != Empty && g.protocolType != "consumer":
		return kerr.NonEmptyGroup
	}
	return nil
}

// wanted tells of topics whether a member subscribes to them. Who cannot be understood may subscribe to all of them.
func (g *Group) wanted() func(topic string) bool {
	if g.consumer != nil {
		return g.consumer.wanted()
	}
	topics := g.subscribed()
	return func(topic string) bool {
		return g.state != Empty && (topics == nil || topics[topic])
	}
}
