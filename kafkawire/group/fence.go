package group

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// mayCommitConsumer decides whether a commit may be: by a member with an epoch that it had when it got the partition, or later
// (KIP-1251); or by an administrator while there are no members. A member that says a past epoch is returned: what it got since
// is not its to commit with it, see mayCommitOld.
func (g *Group) mayCommitConsumer(req *kmsg.OffsetCommitRequest) (m *consumerMember, err *kerr.Error) {
	c := g.consumer
	if req.Generation < 0 && len(c.members) == 0 {
		return nil, nil
	}
	m = c.members[req.MemberID]
	switch {
	case m == nil:
		return nil, kerr.UnknownMemberID
	case req.Version < firstVersionWithMemberEpoch && m.classic == nil:
		return nil, kerr.UnsupportedVersion
	case req.Generation > m.epoch:
		return nil, m.stale()
	case req.Generation == m.epoch:
		return nil, nil
	}
	return m, nil
}

// mayCommitOld tells whether a member may commit in a partition with an epoch that it is past.
func (m *consumerMember) mayCommitOld(topic [16]byte, index, epoch int32) *kerr.Error {
	for _, h := range []held{m.assigned, m.revoke} {
		if since, ok := h[topic][index]; ok && since <= epoch || mutant(mutantAnyCommit) {
			return nil
		}
	}
	return m.stale()
}

// stale is what a member hears that says another epoch than its own; one that is hosted says a generation.
func (m *consumerMember) stale() *kerr.Error {
	if m.classic != nil {
		return kerr.IllegalGeneration
	}
	return kerr.StaleMemberEpoch
}

// MayFetch decides whether a member may ask for its group's offsets, which it does when it is given partitions. Who names no
// member and no epoch is an administrator.
func (g *Group) MayFetch(member *string, epoch int32) *kerr.Error {
	if g.consumer == nil || member == nil && epoch < 0 {
		return nil
	}
	if member == nil || g.consumer.members[*member] == nil {
		return kerr.UnknownMemberID
	}
	if m := g.consumer.members[*member]; m.epoch != epoch {
		return m.stale()
	}
	return nil
}
