package kafkawire

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// topicsState is what the script of topics knows: their ids, of those that are and of those that were.
type topicsState struct {
	*differ
	made int
	ids  map[string][][2][16]byte // by name, the newest last

	codecs []eventlog.Codec
}

func newTopicsState(d *differ) *topicsState {
	return &topicsState{differ: d, ids: map[string][][2][16]byte{}, codecs: []eventlog.Codec{eventlog.None, eventlog.Gzip, eventlog.Snappy, eventlog.LZ4}}
}

func topicsScript(d *differ) func() {
	s := newTopicsState(d)
	s.codecs = append(s.codecs, eventlog.Zstd)
	return s.step
}

// quiet are configs of topics whose records have times of 1970: Kafka would delete them, and begin a segment, which ends every fetch, where a
// marker has the time of day.
var quiet = []string{"segment.ms", "9223372036854775807", "retention.ms", "-1"}

func (d *topicsState) topic() string { return fmt.Sprint(d.name, "t", d.rng.IntN(4)) }

func (d *topicsState) step() {
	topic, partition := d.topic(), int32(d.rng.IntN(4))
	switch d.rng.IntN(17) {
	case 0, 1:
		d.create(topic)
	case 2:
		d.createWrongly(topic)
	case 3:
		d.remove()
	case 4:
		d.removeWrongly()
	case 5:
		d.metadata()
	case 6, 7, 8:
		d.produce(topic, partition)
	case 9:
		d.fetch(topic, partition)
	case 10:
		d.deleteRecords(topic, partition)
	case 11:
		d.endOfEpoch(topic, partition)
	case 12:
		d.list(topic, partition)
	case 13:
		d.describe()
	case 14:
		d.grow(topic)
	case 15:
		d.offsets(topic, partition)
	case 16:
		d.read("directories", func(int) kmsg.Request {
			req := kmsg.NewPtrDescribeLogDirsRequest()
			req.Topics = []kmsg.DescribeLogDirsRequestTopic{{Topic: topic, Partitions: []int32{0, partition}}}
			return versioned(req, int16(1+d.rng.IntN(4)))
		}, d.all("Dir", "Size", "TotalBytes", "UsableBytes", "AuthorizedOperations", "IsCordoned"))
	}
}

// live are the names of the topics that are there.
func (d *topicsState) live() (names []string) {
	for _, t := range do[*kmsg.MetadataResponse](d.ours, 5, kmsg.NewPtrMetadataRequest()).Topics {
		if strings.HasPrefix(*t.Topic, d.name+"t") {
			names = append(names, *t.Topic)
		}
	}
	slices.Sort(names)
	return names
}

func (d *topicsState) create(name string) {
	v, partitions, validate := int16(2+d.rng.IntN(6)), int32(1+d.rng.IntN(3)), d.chance(4)
	replicas := one[int16](d.differ, 1, 1, -1)
	answer := d.ask(fmt.Sprintf("create %s with %d of %d replicas, version %d, validate only %v", name, partitions, replicas, v, validate), func(int) kmsg.Request {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.ValidateOnly = validate
		req.Topics = append(req.Topics, createTopic(name, partitions, replicas, quiet...))
		return versioned(req, v)
	}, d.all("Configs", "TopicID"))
	if validate || strings.Contains(answer, "ErrorCode") {
		return
	}
	d.created(name, partitions)
}

// created notes the ids of a topic.
func (d *topicsState) created(name string, partitions int32) {
	if d.real() && d.difference == "" {
		d.settle(name, partitions)
	}
	d.made++
	var ids [2][16]byte
	for side, c := range []*client{d.ours, d.theirs} {
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = []kmsg.MetadataRequestTopic{{Topic: &name}}
		ids[side] = do[*kmsg.MetadataResponse](c, 12, req).Topics[0].TopicID
		d.learn(side, ids[side], fmt.Sprint("id", d.made))
	}
	d.ids[name] = append(d.ids[name], ids)
}

// id picks the id of a topic that is, that was, that never was, or none.
func (d *topicsState) id() (what string, ids [2][16]byte) {
	name := d.topic()
	switch past := d.ids[name]; {
	case d.chance(10):
		return "no id", ids
	case d.chance(10) || len(past) == 0:
		return "an unknown id", [2][16]byte{{1, 2, 3}, {1, 2, 3}}
	default:
		ids = past[max(0, len(past)-1-d.rng.IntN(2))]
		return d.differ.ids[0][ids[0]], ids
	}
}

func (d *topicsState) createWrongly(name string) {
	v := int16(2 + d.rng.IntN(6))
	t := createTopic(name, 1, 1, quiet...)
	long := strings.Repeat("x", 250)
	assign := func(t *kmsg.CreateTopicsRequestTopic, partition int32, replicas ...int32) {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = partition, replicas
		t.NumPartitions, t.ReplicationFactor = -1, -1
		t.ReplicaAssignment = append(t.ReplicaAssignment, a)
	}
	wrong := []struct {
		what string
		make func(*kmsg.CreateTopicsRequest, *kmsg.CreateTopicsRequestTopic)
	}{
		{"no name", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.Topic = "" }},
		{"a dot", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.Topic = "." }},
		{"two dots", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.Topic = ".." }},
		{"a space", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.Topic = "a b" }},
		{"a long name", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.Topic = long }},
		{"a slash", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.Topic = "a/b" }},
		{"no partitions", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.NumPartitions = 0 }},
		{"-2 partitions", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.NumPartitions = -2 }},
		{"no replicas", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.ReplicationFactor = 0 }},
		{"-2 replicas", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.ReplicationFactor = -2 }},
		{"three replicas", func(r *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) {
			t.ReplicationFactor, r.ValidateOnly = 3, true
		}},
		{"the offsets' own topic", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { t.Topic = "__consumer_offsets" }},
		{"an assignment and a count", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) {
			assign(t, 0, 1)
			t.NumPartitions = 1
		}},
		{"an assignment from 1 on", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { assign(t, 1, 1) }},
		{"an assignment to nobody", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { assign(t, 0) }},
		{"an assignment to one twice", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { assign(t, 0, 1, 1) }},
		{"an assignment to one who is not", func(r *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) {
			assign(t, 0, 77)
			r.ValidateOnly = true
		}},
		{"an assignment of one partition twice", func(_ *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) {
			assign(t, 0, 1)
			assign(t, 0, 1)
		}},
		{"the same twice", func(r *kmsg.CreateTopicsRequest, t *kmsg.CreateTopicsRequestTopic) { r.Topics = append(r.Topics, *t) }},
	}
	w := one(d.differ, wrong...)
	d.ask(fmt.Sprintf("create %s wrongly: %s, version %d", name, w.what, v), func(int) kmsg.Request {
		req, t := kmsg.NewPtrCreateTopicsRequest(), t
		w.make(req, &t)
		req.Topics = append(req.Topics, t)
		return versioned(req, v)
	}, d.all("Configs"))
}

// remove deletes a topic, one of several, and returns its name.
func (d *topicsState) remove() string {
	names := d.live()
	if len(names) < 2 {
		return ""
	}
	name, v, byID := one(d.differ, names...), int16(1+d.rng.IntN(6)), d.chance(2)
	if byID {
		v = 6
	}
	ids := d.ids[name][len(d.ids[name])-1]
	answer := d.ask(fmt.Sprintf("delete %s, version %d, by id %v", name, v, byID), func(side int) kmsg.Request {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TopicNames, req.TimeoutMillis = []string{name}, 10_000
		t := kmsg.NewDeleteTopicsRequestTopic()
		if t.Topic = &name; byID {
			t.Topic, t.TopicID = nil, ids[side]
		}
		if v == 6 { // Topics and TopicNames are not in the same versions
			req.Topics = append(req.Topics, t)
		}
		return versioned(req, v)
	}, d.all())
	if d.real() && !strings.Contains(answer, "ErrorCode") {
		d.settle(name, 0)
	}
	return name
}

func (d *topicsState) removeWrongly() {
	what, ids := d.id()
	if slices.ContainsFunc(d.live(), func(name string) bool { return d.ids[name][len(d.ids[name])-1] == ids }) {
		ids, what = [2][16]byte{{9}, {9}}, "another unknown id"
	}
	name, which := d.name+"none", d.rng.IntN(4)
	d.ask(fmt.Sprintf("delete wrongly, %s, way %d", what, which), func(side int) kmsg.Request {
		req := kmsg.NewPtrDeleteTopicsRequest()
		t := kmsg.NewDeleteTopicsRequestTopic()
		switch which {
		case 0:
			t.Topic = &name
		case 1:
			t.TopicID = ids[side]
		case 2:
			t.Topic, t.TopicID = &name, ids[side]
		case 3:
			t.Topic = &name
			req.Topics = append(req.Topics, t)
		}
		req.Topics = append(req.Topics, t)
		return versioned(req, 6)
	}, d.all())
}

func (d *topicsState) metadata() {
	v, name := int16(d.rng.IntN(14)), d.topic()
	what, ids := "", [2][16]byte{}
	if v >= 10 && d.chance(2) {
		what, ids = d.id()
		what, name = " "+what, ""
	}
	d.read(fmt.Sprintf("metadata of %s%s, version %d", name, what, v), func(side int) kmsg.Request {
		req := kmsg.NewPtrMetadataRequest()
		t := kmsg.NewMetadataRequestTopic()
		if t.TopicID = ids[side]; name != "" || v < 12 {
			t.Topic = &name
		}
		req.Topics = append(req.Topics, t)
		return versioned(req, v)
	}, d.all("Brokers", "ClusterID", "ControllerID", "Leader", "Replicas", "ISR", "AuthorizedOperations"))
}

func (d *topicsState) produce(topic string, partition int32) {
	v, codec := int16(7+d.rng.IntN(7)), one(d.differ, d.codecs...)
	what, ids := topic, [2][16]byte{}
	if v >= 13 {
		what, ids = d.id()
	}
	var b eventlog.Builder
	for i := range 1 + d.rng.IntN(5) {
		b.Add(1000+d.rng.Int64N(20), fmt.Append(nil, d.rng.IntN(3)), fmt.Append(nil, i, strings.Repeat("-", d.rng.IntN(50))), nil)
	}
	batch, _, err := b.Batch(eventlog.Part{}, codec)
	if err != nil {
		d.t.Fatal(err)
	}
	d.ask(fmt.Sprintf("produce to %s/%d, version %d, %v", what, partition, v, codec), func(side int) kmsg.Request {
		req := produceRequest(topic, partition, -1, slices.Clone(batch.Raw()))
		req.Topics[0].TopicID = ids[side]
		return versioned(req, v)
	}, d.all("LogStartOffset", "BaseOffset", "LogAppendTime"))
	if codec == eventlog.Zstd && v < 13 {
		d.fetchAt(topic, partition, 0, int16(4+d.rng.IntN(8))) // what clients of before version 10 get of it
	}
}

func (d *topicsState) fetch(topic string, partition int32) {
	d.fetchAt(topic, partition, int64(d.rng.IntN(16)-1), int16(4+d.rng.IntN(14)))
}

func (d *topicsState) fetchAt(topic string, partition int32, at int64, v int16) {
	what, ids := topic, [2][16]byte{}
	if v >= 13 {
		what, ids = d.id()
	}
	d.read(fmt.Sprintf("fetch %s/%d at %d, version %d", what, partition, at, v), func(side int) kmsg.Request {
		return versioned(fetchRequest(eventlog.Topic{Name: topic, ID: ids[side]}, partition, at, 0, 0), v)
	}, d.all("SessionID"))
}

func (d *topicsState) deleteRecords(topic string, partition int32) {
	v, at := int16(d.rng.IntN(3)), one[int64](d.differ, -1, -1, -2, 0, 1, 2, 3, 5, 8, 1000)
	d.ask(fmt.Sprintf("delete records of %s/%d to %d, version %d", topic, partition, at, v), func(int) kmsg.Request {
		req := kmsg.NewPtrDeleteRecordsRequest()
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic = topic
		rt.Partitions = append(rt.Partitions, kmsg.DeleteRecordsRequestTopicPartition{Partition: partition, Offset: at})
		req.Topics = append(req.Topics, rt)
		return versioned(req, v)
	}, d.all())
}

func (d *topicsState) endOfEpoch(topic string, partition int32) {
	v, current, epoch := int16(2+d.rng.IntN(3)), one[int32](d.differ, -1, -1, 0, 1), one[int32](d.differ, -1, 0, 0, 1, 7)
	d.ask(fmt.Sprintf("end of epoch %d of %s/%d, which is in %d, version %d", epoch, topic, partition, current, v), func(int) kmsg.Request {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.ReplicaID = -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = topic
		rt.Partitions = append(rt.Partitions, kmsg.OffsetForLeaderEpochRequestTopicPartition{Partition: partition, CurrentLeaderEpoch: current, LeaderEpoch: epoch})
		req.Topics = append(req.Topics, rt)
		return versioned(req, v)
	}, d.all())
}

func (d *topicsState) list(topic string, partition int32) {
	v, at := int16(1+d.rng.IntN(11)), one[int64](d.differ, -1, -2, -3, -3, -4, -5, -6, -7, 0, 1000, 1003, 1007, 1011, 1019, 5000)
	current, isolation, twice := one[int32](d.differ, -1, -1, 0, 1), int8(d.rng.IntN(2)), d.chance(15)
	if !d.real() && (v > 10 || at < 0 && specialSince[at] == 0 || at < 0 && v < specialSince[at]) {
		return // kfake ends the connection
	}
	d.ask(fmt.Sprintf("offset of %s/%d at %d in epoch %d, version %d, twice %v", topic, partition, at, current, v, twice), func(int) kmsg.Request {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID, req.IsolationLevel = -1, isolation
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = partition, at, current
		if rt.Partitions = append(rt.Partitions, rp); twice {
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
		return versioned(req, v)
	}, d.all())
}

// describe pages through topics.
func (d *topicsState) describe() {
	limit := one[int32](d.differ, 1, 2, 3, 5, 2000)
	var names []string
	for range 1 + d.rng.IntN(4) {
		if name := d.topic(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var cursor *kmsg.DescribeTopicPartitionsRequestCursor
	if d.chance(3) {
		cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: d.topic(), Partition: int32(d.rng.IntN(5) - 1)}
	}
	d.read(fmt.Sprintf("describe %v from %+v, %d at most", names, cursor, limit), func(int) kmsg.Request {
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		for _, name := range names {
			req.Topics = append(req.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: name})
		}
		req.ResponsePartitionLimit, req.Cursor = limit, cursor
		return req
	}, d.all("Leader", "LeaderID", "Replicas", "ReplicaNodes", "ISR", "IsrNodes", "AuthorizedOperations", "TopicAuthorizedOperations"))
}

func (d *topicsState) grow(topic string) {
	v, count, validate := int16(d.rng.IntN(4)), int32(d.rng.IntN(6)-1), d.chance(3)
	assigned := d.rng.IntN(3) // 0: the request has no assignment
	if d.chance(2) {
		assigned = 0
	}
	replica := one[int32](d.differ, 1, 1, 77)
	if !d.real() {
		replica = 0 // what kfake calls itself
	}
	if replica == 77 && assigned > 0 { // which they may see differently: nothing is to come of it
		validate = true
	}
	answer := d.ask(fmt.Sprintf("grow %s to %d, version %d, validate only %v, %d assigned to %d", topic, count, v, validate, assigned, replica), func(side int) kmsg.Request {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.ValidateOnly, req.TimeoutMillis = validate, 10_000
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = topic, count
		for range assigned {
			rt.Assignment = append(rt.Assignment, kmsg.CreatePartitionsRequestTopicAssignment{Replicas: []int32{replica}})
		}
		req.Topics = append(req.Topics, rt)
		return versioned(req, v)
	}, d.all())
	if d.real() && !validate && d.difference == "" && !strings.Contains(answer, "ErrorCode") {
		d.settle(topic, count)
	}
}

// offsets commits, deletes and reads offsets of a group that has no members, some by topics' ids.
func (d *topicsState) offsets(topic string, partition int32) {
	group := one(d.differ, d.group(), d.group(), d.name+"no group")
	switch what, ids := d.id(); d.rng.IntN(4) {
	case 0:
		v := int16(2 + d.rng.IntN(9))
		if v < 10 {
			what = topic
		}
		d.ask(fmt.Sprintf("commit %s/%d, version %d", what, partition, v), func(side int) kmsg.Request {
			req := commitRequest(d.group(), topic, partition, int64(v))
			req.Topics[0].TopicID = ids[side]
			return versioned(req, v)
		}, d.all())
	case 1:
		for range 1 + d.rng.IntN(2) { // the second time the group may have none any more
			d.ask(fmt.Sprintf("delete the offset of %s in %s/%d", group, topic, partition), func(int) kmsg.Request {
				req := kmsg.NewPtrOffsetDeleteRequest()
				req.Group = group
				req.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: partition}}}}
				return req
			}, d.all())
		}
	case 2:
		v := int16(8 + d.rng.IntN(3))
		d.read(fmt.Sprintf("offsets of %s in %s/%d, version %d", group, topic, partition, v), func(side int) kmsg.Request {
			req := offsetFetchRequest(group, topic, partition)
			if req.Groups[0].Topics[0].TopicID = ids[side]; v == 10 {
				req.Groups[0].Topics[0].Topic = ""
			}
			return versioned(req, v)
		}, d.all())
	case 3:
		v := int16(2 + d.rng.IntN(9))
		d.read(fmt.Sprintf("all offsets of %s, version %d", group, v), func(int) kmsg.Request {
			req := offsetFetchRequest(group, topic, partition)
			req.Topics, req.Groups[0].Topics = nil, nil
			return versioned(req, v)
		}, d.all())
	}
}
