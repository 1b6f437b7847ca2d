package group

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/tier"
)

// Whatever members, strangers and the disk do, in whatever order: every request is answered once, an offset is what the last
// durable commit said, and a group that replays the log knows what the group knows that wrote it.
func TestRandomGroup(t *testing.T) {
	for i := range uint64(tier.N(2000)) {
		c := newChaos(t, tier.Seed()+i)
		for range 150 {
			c.step()
		}
		c.settle()
	}
}

type chaos struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	cfg     Config
	g       *Group
	now     time.Time
	ids     []string // handed out
	log     []Record
	open    map[uint64]kmsg.Request // not answered yet
	ticket  uint64
	offsets map[string]int64 // what was answered as committed
	gen     int32
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), now: time.UnixMilli(1e12),
		open: map[uint64]kmsg.Request{}, offsets: map[string]int64{},
	}
	c.cfg = Config{
		MinSession: time.Second, MaxSession: time.Minute, PendingTimeout: 3 * time.Second, Retention: 1000 * time.Hour,
		MaxMembers: 5, MaxBytes: 1000, MaxMetadata: 10, InitialDelay: time.Duration(c.rng.IntN(2)) * time.Second,
		NewID: func(p string) string {
			c.ids = append(c.ids, fmt.Sprint(p, "-", len(c.ids)))
			return c.ids[len(c.ids)-1]
		},
	}
	c.g = New("g", &c.cfg)
	return c
}

func (c *chaos) fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("seed %d: %s", c.seed, fmt.Sprintf(format, args...))
}

// someID is mostly that of a recent member.
func (c *chaos) someID() string {
	if len(c.ids) == 0 || c.rng.IntN(6) == 0 {
		return ""
	}
	return c.ids[len(c.ids)-1-c.rng.IntN(min(len(c.ids), 5))]
}

func (c *chaos) instance(id string) *string {
	switch {
	case c.rng.IntN(20) == 0:
		return kmsg.StringPtr("I")
	case len(id) > 0 && id[0] == 'I':
		return kmsg.StringPtr("I")
	}
	return nil
}

func (c *chaos) caller(req kmsg.Request) Caller {
	c.ticket++
	c.open[c.ticket] = req
	return Caller{Ticket: c.ticket, ClientID: "c", Host: "/h"}
}

func (c *chaos) generation() int32 {
	if c.rng.IntN(10) == 0 {
		return c.gen - 1
	}
	return c.gen
}

func (c *chaos) step() {
	id := c.someID()
	switch c.rng.IntN(12) {
	case 0, 1, 2:
		req := kmsg.NewPtrJoinGroupRequest()
		req.Version = int16(c.rng.IntN(10))
		req.MemberID, req.InstanceID, req.ProtocolType = id, c.instance(id), "consumer"
		req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(1000+c.rng.IntN(9000)), int32(c.rng.IntN(9000)-1)
		for _, name := range []string{"range", "rr"}[c.rng.IntN(2):] {
			req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: []byte{byte(c.rng.IntN(2))}})
		}
		c.do(c.g.Join(c.now, c.caller(req), req))
	case 3, 4, 5:
		req := kmsg.NewPtrSyncGroupRequest()
		req.MemberID, req.InstanceID, req.Generation = id, c.instance(id), c.generation()
		for _, other := range c.ids[max(0, len(c.ids)-5):] {
			req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: other, MemberAssignment: []byte(other)})
		}
		c.do(c.g.Sync(c.now, c.caller(req), req))
	case 6:
		req := kmsg.NewPtrHeartbeatRequest()
		req.MemberID, req.InstanceID, req.Generation = id, c.instance(id), c.generation()
		c.do(c.g.Heartbeat(c.now, c.caller(req), req))
	case 7:
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version = 5
		req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: id, InstanceID: c.instance(id)}}
		c.do(c.g.Leave(c.now, c.caller(req), req))
	case 8, 9:
		out := c.commit()
		for c.rng.IntN(2) == 0 {
			out.Merge(c.commit())
		}
		c.do(out)
	case 10:
		c.now = c.now.Add(time.Duration(c.rng.IntN(3000)) * time.Millisecond)
		c.do(c.g.Tick(c.now))
	case 11:
		if c.rng.IntN(4) == 0 {
			c.compareWithReplay()
		}
	}
}

func (c *chaos) commit() Output {
	req := kmsg.NewPtrOffsetCommitRequest()
	id := c.someID()
	if req.Generation = c.generation(); id == "" {
		req.Generation = -1
	}
	req.Version, req.MemberID, req.InstanceID = 8, id, c.instance(id)
	req.Topics = []kmsg.OffsetCommitRequestTopic{{
		Topic:      fmt.Sprint("t", c.rng.IntN(3)),
		Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: c.rng.Int64N(1000)}},
	}}
	return c.g.Commit(c.now, c.caller(req), req, func(string, int32) *kerr.Error { return nil })
}

func (c *chaos) do(out Output) {
	for len(out.Records) > 0 {
		var failed *kerr.Error
		if c.rng.IntN(8) == 0 {
			failed = kerr.CoordinatorNotAvailable
		} else {
			c.log = append(c.log, out.Records...)
		}
		out = c.g.Durable(c.now, out, failed)
	}
	for _, r := range out.Replies {
		c.answered(r)
	}
}

func (c *chaos) answered(r Reply) {
	req := c.open[r.Ticket]
	if req == nil {
		c.fatalf("ticket %d is answered twice, or was never asked: %T", r.Ticket, r.Response)
	}
	delete(c.open, r.Ticket)
	if r.Response.Key() != req.Key() {
		c.fatalf("%T is answered with %T", req, r.Response)
	}
	switch resp := r.Response.(type) {
	case *kmsg.JoinGroupResponse:
		if resp.ErrorCode == 0 {
			c.gen = resp.Generation
		}
	case *kmsg.SyncGroupResponse:
		if id := req.(*kmsg.SyncGroupRequest).MemberID; resp.ErrorCode == 0 && len(resp.MemberAssignment) > 0 &&
			string(resp.MemberAssignment) != id && id[0] != 'I' { // a static member takes over what its predecessor had
			c.fatalf("%s is assigned what is %s's", id, resp.MemberAssignment)
		}
	case *kmsg.OffsetCommitResponse:
		t := req.(*kmsg.OffsetCommitRequest).Topics[0]
		if resp.Topics[0].Partitions[0].ErrorCode == 0 {
			c.offsets[t.Topic] = t.Partitions[0].Offset
		}
	}
}

// settle lets time pass until nobody can be waited for any more.
func (c *chaos) settle() {
	for range 100 {
		next := c.g.Deadline()
		if next.IsZero() {
			break
		}
		if next.After(c.now) {
			c.now = next
		}
		c.do(c.g.Tick(c.now))
	}
	if len(c.open) > 0 {
		c.fatalf("%d requests are never answered: %v", len(c.open), c.open)
	}
	if c.g.State() != Empty {
		c.fatalf("%v although everybody is gone", c.g.State())
	}
	c.compareWithReplay()
}

func (c *chaos) compareWithReplay() {
	again := New("g", &c.cfg)
	for _, r := range c.log {
		if err := again.Replay(r); err != nil {
			c.fatalf("%v", err)
		}
	}
	for name, g := range map[string]*Group{"the group": c.g, "its replay": again} {
		have := map[string]int64{}
		g.Offsets(func(topic string, _ int32, o Offset) { have[topic] = o.At })
		if !maps.Equal(have, c.offsets) {
			c.fatalf("%s has offsets %v, answered were %v", name, have, c.offsets)
		}
	}
	if c.g.state != Stable {
		return
	}
	for id, m := range c.g.members {
		if r := again.members[id]; r == nil || string(r.assignment) != string(m.assignment) || again.generation != c.g.generation {
			c.fatalf("replay lost member %s, or its assignment, or generation %d", id, c.g.generation)
		}
	}
}
