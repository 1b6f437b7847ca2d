package route

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// onlyGood takes payloads that begin with "good".
type onlyGood struct{}

func (onlyGood) Validate(p []byte) error {
	if bytes.HasPrefix(p, []byte("good")) {
		return nil
	}
	return fmt.Errorf("%q is not good\x00\n", p[:min(len(p), 20)])
}

func examined() []Spec {
	return []Spec{
		{MQTT: "warn/{v}", Topic: "warn", Key: "{v}", Partitions: 2, Payloads: onlyGood{}, Invalid: Warn},
		{MQTT: "dlq/{v}", Topic: "dlq", Key: "{v}", Partitions: 4, Payloads: onlyGood{}, Invalid: DeadLetter, Compression: eventlog.Zstd},
		{MQTT: "reject/{v}", Topic: "reject", Key: "{v}", Partitions: 2, Payloads: onlyGood{}, Invalid: Refuse},
		{MQTT: "live/{v}", Discard: true, Payloads: onlyGood{}, Invalid: Refuse},
	}
}

// What becomes of a wrong payload is as its route says; what is right is never touched, whatever comes beside it in one call.
func TestWrongPayloads(t *testing.T) {
	n := open(t, logtest.NewMemory(3, logtest.Hostility{}), examined())
	tail := n.follow()
	msg := func(topic, payload string) session.Message {
		return session.Message{Topic: topic, Payload: []byte(payload), QoS: 1, Client: "c", Props: &session.Props{User: []packet.UserProperty{{Name: "u", Value: "v"}}}}
	}
	clear := session.Message{Topic: "reject/a", Retain: true, QoS: 1, Client: "c"}
	rs := n.publish(msg("warn/a", "good"), msg("warn/a", "bad"), msg("dlq/a", "good"), msg("dlq/a", "bad"), msg("reject/a", "good"), msg("reject/a", "bad"),
		msg("live/a", "bad"), msg("live/a", "good"), msg("dlq/a", "good again"), clear, msg("other", "bad"))
	for i, r := range rs {
		var refused *packet.Error
		wrong := i == 5 || i == 6
		if errors.As(r.Err, &refused) != wrong || wrong && (refused.Code != packet.PayloadFormatInvalid || !strings.HasPrefix(refused.Text, `the payload is not of the schema: "bad" is not good??`)) {
			t.Errorf("message %d: %v", i, r.Err)
		}
	}
	var got []string
	for _, m := range n.until(tail, session.Vector{}, count(7)) {
		got = append(got, m.Topic+" "+string(m.Payload))
	}
	slices.Sort(got)
	if want := []string{"dlq/a good", "dlq/a good again", "other bad", "reject/a ", "reject/a good", "warn/a bad", "warn/a good"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	letters := deadLettersOf(n, "dlq")
	if len(letters) != 1 {
		t.Fatalf("%d dead letters", len(letters))
	}
	l := letters[0]
	if string(l.Value) != "bad" || string(l.Key) != "a" || headerOf(l, hDeadReason) != `"bad" is not good??` || headerOf(l, hDeadTopic) != "dlq" ||
		headerOf(l, hTopic) != "dlq/a" || headerOf(l, hClient) != "c" || headerOf(l, "u") != "v" || headerOf(l, hQoS) != "1" {
		t.Errorf("%+v", l)
	}
	if pos := rs[3].Pos; pos.Offset != l.Offset || pos == (session.Position{}) {
		t.Errorf("the dead letter is acknowledged at %v, and is at %d", pos, l.Offset)
	}
	st := n.store.Stats()
	if st.Invalid["warned"] != 1 || st.Invalid["dead_lettered"] != 1 || st.Invalid["refused"] != 2 || st.Refused["invalid_payload"] != 2 || st.Appended != 7 {
		t.Errorf("%+v", st)
	}
}

// The dead letter of a message is there when its publisher is answered, on a log that refuses and forgets, too.
func TestWrongPayloadsOnAHostileLog(t *testing.T) {
	n := open(t, logtest.NewMemory(11, logtest.Hostile()), examined())
	acknowledged := map[string]bool{}
	for i := range 100 {
		payload := fmt.Sprintf("bad %d", i)
		for _, r := range n.publish(session.Message{Topic: fmt.Sprintf("dlq/%d", i%7), Payload: []byte(payload), QoS: 1, Client: "c"}) {
			if r.Err == nil {
				acknowledged[payload] = true
			}
		}
	}
	if len(acknowledged) < 50 {
		t.Fatalf("only %d are acknowledged", len(acknowledged))
	}
	for _, l := range deadLettersOf(n, "dlq") {
		delete(acknowledged, string(l.Value))
	}
	if len(acknowledged) > 0 {
		t.Errorf("acknowledged, and nowhere: %v", acknowledged)
	}
	if got := n.store.Stats().Invalid["dead_lettered"]; got < 50 {
		t.Errorf("%d are counted", got)
	}
}

// A dead-letter topic that somebody deletes is made again; what was to go there meanwhile is not acknowledged.
func TestDeadLetterTopicComesBack(t *testing.T) {
	n := open(t, logtest.NewMemory(5, logtest.Hostility{}), examined())
	bad := session.Message{Topic: "dlq/a", Payload: []byte("bad"), QoS: 1, Client: "c"}
	if rs := n.publish(bad); rs[0].Err != nil {
		t.Fatal(rs[0].Err)
	}
	if err := n.log.DeleteTopic(t.Context(), "dlq.dlq"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		rs := n.publish(bad)
		if rs[0].Err == nil {
			break
		}
		if !errors.Is(rs[0].Err, session.ErrUnknown) || time.Now().After(deadline) {
			t.Fatal(rs[0].Err)
		}
	}
	if letters := deadLettersOf(n, "dlq"); len(letters) != 1 {
		t.Errorf("%d dead letters in the new topic", len(letters))
	}
}

// Refused and dead-lettered messages are counted with their reasons, beside those that are logged.
func TestWrongPayloadsAreMetered(t *testing.T) {
	log := eventlog.New(logtest.NewMemory(9, logtest.Hostility{}))
	t.Cleanup(func() { log.Close() })
	now := int64(1_000_000)
	m, err := meter.Open(t.Context(), meter.Options{Log: log, Run: 1, Now: func() int64 { return now }})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{Log: log, Routes: examined(), Now: func() int64 { return now }, Meter: m})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	n := &node{T: t, log: log, store: s}
	for _, p := range []string{"good", "bad", "good", "bad", "bad"} {
		n.publish(session.Message{Topic: "dlq/a", Payload: []byte(p), QoS: 1, Client: "c"}, session.Message{Topic: "reject/a", Payload: []byte(p), QoS: 1, Client: "c"})
	}
	if err := m.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := meter.NewReader(t.Context(), log, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for f, err := r.Next(t.Context()); f != nil || err != nil; f, err = r.Next(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range f.Rows {
			for _, c := range row.Counts {
				got[row.Topic+" "+c.Name] += c.N
			}
		}
	}
	for name, want := range map[string]uint64{"dlq published": 2, "dlq logged": 2, "dlq refused:dead_lettered": 3, "reject published": 2, "reject refused:invalid_payload": 3} {
		if got[name] != want {
			t.Errorf("%s: %d, want %d (%v)", name, got[name], want, got)
		}
	}
}
