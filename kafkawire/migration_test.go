package kafkawire

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Consumers go from one group protocol to the other and back, a process at a time, with records flowing, and with the node killed in
// the middle: no record is lost, and no partition has two owners at a time.
func TestFranzMigratesGroup(t *testing.T) {
	for name, balancer := range map[string]kgo.GroupBalancer{"eager": kgo.RangeBalancer(), "cooperative": kgo.CooperativeStickyBalancer()} {
		t.Run(name, func(t *testing.T) { migrate(t, balancer) })
	}
}

func migrate(t *testing.T, balancer kgo.GroupBalancer) {
	n := start(t, Options{ConsumerHeartbeat: 50 * time.Millisecond, ConsumerSession: 20 * time.Second})
	n.topic("t", 6, nil)
	m := &migration{t: t, n: n, got: map[string]int{}, owner: map[int32]string{}}
	classic, modern := kgo.Balancers(balancer), kgo.ServerSideBalancer()
	groupIs := func(kind string) {
		t.Helper()
		listed := do[*kmsg.ListGroupsResponse](n.dial(), 5, &kmsg.ListGroupsRequest{})
		if len(listed.Groups) != 1 || listed.Groups[0].GroupType != kind {
			t.Errorf("groups %+v, want one, %s", listed.Groups, kind)
		}
	}
	stops := []func(){m.consume("a", classic), m.consume("b", classic), m.consume("c", classic, kgo.InstanceID("c"))}
	m.arrives(60)
	groupIs("classic")
	roll := func(names string, to kgo.Opt, killAt int) {
		for i, stop := range stops {
			stop()
			name := names[i : i+1]
			if opts := []kgo.Opt{to}; i == 2 {
				stops[i] = m.consume(name, append(opts, kgo.InstanceID("c"))...)
			} else {
				stops[i] = m.consume(name, opts...)
			}
			if i == killAt {
				n.back(n.fs.Kill())
			}
			m.arrives(60)
			if i < 2 { // both protocols are in it
				groupIs("consumer")
			}
		}
	}
	roll("ABC", modern, 1)
	groupIs("consumer")
	roll("abc", classic, 0)
	groupIs("classic")
	for _, stop := range stops {
		stop()
	}
}

// migration is the consumers of a topic, and who has what of it.
type migration struct {
	t *testing.T
	n *node

	mu    sync.Mutex
	got   map[string]int
	owner map[int32]string
	next  int
}

// consume runs a consumer until stop is called.
func (m *migration) consume(name string, opts ...kgo.Opt) (stop func()) {
	lose := func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, p := range parts["t"] {
			if m.owner[p] == name {
				delete(m.owner, p)
			}
		}
	}
	cl := m.n.franz(append([]kgo.Opt{
		kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ClientID(name),
		kgo.HeartbeatInterval(50 * time.Millisecond), kgo.SessionTimeout(20 * time.Second), kgo.AutoCommitInterval(100 * time.Millisecond), kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsRevoked(lose), kgo.OnPartitionsLost(lose),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, p := range parts["t"] {
				if o := m.owner[p]; o != "" {
					m.t.Errorf("%s is given partition %d, which %s has", name, p, o)
				}
				m.owner[p] = name
			}
		}),
	}, opts...)...)
	ctx, cancel := context.WithCancel(m.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			fetches := cl.PollRecords(ctx, 20)
			m.mu.Lock()
			fetches.EachRecord(func(r *kgo.Record) { m.got[string(r.Value)]++ })
			m.mu.Unlock()
			cl.AllowRebalance()
		}
	})
	return func() {
		cancel()
		done.Wait()
		cl.CloseAllowingRebalance()
		lose(nil, nil, map[string][]int32{"t": {0, 1, 2, 3, 4, 5}}) // a static member goes without a word
	}
}

// arrives writes records and waits until each was read by somebody.
func (m *migration) arrives(count int) {
	m.t.Helper()
	writer := m.n.franz(kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	defer writer.Close()
	from := m.next
	for ; m.next < from+count; m.next++ {
		if err := writer.ProduceSync(patience(m.t), &kgo.Record{Topic: "t", Value: fmt.Append(nil, m.next)}).FirstErr(); err != nil {
			m.t.Fatal(err)
		}
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		var missing []int
		m.mu.Lock()
		for i := from; i < m.next; i++ {
			if m.got[fmt.Sprint(i)] == 0 {
				missing = append(missing, i)
			}
		}
		owners := fmt.Sprint(m.owner)
		m.mu.Unlock()
		if len(missing) == 0 {
			return
		}
		if time.Since(began) > time.Minute {
			m.t.Fatalf("records %v do not arrive; owners are %s", missing, owners)
		}
	}
}
