package kafka

import (
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

// BenchmarkAppend appends batches of one record of 100 bytes to four partitions, as fast as Room allows, on an in-process
// cluster: what the driver costs, not what a cluster does.
func BenchmarkAppend(b *testing.B) {
	r := newRig(b, nil)
	value := make([]byte, 100)
	answers := make(chan eventlog.Outcome, 1024)
	failed := make(chan error, 1)
	go func() {
		for n := 0; n < b.N; n++ {
			if o := <-answers; o.Err != nil {
				failed <- o.Err
				return
			}
		}
		close(failed)
	}()
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		p := r.part(int32(i % 4))
		if ch := r.d.Room(p); ch != nil {
			<-ch
		}
		var bl eventlog.Builder
		bl.Add(1, []byte("vehicle-1"), value, nil)
		batch, _, err := bl.Batch(p, eventlog.None)
		if err != nil {
			b.Fatal(err)
		}
		r.d.Append(batch, func(o eventlog.Outcome) { answers <- o })
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
}
