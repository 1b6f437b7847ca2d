package kafkawire

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// ListOffsets: key 2, versions 1–11.
//
// Timestamps from 0 on: the first record that is as new, with its own timestamp, even inside a compressed batch. The special
// ones: -1 the end, -2 the start, -3 the newest record (the first of several), -4 the local start, which is the start, -5
// the last tiered record and -6 the first that is to be tiered: there is no tier, and so no such record. Each is UNSUPPORTED_VERSION before
// the version that brought it. A partition named twice is INVALID_REQUEST, once, as in Kafka.
func init() {
	register(1, 11, "i32 i8:2+ [ s [ i32 i32:4+ i64 ] ] i32:10+", listOffsets)
}

// namedPart is a partition as a request names it.
type namedPart struct {
	topic string
	index int32
}

const (
	latestOffset        = -1
	earliestOffset      = -2
	maxTimestampOffset  = -3
	earliestLocalOffset = -4
	latestTieredOffset  = -5
	toBeTieredOffset    = -6
)

// specialSince is in which version each of them came.
var specialSince = map[int64]int16{latestOffset: 1, earliestOffset: 1, maxTimestampOffset: 7, earliestLocalOffset: 8, latestTieredOffset: 9, toBeTieredOffset: 11}

func listOffsets(c *conn, req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := kmsg.NewPtrListOffsetsResponse()
	times := map[namedPart]int{}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			times[namedPart{t.Topic, p.Partition}]++
		}
	}
	for _, t := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		topic, ok := c.s.topic(t.Topic)
		for _, p := range t.Partitions {
			named := namedPart{t.Topic, p.Partition}
			if times[named] == 0 {
				continue // it had its answer
			}
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition, rp.Offset, rp.Timestamp = p.Partition, -1, -1
			part := eventlog.Part{Topic: topic.ID, Index: p.Partition}
			switch {
			case !c.mayTopic(kmsg.ACLOperationDescribe, t.Topic):
				rp.ErrorCode = kerr.TopicAuthorizationFailed.Code
			case times[named] > 1:
				times[named] = 0
				rp.ErrorCode = kerr.InvalidRequest.Code
			case p.Timestamp < 0 && (specialSince[p.Timestamp] == 0 || specialSince[p.Timestamp] > req.Version):
				rp.ErrorCode = kerr.UnsupportedVersion.Code
			case !ok || p.Partition < 0 || p.Partition >= topic.Partitions:
				rp.ErrorCode = kerr.UnknownTopicOrPartition.Code
			case c.ctx.Err() != nil: // a look-up may read much, and nobody waits for it
				return nil
			case p.CurrentLeaderEpoch > leaderEpoch:
				rp.ErrorCode = kerr.UnknownLeaderEpoch.Code
			default:
				c.listOffset(part, p.Timestamp, req.IsolationLevel == readCommitted, &rp)
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// readCommitted is the isolation level of who must not see what may be aborted yet, or was.
const readCommitted = 1

func (c *conn) listOffset(part eventlog.Part, at int64, committed bool, rp *kmsg.ListOffsetsResponseTopicPartition) {
	var err error
	found := func(o, t int64) {
		if rp.Offset, rp.Timestamp = o, t; o >= 0 {
			rp.LeaderEpoch = leaderEpoch
		}
	}
	switch {
	case at == latestOffset:
		var end int64
		if committed {
			end, err = c.edge(c.s.Engine.Ends, part)
		} else {
			end, err = c.edge(c.s.Engine.Highs, part)
		}
		found(end, -1)
	case at == earliestOffset, at == earliestLocalOffset:
		var start int64
		start, err = c.edge(c.s.Engine.Starts, part)
		found(start, -1)
	case at == latestTieredOffset, at == toBeTieredOffset:
	case at == maxTimestampOffset:
		o, e := c.s.Engine.FindMaxTime(part)
		if err = e; err == nil && committed {
			var end int64
			if end, err = c.edge(c.s.Engine.Ends, part); o.Offset >= end {
				break // as Kafka has it: not the newest among those below
			}
		}
		found(o.Offset, o.Timestamp)
	default:
		find := c.s.Engine.FindTime
		if committed {
			find = c.s.Engine.FindCommittedTime
		}
		o, e := find(part, at)
		if err = e; mutant(mutantTimeAsked) && o.Offset >= 0 {
			o.Timestamp = at
		}
		found(o.Offset, o.Timestamp)
	}
	if err != nil {
		rp.Offset, rp.Timestamp, rp.ErrorCode = -1, -1, code(err).Code
	}
}
