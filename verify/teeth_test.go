package verify_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/verify"
)

// driven is a node that ran for four minutes and stopped.
func driven(t *testing.T) *world {
	w := newWorld(t)
	w.drive(1, 120)
	w.stop()
	return w
}

func TestWhatIsCompleteIsComplete(t *testing.T) {
	w := driven(t)
	before := digest(t, w)
	r := w.atRest()
	w.want(r, true)
	if k := r.totals["telemetry"]; k.Published != 360 || k.Logged != 360 || k.Found != 360 || r.Records != 360 || r.Devices != 3 || r.Sequenced != 360 || len(r.rows) != 0 {
		t.Errorf("%s", r)
	}
	all := w.atRest(func(_ *verify.Options, q *verify.Request) { q.All = true })
	if len(all.rows) != 5*3 { // four minutes, that begin within the first one
		t.Errorf("%d rows: %s", len(all.rows), all)
	}
	one := w.atRest(func(_ *verify.Options, q *verify.Request) { q.All, q.Device = true, "truck-2" })
	if k := one.totals["telemetry"]; k.Published != 120 || k.Found != 120 || one.Devices != 1 {
		t.Errorf("%s", one)
	}
	if !bytes.Equal(before, digest(t, w)) {
		t.Error("verifying has altered records")
	}
}

// digest is all batches of telemetry as they are.
func digest(t *testing.T, w *world) (sum []byte) {
	w.openLog()
	defer w.closeLog()
	topic, err := w.log.Topic(t.Context(), "telemetry")
	if err != nil {
		t.Fatal(err)
	}
	for i := range topic.Partitions {
		bs, _, err := w.log.Read(t.Context(), eventlog.Position{Part: eventlog.Part{Topic: topic.ID, Index: i}}, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range bs {
			sum = append(sum, b.Raw()...)
		}
	}
	return sum
}

// A copy of the log in which one thing was altered: it is named.
func TestTamperedLogs(t *testing.T) {
	w := driven(t)
	for _, c := range []struct {
		name  string
		edit  func(t *testing.T, batches [][]eventlog.Record) [][]eventlog.Record
		kinds []verify.Kind
		named verify.Kind // names the device, and the number
	}{
		{"one record removed", func(t *testing.T, bs [][]eventlog.Record) [][]eventlog.Record {
			i, j := of(t, bs, "truck-1", 7)
			bs[i] = slices.Delete(bs[i], j, j+1)
			return bs
		}, []verify.Kind{verify.SequenceMissing, verify.MissingRecords, verify.Hole}, verify.SequenceMissing},
		{"one record in the place of another", func(t *testing.T, bs [][]eventlog.Record) [][]eventlog.Record {
			from, k := of(t, bs, "truck-1", 6)
			i, j := of(t, bs, "truck-1", 7)
			bs[i][j] = bs[from][k]
			return bs
		}, []verify.Kind{verify.SequenceMissing, verify.AlteredRecords, verify.SequenceQoS1}, verify.SequenceMissing},
		{"two records swapped", func(t *testing.T, bs [][]eventlog.Record) [][]eventlog.Record {
			from, k := of(t, bs, "truck-1", 8)
			i, j := of(t, bs, "truck-1", 7)
			bs[i][j], bs[from][k] = bs[from][k], bs[i][j]
			return bs
		}, []verify.Kind{verify.SequenceOrder}, verify.SequenceOrder},
		{"a payload altered", func(t *testing.T, bs [][]eventlog.Record) [][]eventlog.Record {
			i, j := of(t, bs, "truck-1", 7)
			bs[i][j].Value = []byte(`{"seq":7,"speed":999}`)
			return bs
		}, []verify.Kind{verify.AlteredRecords}, verify.AlteredRecords},
		{"a number altered", func(t *testing.T, bs [][]eventlog.Record) [][]eventlog.Record {
			i, j := of(t, bs, "truck-1", 7)
			bs[i][j].Value = bytes.Replace(bs[i][j].Value, []byte(`"seq":7`), []byte(`"seq":6`), 1)
			return bs
		}, []verify.Kind{verify.AlteredRecords, verify.SequenceMissing, verify.SequenceAltered}, verify.SequenceMissing},
		{"a record of another vehicle", func(t *testing.T, bs [][]eventlog.Record) [][]eventlog.Record {
			i, j := of(t, bs, "truck-1", 7)
			bs[i][j].Headers = append([]eventlog.Header{}, bs[i][j].Headers...)
			bs[i][j].Headers[0].Value = []byte("fleet/truck-9/telemetry")
			return bs
		}, []verify.Kind{verify.Misplaced, verify.SequenceMissing}, verify.Misplaced},
	} {
		t.Run(c.name, func(t *testing.T) {
			copied := &world{T: t, fs: copyFS(t, w.fs), now: w.now, specs: w.specs}
			tamper(t, copied.fs, "truck-1", func(bs [][]eventlog.Record) [][]eventlog.Record { return c.edit(t, bs) })
			r := copied.atRest()
			copied.want(r, false, c.kinds...)
			if f := r.find(c.named); f == nil || f.Device != "truck-1" || f.Topic != "telemetry" ||
				c.named == verify.SequenceMissing && (f.Count != 1 || f.Numbers[0] != verify.Span{From: 7, To: 7}) {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestABrokenBatchIsNamed(t *testing.T) {
	w := driven(t)
	tamperRaw(t, w.fs, "fleet/truck-1/telemetry", func(raws []eventlog.RawBatch) (out []byte) {
		for i, raw := range raws {
			if i == 2 {
				raw[len(raw)-3] ^= 1
			}
			out = append(out, raw...)
		}
		return out
	})
	if r := w.atRest(); r.Complete || r.find(verify.Corrupt) == nil || r.find(verify.MissingRecords) == nil {
		t.Errorf("%s", r)
	}
}

// A record that is in the log twice, and was answered once: named by the counts, and by its number.
func TestARepeatedRecordIsNamed(t *testing.T) {
	for qos, kinds := range [][]verify.Kind{
		{verify.ExtraRecords, verify.SequenceRepeated}, {verify.ExtraRecords, verify.SequenceQoS1}, {verify.ExtraRecords, verify.SequenceRepeated},
	} {
		w := newWorld(t)
		w.publish(telemetry("truck-1", 1, byte(qos)), telemetry("truck-1", 2, byte(qos)))
		topic, err := w.log.Topic(t.Context(), "telemetry")
		if err != nil {
			t.Fatal(err)
		}
		for i := range topic.Partitions {
			p := eventlog.Part{Topic: topic.ID, Index: i}
			bs, _, err := w.log.Read(t.Context(), eventlog.Position{Part: p}, 1<<20)
			if err != nil || len(bs) == 0 {
				continue
			}
			recs, _ := bs[0].Records()
			var bl eventlog.Builder
			bl.Add(recs[1].Timestamp, recs[1].Key, recs[1].Value, recs[1].Headers)
			again, _, _ := bl.Batch(p, eventlog.None)
			if _, err := w.log.AppendWait(t.Context(), again); err != nil {
				t.Fatal(err)
			}
		}
		w.publish(telemetry("truck-1", 3, byte(qos)))
		w.want(w.verify(w.live), false, kinds...)
		w.stop()
	}
}
