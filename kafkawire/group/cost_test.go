package group

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A heartbeat costs the same in a group of ten thousand as in one of a hundred, its deadline with it.
func BenchmarkHeartbeat(b *testing.B) {
	for _, members := range []int{100, 10_000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			g, now := bigClassic(members)
			req := kmsg.NewPtrHeartbeatRequest()
			req.MemberID, req.Generation = "c-7", g.generation
			b.ReportAllocs()
			for b.Loop() {
				g.Heartbeat(now, Caller{}, req)
				g.Deadline()
			}
		})
	}
}

// bigClassic is a classic group with many members, all of whom must sync yet.
func bigClassic(members int) (*Group, time.Time) {
	ids := 0
	cfg := &Config{MinSession: time.Second, MaxSession: time.Hour, MaxMembers: members, MaxBytes: 100 << 20, InitialDelay: time.Second,
		NewID: func(prefix string) string { ids++; return fmt.Sprint(prefix, "-", ids) }}
	g, now := New("g", cfg), time.UnixMilli(1e12)
	for range members {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Version, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 3, embeddedType, 45_000, 60_000
		req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte("m")}}
		g.Join(now, Caller{ClientID: "c"}, req)
	}
	for g.state == PreparingRebalance {
		now = g.Deadline()
		g.Tick(now)
	}
	return g, now
}

// Whatever a heartbeat puts off, members that are not heard of lapse at their time.
func TestDeadlineIsKept(t *testing.T) {
	g, began := bigClassic(50)
	req := kmsg.NewPtrSyncGroupRequest()
	for _, id := range g.order {
		req.MemberID, req.Generation = id, g.generation
		for out := g.Sync(began, Caller{}, req); len(out.Records) > 0; {
			out = g.Durable(began, out, nil)
		}
	}
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.MemberID, beat.Generation = "c-7", g.generation
	for now := began; now.Before(began.Add(46 * time.Second)); now = now.Add(time.Second) {
		if due := g.Deadline(); due.IsZero() || due.Before(now.Add(-time.Second)) {
			t.Fatalf("at %v it is due at %v", now.Sub(began), due)
		} else if !due.After(now) {
			g.Tick(now)
		}
		if g.state == Stable {
			g.Heartbeat(now, Caller{}, beat)
		}
	}
	if len(g.members) != 1 || g.state != PreparingRebalance {
		t.Errorf("%d members, %v", len(g.members), g.state)
	}
}
