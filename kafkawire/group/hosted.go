package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Members that speak the classic protocol in a group to which the server assigns: a group on its way from one protocol to the
// other, a client at a time (see migrate.go). They join, sync and beat as ever; but nobody leads them, a JoinGroup is answered at
// once with the member's epoch for a generation, and a rebalance is theirs alone: REBALANCE_IN_PROGRESS tells a member to join
// again, which is how it says what it has given up and hears what it got, as others do in heartbeats.

// hosted is what such a member says when it joins.
type hosted struct {
	session   time.Duration
	protocols []kmsg.JoinGroupRequestProtocol // never none
}

// protocol is the one that the member is told was chosen: there is no vote, it is the member's favourite.
func (h *hosted) protocol() *string { return &h.protocols[0].Name }

func (h *hosted) equal(o *hosted) bool {
	return h == o || h != nil && o != nil && h.session == o.session && (&member{protocols: h.protocols}).same(o.protocols)
}

// hosts tells whether the group can have a member that speaks these protocols of the classic one: should it become a classic
// group, all of its members must have one in common.
func (c *consumer) hosts(protocolType string, protocols []kmsg.JoinGroupRequestProtocol) bool {
	if protocolType != embeddedType || len(protocols) == 0 {
		return false
	}
	g := New("", nil)
	for _, m := range c.members {
		if m.classic != nil {
			g.members[m.id] = &member{protocols: m.classic.protocols}
		}
	}
	g.protocolType = embeddedType
	return g.supports(protocolType, protocols)
}

// joinHosted is a JoinGroup request.
func (g *Group) joinHosted(who Caller, req *kmsg.JoinGroupRequest) *kerr.Error {
	c, id := g.consumer, req.MemberID
	if _, known := c.members[id]; !known && len(c.members) >= g.cfg.MaxMembers && (req.InstanceID == nil || c.static[*req.InstanceID] == "") {
		return kerr.GroupMaxSizeReached
	}
	if !c.hosts(req.ProtocolType, req.Protocols) {
		return kerr.InconsistentGroupProtocol
	}
	said, err := readEmbedded(req.Protocols[0].Metadata)
	if err != nil {
		return kerr.InconsistentGroupProtocol
	}
	if id == "" {
		if id = g.newID(who, req); req.InstanceID == nil && req.Version >= 4 {
			g.reply(who.Ticket, joinError(req.ResponseKind(), id, kerr.MemberIDRequired.Code))
			return nil // nobody waits for it: the id is taken when it comes, as any is
		}
	}
	s := g.newStep(c)
	if err := s.beginHosted(id, req); err != nil {
		return err
	}
	s.takeHosted(who, req, &said)
	if f := s.run(byID(g.cfg.Topics, said.owned), true); f != nil {
		return f.code
	}
	if live := c.members[s.next.id]; live != nil {
		live.deadline = g.now.Add(s.next.classic.session)
		c.expect(live.deadline)
		g.owe(live)
	}
	resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
	resp.Generation, resp.MemberID = s.next.epoch, s.next.id
	resp.ProtocolType, resp.Protocol = kmsg.StringPtr(embeddedType), s.next.classic.protocol()
	g.reply(who.Ticket, resp)
	return nil
}

// byID are partitions under their topics' ids, without those of topics that are not there.
func byID(topics Topics, named []kmsg.ConsumerMemberAssignmentTopic) []kmsg.ConsumerGroupHeartbeatRequestTopic {
	out := []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	for _, t := range named {
		if topic, ok := topics.Topic(t.Topic); ok {
			out = append(out, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: topic.ID, Partitions: t.Partitions})
		}
	}
	return out
}

// beginHosted finds the member that joins, or makes it. A static one takes its predecessor's place, whatever that one spoke.
func (s *step) beginHosted(id string, req *kmsg.JoinGroupRequest) *kerr.Error {
	if req.InstanceID != nil {
		owner := s.c.members[s.c.static[*req.InstanceID]]
		switch {
		case owner == nil && req.MemberID != "":
			return kerr.UnknownMemberID
		case owner != nil && req.MemberID == "":
			s.replace(owner, id)
			return nil
		case owner != nil && owner.id != id:
			return kerr.FencedInstanceID
		}
	}
	s.find(id)
	return nil
}

// takeHosted takes over what the member says of itself.
func (s *step) takeHosted(who Caller, req *kmsg.JoinGroupRequest, said *embedded) {
	m := s.next
	m.clientID, m.host, m.rack, m.assignor = who.ClientID, who.Host, said.rack, nil
	if req.InstanceID != nil {
		m.instance = req.InstanceID
	}
	m.classic = &hosted{session: time.Duration(req.SessionTimeoutMillis) * time.Millisecond, protocols: cloneProtocols(req.Protocols)}
	if m.rebal = time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond; m.rebal <= 0 { // version 0 has none
		m.rebal = m.classic.session
	}
	m.subscribe(said.topics, "")
}

// findHosted returns the member that a request of the classic protocol speaks for.
func (c *consumer) findHosted(id string, instance *string) (*consumerMember, *kerr.Error) {
	if instance != nil {
		switch current, ok := c.static[*instance]; {
		case !ok:
			return nil, kerr.UnknownMemberID
		case current != id:
			return nil, kerr.FencedInstanceID
		}
	}
	if m := c.members[id]; m != nil && m.classic != nil {
		return m, nil
	}
	return nil, kerr.UnknownMemberID
}

// syncHosted is a SyncGroup request: the member hears what it has.
func (g *Group) syncHosted(c Caller, req *kmsg.SyncGroupRequest, resp *kmsg.SyncGroupResponse) *kerr.Error {
	m, err := g.consumer.findHosted(req.MemberID, req.InstanceID)
	switch {
	case err != nil:
		return err
	case req.Generation != m.epoch:
		return kerr.IllegalGeneration
	case req.ProtocolType != nil && *req.ProtocolType != embeddedType, req.Protocol != nil && *req.Protocol != *m.classic.protocol():
		return kerr.InconsistentGroupProtocol
	case m.epoch < g.consumer.epoch && m.state != unrevoked:
		g.aliveConsumer(m) // it hears that it lives, as by a heartbeat
		g.oweOnce(m)
		return kerr.RebalanceInProgress
	}
	g.aliveConsumer(m)
	if m.owes = (time.Time{}); m.state == unrevoked { // what it hears now is what it keeps: to say so it joins again
		g.owe(m)
	}
	said, _ := readEmbedded(m.classic.protocols[0].Metadata)
	resp.ProtocolType, resp.Protocol = kmsg.StringPtr(embeddedType), m.classic.protocol()
	resp.MemberAssignment = embeddedAssignment(m.assigned, g.cfg.Topics, said.version)
	g.reply(c.Ticket, resp)
	return nil
}

// beatHosted is a Heartbeat request. The member is to join again if there is a newer epoch, if it has something to give up, and if
// what it waits for is free.
func (g *Group) beatHosted(req *kmsg.HeartbeatRequest) *kerr.Error {
	c := g.consumer
	m, err := c.findHosted(req.MemberID, req.InstanceID)
	switch {
	case err != nil:
		return err
	case req.Generation != m.epoch:
		return kerr.IllegalGeneration
	}
	g.aliveConsumer(m)
	if m.epoch < c.epoch || m.state == unrevoked || m.state == unreleased && !c.waits(m) {
		g.oweOnce(m)
		return kerr.RebalanceInProgress
	}
	return nil
}

// waits tells whether others hold something of what the member is to get.
func (c *consumer) waits(m *consumerMember) bool {
	for topic, parts := range c.target[m.id] {
		for _, i := range parts {
			if h := c.holders[part{topic, i}]; h != "" && h != m.id {
				return true
			}
		}
	}
	return false
}

// leaveHosted is a member's part of a LeaveGroup request. An administrator, who names no member, removes whoever has the instance id.
func (g *Group) leaveHosted(id string, instance *string) *kerr.Error {
	c := g.consumer
	if id == "" && instance != nil && c.static[*instance] != "" {
		g.removeConsumers(c, c.members[c.static[*instance]])
		return nil
	}
	m, err := c.findHosted(id, instance)
	if err != nil {
		return err
	}
	g.removeConsumers(c, m)
	return nil
}
