// Package group is Kafka's consumer group coordinator as a pure state machine, one Group per group id, for both protocols:
// the classic one (join.go, sync.go) and the consumer protocol of KIP-848 (consumer.go), and for groups on their way from one to
// the other (migrate.go, hosted.go).
//
// Requests and the time go in; records and responses come out. It starts no goroutine, reads no clock, touches no log: its
// caller appends Output.Records to the log, and only once they are durable calls Group.Durable, which replays them and gives
// the responses that waited for them. What outlives a restart (generation, members with their assignments, committed offsets)
// changes only by Replay, live and at start-up alike. The rest (who is joining, whose session ends when) is the dance between
// two such records; a restart forgets it, and the members, who notice, join again.
//
// The states are those of Kafka's classic protocol:
//
//	Empty ──join──▶ PreparingRebalance ──all joined, or the rebalance timeout──▶ CompletingRebalance ──leader's sync──▶ Stable
//	  ▲                │      ▲                                                      │                                     │
//	  └──nobody left───┘      └───────────────────── a member joins, changes, leaves, dies ───────────────────────────────┘
//
// It will never know sockets, topics' existence or who is allowed to do what: its caller checks those before it asks.
package group

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// State is where a group is in the protocol.
type State uint8

const (
	Empty State = iota
	PreparingRebalance
	CompletingRebalance
	Stable
	Dead // what is said of a group that does not exist; no Group is ever in it
)

var stateNames = [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable", "Dead"}

// String is the state as Kafka's tools print it.
func (s State) String() string { return stateNames[s] }

// Config is what all groups of a server share.
type Config struct {
	MinSession, MaxSession time.Duration              // what a member may ask for as its session timeout
	InitialDelay           time.Duration              // how long the first rebalance of an empty group waits for more members
	PendingTimeout         time.Duration              // how long a member id that was handed out waits to be used (KIP-394)
	Retention              time.Duration              // offsets outlive the last member by this much
	ConsumerSession        time.Duration              // consumer protocol: who sends no heartbeat for so long is out
	ConsumerHeartbeat      time.Duration              // consumer protocol: how often members shall send one
	MaxMembers             int                        // per group
	MaxBytes               int                        // of all that a group's members say of themselves
	MaxMetadata            int                        // bytes of metadata per committed offset
	NewID                  func(prefix string) string // makes a member id that nobody had before
	Full                   func() bool                // nil, or tells that there must be no more groups
	Topics                 Topics                     // what members may subscribe to
}

// newMemberTimeout ends the wait of a new member whose first JoinGroup is still unanswered: it may have given up on that
// connection and come back under another id, and nothing else would ever remove it.
const newMemberTimeout = 5 * time.Minute

// emptyLinger is how long a group without members and offsets is remembered.
const emptyLinger = 10 * time.Minute

// Caller is who made a request, and where its answer goes.
type Caller struct {
	Ticket         uint64
	ClientID, Host string
}

// Reply answers the request of a ticket.
type Reply struct {
	Ticket   uint64
	Response kmsg.Response
}

// Output is what a step wants done: Records appended and durable, then Durable called with this Output, and what that returns
// done in turn. Without Records, Replies are to be sent at once.
type Output struct {
	Records []Record
	Replies []Reply

	assigned bool // the records hold the leader's assignment of this generation
}

// Merge adds what a later step of the same group wants.
func (o *Output) Merge(later Output) {
	o.Records = append(o.Records, later.Records...)
	o.Replies = append(o.Replies, later.Replies...)
	o.assigned = o.assigned || later.assigned
}

// waiting is a JoinGroup or SyncGroup whose answer is not known yet.
type waiting struct {
	ticket uint64
	resp   kmsg.Response
}

type member struct {
	id               string
	instance         *string // static members only
	clientID, host   string
	session, rebal   time.Duration
	protocols        []kmsg.JoinGroupRequestProtocol
	assignment       []byte
	deadline         time.Time // its session's end
	joining, syncing *waiting
	fresh            bool // its first JoinGroup is still unanswered
	owesSync         bool // has its JoinGroup response of this generation but did not send SyncGroup yet
}

// Group is one consumer group. It is used by one goroutine at a time. Between an Output with Records and the call of Durable
// only Commit may be called.
type Group struct {
	name string
	cfg  *Config
	now  time.Time
	out  Output

	state        State
	since        time.Time // when it came to its state
	stored       bool      // the log holds a metadata record of it
	generation   int32
	protocolType string
	protocol     *string
	leader       string
	unled        bool // replay found it as downgrade leaves it: its members are to join
	members      map[string]*member
	order        []string             // member ids in the order they came
	static       map[string]string    // instance id → member id
	pending      map[string]time.Time // ids handed out but not used yet → when they lapse

	joinDeadline time.Time // PreparingRebalance: who has not joined by then is out
	initialUntil time.Time // PreparingRebalance out of Empty: do not complete before
	initialMore  bool      // somebody came since initialUntil was set
	syncDeadline time.Time // CompletingRebalance, Stable: who owes a SyncGroup by then is out

	consumer *consumer // nil in a classic group; its state above is that of an empty one else

	txns   map[int64]txnOffsets // what open transactions would commit, by producer id
	pended uint64               // counts what was pending ever

	offsets  map[string]map[int32]Offset
	nextLook time.Time // when to look for offsets that expired; zero: nothing could

	due      time.Time // if dueKnown: Tick has nothing to do before
	dueKnown bool
}

// New returns a group nobody knows yet.
func New(name string, cfg *Config) *Group {
	return &Group{
		name: name, cfg: cfg,
		members: map[string]*member{}, static: map[string]string{}, pending: map[string]time.Time{},
		offsets: map[string]map[int32]Offset{},
	}
}

// Name is the group's id.
func (g *Group) Name() string { return g.name }

// State is where the group is.
func (g *Group) State() State { return g.state }

// ProtocolType is "consumer" for consumers, and "" for a group that only ever stored offsets.
func (g *Group) ProtocolType() string { return g.protocolType }

// Forgettable says that nothing distinguishes the group from one that never was.
func (g *Group) Forgettable() bool {
	return g.state == Empty && !g.stored && g.consumer == nil && len(g.offsets) == 0 && len(g.pending) == 0 && len(g.txns) == 0
}

// unwelcome says that the group would be a new one, where there are too many.
func (g *Group) unwelcome() bool { return g.cfg.Full != nil && g.Forgettable() && g.cfg.Full() }

func (g *Group) take() Output {
	g.dueKnown = false
	return g.keepDue()
}

// keepDue is take for a step that made nothing due sooner.
func (g *Group) keepDue() Output {
	out := g.out
	g.out = Output{}
	return out
}

func (g *Group) reply(ticket uint64, resp kmsg.Response) {
	g.out.Replies = append(g.out.Replies, Reply{ticket, resp})
}

func (g *Group) enter(s State) {
	g.state, g.since = s, g.now
}

// add makes a member known.
func (g *Group) add(m *member) {
	if g.consumer != nil { // an empty group of the consumer protocol gives way
		g.buryConsumer()
		g.consumer = nil
	}
	g.members[m.id] = m
	g.order = append(g.order, m.id)
	if m.instance != nil {
		g.static[*m.instance] = m.id
	}
	delete(g.pending, m.id)
	if g.leader == "" {
		g.leader = m.id
	}
}

// drop forgets a member; whoever still waits on its behalf is told code.
func (g *Group) drop(m *member, code int16) {
	m.answer(g, code)
	delete(g.members, m.id)
	g.order = slices.DeleteFunc(g.order, func(id string) bool { return id == m.id })
	if m.instance != nil && g.static[*m.instance] == m.id {
		delete(g.static, *m.instance)
	}
	if g.leader == m.id {
		g.leader = ""
		if len(g.order) > 0 {
			g.leader = g.order[0]
		}
	}
}

// answer ends the member's open requests with an error.
func (m *member) answer(g *Group, code int16) {
	if m.joining != nil {
		g.reply(m.joining.ticket, joinError(m.joining.resp, m.id, code))
		m.joining = nil
	}
	if m.syncing != nil {
		m.syncing.resp.(*kmsg.SyncGroupResponse).ErrorCode = code
		g.reply(m.syncing.ticket, m.syncing.resp)
		m.syncing = nil
	}
}

// alive restarts the member's session.
func (g *Group) alive(m *member) { m.deadline = g.now.Add(m.session) }

// each calls f for every member in the order they came.
func (g *Group) each(f func(*member)) {
	for _, id := range slices.Clone(g.order) {
		if m := g.members[id]; m != nil {
			f(m)
		}
	}
}

// find returns the member that a request speaks for. A static member that was replaced is fenced: its successor has its place.
func (g *Group) find(id string, instance *string) (*member, *kerr.Error) {
	if instance != nil {
		switch current, ok := g.static[*instance]; {
		case !ok:
			return nil, kerr.UnknownMemberID
		case current != id:
			return nil, kerr.FencedInstanceID
		}
	}
	if m := g.members[id]; m != nil {
		return m, nil
	}
	return nil, kerr.UnknownMemberID
}

// supports tells whether the group could go on with a member that speaks these protocols.
func (g *Group) supports(protocolType string, protocols []kmsg.JoinGroupRequestProtocol) bool {
	if len(g.members) == 0 {
		return protocolType != "" && len(protocols) > 0
	}
	if protocolType != g.protocolType {
		return false
	}
	common := g.common()
	return slices.ContainsFunc(protocols, func(p kmsg.JoinGroupRequestProtocol) bool { return common(p.Name) })
}

// common tells of a protocol whether all members speak it. All of them are counted once: a member may name a hundred thousand.
func (g *Group) common() func(protocol string) bool {
	speakers, all := map[string]int{}, 0
	for _, m := range g.members {
		for _, p := range m.protocols {
			if speakers[p.Name] == all { // by every member before this one, and not yet by this one
				speakers[p.Name] = all + 1
			}
		}
		all++
	}
	return func(protocol string) bool { return speakers[protocol] == all }
}

// metadata is what the member said of itself under a protocol; nil if it does not speak it.
func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

// same tells whether the member says of itself what it said before.
func (m *member) same(protocols []kmsg.JoinGroupRequestProtocol) bool {
	return slices.EqualFunc(m.protocols, protocols, func(a, b kmsg.JoinGroupRequestProtocol) bool {
		return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata)
	})
}

// selectProtocol is the vote: each member for the first of its protocols that all speak; the earliest member breaks a tie.
func (g *Group) selectProtocol() *string {
	votes, common := map[string]int{}, g.common()
	var candidates []string
	g.each(func(m *member) {
		for _, p := range m.protocols {
			if common(p.Name) {
				if votes[p.Name]++; votes[p.Name] == 1 {
					candidates = append(candidates, p.Name)
				}
				return
			}
		}
	})
	if len(candidates) == 0 {
		return nil
	}
	best := slices.MaxFunc(candidates, func(a, b string) int { return cmp.Compare(votes[a], votes[b]) })
	return &best
}

func cloneProtocols(ps []kmsg.JoinGroupRequestProtocol) []kmsg.JoinGroupRequestProtocol {
	out := make([]kmsg.JoinGroupRequestProtocol, len(ps))
	for i, p := range ps {
		out[i].Name = p.Name
		out[i].Metadata = append([]byte{}, p.Metadata...) // never nil: nil means "does not speak it"
	}
	return out
}
