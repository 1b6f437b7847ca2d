package kafkawire

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

func TestAPIVersions(t *testing.T) {
	n := start(t, Options{})
	c := n.dial()
	for v := int16(0); v <= 4; v++ {
		req := kmsg.NewPtrApiVersionsRequest()
		req.ClientSoftwareName, req.ClientSoftwareVersion = "test", "1"
		resp := do[*kmsg.ApiVersionsResponse](c, v, req)
		if resp.ErrorCode != 0 || len(resp.ApiKeys) != len(apis()) {
			t.Fatalf("version %d: error %d, %d keys", v, resp.ErrorCode, len(resp.ApiKeys))
		}
		if v < 3 {
			continue
		}
		final := map[string]int16{}
		for i, f := range resp.FinalizedFeatures {
			final[f.Name] = f.MaxVersionLevel
			if s := resp.SupportedFeatures[i]; s.Name != f.Name || s.MaxVersion != f.MaxVersionLevel || s.MinVersion > 0 == (v > 3) {
				t.Fatalf("version %d: supported %+v, final %+v", v, s, f) // before version 4 a level 0 cannot be told
			}
		}
		if final["group.version"] != 1 {
			t.Fatalf("version %d: features %v", v, final)
		}
	}
	// What librdkafka before 2.11 and other old clients look for, exactly: without these they do without groups,
	// compression or idempotence.
	ranges := map[int16][2]int16{}
	for _, a := range apis() {
		k := advertise(a)
		ranges[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
	}
	for key, versions := range map[int16][]int16{
		0: {0, 3, 7}, 1: {4, 10}, 2: {1}, 3: {1}, 8: {2}, 9: {1}, 10: {0}, 11: {0}, 12: {0}, 13: {0}, 14: {0}, 16: {1}, 22: {0},
	} {
		for _, v := range versions {
			if r := ranges[key]; v < r[0] || v > r[1] {
				t.Errorf("%s: version %d is not in %v", kmsg.NameForKey(key), v, r)
			}
		}
	}
	// A version from the future is answered in version 0 (KIP-511), on a connection that goes on.
	future := kmsg.NewPtrApiVersionsRequest()
	future.SetVersion(5)
	frame := frameOf(future, 99)
	frame[7] = 77
	if _, err := c.nc.Write(frame); err != nil {
		t.Fatal(err)
	}
	resp := c.receive(kmsg.NewPtrApiVersionsRequest(), 99).(*kmsg.ApiVersionsResponse)
	if resp.ErrorCode != kerr.UnsupportedVersion.Code || len(resp.ApiKeys) != 1 || resp.ApiKeys[0].ApiKey != 18 || resp.ApiKeys[0].MaxVersion != 4 {
		t.Fatalf("from the future: %+v", resp)
	}
	do[*kmsg.ApiVersionsResponse](c, 0, kmsg.NewPtrApiVersionsRequest())
}

func metadataOf(names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	return req
}

func TestMetadata(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic("a", 3, nil)
	host, portText, _ := net.SplitHostPort(n.addr)
	port, _ := strconv.Atoi(portText)
	c := n.dial()
	for v := int16(0); v <= 13; v++ {
		all := kmsg.NewPtrMetadataRequest()
		if v == 0 {
			all.Topics = []kmsg.MetadataRequestTopic{}
		}
		resp := do[*kmsg.MetadataResponse](c, v, all)
		if len(resp.Brokers) != 1 || resp.Brokers[0].Host != host || resp.Brokers[0].Port != int32(port) {
			t.Fatalf("version %d: brokers %+v", v, resp.Brokers)
		}
		if len(resp.Topics) != 1 || *resp.Topics[0].Topic != "a" || len(resp.Topics[0].Partitions) != 3 {
			t.Fatalf("version %d: topics %+v", v, resp.Topics)
		}
		if v >= 2 && *resp.ClusterID != n.eng.ClusterID() || v >= 1 && resp.ControllerID != 1 || v >= 10 && resp.Topics[0].TopicID != topic.ID {
			t.Fatalf("version %d: %+v", v, resp)
		}
		for i, p := range resp.Topics[0].Partitions {
			if p.Partition != int32(i) || p.Leader != 1 || !slices.Equal(p.Replicas, []int32{1}) || !slices.Equal(p.ISR, []int32{1}) {
				t.Fatalf("version %d: partition %+v", v, p)
			}
		}
		resp = do[*kmsg.MetadataResponse](c, v, metadataOf("b", "a", "bad name", offsetsTopic))
		var codes []int16
		for _, rt := range resp.Topics {
			codes = append(codes, rt.ErrorCode)
		}
		if want := []int16{3, 0, 17, 3}; !slices.Equal(codes, want) {
			t.Fatalf("version %d: errors %v, want %v", v, codes, want)
		}
		if v > 0 {
			if resp := do[*kmsg.MetadataResponse](c, v, metadataOf()); len(resp.Topics) != 0 {
				t.Fatalf("version %d: no topics asked for, got %d", v, len(resp.Topics))
			}
		}
	}
	byID := metadataOf("")
	byID.Topics[0].Topic, byID.Topics[0].TopicID = nil, topic.ID
	if resp := do[*kmsg.MetadataResponse](c, 12, byID); resp.Topics[0].ErrorCode != 0 || *resp.Topics[0].Topic != "a" {
		t.Fatalf("by id: %+v", resp.Topics)
	}
	byID.Topics[0].TopicID[3]++
	if resp := do[*kmsg.MetadataResponse](c, 12, byID); resp.Topics[0].ErrorCode != kerr.UnknownTopicID.Code {
		t.Fatalf("by an unknown id: %+v", resp.Topics)
	}
}

func TestMetadataCreatesTopics(t *testing.T) {
	n := start(t, Options{AutoCreate: true, MaxPartitions: 6})
	c := n.dial()
	ask := func(name string, allow bool) kmsg.MetadataResponseTopic {
		req := metadataOf(name)
		req.AllowAutoTopicCreation = allow
		return do[*kmsg.MetadataResponse](c, 12, req).Topics[0]
	}
	if rt := ask("a", false); rt.ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Fatalf("made although the client does not want it: %+v", rt)
	}
	for range 2 {
		if rt := ask("a", true); rt.ErrorCode != 0 || len(rt.Partitions) != 2 {
			t.Fatalf("%+v", rt)
		}
	}
	for _, name := range []string{"", "..", "a/b", strings.Repeat("x", 250), "a\x00"} {
		if rt := ask(name, true); rt.ErrorCode != kerr.InvalidTopicException.Code {
			t.Errorf("name %q: error %d", name, rt.ErrorCode)
		}
	}
	for _, name := range []string{eventlog.InternalPrefix + "x", "__consumer_offsets"} {
		if rt := ask(name, true); rt.ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Errorf("internal name %q: error %d", name, rt.ErrorCode)
		}
	}
	n.topic("b", 3, nil) // with the server's own that makes too many for another
	if rt := ask("c", true); rt.ErrorCode != kerr.PolicyViolation.Code {
		t.Fatalf("more partitions than allowed: %+v", rt)
	}
}

func TestInternalTopicsCanBeShown(t *testing.T) {
	n := start(t, Options{ShowInternal: true})
	topic := n.topic("a", 1, nil)
	c := n.dial()
	commit(c, "g", "a", 0, 1)
	resp := do[*kmsg.MetadataResponse](c, 12, kmsg.NewPtrMetadataRequest())
	if len(resp.Topics) != 3 || *resp.Topics[0].Topic != offsetsTopic || *resp.Topics[1].Topic != stateTopic ||
		!resp.Topics[0].IsInternal || !resp.Topics[1].IsInternal || resp.Topics[2].IsInternal {
		t.Fatalf("%+v", resp.Topics)
	}
	topic.Name, topic.ID = offsetsTopic, resp.Topics[0].TopicID
	for _, v := range []int16{12, 13} {
		if p := do[*kmsg.FetchResponse](c, v, fetchRequest(topic, 0, 0, 1, 1000)).Topics[0].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
			t.Fatalf("%+v", p)
		}
	}
	// Read, yes; but not written, altered, or deleted.
	if p := do[*kmsg.ProduceResponse](c, 9, produceRequest(offsetsTopic, 0, -1, batchOf(eventlog.None, "x"))).Topics[0].Partitions[0]; p.ErrorCode != kerr.InvalidTopicException.Code {
		t.Errorf("produce: error %d", p.ErrorCode)
	}
	if code := deleteTopic(c, offsetsTopic); code != kerr.InvalidTopicException.Code {
		t.Errorf("delete: error %d", code)
	}
	if code := addPartitions(c, offsetsTopic, 9, false); code != kerr.InvalidTopicException.Code {
		t.Errorf("more partitions: error %d", code)
	}
	if code := alter(c, offsetsTopic, "retention.ms", "1", kmsg.IncrementalAlterConfigOpSet); code != kerr.InvalidTopicException.Code {
		t.Errorf("alter: error %d", code)
	}
}

func TestAdvertisedAddress(t *testing.T) {
	n := start(t, Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go n.srv.ServeWith(l, ListenerOptions{Advertise: "log.example:19092"})
	n.addr = l.Addr().String()
	c := n.dial()
	resp := do[*kmsg.MetadataResponse](c, 12, metadataOf())
	if b := resp.Brokers[0]; b.Host != "log.example" || b.Port != 19092 {
		t.Errorf("metadata: %+v", b)
	}
	for v := int16(0); v <= 5; v++ {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey, req.CoordinatorKeys = "g", []string{"g"}
		resp := do[*kmsg.FindCoordinatorResponse](c, v, req)
		host, port, node := resp.Host, resp.Port, resp.NodeID
		if v >= 4 {
			host, port, node = resp.Coordinators[0].Host, resp.Coordinators[0].Port, resp.Coordinators[0].NodeID
		}
		if host != "log.example" || port != 19092 || node != 1 {
			t.Errorf("coordinator, version %d: %+v", v, resp)
		}
	}
	cluster := do[*kmsg.DescribeClusterResponse](c, 0, kmsg.NewPtrDescribeClusterRequest())
	if b := cluster.Brokers[0]; b.Host != "log.example" || b.Port != 19092 || cluster.ClusterID != n.eng.ClusterID() {
		t.Errorf("cluster: %+v", cluster)
	}
	for _, bad := range []string{"nowhere", "host:0", "host:70000", "host:x"} {
		if err := n.srv.ServeWith(l, ListenerOptions{Advertise: bad}); err == nil || err == ErrServerClosed {
			t.Errorf("advertised address %q: %v", bad, err)
		}
	}
}

func TestFindCoordinatorOfTransactions(t *testing.T) {
	n := start(t, Options{})
	c := n.dial()
	for v := int16(1); v <= 5; v++ {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorType, req.CoordinatorKey, req.CoordinatorKeys = 1, "t", []string{"t"}
		resp := do[*kmsg.FindCoordinatorResponse](c, v, req)
		code, node := resp.ErrorCode, resp.NodeID
		if v >= 4 {
			code, node = resp.Coordinators[0].ErrorCode, resp.Coordinators[0].NodeID
		}
		if code != 0 || node != 1 {
			t.Errorf("version %d: error %d, node %d", v, code, node)
		}
	}
}

func TestDescribeCluster(t *testing.T) {
	n := start(t, Options{})
	c := n.dial()
	for v := int16(0); v <= 2; v++ {
		resp := do[*kmsg.DescribeClusterResponse](c, v, kmsg.NewPtrDescribeClusterRequest())
		if resp.ErrorCode != 0 || len(resp.Brokers) != 1 || resp.ControllerID != 1 {
			t.Errorf("version %d: %+v", v, resp)
		}
	}
	req := kmsg.NewPtrDescribeClusterRequest()
	req.EndpointType = endpointControllers
	if resp := do[*kmsg.DescribeClusterResponse](c, 1, req); resp.ErrorCode != kerr.MismatchedEndpointType.Code {
		t.Errorf("controllers: error %d", resp.ErrorCode)
	}
}

func createTopic(name string, partitions int32, replication int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, replication
	for i := 0; i < len(configs); i += 2 {
		rc := kmsg.NewCreateTopicsRequestTopicConfig()
		rc.Name, rc.Value = configs[i], &configs[i+1]
		rt.Configs = append(rt.Configs, rc)
	}
	return rt
}

func TestCreateTopics(t *testing.T) {
	n := start(t, Options{MaxPartitions: 100})
	c := n.dial()
	create := func(version int16, validateOnly bool, topics ...kmsg.CreateTopicsRequestTopic) []kmsg.CreateTopicsResponseTopic {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Topics, req.ValidateOnly = topics, validateOnly
		return do[*kmsg.CreateTopicsResponse](c, version, req).Topics
	}
	for v := int16(2); v <= 7; v++ {
		name := fmt.Sprint("t", v)
		if rt := create(v, true, createTopic(name, 3, 3))[0]; rt.ErrorCode != 0 {
			t.Fatalf("version %d, validating: %+v", v, rt)
		}
		if _, ok := n.eng.TopicByName(name); ok {
			t.Fatalf("version %d: made by validating", v)
		}
		rt := create(v, false, createTopic(name, 3, 3, "retention.ms", "1000"))[0]
		topic, ok := n.eng.TopicByName(name)
		if rt.ErrorCode != 0 || !ok || topic.Partitions != 3 || topic.Config["retention.ms"] != "1000" {
			t.Fatalf("version %d: %+v, %+v", v, rt, topic)
		}
		if v >= 5 && (rt.NumPartitions != 3 || rt.ReplicationFactor != 1 || len(rt.Configs) < 20) || v >= 7 && rt.TopicID != topic.ID {
			t.Fatalf("version %d: %+v", v, rt)
		}
	}
	assigned := createTopic("assigned", -1, -1)
	for i := range 4 {
		a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
		a.Partition, a.Replicas = int32(3-i), []int32{1}
		assigned.ReplicaAssignment = append(assigned.ReplicaAssignment, a)
	}
	if rt := create(5, false, assigned)[0]; rt.ErrorCode != 0 || rt.NumPartitions != 4 {
		t.Fatalf("assigned: %+v", rt)
	}
	twice := assigned
	twice.Topic, twice.ReplicaAssignment = "twice", append(slices.Clone(assigned.ReplicaAssignment), assigned.ReplicaAssignment[0])
	if rt := create(5, false, createTopic("default", -1, -1))[0]; rt.ErrorCode != 0 || rt.NumPartitions != 2 {
		t.Fatalf("default: %+v", rt)
	}
	for _, tc := range []struct {
		topic kmsg.CreateTopicsRequestTopic
		want  *kerr.Error
	}{
		{createTopic("t2", 1, 1), kerr.TopicAlreadyExists},
		{createTopic("bad name", 1, 1), kerr.InvalidTopicException},
		{createTopic(eventlog.InternalPrefix+"x", 1, 1), kerr.InvalidTopicException},
		{createTopic("x", 0, 1), kerr.InvalidPartitions},
		{createTopic("x", -2, 1), kerr.InvalidPartitions},
		{createTopic("x", 1, 0), kerr.InvalidReplicationFactor},
		{createTopic("x", 1000, 1), kerr.PolicyViolation},
		{createTopic("x", 1, 1, "no.such.config", "1"), kerr.InvalidConfig},
		{createTopic("x", 1, 1, "retention.ms", "soon"), kerr.InvalidConfig},
		{twice, kerr.InvalidReplicaAssignment},
	} {
		rt := create(7, false, tc.topic)[0]
		if rt.ErrorCode != tc.want.Code || rt.ErrorMessage == nil {
			t.Errorf("%q: error %v, want %v", tc.topic.Topic, kerr.ErrorForCode(rt.ErrorCode), tc.want)
		}
	}
	both := create(7, false, createTopic("x", 1, 1), createTopic("x", 1, 1), createTopic("y", 1, 1))
	if len(both) != 2 || both[0].ErrorCode != kerr.InvalidRequest.Code || both[1].ErrorCode != 0 {
		t.Errorf("the same topic twice: %+v", both)
	}
}

func deleteTopic(c *client, name string) int16 {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{name}
	return do[*kmsg.DeleteTopicsResponse](c, 5, req).Topics[0].ErrorCode
}

func TestDeleteTopics(t *testing.T) {
	n := start(t, Options{})
	c := n.dial()
	for v := int16(1); v <= 6; v++ {
		topic := n.topic("a", 1, nil)
		c.produce("a", 0, "x")
		commit(c, "g", "a", 0, 1)
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TopicNames = []string{"a", "b"}
		for _, name := range req.TopicNames {
			rt := kmsg.NewDeleteTopicsRequestTopic()
			rt.Topic = kmsg.StringPtr(name)
			req.Topics = append(req.Topics, rt)
		}
		if v == 6 {
			req.Topics[0].Topic, req.Topics[0].TopicID = nil, topic.ID
		}
		resp := do[*kmsg.DeleteTopicsResponse](c, v, req)
		if resp.Topics[0].ErrorCode != 0 || *resp.Topics[0].Topic != "a" || resp.Topics[1].ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Fatalf("version %d: %+v", v, resp.Topics)
		}
		if _, ok := n.eng.TopicByName("a"); ok {
			t.Fatalf("version %d: still there", v)
		}
		// What was committed in it is gone too, also for a topic that takes its name.
		n.topic("a", 1, nil)
		if at := committed(c, "g", "a", 0); at != -1 {
			t.Fatalf("version %d: a new topic has the old one's offset %d", v, at)
		}
		if err := n.eng.DeleteTopic(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if code := deleteTopic(c, eventlog.InternalPrefix+"x"); code != kerr.InvalidTopicException.Code {
		t.Errorf("internal: error %d", code)
	}
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.Topics = make([]kmsg.DeleteTopicsRequestTopic, 2)
	req.Topics[1].TopicID[0] = 1
	resp := do[*kmsg.DeleteTopicsResponse](c, 6, req)
	if resp.Topics[0].ErrorCode != kerr.InvalidRequest.Code || resp.Topics[1].ErrorCode != kerr.UnknownTopicID.Code {
		t.Errorf("neither name nor id: %+v", resp.Topics)
	}
}

// A topic that is deleted behind the server's back and made again must not inherit offsets either.
func TestRecreatedTopicHasNoOffsets(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	c := n.dial()
	commit(c, "g", "a", 0, 5)
	if err := n.eng.DeleteTopic(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	n.topic("a", 1, nil)
	if at := committed(c, "g", "a", 0); at != -1 {
		t.Fatalf("offset %d", at)
	}
	commit(c, "other", "a", 0, 3)
	if at := committed(c, "g", "a", 0); at != -1 {
		t.Fatalf("offset %d after another group committed", at)
	}
	if at := committed(c, "other", "a", 0); at != 3 {
		t.Fatalf("offset %d, want 3", at)
	}
	n.restart()
	c = n.dial()
	if a, b := committed(c, "g", "a", 0), committed(c, "other", "a", 0); a != -1 || b != 3 {
		t.Fatalf("offsets %d and %d after a restart, want -1 and 3", a, b)
	}
}

func addPartitions(c *client, topic string, count int32, validateOnly bool) int16 {
	req := kmsg.NewPtrCreatePartitionsRequest()
	rt := kmsg.NewCreatePartitionsRequestTopic()
	rt.Topic, rt.Count = topic, count
	req.Topics, req.ValidateOnly = append(req.Topics, rt), validateOnly
	return do[*kmsg.CreatePartitionsResponse](c, 3, req).Topics[0].ErrorCode
}

func TestCreatePartitions(t *testing.T) {
	n := start(t, Options{MaxPartitions: 20, Fixed: func(topic string) string {
		if topic == "routed" {
			return "devices' keys must stay in their partitions"
		}
		return ""
	}})
	n.topic("a", 2, nil)
	n.topic("routed", 2, nil)
	c := n.dial()
	for _, tc := range []struct {
		topic        string
		count        int32
		validateOnly bool
		want         int16
	}{
		{"a", 3, true, 0}, {"a", 3, false, 0}, {"a", 3, false, kerr.InvalidPartitions.Code}, {"a", 1, false, kerr.InvalidPartitions.Code},
		{"a", 50, false, kerr.PolicyViolation.Code}, {"b", 3, false, kerr.UnknownTopicOrPartition.Code},
		{"routed", 3, false, kerr.PolicyViolation.Code},
	} {
		if code := addPartitions(c, tc.topic, tc.count, tc.validateOnly); code != tc.want {
			t.Errorf("%s to %d: error %d, want %d", tc.topic, tc.count, code, tc.want)
		}
	}
	if topic, _ := n.eng.TopicByName("a"); topic.Partitions != 3 {
		t.Errorf("%d partitions", topic.Partitions)
	}
	c.produce("a", 2, "x")
	for v := int16(0); v <= 3; v++ {
		req := kmsg.NewPtrCreatePartitionsRequest()
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = "a", 4+int32(v)
		rt.Assignment = []kmsg.CreatePartitionsRequestTopicAssignment{{Replicas: []int32{1}}}
		req.Topics = append(req.Topics, rt)
		if resp := do[*kmsg.CreatePartitionsResponse](c, v, req); resp.Topics[0].ErrorCode != 0 {
			t.Errorf("version %d: %+v", v, resp)
		}
	}
}

func alter(c *client, topic, name, value string, op kmsg.IncrementalAlterConfigOp) int16 {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	rr := kmsg.NewIncrementalAlterConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	rc := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	rc.Name, rc.Op, rc.Value = name, op, &value
	rr.Configs = append(rr.Configs, rc)
	req.Resources = append(req.Resources, rr)
	return do[*kmsg.IncrementalAlterConfigsResponse](c, 1, req).Resources[0].ErrorCode
}

// config is one config of a topic as DescribeConfigs has it.
func config(c *client, version int16, topic, name string) *kmsg.DescribeConfigsResponseResourceConfig {
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms = true
	rr := kmsg.NewDescribeConfigsRequestResource()
	rr.ResourceType, rr.ResourceName, rr.ConfigNames = kmsg.ConfigResourceTypeTopic, topic, []string{name}
	req.Resources = append(req.Resources, rr)
	resp := do[*kmsg.DescribeConfigsResponse](c, version, req).Resources[0]
	if resp.ErrorCode != 0 || len(resp.Configs) != 1 {
		c.t.Fatalf("config %s of %s: %+v", name, topic, resp)
	}
	return &resp.Configs[0]
}

func TestConfigs(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, map[string]string{"retention.ms": "1000"})
	c := n.dial()
	for v := int16(1); v <= 4; v++ {
		set, plain := config(c, v, "a", "retention.ms"), config(c, v, "a", "cleanup.policy")
		if *set.Value != "1000" || set.Source != kmsg.ConfigSourceDynamicTopicConfig || len(set.ConfigSynonyms) != 1 {
			t.Errorf("version %d: %+v", v, set)
		}
		if *plain.Value != "delete" || plain.Source != kmsg.ConfigSourceDefaultConfig {
			t.Errorf("version %d: %+v", v, plain)
		}
		if v >= 3 && (set.ConfigType != kmsg.ConfigTypeLong || plain.ConfigType != kmsg.ConfigTypeList) {
			t.Errorf("version %d: types %v, %v", v, set.ConfigType, plain.ConfigType)
		}
	}
	ops := []struct {
		name, value string
		op          kmsg.IncrementalAlterConfigOp
		want        int16
		after       string
	}{
		{"retention.ms", "2000", kmsg.IncrementalAlterConfigOpSet, 0, "2000"},
		{"retention.ms", "soon", kmsg.IncrementalAlterConfigOpSet, kerr.InvalidConfig.Code, "2000"},
		{"retention.ms", "1", kmsg.IncrementalAlterConfigOpAppend, kerr.InvalidConfig.Code, "2000"},
		{"cleanup.policy", "compact", kmsg.IncrementalAlterConfigOpAppend, 0, "delete,compact"},
		{"cleanup.policy", "delete", kmsg.IncrementalAlterConfigOpSubtract, 0, "compact"},
		{"cleanup.policy", "", kmsg.IncrementalAlterConfigOpDelete, 0, "delete"},
		{"cleanup.policy", "", 9, kerr.InvalidRequest.Code, "delete"},
	}
	for _, op := range ops {
		if code := alter(c, "a", op.name, op.value, op.op); code != op.want {
			t.Errorf("%+v: error %d", op, code)
		}
		if got := *config(c, 4, "a", op.name).Value; got != op.after {
			t.Errorf("%+v: now %q", op, got)
		}
	}
	if code := alter(c, "a", "no.such.config", "1", kmsg.IncrementalAlterConfigOpSet); code != kerr.InvalidConfig.Code {
		t.Errorf("unknown config: error %d", code)
	}
	if code := alter(c, "b", "retention.ms", "1", kmsg.IncrementalAlterConfigOpSet); code != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("unknown topic: error %d", code)
	}
	// AlterConfigs replaces them all.
	for v := int16(0); v <= 2; v++ {
		for _, validateOnly := range []bool{true, false} {
			if code := alter(c, "a", "retention.ms", "3000", kmsg.IncrementalAlterConfigOpSet); code != 0 {
				t.Fatal(code)
			}
			req := kmsg.NewPtrAlterConfigsRequest()
			rr := kmsg.NewAlterConfigsRequestResource()
			rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeTopic, "a"
			rc := kmsg.NewAlterConfigsRequestResourceConfig()
			rc.Name, rc.Value = "segment.ms", kmsg.StringPtr("5000")
			rr.Configs = append(rr.Configs, rc)
			req.Resources, req.ValidateOnly = append(req.Resources, rr), validateOnly
			if resp := do[*kmsg.AlterConfigsResponse](c, v, req); resp.Resources[0].ErrorCode != 0 {
				t.Fatalf("version %d: %+v", v, resp.Resources)
			}
			want := "604800000"
			if validateOnly {
				want = "3000"
			}
			if got := *config(c, 4, "a", "retention.ms").Value; got != want {
				t.Errorf("version %d: retention.ms is %s, want %s", v, got, want)
			}
		}
		if got := *config(c, 4, "a", "segment.ms").Value; got != "5000" {
			t.Errorf("version %d: segment.ms is %s", v, got)
		}
	}
	broker := kmsg.NewPtrDescribeConfigsRequest()
	rr := kmsg.NewDescribeConfigsRequestResource()
	rr.ResourceType, rr.ResourceName = kmsg.ConfigResourceTypeBroker, "1"
	broker.Resources = append(broker.Resources, rr)
	resp := do[*kmsg.DescribeConfigsResponse](c, 4, broker).Resources[0]
	if !slices.ContainsFunc(resp.Configs, func(c kmsg.DescribeConfigsResponseResourceConfig) bool {
		return c.Name == "auto.create.topics.enable" && *c.Value == "false" && c.ReadOnly
	}) {
		t.Errorf("broker: %+v", resp)
	}
	broker.Resources[0].ResourceName = "2"
	if resp := do[*kmsg.DescribeConfigsResponse](c, 4, broker).Resources[0]; resp.ErrorCode != kerr.InvalidRequest.Code {
		t.Errorf("no such broker: %+v", resp)
	}
}
