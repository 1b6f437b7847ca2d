package kafkawire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (d *logState) commit(topic string, partition int32) {
	v, at := int16(2+d.rng.IntN(8)), d.rng.Int64N(100)
	generation, member := int32(-1), [2]string{}
	if d.rng.IntN(2) == 0 {
		generation, member = d.gen-int32(d.rng.IntN(4)/3), d.member
	}
	d.both(fmt.Sprintf("commit %s/%d at %d, generation %d", topic, partition, at, generation), func(side int) kmsg.Request {
		req := commitRequest(d.group(), topic, partition, at)
		req.Generation, req.MemberID = generation, member[side]
		return versioned(req, v)
	}, func(r kmsg.Response) string {
		code := r.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode
		if !d.real() && (code == 22 || code == 69) { // kfake looks at the generation of an empty group before the member, and at whether there is a group
			code = 25
		}
		return fmt.Sprint(code)
	})
}

func (d *logState) committed(topic string, partition int32) {
	v := int16(1 + d.rng.IntN(9))
	d.both(fmt.Sprintf("committed in %s/%d, version %d", topic, partition, v), func(int) kmsg.Request {
		return versioned(offsetFetchRequest(d.group(), topic, partition), v)
	}, func(r kmsg.Response) string {
		resp := r.(*kmsg.OffsetFetchResponse)
		if len(resp.Groups) > 0 && len(resp.Groups[0].Topics) > 0 {
			return fmt.Sprint(resp.Groups[0].Topics[0].Partitions[0].Offset)
		}
		if len(resp.Topics) > 0 {
			return fmt.Sprint(resp.Topics[0].Partitions[0].Offset)
		}
		return "-1" // kfake has an error for a group that is not, Kafka has not
	})
}

// groupStep goes through the life of a group of one, now and then the wrong way.
func (d *logState) groupStep() {
	memberOf := func(side int) string { return d.member[side] }
	digest := func(r kmsg.Response) string {
		switch r := r.(type) {
		case *kmsg.SyncGroupResponse:
			return fmt.Sprint(noMember(r.ErrorCode), string(r.MemberAssignment))
		case *kmsg.HeartbeatResponse:
			return fmt.Sprint(noMember(r.ErrorCode))
		case *kmsg.LeaveGroupResponse:
			if len(r.Members) > 0 && r.ErrorCode == 0 {
				return fmt.Sprint(noMember(r.Members[0].ErrorCode))
			}
			return fmt.Sprint(noMember(r.ErrorCode))
		}
		return fmt.Sprintf("%T", r)
	}
	generation := d.gen - int32(d.rng.IntN(5)/4)
	switch d.rng.IntN(5) {
	case 0:
		d.join()
	case 1, 2:
		v := int16(d.rng.IntN(6))
		d.both(fmt.Sprint("sync, generation ", generation), func(side int) kmsg.Request {
			return versioned(syncRequest(d.group(), &kmsg.JoinGroupResponse{Generation: generation, MemberID: memberOf(side)}, memberOf(side), "all"), v)
		}, digest)
	case 3:
		d.both(fmt.Sprint("heartbeat, generation ", generation), func(side int) kmsg.Request {
			req := kmsg.NewPtrHeartbeatRequest()
			req.Group, req.Generation, req.MemberID = d.group(), generation, memberOf(side)
			return versioned(req, 3)
		}, digest)
	case 4:
		if d.rng.IntN(2) > 0 {
			return
		}
		v := int16(d.rng.IntN(6))
		d.both("leave", func(side int) kmsg.Request {
			req := kmsg.NewPtrLeaveGroupRequest()
			req.Group, req.MemberID = d.group(), memberOf(side)
			m := kmsg.NewLeaveGroupRequestMember()
			m.MemberID = memberOf(side)
			req.Members = append(req.Members, m)
			return versioned(req, v)
		}, digest)
		d.member = [2]string{"gone", "gone"}
	}
}

// noMember makes one of kfake's GROUP_ID_NOT_FOUND and Kafka's UNKNOWN_MEMBER_ID, for a group that is not.
func noMember(code int16) int16 {
	if code == kerr.GroupIDNotFound.Code {
		return kerr.UnknownMemberID.Code
	}
	return code
}

// join makes the one member, or has it join again. With another id there would be two, and who waits for whom.
func (d *logState) join() {
	v := int16(1 + d.rng.IntN(9)) // kfake drops members of version 0, which has no rebalance timeout, before they can sync
	if d.member[0] == "" || d.member[0] == "gone" {
		d.member = [2]string{}
	}
	var next [2]string
	round := func() {
		side := 0
		d.both(fmt.Sprintf("join, version %d", v), func(s int) kmsg.Request {
			req := joinRequest(d.group(), d.member[s])
			subscription := kmsg.NewConsumerMemberMetadata() // what does not parse as one makes Kafka's coordinator fail, and the join wait for ever
			subscription.Topics = []string{d.name + "t0"}
			req.Protocols[0].Metadata = subscription.AppendTo(nil)
			return versioned(req, v)
		}, func(r kmsg.Response) string {
			resp := r.(*kmsg.JoinGroupResponse)
			next[side] = resp.MemberID
			side++
			if resp.ErrorCode != 0 {
				return fmt.Sprint("error ", resp.ErrorCode, resp.MemberID != "")
			}
			d.gen = resp.Generation
			return fmt.Sprint(resp.Generation, *resp.Protocol, resp.LeaderID == resp.MemberID, len(resp.Members))
		})
		d.member = next
	}
	first := d.member[0] == ""
	round()
	if first && v >= 4 { // the first answer was an id
		round()
	}
}
