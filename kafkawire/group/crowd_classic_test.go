package group

import (
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// classicRebal leaves time for a session to lapse and another to be heard of: who still has something when the coordinator stops
// waiting for it was not heard of, and knows.
const classicRebal = 3 * crowdSession

// phase is where a client of the classic protocol is.
type phase int

const (
	outside phase = iota // it must join
	joining              // and has asked to
	joined               // it must sync
	syncing              // and has asked to
	inside
)

type classicActor struct {
	phase  phase
	gen    int32
	ticket uint64                   // of its last request
	plan   map[string]map[part]bool // the leader's, for all members
	leads  string                   // the topics as the leader saw them; empty: it does not lead
}

// mustJoin makes a member join again, with what it has.
func (c *crowd) mustJoin(a *actor) { a.classic.phase = outside }

func (c *crowd) turnOfClassic(a *actor) {
	k := a.classic
	if (k.phase == joining || k.phase == syncing) && (c.calm || c.rng.IntN(3) > 0) {
		if !c.calm || c.now.Sub(a.lastBeat) < crowdSession/2 {
			return // it goes on waiting
		}
	}
	switch k.phase {
	case outside, joining, syncing: // who gives up waiting for a sync joins again
		c.joinClassic(a)
	case joined:
		c.syncClassic(a)
	case inside:
		if k.leads != "" && k.leads != c.topicsNow() {
			c.mustJoin(a)
			return
		}
		c.beatClassic(a)
	}
}

func (c *crowd) topicsNow() string {
	var all []string
	for _, t := range c.topics {
		all = append(all, fmt.Sprint(t))
	}
	slices.Sort(all)
	return fmt.Sprint(all)
}

func (c *crowd) joinClassic(a *actor) {
	k := a.classic
	if k.phase = joining; !c.coop && !c.greedy {
		clear(a.owned) // an eager consumer stops before it joins
	}
	md := kmsg.NewConsumerMemberMetadata()
	md.Topics, md.Generation = a.topics, k.gen
	name := "range"
	if c.coop {
		md.Version, name = 3, "cooperative"
		for p := range a.owned {
			if topic := c.topics.TopicName(p.topic); topic != "" {
				md.OwnedPartitions = append(md.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: topic, Partitions: []int32{p.index}})
			}
		}
	}
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.ProtocolType = 9, "g", a.id, a.instance, embeddedType
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(crowdSession.Milliseconds()), int32(classicRebal.Milliseconds())
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: name, Metadata: md.AppendTo(nil)}}
	if !c.lucky() {
		return
	}
	c.askClassic(a, func(who Caller) Output { return c.g.Join(c.now, who, req) }, func(resp kmsg.Response) { c.joinedClassic(a, resp.(*kmsg.JoinGroupResponse)) })
}

// askClassic is ask for a client that hears an answer only if it still waits for it.
func (c *crowd) askClassic(a *actor, step func(Caller) Output, answered func(kmsg.Response)) {
	in, ticket := a.classic.phase, c.tickets+1
	a.classic.ticket = ticket
	c.ask(step, func(resp kmsg.Response) {
		if a.classic.phase == in && a.classic.ticket == ticket && c.lucky() {
			answered(resp)
		}
	})
}

// refused handles what all answers of the classic protocol may say; false if it was nothing.
func (c *crowd) refused(a *actor, code int16) bool {
	switch err := kerr.TypedErrorForCode(code); err {
	case nil:
		return false
	case kerr.RebalanceInProgress:
		a.lastBeat = c.now
		c.mustJoin(a)
	case kerr.CoordinatorNotAvailable, kerr.GroupMaxSizeReached:
		c.mustJoin(a)
	case kerr.IllegalGeneration:
		a.lost()
	case kerr.UnknownMemberID, kerr.FencedInstanceID:
		a.lost()
		a.id = ""
	default:
		c.fail("classic member %s: %v", a.id, err)
	}
	return true
}

func (c *crowd) joinedClassic(a *actor, resp *kmsg.JoinGroupResponse) {
	k := a.classic
	if resp.ErrorCode == kerr.MemberIDRequired.Code {
		a.id, k.phase = resp.MemberID, outside
		return
	}
	if c.refused(a, resp.ErrorCode) {
		return
	}
	a.lastBeat, a.id, a.epoch = c.now, resp.MemberID, resp.Generation
	k.phase, k.gen, k.plan, k.leads = joined, resp.Generation, nil, ""
	if resp.LeaderID == resp.MemberID {
		k.leads = "skipped"
		if !resp.SkipAssignment {
			k.leads, k.plan = c.topicsNow(), c.plan(resp.Members)
		}
	}
}

// plan is a leader's: every partition goes to one who wants it; a cooperative one does not give what another has, who must give it
// up first.
func (c *crowd) plan(members []kmsg.JoinGroupResponseMember) map[string]map[part]bool {
	out, has := map[string]map[part]bool{}, map[part]string{}
	wants := map[string][]string{}
	for _, m := range members {
		out[m.MemberID] = map[part]bool{}
		said, err := readEmbedded(m.ProtocolMetadata)
		if err != nil {
			c.fail("the leader cannot read %s: %v", m.MemberID, err)
		}
		for _, t := range said.topics {
			wants[t] = append(wants[t], m.MemberID)
		}
		for _, t := range byID(c.topics, said.owned) {
			for _, i := range t.Partitions {
				has[part{t.TopicID, i}] = m.MemberID
			}
		}
	}
	for name, ids := range wants {
		slices.Sort(ids)
		ids = slices.Compact(ids)
		for i := range c.topics[name].Partitions {
			p := part{c.topics[name].ID, i}
			if to := ids[int(i)%len(ids)]; !c.coop || has[p] == "" || has[p] == to {
				out[to][p] = true
			}
		}
	}
	return out
}

func (c *crowd) syncClassic(a *actor) {
	a.classic.phase = syncing
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 5, "g", a.id, a.instance, a.classic.gen
	for id, parts := range a.classic.plan {
		h := held{}
		for p := range parts {
			h.put(p, 0)
		}
		req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: embeddedAssignment(h, c.topics, 1)})
	}
	if !c.lucky() {
		return
	}
	c.askClassic(a, func(who Caller) Output { return c.g.Sync(c.now, who, req) }, func(r kmsg.Response) {
		resp := r.(*kmsg.SyncGroupResponse)
		if c.refused(a, resp.ErrorCode) {
			return
		}
		a.lastBeat, a.classic.phase = c.now, inside
		named, _, err := readAssignment(resp.MemberAssignment)
		if err != nil {
			c.fail("the assignment of %s: %v", a.id, err)
		}
		got := map[part]bool{}
		for _, t := range byID(c.topics, named) {
			for _, i := range t.Partitions {
				got[part{t.TopicID, i}] = true
			}
		}
		for p := range a.owned {
			if !got[p] {
				if !c.greedy {
					delete(a.owned, p)
				}
				if c.topics.TopicName(p.topic) != "" { // it gave something up, which another may have once it says so
					c.mustJoin(a)
				}
			}
		}
		for p := range got {
			if _, ok := a.owned[p]; !ok {
				a.owned[p] = a.classic.gen
			}
		}
	})
}

func (c *crowd) beatClassic(a *actor) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 4, "g", a.id, a.instance, a.classic.gen
	if !c.lucky() {
		return
	}
	c.askClassic(a, func(who Caller) Output { return c.g.Heartbeat(c.now, who, req) }, func(resp kmsg.Response) {
		if !c.refused(a, resp.(*kmsg.HeartbeatResponse).ErrorCode) {
			a.lastBeat = c.now
		}
	})
}

// leaveClassic: a dynamic member says that it leaves, a static one just goes.
func (c *crowd) leaveClassic(a *actor, again bool) {
	if a.id == "" || a.instance != nil && again {
		return
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group = 5, "g"
	req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: a.id, InstanceID: a.instance}}
	c.ask(func(who Caller) Output { return c.g.Leave(c.now, who, req) }, func(kmsg.Response) {})
}

// aWhile is how long everybody may take to come to rest.
const aWhile = 2 * classicRebal / time.Second
