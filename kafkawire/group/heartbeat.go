package group

import (
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fault is an error with the text that goes into the response.
type fault struct {
	code *kerr.Error
	text string
}

// ConsumerHeartbeat is a ConsumerGroupHeartbeat request, its form checked by CheckConsumerHeartbeat.
func (g *Group) ConsumerHeartbeat(now time.Time, c Caller, req *kmsg.ConsumerGroupHeartbeatRequest) Output {
	g.now = now
	resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	resp.MemberID, resp.MemberEpoch, resp.HeartbeatIntervalMillis = nil, 0, 0
	if f := g.consumerHeartbeat(c, req, resp); f != nil {
		resp.ErrorCode, resp.ErrorMessage = f.code.Code, &f.text
		g.out.Records = nil
	}
	g.reply(c.Ticket, resp)
	return g.take()
}

// CheckConsumerHeartbeat refuses what no group would take.
func CheckConsumerHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) (code *kerr.Error, text string) {
	blank := func(s *string) bool { return s != nil && strings.TrimSpace(*s) == "" }
	joining := req.MemberEpoch == joinEpoch
	switch {
	case blank(&req.MemberID) && (req.Version >= 1 || req.MemberEpoch > 0 || req.MemberEpoch == leaveEpoch):
		return kerr.InvalidRequest, "MemberId can't be empty."
	case blank(&req.Group):
		return kerr.InvalidRequest, "GroupId can't be empty."
	case blank(req.InstanceID):
		return kerr.InvalidRequest, "InstanceId can't be empty."
	case blank(req.RackID):
		return kerr.InvalidRequest, "RackId can't be empty."
	case joining && req.RebalanceTimeoutMillis == -1:
		return kerr.InvalidRequest, "RebalanceTimeoutMs must be provided in first request."
	case joining && (req.Topics == nil || len(req.Topics) > 0):
		return kerr.InvalidRequest, "TopicPartitions must be empty when (re-)joining."
	case joining && req.SubscribedTopicNames == nil && req.SubscribedTopicRegex == nil:
		return kerr.InvalidRequest, "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
	case req.MemberEpoch == staticLeaveEpoch && req.InstanceID == nil:
		return kerr.InvalidRequest, "InstanceId can't be null."
	case req.MemberEpoch < staticLeaveEpoch:
		return kerr.InvalidRequest, "MemberEpoch is invalid."
	}
	if a := req.ServerAssignor; a != nil && *a != uniformAssignor && *a != rangeAssignor {
		return kerr.UnsupportedAssignor, "ServerAssignor " + *a + " is not supported. Supported assignors: uniform, range."
	}
	if req.SubscribedTopicRegex != nil {
		if _, err := compileTopics(*req.SubscribedTopicRegex); err != nil {
			return kerr.InvalidRegularExpression, err.Error()
		}
	}
	return nil, ""
}

func (g *Group) consumerHeartbeat(who Caller, req *kmsg.ConsumerGroupHeartbeatRequest, resp *kmsg.ConsumerGroupHeartbeatResponse) *fault {
	c := g.consumer
	if c == nil {
		var f *fault
		if c, f = g.becomeConsumer(req); f != nil {
			return f
		}
	}
	if req.MemberEpoch < 0 {
		return g.consumerLeave(c, req, resp)
	}
	s := g.newStep(c)
	if f := s.begin(who, req); f != nil {
		return f
	}
	s.take(who, req)
	if f := s.run(req.Topics, req.Topics != nil); f != nil {
		return f
	}
	if live := c.members[s.next.id]; live != nil {
		g.aliveConsumer(live)
	}
	resp.MemberID, resp.MemberEpoch = &s.next.id, s.next.epoch
	resp.HeartbeatIntervalMillis = millis(g.cfg.ConsumerHeartbeat)
	full := req.RebalanceTimeoutMillis != -1 && (req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil) && req.Topics != nil
	if req.MemberEpoch == joinEpoch || full || !s.next.assigned.equal(s.was.assigned) {
		resp.Assignment = s.next.assigned.response()
	}
	if g.consumer == nil { // whoever waits in the classic protocol is to join what the group is now
		g.each(func(m *member) { m.answer(g, kerr.RebalanceInProgress.Code) })
	}
	return nil
}

// becomeConsumer is what the group is in the consumer protocol once the records for that are durable.
func (g *Group) becomeConsumer(req *kmsg.ConsumerGroupHeartbeatRequest) (*consumer, *fault) {
	switch {
	case g.Forgettable() && req.MemberEpoch != joinEpoch:
		return nil, &fault{kerr.GroupIDNotFound, "Consumer group " + g.name + " not found."}
	case g.unwelcome():
		return nil, &fault{kerr.GroupMaxSizeReached, "There are too many groups."}
	case req.MemberEpoch != joinEpoch:
		return nil, &fault{kerr.GroupIDNotFound, "Group " + g.name + " is not a consumer group."}
	}
	return g.upgrade()
}

// consumerLeave is a member's last heartbeat; of a static one perhaps only the last before it comes again.
func (g *Group) consumerLeave(c *consumer, req *kmsg.ConsumerGroupHeartbeatRequest, resp *kmsg.ConsumerGroupHeartbeatResponse) *fault {
	m := c.members[req.MemberID]
	if req.InstanceID != nil {
		m = c.members[c.static[*req.InstanceID]]
		if m != nil && m.id != req.MemberID {
			return fenced(req, m)
		}
	}
	if m == nil {
		return unknown(g, req)
	}
	resp.MemberID, resp.MemberEpoch = &m.id, req.MemberEpoch
	if req.MemberEpoch == staticLeaveEpoch {
		next := *m
		next.epoch, next.state, next.revoke = staticLeaveEpoch, stable, nil
		g.out.Records = append(g.out.Records, currentRecord(g.name, &next))
		return nil
	}
	g.removeConsumers(c, m)
	return nil
}

// removeConsumers writes that members are gone.
func (g *Group) removeConsumers(c *consumer, members ...*consumerMember) {
	if len(members) == 0 {
		return
	}
	for _, m := range members {
		g.buryMember(m.id)
	}
	c.seen = nil // who is left may want fewer topics, which is part of this epoch
	g.out.Records = append(g.out.Records, epochRecord(g.name, c.epoch+1, c.hash))
}

func (g *Group) buryMember(id string) {
	for _, kind := range []int16{currentKey, targetMemberKey, memberKey} {
		g.out.Records = append(g.out.Records, Record{Key: consumerKey(kind, g.name, id)})
	}
}

func fenced(req *kmsg.ConsumerGroupHeartbeatRequest, by *consumerMember) *fault {
	return &fault{kerr.FencedInstanceID, "Static member " + req.MemberID + " with instance id " + *req.InstanceID + " was fenced by member " + by.id + "."}
}

func unknown(g *Group, req *kmsg.ConsumerGroupHeartbeatRequest) *fault {
	return &fault{kerr.UnknownMemberID, "Member " + req.MemberID + " is not a member of group " + g.name + "."}
}

// begin finds the member, or makes it.
func (s *step) begin(who Caller, req *kmsg.ConsumerGroupHeartbeatRequest) *fault {
	joining := req.MemberEpoch == joinEpoch
	m := s.c.members[req.MemberID]
	if req.InstanceID != nil {
		owner := s.c.members[s.c.static[*req.InstanceID]]
		switch {
		case joining && owner != nil && owner.epoch != staticLeaveEpoch && owner.classic == nil:
			return &fault{kerr.UnreleasedInstanceID, "Static member " + req.MemberID + " with instance id " + *req.InstanceID +
				" cannot join the group because the instance id is owned by " + owner.id + " member."}
		case joining && owner != nil:
			s.replace(owner, req.MemberID)
			return nil
		case !joining && owner == nil:
			return &fault{kerr.UnknownMemberID, "Instance id " + *req.InstanceID + " is unknown."}
		case !joining && owner.id != req.MemberID:
			return fenced(req, owner)
		}
	}
	switch {
	case m == nil && !joining:
		return unknown(s.g, req)
	case m == nil && len(s.c.members) >= s.g.cfg.MaxMembers:
		return &fault{kerr.GroupMaxSizeReached, "The consumer group has reached its maximum capacity."}
	case m == nil:
		id := req.MemberID
		if id == "" { // version 0 lets the coordinator choose
			id = s.g.cfg.NewID(who.ClientID)
		}
		s.find(id)
		return nil
	}
	s.find(m.id)
	return m.checkEpoch(req)
}

// find makes the step one of the member with this id, or of a new one.
func (s *step) find(id string) {
	m := s.c.members[id]
	if m == nil {
		s.next, s.subscribed = &consumerMember{id: id, previous: -1, rebal: -1}, true
		return
	}
	next := *m
	s.next, s.was = &next, *m
}

// checkEpoch fences a member that lost touch. It may be one epoch behind if it has nothing that it should not have: then the
// response that told it got lost.
func (m *consumerMember) checkEpoch(req *kmsg.ConsumerGroupHeartbeatRequest) *fault {
	switch e := req.MemberEpoch; {
	case e == joinEpoch || e == m.epoch || mutant(mutantKeepEpoch):
		return nil
	case e < m.epoch && e == m.previous && req.Topics != nil && m.assigned.contains(req.Topics):
		return nil
	case e < m.epoch:
		return &fault{kerr.FencedMemberEpoch, "The consumer group member has a smaller member epoch than the one known by the group coordinator. " +
			"The member must abandon all its partitions and rejoin."}
	}
	return &fault{kerr.FencedMemberEpoch, "The consumer group member has a greater member epoch than the one known by the group coordinator. " +
		"The member must abandon all its partitions and rejoin."}
}

// replace gives a static member's place to its next process, under its new id.
func (s *step) replace(old *consumerMember, id string) {
	next := *old
	next.id, next.epoch, next.previous = id, joinEpoch, joinEpoch
	s.next, s.was, s.replaced = &next, next, old.id
	s.g.buryMember(old.id)
	if other := s.c.members[id]; other != nil && id != old.id {
		s.g.buryMember(id)
	}
	s.target = cloneTarget(s.target)
	s.target[id] = s.target[old.id]
	if id != old.id {
		delete(s.target, old.id)
	}
	s.g.out.Records = append(s.g.out.Records, targetRecord(s.g.name, id, s.target[id]))
}

func cloneTarget(t map[string]Partitions) map[string]Partitions {
	out := make(map[string]Partitions, len(t)+1)
	for id, p := range t {
		out[id] = p
	}
	return out
}

// take takes over what the member says of itself; what a heartbeat leaves out stays.
func (s *step) take(who Caller, req *kmsg.ConsumerGroupHeartbeatRequest) {
	m := s.next
	m.clientID, m.host = who.ClientID, who.Host
	if req.InstanceID != nil {
		m.instance = req.InstanceID
	}
	if req.RackID != nil {
		m.rack = req.RackID
	}
	if req.ServerAssignor != nil {
		m.assignor = req.ServerAssignor
	}
	if req.RebalanceTimeoutMillis >= 0 {
		m.rebal = time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond
	}
	topics, regex := m.topics, m.regex
	if req.SubscribedTopicNames != nil {
		topics = req.SubscribedTopicNames
	}
	if req.SubscribedTopicRegex != nil {
		regex = *req.SubscribedTopicRegex
	}
	if req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil {
		m.subscribe(topics, regex)
	}
	m.classic = nil
}
