package group

import (
	"regexp"
	"slices"
	"strings"
	"time"
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
	classic          *hosted // nil in one that speaks the consumer protocol

	subscription string // topics and regex, to compare
	known        bool   // its metadata record was replayed, not only its assignment

	deadline time.Time // its session's end
	owes     time.Time // by then it must have given up partitions or, hosted, have joined again or synced; zero: it owes nothing
}

// subscribe takes over what the member wants.
func (m *consumerMember) subscribe(topics []string, regex string) {
	m.topics, m.regex = slices.Compact(slices.Sorted(slices.Values(topics))), regex
	m.subscription = subscriptionOf(m.topics, m.regex)
}

// subscriptionOf is the same for those who subscribe to the same. No topic's name has a newline.
func subscriptionOf(topics []string, regex string) string {
	return strings.Join(topics, "\n") + "\n\n" + regex
}

// size is what the member says of itself, in bytes.
func (m *consumerMember) size() int {
	n := len(m.id) + len(m.subscription) + len(m.clientID)
	for _, s := range []*string{m.instance, m.rack} {
		if s != nil {
			n += len(*s)
		}
	}
	if m.classic != nil {
		n += sizeOf(m.classic.protocols)
	}
	return n
}

func (m *consumerMember) sameMetadata(o *consumerMember) bool {
	return samePtr(m.instance, o.instance) && samePtr(m.rack, o.rack) && m.clientID == o.clientID && m.host == o.host &&
		m.subscription == o.subscription && m.rebal == o.rebal && samePtr(m.assignor, o.assignor) && m.classic.equal(o.classic)
}

func samePtr(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

func (m *consumerMember) sameAssignment(o *consumerMember) bool {
	return m.epoch == o.epoch && m.previous == o.previous && m.state == o.state && m.assigned.equal(o.assigned) && m.revoke.equal(o.revoke)
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
	classics    int             // members that speak the classic protocol

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
