package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Sync is a SyncGroup request: a follower asks for its assignment, the leader brings everybody's.
func (g *Group) Sync(now time.Time, c Caller, req *kmsg.SyncGroupRequest) Output {
	g.now = now
	resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
	if err := g.sync(c, req, resp); err != nil {
		resp.ErrorCode = err.Code
		g.reply(c.Ticket, resp)
	}
	return g.take()
}

func (g *Group) sync(c Caller, req *kmsg.SyncGroupRequest, resp *kmsg.SyncGroupResponse) *kerr.Error {
	if g.consumer != nil {
		return g.syncHosted(c, req, resp)
	}
	m, err := g.find(req.MemberID, req.InstanceID)
	switch {
	case err != nil:
		return err
	case req.Generation != g.generation:
		return kerr.IllegalGeneration
	case req.ProtocolType != nil && *req.ProtocolType != g.protocolType,
		req.Protocol != nil && (g.protocol == nil || *req.Protocol != *g.protocol):
		return kerr.InconsistentGroupProtocol
	}
	switch g.state {
	case PreparingRebalance:
		return kerr.RebalanceInProgress
	case CompletingRebalance:
		m.owesSync = false
		m.answer(g, kerr.RebalanceInProgress.Code) // a sync on a connection it gave up
		m.syncing = &waiting{c.Ticket, resp}
		g.alive(m)
		if m.id == g.leader {
			g.out.Records = append(g.out.Records, g.metadataRecord(assignments(req)))
			g.out.assigned = true
		}
		return nil
	case Stable:
		m.owesSync = false
		g.alive(m)
		g.reply(c.Ticket, g.synced(m, resp))
		return nil
	}
	return kerr.UnknownMemberID
}

func assignments(req *kmsg.SyncGroupRequest) map[string][]byte {
	out := make(map[string][]byte, len(req.GroupAssignment))
	for _, a := range req.GroupAssignment {
		out[a.MemberID] = a.MemberAssignment
	}
	return out
}

func (g *Group) synced(m *member, resp *kmsg.SyncGroupResponse) *kmsg.SyncGroupResponse {
	resp.ProtocolType, resp.Protocol = kmsg.StringPtr(g.protocolType), g.protocol
	resp.MemberAssignment = m.assignment
	return resp
}

// Durable says what became of an Output's records. If they are durable it replays them and returns the replies that waited
// for it; if not, the replies say so, and an assignment that could not be kept is made again by a rebalance.
func (g *Group) Durable(now time.Time, out Output, err *kerr.Error) Output {
	g.now = now
	if err != nil {
		for _, r := range out.Replies {
			refuse(r.Response, err)
			g.reply(r.Ticket, r.Response)
		}
		if c := g.consumer; c != nil {
			c.seen = nil // it may be of what was not to be
			c.expect(g.now.Add(buryEvery))
		}
		if out.assigned {
			g.each(func(m *member) { m.answer(g, err.Code) })
			g.prepareRebalance()
		}
		return g.take()
	}
	offsets := g.consumer == nil && !g.nextLook.IsZero()
	for _, r := range out.Records {
		if e := g.Replay(r); e != nil {
			panic("group: cannot replay its own record: " + e.Error())
		}
		offsets = offsets && r.isOffset()
	}
	g.out.Replies = append(g.out.Replies, out.Replies...)
	if out.assigned {
		g.enter(Stable)
		g.each(func(m *member) {
			if m.syncing != nil {
				w := m.syncing
				m.syncing = nil
				g.alive(m)
				g.reply(w.ticket, g.synced(m, w.resp.(*kmsg.SyncGroupResponse)))
			}
		})
	}
	if g.unled {
		g.beginClassic()
	}
	g.downgrade()
	if offsets && !out.assigned {
		return g.keepDue()
	}
	return g.take()
}

// refuse turns a response that promised something into one that says it could not be kept.
func refuse(r kmsg.Response, err *kerr.Error) {
	switch r := r.(type) {
	case *kmsg.JoinGroupResponse:
		if r.ErrorCode == 0 {
			joinError(r, r.MemberID, err.Code)
		}
	case *kmsg.ConsumerGroupHeartbeatResponse:
		if r.ErrorCode == 0 {
			r.ErrorCode, r.MemberID, r.MemberEpoch, r.Assignment = err.Code, nil, 0, nil
		}
	case *kmsg.LeaveGroupResponse:
		if r.ErrorCode == 0 {
			r.ErrorCode = err.Code
		}
	case *kmsg.OffsetCommitResponse:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				if p := &r.Topics[i].Partitions[j]; p.ErrorCode == 0 {
					p.ErrorCode = err.Code
				}
			}
		}
	case *kmsg.OffsetDeleteResponse:
		if r.ErrorCode == 0 {
			r.ErrorCode = err.Code
		}
	case *kmsg.DeleteGroupsResponse:
		for i := range r.Groups {
			if r.Groups[i].ErrorCode == 0 {
				r.Groups[i].ErrorCode = err.Code
			}
		}
	}
}

// Heartbeat is a Heartbeat request.
func (g *Group) Heartbeat(now time.Time, c Caller, req *kmsg.HeartbeatRequest) Output {
	g.now = now
	resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
	if err := g.heartbeat(req); err != nil {
		resp.ErrorCode = err.Code
	}
	g.reply(c.Ticket, resp)
	if g.consumer != nil {
		return g.take()
	}
	return g.keepDue()
}

func (g *Group) heartbeat(req *kmsg.HeartbeatRequest) *kerr.Error {
	if g.consumer != nil {
		return g.beatHosted(req)
	}
	m, err := g.find(req.MemberID, req.InstanceID)
	switch {
	case err != nil:
		return err
	case req.Generation != g.generation:
		return kerr.IllegalGeneration
	}
	g.alive(m)
	if g.state == PreparingRebalance {
		return kerr.RebalanceInProgress
	}
	return nil
}

// Leave is a LeaveGroup request: one member before version 3, several from then on.
func (g *Group) Leave(now time.Time, c Caller, req *kmsg.LeaveGroupRequest) Output {
	g.now = now
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	if req.Version < 3 {
		if err := g.leave(req.MemberID, nil); err != nil {
			resp.ErrorCode = err.Code
		}
	}
	for _, lm := range req.Members {
		rm := kmsg.NewLeaveGroupResponseMember()
		rm.MemberID, rm.InstanceID = lm.MemberID, lm.InstanceID
		if err := g.leave(lm.MemberID, lm.InstanceID); err != nil {
			rm.ErrorCode = err.Code
		}
		resp.Members = append(resp.Members, rm)
	}
	g.reply(c.Ticket, resp)
	g.afterRemoval()
	return g.take()
}

func (g *Group) leave(id string, instance *string) *kerr.Error {
	if _, ok := g.pending[id]; ok && instance == nil {
		delete(g.pending, id)
		return nil
	}
	if g.consumer != nil {
		return g.leaveHosted(id, instance)
	}
	if id == "" && instance != nil { // an administrator removes whoever has the place
		id = g.static[*instance]
	}
	m, err := g.find(id, instance)
	if err != nil {
		return err
	}
	g.remove(m)
	return nil
}

// remove takes out a member that left or died, and makes the others divide what it had. Call afterRemoval after the last.
func (g *Group) remove(m *member) {
	g.drop(m, kerr.UnknownMemberID.Code)
	if g.state == Stable || g.state == CompletingRebalance {
		g.prepareRebalance()
	}
}

// afterRemoval completes a join that waited for nobody else. It must follow every removal, of pending ids too.
func (g *Group) afterRemoval() {
	if g.state == PreparingRebalance && len(g.members) == 0 && len(g.pending) == 0 {
		g.initialUntil = time.Time{}
	}
	g.completeJoinIfReady()
}
