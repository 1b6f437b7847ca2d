//go:build !race

package kafkawire

import (
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// A request of a busy client costs what the log keeps of it, a batch and its bytes, and next to nothing else.
func TestAllocationsPerRequest(t *testing.T) {
	const (
		requests = 2000
		pipeline = 20
		produced = 2.8 // allocations for one batch: two stay with the log, the rest is the log's commits and the test's own
		batch    = 2.5 // for each further one
		fetched  = 6.0 // a session's fetch of one small batch: its bytes, and lists of batches in memory
	)
	n := start(t, Options{})
	topic := n.topic("alloc", 16, nil)
	c := n.dial()
	do[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest())
	each := func(request func() []byte) float64 {
		t.Helper()
		frames := make([][]byte, requests*5/4)
		for i := range frames {
			frames[i] = request()
		}
		run := func(count int) {
			for range count / pipeline {
				for _, frame := range frames[:pipeline] {
					if _, err := c.nc.Write(frame); err != nil {
						t.Fatal(err)
					}
				}
				frames = frames[pipeline:]
				for range pipeline {
					c.skip()
				}
			}
		}
		run(requests / 4) // what is made once is made
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run(requests)
		runtime.ReadMemStats(&after)
		return float64(after.Mallocs-before.Mallocs) / requests
	}
	small := batchOf(eventlog.None, "value")
	one := produceRequest("alloc", 0, -1, small)
	again := func() []byte { one.SetVersion(9); return frameOf(one, 1) }
	got := each(again)
	t.Logf("%.2f allocations for a batch", got)
	if got > produced+1 { // the client's
		t.Errorf("%.2f allocations for a request with one batch, want %.1f", got, produced+1)
	}
	for i := int32(1); i < topic.Partitions; i++ {
		part := one.Topics[0].Partitions[0]
		part.Partition = i
		one.Topics[0].Partitions = append(one.Topics[0].Partitions, part)
	}
	got = each(again)
	t.Logf("%.2f allocations for %d batches", got, topic.Partitions)
	if want := produced + 1 + batch*float64(topic.Partitions-1); got > want {
		t.Errorf("%.2f allocations for a request with %d batches, want %.1f", got, topic.Partitions, want)
	}

	fetch := fetchRequest(topic, 1, c.produce("alloc", 1, "value"), 0, 0) // at the end, where consumers are
	fetch.SessionEpoch = 0
	session := do[*kmsg.FetchResponse](c, 12, fetch).SessionID
	if session == 0 {
		t.Fatal("no session")
	}
	epoch := int32(0)
	got = each(func() []byte { // the session goes on from the same offset
		epoch++
		next := kmsg.NewPtrFetchRequest()
		next.SessionID, next.SessionEpoch, next.MaxBytes = session, epoch, 1<<20
		next.SetVersion(12)
		return frameOf(next, 1)
	})
	t.Logf("%.2f allocations for a fetch", got)
	if got > fetched+1 {
		t.Errorf("%.2f allocations for a fetch of a session, want %.1f", got, fetched+1)
	}
}
