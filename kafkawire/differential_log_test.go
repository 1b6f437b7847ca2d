package kafkawire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// logState is what the script of the log knows: topics, records, offsets, a group of one of the classic protocol, transactions of version 1.
type logState struct {
	*differ
	seq    map[string]int32 // of the idempotent producer, by partition
	pids   [2]int64
	member [2]string
	gen    int32
	tx     transaction
}

func logScript(d *differ) func() { return (&logState{differ: d}).step }

func (d *logState) step() {
	topic, partition := d.topic(), int32(d.rng.IntN(2))
	if d.chance(10) {
		partition = 2 // no topic has it
	}
	kinds := 13
	if d.real() { // kfake has codes of its own for epochs that are past
		kinds = 16
	}
	switch d.rng.IntN(kinds) {
	case 0, 1:
		d.createTopic(topic)
	case 2:
		if d.chance(3) && !d.tx.open {
			d.deleteTopic(topic)
		}
	case 3, 4, 5:
		d.produce(topic, partition)
	case 6:
		d.produceIdempotent(topic, partition)
	case 7:
		d.list(topic, partition)
	case 8:
		d.fetch(topic, partition)
	case 9:
		d.commit(topic, partition)
	case 10:
		d.committed(topic, partition)
	case 11, 12:
		d.groupStep()
	case 13, 14, 15:
		d.txnStep(topic, partition)
	}
}

func (d *logState) createTopic(name string) {
	v, partitions := int16(2+d.rng.IntN(6)), int32(2-d.rng.IntN(2)*d.rng.IntN(3))
	answer := d.both(fmt.Sprintf("create %s with %d", name, partitions), func(int) kmsg.Request {
		req := kmsg.NewPtrCreateTopicsRequest()
		topic := createTopic(name, partitions, 1)
		// Records have times of 1970: Kafka would delete them, and begin a segment, which ends every fetch, where a marker has the time of day.
		for name, value := range map[string]string{"segment.ms": "9223372036854775807", "retention.ms": "-1"} {
			topic.Configs = append(topic.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: name, Value: &value})
		}
		req.Topics = append(req.Topics, topic)
		return versioned(req, v)
	}, func(r kmsg.Response) string {
		return fmt.Sprint(r.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode)
	})
	if answer == "0" && d.settle != nil {
		d.settle(name, partitions)
	}
	d.seq = map[string]int32{} // a partition may be a new one
	d.pids = [2]int64{}
}

func (d *logState) deleteTopic(name string) {
	answer := d.both("delete "+name, func(int) kmsg.Request {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TopicNames = []string{name}
		return versioned(req, 4)
	}, func(r kmsg.Response) string { return fmt.Sprint(r.(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode) })
	if answer == "0" && d.settle != nil {
		d.settle(name, 0)
	}
}

func (d *logState) send(what, topic string, partition int32, batch func(side int) eventlog.RawBatch) string {
	v := int16(3 + d.rng.IntN(9))
	return d.both(fmt.Sprintf("%s to %s/%d, version %d", what, topic, partition, v), func(side int) kmsg.Request {
		req, records := produceRequest(topic, partition, -1, nil), batch(side)
		req.Topics[0].Partitions[0].Records = records
		if records.Attributes()&eventlog.AttrTransactional != 0 {
			req.TransactionID = new(d.name + "x")
		}
		return versioned(req, v)
	}, func(r kmsg.Response) string {
		p := r.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			return fmt.Sprint("error ", p.ErrorCode) // the other fields mean nothing then
		}
		return fmt.Sprint(p.BaseOffset, p.LogAppendTime)
	})
}

func (d *logState) produce(topic string, partition int32) {
	var values []string
	for range 1 + d.rng.IntN(4) {
		values = append(values, fmt.Sprint(d.rng.IntN(100)))
	}
	d.send("produce", topic, partition, func(int) eventlog.RawBatch { return batchOf(eventlog.Gzip, values...) })
}

// produceIdempotent sends the next batch, or one again. A gap as the first thing in a partition is left out: Kafka takes any
// first sequence, kfake does not.
func (d *logState) produceIdempotent(topic string, partition int32) {
	if d.pids[0] == 0 {
		for side, c := range []*client{d.ours, d.theirs} {
			d.pids[side] = do[*kmsg.InitProducerIDResponse](c, 4, kmsg.NewPtrInitProducerIDRequest()).ProducerID
		}
		d.seq = map[string]int32{}
	}
	key := fmt.Sprint(topic, partition)
	seq := d.seq[key]
	switch known := seq > 0; {
	case known && d.rng.IntN(4) == 0:
		seq -= 2
	case known && d.rng.IntN(6) == 0:
		seq += 2
	default:
		d.seq[key] += 2
	}
	answer := d.send(fmt.Sprint("sequence ", seq), topic, partition, func(side int) eventlog.RawBatch {
		b := batchOf(eventlog.None, "i", "j")
		b.SetProducer(d.pids[side], 0, seq)
		b.Reseal()
		return b
	})
	if answer == "error 3" { // no such topic: nothing went in
		delete(d.seq, key)
	}
}

func (d *logState) list(topic string, partition int32) {
	v, at := int16(1+d.rng.IntN(8)), []int64{-1, -2, -3, 0, 1001, 1003, 5000}[d.rng.IntN(7)]
	if at == -3 && v < 7 {
		return // not promised there
	}
	d.both(fmt.Sprintf("offset of %s/%d at %d, version %d", topic, partition, at, v), func(int) kmsg.Request {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID = -1
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = partition, at, -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		return versioned(req, v)
	}, func(r kmsg.Response) string {
		p := r.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			return fmt.Sprint("error ", p.ErrorCode)
		}
		if p.Timestamp > 1e9 { // of a marker: the time of day
			p.Timestamp = 1e9
		}
		return fmt.Sprint(p.Offset, p.Timestamp)
	})
}

func (d *logState) fetch(topic string, partition int32) {
	v, at := int16(4+d.rng.IntN(9)), int64(d.rng.IntN(20)-1)
	d.both(fmt.Sprintf("fetch %s/%d at %d, version %d", topic, partition, at, v), func(int) kmsg.Request {
		return versioned(fetchRequest(eventlog.Topic{Name: topic}, partition, at, 0, 0), v)
	}, func(r kmsg.Response) string {
		p := r.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			return fmt.Sprint("error ", p.ErrorCode)
		}
		found := values(d.t, p.RecordBatches, at)
		for i, v := range found {
			if len(v) == 6 { // a marker, with the epoch of its coordinator
				found[i] = "marker"
			}
		}
		return fmt.Sprint(p.HighWatermark, p.LastStableOffset, found)
	})
}
