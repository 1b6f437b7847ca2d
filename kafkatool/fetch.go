package kafkatool

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// cursor is how far a partition is read.
type cursor struct {
	topic     string
	id        kadm.TopicID
	partition int32
	next      int64
}

// how says how to fetch.
type how struct {
	bytes, partBytes int32 // that an answer may have; a first batch may be larger
	wait             int32 // milliseconds, until there is anything
	uncommitted      bool
	control          bool // with the marks of transactions
}

// got is what was fetched of a partition.
type got struct {
	records []*kgo.Record
	next    int64 // to go on at
	end     int64 // of what may be read now
	err     error // kerr's, or that the bytes are wrong
}

// unpackBytes is how much is unpacked of a partition at a time, beyond a first batch.
const unpackBytes = 8 << 20

// unpacker unpacks batches until they are enough, and refuses one that would be more than a batch may be.
type unpacker struct{ done int }

func (u *unpacker) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	if codec == kgo.CodecNone {
		return src, nil
	}
	if u.done > unpackBytes {
		return nil, errEnough
	}
	b, err := eventlog.Decompress(eventlog.Codec(codec), src, eventlog.MaxDecompressed)
	u.done += len(b)
	return b, err
}

var (
	errNoAnswer = errors.New("the broker says nothing of the partition")
	errEnough   = errors.New("the rest is for the next time")
	errGarbled  = errors.New("what the broker sends cannot be read")
)

// fetch asks one broker once for what follows the cursors, of which it leads the partitions.
func (c *Cluster) fetch(ctx context.Context, leader int32, cursors []*cursor, h how) (*kmsg.FetchResponse, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = h.wait, 1, h.bytes
	req.SessionID, req.SessionEpoch = 0, -1
	if !h.uncommitted {
		req.IsolationLevel = 1
	}
	at := map[string]int{}
	for _, cu := range cursors {
		i, there := at[cu.topic]
		if !there {
			i = len(req.Topics)
			at[cu.topic] = i
			rt := kmsg.NewFetchRequestTopic()
			rt.Topic, rt.TopicID = cu.topic, cu.id
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = cu.partition, cu.next, h.partBytes, -1
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, rp)
	}
	resp, err := req.RequestWith(ctx, c.cl.Broker(int(leader)))
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch from broker %d: %w", leader, err)
	}
	return resp, nil
}

// take unpacks what an answer has of the cursor's partition.
func (cu *cursor) take(resp *kmsg.FetchResponse, h how) got {
	rp := cu.find(resp)
	if rp == nil {
		return got{next: cu.next, err: errNoAnswer}
	}
	if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
		return got{next: cu.next, err: err}
	}
	o := kgo.ProcessFetchPartitionOpts{Offset: cu.next, Topic: cu.topic, Partition: cu.partition, KeepControlRecords: h.control}
	end := rp.HighWatermark
	if !h.uncommitted {
		o.IsolationLevel = kgo.ReadCommitted()
		if rp.LastStableOffset >= 0 {
			end = rp.LastStableOffset
		}
	}
	fp, next := kgo.ProcessFetchPartition(o, rp, &unpacker{}, nil)
	g := got{records: fp.Records, next: next, end: end}
	switch {
	case errors.Is(fp.Err, errEnough): // what came before it is of aborted transactions
	case fp.Err != nil:
		g.err = fmt.Errorf("%q [%d] at %d: %w: %w", cu.topic, cu.partition, next, errGarbled, fp.Err)
	case next == cu.next && len(rp.RecordBatches) > 0:
		g.err = fmt.Errorf("%q [%d] at %d: %w: %d bytes hold no whole batch", cu.topic, cu.partition, next, errGarbled, len(rp.RecordBatches))
	}
	return g
}

func (cu *cursor) find(resp *kmsg.FetchResponse) *kmsg.FetchResponseTopicPartition {
	for i := range resp.Topics {
		rt := &resp.Topics[i]
		if resp.Version >= 13 && rt.TopicID != [16]byte(cu.id) || resp.Version < 13 && rt.Topic != cu.topic {
			continue
		}
		for j := range rt.Partitions {
			if rt.Partitions[j].Partition == cu.partition {
				return &rt.Partitions[j]
			}
		}
	}
	return nil
}

// passing tells an error that may be gone when the cluster is asked who leads now.
func passing(err error) bool {
	if errors.Is(err, ErrNoTopic) || errors.Is(err, errGarbled) {
		return false
	}
	var k *kerr.Error
	return !errors.As(err, &k) || k.Retriable
}
