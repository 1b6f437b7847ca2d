package engine

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/vfs"
)

func TestConfigDefaultsAreValid(t *testing.T) {
	for name, def := range configDefs {
		if err := def.check(def.value); err != nil {
			t.Errorf("%s=%q: %v", name, def.value, err)
		}
	}
}

func TestConfigs(t *testing.T) {
	e := open(t, small(vfs.NewMem()))
	for _, c := range []struct{ name, bad string }{
		{"retention.ms", "-2"}, {"retention.ms", "soon"}, {"retention.ms", ""}, {"cleanup.policy", "shred"},
		{"segment.bytes", "100"}, {"segment.bytes", "3000000000"}, {"max.message.bytes", "100000000"}, {"max.message.bytes", "-1"},
		{"compression.type", "rar"}, {"message.timestamp.type", "Never"}, {"min.cleanable.dirty.ratio", "1.1"},
		{"min.cleanable.dirty.ratio", "NaN"}, {"preallocate", "maybe"}, {"retention.m", "1"}, {"remote.storage.enable", "true"},
		{"follower.replication.throttled.replicas", strings.Repeat("x", maxConfigBytes)},
		{"retention.ms", strings.Repeat("0", maxConfigBytes) + "5"},
	} {
		_, err := e.CreateTopic(t.Context(), eventlog.TopicSpec{Name: "bad", Config: map[string]string{c.name: c.bad}})
		if !errors.Is(err, eventlog.ErrInvalid) || !strings.Contains(err.Error(), c.name) && len(c.bad) < 100 {
			t.Errorf("%s=%.20q: %v", c.name, c.bad, err)
		}
	}
	if _, ok := e.TopicByName("bad"); ok {
		t.Error("a topic with a bad config was made")
	}
}

func TestConfigsSurvive(t *testing.T) {
	mem := vfs.NewMem()
	o := small(mem)
	o.DefaultRetention = time.Hour
	e := open(t, o)
	createTopic(t, e, "t", 2, map[string]string{"cleanup.policy": "compact,delete", "retention.bytes": "1000000"})
	value, nothing := "3000", (*string)(nil)
	if err := e.ConfigureTopic(t.Context(), "t", map[string]*string{"retention.ms": &value, "retention.bytes": nothing}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []map[string]*string{{"retention.ms": &[]string{"x"}[0]}, {"nonsense": nothing}, {"nonsense": &value}} {
		if err := e.ConfigureTopic(t.Context(), "t", bad); !errors.Is(err, eventlog.ErrInvalid) {
			t.Errorf("configure %v: %v", bad, err)
		}
	}
	if err := e.CreatePartitions("t", 5); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int32{5, 0, maxPartitions + 1} {
		if err := e.CreatePartitions("t", n); !errors.Is(err, eventlog.ErrInvalid) {
			t.Errorf("raise to %d partitions: %v", n, err)
		}
	}
	for range 3 {
		topic, ok := e.TopicByName("t")
		if !ok || topic.Partitions != 5 || len(topic.Config) != 2 || topic.Config["retention.ms"] != "3000" {
			t.Fatalf("%+v", topic)
		}
		entries, err := e.EffectiveConfig("t")
		if err != nil || len(entries) != len(configDefs) {
			t.Fatal(err)
		}
		got := map[string]ConfigEntry{}
		for _, c := range entries {
			got[c.Name] = c
		}
		for _, want := range []ConfigEntry{{"retention.ms", "3000", TopicSet}, {"retention.bytes", "-1", Default},
			{"cleanup.policy", "compact,delete", TopicSet}, {"segment.bytes", "65536", Default}} {
			if got[want.Name] != want {
				t.Errorf("%+v, want %+v", got[want.Name], want)
			}
		}
		mem = mem.Kill()
		e.Close()
		o.FS = mem
		e = open(t, o)
	}
	if _, err := e.EffectiveConfig("none"); !errors.Is(err, eventlog.ErrUnknownTopic) {
		t.Error(err)
	}
}

// TestClusterID: a log keeps its name.
func TestClusterID(t *testing.T) {
	mem := vfs.NewMem()
	e := open(t, small(mem))
	id := e.ClusterID()
	e.Close()
	if again := open(t, small(mem)).ClusterID(); again != id || len(id) != 22 {
		t.Errorf("cluster id %q, was %q", again, id)
	}
	if other := open(t, small(vfs.NewMem())).ClusterID(); other == id {
		t.Error("two logs have one id")
	}
}

func TestOptions(t *testing.T) {
	for what, o := range map[string]Options{
		"no file system": {}, "tiny WAL files": {FS: vfs.NewMem(), WALFileBytes: 1}, "one WAL file": {FS: vfs.NewMem(), WALFiles: 1},
		"too many partitions": {FS: vfs.NewMem(), DefaultPartitions: maxPartitions + 1},
	} {
		if _, err := Open(o); !errors.Is(err, eventlog.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
