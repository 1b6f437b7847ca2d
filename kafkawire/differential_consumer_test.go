package kafkawire

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// consumerState is what the script of groups of the consumer protocol (KIP-848) knows. Members go on until nothing changes any more before the
// next thing happens: what is compared is what they have then, and what is answered to what is wrong.
type consumerState struct {
	*topicsState
	members  map[string]*consumerMember
	group    string
	joined   int
	assignor *string
	first    [2]int32 // the group's first epoch; 0: there is no group
	fresh    bool     // Kafka may hear of the topics only after the first join: that is an epoch more
}

// consumerMember is one, on both sides.
type consumerMember struct {
	id       string
	instance *string
	topics   []string
	epochs   [2]int32
	owned    [2]map[[16]byte][]int32
}

func consumerScript(d *differ) func() {
	s := &consumerState{topicsState: newTopicsState(d), members: map[string]*consumerMember{}, group: d.name + "c", assignor: one(d, nil, new("uniform"), new("range"))}
	for i := range 2 {
		s.make(fmt.Sprint(d.name, "t", i), int32(2+i))
	}
	return s.step
}

// make makes a topic of so many partitions.
func (d *consumerState) make(name string, partitions int32) {
	d.ask(fmt.Sprintf("create %s for the group", name), func(int) kmsg.Request {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Topics = append(req.Topics, createTopic(name, partitions, 1, quiet...))
		return versioned(req, 4)
	}, d.differ.all())
	d.created(name, partitions)
}

func (d *consumerState) step() {
	switch n := d.rng.IntN(13); {
	case len(d.members) == 0, n < 2 && len(d.members) < 4:
		d.join()
	case n == 2:
		d.leave()
	case n == 3:
		d.subscribe()
	case n < 6:
		d.beatWrongly()
	case n < 9:
		d.commit()
	case n == 9:
		d.fetchAs()
	case n == 10:
		d.describe()
	case n == 11:
		d.classic()
	default:
		if t2 := d.name + "t2"; d.real() && d.chance(3) && len(d.ids[t2]) == 0 { // of which kfake makes an epoch whoever subscribes to it
			d.make(t2, 1)
			time.Sleep(1100 * time.Millisecond) // we look for topics once a second
			d.together()
		}
	}
}

// names are the topics that a member subscribes to.
func (d *consumerState) names() []string {
	return one(d.differ, []string{d.name + "t0"}, []string{d.name + "t0", d.name + "t1"}, []string{d.name + "t1"}, []string{d.name + "t0", d.name + "t1", d.name + "t2"})
}

// member picks one who is in the group.
func (d *consumerState) member() *consumerMember {
	if len(d.members) == 0 {
		return &consumerMember{id: "nobody"}
	}
	return d.members[one(d.differ, slices.Sorted(maps.Keys(d.members))...)]
}

// wholePulse is a heartbeat that says everything of a member.
func wholePulse(group string, m *consumerMember, side int) *kmsg.ConsumerGroupHeartbeatRequest {
	req := pulse(group, m.id, m.epochs[side])
	req.InstanceID = m.instance
	req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	for id, parts := range m.owned[side] {
		req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: id, Partitions: parts})
	}
	req.RebalanceTimeoutMillis = 30_000
	req.SubscribedTopicNames = m.topics
	return req
}

// took has a member do as it is told.
func (m *consumerMember) took(side int, resp *kmsg.ConsumerGroupHeartbeatResponse) {
	if resp.ErrorCode != 0 {
		return
	}
	m.epochs[side] = resp.MemberEpoch
	if resp.Assignment != nil {
		m.owned[side] = map[[16]byte][]int32{}
		for _, t := range resp.Assignment.Topics {
			m.owned[side][t.TopicID] = slices.Sorted(slices.Values(t.Partitions))
		}
	}
}

// has says what a member has.
func (d *consumerState) has(side int, m *consumerMember) string {
	var parts []string
	for id, p := range m.owned[side] {
		if len(p) > 0 {
			parts = append(parts, fmt.Sprint(d.differ.ids[side][id], p))
		}
	}
	slices.Sort(parts)
	return fmt.Sprint("epoch +", m.epochs[side]-d.first[side], " ", strings.Join(parts, " "))
}

// together has all members go on until nothing changes any more, and compares what they have.
func (d *consumerState) together() {
	names := slices.Sorted(maps.Keys(d.members))
	for side, c := range []*client{d.ours, d.theirs} {
		for quiet, deadline := 0, time.Now().Add(20*time.Second); quiet < 3 && time.Now().Before(deadline); quiet++ {
			for _, name := range names {
				m := d.members[name]
				before := d.has(side, m)
				if m.took(side, do[*kmsg.ConsumerGroupHeartbeatResponse](c, 1, wholePulse(d.group, m, side))); d.has(side, m) != before {
					quiet = -1
				}
			}
			if side == 1 && d.real() {
				time.Sleep(20 * time.Millisecond) // it assigns elsewhere
			}
		}
	}
	if d.fresh {
		d.fresh, d.first[1] = false, d.members[names[0]].epochs[1]
	}
	d.agree("together", d.sharing(0, names), d.sharing(1, names))
}

// sharing says who is in which epoch, what all have together, and how many partitions each has. Who has which is the assignor's to say.
func (d *consumerState) sharing(side int, names []string) string {
	var epochs, counts, parts []string
	for _, name := range names {
		m, count := d.members[name], 0
		epochs = append(epochs, fmt.Sprint(name, " +", m.epochs[side]-d.first[side]))
		for id, ps := range m.owned[side] {
			for _, p := range ps {
				parts = append(parts, fmt.Sprint(d.differ.ids[side][id], "/", p))
				count++
			}
		}
		counts = append(counts, fmt.Sprint(count))
	}
	slices.Sort(parts)
	slices.Sort(counts)
	return fmt.Sprint(epochs, counts, parts)
}

func (d *consumerState) join() {
	d.joined++
	m := &consumerMember{id: fmt.Sprint("m", d.joined), topics: d.names(), owned: [2]map[[16]byte][]int32{{}, {}}}
	how, assignor := "", one(d.differ, nil, d.assignor) // one for all: which of two counts that are asked for as often nobody says
	if d.chance(3) {
		m.instance = new(one(d.differ, "i0", "i1"))
		how = " as " + *m.instance
	}
	v := int16(1)
	if d.chance(4) {
		v = 0
	}
	if assignor != nil {
		how += ", " + *assignor
	}
	answer := d.ask(fmt.Sprintf("join of %s%s to %v, version %d", m.id, how, m.topics, v), func(side int) kmsg.Request {
		req := wholePulse(d.group, m, side)
		req.ServerAssignor = assignor
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.ConsumerGroupHeartbeatResponse)
		m.took(side, resp)
		if d.first[side] == 0 && resp.ErrorCode == 0 {
			d.first[side], d.fresh = resp.MemberEpoch, d.real()
			return fmt.Sprint("0 first epoch ", resp.MemberEpoch)
		}
		if resp.ErrorCode != 0 {
			return fmt.Sprint(resp.ErrorCode)
		}
		return fmt.Sprint("0 epoch +", resp.MemberEpoch-d.first[side])
	})
	if strings.HasPrefix(answer, "0 ") {
		d.members[m.id] = m
		d.together()
	}
}

func (d *consumerState) leave() {
	m := d.member()
	epoch := int32(-1)
	if m.instance != nil && d.chance(2) {
		epoch = -2
	}
	answer := d.ask(fmt.Sprintf("leave of %s, %d", m.id, epoch), func(side int) kmsg.Request {
		req := pulse(d.group, m.id, epoch)
		req.InstanceID = m.instance
		return versioned(req, 1)
	}, d.differ.all("HeartbeatIntervalMillis"))
	if strings.Contains(answer, "ErrorCode") {
		return
	}
	delete(d.members, m.id)
	if epoch == -2 { // who comes again as the same instance has what was left
		d.joined++
		next := &consumerMember{id: fmt.Sprint("m", d.joined), instance: m.instance, topics: m.topics, owned: [2]map[[16]byte][]int32{{}, {}}}
		d.ask(fmt.Sprintf("join of %s for %s", next.id, m.id), func(side int) kmsg.Request {
			return versioned(wholePulse(d.group, next, side), 1)
		}, func(side int, r kmsg.Response) string {
			next.took(side, r.(*kmsg.ConsumerGroupHeartbeatResponse))
			return fmt.Sprint(r.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode)
		})
		d.members[next.id] = next
	}
	d.together()
}

func (d *consumerState) subscribe() {
	m := d.member()
	m.topics = d.names()
	d.ask(fmt.Sprintf("%s subscribes to %v", m.id, m.topics), func(side int) kmsg.Request {
		return versioned(wholePulse(d.group, m, side), 1)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.ConsumerGroupHeartbeatResponse)
		m.took(side, resp)
		return fmt.Sprint(resp.ErrorCode)
	})
	d.together()
}

// beatWrongly sends heartbeats that must not be taken.
func (d *consumerState) beatWrongly() {
	m, group := d.member(), d.group
	text := func(s string) *string { return &s }
	past := min(5, max(0, m.epochs[0]-d.first[0])) // as far on both sides, where the first epochs are not the same
	wrong := []struct {
		what string
		make func(*kmsg.ConsumerGroupHeartbeatRequest)
	}{
		{"no group", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group = "" }},
		{"a group that is not", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group = group + "none" }},
		{"no member", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberID = "" }},
		{"a member that is not", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberID = "x" }},
		{"an epoch to come", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch += 3 }},
		{"an epoch long past, with all it has", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch -= past }},
		{"epoch -3", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = -3 }},
		{"a static leave of nobody", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch, r.InstanceID = -2, nil }},
		{"an instance without a name", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = text("") }},
		{"an unknown instance", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = text("nobody's") }},
		{"a rack without a name", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RackID = text("") }},
		{"an assignor that is not", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.ServerAssignor = text("none") }},
		{"an expression that is none", func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicRegex = text("[") }},
		{"a join without topics", func(r *kmsg.ConsumerGroupHeartbeatRequest) {
			r.MemberID, r.MemberEpoch, r.SubscribedTopicNames, r.InstanceID, r.Topics = "y", 0, nil, nil, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		}},
		{"a join without a time", func(r *kmsg.ConsumerGroupHeartbeatRequest) {
			r.MemberID, r.MemberEpoch, r.RebalanceTimeoutMillis, r.InstanceID, r.Topics = "y", 0, -1, nil, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		}},
		{"a join with partitions", func(r *kmsg.ConsumerGroupHeartbeatRequest) {
			r.MemberID, r.MemberEpoch, r.InstanceID = "y", 0, nil
			r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: [16]byte{1}, Partitions: []int32{0}}}
		}},
		{"a join without what it has", func(r *kmsg.ConsumerGroupHeartbeatRequest) {
			r.MemberID, r.MemberEpoch, r.InstanceID, r.Topics = "y", 0, nil, nil
		}},
	}
	w := one(d.differ, wrong...)
	d.ask(fmt.Sprintf("heartbeat of %s: %s", m.id, w.what), func(side int) kmsg.Request {
		req := wholePulse(d.group, m, side)
		w.make(req)
		return versioned(req, 1)
	}, func(_ int, r kmsg.Response) string {
		return fmt.Sprint(r.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode)
	})
	d.together()
}

// commit commits as a member, in its epoch, one that is past or one to come, of what it has or not.
func (d *consumerState) commit() {
	m := d.member()
	v, more := int16(2+d.rng.IntN(9)), one[int32](d.differ, 0, 0, 0, 1, -1)
	topic, partition, id := fmt.Sprint(d.name, "t", d.rng.IntN(2)), int32(d.rng.IntN(3)), m.id
	switch d.rng.IntN(8) {
	case 0:
		id = "x"
	case 1:
		id = ""
	}
	ids := d.ids[topic][0]
	d.ask(fmt.Sprintf("commit of %q in %s/%d, epoch +%d, version %d", id, topic, partition, more, v), func(side int) kmsg.Request {
		req := commitRequest(d.group, topic, partition, int64(v))
		req.MemberID, req.Generation = id, m.epochs[side]+more
		if id == "" {
			req.Generation = -1
		}
		req.Topics[0].TopicID = ids[side]
		return versioned(req, v)
	}, func(_ int, r kmsg.Response) string {
		return fmt.Sprint(r.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode)
	})
}

// fetchAs reads offsets as a member.
func (d *consumerState) fetchAs() {
	m, more := d.member(), one[int32](d.differ, 0, 0, 1, -1)
	id := one(d.differ, m.id, m.id, "x")
	d.ask(fmt.Sprintf("offsets for %s, epoch +%d", id, more), func(side int) kmsg.Request {
		req := offsetFetchRequest(d.group, d.name+"t0", 0)
		req.Groups[0].MemberID, req.Groups[0].MemberEpoch = &id, m.epochs[side]+more
		return versioned(req, 9)
	}, d.differ.all())
}

func (d *consumerState) describe() {
	v, group := int16(d.rng.IntN(2)), one(d.differ, d.group, d.group, d.group+"none")
	d.read(fmt.Sprintf("describe the group %s, version %d", group, v), func(int) kmsg.Request {
		req := kmsg.NewPtrConsumerGroupDescribeRequest()
		req.Groups = []string{group}
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		for i := range r.(*kmsg.ConsumerGroupDescribeResponse).Groups {
			g := &r.(*kmsg.ConsumerGroupDescribeResponse).Groups[i]
			if g.ErrorCode != 0 {
				continue
			}
			g.Epoch, g.AssignmentEpoch = g.Epoch-d.first[side]+1, g.AssignmentEpoch-d.first[side]+1
			for j := range g.Members {
				g.Members[j].MemberEpoch -= d.first[side] - 1
			}
		}
		return d.differ.all("ClientHost", "AuthorizedOperations", "Assignment", "TargetAssignment")(side, r)
	})
	lv, states, types := int16(d.rng.IntN(6)), one(d.differ, nil, []string{"Stable"}, []string{"empty", "stable"}), one(d.differ, nil, []string{"consumer"}, []string{"classic"}, []string{"Consumer", "Classic"})
	d.read(fmt.Sprintf("groups in %v of %v, version %d", states, types, lv), func(int) kmsg.Request {
		req := kmsg.NewPtrListGroupsRequest()
		req.StatesFilter, req.TypesFilter = states, types
		return versioned(req, lv)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.ListGroupsResponse)
		resp.Groups = slices.DeleteFunc(resp.Groups, func(g kmsg.ListGroupsResponseGroup) bool { return g.Group != d.group })
		return d.differ.all()(side, resp)
	})
}

// classic asks what is of the classic protocol.
func (d *consumerState) classic() {
	switch d.rng.IntN(3) {
	case 0:
		v := int16(d.rng.IntN(7))
		d.read(fmt.Sprintf("describe it as a classic group, version %d", v), func(int) kmsg.Request {
			req := kmsg.NewPtrDescribeGroupsRequest()
			req.Groups = []string{d.group}
			return versioned(req, v)
		}, d.differ.all("AuthorizedOperations"))
	case 1:
		answer := d.ask("delete the group", func(int) kmsg.Request {
			req := kmsg.NewPtrDeleteGroupsRequest()
			req.Groups = []string{d.group}
			return versioned(req, 2)
		}, d.differ.all())
		if !strings.Contains(answer, "ErrorCode") {
			d.first = [2]int32{}
		}
	case 2:
		m, v := d.member(), int16(d.rng.IntN(4))
		d.ask(fmt.Sprintf("classic heartbeat of %s, version %d", m.id, v), func(side int) kmsg.Request {
			req := kmsg.NewPtrHeartbeatRequest()
			req.Group, req.MemberID, req.Generation = d.group, m.id, m.epochs[side]
			return versioned(req, v)
		}, d.differ.all())
	}
}
