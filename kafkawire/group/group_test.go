package group

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// One goroutine runs all groups: what a few members can say of themselves in the bytes they have must not take it minutes.
func TestManyProtocols(t *testing.T) {
	cfg := &Config{MinSession: time.Second, MaxSession: time.Hour, MaxMembers: 10, MaxBytes: 4 << 20,
		NewID: func(prefix string) string { return prefix + "-id" }}
	g := New("g", cfg)
	now := time.UnixMilli(1_000_000)
	join := func(who string) *kmsg.JoinGroupResponse {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Version, req.Group, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 3, "g", "consumer", 10_000, 10_000
		for i := range 100_000 {
			req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: fmt.Sprint(who, i)})
		}
		req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: "range"})
		var last *kmsg.JoinGroupResponse
		for _, r := range g.Join(now, Caller{ClientID: who}, req).Replies {
			last = r.Response.(*kmsg.JoinGroupResponse)
		}
		return last
	}
	began := time.Now()
	if r := join("a"); r == nil || *r.Protocol != "a0" {
		t.Fatalf("%+v", r)
	}
	if r := join("b"); r != nil {
		t.Fatalf("the first member has not joined again: %+v", r)
	}
	g.now = now
	if p := g.selectProtocol(); p == nil || *p != "range" {
		t.Errorf("all speak range, the vote is %v", p)
	}
	if g.supports("consumer", []kmsg.JoinGroupRequestProtocol{{Name: "a0"}}) || !g.supports("consumer", []kmsg.JoinGroupRequestProtocol{{Name: "range"}}) {
		t.Error("want range to be what all speak, and nothing else")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("that took %v", took)
	}
}
