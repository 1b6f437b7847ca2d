package kafka

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// topic is what the cluster last said about one topic. It is never changed, only replaced.
type topic struct {
	name    string
	id      eventlog.TopicID
	leaders []int32 // per partition; -1: none at the moment
	copies  int     // replicas of the partition that has the fewest
}

func (t *topic) leader(index int32) int32 {
	if t == nil || index < 0 || int(index) >= len(t.leaders) {
		return -1
	}
	return t.leaders[index]
}

func (t *topic) has(index int32) bool { return t != nil && index >= 0 && int(index) < len(t.leaders) }

// topics caches the cluster's metadata.
type topics struct {
	cl             *kgo.Client
	grace, backoff time.Duration

	asking chan struct{} // holds one token while somebody asks the cluster

	mu     sync.RWMutex
	failed time.Time // when an asking began that failed
	why    error
	at     time.Time // when the last answer was asked for
	nodes  []int32   // brokers that were up then
	byID   map[eventlog.TopicID]*topic
	byName map[string]*topic
}

func (ts *topics) cached(id eventlog.TopicID) *topic {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.byID[id]
}

func (ts *topics) named(name string) *topic {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.byName[name]
}

// all lists the topics of some names, or every topic.
func (ts *topics) all(names []string) (out []*topic) {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	for name, t := range ts.byName {
		if len(names) == 0 || slices.Contains(names, name) {
			out = append(out, t)
		}
	}
	return out
}

func newTopics(cl *kgo.Client, grace, backoff time.Duration) *topics {
	return &topics{cl: cl, grace: grace, backoff: backoff, asking: make(chan struct{}, 1)}
}

// refresh asks the cluster about all topics. Callers that ask at the same time share an answer, or that there was none.
func (ts *topics) refresh(ctx context.Context) error {
	asked := time.Now()
	select {
	case ts.asking <- struct{}{}:
		defer func() { <-ts.asking }()
	case <-ctx.Done():
		return fmt.Errorf("metadata: %w", ctx.Err())
	}
	ts.mu.RLock()
	fresh, failed, why := ts.at.After(asked), ts.failed.After(asked), ts.why
	ts.mu.RUnlock()
	if fresh {
		return nil
	}
	if failed {
		return why
	}
	at := time.Now()
	resp, err := anyBroker(ctx, len(ts.brokers())+1, func(ctx context.Context) (*kmsg.MetadataResponse, error) {
		req := kmsg.NewPtrMetadataRequest() // another one each time: the client may still look at one that was given up
		req.Topics = nil                    // all
		return req.RequestWith(ctx, ts.cl)
	})
	if err != nil {
		err = fmt.Errorf("metadata: %w", err)
		if ctx.Err() == nil { // else it is the asker's affair
			ts.mu.Lock()
			defer ts.mu.Unlock()
			ts.failed, ts.why = at, err
		}
		return err
	}
	byID, byName := map[eventlog.TopicID]*topic{}, map[string]*topic{}
	for _, t := range described(resp) {
		byID[t.id], byName[t.name] = t, t
	}
	var nodes []int32
	for _, b := range resp.Brokers {
		nodes = append(nodes, b.NodeID)
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.at, ts.nodes, ts.byID, ts.byName = at, nodes, byID, byName
	return nil
}

// anyBroker asks the client, which asks one broker after the other. One that hangs has only so long; one that hangs up at once may be down behind a proxy.
func anyBroker[T any](ctx context.Context, times int, ask func(context.Context) (T, error)) (answer T, err error) {
	for n := 0; ; n++ {
		short, cancel := context.WithTimeout(ctx, askPatience)
		answer, err = ask(short)
		cancel()
		if err == nil || ctx.Err() != nil || n >= times || !errors.Is(err, context.DeadlineExceeded) && !hangsUp(err) {
			return answer, err
		}
	}
}

// described is every topic that an answer knows.
func described(resp *kmsg.MetadataResponse) (all []*topic) {
	for _, rt := range resp.Topics {
		if rt.Topic == nil || rt.ErrorCode != 0 && kerr.ErrorForCode(rt.ErrorCode) != kerr.LeaderNotAvailable {
			continue
		}
		t := &topic{name: *rt.Topic, id: idOf(*rt.Topic, rt.TopicID), leaders: make([]int32, len(rt.Partitions))}
		for i := range t.leaders {
			t.leaders[i] = -1
		}
		for _, p := range rt.Partitions {
			if p.ErrorCode == 0 && t.has(p.Partition) {
				t.leaders[p.Partition] = p.Leader
			}
			if t.copies == 0 || len(p.Replicas) < t.copies {
				t.copies = len(p.Replicas)
			}
		}
		all = append(all, t)
	}
	return all
}

func (ts *topics) brokers() []int32 {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.nodes
}

// everywhere asks each broker what it knows of a name, nil if nothing, and says whether ok likes every answer. Brokers learn
// of topics one by one: what one has answered, the next may not know yet. A broker that does not answer does not count: it
// learns what it missed before it is let serve again.
func (ts *topics) everywhere(ctx context.Context, name string, ok func(*topic) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, node := range ts.brokers() {
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &name
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(ctx, ts.cl.Broker(int(node)))
		if err != nil {
			continue
		}
		var t *topic
		if all := described(resp); len(all) > 0 {
			t = all[0]
		}
		if !ok(t) {
			return false
		}
	}
	return true
}

// idOf is the topic's id, or one made of its name on a cluster that has no ids: there a topic that is deleted and created
// again cannot be told from the old one.
func idOf(name string, id [16]byte) eventlog.TopicID {
	if id == ([16]byte{}) {
		sum := sha256.Sum256([]byte(name))
		return eventlog.TopicID(sum[:16])
	}
	return id
}

// fresh finds a topic in an answer not older than the call.
func (ts *topics) fresh(ctx context.Context, id eventlog.TopicID) (*topic, error) {
	for until, n := time.Now().Add(ts.grace), 0; ; n++ {
		if err := ts.refresh(ctx); err != nil {
			return nil, err
		}
		if t := ts.cached(id); t != nil {
			return t, nil
		}
		if time.Now().After(until) {
			return nil, fmt.Errorf("topic %v: %w", id, eventlog.ErrUnknownTopic)
		}
		select {
		case <-time.After(backoff(ts.backoff, n)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// partition finds the topic of a partition, from the cache if it is there.
func (ts *topics) partition(ctx context.Context, p eventlog.Part) (*topic, error) {
	t := ts.cached(p.Topic)
	if !t.has(p.Index) {
		var err error
		if t, err = ts.fresh(ctx, p.Topic); err != nil {
			return nil, err
		}
	}
	if !t.has(p.Index) {
		return nil, fmt.Errorf("partition %v: %w", p, eventlog.ErrUnknownTopic)
	}
	return t, nil
}
