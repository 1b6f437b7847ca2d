package kafkawire

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// fetching is a client's side of a session over the partitions of one topic.
type fetching struct {
	*client
	topic   eventlog.Topic
	version int16
	id      int32
	epoch   int32
}

func (n *node) fetching(topic eventlog.Topic, version int16) *fetching {
	return &fetching{client: n.dial(), topic: topic, version: version}
}

// ask sends the next request of the session: partitions to add or change, with their offsets, and partitions to forget.
func (f *fetching) ask(set map[int32]int64, forget ...int32) *kmsg.FetchResponse {
	f.t.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.MinBytes, req.MaxWaitMillis, req.MaxBytes = 1, 0, 1<<20
	req.SessionID, req.SessionEpoch = f.id, f.epoch
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = f.topic.Name, f.topic.ID
	for _, i := range sortedKeys(set) {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = i, set[i], 1<<20, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	if len(set) > 0 {
		req.Topics = append(req.Topics, rt)
	}
	if len(forget) > 0 {
		req.ForgottenTopics = append(req.ForgottenTopics, kmsg.FetchRequestForgottenTopic{
			Topic: f.topic.Name, TopicID: f.topic.ID, Partitions: forget,
		})
	}
	resp := do[*kmsg.FetchResponse](f.client, f.version, req)
	if f.epoch == newSessionEpoch {
		f.id = resp.SessionID
	}
	if f.epoch >= 0 {
		f.epoch++
	}
	return resp
}

func sortedKeys[V any](m map[int32]V) []int32 {
	var keys []int32
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// told lists what a response has: partition, error and records.
func told(resp *kmsg.FetchResponse) (out []string) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			s := fmt.Sprint(p.Partition)
			if p.ErrorCode != 0 {
				s += " " + kerr.ErrorForCode(p.ErrorCode).(*kerr.Error).Message
			}
			if n := len(p.RecordBatches); n > 0 {
				s += " records"
			}
			out = append(out, s)
		}
	}
	return out
}

func (f *fetching) want(resp *kmsg.FetchResponse, what ...string) {
	f.t.Helper()
	if got := told(resp); resp.ErrorCode != 0 || resp.SessionID != f.id || !slices.Equal(got, what) {
		f.t.Fatalf("version %d: error %v, session %d, partitions %q; want session %d, partitions %q",
			f.version, kerr.ErrorForCode(resp.ErrorCode), resp.SessionID, got, f.id, what)
	}
}

// Row "Fetch sessions": a full request, then only what changed, on either side.
func TestFetchSession(t *testing.T) {
	n := start(t, Options{})
	for _, v := range []int16{7, 11, 12, 13, 17} {
		topic := n.topic(fmt.Sprint("t", v), 4, nil)
		f := n.fetching(topic, v)
		resp := f.ask(map[int32]int64{0: 0, 1: 0, 2: 0})
		if f.id == 0 {
			t.Fatalf("version %d: no session", v)
		}
		f.want(resp, "0", "1", "2")
		f.want(f.ask(nil))
		n.dial().produce(topic.Name, 1, "a")
		f.want(f.ask(nil), "1 records")
		f.want(f.ask(nil), "1 records") // the client did not say yet that it has them
		f.want(f.ask(map[int32]int64{1: 1}))
		f.want(f.ask(map[int32]int64{3: 0}), "3") // new
		f.want(f.ask(map[int32]int64{9: 0}), "9 UNKNOWN_TOPIC_OR_PARTITION")
		f.want(f.ask(nil), "9 UNKNOWN_TOPIC_OR_PARTITION") // told until it is over
		f.want(f.ask(nil, 9))
		f.want(f.ask(map[int32]int64{0: 5}), "0 OFFSET_OUT_OF_RANGE")
		f.want(f.ask(map[int32]int64{0: 0}), "0") // the error is over
		n.dial().produce(topic.Name, 2, "b")
		f.want(f.ask(nil, 2))
		other := *f
		other.topic = n.topic(fmt.Sprint("u", v), 1, nil)
		n.dial().produce(other.topic.Name, 0, "c")
		f.want(other.ask(map[int32]int64{0: 0}), "0 records") // a second topic
		f.epoch = other.epoch
		f.want(f.ask(nil), "0 records")
		other.epoch = f.epoch
		f.want(other.ask(nil, 0))
		f.epoch = other.epoch
		resp = f.ask(nil, 0, 1, 3) // nothing is left: the session is closed
		f.id = 0
		f.want(resp)
	}
}

func TestFetchSessionErrors(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("t", 2, nil)
	fails := func(f *fetching, want *kerr.Error) {
		t.Helper()
		if resp := f.ask(nil); resp.ErrorCode != want.Code || resp.SessionID != 0 || len(resp.Topics) != 0 {
			t.Fatalf("error %v, session %d, %q; want %v", kerr.ErrorForCode(resp.ErrorCode), resp.SessionID, told(resp), want)
		}
	}
	open := func(version int16) *fetching {
		f := n.fetching(topic, version)
		f.ask(map[int32]int64{0: 0})
		return f
	}
	f := n.fetching(topic, 12)
	f.id, f.epoch = 4711, 1
	fails(f, kerr.FetchSessionIDNotFound)

	f = open(12)
	f.epoch = 2
	fails(f, kerr.InvalidFetchSessionEpoch)
	f.epoch = 1
	f.want(f.ask(nil)) // which cost nothing
	f.epoch = 1
	fails(f, kerr.InvalidFetchSessionEpoch)

	f = open(12) // by name, and then by id
	f.version = 13
	fails(f, kerr.FetchSessionTopicIDError)
	f = open(13)
	f.version = 12
	f.epoch = 1
	fails(f, kerr.FetchSessionTopicIDError)

	f = open(13) // (id, -1) closes
	f.epoch = finalSessionEpoch
	if resp := f.ask(map[int32]int64{1: 0}); resp.SessionID != 0 || !slices.Equal(told(resp), []string{"1"}) {
		t.Fatalf("%+v", resp)
	}
	f.epoch = 1
	fails(f, kerr.FetchSessionIDNotFound)

	f = open(13) // (id, 0) makes a new one for it
	id := f.id
	f.epoch = newSessionEpoch
	if f.ask(map[int32]int64{1: 0}); f.id == 0 || f.id == id {
		t.Fatalf("session %d after %d", f.id, id)
	}
	f.id, f.epoch = id, 1
	fails(f, kerr.FetchSessionIDNotFound)

	f = n.fetching(topic, 13) // (0, -1) wants none
	f.epoch = finalSessionEpoch
	f.want(f.ask(map[int32]int64{0: 0, 1: 0}), "0", "1")
}

// A session's topic goes, and comes again under the same name: by id it stays gone, by name it is the new one.
func TestFetchSessionTopicMadeAgain(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("t", 1, nil)
	n.dial().produce("t", 0, "old")
	byID, byName := n.fetching(topic, 13), n.fetching(topic, 12)
	byID.want(byID.ask(map[int32]int64{0: 1}), "0")
	byName.want(byName.ask(map[int32]int64{0: 1}), "0")
	if err := n.eng.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	byID.want(byID.ask(nil), "0 UNKNOWN_TOPIC_ID")
	byName.want(byName.ask(nil), "0 UNKNOWN_TOPIC_OR_PARTITION")
	again := n.topic("t", 1, nil)
	n.dial().produce("t", 0, "new")
	byID.want(byID.ask(nil), "0 UNKNOWN_TOPIC_ID")
	byName.want(byName.ask(map[int32]int64{0: 0}), "0 records")
	byID.topic = again
	byID.want(byID.ask(map[int32]int64{0: 0}), "0 UNKNOWN_TOPIC_ID", "0 records")
	byID.topic = topic
	byID.want(byID.ask(nil, 0), "0 records")
}

// A waiting fetch of a session hears of a partition, in whatever of its requests.
func TestFetchSessionWaits(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("t", 3, nil)
	f := n.fetching(topic, 13)
	f.ask(map[int32]int64{0: 0, 1: 0})
	for i := range 4 {
		req := kmsg.NewPtrFetchRequest()
		req.MinBytes, req.MaxWaitMillis, req.MaxBytes, req.SessionID, req.SessionEpoch = 1, 30_000, 1<<20, f.id, f.epoch
		req.SetVersion(13)
		part := int32(i % 2)
		if i > 0 {
			rt := kmsg.NewFetchRequestTopic()
			rt.TopicID = topic.ID
			rp := kmsg.NewFetchRequestTopicPartition()
			rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32((i-1)%2), int64((i+1)/2), 1<<20
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
		}
		corr := f.send(req)
		f.epoch++
		n.dial().produce("t", part, "v")
		if got := told(f.receive(req, corr).(*kmsg.FetchResponse)); !slices.Equal(got, []string{fmt.Sprint(part, " records")}) {
			t.Fatalf("request %d: %q", i, got)
		}
	}
}

// Rows "rotate order": whoever had its turn is last the next time, so one hot partition does not starve the others.
func TestFetchSessionRotates(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("t", 3, nil)
	c := n.dial()
	for i := range int32(3) {
		for range 3 {
			c.produce("t", i, string(make([]byte, 100)))
		}
	}
	f := n.fetching(topic, 13)
	var order []int32
	at := map[int32]int64{0: 0, 1: 0, 2: 0}
	for range 6 {
		req := kmsg.NewPtrFetchRequest()
		req.MinBytes, req.MaxBytes, req.SessionID, req.SessionEpoch = 1, 200, f.id, f.epoch // one batch, and not two
		rt := kmsg.NewFetchRequestTopic()
		rt.TopicID = topic.ID
		for i, o := range at {
			rp := kmsg.NewFetchRequestTopicPartition()
			rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = i, o, 1<<20
			rt.Partitions = append(rt.Partitions, rp)
		}
		slices.SortFunc(rt.Partitions, func(a, b kmsg.FetchRequestTopicPartition) int { return int(a.Partition - b.Partition) })
		req.Topics = append(req.Topics, rt)
		resp := do[*kmsg.FetchResponse](f.client, 13, req)
		f.id, f.epoch = resp.SessionID, f.epoch+1
		clear(at)
		for _, rt := range resp.Topics {
			for _, p := range rt.Partitions {
				if len(p.RecordBatches) > 0 {
					order = append(order, p.Partition)
					at[p.Partition] = eventlog.RawBatch(p.RecordBatches).Next()
				}
			}
		}
	}
	if want := []int32{0, 1, 2, 0, 1, 2}; !slices.Equal(order, want) {
		t.Fatalf("served in the order %v, want %v", order, want)
	}
}

// Row "cap 1000 slots with eviction".
func TestFetchSessionCache(t *testing.T) {
	now := time.UnixMilli(1e12)
	c := newFetchSessions(3, 100, func() time.Time { return now })
	next := int32(0)
	c.newID = func() int32 { next++; return next }
	set := func(parts int) *fetchSet {
		s := &fetchSet{}
		req := kmsg.NewPtrFetchRequest()
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = "t"
		for i := range parts {
			rt.Partitions = append(rt.Partitions, kmsg.FetchRequestTopicPartition{Partition: int32(i)})
		}
		req.Topics = append(req.Topics, rt)
		s.update(req)
		return s
	}
	add := func(parts int) int32 {
		s := set(parts)
		id := c.add(s)
		c.release(s)
		return id
	}
	use := func(id, epoch int32) bool {
		s, err := c.take(id, epoch, false, "")
		if err == nil {
			c.release(s)
		}
		return err == nil
	}
	a, b, d := add(10), add(5), add(20)
	if a == 0 || b == 0 || d == 0 {
		t.Fatal("refused with room for three")
	}
	if add(90) != 0 {
		t.Fatal("a young session went for a new one")
	}
	now = now.Add(sessionRest + time.Second)
	for _, id := range []int32{a, b, d} {
		if !use(id, 1) {
			t.Fatalf("session %d is gone", id)
		}
	}
	if add(5) != 0 {
		t.Fatal("a session went for one that is not larger")
	}
	e := add(6)
	if e == 0 || use(b, 2) {
		t.Fatal("the smallest session stays although a larger one wants its place")
	}
	now = now.Add(time.Second)
	use(e, 1)
	now = now.Add(sessionRest)
	use(a, 2)
	now = now.Add(time.Second)
	if add(1) == 0 || use(d, 2) || !use(a, 3) {
		t.Fatal("the session that was idle for longest stays, or another went for it")
	}
	if n, _, evicted := c.stats(); n != 3 || evicted != 2 {
		t.Fatalf("%d sessions, %d evicted", n, evicted)
	}
	if c = newFetchSessions(10, 100, c.now); add(60) == 0 || add(60) != 0 {
		t.Fatal("memory is not bounded")
	}
	s := set(30)
	c.add(s)
	s.parts = append(s.parts, set(60).parts...)
	if c.grown(s) {
		t.Fatal("a session grew beyond the bound")
	}
	if _, weight, _ := c.stats(); weight != 60 {
		t.Fatalf("weight %d after a session was closed", weight)
	}
}

// Whatever clients do with sessions: what they keep of the cache's size is right, and the bounds hold.
func TestFetchSessionCacheRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.UnixMilli(1e12)
	c := newFetchSessions(8, 200, func() time.Time { return now })
	c.newID = func() int32 { return rng.Int32N(20) }
	epochs := map[int32]int32{}
	for range 20_000 {
		now = now.Add(time.Duration(rng.IntN(20)) * time.Second)
		id := rng.Int32N(20)
		switch rng.IntN(4) {
		case 0:
			s := &fetchSet{parts: make([]*fetchPart, 1+rng.IntN(60))}
			if id := c.add(s); id != 0 {
				epochs[id] = 1
				c.release(s)
			}
		case 1:
			c.close(id, "")
		default:
			if s, err := c.take(id, epochs[id], false, ""); err == nil {
				epochs[id]++
				s.parts = make([]*fetchPart, 1+rng.IntN(60))
				c.grown(s)
				c.release(s)
			}
		}
		want := 0
		for id, s := range c.byID {
			if want += s.weigh(); s.id != id {
				t.Fatalf("session %d is kept as %d", s.id, id)
			}
		}
		if n, weight, _ := c.stats(); n > 8 || weight > 200 || weight != want {
			t.Fatalf("%d sessions of weight %d, really %d", n, weight, want)
		}
	}
}

// A fetch of many partitions without news costs nothing per partition.
func TestFetchSessionWithoutNewsIsCheap(t *testing.T) {
	if testing.CoverMode() != "" {
		t.Skip("counts allocations")
	}
	allocs := func(parts int32) float64 {
		n := start(t, Options{})
		topic := n.topic("t", parts, nil)
		f := n.fetching(topic, 13)
		set := map[int32]int64{}
		for i := range parts {
			set[i] = 0
		}
		f.ask(set)
		req := kmsg.NewPtrFetchRequest()
		req.SetVersion(13)
		req.MinBytes, req.MaxWaitMillis, req.MaxBytes = 1, 1, 1<<20
		req.SessionID = f.id
		return testing.AllocsPerRun(50, func() {
			req.SessionEpoch = f.epoch
			f.epoch++
			if resp := do[*kmsg.FetchResponse](f.client, 13, req); resp.ErrorCode != 0 || len(resp.Topics) != 0 {
				t.Fatalf("%+v", resp)
			}
		})
	}
	few, many := allocs(1), allocs(1000)
	t.Logf("%v allocations for a fetch over 1 partition, %v over 1000, both sides", few, many)
	if many > few+20 {
		t.Fatalf("%v allocations for a fetch over 1 partition, %v over 1000", few, many)
	}
}
