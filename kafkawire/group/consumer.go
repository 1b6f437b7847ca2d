package group

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The consumer protocol (KIP-848): members say in heartbeats what they want and what they have; the coordinator decides who
// gets what and tells each its part. Nobody stops the others.
//
// Three epochs keep that safe. The group's counts changes of members, subscriptions and topics. The target's says for which of
// them the assignor ran last. A member's says which target it has come to. On the way there it first gives up what it must
// (unrevoked), and is told what others must give up before it may have it as soon as they have (unreleased). So at any time a
// partition is held by one member at most.
//
// All of it is in records, and changes by their replay alone; timers are not, they start anew.

// Topic is what the assignor must know of a topic.
type Topic struct {
	Name       string
	ID         [16]byte
	Partitions int32
}

// Topics are the topics as they are now.
type Topics interface {
	Topic(name string) (Topic, bool)
	TopicName(id [16]byte) string
	All() []Topic
}

// The epochs of a request that are none.
const (
	joinEpoch        = 0
	leaveEpoch       = -1
	staticLeaveEpoch = -2
)

// What Group.Type says: the protocol that the group's members speak.
const (
	Classic  = "classic"
	Consumer = "consumer"
)

// Names of the assignors.
const (
	uniformAssignor = "uniform"
	rangeAssignor   = "range"
)

const (
	// A group of up to promptMembers is assigned anew at every change, a larger one once in assignEvery: the work grows with
	// its size.
	promptMembers = 100
	assignEvery   = time.Second

	// lookEvery is how long a look at the topics serves, unless subscriptions change; expressions make it longer, by matchCost for
	// each topic that is tried.
	lookEvery = time.Second
	matchCost = 10 * time.Microsecond

	maxExpressions = 10 // different ones in a group

	// buryEvery is how often it is tried to write that a member is gone.
	buryEvery = time.Second

	firstVersionWithMemberEpoch = 9 // of OffsetCommit
)

// memberState says how far a member has come on its way to its target; the numbers are those of Kafka's records.
type memberState int8

const (
	stable     memberState = iota
	unrevoked              // has partitions that it must give up first
	unreleased             // waits for partitions that others must give up first
)

// Partitions are partitions by topic, each topic's in order.
type Partitions map[[16]byte][]int32

// held are the partitions of a member by topic, each with the epoch at which it got it.
type held map[[16]byte]map[int32]int32

// part is one partition.
type part struct {
	topic [16]byte
	index int32
}

// consumerMember is one member. What its maps hold is never changed, they are replaced.
type consumerMember struct {
	id               string
	instance, rack   *string
	clientID, host   string
	topics           []string // sorted
	regex            string
	assignor         *string
	rebal            time.Duration
	epoch, previous  int32
	state            memberState
	assigned, revoke held

	subscription string // topics and regex, to compare
	known        bool   // its metadata record was replayed, not only its assignment

	deadline time.Time // its session's end
	revokeBy time.Time // unrevoked: the end of its rebalance timeout
}

// consumer is what a group of the consumer protocol has more than its offsets.
type consumer struct {
	epoch       int32
	hash        int64 // of the subscribed topics when the epoch was written
	targetEpoch int32
	members     map[string]*consumerMember
	static      map[string]string // instance id → member id
	target      map[string]Partitions
	holders     map[part]string // member ids

	seen       *view     // nil, or the topics as they were lately
	assignedAt time.Time // when the assignor ran last
	due        time.Time // no timer of a member ends before; zero: there is none
}

func newConsumer() *consumer {
	return &consumer{
		members: map[string]*consumerMember{}, static: map[string]string{}, target: map[string]Partitions{}, holders: map[part]string{},
	}
}

// Type is Classic or Consumer.
func (g *Group) Type() string {
	if g.consumer != nil {
		return Consumer
	}
	return Classic
}

// StateName is the state as Kafka's tools print it.
func (g *Group) StateName() string {
	if g.consumer != nil {
		return g.consumer.stateName()
	}
	return g.state.String()
}

func (c *consumer) stateName() string {
	switch {
	case len(c.members) == 0:
		return "Empty"
	case c.epoch > c.targetEpoch:
		return "Assigning"
	}
	for _, m := range c.members {
		if m.state != stable || m.epoch != c.targetEpoch {
			return "Reconciling"
		}
	}
	return "Stable"
}

// fault is an error with the text that goes into the response.
type fault struct {
	code *kerr.Error
	text string
}

// ConsumerHeartbeat is a ConsumerGroupHeartbeat request, its form checked by CheckConsumerHeartbeat.
func (g *Group) ConsumerHeartbeat(now time.Time, c Caller, req *kmsg.ConsumerGroupHeartbeatRequest, topics Topics) Output {
	g.now = now
	resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	resp.MemberID, resp.MemberEpoch, resp.HeartbeatIntervalMillis = nil, 0, 0
	if f := g.consumerHeartbeat(c, req, resp, topics); f != nil {
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

func (g *Group) consumerHeartbeat(who Caller, req *kmsg.ConsumerGroupHeartbeatRequest, resp *kmsg.ConsumerGroupHeartbeatResponse, topics Topics) *fault {
	c := g.consumer
	if c == nil {
		switch {
		case g.Forgettable() && req.MemberEpoch != joinEpoch:
			return &fault{kerr.GroupIDNotFound, "Consumer group " + g.name + " not found."}
		case g.unwelcome():
			return &fault{kerr.GroupMaxSizeReached, "There are too many groups."}
		case g.state != Empty || len(g.pending) > 0 || req.MemberEpoch != joinEpoch:
			return &fault{kerr.GroupIDNotFound, "Group " + g.name + " is not a consumer group."}
		}
		if c = newConsumer(); g.stored { // an empty classic group gives way
			g.out.Records = append(g.out.Records, Record{Key: metadataKey(g.name)})
		}
	}
	if req.MemberEpoch < 0 {
		return g.consumerLeave(c, req, resp)
	}
	s := &step{g: g, c: c, topics: topics, epoch: c.epoch, hash: c.hash, targetEpoch: c.targetEpoch, target: c.target}
	if f := s.begin(who, req); f != nil {
		return f
	}
	s.subscribe()
	if f := s.fits(); f != nil {
		return f
	}
	s.assign()
	s.reconcile(req.Topics, req.Topics != nil)
	s.record()
	if live := c.members[s.next.id]; live != nil {
		g.aliveConsumer(live)
	}
	resp.MemberID, resp.MemberEpoch = &s.next.id, s.next.epoch
	resp.HeartbeatIntervalMillis = millis(g.cfg.ConsumerHeartbeat)
	full := req.RebalanceTimeoutMillis != -1 && (req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil) && req.Topics != nil
	if req.MemberEpoch == joinEpoch || full || !s.next.assigned.equal(s.was.assigned) {
		resp.Assignment = s.next.assigned.response()
	}
	return nil
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

// step is one heartbeat of a member that stays: what will be when its records are durable.
type step struct {
	g      *Group
	c      *consumer
	topics Topics

	next     *consumerMember // the member as it will be
	was      consumerMember  // and as it is
	replaced string          // the static member whose place it takes

	epoch, targetEpoch int32
	hash               int64
	target             map[string]Partitions // as it will be: a map of its own if it changed
	subscribed         bool                  // the subscription changed
	view               *view
}

// begin finds the member, or makes it.
func (s *step) begin(who Caller, req *kmsg.ConsumerGroupHeartbeatRequest) *fault {
	joining := req.MemberEpoch == joinEpoch
	m := s.c.members[req.MemberID]
	if req.InstanceID != nil {
		owner := s.c.members[s.c.static[*req.InstanceID]]
		switch {
		case joining && owner != nil && owner.epoch != staticLeaveEpoch:
			return &fault{kerr.UnreleasedInstanceID, "Static member " + req.MemberID + " with instance id " + *req.InstanceID +
				" cannot join the group because the instance id is owned by " + owner.id + " member."}
		case joining && owner != nil:
			s.replace(owner, req.MemberID)
			return s.take(who, req)
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
		s.next = &consumerMember{id: id, previous: -1, rebal: -1}
		s.subscribed = true
		return s.take(who, req)
	}
	if f := m.checkEpoch(req); f != nil {
		return f
	}
	next := *m
	s.next, s.was = &next, *m
	return s.take(who, req)
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

// replace gives a static member that left for a while its place again, under its new id.
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
func (s *step) take(who Caller, req *kmsg.ConsumerGroupHeartbeatRequest) *fault {
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
	if req.SubscribedTopicNames != nil {
		m.topics = slices.Compact(slices.Sorted(slices.Values(req.SubscribedTopicNames)))
	}
	if req.SubscribedTopicRegex != nil {
		m.regex = *req.SubscribedTopicRegex
	}
	if req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil {
		m.subscription = subscriptionOf(m.topics, m.regex)
	}
	return nil
}

// subscriptionOf is the same for those who subscribe to the same. No topic's name has a newline.
func subscriptionOf(topics []string, regex string) string {
	return strings.Join(topics, "\n") + "\n\n" + regex
}

// each calls f for every member as it will be, in the order of their ids.
func (s *step) each(f func(*consumerMember)) {
	ids := make([]string, 0, len(s.c.members)+1)
	for id := range s.c.members {
		if id != s.next.id && id != s.replaced {
			ids = append(ids, id)
		}
	}
	ids = append(ids, s.next.id)
	slices.Sort(ids)
	for _, id := range ids {
		if id == s.next.id {
			f(s.next)
		} else {
			f(s.c.members[id])
		}
	}
}

// subscribe begins a new epoch if the member wants something else, or the topics changed.
func (s *step) subscribe() {
	s.subscribed = s.subscribed || s.next.subscription != s.was.subscription
	s.view = s.c.seen
	if s.view == nil || s.subscribed || s.replaced != "" || !s.g.now.Before(s.view.until) {
		s.view = s.look()
		s.c.seen = s.view
	}
	if s.subscribed || s.view.hash != s.hash {
		s.epoch, s.hash = s.epoch+1, s.view.hash
	}
}

// fits refuses a member that says too much: all of it is kept, and every expression is tried on every topic.
func (s *step) fits() *fault {
	if s.next.sameMetadata(&s.was) {
		return nil
	}
	n, expressions := 0, map[string]bool{}
	s.each(func(m *consumerMember) {
		n += m.size()
		if m.regex != "" {
			expressions[m.regex] = true
		}
	})
	switch {
	case n > s.g.cfg.MaxBytes:
		s.c.seen = nil
		return &fault{kerr.GroupMaxSizeReached, "The members of the group say more of themselves than can be kept."}
	case len(expressions) > maxExpressions && s.next.regex != s.was.regex:
		s.c.seen = nil
		return &fault{kerr.InvalidRegularExpression, "The members of the group subscribe with too many different expressions."}
	}
	return nil
}

// size is what the member says of itself, in bytes.
func (m *consumerMember) size() int {
	n := len(m.id) + len(m.subscription) + len(m.clientID)
	for _, s := range []*string{m.instance, m.rack} {
		if s != nil {
			n += len(*s)
		}
	}
	return n
}

// assign runs the assignor if there is a newer epoch than its last.
func (s *step) assign() {
	if s.targetEpoch >= s.epoch {
		return
	}
	if len(s.c.members) > promptMembers && s.g.now.Before(s.c.assignedAt.Add(assignEvery)) {
		return
	}
	s.c.assignedAt = s.g.now
	var members []subscriber
	s.each(func(m *consumerMember) {
		members = append(members, subscriber{id: m.id, instance: m.instance, topics: s.view.of(m)})
	})
	before := s.target
	s.target = runAssignor(s.preferred(), members, s.view.topics, before)
	s.targetEpoch = s.epoch
}

// preferred is the assignor that most members want.
func (s *step) preferred() string {
	votes := 0
	s.each(func(m *consumerMember) {
		switch {
		case m.assignor == nil:
		case *m.assignor == rangeAssignor:
			votes++
		default:
			votes--
		}
	})
	if votes > 0 {
		return rangeAssignor
	}
	return uniformAssignor
}

// record writes down what the step changed.
func (s *step) record() {
	out, g := &s.g.out, s.g.name
	add := func(r Record) { out.Records = append(out.Records, r) }
	joined := s.c.members[s.next.id] == nil || s.replaced != ""
	if joined || !s.next.sameMetadata(&s.was) {
		add(memberRecord(g, s.next))
	}
	if s.epoch != s.c.epoch || s.hash != s.c.hash || s.g.consumer == nil {
		add(epochRecord(g, s.epoch, s.hash))
	}
	if s.targetEpoch != s.c.targetEpoch {
		s.each(func(m *consumerMember) {
			before := s.c.target[m.id]
			if m == s.next && s.replaced != "" {
				before = s.c.target[s.replaced]
			}
			if !samePartitions(s.target[m.id], before) {
				add(targetRecord(g, m.id, s.target[m.id]))
			}
		})
		add(targetEpochRecord(g, s.targetEpoch))
	}
	if joined || !s.next.sameAssignment(&s.was) {
		add(currentRecord(g, s.next))
	}
}

func (m *consumerMember) sameMetadata(o *consumerMember) bool {
	return samePtr(m.instance, o.instance) && samePtr(m.rack, o.rack) && m.clientID == o.clientID && m.host == o.host &&
		m.subscription == o.subscription && m.rebal == o.rebal && samePtr(m.assignor, o.assignor)
}

func samePtr(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

func (m *consumerMember) sameAssignment(o *consumerMember) bool {
	return m.epoch == o.epoch && m.previous == o.previous && m.state == o.state && m.assigned.equal(o.assigned) && m.revoke.equal(o.revoke)
}

// expect makes sure that the members are looked at when t has come.
func (c *consumer) expect(t time.Time) {
	if !t.IsZero() && (c.due.IsZero() || t.Before(c.due)) {
		c.due = t
	}
}

// tickConsumers removes members that were not heard of, or that keep what they must give up.
func (g *Group) tickConsumers() {
	c := g.consumer
	if c.due.IsZero() || c.due.After(g.now) {
		return
	}
	c.due = time.Time{}
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(g.now) }
	var gone []*consumerMember
	for _, m := range c.members {
		if due(m.deadline) || due(m.revokeBy) {
			gone = append(gone, m)
			m.deadline = g.now.Add(buryEvery) // if it cannot be written, again then
		}
		c.expect(m.deadline)
		if !due(m.revokeBy) {
			c.expect(m.revokeBy)
		}
	}
	slices.SortFunc(gone, func(a, b *consumerMember) int { return strings.Compare(a.id, b.id) })
	g.removeConsumers(c, gone...)
}

// restoredConsumers ends the replay at start-up: every member gets a whole session to be heard of. A member of which the log
// has an assignment only is none.
func (g *Group) restoredConsumers() {
	for id, m := range g.consumer.members {
		if !m.known {
			g.consumer.hold(m, nil, nil)
			delete(g.consumer.members, id)
			continue
		}
		g.aliveConsumer(m)
		g.armRevocation(m)
	}
}

// aliveConsumer restarts the member's session.
func (g *Group) aliveConsumer(m *consumerMember) {
	m.deadline = g.now.Add(g.cfg.ConsumerSession)
	g.consumer.expect(m.deadline)
}

// armRevocation gives a member that must give up partitions its rebalance timeout to do so.
func (g *Group) armRevocation(m *consumerMember) {
	if m.revokeBy = (time.Time{}); m.state == unrevoked && m.rebal >= 0 {
		m.revokeBy = g.now.Add(m.rebal)
		g.consumer.expect(m.revokeBy)
	}
}

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
	case req.Version < firstVersionWithMemberEpoch:
		return nil, kerr.UnsupportedVersion
	case req.Generation > m.epoch:
		return nil, kerr.StaleMemberEpoch
	case req.Generation == m.epoch:
		return nil, nil
	}
	return m, nil
}

// mayCommitOld tells whether a member may commit in a partition with an epoch that it is past.
func (m *consumerMember) mayCommitOld(topic [16]byte, index, epoch int32) *kerr.Error {
	for _, h := range []held{m.assigned, m.revoke} {
		if since, ok := h[topic][index]; ok && since <= epoch {
			return nil
		}
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
	if g.consumer.members[*member].epoch != epoch {
		return kerr.StaleMemberEpoch
	}
	return nil
}

// wanted tells of topics whether a member subscribes to them.
func (c *consumer) wanted() func(topic string) bool {
	names, known := map[string]bool{}, map[string]bool{}
	var expressions []*regexp.Regexp
	for _, m := range c.members {
		if known[m.subscription] {
			continue
		}
		known[m.subscription] = true
		for _, t := range m.topics {
			names[t] = true
		}
		if re, err := compileTopics(m.regex); err == nil && m.regex != "" {
			expressions = append(expressions, re)
		}
	}
	return func(topic string) bool {
		return names[topic] || slices.ContainsFunc(expressions, func(re *regexp.Regexp) bool { return re.MatchString(topic) })
	}
}
