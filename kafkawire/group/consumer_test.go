package group

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// play is a group of the consumer protocol whose records are always written.
type playing struct {
	t   *testing.T
	g   *Group
	now time.Time
	top topicTable
}

func newPlaying(t *testing.T) *playing {
	cfg := &Config{
		ConsumerSession: time.Hour * 1000, ConsumerHeartbeat: time.Second, MaxMembers: 20, MaxBytes: 4000, MaxMetadata: 10, Retention: time.Hour,
		NewID: func(p string) string { return p + "-1" },
	}
	top := topicTable{"t": {"t", [16]byte{1}, 2}, "u": {"u", [16]byte{2}, 1}}
	cfg.Topics = top
	return &playing{t: t, g: New("g", cfg), now: time.UnixMilli(1e12), top: top}
}

func (p *playing) do(out Output) kmsg.Response {
	for len(out.Records) > 0 {
		out = p.g.Durable(p.now, out, nil)
	}
	if len(out.Replies) == 0 {
		return nil
	}
	return out.Replies[0].Response
}

func (p *playing) join(id, regex string, topics ...string) *kmsg.ConsumerGroupHeartbeatResponse {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.SetVersion(1)
	req.Group, req.MemberID, req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.SubscribedTopicRegex = "g", id, 1000, topics, &regex
	req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	return p.do(p.g.ConsumerHeartbeat(p.now, Caller{ClientID: "c"}, req)).(*kmsg.ConsumerGroupHeartbeatResponse)
}

// Offsets of topics that nobody subscribes to go at their time, then the group; those of others stay.
func TestConsumerOffsetsExpire(t *testing.T) {
	p := newPlaying(t)
	if r := p.join("m", "t.*"); r.ErrorCode != 0 {
		t.Fatalf("%+v", r)
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.SetVersion(9)
	req.MemberID, req.Generation = "m", 1
	for _, topic := range []string{"t", "u"} {
		req.Topics = append(req.Topics, kmsg.OffsetCommitRequestTopic{Topic: topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 7}}})
	}
	p.do(p.g.Commit(p.now, Caller{}, req, func(string, int32) *kerr.Error { return nil }))
	pass := func(d time.Duration) {
		for end := p.now.Add(d); ; {
			next := p.g.Deadline()
			if next.IsZero() || next.After(end) {
				p.now = end
				return
			}
			p.now = next
			p.do(p.g.Tick(p.now))
		}
	}
	pass(2 * time.Hour)
	if _, ok := p.g.Offset("t", 0); !ok {
		t.Error("the offset of a subscribed topic is gone")
	}
	if _, ok := p.g.Offset("u", 0); ok {
		t.Error("the offset of a topic that nobody reads stays")
	}
	leave := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	leave.MemberID, leave.MemberEpoch = "m", leaveEpoch
	p.do(p.g.ConsumerHeartbeat(p.now, Caller{}, leave))
	pass(2 * time.Hour)
	if !p.g.Forgettable() {
		t.Errorf("%s %s is kept", p.g.Type(), p.g.StateName())
	}
}

// What the members say of themselves is bounded.
func TestConsumerGroupIsBounded(t *testing.T) {
	p := newPlaying(t)
	for i := range maxExpressions {
		if r := p.join(fmt.Sprint("m", i), fmt.Sprint("x", i)); r.ErrorCode != 0 {
			t.Fatalf("%+v", r)
		}
	}
	if r := p.join("more", "y"); r.ErrorCode != kerr.InvalidRegularExpression.Code {
		t.Errorf("one expression too many: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	if r := p.join("more", "x1"); r.ErrorCode != 0 {
		t.Errorf("one that others have: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	if r := p.join("long", "", strings.Repeat("t", 4000)); r.ErrorCode != kerr.GroupMaxSizeReached.Code {
		t.Errorf("a long name: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	if n := len(p.g.consumer.members); n != maxExpressions+1 {
		t.Errorf("%d members", n)
	}
}

// A topic that grows, or comes, is assigned with a heartbeat that says nothing.
func TestConsumerGroupSeesTopics(t *testing.T) {
	p := newPlaying(t)
	p.join("m", "[tv]")
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.SetVersion(1)
	beat.MemberID, beat.MemberEpoch = "m", 1
	for range 2 { // the second time it has looked just now
		if r := p.do(p.g.ConsumerHeartbeat(p.now, Caller{ClientID: "c"}, beat)).(*kmsg.ConsumerGroupHeartbeatResponse); r.MemberEpoch != 1 || r.Assignment != nil {
			t.Errorf("at once: %+v", r)
		}
		p.top["t"] = Topic{"t", [16]byte{1}, 3}
		p.top["v"] = Topic{"v", [16]byte{3}, 1}
	}
	p.now = p.now.Add(2 * lookEvery)
	r := p.do(p.g.ConsumerHeartbeat(p.now, Caller{ClientID: "c"}, beat)).(*kmsg.ConsumerGroupHeartbeatResponse)
	if r.MemberEpoch != 2 || r.Assignment == nil || len(r.Assignment.Topics) != 2 || len(r.Assignment.Topics[0].Partitions) != 3 {
		t.Errorf("%+v, %v", r, r.Assignment)
	}
}
