package route

import (
	"testing"

	"github.com/millrace-io/millrace/eventlog/logtest"
)

func TestPlaceTellsWhatAppendDoes(t *testing.T) {
	n := open(t, logtest.NewMemory(1, logtest.Hostility{}), fleet)
	for _, c := range []struct {
		topic string
		want  Place
		ok    bool
	}{
		{"fleet/7/telemetry", Place{0, "telemetry", "7"}, true},
		{"fleet//telemetry", Place{0, "telemetry", ""}, true},
		{"fleet/7/cmd", Place{1, "commands", "7"}, true},
		{"live/a", Place{3, "", "bob"}, true},
		{"else/where", Place{-1, CatchAllTopic, "bob"}, true},
		{"$SYS/uptime", Place{}, false},
		{"a/+", Place{}, false},
	} {
		for range 2 { // found out, and remembered
			if p, ok := n.store.Place(c.topic, "bob"); p != c.want || ok != c.ok {
				t.Errorf("Place(%q) = %+v, %v, want %+v, %v", c.topic, p, ok, c.want, c.ok)
			}
		}
	}
	if a := testing.AllocsPerRun(100, func() { n.store.Place("fleet/7/telemetry", "bob") }); a > 0 {
		t.Errorf("a topic that is known costs %v allocations", a)
	}
}
