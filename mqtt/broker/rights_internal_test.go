package broker

import (
	"fmt"
	"testing"

	"github.com/millrace-io/millrace/mqtt/session"
)

// everything allows everything, and counts the questions.
type everything struct{ asked int }

func (e *everything) Allowed(session.Key, Action, string) bool {
	e.asked++
	return true
}

func publisher() (*conn, *everything) {
	a := &everything{}
	return &conn{b: &Broker{o: Options{Authorizer: a}}}, a
}

// What a connection remembers of its rights is bounded, whatever it publishes to; to remember allocates nothing once there is room, and
// few topics find places of their own.
func TestRightsAreBounded(t *testing.T) {
	c, _ := publisher()
	topics := make([]string, 5000)
	for i := range topics {
		topics[i] = fmt.Sprintf("gateway/%04d/telemetry", i)
		c.mayPublish(topics[i])
	}
	if len(c.rights) > manyRights {
		t.Errorf("%d topics are remembered", len(c.rights))
	}
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		c.mayPublish(topics[i%len(topics)])
		i++
	}); n != 0 {
		t.Errorf("%v allocations for a publish", n)
	}
	c, a := publisher()
	for range 100 {
		for _, topic := range topics[:8] {
			c.mayPublish(topic)
		}
	}
	before := a.asked
	for _, topic := range topics[:8] {
		c.mayPublish(topic)
	}
	if asked := a.asked - before; asked > 4 {
		t.Errorf("of eight topics in turn %d are asked for each time", asked)
	}
	c.b.PolicyChanged()
	before = a.asked
	c.mayPublish(topics[0])
	if a.asked == before {
		t.Error("a change of policy changes nothing")
	}
}

func BenchmarkMayPublish(b *testing.B) {
	c, _ := publisher()
	b.ReportAllocs()
	for b.Loop() {
		c.mayPublish("fleet/truck-500/engine/temperature")
	}
}
