package logtest

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

var topicTests = []test{
	{"TopicCreate", testTopicCreate},
	{"TopicCreateRefused", testTopicCreateRefused},
	{"TopicUnknownConfig", testTopicUnknownConfig},
	{"TopicConfigure", testTopicConfigure},
	{"TopicDelete", testTopicDelete},
	{"TopicRecreate", testTopicRecreate},
}

func find(b *bench, name string) (eventlog.Topic, bool) {
	b.Helper()
	all, err := b.d.Topics(b.ctx)
	if err != nil {
		b.Fatalf("topics: %v", err)
	}
	i := slices.IndexFunc(all, func(t eventlog.Topic) bool { return t.Name == name })
	if i < 0 {
		return eventlog.Topic{}, false
	}
	return all[i], true
}

func sameTopic(a, b eventlog.Topic) bool {
	return a.Name == b.Name && a.ID == b.ID && a.Partitions == b.Partitions && maps.Equal(a.Config, b.Config)
}

func testTopicCreate(t testing.TB, e *Env) {
	b := newBench(t, e)
	config := map[string]string{"retention.ms": "86400000", "cleanup.policy": "compact"}
	made := b.create("made.to_order-1", 3, config)
	if made.Name != "made.to_order-1" || made.ID == (eventlog.TopicID{}) || made.Partitions != 3 || !maps.Equal(made.Config, config) {
		t.Errorf("created %+v", made)
	}
	if got, ok := find(b, made.Name); !ok || !sameTopic(got, made) {
		t.Errorf("listed as %+v, created as %+v", got, made)
	}
	byDefault := b.create("default", 0, nil)
	if byDefault.Partitions < 1 || len(byDefault.Config) != 0 || byDefault.ID == made.ID {
		t.Errorf("created with defaults: %+v", byDefault)
	}
	internal := b.create(eventlog.InternalPrefix+"conformance", 1, nil)
	if _, ok := find(b, internal.Name); !ok {
		t.Errorf("topic %q is not listed", internal.Name)
	}
	for _, offs := range [][]int64{b.starts(b.d), b.ends(b.d)} {
		if slices.Max(offs) != 0 {
			t.Errorf("a new topic's offsets: %v", offs)
		}
	}
}

func testTopicCreateRefused(t testing.TB, e *Env) {
	b := newBench(t, e)
	got, err := b.d.CreateTopic(b.ctx, eventlog.TopicSpec{Name: b.topic.Name, Partitions: 9, Config: map[string]string{"retention.ms": "1000"}})
	wantErr(t, "create an existing topic", err, eventlog.ErrTopicExists)
	if !sameTopic(got, b.topic) {
		t.Errorf("the existing topic comes back as %+v, was %+v", got, b.topic)
	}
	if now, _ := find(b, b.topic.Name); !sameTopic(now, b.topic) {
		t.Errorf("the existing topic is now %+v, was %+v", now, b.topic)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "é", strings.Repeat("x", 250)} {
		_, err := b.d.CreateTopic(b.ctx, eventlog.TopicSpec{Name: name, Partitions: 1})
		wantErr(t, "create topic "+name, err, eventlog.ErrInvalid)
	}
	_, err = b.d.CreateTopic(b.ctx, eventlog.TopicSpec{Name: "odd", Partitions: -3})
	wantErr(t, "create with -3 partitions", err, eventlog.ErrInvalid)
	if _, ok := find(b, "odd"); ok {
		t.Error("a refused topic is there")
	}
}

func testTopicConfigure(t testing.TB, e *Env) {
	b := newBench(t, e)
	value := func(s string) *string { return &s }
	steps := []struct {
		set  map[string]*string
		want map[string]string
	}{
		{map[string]*string{"retention.ms": value("60000"), "cleanup.policy": value("compact")}, map[string]string{"retention.ms": "60000", "cleanup.policy": "compact"}},
		{map[string]*string{"retention.ms": value("70000")}, map[string]string{"retention.ms": "70000", "cleanup.policy": "compact"}},
		{map[string]*string{"cleanup.policy": nil, "segment.bytes": nil}, map[string]string{"retention.ms": "70000"}},
	}
	for i, s := range steps {
		if err := b.d.ConfigureTopic(b.ctx, b.topic.Name, s.set); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		got, _ := find(b, b.topic.Name)
		if !maps.Equal(got.Config, s.want) || got.ID != b.topic.ID {
			t.Errorf("step %d: configured as %+v, want %v", i, got, s.want)
		}
	}
	err := b.d.ConfigureTopic(b.ctx, "no-such-topic", map[string]*string{"retention.ms": value("60000")})
	wantErr(t, "configure an unknown topic", err, eventlog.ErrUnknownTopic)
}

// testTopicUnknownConfig: a config that the log does not know is refused, and nothing of the request happens.
func testTopicUnknownConfig(t testing.TB, e *Env) {
	b := newBench(t, e)
	_, err := b.d.CreateTopic(b.ctx, eventlog.TopicSpec{Name: "odd", Config: map[string]string{"no.such.config": "1"}})
	wantErr(t, "create with an unknown config", err, eventlog.ErrInvalid)
	if _, ok := find(b, "odd"); ok {
		t.Error("a refused topic is there")
	}
	value := "100000"
	err = b.d.ConfigureTopic(b.ctx, b.topic.Name, map[string]*string{"segment.ms": &value, "no.such.config": &value})
	wantErr(t, "set an unknown config", err, eventlog.ErrInvalid)
	if got, _ := find(b, b.topic.Name); len(got.Config) != 0 {
		t.Errorf("a refused change left %v", got.Config)
	}
}

func testTopicDelete(t testing.TB, e *Env) {
	b := newBench(t, e)
	p := b.part(0)
	b.put(b.d, p, "s", 5)
	if err := b.d.DeleteTopic(b.ctx, b.topic.Name); err != nil {
		t.Fatal(err)
	}
	if _, ok := find(b, b.topic.Name); ok {
		t.Error("a deleted topic is listed")
	}
	wantGone(b, p)
	wantErr(t, "delete an unknown topic", b.d.DeleteTopic(b.ctx, b.topic.Name), eventlog.ErrUnknownTopic)
}

// wantGone says that nothing works on a partition of a topic that is no more.
func wantGone(b *bench, p eventlog.Part) {
	b.Helper()
	_, err := b.d.Ends(b.ctx, p.Topic)
	wantErr(b, "ends", err, eventlog.ErrUnknownTopic)
	_, err = b.d.Starts(b.ctx, p.Topic)
	wantErr(b, "starts", err, eventlog.ErrUnknownTopic)
	_, _, err = b.d.Read(b.ctx, eventlog.Position{Part: p}, 1000)
	wantErr(b, "read", err, eventlog.ErrUnknownTopic)
	_, err = b.d.OffsetByTime(b.ctx, p, 0)
	wantErr(b, "offset by time", err, eventlog.ErrUnknownTopic)
	wantErr(b, "trim", b.d.Trim(b.ctx, eventlog.Position{Part: p}), eventlog.ErrUnknownTopic)
	_, err = b.d.Claim(b.ctx, p)
	wantErr(b, "claim", err, eventlog.ErrUnknownTopic)
	o := answer(b, b.d, newBatch(b, p, eventlog.None, eventlog.Record{Value: []byte("to nowhere")}))
	wantErr(b, "append", o.At(0).Err, eventlog.ErrUnknownTopic)
	if errors.Is(o.At(0).Err, eventlog.ErrUnknownOutcome) {
		b.Errorf("append to nowhere: %v, want it refused", o.At(0).Err)
	}
}

func testTopicRecreate(t testing.TB, e *Env) {
	b := newBench(t, e)
	old := b.topic
	b.put(b.d, b.part(0), "old", 5)
	if err := b.d.DeleteTopic(b.ctx, old.Name); err != nil {
		t.Fatal(err)
	}
	b.topic = b.create(old.Name, 2, nil)
	if b.topic.ID == old.ID {
		t.Fatalf("a topic created again has its old id %v", old.ID)
	}
	wantGone(b, eventlog.Part{Topic: old.ID})
	b.put(b.d, b.part(0), "new", 5)
	b.settled(b.d, b.part(0))
	b.check(b.d, b.part(0))
}
