package group

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/tier"
)

// Whatever members, the disk, the network and a coordinator that dies do, in whatever order: no two members that the coordinator
// would believe have the same partition, a group that replays the log knows what the group knows that wrote it, and once nothing
// happens any more everybody has what the assignor says, all of it.
func TestRandomConsumerGroup(t *testing.T) {
	for i := range uint64(tier.N(1000)) {
		if why := newCrowd(tier.Seed() + i).run(250); why != "" {
			t.Fatalf("seed %d: %s", tier.Seed()+i, why)
		}
	}
}

// A checker that is told lies must say so: members that go on with what they were to give up, and a coordinator that forgets.
func TestRandomConsumerGroupNotices(t *testing.T) {
	for name, lie := range map[string]func(*crowd){
		"members that keep what they say they gave up": func(c *crowd) { c.greedy = true },
		"a coordinator that loses its last records":    func(c *crowd) { c.forgetful = true },
	} {
		t.Run(name, func(t *testing.T) {
			for i := range uint64(300) {
				c := newCrowd(i)
				if lie(c); c.run(250) != "" {
					return
				}
			}
			t.Fatal("nothing noticed")
		})
	}
}

// crowd is a group, what its members believe, and the world around them.
type crowd struct {
	rng     *rand.Rand
	cfg     Config
	g       *Group
	now     time.Time
	log     []Record
	topics  topicTable
	members []*actor
	ids     int
	why     string // what went wrong
	late    []*kmsg.ConsumerGroupHeartbeatRequest

	calm              bool // nothing fails, nobody comes or goes
	greedy, forgetful bool
}

// actor is a member as its client sees it.
type actor struct {
	id       string
	instance *string
	regex    bool
	topics   []string
	epoch    int32
	owned    map[part]int32 // with the epoch in which it was told
	told     map[part]bool  // its assignment as it last heard
	lastBeat time.Time      // when it was last answered
	full     bool           // its next heartbeat says everything
	away     bool           // no heartbeats: it is about to be fenced
	stuck    bool           // it does not give up what it was told to, and says so: it is fenced in the end
	assignor *string
}

type topicTable map[string]Topic

func (t topicTable) Topic(name string) (Topic, bool) { x, ok := t[name]; return x, ok }
func (t topicTable) TopicName(id [16]byte) string {
	for _, x := range t {
		if x.ID == id {
			return x.Name
		}
	}
	return ""
}
func (t topicTable) All() []Topic { return slices.Collect(maps.Values(t)) }

const (
	crowdSession = 10 * time.Second
	crowdRebal   = 12 * time.Second // longer, as everywhere: who hears nothing is out before it can be late
)

func newCrowd(seed uint64) *crowd {
	c := &crowd{rng: rand.New(rand.NewPCG(seed, 848)), now: time.UnixMilli(1e12), topics: topicTable{}}
	c.cfg = Config{
		MinSession: time.Second, MaxSession: time.Minute, Retention: 1000 * time.Hour, ConsumerSession: crowdSession, ConsumerHeartbeat: time.Second,
		MaxMembers: 6, MaxBytes: 2000, MaxMetadata: 10, NewID: func(p string) string { c.ids++; return fmt.Sprint(p, c.ids) },
	}
	c.g = New("g", &c.cfg)
	for range 1 + c.rng.IntN(3) {
		c.topic()
	}
	return c
}

func (c *crowd) topic() {
	c.ids++
	name := fmt.Sprint("t", len(c.topics))
	c.topics[name] = Topic{name, [16]byte{byte(c.ids), byte(c.ids >> 8), 1}, 1 + c.rng.Int32N(6)}
}

func (c *crowd) fail(format string, args ...any) {
	if c.why == "" {
		c.why = fmt.Sprintf(format, args...)
	}
}

func (c *crowd) run(steps int) string {
	for range steps {
		if c.step(); c.why != "" {
			return c.why
		}
	}
	c.settle()
	return c.why
}

func (c *crowd) step() {
	switch n := c.rng.IntN(40); {
	case n < 3:
		c.join()
	case n < 28:
		if len(c.members) > 0 {
			c.beat(c.members[c.rng.IntN(len(c.members))])
		}
	case n < 34:
		c.pass(time.Duration(c.rng.IntN(1500)) * time.Millisecond)
	case n == 34:
		c.leave()
	case n == 35:
		c.restart()
	case n == 36:
		c.changeTopics()
	case n == 37:
		if len(c.members) > 0 {
			a := c.members[c.rng.IntN(len(c.members))]
			a.away, a.stuck = c.rng.IntN(2) == 0, a.stuck || c.rng.IntN(2) == 0
		}
	case n == 38:
		if len(c.members) > 0 {
			c.subscribe(c.members[c.rng.IntN(len(c.members))])
		}
	case n == 39:
		c.compareWithReplay()
		c.deliverLate()
	}
	c.noTwoOwners()
}

func (c *crowd) join() {
	if len(c.members) >= c.cfg.MaxMembers {
		return
	}
	c.ids++
	a := &actor{id: fmt.Sprint("m", c.ids), full: true, lastBeat: c.now, owned: map[part]int32{}}
	if c.rng.IntN(3) == 0 {
		a.instance = kmsg.StringPtr(fmt.Sprint("i", c.rng.IntN(3)))
		if slices.ContainsFunc(c.members, func(o *actor) bool { return samePtr(o.instance, a.instance) }) {
			return
		}
	}
	if c.rng.IntN(3) == 0 {
		a.assignor = kmsg.StringPtr([]string{uniformAssignor, rangeAssignor}[c.rng.IntN(2)])
	}
	c.subscribe(a)
	c.members = append(c.members, a)
	c.beat(a)
}

func (c *crowd) subscribe(a *actor) {
	a.full, a.topics, a.regex = true, []string{}, c.rng.IntN(4) == 0
	for range 1 + c.rng.IntN(3) {
		a.topics = append(a.topics, fmt.Sprint("t", c.rng.IntN(len(c.topics)+1)))
	}
}

func (c *crowd) changeTopics() {
	switch name := fmt.Sprint("t", c.rng.IntN(len(c.topics))); c.rng.IntN(3) {
	case 0:
		if len(c.topics) < 5 {
			c.topic()
		}
	case 1:
		t := c.topics[name]
		if t.Partitions < 10 {
			t.Partitions++
		}
		c.topics[name] = t
	case 2: // deleted and made again
		c.ids++
		c.topics[name] = Topic{name, [16]byte{byte(c.ids), byte(c.ids >> 8), 1}, 1 + c.rng.Int32N(6)}
	}
}

// pass lets time pass, the coordinator's timers fire, and members that heard nothing for too long give up what they have.
func (c *crowd) pass(d time.Duration) {
	c.now = c.now.Add(d)
	c.expire()
	if due := c.g.Deadline(); !due.IsZero() && !due.After(c.now) {
		c.durable(c.g.Tick(c.now))
	}
}

func (c *crowd) expire() {
	for _, a := range c.members {
		if c.now.Sub(a.lastBeat) >= crowdSession-time.Second { // a client gives up before the coordinator does
			a.lost()
		}
	}
}

// lost is what a client does that is fenced, or must think so: it has nothing any more, and joins again.
func (a *actor) lost() {
	a.epoch, a.full, a.told, a.stuck = 0, true, nil, false
	clear(a.owned)
}

func (c *crowd) beat(a *actor) {
	if a.away && !c.calm {
		return
	}
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.SetVersion(1)
	req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = "g", a.id, a.epoch, a.instance
	// What it was told to give up it gives up now; a partition that it was given it begins with.
	if a.told != nil {
		for p := range a.owned {
			if !a.told[p] && !c.greedy && !a.stuck {
				delete(a.owned, p)
			}
		}
		for p := range a.told {
			if _, ok := a.owned[p]; !ok {
				a.owned[p] = a.epoch
			}
		}
	}
	if a.full || a.told != nil {
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for p := range a.owned {
			if a.told[p] || a.stuck {
				req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: p.topic, Partitions: []int32{p.index}})
			}
		}
	}
	if a.full || a.epoch == joinEpoch {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.ServerAssignor = int32(crowdRebal.Milliseconds()), a.topics, a.assignor
		if a.regex {
			req.SubscribedTopicNames, req.SubscribedTopicRegex = []string{}, kmsg.StringPtr("t[0-2]")
		} else {
			req.SubscribedTopicRegex = kmsg.StringPtr("")
		}
	}
	if !c.calm && c.rng.IntN(10) == 0 {
		a.full = true
		if c.late = append(c.late, req); len(c.late) > 20 {
			c.late = c.late[1:]
		}
		return // the request is lost, or comes late
	}
	if code, text := CheckConsumerHeartbeat(req); code != nil {
		c.fail("%s: %s", code, text)
		return
	}
	resp := c.durable(c.g.ConsumerHeartbeat(c.now, Caller{Ticket: 1}, req, c.topics))
	if !c.calm && c.rng.IntN(10) == 0 {
		a.full = true // as clients do, who cannot know what they missed
		return        // the response is
	}
	c.answered(a, resp.(*kmsg.ConsumerGroupHeartbeatResponse))
}

// deliverLate lets heartbeats arrive that were on their way for so long that their members are two epochs further. One of the
// epoch before is believed, by Kafka's rule: it is taken for that of a member to which the last response got lost.
func (c *crowd) deliverLate() {
	for _, req := range c.late {
		if c.g.consumer == nil || req.MemberEpoch == joinEpoch {
			continue
		}
		if m := c.g.consumer.members[req.MemberID]; m != nil && req.MemberEpoch < m.previous {
			c.durable(c.g.ConsumerHeartbeat(c.now, Caller{Ticket: 1}, req, c.topics))
		}
	}
}

func (c *crowd) answered(a *actor, resp *kmsg.ConsumerGroupHeartbeatResponse) {
	switch err := kerr.TypedErrorForCode(resp.ErrorCode); err {
	case nil:
	case kerr.CoordinatorNotAvailable, kerr.UnreleasedInstanceID, kerr.GroupMaxSizeReached:
		return // it tries again
	case kerr.FencedMemberEpoch, kerr.UnknownMemberID, kerr.FencedInstanceID, kerr.GroupIDNotFound:
		a.lost()
		return
	default:
		c.fail("heartbeat of %s: %v", a.id, err)
		return
	}
	if *resp.MemberID != a.id {
		c.fail("%s is answered as %s", a.id, *resp.MemberID)
	}
	a.lastBeat, a.epoch, a.full = c.now, resp.MemberEpoch, false
	if resp.Assignment != nil {
		a.told = map[part]bool{}
		for _, t := range resp.Assignment.Topics {
			for _, i := range t.Partitions {
				a.told[part{t.TopicID, i}] = true
			}
		}
	}
}

func (c *crowd) leave() {
	if len(c.members) == 0 {
		return
	}
	i := c.rng.IntN(len(c.members))
	a := c.members[i]
	if a.epoch == joinEpoch {
		return
	}
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = "g", a.id, leaveEpoch, a.instance
	if a.instance != nil && c.rng.IntN(2) == 0 {
		req.MemberEpoch = staticLeaveEpoch
	}
	c.members = slices.Delete(c.members, i, i+1)
	c.durable(c.g.ConsumerHeartbeat(c.now, Caller{Ticket: 1}, req, c.topics))
	if req.MemberEpoch == staticLeaveEpoch && c.rng.IntN(3) > 0 { // and comes again, under another id
		c.ids++
		next := &actor{id: fmt.Sprint("m", c.ids), instance: a.instance, topics: a.topics, regex: a.regex, full: true, lastBeat: c.now, owned: map[part]int32{}}
		c.members = append(c.members, next)
		c.beat(next)
	}
}

// durable has the records of a step written, or not, and returns its reply.
func (c *crowd) durable(out Output) kmsg.Response {
	for len(out.Records) > 0 {
		var failed *kerr.Error
		if !c.calm && c.rng.IntN(10) == 0 {
			failed = kerr.CoordinatorNotAvailable
		} else {
			c.log = append(c.log, out.Records...)
		}
		out = c.g.Durable(c.now, out, failed)
	}
	if len(out.Replies) == 0 {
		return nil
	}
	return out.Replies[0].Response
}

// restart is a new coordinator, which has the log, or what compaction leaves of it.
func (c *crowd) restart() {
	if c.forgetful && len(c.log) > 0 {
		c.log = c.log[:len(c.log)-1-c.rng.IntN(min(len(c.log), 3))]
	}
	if c.rng.IntN(2) == 0 {
		c.compact()
	}
	c.g = c.replayed()
	c.now = c.now.Add(time.Duration(c.rng.IntN(2000)) * time.Millisecond)
	c.g.Restored(c.now)
}

// compact keeps the last record of each key in the older part of the log.
func (c *crowd) compact() {
	old := c.rng.IntN(len(c.log) + 1)
	last := map[string]int{}
	for i, r := range c.log[:old] {
		last[string(r.Key)] = i
	}
	var kept []Record
	for i, r := range c.log {
		if i >= old || last[string(r.Key)] == i {
			kept = append(kept, r)
		}
	}
	c.log = kept
}

func (c *crowd) replayed() *Group {
	g := New("g", &c.cfg)
	for _, r := range c.log {
		if name, ok := NameOf(r.Key); !ok || name != "g" {
			c.fail("the key %x names %q", r.Key, name)
		}
		if err := g.Replay(r); err != nil {
			c.fail("%v", err)
		}
	}
	return g
}

// noTwoOwners: of those whose session goes on, as they know and as the coordinator knows.
func (c *crowd) noTwoOwners() {
	c.expire()
	owner := map[part]string{}
	for _, a := range c.members {
		if a.stuck && (c.g.consumer == nil || c.g.consumer.members[a.id] == nil) {
			continue // its time was up: it has what is another's now, and may not commit
		}
		for p := range a.owned {
			if o, taken := owner[p]; taken {
				c.fail("%s and %s both have %v", o, a.id, p)
			}
			owner[p] = a.id
		}
	}
	if c.g.consumer == nil {
		return
	}
	holder := map[part]string{}
	for id, m := range c.g.consumer.members {
		for _, h := range []held{m.assigned, m.revoke} {
			for topic, parts := range h {
				for i := range parts {
					p := part{topic, i}
					if o, taken := holder[p]; taken && o != id {
						c.fail("the coordinator lets %s and %s have %v", o, id, p)
					}
					holder[p] = id
				}
			}
		}
	}
	if !maps.Equal(holder, c.g.consumer.holders) {
		c.fail("holders are %v, noted are %v", holder, c.g.consumer.holders)
	}
}

func (c *crowd) compareWithReplay() {
	again := c.replayed()
	if again.Type() != c.g.Type() {
		c.fail("replay made a %s group of a %s group", again.Type(), c.g.Type())
		return
	}
	if c.g.consumer == nil {
		return
	}
	a, b := c.g.consumer, again.consumer
	if a.epoch != b.epoch || a.targetEpoch != b.targetEpoch || a.hash != b.hash || !maps.Equal(a.holders, b.holders) || !maps.Equal(a.static, b.static) {
		c.fail("replay lost an epoch, or who holds what")
	}
	if !maps.EqualFunc(a.members, b.members, func(x, y *consumerMember) bool {
		return x.sameMetadata(y) && x.sameAssignment(y) && x.known && y.known
	}) {
		c.fail("replay lost a member, or something of it")
	}
	if !maps.EqualFunc(a.target, b.target, samePartitions) {
		c.fail("replay lost a target")
	}
}

// settle lets everybody who is left go on, with nothing failing, until they must have come to rest.
func (c *crowd) settle() {
	c.calm = true
	for _, a := range c.members {
		a.away = false
	}
	for range 60 {
		c.pass(time.Second)
		for _, a := range c.members {
			c.beat(a)
		}
		if c.noTwoOwners(); c.why != "" {
			return
		}
	}
	c.compareWithReplay()
	if c.g.consumer == nil || len(c.members) == 0 {
		return
	}
	if name := c.g.StateName(); name != "Stable" {
		c.fail("%s although nothing happens any more", name)
	}
	c.everythingAssigned()
}

func (c *crowd) everythingAssigned() {
	wanted, owned := map[part]bool{}, map[part]bool{}
	least, most, alike := 1<<30, 0, true
	for _, a := range c.members {
		for _, t := range c.topics {
			match, _ := compileTopics("t[0-2]")
			if a.regex && match.MatchString(t.Name) || !a.regex && slices.Contains(a.topics, t.Name) {
				for i := range t.Partitions {
					wanted[part{t.ID, i}] = true
				}
			}
		}
		for p := range a.owned {
			owned[p] = true
		}
		least, most = min(least, len(a.owned)), max(most, len(a.owned))
		alike = alike && a.assignor == nil && a.regex == c.members[0].regex && subscriptionOf(dedup(a.topics), "") == subscriptionOf(dedup(c.members[0].topics), "")
	}
	if !maps.Equal(wanted, owned) {
		c.fail("wanted are %v, owned are %v", wanted, owned)
	}
	if alike && most-least > 1 {
		c.fail("members that want the same have %d and %d partitions", least, most)
	}
}

func dedup(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }
