package kafka

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// stored makes a batch of n records as a broker stores it.
func stored(t testing.TB, base int64, n int, pid int64, attrs int16) eventlog.RawBatch {
	t.Helper()
	var bl eventlog.Builder
	for range n {
		bl.Add(1, []byte("k"), []byte("v"), nil)
	}
	b, _, err := bl.Batch(eventlog.Part{}, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	return reseal(b.Raw(), base, pid, attrs)
}

func reseal(raw eventlog.RawBatch, base, pid int64, attrs int16) eventlog.RawBatch {
	raw.SetBase(base)
	raw.SetProducer(pid, 0, 0)
	binary.BigEndian.PutUint16(raw[21:], uint16(attrs))
	raw.Reseal()
	return raw
}

// marker is the control batch that ends a transaction.
func marker(t testing.TB, base, pid int64, commit bool) eventlog.RawBatch {
	t.Helper()
	key := []byte{0, 0, 0, 0}
	if commit {
		key[3] = 1
	}
	var bl eventlog.Builder
	bl.Add(1, key, []byte{0, 0, 0, 0, 0, 0}, nil)
	b, _, err := bl.Batch(eventlog.Part{}, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	return reseal(b.Raw(), base, pid, eventlog.AttrTransactional|eventlog.AttrControl)
}

func TestPick(t *testing.T) {
	const txn = eventlog.AttrTransactional
	log := [][]byte{
		stored(t, 0, 2, -1, 0),    // 0, 1
		stored(t, 2, 2, 7, txn),   // 2, 3: aborted
		stored(t, 4, 1, 8, txn),   // committed
		stored(t, 5, 1, 7, 0),     // the same producer, outside of its transaction: seen
		marker(t, 6, 7, false),    // abort of 7
		stored(t, 7, 1, 7, txn),   // its next one: committed
		marker(t, 8, 8, true),     //
		marker(t, 9, 7, true),     //
		stored(t, 10, 3, 9, txn),  // 10 to 12: aborted
		marker(t, 13, 9, false),   //
		stored(t, 14, 1, 10, txn), // open, beyond the last stable offset
	}
	fetched := func(cut int) *kmsg.FetchResponseTopicPartition {
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.RecordBatches = slices.Concat(log...)
		rp.RecordBatches = rp.RecordBatches[:len(rp.RecordBatches)-cut]
		rp.LastStableOffset = 14
		rp.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{
			{ProducerID: 9, FirstOffset: 10}, {ProducerID: 7, FirstOffset: 2},
		}
		return &rp
	}
	bases := func(raws []eventlog.RawBatch) (b []int64) {
		for _, r := range raws {
			b = append(b, r.Base())
		}
		return b
	}
	for _, tt := range []struct {
		from int64
		cut  int
		want []int64
		next int64
	}{
		{0, 0, []int64{0, 4, 5, 7}, 14},
		{1, 0, []int64{0, 4, 5, 7}, 14},
		{2, 0, []int64{4, 5, 7}, 14},
		{8, 0, nil, 14},
		{14, 0, nil, 14},
		{0, len(log[10]) + len(log[9]) + 1, []int64{0, 4, 5, 7}, 10},
		{0, len(log[10]) + 1, []int64{0, 4, 5, 7}, 13},
	} {
		raws, next, err := pick(fetched(tt.cut), tt.from)
		if err != nil || next != tt.next || !slices.Equal(bases(raws), tt.want) {
			t.Errorf("from %d, %d bytes cut off: batches at %v, next %d, %v; want %v, %d", tt.from, tt.cut, bases(raws), next, err, tt.want, tt.next)
		}
	}
	damaged := fetched(0)
	damaged.RecordBatches[len(log[0])+70] ^= 1
	raws, next, err := pick(damaged, 0)
	if err == nil || next != 2 || len(raws) != 1 {
		t.Errorf("with a damaged second batch: batches at %v, next %d, %v", bases(raws), next, err)
	}
}

// FuzzPick: whatever a broker sends, nothing panics and nothing goes back.
func FuzzPick(f *testing.F) {
	f.Add([]byte(slices.Concat(stored(f, 0, 2, 7, eventlog.AttrTransactional), marker(f, 2, 7, false))), int64(0), int64(7), int64(0), int64(3))
	f.Add([]byte(stored(f, 5, 1, -1, 0)), int64(5), int64(1), int64(1<<62), int64(-1))
	f.Add([]byte{0, 0, 0}, int64(0), int64(0), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, p []byte, from, pid, first, stable int64) {
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.RecordBatches, rp.LastStableOffset = p, stable
		rp.AbortedTransactions = []kmsg.FetchResponseTopicPartitionAbortedTransaction{{ProducerID: pid, FirstOffset: first}}
		raws, next, _ := pick(&rp, from)
		if next < from {
			t.Fatalf("from %d to %d", from, next)
		}
		at := from
		for _, raw := range raws {
			if raw.Next() <= at || raw.Attributes()&eventlog.AttrControl != 0 {
				t.Fatalf("a batch of [%d, %d) at %d, attributes %#x", raw.Base(), raw.Next(), at, raw.Attributes())
			}
			at = raw.Next()
		}
	})
}

func TestSequenceWraps(t *testing.T) {
	for _, tt := range []struct{ seq, n, want int32 }{
		{0, 1, 1}, {1<<31 - 2, 1, 1<<31 - 1}, {1<<31 - 1, 1, 0}, {1<<31 - 1, 5, 4}, {1<<31 - 3, 5, 2},
	} {
		if got := after(tt.seq, tt.n); got != tt.want {
			t.Errorf("%d records after %d: %d, want %d", tt.n, tt.seq, got, tt.want)
		}
	}
}
