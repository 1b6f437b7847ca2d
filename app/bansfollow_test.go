package app

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// TestBansOfOtherNodes: of two nodes on one cluster either hears of the bans that the other makes and lifts, at once; what both say of the same client ends with
// both of one mind; and a node that comes later reads it.
func TestBansOfOtherNodes(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	another := func() *Node {
		c := testConfig(t, "log: {kafka: ["+strings.Join(cluster.ListenAddrs(), ", ")+"]}\n")
		c.Log.Data = ""
		log, _ := testLogger(t)
		n, err := Start(t.Context(), Options{Config: c, Version: "test", Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { quickly(n) }) // they take the sessions from each other, and one of them goes without
		return n
	}
	banned := func(n *Node, client string) bool {
		for _, x := range n.broker.Bans() {
			if x.Client == client {
				return true
			}
		}
		return false
	}
	a, b := another(), another()
	if err := a.broker.Ban(broker.Ban{Client: "thief", Reason: "stolen"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other node knows", func() bool { return banned(b, "thief") })
	c := sim.NewClient(sim.ClientOptions{Dial: sim.DialTCP(b.Address("MQTT")), Connect: packet.Connect{Version: packet.V5, CleanStart: true, ClientID: "thief"}})
	var refused *sim.Refused
	if _, err := c.Connect(t.Context()); !errors.As(err, &refused) || refused.Code != packet.Banned {
		t.Errorf("at the other node: %v", err)
	}
	b.broker.Unban(broker.Ban{Client: "thief"})
	eventually(t, "the first node knows that it is lifted", func() bool { return !banned(a, "thief") })

	for i := range 20 {
		x, y := a, b
		if i%2 == 0 {
			x, y = b, a
		}
		if err := x.broker.Ban(broker.Ban{Client: "both", Reason: "again"}); err != nil {
			t.Fatal(err)
		}
		y.broker.Unban(broker.Ban{Client: "both"})
	}
	for _, n := range []*Node{a, b} {
		if err := n.broker.Ban(broker.Ban{Client: "last"}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both are of one mind", func() bool {
		return banned(a, "last") && banned(b, "last") && banned(a, "both") == banned(b, "both") && a.bans.quiet() && b.bans.quiet()
	})
	if last := another(); banned(last, "both") != banned(a, "both") || !banned(last, "last") {
		t.Errorf("a node that comes later has %+v, the first %+v", last.broker.Bans(), a.broker.Bans())
	}
}

// quiet tells whether all that we have said has its place in the log, and has been heard from there.
func (b *banBook) quiet() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending) == 0 && len(b.wrote) == 0
}

// TestBanLiftedMeanwhile: who lifts a ban here while a record of another node is being taken over has the last word here too, as in the log.
func TestBanLiftedMeanwhile(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	log := eventlog.New(mem)
	topic, err := log.CreateTopic(t.Context(), eventlog.TopicSpec{Name: bansTopic, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	book := &banBook{log: log, part: eventlog.Part{Topic: topic.ID}, now: func() int64 { return time.Now().UnixMilli() }, follows: true,
		pending: map[banKey]banWord{}, wrote: map[banKey]int64{}, wake: make(chan struct{}, 1)}
	book.settled.L = &book.mu
	b := broker.New(broker.Options{OnBan: book.told})
	f := &banFollower{book: book, broker: b, said: func(err error) { t.Error(err) }}
	x := broker.Ban{Client: "x"}
	k := keyOf(&x)
	if err := b.Ban(x); err != nil {
		t.Fatal(err)
	}
	if err := book.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	hear := func(offset int64, x *broker.Ban) {
		key, value, _ := encodeBan(k, banWord{ban: x})
		f.hear(&eventlog.Record{Offset: offset, Key: key, Value: value})
	}
	hear(0, &x)

	var bl eventlog.Builder
	key, value, _ := encodeBan(k, banWord{ban: &x})
	bl.Add(book.now(), key, value, nil)
	batch, _, err := bl.Batch(book.part, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	if o, err := log.AppendWait(t.Context(), batch); err != nil || o.Base != 1 {
		t.Fatal(o, err)
	}
	if !book.wants(k, 1) { // the follower is in the middle of it
		t.Fatal("another node's record is not wanted")
	}
	b.Unban(x)
	if err := book.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.HearBan(x); err != nil {
		t.Fatal(err)
	}
	hear(2, nil)
	if n := len(b.Bans()); n != 0 || !book.quiet() {
		t.Errorf("%d bans here, and none in the log", n)
	}
}

// TestBanLiftedBeforeItIsRepeated: who lifts a ban here between that it was found in force and that it is written again has the last word, written yet or not.
func TestBanLiftedBeforeItIsRepeated(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	log := eventlog.New(mem)
	topic, err := log.CreateTopic(t.Context(), eventlog.TopicSpec{Name: bansTopic, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	book := &banBook{log: log, part: eventlog.Part{Topic: topic.ID}, now: func() int64 { return time.Now().UnixMilli() }, follows: true,
		pending: map[banKey]banWord{}, wrote: map[banKey]int64{}, wake: make(chan struct{}, 1)}
	book.settled.L = &book.mu
	b := broker.New(broker.Options{OnBan: book.told})
	x := broker.Ban{Client: "x"}
	k := keyOf(&x)
	if err := b.HearBan(x); err != nil {
		t.Fatal(err)
	}
	book.repeat(k, x)
	if w, waits := book.pending[k]; !waits || w.ban == nil || len(book.order) != 1 {
		t.Fatalf("with nothing said since, %+v is to be written", book.pending)
	}
	now, banned := b.BanOf(x)
	if !banned || !b.Unban(x) {
		t.Fatal("not banned")
	}
	book.repeat(k, now)
	if w, waits := book.pending[k]; !waits || w.ban != nil {
		t.Errorf("of a ban that was lifted here %+v is to be written", w)
	}
	if err := book.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	book.repeat(k, now)
	if len(book.pending) != 0 || len(book.order) != 0 {
		t.Errorf("of a ban whose end is written %+v is to be written", book.pending)
	}
}

// TestBanRunsOut: that a ban has run out is not written where other nodes write too: it would lift what they have said of the same client meanwhile.
// That it was lifted is.
func TestBanRunsOut(t *testing.T) {
	for _, others := range []bool{false, true} {
		now := time.UnixMilli(1_000_000)
		book := &banBook{follows: others, now: func() int64 { return now.UnixMilli() }, pending: map[banKey]banWord{}, wake: make(chan struct{}, 1)}
		book.told(broker.Ban{Client: "over", Until: now}, false)
		book.told(broker.Ban{Client: "lifted", Until: now.Add(time.Hour)}, false)
		_, over := book.pending[banKey{Client: "over"}]
		_, lifted := book.pending[banKey{Client: "lifted"}]
		if over == others || !lifted {
			t.Errorf("others %v: pending are %v", others, book.pending)
		}
	}
}

// TestBanMadeAgainAsItIsWrittenOff: a node that starts writes off a ban that is over, while another node makes it again: the new one stays, on both, and for who
// reads the topic later, however much of that has come about.
func TestBanMadeAgainAsItIsWrittenOff(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	log := eventlog.New(mem)
	topic, err := log.CreateTopic(t.Context(), eventlog.TopicSpec{Name: bansTopic, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	type side struct {
		*banBook
		*banFollower
		*broker.Broker
		tail eventlog.Tail
	}
	another := func() *side {
		book := &banBook{log: log, part: eventlog.Part{Topic: topic.ID}, now: func() int64 { return now.UnixMilli() }, follows: true,
			pending: map[banKey]banWord{}, wrote: map[banKey]int64{}, wake: make(chan struct{}, 1)}
		book.settled.L = &book.mu
		if err := book.read(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := broker.New(broker.Options{OnBan: book.told, Bans: book.bans, Now: func() time.Time { return now }})
		tail, err := log.Tail(eventlog.Vector{book.part: book.next})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tail.Close)
		return &side{book, &banFollower{book: book, broker: b, said: func(err error) { t.Error(err) }}, b, tail}
	}
	say := func(s *side) {
		t.Helper()
		if err := s.write(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(s *side) {
		t.Helper()
		ends, err := log.Ends(t.Context(), topic.ID)
		if err != nil {
			t.Fatal(err)
		}
		for s.next < ends[0] {
			batches, next, err := log.Read(t.Context(), eventlog.Position{Part: s.part, Offset: s.next}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range batches {
				if err := b.Each(func(r *eventlog.Record) error { s.hear(r); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			s.next = next
		}
	}
	is := func(when string, want bool, of ...*side) {
		t.Helper()
		for i, s := range of {
			if _, banned := s.BanOf(broker.Ban{Client: "x"}); banned != want {
				t.Errorf("%s: node %d: banned is %v", when, i, banned)
			}
		}
	}
	a := another()
	if err := a.Ban(broker.Ban{Client: "x", Until: now.Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
	say(a)
	hear(a)
	now = now.Add(time.Hour)
	b := another() // finds that it is over
	is("it is over", false, a, b)
	if err := a.Ban(broker.Ban{Client: "x", Reason: "again"}); err != nil {
		t.Fatal(err)
	}
	say(a)
	say(b)
	is("who comes before anybody has heard", true, another())
	hear(b)
	hear(a)
	is("all have heard", true, a, b)
	say(a)
	say(b)
	hear(a)
	hear(b)
	is("it is written again", true, a, b, another())
	if !a.quiet() || !b.quiet() {
		t.Error("there is more to say")
	}
	key, last := banKey{Client: "x"}, banWord{}
	all, _, err := log.Read(t.Context(), eventlog.Position{Part: a.part}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, batch := range all {
		if err := batch.Each(func(r *eventlog.Record) error {
			if k, w, ok := decodeBan(r); ok && k == key {
				last = w
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if last.ban == nil {
		t.Error("its last record says that it is over: compaction would leave nothing else")
	}
	a.Unban(broker.Ban{Client: "x"})
	say(a)
	hear(b)
	is("it is lifted", false, a, b, another())
}
