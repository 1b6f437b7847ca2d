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

// Whatever members of either protocol, the disk, the network and a coordinator that dies do, in whatever order: no two members that
// the coordinator would believe have the same partition, who has it may commit in it and nobody else, epochs never go back, a group
// that replays the log knows what the group knows that wrote it, and once nothing happens any more everybody has what the
// assignor says, all of it.
func TestRandomConsumerGroup(t *testing.T) {
	changed := map[string]int{}
	for i := range uint64(tier.N(1000)) {
		c := newCrowd(tier.Seed() + i)
		if why := c.run(250); why != "" {
			t.Fatalf("seed %d: %s", tier.Seed()+i, why)
		}
		for to, n := range c.changed {
			changed[to] += n
		}
	}
	if t.Logf("changes of the protocol, by the new one: %v", changed); changed[Consumer] == 0 || changed[Classic] == 0 {
		t.Error("no group changed its protocol both ways with members in it")
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
	shadow  *Group // has replayed what the log has, record by record
	topics  topicTable
	members []*actor
	ids     int
	why     string // what went wrong
	late    []*kmsg.ConsumerGroupHeartbeatRequest
	waiting map[uint64]func(kmsg.Response) // who waits for the answer of a ticket
	tickets uint64
	changed map[string]int // protocols that the group changed to, with members in it

	classics          int  // how many of ten members that come speak the classic protocol
	coop              bool // and do not give up everything before they join
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
	classic  *classicActor // nil in one that speaks the consumer protocol
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
	c := &crowd{
		rng: rand.New(rand.NewPCG(seed, 848)), now: time.UnixMilli(1e12), topics: topicTable{},
		waiting: map[uint64]func(kmsg.Response){}, changed: map[string]int{},
	}
	c.classics, c.coop = []int{0, 3, 5, 8}[c.rng.IntN(4)], c.rng.IntN(2) == 0
	c.cfg = Config{
		MinSession: time.Second, MaxSession: time.Minute, Retention: 1000 * time.Hour, ConsumerSession: crowdSession, ConsumerHeartbeat: time.Second,
		MaxMembers: 6, MaxBytes: 4000, MaxMetadata: 10, NewID: func(p string) string { c.ids++; return fmt.Sprint(p, c.ids) },
		Topics: c.topics, PendingTimeout: 3 * time.Second,
	}
	c.g, c.shadow = New("g", &c.cfg), New("g", &c.cfg)
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
	someone := func(f func(*actor)) {
		if len(c.members) > 0 {
			f(c.members[c.rng.IntN(len(c.members))])
		}
	}
	switch n := c.rng.IntN(44); {
	case n < 3:
		c.join(nil)
	case n < 28:
		someone(c.beat)
	case n < 34:
		c.pass(time.Duration(c.rng.IntN(1500)) * time.Millisecond)
	case n == 34:
		someone(func(a *actor) {
			if again := c.rng.IntN(2) == 0; c.leave(a, again) && again && a.instance != nil {
				c.again(a)
			}
		})
	case n == 35:
		c.restart()
	case n == 36:
		c.changeTopics()
	case n == 37:
		someone(func(a *actor) {
			a.away, a.stuck = c.rng.IntN(2) == 0, a.stuck || a.classic == nil && c.rng.IntN(2) == 0
		})
	case n == 38:
		someone(c.subscribe)
	case n == 39:
		c.compareWithReplay(c.replayed())
		c.deliverLate()
	case n < 43:
		someone(c.commit)
	case n == 43:
		someone(c.bounce)
	}
	c.check()
}

// join lets somebody come, of the protocol that one who left did not speak, if somebody did.
func (c *crowd) join(instead *actor) {
	if len(c.members) >= c.cfg.MaxMembers {
		return
	}
	c.ids++
	a := &actor{id: fmt.Sprint("m", c.ids), full: true, lastBeat: c.now, owned: map[part]int32{}}
	classic := c.rng.IntN(10) < c.classics
	if c.subscribe(a); instead != nil {
		classic, a.instance, a.topics = instead.classic == nil, instead.instance, instead.topics
	} else if c.rng.IntN(3) == 0 {
		a.instance = kmsg.StringPtr(fmt.Sprint("i", c.rng.IntN(3)))
		if slices.ContainsFunc(c.members, func(o *actor) bool { return samePtr(o.instance, a.instance) }) {
			return
		}
	}
	if classic {
		a.id, a.regex, a.classic = "", false, &classicActor{gen: -1}
	}
	if c.rng.IntN(3) == 0 {
		a.assignor = kmsg.StringPtr([]string{uniformAssignor, rangeAssignor}[c.rng.IntN(2)])
	}
	c.members = append(c.members, a)
	c.beat(a)
}

// bounce is a process that goes and comes again with the other protocol.
func (c *crowd) bounce(a *actor) {
	if c.classics > 0 && c.leave(a, true) {
		c.join(a)
	}
}

// beat lets a member do what is its turn.
func (c *crowd) beat(a *actor) {
	switch {
	case a.away && !c.calm:
	case a.classic != nil:
		c.turnOfClassic(a)
	default:
		c.turnOfConsumer(a)
	}
}

func (c *crowd) subscribe(a *actor) {
	a.full, a.topics, a.regex = true, []string{}, c.rng.IntN(4) == 0 && a.classic == nil
	for range 1 + c.rng.IntN(3) {
		a.topics = append(a.topics, fmt.Sprint("t", c.rng.IntN(len(c.topics)+1)))
	}
	if a.classic != nil {
		c.mustJoin(a)
	}
}

// leave lets a member go; a static one of the consumer protocol says, if it says anything, that it comes again. Who does not say that
// it leaves may not be followed by somebody with its instance id in the consumer protocol: false.
func (c *crowd) leave(a *actor, again bool) bool {
	if a.epoch == joinEpoch && a.classic == nil {
		return false
	}
	c.members = slices.DeleteFunc(c.members, func(o *actor) bool { return o == a })
	if a.classic != nil {
		c.leaveClassic(a, again)
	} else {
		c.leaveConsumer(a, again)
	}
	return true
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
		if c.now.Sub(a.lastBeat) < crowdSession-time.Second { // a client gives up before the coordinator does
			continue
		}
		if k := a.classic; k != nil && k.phase != inside {
			clear(a.owned) // what it waits for may come yet
		} else {
			a.lost()
		}
	}
}

// lost is what a client does that is fenced, or must think so: it has nothing any more, and joins again.
func (a *actor) lost() {
	a.epoch, a.full, a.told, a.stuck = 0, true, nil, false
	clear(a.owned)
	if a.classic != nil {
		a.classic.phase, a.classic.gen = outside, -1
	}
}

// lucky tells whether something of the network or the disk works this time.
func (c *crowd) lucky() bool { return c.calm || c.rng.IntN(10) > 0 }

// ask is a request and what is done with its answer, which may never come.
func (c *crowd) ask(step func(Caller) Output, answered func(kmsg.Response)) {
	c.tickets++
	c.waiting[c.tickets] = answered
	c.durable(step(Caller{Ticket: c.tickets, ClientID: "c"}))
}

// durable has the records of a step written, or not, and its replies given.
func (c *crowd) durable(out Output) {
	for len(out.Records) > 0 {
		was := c.g.Type()
		if !c.lucky() {
			out = c.g.Durable(c.now, out, kerr.CoordinatorNotAvailable)
			continue
		}
		c.log = append(c.log, out.Records...)
		c.shadow.now = c.now
		for _, r := range out.Records {
			if err := c.shadow.Replay(r); err != nil {
				c.fail("%v", err)
			}
		}
		out = c.g.Durable(c.now, out, nil)
		c.compareWithReplay(c.shadow)
		if now := c.g.Type(); now != was && (len(c.g.members) > 0 || c.g.consumer != nil && c.g.consumer.classics > 0) {
			c.changed[now]++
		}
	}
	for _, r := range out.Replies {
		answered := c.waiting[r.Ticket]
		if delete(c.waiting, r.Ticket); answered == nil {
			c.fail("two answers for one request: %+v", r.Response)
		} else {
			answered(r.Response)
		}
	}
}

// restart is a new coordinator, which has the log, or what compaction leaves of it.
func (c *crowd) restart() {
	if c.forgetful && len(c.log) > 0 {
		c.log = c.log[:len(c.log)-1-c.rng.IntN(min(len(c.log), 3))]
	}
	if c.rng.IntN(2) == 0 {
		c.compact()
	}
	c.g, c.shadow = c.replayed(), c.replayed()
	c.now = c.now.Add(time.Duration(c.rng.IntN(2000)) * time.Millisecond)
	clear(c.waiting)
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
