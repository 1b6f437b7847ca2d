package route

import (
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// Whatever a Kafka client writes, its record becomes a message that MQTT may carry, on a topic of its own route, or an error.
func FuzzForeignRecord(f *testing.F) {
	for _, key := range []string{"7", "a/b", "", "+", "#", "$x", "a\x00b", "\xff", "v-7/n-8!", strings.Repeat("x", 300)} {
		f.Add([]byte(key), []byte("value"), "name", []byte("text"), true)
	}
	f.Add([]byte("7"), []byte(nil), "mqtt.topic", []byte("fleet/8/cmd"), false)
	table, err := Compile([]Spec{
		{MQTT: "fleet/{vehicle}/cmd", Topic: "commands", Key: "{vehicle}", Both: true},
		{MQTT: "all/{all...}", Topic: "all", Key: "{all}", Both: true, Compact: true},
		{MQTT: "x/{a}/{b}", Topic: "x", Key: "v-{b}/n-{a}!", Both: true},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key, value []byte, name string, text []byte, noValue bool) {
		r := eventlog.Record{Key: key, Value: value, Headers: []eventlog.Header{{Key: name, Value: text}}}
		if noValue {
			r.Value = nil
		}
		for _, plan := range table.topics {
			var m session.Message
			if plan.reverse == nil { // the catch-all: its records of Kafka clients never get here
				continue
			}
			if decodeForeign(&r, plan, &m) != nil {
				continue
			}
			if topic.ValidateName([]byte(m.Topic)) != nil || strings.HasPrefix(m.Topic, "$") || !plan.reverse.pattern.match(m.Topic) {
				t.Fatalf("key %q became the topic %q of %v", key, m.Topic, plan.reverse)
			}
			if got := plan.reverse.key.render(plan.reverse.pattern.bind(m.Topic)); got != string(key) {
				t.Fatalf("key %q became the topic %q, whose key is %q", key, m.Topic, got)
			}
			if m.Client != "" || m.Will != 0 || m.QoS2 != (session.Triple{}) || m.Retain != (r.Value == nil) {
				t.Fatalf("a foreign record claims to be ours: %+v", m)
			}
			if m.Props != nil && (reserved(name) || m.Props.User[0].Name != name || !mqttString([]byte(m.Props.User[0].Value))) {
				t.Fatalf("user properties %+v", m.Props.User)
			}
		}
	})
}

// Bytes that say they are ours are decoded or refused, and what is decoded is encoded to the same message.
func FuzzOwnRecord(f *testing.F) {
	f.Add([]byte("v"), hQoS, []byte("1"), hQoS2, []byte("12345678901234"))
	f.Add([]byte(nil), hExpiry, []byte("99999999999"), hWill, []byte("1"))
	f.Add([]byte{}, hRetain, []byte("1"), "user", []byte("x"))
	f.Add([]byte("v"), hCorrelation, []byte{}, hPayloadFormat, []byte("1"))
	f.Add([]byte("v"), hContentType, []byte("a/b"), hResponseTopic, []byte("r"))
	f.Fuzz(func(t *testing.T, value []byte, name1 string, value1 []byte, name2 string, value2 []byte) {
		r := eventlog.Record{Value: value, Headers: []eventlog.Header{{Key: hTopic, Value: []byte("a/b")}, {Key: name1, Value: value1}, {Key: name2, Value: value2}}}
		var m, again session.Message
		if decode(&r, &m) != nil {
			return
		}
		var e encoder
		r2 := eventlog.Record{Value: m.Payload, Headers: e.list(m.Topic, &m)}
		if err := decode(&r2, &again); err != nil {
			t.Fatalf("%+v is encoded to what cannot be decoded: %v", m, err)
		}
		if a, b := normal(m), normal(again); !sameMessage(a, b) {
			t.Fatalf("\n got %+v %+v\nwant %+v %+v", b, b.Props, a, a.Props)
		}
	})
}

func sameMessage(a, b session.Message) bool {
	pa, pb := a.Props, b.Props
	if pa == nil {
		pa = &session.Props{}
	}
	if pb == nil {
		pb = &session.Props{}
	}
	same := pa.HasExpiry == pb.HasExpiry && pa.Expiry == pb.Expiry && pa.PayloadFormat == pb.PayloadFormat && pa.ContentType == pb.ContentType &&
		pa.ResponseTopic == pb.ResponseTopic && string(pa.Correlation) == string(pb.Correlation) && len(pa.User) == len(pb.User)
	for i := range pa.User {
		same = same && pa.User[i] == pb.User[i]
	}
	return same && a.Topic == b.Topic && string(a.Payload) == string(b.Payload) && a.QoS == b.QoS && a.Retain == b.Retain && a.Clear == b.Clear &&
		a.Client == b.Client && a.QoS2 == b.QoS2 && a.Will == b.Will
}

// Whatever is written as a route compiles or is refused, and what runs both ways tells topics by keys.
func FuzzRoute(f *testing.F) {
	for _, s := range []string{"fleet/{v}/cmd", "a/+/#", "{r...}", "a/{b}/{c...}", "a{", "$x", "a//b", "+", "/"} {
		f.Add(s, "{v}", "fleet/7/cmd")
		f.Add(s, "{c}/{b}", "a/b/c/d")
		f.Add(s, "", s)
	}
	f.Fuzz(func(t *testing.T, filter, key, name string) {
		table, err := Compile([]Spec{{MQTT: filter, Topic: "t", Key: key, Both: true}})
		if err != nil || topic.ValidateName([]byte(name)) != nil || strings.HasPrefix(name, "$") {
			return
		}
		r := table.find(name)
		if r == nil {
			t.Fatalf("no route takes %q", name)
		}
		if !r.Both || strings.ContainsFunc(name, func(c rune) bool { return c < 0x20 || c >= 0x7f && c < 0xa0 }) {
			return
		}
		if back, err := r.topicOf([]byte(r.key.render(r.pattern.bind(name)))); err != nil || back != name {
			t.Fatalf("%v, key %q: topic %q comes back as %q, %v", r, key, name, back, err)
		}
	})
}
