package verify_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/sim"
	"github.com/millrace-io/millrace/verify"
)

// A node that is killed leaves seconds uncounted: that is said, and is no loss. What is missing elsewhere is still named.
func TestAKilledNode(t *testing.T) {
	w := newWorld(t)
	w.drive(1, 30)
	w.flush()
	w.drive(31, 35)
	w.kill()
	r := w.atRest()
	w.want(r, true, verify.Killed)
	ever := w.atRest(func(_ *verify.Options, q *verify.Request) { q.From, q.To = time.Unix(0, 0), time.UnixMilli(1<<62) })
	if ever.Records != r.Records || ever.Complete != r.Complete {
		t.Errorf("from the beginning to the end of time: %s", ever)
	}
	if f := r.find(verify.Killed); f.Count != 15 || r.totals["telemetry"].Uncounted != 15 || r.totals["telemetry"].Found != 90 {
		t.Errorf("%s", r)
	}
	w.open()
	w.drive(36, 60)
	r = w.verify(w.live)
	w.want(r, true, verify.Killed)
	if k := r.totals["telemetry"]; r.find(verify.Killed).Count != 15 || k.Found != 165 || k.Logged != 165 || r.Runs != 2 || r.Sequenced != 180 {
		t.Errorf("%s", r)
	}
	w.stop()
	tamper(t, w.fs, "truck-2", func(bs [][]eventlog.Record) [][]eventlog.Record {
		i, j := of(t, bs, "truck-2", 3)
		bs[i] = append(bs[i][:j:j], bs[i][j+1:]...)
		return bs
	})
	w.want(w.atRest(), false, verify.Killed, verify.Hole, verify.MissingRecords, verify.SequenceMissing)
}

// What was taken for a partition and was not answered when the node was killed is in flight, not lost; the same after a clean stop is.
func TestInFlightWhenKilled(t *testing.T) {
	for _, clean := range []bool{false, true} {
		w := newWorld(t)
		w.drive(1, 5)
		topic, _ := w.log.Topic(t.Context(), "telemetry")
		p := eventlog.Part{Topic: topic.ID, Index: route.Partition([]byte("truck-1"), 2)}
		e := w.meter.Enter(0)
		w.meter.Topic("telemetry").Cell(w.now.UnixMilli()/60_000, "truck-1").Published(e, 3)
		part := w.meter.Part(p, "telemetry", 0)
		part.Published(e, 3)
		part.Sent(e, 3)
		e.Leave()
		if clean {
			w.stop()
			w.want(w.atRest(), false, verify.LostBeforeLog)
			continue
		}
		w.flush()
		w.kill()
		w.want(w.atRest(), true, verify.Killed)
	}
}

// slow is a log that gives a node time to go on while it is being verified.
type slow struct {
	eventlog.Driver
	meanwhile func()
}

func (s *slow) Ends(ctx context.Context, t eventlog.TopicID) ([]int64, error) {
	ends, err := s.Driver.Ends(ctx, t)
	s.meanwhile()
	return ends, err
}

// What a node logs and counts while it is being verified is not held against it: rows and totals are read up to the same flush.
func TestANodeThatGoesOn(t *testing.T) {
	w := newWorld(t)
	w.drive(1, 30)
	seq := 31
	r := w.verify(w.live, func(o *verify.Options, _ *verify.Request) {
		o.Log = eventlog.New(&slow{w.log.Driver, func() { w.drive(seq, seq); seq++; w.flush() }})
	})
	if seq < 34 {
		t.Fatalf("the node has logged up to %d only", seq)
	}
	w.want(r, true)
	if k := r.totals["telemetry"]; k.Found != k.Logged || k.Found < 90 {
		t.Errorf("%s", r)
	}
	w.stop()
}

// A message that is counted and then forgotten is named, while the node runs, too.
func TestAMessageForgottenBeforeTheLog(t *testing.T) {
	w := newWorld(t)
	w.drive(1, 5)
	topic, _ := w.log.Topic(t.Context(), "telemetry")
	e := w.meter.Enter(0)
	w.meter.Topic("telemetry").Cell(w.now.UnixMilli()/60_000, "truck-1").Published(e, 1)
	w.meter.Part(eventlog.Part{Topic: topic.ID}, "telemetry", 0).Published(e, 1)
	e.Leave()
	r := w.verify(w.live)
	w.want(r, false, verify.LostBeforeLog)
	if len(r.rows) != 1 || r.rows[0].Device != "truck-1" || r.rows[0].Status != verify.LostBeforeLog {
		t.Errorf("%s", r)
	}
	w.stop()
}

// Messages on both sides of a minute's border are in the rows of their own minute, also when the system's clock goes back.
func TestMinuteBordersAndClocks(t *testing.T) {
	w := newWorld(t)
	w.now = began.Add(time.Minute - time.Millisecond)
	w.publish(telemetry("truck-1", 1, 1))
	w.now = began.Add(time.Minute)
	w.publish(telemetry("truck-1", 2, 1))
	w.now = began.Add(-time.Hour) // the log's clock does not follow
	w.publish(telemetry("truck-1", 3, 1))
	w.stop()
	w.open()
	w.publish(telemetry("truck-1", 4, 1))
	w.now = began.Add(2 * time.Minute)
	w.publish(telemetry("truck-1", 5, 1))
	r := w.verify(w.live, func(_ *verify.Options, q *verify.Request) { q.All = true })
	w.want(r, true)
	var got []string
	for _, k := range r.rows {
		got = append(got, fmt.Sprint(time.UnixMilli(k.Minute).Sub(began), " ", k.Found))
	}
	if fmt.Sprint(got) != "[0s 1 1m0s 3 2m0s 1]" {
		t.Errorf("rows: %v", got)
	}
	part := w.verify(w.live, func(_ *verify.Options, q *verify.Request) {
		q.From, q.To = began.Add(time.Minute), began.Add(2*time.Minute)
	})
	w.want(part, true)
	if k := part.totals["telemetry"]; k.Found != 3 || k.Logged != 3 {
		t.Errorf("one minute: %s", part)
	}
	w.stop()
}

// Refused and unstored messages are no losses; what Kafka clients produce is counted apart, and its dead letters are looked for.
func TestWhatIsNoLoss(t *testing.T) {
	w := newWorld(t)
	w.publish(stamped("dev", "elsewhere/dev", 1, 1), stamped("dev", "live/dev", 2, 1), stamped("dev", "elsewhere/dev", 3, 1))
	bad := stamped("dev", "elsewhere/dev", 4, 1)
	bad.Props.User = append(bad.Props.User, packet.UserProperty{Name: "mqtt.qos", Value: "2"})
	if r := w.publish(bad, stamped("dev", "elsewhere/dev", 5, 1)); r[0].Err == nil || r[1].Err != nil {
		t.Fatal(r)
	}
	r := w.verify(w.live)
	w.want(r, true, verify.SequenceMissing)
	k := r.totals["mqtt"]
	if r.totals["store: false live/#"].Unlogged != 1 || k.Refused["reserved_property"] != 1 || k.Found != 3 || k.Published != 3 {
		t.Errorf("%s", r)
	}
	if f := r.find(verify.SequenceMissing); f.Severity != verify.Note || f.Count != 2 {
		t.Errorf("%+v", f)
	}
	w.stop()
}

// nothingGood takes no payload.
type nothingGood struct{}

func (nothingGood) Validate([]byte) error { return errors.New("nothing is good") }

// Messages that became dead letters for their payload are counted, and looked for.
func TestDeadOnArrival(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.specs = append(slices.Clone(w.specs), route.Spec{MQTT: "strict/{v}", Topic: "strict", Key: "{v}", Partitions: 2, Payloads: nothingGood{}, Invalid: route.DeadLetter})
	w.open()
	for i := range 5 {
		if r := w.publish(session.Message{Topic: fmt.Sprintf("strict/%d", i), Client: "c", QoS: 1, Payload: []byte("x")}); r[0].Err != nil {
			t.Fatal(r[0].Err)
		}
	}
	r := w.verify(w.live)
	w.want(r, true)
	if k := r.totals["strict"]; k.Refused["dead_lettered"] != 5 || k.Published != 0 || k.Found != 0 {
		t.Errorf("%s", r)
	}
	if err := w.log.DeleteTopic(t.Context(), "strict.dlq"); err != nil { // with what was in it
		t.Fatal(err)
	}
	r = w.verify(w.live)
	w.want(r, false, verify.DeadMissing)
	if f := r.find(verify.DeadMissing); f.Topic != "strict" || f.Count != 5 {
		t.Errorf("%+v", f)
	}
	w.stop()
}

func TestKafkaRecordsAndDeadLetters(t *testing.T) {
	w := newWorld(t)
	tail, err := w.store.Tail(nil)
	if err != nil {
		t.Fatal(err)
	}
	tail.Close()
	w.publish(session.Message{Topic: "fleet/truck-1/cmd", Client: "app", QoS: 1, Payload: []byte("stop")})
	topic, err := w.log.Topic(t.Context(), "commands")
	if err != nil {
		t.Fatal(err)
	}
	p := eventlog.Part{Topic: topic.ID}
	w.produce(p, "truck-2", "go")
	w.produce(p, "no/such", "a key that makes no topic of the route")
	r := w.verify(w.live)
	w.want(r, true)
	if k := r.totals["commands"]; k.Found != 1 || k.Logged != 1 || k.Foreign != 2 || k.Dead != 1 {
		t.Errorf("%s", r)
	}
	// Once MQTT has passed the record its dead letter must be there.
	part := session.Part{Topic: topic.ID}
	passed := func(o *verify.Options, _ *verify.Request) {
		w.matched = session.Vector{part: 3}
		o.Flush = w.meter.Flush
	}
	w.meter.Follow(w.sources())
	r = w.verify(passed)
	w.want(r, false, verify.DeadMissing)
	if f := r.find(verify.DeadMissing); f.Topic != "commands" || f.Offset != 2 {
		t.Errorf("%+v", f)
	}
	from := session.Vector{part: 0}
	live, err := w.store.Tail(from)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	deadline := time.Now().Add(20 * time.Second)
	for w.dlq("commands.dlq") == 0 {
		if _, err := live.Poll(nil, 1<<20); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("no dead letter is written")
		}
		time.Sleep(time.Millisecond)
	}
	w.want(w.verify(passed), true)
	w.stop()
}

// QoS 0 promises nothing: what is missing is said, and wrong only with Strict.
func TestQoS0Losses(t *testing.T) {
	w := newWorld(t)
	for _, seq := range []int{1, 2, 5, 6} {
		w.publish(telemetry("truck-1", seq, 0))
	}
	w.stop()
	r := w.atRest()
	w.want(r, true, verify.QoS0Lost)
	if f := r.find(verify.QoS0Lost); f.Severity != verify.Loss || f.Count != 2 || f.Numbers[0] != (verify.Span{From: 3, To: 4}) || !strings.Contains(r.Text, "QoS 0") {
		t.Errorf("%+v %s", f, r.Text)
	}
	w.want(w.atRest(func(_ *verify.Options, q *verify.Request) { q.Strict = true }), false, verify.QoS0Lost)
}

func TestSequences(t *testing.T) {
	for _, c := range []struct {
		name     string
		numbers  []int // of one device; every message has its own payload unless it is 1000 more: then that of the number's first
		complete bool
		kinds    []verify.Kind
	}{
		{"in order", []int{5, 6, 7}, true, nil},
		{"sent again", []int{1, 2, 3, 1002, 1003, 4}, true, []verify.Kind{verify.SequenceQoS1}},
		{"sent again from before the window", []int{10, 11, 1009, 12}, true, []verify.Kind{verify.SequenceQoS1}},
		{"missing", []int{1, 2, 4}, false, []verify.Kind{verify.SequenceMissing}},
		{"late", []int{1, 3, 2, 4}, false, []verify.Kind{verify.SequenceOrder}},
		{"began anew", []int{8, 9, 10, 1, 2, 3}, true, []verify.Kind{verify.SequenceRestart}},
		{"began anew from the start", []int{1, 2, 3, 1, 2, 3, 4, 5}, true, []verify.Kind{verify.SequenceRestart}},
		{"began anew, and one is missing", []int{8, 10, 1, 2}, false, []verify.Kind{verify.SequenceRestart, verify.SequenceMissing}},
		{"the same number for another message", []int{4, 5, 6, 5}, false, []verify.Kind{verify.SequenceAltered}},
	} {
		w := newWorld(t)
		first := map[int]session.Message{}
		for i, n := range c.numbers {
			w.now = w.now.Add(time.Second)
			m := stamped("dev", fmt.Sprintf("elsewhere/%d", i%3), n%1000, 1)
			m.Payload = fmt.Appendf(m.Payload, " at %v", w.now)
			if old, ok := first[n%1000]; ok && n >= 1000 {
				m = old
			} else {
				first[n%1000] = m
			}
			w.publish(m)
		}
		w.stop()
		r := w.atRest()
		w.Log(c.name)
		w.want(r, c.complete, c.kinds...)
	}
}

// There is a bound on everything: what is beyond it is added up, and said.
func TestBounds(t *testing.T) {
	w := newWorld(t)
	for i := range 400 {
		w.publish(stamped(fmt.Sprint("dev", i), fmt.Sprint("a/", i), 1, 1))
	}
	w.stop()
	r := w.atRest(func(o *verify.Options, _ *verify.Request) { o.MaxRows, o.MaxDevices = 10, 20 })
	w.want(r, true, verify.TooMany)
	if k := r.totals["mqtt"]; k.Found != 400 || k.Logged != 400 || r.Devices != 20 {
		t.Errorf("%s", r)
	}
	tamperedRows := 0
	tamperAny(t, w, func(recs []eventlog.Record) []eventlog.Record { tamperedRows++; return recs[:len(recs)-1] })
	if r := w.atRest(func(o *verify.Options, _ *verify.Request) { o.MaxRows = 10 }); r.Complete || r.find(verify.MissingRecords) == nil || tamperedRows != 1 {
		t.Errorf("%s", r)
	}
	n := 0
	_, err := w.atRestErr(func(row verify.Row) error {
		if n++; n == 3 {
			return errors.New("the client went away")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "went away") {
		t.Errorf("an emit that fails: %v", err)
	}
}

// Retention and deletion explain what is gone; what was there before the meter is looked at, and said to be uncounted.
func TestExplainedAbsence(t *testing.T) {
	w := newWorld(t)
	w.drive(1, 90)
	topic, _ := w.log.Topic(t.Context(), "telemetry")
	ends, _ := w.log.Ends(t.Context(), topic.ID)
	for i, end := range ends {
		if err := w.log.Trim(t.Context(), eventlog.Position{Part: eventlog.Part{Topic: topic.ID, Index: int32(i)}, Offset: end / 2}); err != nil {
			t.Fatal(err)
		}
	}
	r := w.verify(w.live)
	w.want(r, true, verify.Expired)
	if f := r.find(verify.Expired); f.Count == 0 || f.Count > 270 || r.totals["telemetry"].Status != verify.Expired {
		t.Errorf("%s", r)
	}
	if err := w.log.DeleteTopic(t.Context(), "__millrace_meter"); err != nil {
		t.Fatal(err)
	}
	w.kill()
	r = w.atRest()
	w.want(r, true, verify.NotCounted)
	if r.Runs != 0 || !strings.Contains(r.Text, "nobody counted") {
		t.Errorf("%s", r)
	}
}

func TestTheLedger(t *testing.T) {
	w := newWorld(t)
	l := sim.NewLedger()
	send := func(device string, seq int, code packet.Code, log bool, qos byte) {
		m := stamped(device, "elsewhere/"+device, seq, qos)
		ref := l.Sent(device, uint64(seq), &packet.Publish{Topic: []byte(m.Topic), Payload: m.Payload, QoS: qos})
		if log {
			w.publish(m)
		}
		if code != 0xFF {
			l.Acked(ref, code)
		}
	}
	send("dev", 1, packet.Success, true, 1)
	send("dev", 2, 0xFF, true, 1)                    // in doubt, and there
	send("dev", 3, 0xFF, false, 1)                   // in doubt, and not there
	send("dev", 4, packet.QuotaExceeded, false, 1)   // refused
	send("dev", 5, 0xFF, false, 0)                   // QoS 0, lost
	send("dev", 6, packet.Success, true, 2)          // once
	w.publish(stamped("dev", "elsewhere/dev", 1, 1)) // sent again
	with := func(o *verify.Options, q *verify.Request) { w.live(o, q); q.Ledger = l }
	w.want(w.verify(with), true, verify.InDoubt, verify.QoS0Lost, verify.SequenceQoS1, verify.SequenceMissing)
	send("dev", 7, packet.Success, false, 1)      // acknowledged and lost
	send("dev", 8, packet.QuotaExceeded, true, 1) // refused, and there
	send("dev", 9, packet.Success, true, 2)
	w.publish(stamped("dev", "elsewhere/dev", 9, 2))  // twice at QoS 2
	w.publish(stamped("dev", "elsewhere/dev", 77, 1)) // never sent
	send("dev", 10, packet.Success, false, 1)
	w.publish(stamped("dev", "another/topic", 10, 1)) // elsewhere
	want := []verify.Kind{verify.InDoubt, verify.QoS0Lost, verify.SequenceQoS1, verify.SequenceMissing, verify.LedgerMissing, verify.LedgerRefused,
		verify.LedgerTwice, verify.LedgerUnknown, verify.LedgerBroken, verify.SequenceRepeated, verify.SequenceOrder}
	r := w.verify(with)
	w.want(r, false, want...)
	if f := r.find(verify.LedgerMissing); f.Device != "dev" || f.Numbers[0].From != 7 {
		t.Errorf("%+v", f)
	}
	// The same where the ledger is elsewhere.
	far := verify.NewLedgerCheck(l)
	var sum verify.Summary
	kinds := map[verify.Kind]bool{}
	_, err := w.runTo(func(o *verify.Options, q *verify.Request) { w.live(o, q); q.Stamps = true }, func(row verify.Row) error {
		for _, s := range row.Stamps {
			far.Saw(s)
		}
		if row.Summary != nil {
			sum = *row.Summary
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	far.Complete(&sum, false, func(f verify.Finding) { kinds[f.Kind] = true })
	if sum.Complete || !kinds[verify.LedgerMissing] || !kinds[verify.LedgerTwice] || !kinds[verify.LedgerUnknown] || !kinds[verify.LedgerBroken] {
		t.Errorf("%v %+v", kinds, sum)
	}
	w.stop()
}

// A topic to which no route leads any more is not looked at, and that is said.
func TestRoutesThatAreGone(t *testing.T) {
	w := newWorld(t)
	w.drive(1, 3)
	w.publish(stamped("dev", "elsewhere/dev", 1, 1))
	w.stop()
	w.specs = w.specs[1:]
	r := w.atRest()
	w.want(r, true, verify.NotRouted)
	if f := r.find(verify.NotRouted); f.Count != 9 || f.Topic != "telemetry" {
		t.Errorf("%+v", f)
	}
	w.openLog()
	defer w.closeLog()
	if _, err := w.tryVerify(func(_ *verify.Options, q *verify.Request) { q.Device = "truck-1" }); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("nothing can be checked: %v", err)
	}
}

// A window may end when it likes: nothing is there yet.
func TestAWindowWithoutEnd(t *testing.T) {
	w := newWorld(t)
	w.drive(1, 5)
	w.stop()
	w.want(w.atRest(func(_ *verify.Options, q *verify.Request) { q.To = time.UnixMilli(1<<63 - 1) }), true)
}

func TestWhatCannotBeChecked(t *testing.T) {
	w := newWorld(t)
	defer w.stop()
	for why, change := range map[string]func(*verify.Options, *verify.Request){
		"no route": func(_ *verify.Options, q *verify.Request) { q.Topic = "elsewhere" },
		"is empty": func(_ *verify.Options, q *verify.Request) { q.To = q.From },
		"the counts": func(o *verify.Options, _ *verify.Request) {
			o.Flush = func(context.Context) error { return errors.New("the counts") }
		},
	} {
		if _, err := w.tryVerify(change); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
}
