package kafkawire

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
)

// The same requests, in the same order, to an independent implementation of the protocol: the answers must agree. Where both
// are right and differ, the script stays clear of it or the answer is left out; each such place says why.
func TestAgreesWithKfake(t *testing.T) {
	for i := range uint64(tier.N(200)) {
		seed := tier.Seed() + i
		fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(0), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "6000"}))
		if err != nil {
			t.Fatal(err)
		}
		n := start(t, Options{})
		d := newDiffer(t, seed, n, fake.ListenAddrs()[0])
		d.run(150)
		fake.Close()
		n.down()
		if d.difference != "" {
			t.Fatal(d.difference)
		}
	}
}

// An answer that is altered once it has come is a difference that the script finds: the comparison is not blind.
func TestDifferencesAreSeen(t *testing.T) {
	for what, alter := range map[string]func(kmsg.Response){
		"a base offset": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.ProduceResponse); ok {
				r.Topics[0].Partitions[0].BaseOffset++
			}
		},
		"a duplicate that counts as out of order": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.ProduceResponse); ok && r.Topics[0].Partitions[0].ErrorCode == kerr.OutOfOrderSequenceNumber.Code {
				r.Topics[0].Partitions[0].ErrorCode = kerr.DuplicateSequenceNumber.Code
			}
		},
		"an offset out of range that is none": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.FetchResponse); ok && r.Topics[0].Partitions[0].ErrorCode == kerr.OffsetOutOfRange.Code {
				r.Topics[0].Partitions[0].ErrorCode = 0
			}
		},
		"a high watermark": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.FetchResponse); ok {
				r.Topics[0].Partitions[0].HighWatermark++
			}
		},
		"a time found": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.ListOffsetsResponse); ok && r.Topics[0].Partitions[0].Timestamp > 0 {
				r.Topics[0].Partitions[0].Timestamp++
			}
		},
		"a stale generation that may sync": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.SyncGroupResponse); ok && r.ErrorCode == kerr.IllegalGeneration.Code {
				r.ErrorCode = 0
			}
		},
		"an offset that was not kept": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.OffsetFetchResponse); ok && len(r.Topics) > 0 && r.Topics[0].Partitions[0].Offset > 0 {
				r.Topics[0].Partitions[0].Offset = 0
			}
		},
		"a topic made twice": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.CreateTopicsResponse); ok {
				r.Topics[0].ErrorCode = 0
			}
		},
	} {
		seen := false
		for seed := uint64(1); seed <= 100 && !seen; seed++ {
			fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(0), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "6000"}))
			if err != nil {
				t.Fatal(err)
			}
			n := start(t, Options{})
			d := newDiffer(t, seed, n, fake.ListenAddrs()[0])
			d.alter = alter
			d.run(150)
			seen = d.difference != ""
			fake.Close()
			n.down()
		}
		if !seen {
			t.Errorf("%s is not seen", what)
		}
	}
}

// The same against one broker of Apache Kafka, which is the protocol (make test-all starts it).
func TestRealKafkaAgrees(t *testing.T) {
	addr := os.Getenv("MILLRACE_KAFKA_ONE")
	if addr == "" {
		t.Skip("MILLRACE_KAFKA_ONE IS NOT SET: it is the address of a cluster of one broker (make test-all sets it)")
	}
	first := tier.Seed()
	for seed := first; seed < first+20; seed++ {
		n := start(t, Options{})
		d := newDiffer(t, seed, n, addr)
		d.name = fmt.Sprintf("s%d-%x-", seed, time.Now().UnixNano())
		d.kafka()
		d.run(150)
		n.down()
		if d.difference != "" {
			t.Error(d.difference)
		}
	}
}

// known are the differences from Apache Kafka, and why. None changes what a client does.
var known = []struct {
	why  string
	step string // how it begins
	is   func(ours, theirs string) bool
}{
	{"whether there is such a partition Kafka asks before it asks the group, we after it: one error instead of another where both are", "commit ",
		func(ours, theirs string) bool {
			return theirs == "3" && slices.Contains([]string{"22", "25", "27"}, ours)
		}},
	{"of a batch that it had already Kafka answers with its greatest time as if it were the time of the append, which it is not", "sequence ",
		func(ours, theirs string) bool {
			return strings.TrimSuffix(ours, "-1") == strings.TrimSuffix(theirs, "1001")
		}},
}

// expected tells whether a difference from Kafka is a known one.
func expected(step, ours, theirs string) bool {
	for _, k := range known {
		if strings.HasPrefix(step, k.step) && k.is(ours, theirs) {
			return true
		}
	}
	return false
}

// kafka has the script wait for what Apache Kafka does after it has answered.
func (d *differ) kafka() {
	retry := func(what string, done func() bool) {
		d.t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				d.t.Fatalf("Kafka: %s does not come", what)
			}
		}
	}
	retry("the coordinator", func() bool { // and what it keeps, the first time
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey = d.group()
		return do[*kmsg.FindCoordinatorResponse](d.theirs, 3, req).ErrorCode == 0
	})
	retry("the group's partition", func() bool {
		return do[*kmsg.OffsetFetchResponse](d.theirs, 7, offsetFetchRequest(d.group(), "x", 0)).ErrorCode == 0
	})
	retry("the coordinator of transactions", func() bool {
		find, id, start := kmsg.NewPtrFindCoordinatorRequest(), d.name+"first", kmsg.NewPtrInitProducerIDRequest()
		find.CoordinatorKey, find.CoordinatorType = id, 1
		start.TransactionalID, start.TransactionTimeoutMillis = &id, 60_000
		return do[*kmsg.FindCoordinatorResponse](d.theirs, 3, find).ErrorCode == 0 && do[*kmsg.InitProducerIDResponse](d.theirs, 3, start).ErrorCode == 0
	})
	d.settle = func(topic string, partitions int32) {
		d.t.Helper()
		retry(topic, func() bool {
			req := kmsg.NewPtrListOffsetsRequest()
			req.ReplicaID = -1
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic = topic
			for i := range max(partitions, 1) {
				rp := kmsg.NewListOffsetsRequestTopicPartition()
				rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = i, -1, -1
				rt.Partitions = append(rt.Partitions, rp)
			}
			req.Topics = append(req.Topics, rt)
			for _, p := range do[*kmsg.ListOffsetsResponse](d.theirs, 7, req).Topics[0].Partitions {
				if want := partitions > 0; (p.ErrorCode == 0) != want || !want && p.ErrorCode != kerr.UnknownTopicOrPartition.Code {
					return false
				}
			}
			return true
		})
		for i := range int32(2) { // its offsets go with it
			retry("the end of offsets in "+topic, func() bool { return partitions > 0 || committed(d.theirs, d.group(), topic, i) < 0 })
		}
	}
}

// differ asks both.
type differ struct {
	t            *testing.T
	seed         uint64
	rng          *rand.Rand
	ours, theirs *client
	alter        func(ours kmsg.Response) // nil, or a difference that a test plants
	difference   string                   // the first one there was; it is the end of the script
	ended        bool                     // the script was gone through
	script       []string
	name         string                               // before the names of all topics and groups
	settle       func(topic string, partitions int32) // nil, or waits until a topic has so many partitions there, for what changes it only soon
	seq          map[string]int32                     // of the idempotent producer, by partition
	pids         [2]int64
	member       [2]string
	gen          int32
	tx           transaction
}

func newDiffer(t *testing.T, seed uint64, n *node, theirs string) *differ {
	d := &differ{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 3)), ours: n.dial(), theirs: dialTo(t, theirs)}
	t.Cleanup(func() {
		if t.Failed() && d.difference == "" && !d.ended {
			t.Logf("seed %d ended after %q", d.seed, d.script[max(0, len(d.script)-12):])
		}
	})
	return d
}

// run takes so many steps, or as many as there are to the first difference.
func (d *differ) run(steps int) {
	for range steps {
		if d.difference == "" {
			d.step()
		}
	}
	d.ended = true
}

// both sends what build makes for each side, and compares what digest makes of the answers. It returns ours.
func (d *differ) both(what string, build func(side int) kmsg.Request, digest func(kmsg.Response) string) string {
	d.t.Helper()
	var answers [2]string
	for side, c := range []*client{d.ours, d.theirs} {
		req := build(side)
		resp := c.receive(req, c.send(req))
		if side == 0 && d.alter != nil {
			d.alter(resp)
		}
		answers[side] = digest(resp)
	}
	d.script = append(d.script, fmt.Sprintf("%s -> %s", what, answers[0]))
	if answers[0] != answers[1] && d.difference == "" && (d.settle == nil || !expected(what, answers[0], answers[1])) {
		d.difference = fmt.Sprintf("seed %d, after %q:\n%s\nours:   %s\ntheirs: %s", d.seed, d.script[max(0, len(d.script)-8):], what, answers[0], answers[1])
	}
	return answers[0]
}

func versioned[R kmsg.Request](req R, version int16) R {
	req.SetVersion(version)
	return req
}

func (d *differ) topic() string { return fmt.Sprint(d.name, "t", d.rng.IntN(3)) }

func (d *differ) group() string { return d.name + "g" }

func (d *differ) step() {
	topic, partition := d.topic(), int32(d.rng.IntN(2))
	if d.rng.IntN(10) == 0 {
		partition = 2 // no topic has it
	}
	kinds := 13
	if d.settle != nil { // kfake has codes of its own for epochs that are past
		kinds = 16
	}
	switch d.rng.IntN(kinds) {
	case 0, 1:
		d.createTopic(topic)
	case 2:
		if d.rng.IntN(3) == 0 && !d.tx.open {
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

func (d *differ) createTopic(name string) {
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

func (d *differ) deleteTopic(name string) {
	answer := d.both("delete "+name, func(int) kmsg.Request {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TopicNames = []string{name}
		return versioned(req, 4)
	}, func(r kmsg.Response) string { return fmt.Sprint(r.(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode) })
	if answer == "0" && d.settle != nil {
		d.settle(name, 0)
	}
}

func (d *differ) send(what, topic string, partition int32, batch func(side int) eventlog.RawBatch) string {
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

func (d *differ) produce(topic string, partition int32) {
	var values []string
	for range 1 + d.rng.IntN(4) {
		values = append(values, fmt.Sprint(d.rng.IntN(100)))
	}
	d.send("produce", topic, partition, func(int) eventlog.RawBatch { return batchOf(eventlog.Gzip, values...) })
}

// produceIdempotent sends the next batch, or one again. A gap as the first thing in a partition is left out: Kafka takes any
// first sequence, kfake does not.
func (d *differ) produceIdempotent(topic string, partition int32) {
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

func (d *differ) list(topic string, partition int32) {
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

func (d *differ) fetch(topic string, partition int32) {
	v, at := int16(4+d.rng.IntN(9)), int64(d.rng.IntN(20)-1)
	d.both(fmt.Sprintf("fetch %s/%d at %d, version %d", topic, partition, at, v), func(int) kmsg.Request {
		return versioned(fetchRequest(eventlog.Topic{Name: topic}, partition, at, 0, 0), v)
	}, func(r kmsg.Response) string {
		p := r.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		if p.ErrorCode != 0 {
			return fmt.Sprint("error ", p.ErrorCode)
		}
		return fmt.Sprint(p.HighWatermark, p.LastStableOffset, values(d.t, p.RecordBatches, at))
	})
}

func (d *differ) commit(topic string, partition int32) {
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
		if code == 22 || code == 69 { // kfake looks at the generation of an empty group before the member, Kafka after it, and at whether there is a group: each makes a client join again
			code = 25
		}
		return fmt.Sprint(code)
	})
}

func (d *differ) committed(topic string, partition int32) {
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
func (d *differ) groupStep() {
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
func (d *differ) join() {
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
