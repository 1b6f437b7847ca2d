package session

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
)

var testPart = Part{Topic: [16]byte{1, 2, 3}, Index: 5}

// stateRecords is one of each kind.
func stateRecords() []StateRecord {
	k := Key{"tenant", "principal", "client"}
	msg := Message{
		Time: 123456, Payload: []byte("payload"), QoS: 2, Retain: true, Client: "client", Topic: "a/b", Offset: -1,
		Props: &Props{
			HasExpiry: true, Expiry: 60, PayloadFormat: 1, ContentType: "text/plain", ResponseTopic: "r", Correlation: []byte{},
			User: []packet.UserProperty{{Name: "n", Value: "v"}},
		},
	}
	retained := msg
	retained.Offset = 0
	vector := []Position{{testPart, 7}, {Part{[16]byte{9}, 0}, 1 << 40}}
	return []StateRecord{
		{sessionKey(kindSession, k), (&sessionValue{inc: 1<<32 + 5, expiry: never, offline: 99}).append(nil)},
		{subKey(k, "a/+/#"), (&subValue{inc: 3, opts: options{qos: 1, noLocal: true, rap: true, id: 268435455}, start: vector, owes: true, owed: vector[:1]}).append(nil)},
		{sessionKey(kindQueue, k), (&queueValue{
			inc: 3, tag: 17, base: 4, inbound: []inboundValue{{65535, 3, 4, 5}},
			sets: []setValue{{part: testPart, merged: true, runs: []run{{0, 3}, {10, 11}, {1 << 41, 1<<41 + 1}}}},
		}).append(nil)},
		{idKey(kindIn, k, 77), (&inValue{3, 9}).append(nil)},
		{idKey(kindOut, k, 78), (&outValue{inc: 3, released: true, pos: Position{testPart, 42}}).append(nil)},
		{idKey(kindOut, k, 79), (&outValue{inc: 3, pos: Position{testPart, 43}, msg: &msg}).append(nil)},
		{sessionKey(kindWill, k), (&willValue{inc: 3, id: 8, delay: 30, msg: msg}).append(nil)},
		{plainKey(kindBegin), (&checkpointValue{5, vector}).append(nil)},
		{plainKey(kindDone), (&checkpointValue{5, nil}).append(nil)},
		{retainedKey("a/b"), (&retainedValue{Position{testPart, 4}, retained}).append(nil)},
		{plainKey(kindFrontier), (&checkpointValue{0, vector}).append(nil)},
		{subKey(k, "$share/g/a/+"), (&subValue{inc: 3, opts: options{qos: 2}, start: vector, group: 1<<32 + 9}).append(nil)},
		{idKey(kindOut, k, 80), (&outValue{inc: 3, pos: Position{testPart, 44}, group: 1<<32 + 9}).append(nil)},
		{sessionKey(kindGroup, Key{"tenant", "g", "a/+"}), (&queueValue{inc: 1<<32 + 9, tag: 2, sets: []setValue{{part: testPart, runs: []run{{0, 3}}}}}).append(nil)},
	}
}

// recode decodes a value of a kind and encodes it again.
func recode(kd kind, b []byte) ([]byte, error) {
	switch kd {
	case kindSession:
		var v sessionValue
		err := v.decode(b)
		return v.append(nil), err
	case kindSub:
		var v subValue
		err := v.decode(b)
		return v.append(nil), err
	case kindQueue, kindGroup:
		var v queueValue
		err := v.decode(b)
		return v.append(nil), err
	case kindIn:
		var v inValue
		err := v.decode(b)
		return v.append(nil), err
	case kindOut:
		var v outValue
		err := v.decode(b)
		if v.copied {
			v.msg = &Message{}
			r := valueReader(b)
			r.out(&outValue{}, v.msg)
		}
		return v.append(nil), err
	case kindWill:
		var v willValue
		err := v.decode(b)
		return v.append(nil), err
	case kindRetained:
		var v retainedValue
		err := v.decode(b)
		return v.append(nil), err
	}
	var v checkpointValue
	err := v.decode(b)
	return v.append(nil), err
}

func TestStateRecordsRoundTrip(t *testing.T) {
	for _, r := range stateRecords() {
		k, err := decodeKey(r.Key)
		if err != nil {
			t.Fatalf("key %q: %v", r.Key, err)
		}
		again, err := recode(k.kind, r.Value)
		if err != nil || !bytes.Equal(again, r.Value) {
			t.Errorf("%c: %v\n%x\n%x", k.kind, err, r.Value, again)
		}
		for n := range r.Value { // any cut is noticed
			if _, err := recode(k.kind, r.Value[:n]); err == nil {
				t.Errorf("%c cut to %d bytes decodes", k.kind, n)
			}
		}
	}
}

func TestStoredMessage(t *testing.T) {
	for _, r := range stateRecords() {
		m, ok := StoredMessage(33, r)
		k, _ := decodeKey(r.Key)
		if ok != (k.kind == kindRetained || k.id == 79) {
			t.Fatalf("%c: ok %v", k.kind, ok)
		}
		if ok && (m.Topic != "a/b" || m.Offset != 33 || string(m.Payload) != "payload" || !m.Retain || m.Props.Expiry != 60) {
			t.Errorf("%+v", m)
		}
	}
	v := retainedValue{Position{testPart, 4}, Message{Clear: true, Retain: true}}
	if _, ok := StoredMessage(0, StateRecord{retainedKey("x"), v.append(nil)}); ok {
		t.Error("the mark of a removed message is no message")
	}
	if _, ok := StoredMessage(0, StateRecord{retainedKey("x"), nil}); ok {
		t.Error("a tombstone is no message")
	}
}

// FuzzState feeds a core's restore with bytes: nothing may panic, and what decodes must encode to what decodes alike.
func FuzzState(f *testing.F) {
	for _, r := range stateRecords() {
		f.Add(r.Key, r.Value)
	}
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if k, err := decodeKey(key); err == nil {
			if again, err := recode(k.kind, value); err == nil {
				third, err := recode(k.kind, again)
				if err != nil || !bytes.Equal(again, third) {
					t.Fatalf("%x\n%x\n%x %v", value, again, third, err)
				}
			}
		}
		StoredMessage(1, StateRecord{key, value})
		restoreFuzzed(t, StateRecord{key, value})
	})
}

// restoreFuzzed restores from good records with a foreign one among them.
func restoreFuzzed(t *testing.T, foreign StateRecord) {
	w := &world{denied: map[string]bool{}, counts: map[string]int{}}
	w.model = newModel(w)
	for _, retained := range []bool{false, true} {
		st := &simTarget{target: Target{Retained: retained}, part: Part{Topic: [16]byte{0xA0 + byte(len(w.targets))}}}
		for _, r := range append(stateRecords(), foreign) {
			st.append(r)
		}
		w.targets = append(w.targets, st)
	}
	w.parts = []*simPart{{part: testPart, next: 8}}
	w.start()
	for i := 0; i < 1000 && !w.idle(); i++ {
		for _, st := range w.targets {
			if len(st.writes) > 0 {
				wr := st.writes[0]
				st.writes = st.writes[1:]
				w.core.Written(w.now, wr.token, make([]Result, len(wr.recs)))
			}
		}
		w.fed[0] = w.parts[0].next
		w.core.Tail(w.now, &Batch{Part: testPart, Base: 0, Next: 8})
		w.pubs = nil
		w.core.Tick(w.now)
	}
	if !w.core.Ready() && w.fed[0] <= 8 {
		t.Fatal("never ready")
	}
}

func TestMessagesAreNotShared(t *testing.T) {
	r := stateRecords()[6]
	var sv saved
	k, _ := decodeKey(r.Key)
	if err := sv.visit(5, k, r.Value); err != nil {
		t.Fatal(err)
	}
	want := *sv.will
	clear(r.Value)
	if !reflect.DeepEqual(*sv.will, want) || string(sv.will.msg.Payload) != "payload" {
		t.Error("a restored will aliases the bytes of its record")
	}
}
