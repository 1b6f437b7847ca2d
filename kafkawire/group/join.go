package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func joinError(r kmsg.Response, id string, code int16) kmsg.Response {
	resp := r.(*kmsg.JoinGroupResponse)
	resp.ErrorCode, resp.MemberID, resp.Generation = code, id, -1
	return resp
}

// Join is a JoinGroup request. Its answer may come from a much later step.
func (g *Group) Join(now time.Time, c Caller, req *kmsg.JoinGroupRequest) Output {
	g.now = now
	if err := g.join(c, req); err != nil {
		g.out.Records = nil
		g.reply(c.Ticket, joinError(req.ResponseKind(), req.MemberID, err.Code))
	}
	return g.take()
}

func (g *Group) join(c Caller, req *kmsg.JoinGroupRequest) *kerr.Error {
	session := time.Duration(req.SessionTimeoutMillis) * time.Millisecond
	switch {
	case session < g.cfg.MinSession || session > g.cfg.MaxSession:
		return kerr.InvalidSessionTimeout
	case g.consumer != nil && len(g.consumer.members) > 0:
		return g.joinHosted(c, req)
	case !g.supports(req.ProtocolType, req.Protocols):
		return kerr.InconsistentGroupProtocol
	case g.unwelcome():
		return kerr.GroupMaxSizeReached
	case g.sizeWithout(req)+sizeOf(req.Protocols) > g.cfg.MaxBytes:
		return kerr.GroupMaxSizeReached
	case req.MemberID != "":
		return g.rejoin(c, req)
	}
	if req.InstanceID != nil {
		if old := g.members[g.static[*req.InstanceID]]; old != nil {
			g.replaceStatic(old, c, req)
			return nil
		}
	}
	if len(g.members)+len(g.pending) >= g.cfg.MaxMembers {
		return kerr.GroupMaxSizeReached
	}
	if req.InstanceID == nil && req.Version >= 4 {
		return g.handOutID(c, req)
	}
	g.newMember(g.newID(c, req), c, req)
	return nil
}

// sizeWithout is what the members say of themselves, in bytes, but for the one that is joining again.
func (g *Group) sizeWithout(req *kmsg.JoinGroupRequest) (n int) {
	for id, m := range g.members {
		if id != req.MemberID && (req.InstanceID == nil || g.static[*req.InstanceID] != id) {
			n += sizeOf(m.protocols)
		}
	}
	return n
}

func sizeOf(protocols []kmsg.JoinGroupRequestProtocol) (n int) {
	for _, p := range protocols {
		n += len(p.Name) + len(p.Metadata)
	}
	return n
}

func (g *Group) newID(c Caller, req *kmsg.JoinGroupRequest) string {
	if req.InstanceID != nil {
		return g.cfg.NewID(*req.InstanceID)
	}
	return g.cfg.NewID(c.ClientID)
}

// handOutID answers the first JoinGroup of a dynamic member with its id (KIP-394), so that a lost response leaves no member
// behind. The rebalance waits for the id to be used, but not for as long as a session: clients come back at once or never.
func (g *Group) handOutID(c Caller, req *kmsg.JoinGroupRequest) *kerr.Error {
	id := g.newID(c, req)
	g.pending[id] = g.now.Add(min(g.cfg.PendingTimeout, time.Duration(req.SessionTimeoutMillis)*time.Millisecond))
	g.reply(c.Ticket, joinError(req.ResponseKind(), id, kerr.MemberIDRequired.Code))
	return nil
}

// rejoin is a JoinGroup of a member that knows its id.
func (g *Group) rejoin(c Caller, req *kmsg.JoinGroupRequest) *kerr.Error {
	if _, ok := g.pending[req.MemberID]; ok && req.InstanceID == nil {
		g.newMember(req.MemberID, c, req)
		return nil
	}
	m, err := g.find(req.MemberID, req.InstanceID)
	if err != nil {
		return err
	}
	// The same words again mean that the response got lost: the generation stands. A leader of a stable group that joins
	// again asks for a rebalance: its view of the topics changed.
	if m.same(req.Protocols) && (g.state == CompletingRebalance || g.state == Stable && g.leader != m.id) {
		m.answer(g, kerr.RebalanceInProgress.Code) // a sync on a connection it gave up
		m.owesSync = m.owesSync || g.state == CompletingRebalance
		g.alive(m)
		g.reply(c.Ticket, g.joined(m, req.ResponseKind().(*kmsg.JoinGroupResponse)))
		return nil
	}
	g.update(m, c, req)
	g.prepareRebalance()
	g.completeJoinIfReady()
	return nil
}

func (g *Group) newMember(id string, c Caller, req *kmsg.JoinGroupRequest) {
	m := &member{id: id, instance: req.InstanceID, fresh: true}
	if len(g.members) == 0 {
		g.protocolType = req.ProtocolType
	}
	g.add(m)
	g.update(m, c, req)
	g.initialMore = true
	g.prepareRebalance()
	g.completeJoinIfReady()
}

// update takes over what the member says of itself, and lets it wait for the join to complete.
func (g *Group) update(m *member, c Caller, req *kmsg.JoinGroupRequest) {
	m.answer(g, kerr.RebalanceInProgress.Code) // requests on a connection it gave up
	m.clientID, m.host = c.ClientID, c.Host
	m.session = time.Duration(req.SessionTimeoutMillis) * time.Millisecond
	m.rebal = time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond
	if m.rebal <= 0 { // version 0 has none, and some clients send -1
		m.rebal = m.session
	}
	m.protocols = cloneProtocols(req.Protocols)
	m.joining = &waiting{c.Ticket, req.ResponseKind()}
	if g.alive(m); m.fresh {
		m.deadline = g.now.Add(newMemberTimeout)
	}
}

// replaceStatic gives a static member's place to its new process (KIP-345): the old one is fenced. In a stable group that
// costs no rebalance, unless the choice of protocol would change by it.
func (g *Group) replaceStatic(old *member, c Caller, req *kmsg.JoinGroupRequest) {
	wasLeader, oldID := g.leader == old.id, old.id
	old.answer(g, kerr.FencedInstanceID.Code)
	m := *old
	m.id = g.cfg.NewID(*req.InstanceID)
	delete(g.members, oldID)
	g.members[m.id] = &m
	for i, id := range g.order {
		if id == oldID {
			g.order[i] = m.id
		}
	}
	g.static[*req.InstanceID] = m.id
	if wasLeader {
		g.leader = m.id
	}
	g.update(&m, c, req)
	if next := g.selectProtocol(); g.state != Stable || next == nil || g.protocol == nil || *next != *g.protocol {
		g.prepareRebalance()
		g.completeJoinIfReady()
		return
	}
	resp := m.joining.resp.(*kmsg.JoinGroupResponse)
	m.joining = nil
	g.joined(&m, resp)
	if wasLeader {
		if req.Version >= 9 { // KIP-814: it leads, but must not assign again
			resp.SkipAssignment = true
		} else { // let it believe that it follows, else it would assign again and nobody would hear of it
			resp.LeaderID, resp.Members = oldID, nil
		}
	}
	g.out.Records = append(g.out.Records, g.metadataRecord(nil))
	g.reply(c.Ticket, resp)
}

// prepareRebalance makes everybody join again, unless they are at it.
func (g *Group) prepareRebalance() {
	switch g.state {
	case PreparingRebalance:
		return
	case CompletingRebalance:
		g.each(func(m *member) {
			if m.syncing != nil {
				g.alive(m)
				m.answer(g, kerr.RebalanceInProgress.Code)
			}
		})
	case Empty:
		g.initialUntil, g.initialMore = g.now.Add(g.cfg.InitialDelay), false
	}
	for _, m := range g.members {
		m.owesSync = false
	}
	g.syncDeadline = time.Time{}
	g.joinDeadline = g.now.Add(g.rebalanceTimeout())
	g.enter(PreparingRebalance)
}

func (g *Group) rebalanceTimeout() (d time.Duration) {
	for _, m := range g.members {
		d = max(d, m.rebal)
	}
	return d
}

// completeJoinIfReady ends the wait as soon as there is nobody left to wait for. It must follow whatever may have removed the
// last one: a member, or an id handed out.
func (g *Group) completeJoinIfReady() {
	if g.state != PreparingRebalance || g.now.Before(g.initialUntil) || len(g.pending) > 0 {
		return
	}
	for _, m := range g.members {
		if m.joining == nil {
			return
		}
	}
	g.completeJoin()
}

// completeJoin starts the next generation with those who joined. Dynamic members who did not are out; static ones keep their
// place until their session ends.
func (g *Group) completeJoin() {
	g.each(func(m *member) {
		if m.joining == nil && m.instance == nil {
			g.drop(m, kerr.UnknownMemberID.Code)
		}
	})
	if len(g.members) == 0 {
		g.becomeEmpty()
		return
	}
	if !g.leaderJoined() { // static members only, none here yet: go on waiting until their sessions end
		g.joinDeadline = g.now.Add(g.rebalanceTimeout())
		return
	}
	g.generation = nextGeneration(g.generation)
	g.protocol = g.selectProtocol()
	g.joinDeadline, g.initialUntil = time.Time{}, time.Time{}
	g.enter(CompletingRebalance)
	g.syncDeadline = g.now.Add(g.rebalanceTimeout())
	g.each(func(m *member) {
		if m.joining == nil {
			return
		}
		w := m.joining
		m.joining, m.fresh, m.owesSync = nil, false, true
		g.alive(m)
		g.reply(w.ticket, g.joined(m, w.resp.(*kmsg.JoinGroupResponse)))
	})
}

// leaderJoined makes sure that the leader is one who joined.
func (g *Group) leaderJoined() bool {
	if m := g.members[g.leader]; m != nil && m.joining != nil {
		return true
	}
	for _, id := range g.order {
		if g.members[id].joining != nil {
			g.leader = id
			return true
		}
	}
	return false
}

func (g *Group) becomeEmpty() {
	g.generation = nextGeneration(g.generation)
	g.protocol, g.leader = nil, ""
	g.joinDeadline, g.initialUntil, g.syncDeadline = time.Time{}, time.Time{}, time.Time{}
	g.enter(Empty)
	g.out.Records = append(g.out.Records, g.metadataRecord(nil))
}

func nextGeneration(n int32) int32 {
	if n == 1<<31-1 {
		return 1
	}
	return n + 1
}

// joined fills in a member's place in the current generation; the leader learns who the others are.
func (g *Group) joined(m *member, resp *kmsg.JoinGroupResponse) *kmsg.JoinGroupResponse {
	resp.Generation, resp.LeaderID, resp.MemberID = g.generation, g.leader, m.id
	resp.ProtocolType, resp.Protocol = kmsg.StringPtr(g.protocolType), g.protocol
	if m.id != g.leader || g.protocol == nil {
		return resp
	}
	g.each(func(o *member) {
		jm := kmsg.NewJoinGroupResponseMember()
		jm.MemberID, jm.InstanceID, jm.ProtocolMetadata = o.id, o.instance, o.metadata(*g.protocol)
		resp.Members = append(resp.Members, jm)
	})
	return resp
}
