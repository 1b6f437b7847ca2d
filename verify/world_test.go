package verify_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/fleet"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/verify"
)

// world is a log in memory with routes and a meter on it, as a node has them, but for the broker.
type world struct {
	*testing.T
	fs    vfs.FS
	now   time.Time
	specs []route.Spec
	run   uint64

	engine *engine.Engine
	log    *eventlog.Log
	meter  *meter.Meter
	store  *route.Store

	matched session.Vector // as sources has it
}

var began = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

var fleetRoutes = []route.Spec{
	{MQTT: "fleet/{vehicle}/telemetry", Topic: "telemetry", Key: "{vehicle}", Partitions: 2},
	{MQTT: "fleet/{vehicle}/cmd", Topic: "commands", Key: "{vehicle}", Both: true, Partitions: 1},
	{MQTT: "live/#", Discard: true},
}

// fleetFields: telemetry counts by itself; elsewhere are the usual places.
var fleetFields = []fleet.Fields{{Sequence: "seq"}, {}, {}}

func newWorld(t *testing.T) *world {
	w := &world{T: t, fs: vfs.NewMem(), now: began, specs: fleetRoutes}
	w.open()
	return w
}

func (w *world) open() {
	w.Helper()
	w.openLog()
	w.run++
	table, err := route.Compile(w.specs)
	if err != nil {
		w.Fatal(err)
	}
	if w.meter, err = meter.Open(w.Context(), meter.Options{Log: w.log, Run: w.run, Now: w.engine.Now, Every: time.Hour, Mapping: table.Mapping()}); err != nil {
		w.Fatal(err)
	}
	if w.store, err = route.Open(w.Context(), route.Options{Log: w.log, Routes: w.specs, Now: w.engine.Now, Meter: w.meter, MaxPacket: 8 << 10}); err != nil {
		w.Fatal(err)
	}
	if err := w.meter.Start(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func (w *world) openLog() {
	w.Helper()
	var err error
	w.engine, err = engine.Open(engine.Options{FS: w.fs, Now: func() time.Time { return w.now }, MaintainEvery: -1, SegmentBytes: 4 << 10,
		WALFileBytes: 8 << 20, WALFiles: 2, MaxLogBytes: 1 << 30, ReserveBytes: 1})
	if err != nil {
		w.Fatal(err)
	}
	w.log = eventlog.New(w.engine)
}

// stop ends the node cleanly.
func (w *world) stop() {
	w.Helper()
	w.store.Close()
	if err := w.meter.Close(w.Context()); err != nil {
		w.Fatal(err)
	}
	w.closeLog()
}

// kill ends it without a word: nothing more is counted.
func (w *world) kill() {
	w.Helper()
	w.store.Close()
	w.closeLog()
}

func (w *world) closeLog() {
	w.Helper()
	if err := w.log.Close(); err != nil {
		w.Fatal(err)
	}
}

func (w *world) flush() {
	w.Helper()
	if err := w.meter.Flush(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// publish appends one call of messages and waits for the answer.
func (w *world) publish(msgs ...session.Message) []session.Result {
	w.Helper()
	c := make(chan []session.Result, 1)
	w.store.Append(msgs, func(rs []session.Result) { c <- slices.Clone(rs) })
	select {
	case rs := <-c:
		return rs
	case <-time.After(20 * time.Second):
		w.Fatal("append is not answered")
		return nil
	}
}

// telemetry is a message of a vehicle.
func telemetry(vehicle string, seq int, qos byte) session.Message {
	return session.Message{Topic: "fleet/" + vehicle + "/telemetry", Client: "gw-" + vehicle, QoS: qos,
		Payload: fmt.Appendf(nil, `{"seq":%d,"speed":%d}`, seq, seq*7%90)}
}

// stamped is a message with the simulator's properties.
func stamped(device, topic string, seq int, qos byte) session.Message {
	return session.Message{Topic: topic, Client: device, QoS: qos, Payload: fmt.Appendf(nil, "%s %d", device, seq),
		Props: &session.Props{User: []packet.UserProperty{{Name: "sim-device", Value: device}, {Name: "sim-seq", Value: fmt.Sprint(seq)}}}}
}

// drive lets three vehicles send the numbers from..to, 2 s apart.
func (w *world) drive(from, to int) {
	w.Helper()
	for seq := from; seq <= to; seq++ {
		w.now = w.now.Add(2 * time.Second)
		for _, r := range w.publish(telemetry("truck-1", seq, 1), telemetry("truck-2", seq, 1), telemetry("truck-3", seq, 1)) {
			if r.Err != nil {
				w.Fatal(r.Err)
			}
		}
	}
}

// result is what verify says.
type result struct {
	verify.Summary
	rows     []verify.Counts
	totals   map[string]verify.Counts
	findings []verify.Finding
}

// verify checks the log, which is open, over the whole time.
func (w *world) verify(change ...func(*verify.Options, *verify.Request)) result {
	w.Helper()
	r, err := w.tryVerify(change...)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

func (w *world) tryVerify(change ...func(*verify.Options, *verify.Request)) (result, error) {
	table, err := route.Compile(w.specs)
	if err != nil {
		w.Fatal(err)
	}
	o := verify.Options{Log: w.log, Table: table, Fields: fleetFields, Embedded: true, Now: func() time.Time { return w.now }}
	table.Filters(func(f string, stored bool) { o.Routes = append(o.Routes, verify.Filter{MQTT: f, Stored: stored}) })
	q := verify.Request{From: began.Add(-10 * time.Minute), To: w.now.Add(10 * time.Minute)}
	for _, f := range change {
		f(&o, &q)
	}
	out := result{totals: map[string]verify.Counts{}}
	out.Summary, err = verify.Run(w.Context(), o, q, func(row verify.Row) error {
		switch {
		case row.Counts != nil && row.Counts.Minute == 0:
			out.totals[row.Counts.Topic] = *row.Counts
		case row.Counts != nil:
			out.rows = append(out.rows, *row.Counts)
		case row.Finding != nil:
			out.findings = append(out.findings, *row.Finding)
		}
		return nil
	})
	return out, err
}

// live is verify on a node that runs.
func (w *world) live(o *verify.Options, _ *verify.Request) {
	w.now = w.now.Add(time.Minute) // what has just come is not judged
	o.Flush = w.meter.Flush
}

// atRest opens the log without a node, verifies and closes it.
func (w *world) atRest(change ...func(*verify.Options, *verify.Request)) result {
	w.Helper()
	w.openLog()
	defer w.closeLog()
	return w.verify(change...)
}

func (r *result) find(k verify.Kind) *verify.Finding {
	for i := range r.findings {
		if r.findings[i].Kind == k {
			return &r.findings[i]
		}
	}
	return nil
}

// want fails unless exactly the kinds are found, wrong ones first said.
func (w *world) want(r result, complete bool, kinds ...verify.Kind) {
	w.Helper()
	left := map[verify.Kind]bool{}
	for k := range r.Kinds {
		left[k] = true
	}
	bad := r.Complete != complete
	for _, k := range kinds {
		bad = bad || !left[k]
		delete(left, k)
	}
	if bad || len(left) > 0 {
		w.Errorf("complete %v, want %v; want exactly %v, got:\n%s", r.Complete, complete, kinds, r)
	}
}

func (r result) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, r.Text, r.Kinds)
	for _, f := range r.findings {
		fmt.Fprintf(&b, "  %s %s %s/%d@%d: %s\n", f.Severity, f.Kind, f.Topic, f.Partition, f.Offset, f.Text)
	}
	for _, k := range r.rows {
		fmt.Fprintf(&b, "  %+v\n", k)
	}
	for _, k := range r.totals {
		fmt.Fprintf(&b, "  total %+v\n", k)
	}
	return b.String()
}

// copyFS copies a tree.
func copyFS(t *testing.T, from vfs.FS) vfs.FS {
	t.Helper()
	to := vfs.NewMem()
	var walk func(dir string)
	walk = func(dir string) {
		names, err := from.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			name = path.Join(dir, name)
			info, err := from.Stat(name)
			switch {
			case err != nil:
				t.Fatal(err)
			case info.IsDir():
				if err := to.MkdirAll(name); err != nil {
					t.Fatal(err)
				}
				walk(name)
			default:
				writeFile(t, to, name, readFile(t, from, name))
			}
		}
	}
	walk(".")
	return to
}

func readFile(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.OpenRead(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, _ := f.Size()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(b) > 0 {
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// tamper lets edit rewrite the batches of the oldest segment that holds telemetry of a vehicle.
func tamper(t *testing.T, fs vfs.FS, vehicle string, edit func(batches [][]eventlog.Record) [][]eventlog.Record) {
	t.Helper()
	tamperRaw(t, fs, "fleet/"+vehicle+"/telemetry", func(raws []eventlog.RawBatch) []byte {
		var batches [][]eventlog.Record
		for _, raw := range raws {
			recs, err := eventlog.NewRawBatch(eventlog.Part{}, raw).Records()
			if err != nil {
				t.Fatal(err)
			}
			batches = append(batches, recs)
		}
		var out []eventlog.RawBatch
		for i, recs := range edit(batches) {
			if len(recs) == 0 {
				stretch(out[len(out)-1], raws[i].Last())
				continue
			}
			var bl eventlog.Builder
			for _, r := range recs {
				bl.Add(r.Timestamp, r.Key, r.Value, r.Headers)
			}
			b, _, err := bl.Batch(eventlog.Part{}, eventlog.None)
			if err != nil {
				t.Fatal(err)
			}
			raw := b.Raw()
			raw.SetBase(raws[i].Base())
			raw.SetProducer(raws[i].ProducerID(), raws[i].ProducerEpoch(), raws[i].BaseSequence())
			stretch(raw, raws[i].Last())
			out = append(out, raw)
		}
		return join(out)
	})
}

// stretch has a batch reach to an offset, as compaction leaves one behind which records are gone: who removes records and knows the format
// does so, because the log takes batches that do not follow one another for damage.
func stretch(raw eventlog.RawBatch, last int64) {
	const lastOffsetDelta = 23 // of Kafka's record batch
	binary.BigEndian.PutUint32(raw[lastOffsetDelta:], uint32(last-raw.Base()))
	raw.Reseal()
}

func join(raws []eventlog.RawBatch) (out []byte) {
	for _, raw := range raws {
		out = append(out, raw...)
	}
	return out
}

func tamperRaw(t *testing.T, fs vfs.FS, topic string, edit func([]eventlog.RawBatch) []byte) {
	t.Helper()
	var walk func(dir string) bool
	walk = func(dir string) bool {
		names, err := fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			name = path.Join(dir, name)
			if info, err := fs.Stat(name); err == nil && info.IsDir() {
				if walk(name) {
					return true
				}
				continue
			}
			if !strings.HasSuffix(name, ".log") {
				continue
			}
			var raws []eventlog.RawBatch
			for b := readFile(t, fs, name); len(b) > 0; {
				raw, err := eventlog.CheckBatch(b)
				if err != nil {
					break
				}
				raws, b = append(raws, raw), b[len(raw):]
			}
			if len(raws) < 3 || !holds(raws[0], topic) {
				continue
			}
			writeFile(t, fs, name, edit(raws))
			return true
		}
		return false
	}
	if !walk(".") {
		t.Fatal("no segment holds messages of " + topic)
	}
}

func holds(raw eventlog.RawBatch, topic string) bool {
	found := false
	_ = eventlog.NewRawBatch(eventlog.Part{}, raw).Each(func(r *eventlog.Record) error {
		for _, h := range r.Headers {
			found = found || h.Key == "mqtt.topic" && (topic == "" || string(h.Value) == topic)
		}
		return nil
	})
	return found
}

// tamperAny rewrites the second batch of the oldest segment of the catch-all.
func tamperAny(t *testing.T, w *world, edit func([]eventlog.Record) []eventlog.Record) {
	t.Helper()
	tamperRaw(t, w.fs, "", func(raws []eventlog.RawBatch) []byte {
		recs, _ := eventlog.NewRawBatch(eventlog.Part{}, raws[1]).Records()
		if len(edit(recs)) == 0 {
			stretch(raws[0], raws[1].Last())
			raws = slices.Delete(raws, 1, 2)
		}
		return join(raws)
	})
}

// of finds the record of a vehicle with a number: its batch and its place there.
func of(t *testing.T, batches [][]eventlog.Record, vehicle string, seq int) (batch, at int) {
	t.Helper()
	for i, recs := range batches {
		for j, r := range recs {
			if string(r.Key) == vehicle && strings.HasPrefix(string(r.Value), fmt.Sprintf(`{"seq":%d,`, seq)) {
				return i, j
			}
		}
	}
	t.Fatalf("number %d of %s is not in the segment", seq, vehicle)
	return 0, 0
}

// produce appends a record as a Kafka client does.
func (w *world) produce(p eventlog.Part, key, value string) {
	w.Helper()
	var bl eventlog.Builder
	bl.Add(w.engine.Now(), []byte(key), []byte(value), nil)
	b, _, err := bl.Batch(p, eventlog.None)
	if err != nil {
		w.Fatal(err)
	}
	done := make(chan engine.Produced, 1)
	w.engine.Produce(p, b.Raw(), engine.AcksDurable, func(r engine.Produced) { done <- r })
	if r := <-done; r.Err != nil {
		w.Fatal(r.Err)
	}
}

// sources are those of a broker that has matched up to w.matched, and delivers nothing.
func (w *world) sources() meter.Sources {
	return meter.Sources{Deliveries: func(context.Context) []session.Counts {
		return []session.Counts{{Life: 1, Ready: true, Matched: w.matched}}
	}}
}

// dlq is how many records a topic has.
func (w *world) dlq(name string) (n int64) {
	t, err := w.log.Topic(w.Context(), name)
	if err != nil {
		return 0
	}
	ends, err := w.log.Ends(w.Context(), t.ID)
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range ends {
		n += e
	}
	return n
}

// runTo verifies with an emit of the test's own.
func (w *world) runTo(change func(*verify.Options, *verify.Request), emit func(verify.Row) error) (verify.Summary, error) {
	table, err := route.Compile(w.specs)
	if err != nil {
		w.Fatal(err)
	}
	o := verify.Options{Log: w.log, Table: table, Fields: fleetFields, Embedded: true, Now: func() time.Time { return w.now }}
	q := verify.Request{From: began.Add(-10 * time.Minute), To: w.now.Add(10 * time.Minute)}
	change(&o, &q)
	return verify.Run(w.Context(), o, q, emit)
}

func (w *world) atRestErr(emit func(verify.Row) error) (verify.Summary, error) {
	w.openLog()
	defer w.closeLog()
	return w.runTo(func(_ *verify.Options, q *verify.Request) { q.All = true }, emit)
}
