package route

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

var pasts = []Spec{
	{MQTT: "fleet/{vehicle}/telemetry", Topic: "telemetry", Key: "{vehicle}", Partitions: 8},
	{MQTT: "fleet/{vehicle}/cmd", Topic: "commands", Key: "{vehicle}", Both: true, Partitions: 4},
	{MQTT: "fleet/{vehicle}/can/{rest...}", Topic: "can", Key: "{vehicle}/{rest}", Partitions: 8},
	{MQTT: "site/{a}/{b}/+", Topic: "site", Key: "{b}-{a}", Partitions: 8},
	{MQTT: "fleet/#", Topic: "fleet", Partitions: 2},
	{MQTT: "fixed/{x}", Topic: "fixed", Key: "all", Partitions: 8},
	{MQTT: "live/#", Discard: true},
}

// history is where a filter's history is looked for, as topic/partition.
func (n *node) reaches(filter string) (list []string) {
	at := n.store.places.Load()
	for _, p := range n.store.reach(at, filter) {
		list = append(list, fmt.Sprintf("%s/%d", at.topics[at.byID[p.Topic]].Name, p.Index))
	}
	slices.Sort(list)
	return list
}

// History of one vehicle does not read everybody's.
func TestHistoryIsLookedForWhereItCanBe(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, pasts)
	one := func(name, key string, partitions int32) string {
		return fmt.Sprintf("%s/%d", name, partition([]byte(key), partitions))
	}
	all := func(names ...string) (list []string) {
		for _, name := range names {
			at := n.store.places.Load()
			i := slices.IndexFunc(at.topics, func(t eventlog.Topic) bool { return t.Name == name })
			for p := range at.topics[i].Partitions {
				list = append(list, fmt.Sprintf("%s/%d", name, p))
			}
		}
		return list
	}
	for filter, want := range map[string][]string{
		"fleet/7/telemetry": {one("telemetry", "7", 8)},
		"fleet/+/telemetry": all("telemetry"),
		"fleet/7/cmd":       all("commands"), // a Kafka client chooses the partition
		"fleet/7/can/a/b":   {one("can", "7/a/b", 8)},
		"fleet/7/can/a/#":   all("can"),
		"fleet/7/can":       all("fleet"),
		"fleet/7/+":         append(all("commands", "fleet"), one("telemetry", "7", 8)),
		"fleet/7/#":         append(all("commands", "fleet", "can"), one("telemetry", "7", 8)),
		"site/1/2/+":        {one("site", "2-1", 8)},
		"site/1/+/x":        all("site"),
		"site/1/2/#":        append(all("mqtt"), one("site", "2-1", 8)),
		"fixed/+":           {one("fixed", "all", 8)},
		"live/x":            nil,
		"$SYS/#":            nil,
		"elsewhere":         all("mqtt"),
		"+/7/telemetry":     append(all("fleet", "mqtt"), one("telemetry", "7", 8)), // fleet is more than need be
	} {
		slices.Sort(want)
		if got := n.reaches(filter); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
}

// Whatever a filter matches lies where its history is looked for.
func TestHistoryReachesEveryMessage(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, pasts)
	rng := rand.New(rand.NewPCG(tier.Seed(), 1))
	levels := []string{"fleet", "site", "fixed", "live", "telemetry", "cmd", "can", "7", "8", "", "x"}
	name := func(wild bool) string {
		var b []string
		for range 1 + rng.IntN(5) {
			b = append(b, levels[rng.IntN(len(levels))])
			if wild && rng.IntN(4) == 0 {
				b[len(b)-1] = "+"
			}
		}
		if wild && rng.IntN(3) == 0 {
			b[len(b)-1] = "#"
		}
		if rng.IntN(2) == 0 {
			b[0] = levels[rng.IntN(4)]
		}
		return strings.Join(b, "/")
	}
	matches := 0
	for range tier.N(200_000) {
		filter, of := name(true), name(false)
		if topic.ValidateFilter(filter) != nil || topic.ValidateName([]byte(of)) != nil || !topic.Match(filter, of) {
			continue
		}
		place, ok := n.store.Place(of, "client")
		if !ok || place.Topic == "" {
			continue
		}
		matches++
		at := n.store.places.Load()
		i := slices.IndexFunc(at.topics, func(t eventlog.Topic) bool { return t.Name == place.Topic })
		want := eventlog.Part{Topic: at.topics[i].ID, Index: partition([]byte(place.Key), at.topics[i].Partitions)}
		if !slices.Contains(n.store.reach(at, filter), want) {
			t.Fatalf("a message of %q goes to %s/%d, and the history of %q is looked for in %v", of, place.Topic, want.Index, filter, n.reaches(filter))
		}
	}
	if matches < 100 {
		t.Errorf("only %d topics matched their filter", matches)
	}
}

// On a hostile log: from a time, an offset and the start on, exactly what a filter matches of the log is there to be read, each key's
// in its order; what retention has taken is said to be gone.
func TestHistoryOnAHostileLog(t *testing.T) {
	for seed := range uint64(tier.N(50)) {
		mem := logtest.NewMemory(seed, logtest.Hostile())
		n := open(t, mem, pasts)
		rng := rand.New(rand.NewPCG(seed, 2))
		topics := []string{"fleet/7/telemetry", "fleet/8/telemetry", "fleet/7/cmd", "fleet/7/can/a", "fixed/1", "other"}
		type logged struct {
			session.Position
			topic, payload string
			time           int64
		}
		var all []logged
		perhaps := map[string]bool{} // nobody knows whether those are in the log
		for i := range 60 {
			m := session.Message{Topic: topics[rng.IntN(len(topics))], Payload: fmt.Appendf(nil, "m%d", i), Client: "c"}
			if r := n.publish(m)[0]; r.Err == nil {
				all = append(all, logged{Position: r.Pos, topic: m.Topic, payload: string(m.Payload)})
			} else {
				perhaps[string(m.Payload)] = true
			}
		}
		for i := range all {
			m, err := n.readOne(all[i].Position)
			if err != nil {
				t.Fatal(err)
			}
			all[i].time = m.Time
		}
		for _, filter := range []string{"#", "fleet/#", "fleet/7/telemetry", "fleet/+/cmd", "+/1", "other"} {
			cut := all[rng.IntN(len(all))]
			for name, from := range map[string]session.From{
				"earliest": {Offset: -1}, "time": {Offset: -1, Time: cut.time}, "offset": {Offset: cut.Offset},
			} {
				h := n.store.History(t.Context(), session.HistoryAsk{Filter: filter, From: from})
				if h.Err != nil || h.Lost != 0 {
					t.Fatalf("%+v", h)
				}
				want, got := map[session.Part][]string{}, map[session.Part][]string{}
				for _, l := range all {
					in := name == "earliest" || name == "time" && l.time >= cut.time || name == "offset" && l.Offset >= cut.Offset
					if in && topic.Match(filter, l.topic) {
						want[l.Part] = append(want[l.Part], l.payload)
					}
				}
				_, ends, err := n.store.Data(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for part, at := range h.From {
					for at < ends[part] {
						b, err := n.store.Read(t.Context(), session.Position{Part: part, Offset: at}, 1+rng.IntN(1000))
						if err != nil {
							t.Fatal(err)
						}
						for _, m := range b.Msgs {
							if m.Offset >= at && topic.Match(filter, m.Topic) && !perhaps[string(m.Payload)] {
								got[part] = append(got[part], string(m.Payload))
							}
						}
						at = b.Next
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("seed %d: %s from %s %+v:\ngot  %v\nwant %v", seed, filter, name, from, got, want)
				}
			}
		}
		n.store.Close()
		mem.Close()
	}
}

// What retention has taken is said to be gone where it may have been asked for, and only there.
func TestHistoryTellsWhatIsGone(t *testing.T) {
	mem := logtest.NewMemory(1, logtest.Hostility{})
	defer mem.Close()
	n := open(t, mem, pasts)
	var list []session.Position
	var times []int64
	for range 5 {
		pos := n.publish(session.Message{Topic: "fleet/7/telemetry", Payload: []byte("x")})[0].Pos
		m, err := n.readOne(pos)
		if err != nil {
			t.Fatal(err)
		}
		list, times = append(list, pos), append(times, m.Time)
	}
	ask := func(from session.From) session.History {
		t.Helper()
		h := n.store.History(t.Context(), session.HistoryAsk{Filter: "fleet/7/telemetry", From: from})
		if h.Err != nil {
			t.Fatal(h.Err)
		}
		return h
	}
	part := list[0].Part
	if h := ask(session.From{Offset: -1, Time: 1}); h.Lost != 0 || h.From[part] != list[0].Offset {
		t.Errorf("nothing is gone: %+v", h)
	}
	if err := n.log.Trim(t.Context(), eventlog.Position{Part: logPart(part), Offset: list[2].Offset}); err != nil {
		t.Fatal(err)
	}
	if h := ask(session.From{Offset: 0}); h.Lost != list[2].Offset || h.From[part] != list[2].Offset {
		t.Errorf("by offset: %+v", h)
	}
	if h := ask(session.From{Offset: -1, Time: times[0]}); h.Lost != session.LostUnknown || h.Since != times[2] || h.From[part] != list[2].Offset {
		t.Errorf("by time: %+v, want since %d", h, times[2])
	}
	if h := ask(session.From{Offset: -1, Time: times[3]}); h.Lost != 0 || h.From[part] != list[3].Offset {
		t.Errorf("a time of which all is there: %+v", h)
	}
	if h := ask(session.From{Offset: -1}); h.Lost != 0 || h.From[part] != list[2].Offset {
		t.Errorf("earliest: %+v", h)
	}
	if h := ask(session.From{Offset: -1, Time: times[4] + 1000}); h.Lost != 0 || h.From[part] != list[4].Offset+1 {
		t.Errorf("the future: %+v", h)
	}
	named := func(o ...session.NamedOffset) session.History {
		return n.store.History(t.Context(), session.HistoryAsk{Filter: "#", From: session.From{Offset: -1, Offsets: o}})
	}
	if h := named(session.NamedOffset{Topic: "telemetry", Partition: part.Index, Offset: 1}); h.Err != nil || len(h.From) != 1 || h.From[part] != list[2].Offset || h.Lost != list[2].Offset-1 {
		t.Errorf("named: %+v", h)
	}
	for _, o := range []session.NamedOffset{{Topic: "nowhere"}, {Topic: "telemetry", Partition: 8}, {Topic: "__millrace_sessions"}} {
		if h := named(o); !errors.Is(h.Err, session.ErrNoPlace) {
			t.Errorf("%+v: %+v", o, h)
		}
	}
	if h := named(session.NamedOffset{Topic: "nowhere"}); !strings.Contains(h.Err.Error(), "telemetry") {
		t.Errorf("does not say which there are: %v", h.Err)
	}
}
