package kafkawire

import (
	"fmt"
	"maps"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// idempotentState is what the script of idempotent producers knows: two of them, and what each sent last into each partition.
type idempotentState struct {
	*topicsState
	pids [2][2]int64 // of a producer, by side
	sent map[sentTo]sentBatch
}

type sentTo struct {
	producer  int
	topic     string
	partition int32
}

type sentBatch struct {
	epoch      int16
	first, end int32 // of the last batch; the next begins at end
}

func idempotentScript(d *differ) func() {
	s := &idempotentState{topicsState: newTopicsState(d), sent: map[sentTo]sentBatch{}, pids: [2][2]int64{{-1, -1}, {-1, -1}}}
	s.create(d.name + "t0")
	return s.step
}

func (d *idempotentState) step() {
	topic, partition, producer := d.topic(), int32(d.rng.IntN(2)), d.rng.IntN(2)
	if d.pids[producer][0] < 0 {
		d.begin(producer)
		return
	}
	switch d.rng.IntN(14) {
	case 0:
		d.create(topic)
	case 1:
		if d.chance(4) {
			gone := d.remove()
			maps.DeleteFunc(d.sent, func(to sentTo, _ sentBatch) bool { return to.topic == gone })
		}
	case 2:
		if d.chance(4) {
			d.deleteRecords(topic, partition)
		}
	case 3:
		d.describeProducers(topic, partition)
	case 4:
		d.fetch(topic, partition)
	case 5:
		if d.chance(6) {
			d.begin(producer)
		}
	default:
		d.write(sentTo{producer, topic, partition})
	}
}

// begin asks for a producer's id, or for another one.
func (d *idempotentState) begin(producer int) {
	v := int16(d.rng.IntN(6))
	again := d.pids[producer][0] >= 0 && v >= 3 && d.chance(2)
	d.ask(fmt.Sprintf("init producer %d, version %d, again %v", producer, v, again), func(side int) kmsg.Request {
		req := kmsg.NewPtrInitProducerIDRequest()
		if again {
			req.ProducerID, req.ProducerEpoch = d.pids[producer][side], 0
		}
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.InitProducerIDResponse)
		if resp.ErrorCode != 0 {
			return fmt.Sprint(resp.ErrorCode)
		}
		fresh := resp.ProducerID != d.pids[producer][side]
		d.pids[producer][side] = resp.ProducerID
		d.learn(side, producerID(resp.ProducerID), fmt.Sprint("pid", producer))
		return fmt.Sprint("another ", fresh, resp.ProducerEpoch)
	})
	for to := range d.sent {
		if to.producer == producer {
			delete(d.sent, to)
		}
	}
}

// write sends a batch: the next one, one again, or one that must not be taken.
func (d *idempotentState) write(to sentTo) {
	last, known := d.sent[to]
	count := int32(1 + d.rng.IntN(3))
	next := sentBatch{last.epoch, last.end, after(last.end, count)}
	what := "the next"
	switch n := d.rng.IntN(16); {
	case !known && n < 5:
		next.first, what = one[int32](d.differ, 1, 7, math.MaxInt32-2, math.MaxInt32), "the first, in the middle"
		next.end = after(next.first, count)
	case !known:
	case n < 3:
		next, what = last, "the same again"
	case n == 3:
		next.first, what = after(last.end, 1+int32(d.rng.IntN(5))), "after a gap"
		next.end = after(next.first, count)
	case n == 4:
		next.epoch, next.first, next.end, what = last.epoch+1, 0, count, "of the next epoch"
	case n == 5:
		next.epoch, next.first, next.end, what = last.epoch+1, 3, 3+count, "in the middle of the next epoch"
	case n == 6 && last.epoch > 0:
		next.epoch, what = last.epoch-1, "of the epoch before"
	case n == 7:
		next.first, next.end, what = max(0, last.first-count), max(0, last.first-count)+count, "an older one"
	case n == 8:
		next.end, what = after(last.first, count+1), "the same, longer"
		next.first = last.first
	}
	size := int(uint32(next.end-next.first) & math.MaxInt32)
	if size < 1 || size > 10 {
		return
	}
	values := make([]string, size)
	for i := range values {
		values[i] = fmt.Sprint("i", d.rng.IntN(100))
	}
	v := int16(3 + d.rng.IntN(10))
	answer := d.ask(fmt.Sprintf("producer %d to %s/%d: %s, epoch %d, sequence %d, %d records, version %d", to.producer, to.topic, to.partition, what, next.epoch, next.first, size, v),
		func(side int) kmsg.Request {
			b := batchOf(eventlog.None, values...)
			b.SetProducer(d.pids[to.producer][side], next.epoch, next.first)
			b.Reseal()
			req := produceRequest(to.topic, to.partition, -1, b)
			return versioned(req, v)
		}, func(_ int, r kmsg.Response) string {
			p := r.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
			if p.ErrorCode != 0 {
				return kerr.ErrorForCode(p.ErrorCode).Error()
			}
			return fmt.Sprint("at ", p.BaseOffset, " ", p.LogAppendTime)
		})
	if answer[:2] == "at" && what != "the same again" {
		d.sent[to] = next
	}
}

// after is the sequence n after another: they go round.
func after(seq, n int32) int32 { return int32((int64(seq) + int64(n)) % (math.MaxInt32 + 1)) }

func (d *topicsState) describeProducers(topic string, partition int32) {
	d.read(fmt.Sprintf("producers of %s/%d", topic, partition), func(int) kmsg.Request {
		req := kmsg.NewPtrDescribeProducersRequest()
		req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: topic, Partitions: []int32{partition}}}
		return req
	}, d.all())
}
