package kafkawire

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/kafkawire/acl"
)

// fakeRights is a policy that says what a test has it say.
type fakeRights struct {
	mu      sync.Mutex
	epoch   uint64
	said    map[string]acl.Verdict
	publish map[string]func([]byte) bool // by topic
	asked   int
}

func rightKey(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) string {
	return fmt.Sprint(account, " ", op, " ", kind, " ", name)
}

func (r *fakeRights) say(v acl.Verdict, account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	if r.said == nil {
		r.said = map[string]acl.Verdict{}
	}
	r.said[rightKey(account, op, kind, name)] = v
}

func (r *fakeRights) allow(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) {
	r.say(acl.Allow, account, op, kind, name)
}

func (r *fakeRights) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	clear(r.said)
}

// questions is how often a decision was asked for.
func (r *fakeRights) questions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func (r *fakeRights) Epoch() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}

func (r *fakeRights) Decide(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType, name string) acl.Verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return r.said[rightKey(account, op, kind, name)]
}

func (r *fakeRights) Anywhere(account string, op kmsg.ACLOperation, kind kmsg.ACLResourceType) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, v := range r.said {
		if v == acl.Allow && strings.HasPrefix(key, rightKey(account, op, kind, "")) {
			return true
		}
	}
	return false
}

func (r *fakeRights) Publishing(_, topic string) (bool, func([]byte) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.publish[topic] == nil, r.publish[topic]
}

// right is one that a request needs.
type right struct {
	op   kmsg.ACLOperation
	kind kmsg.ACLResourceType
	name string
}

const (
	topicKind = kmsg.ACLResourceTypeTopic
	groupKind = kmsg.ACLResourceTypeGroup
	idKind    = kmsg.ACLResourceTypeTransactionalId
	cluster   = kmsg.ACLResourceTypeCluster

	opRead, opWrite, opCreate, opDelete, opAlter = kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationCreate, kmsg.ACLOperationDelete, kmsg.ACLOperationAlter
	opDescribe, opDescribeConfigs, opAlterConfig = kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationAlterConfigs
)

// free is what needs no right.
type free struct{ why string }

// guarded is what a request needs, and what is answered without: an error's code, or nil where what may not be seen is left out.
type guarded struct {
	request func(t eventlog.Topic) kmsg.Request
	rights  []right
	without *kerr.Error
}

// wordless are keys that have a word for a no only from some version on. Before, nothing is told.
var wordless = map[kmsg.Key]int16{kmsg.DescribeLogDirs: 3}

// apiRights is Kafka's table of what needs which right, on topic t, group g and transactional id x. Each key that is served is in it.
var apiRights = map[kmsg.Key][]any{
	kmsg.ApiVersions:      {free{"it comes before authentication"}},
	kmsg.SASLHandshake:    {free{"it is authentication"}},
	kmsg.SASLAuthenticate: {free{"it is authentication"}},
	kmsg.DescribeCluster:  {free{"it tells nothing but where the server is, which who asks knows"}},
	kmsg.Produce: {guarded{func(t eventlog.Topic) kmsg.Request {
		req := produceRequest("t", 0, -1, batchOf(eventlog.None, "x"))
		req.Topics[0].TopicID = t.ID
		return req
	},
		[]right{{opWrite, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.Fetch: {guarded{func(t eventlog.Topic) kmsg.Request { return fetchRequest(t, 0, 0, 0, 0) },
		[]right{{opRead, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.ListOffsets: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrListOffsetsRequest()
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = "t"
		rt.Partitions = append(rt.Partitions, kmsg.NewListOffsetsRequestTopicPartition())
		req.Topics = append(req.Topics, rt)
		return req
	}, []right{{opDescribe, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.Metadata: {
		guarded{func(eventlog.Topic) kmsg.Request { return metadataOf("t") }, []right{{opDescribe, topicKind, "t"}}, kerr.TopicAuthorizationFailed},
		guarded{func(eventlog.Topic) kmsg.Request { return kmsg.NewPtrMetadataRequest() }, []right{{opDescribe, topicKind, "t"}}, nil},
		guarded{func(eventlog.Topic) kmsg.Request {
			req := metadataOf("new")
			req.AllowAutoTopicCreation = true
			return req
		}, []right{{opDescribe, topicKind, "new"}, {opCreate, topicKind, "new"}}, kerr.TopicAuthorizationFailed},
	},
	kmsg.OffsetCommit: {
		guarded{commitT, []right{{opRead, groupKind, "g"}}, kerr.GroupAuthorizationFailed},
		guarded{commitT, []right{{opRead, topicKind, "t"}}, kerr.TopicAuthorizationFailed},
	},
	kmsg.OffsetFetch: {
		guarded{fetchOffsetsT, []right{{opDescribe, groupKind, "g"}}, kerr.GroupAuthorizationFailed},
		guarded{fetchOffsetsT, []right{{opDescribe, topicKind, "t"}}, kerr.TopicAuthorizationFailed},
	},
	kmsg.FindCoordinator: {
		guarded{func(eventlog.Topic) kmsg.Request {
			req := kmsg.NewPtrFindCoordinatorRequest()
			req.CoordinatorKey, req.CoordinatorKeys = "g", []string{"g"}
			return req
		}, []right{{opDescribe, groupKind, "g"}}, kerr.GroupAuthorizationFailed},
	},
	kmsg.JoinGroup: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Group, req.ProtocolType, req.SessionTimeoutMillis = "g", "consumer", 10_000
		return req
	}, []right{{opRead, groupKind, "g"}}, kerr.GroupAuthorizationFailed}},
	kmsg.Heartbeat: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrHeartbeatRequest()
		req.Group = "g"
		return req
	}, []right{{opRead, groupKind, "g"}}, kerr.GroupAuthorizationFailed}},
	kmsg.LeaveGroup: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group = "g"
		return req
	}, []right{{opRead, groupKind, "g"}}, kerr.GroupAuthorizationFailed}},
	kmsg.SyncGroup: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrSyncGroupRequest()
		req.Group = "g"
		return req
	}, []right{{opRead, groupKind, "g"}}, kerr.GroupAuthorizationFailed}},
	kmsg.DescribeGroups: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups = []string{"g"}
		return req
	}, []right{{opDescribe, groupKind, "g"}}, kerr.GroupAuthorizationFailed}},
	kmsg.ListGroups: {guarded{func(eventlog.Topic) kmsg.Request { return kmsg.NewPtrListGroupsRequest() },
		[]right{{opDescribe, groupKind, "g"}}, nil}},
	kmsg.CreateTopics: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrCreateTopicsRequest()
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = "made", 1, 1
		req.Topics = append(req.Topics, rt)
		return req
	}, []right{{opCreate, topicKind, "made"}, {opDescribeConfigs, topicKind, "made"}}, kerr.TopicAuthorizationFailed}},
	kmsg.DeleteTopics: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDeleteTopicsRequest()
		rt := kmsg.NewDeleteTopicsRequestTopic()
		rt.Topic = kmsg.StringPtr("made")
		req.Topics, req.TopicNames = append(req.Topics, rt), []string{"made"}
		return req
	}, []right{{opDelete, topicKind, "made"}}, kerr.TopicAuthorizationFailed}},
	kmsg.DeleteRecords: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDeleteRecordsRequest()
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic = "t"
		rt.Partitions = append(rt.Partitions, kmsg.NewDeleteRecordsRequestTopicPartition())
		req.Topics = append(req.Topics, rt)
		return req
	}, []right{{opDelete, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.InitProducerID: {
		guarded{func(eventlog.Topic) kmsg.Request { return kmsg.NewPtrInitProducerIDRequest() },
			[]right{{kmsg.ACLOperationIdempotentWrite, cluster, clusterName}}, kerr.ClusterAuthorizationFailed},
		guarded{func(eventlog.Topic) kmsg.Request { return kmsg.NewPtrInitProducerIDRequest() },
			[]right{{opWrite, topicKind, "t"}}, kerr.ClusterAuthorizationFailed},
	},
	kmsg.OffsetForLeaderEpoch: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = "t"
		rt.Partitions = append(rt.Partitions, kmsg.NewOffsetForLeaderEpochRequestTopicPartition())
		req.Topics = append(req.Topics, rt)
		return req
	}, []right{{opDescribe, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.DescribeACLs: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDescribeACLsRequest()
		req.ResourceType, req.ResourcePatternType, req.Operation, req.PermissionType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny, kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
		return req
	}, []right{{opDescribe, cluster, clusterName}}, kerr.ClusterAuthorizationFailed}},
	kmsg.CreateACLs: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrCreateACLsRequest()
		cr := kmsg.NewCreateACLsRequestCreation()
		cr.ResourceType, cr.ResourceName, cr.Principal, cr.Host = topicKind, "other", "User:bert", "*"
		cr.Operation, cr.PermissionType = opRead, kmsg.ACLPermissionTypeAllow
		req.Creations = append(req.Creations, cr)
		return req
	}, []right{{opAlter, cluster, clusterName}}, kerr.ClusterAuthorizationFailed}},
	kmsg.DeleteACLs: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDeleteACLsRequest()
		f := kmsg.NewDeleteACLsRequestFilter()
		f.ResourceType, f.ResourcePatternType, f.Operation, f.PermissionType = topicKind, kmsg.ACLResourcePatternTypeAny, kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
		req.Filters = append(req.Filters, f)
		return req
	}, []right{{opAlter, cluster, clusterName}}, kerr.ClusterAuthorizationFailed}},
	kmsg.DescribeConfigs: {
		guarded{func(eventlog.Topic) kmsg.Request { return describeConfigsOf(kmsg.ConfigResourceTypeTopic, "t") },
			[]right{{opDescribeConfigs, topicKind, "t"}}, kerr.TopicAuthorizationFailed},
		guarded{func(eventlog.Topic) kmsg.Request { return describeConfigsOf(kmsg.ConfigResourceTypeBroker, "") },
			[]right{{opDescribeConfigs, cluster, clusterName}}, kerr.ClusterAuthorizationFailed},
	},
	kmsg.AlterConfigs: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrAlterConfigsRequest()
		r := kmsg.NewAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, "t"
		req.Resources = append(req.Resources, r)
		return req
	}, []right{{opAlterConfig, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.IncrementalAlterConfigs: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, "t"
		req.Resources = append(req.Resources, r)
		return req
	}, []right{{opAlterConfig, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.DescribeLogDirs: {guarded{func(eventlog.Topic) kmsg.Request { return kmsg.NewPtrDescribeLogDirsRequest() },
		[]right{{opDescribe, cluster, clusterName}}, kerr.ClusterAuthorizationFailed}},
	kmsg.CreatePartitions: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrCreatePartitionsRequest()
		rt := kmsg.NewCreatePartitionsRequestTopic()
		rt.Topic, rt.Count = "t", 3
		req.Topics = append(req.Topics, rt)
		return req
	}, []right{{opAlter, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.DeleteGroups: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = []string{"nobodys"}
		return req
	}, []right{{opDelete, groupKind, "nobodys"}}, kerr.GroupAuthorizationFailed}},
	kmsg.OffsetDelete: {
		guarded{deleteOffsetsT, []right{{opDelete, groupKind, "g"}}, kerr.GroupAuthorizationFailed},
		guarded{deleteOffsetsT, []right{{opRead, topicKind, "t"}}, kerr.TopicAuthorizationFailed},
	},
	kmsg.DescribeUserSCRAMCredentials: {guarded{func(eventlog.Topic) kmsg.Request { return kmsg.NewPtrDescribeUserSCRAMCredentialsRequest() },
		[]right{{opDescribe, cluster, clusterName}}, kerr.ClusterAuthorizationFailed}},
	kmsg.AlterUserSCRAMCredentials: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
		d := kmsg.NewAlterUserSCRAMCredentialsRequestDeletion()
		d.Name, d.Mechanism = "bert", 1
		req.Deletions = append(req.Deletions, d)
		return req
	}, []right{{opAlter, cluster, clusterName}}, kerr.ClusterAuthorizationFailed}},
	kmsg.AddPartitionsToTxn: {
		guarded{addPartitionsT, []right{{opWrite, idKind, "x"}}, kerr.TransactionalIDAuthorizationFailed},
		guarded{addPartitionsT, []right{{opWrite, topicKind, "t"}}, kerr.TopicAuthorizationFailed},
	},
	kmsg.AddOffsetsToTxn: {
		guarded{addOffsetsG, []right{{opWrite, idKind, "x"}}, kerr.TransactionalIDAuthorizationFailed},
		guarded{addOffsetsG, []right{{opRead, groupKind, "g"}}, kerr.GroupAuthorizationFailed},
	},
	kmsg.EndTxn: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID = "x"
		return req
	}, []right{{opWrite, idKind, "x"}}, kerr.TransactionalIDAuthorizationFailed}},
	kmsg.TxnOffsetCommit: {
		guarded{txnCommitT, []right{{opWrite, idKind, "x"}}, kerr.TransactionalIDAuthorizationFailed},
		guarded{txnCommitT, []right{{opRead, groupKind, "g"}}, kerr.GroupAuthorizationFailed},
		guarded{txnCommitT, []right{{opRead, topicKind, "t"}}, kerr.TopicAuthorizationFailed},
	},
	kmsg.DescribeProducers: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDescribeProducersRequest()
		rt := kmsg.NewDescribeProducersRequestTopic()
		rt.Topic, rt.Partitions = "t", []int32{0}
		req.Topics = append(req.Topics, rt)
		return req
	}, []right{{opRead, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
	kmsg.DescribeTransactions: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDescribeTransactionsRequest()
		req.TransactionalIDs = []string{"x"}
		return req
	}, []right{{opDescribe, idKind, "x"}}, kerr.TransactionalIDAuthorizationFailed}},
	kmsg.ListTransactions: {free{"it lists what may be described, and nothing else: TestListedTransactions"}},
	kmsg.ConsumerGroupHeartbeat: {
		guarded{consumerHeartbeatG, []right{{opRead, groupKind, "g"}}, kerr.GroupAuthorizationFailed},
		guarded{consumerHeartbeatG, []right{{opDescribe, topicKind, "t"}}, kerr.TopicAuthorizationFailed},
	},
	kmsg.ConsumerGroupDescribe: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrConsumerGroupDescribeRequest()
		req.Groups = []string{"g"}
		return req
	}, []right{{opDescribe, groupKind, "g"}}, kerr.GroupAuthorizationFailed}},
	kmsg.DescribeTopicPartitions: {guarded{func(eventlog.Topic) kmsg.Request {
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		rt := kmsg.NewDescribeTopicPartitionsRequestTopic()
		rt.Topic = "t"
		req.Topics, req.ResponsePartitionLimit = append(req.Topics, rt), 100
		return req
	}, []right{{opDescribe, topicKind, "t"}}, kerr.TopicAuthorizationFailed}},
}

func commitT(t eventlog.Topic) kmsg.Request {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = "g", -1
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = "t", t.ID
	rt.Partitions = append(rt.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
	req.Topics = append(req.Topics, rt)
	return req
}

func fetchOffsetsT(t eventlog.Topic) kmsg.Request {
	req := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	rt := kmsg.NewOffsetFetchRequestGroupTopic()
	rt.Topic, rt.TopicID, rt.Partitions = "t", t.ID, []int32{0}
	g.Group, g.Topics = "g", append(g.Topics, rt)
	req.Groups = append(req.Groups, g)
	old := kmsg.NewOffsetFetchRequestTopic()
	old.Topic, old.Partitions = "t", []int32{0}
	req.Group, req.Topics = "g", append(req.Topics, old)
	return req
}

func deleteOffsetsT(eventlog.Topic) kmsg.Request {
	req := kmsg.NewPtrOffsetDeleteRequest()
	rt := kmsg.NewOffsetDeleteRequestTopic()
	rt.Topic = "t"
	rt.Partitions = append(rt.Partitions, kmsg.OffsetDeleteRequestTopicPartition{Partition: 1}) // without an offset: the group stays
	req.Group, req.Topics = "g", append(req.Topics, rt)
	return req
}

func addPartitionsT(eventlog.Topic) kmsg.Request {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	rt := kmsg.NewAddPartitionsToTxnRequestTopic()
	rt.Topic, rt.Partitions = "t", []int32{0}
	req.TransactionalID, req.Topics = "x", append(req.Topics, rt)
	return req
}

func addOffsetsG(eventlog.Topic) kmsg.Request {
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.TransactionalID, req.Group = "x", "g"
	return req
}

func txnCommitT(t eventlog.Topic) kmsg.Request {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	rt := kmsg.NewTxnOffsetCommitRequestTopic()
	rt.Topic = "t"
	rt.Partitions = append(rt.Partitions, kmsg.NewTxnOffsetCommitRequestTopicPartition())
	req.TransactionalID, req.Group, req.Generation, req.Topics = "x", "g", -1, append(req.Topics, rt)
	return req
}

func consumerHeartbeatG(eventlog.Topic) kmsg.Request {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.RebalanceTimeoutMillis, req.SubscribedTopicNames = "c", "m", 10_000, []string{"t"}
	req.Group = "g"
	return req
}

func describeConfigsOf(kind kmsg.ConfigResourceType, name string) kmsg.Request {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	req.Resources = append(req.Resources, r)
	return req
}

// authorizationErrors are all that say that somebody may not.
var authorizationErrors = []int16{
	kerr.TopicAuthorizationFailed.Code, kerr.GroupAuthorizationFailed.Code, kerr.ClusterAuthorizationFailed.Code, kerr.TransactionalIDAuthorizationFailed.Code,
}

// codesIn collects the error codes anywhere in a response.
func codesIn(v reflect.Value) (codes []int16) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return codesIn(v.Elem())
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct {
			for i := range v.Len() {
				codes = append(codes, codesIn(v.Index(i))...)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Field(i)
			if name := v.Type().Field(i).Name; strings.HasSuffix(name, "ErrorCode") && f.Kind() == reflect.Int16 {
				codes = append(codes, int16(f.Int()))
			} else if v.Type().Field(i).IsExported() {
				codes = append(codes, codesIn(f)...)
			}
		}
	}
	return codes
}

// Every API that is served answers who may not, and who may, as Kafka does.
func TestEveryAPIAsks(t *testing.T) {
	for _, a := range apis() {
		if len(apiRights[kmsg.Key(a.key)]) == 0 {
			t.Errorf("%s is served and has no row in apiRights: what does it need?", a.name)
		}
	}
	r := &fakeRights{}
	n, _ := securedNode(t, r)
	for key, rows := range apiRights {
		a := lookup(key.Int16())
		if a == nil {
			continue
		}
		for i, row := range rows {
			if _, none := row.(free); none {
				continue
			}
			for version := a.min; version <= a.max; version++ {
				t.Run(fmt.Sprintf("%s/%d/%d", a.name, i, version), func(t *testing.T) {
					r.forget()
					row := row.(guarded)
					if version < wordless[key] {
						row.without = nil
					}
					checkGuarded(t, n, r, rows, row, version)
				})
			}
		}
	}
}

// checkGuarded asks without a row's rights, but with those of the others for the key, and then with all of them.
func checkGuarded(t *testing.T, n *node, r *fakeRights, rows []any, row guarded, version int16) {
	topic, _ := n.eng.TopicByName("t")
	c := dialTo(t, n.addr)
	if resp, err := c.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
		t.Fatal(resp, err)
	}
	if row.without == kerr.TopicAuthorizationFailed {
		for _, other := range rows {
			if o, ok := other.(guarded); ok && o.without != nil && o.without != row.without {
				for _, needed := range o.rights {
					r.allow("anna", needed.op, needed.kind, needed.name)
				}
			}
		}
	}
	if row.without == kerr.GroupAuthorizationFailed {
		r.allow("anna", opWrite, idKind, "x")
	}
	ask := func() (codes []int16, text string) {
		req := row.request(topic)
		resp := do[kmsg.Response](c, version, req)
		return codesIn(reflect.ValueOf(resp)), fmt.Sprintf("%+v", resp)
	}
	codes, text := ask()
	denied := slices.DeleteFunc(slices.Clone(codes), func(c int16) bool { return !slices.Contains(authorizationErrors, c) })
	switch {
	case row.without == nil && (len(denied) > 0 || mentions(text)):
		t.Errorf("what may not be seen is answered %s", text)
	case row.without != nil && (len(denied) == 0 || slices.ContainsFunc(denied, func(c int16) bool { return c != row.without.Code })):
		t.Errorf("without the right: %v in %s, want %v", codes, text, row.without)
	}
	for _, other := range rows {
		if o, ok := other.(guarded); ok && o.without != nil {
			for _, needed := range o.rights {
				r.allow("anna", needed.op, needed.kind, needed.name)
			}
		}
	}
	for _, needed := range row.rights {
		r.allow("anna", needed.op, needed.kind, needed.name)
	}
	codes, text = ask()
	if slices.ContainsFunc(codes, func(c int16) bool { return slices.Contains(authorizationErrors, c) }) {
		t.Errorf("with the right: %v in %s", codes, text)
	}
}

// mentions tells whether an answer names the topic or the group that is not to be seen.
func mentions(text string) bool {
	return strings.Contains(text, "Topics:[{") || strings.Contains(text, "Groups:[{") || strings.Contains(text, "Dirs:[{")
}

// securedNode has a topic t with two partitions and a group g, and asks for names.
func securedNode(t *testing.T, r *fakeRights) (*node, *users) {
	u := newUsers(t)
	n := start(t, Options{Rights: r, Verifier: u.verifier, AutoCreate: true})
	n.topic("t", 2, nil)
	r.allow("anonymous", opRead, groupKind, "g")
	r.allow("anonymous", opRead, topicKind, "t")
	do[*kmsg.OffsetCommitResponse](n.dial(), 9, commitT(eventlog.Topic{}))
	n.serveWith(ListenerOptions{Gate: u.gate()})
	return n, u
}

func (n *node) as(name, password string, opts ...kgo.Opt) *kgo.Client {
	return n.franz(append([]kgo.Opt{kgo.SASL(plain.Auth{User: name, Pass: password}.AsMechanism())}, opts...)...)
}

// A right that is taken back is gone from connections that are open: for producers, for a fetch that waits, and for members of a group.
func TestRevokedRights(t *testing.T) {
	r := &fakeRights{}
	n, _ := securedNode(t, r)
	topic, _ := n.eng.TopicByName("t")
	r.allow("anna", opWrite, topicKind, "t")
	r.allow("anna", opRead, topicKind, "t")
	r.allow("anna", opRead, groupKind, "g")
	c := n.dial()
	if resp, err := c.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
		t.Fatal(resp, err)
	}
	c.produce("t", 0, "a")
	hb := kmsg.NewPtrHeartbeatRequest()
	hb.Group, hb.MemberID = "g", "m"
	if resp := do[*kmsg.HeartbeatResponse](c, 4, hb); resp.ErrorCode != kerr.UnknownMemberID.Code {
		t.Errorf("%+v", resp)
	}
	// A fetch waits for what comes; before it does the right goes.
	fetch := fetchRequest(topic, 0, 1, 1, 20_000)
	fetch.SetVersion(12)
	waiting := c.send(fetch)
	other := n.dial()
	if resp, err := other.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
		t.Fatal(resp, err)
	}
	r.say(acl.Deny, "anna", opRead, topicKind, "t")
	r.say(acl.Deny, "anna", opRead, groupKind, "g")
	other.produce("t", 0, "secret")
	got := c.receive(fetch, waiting).(*kmsg.FetchResponse)
	if p := got.Topics[0].Partitions[0]; p.ErrorCode != kerr.TopicAuthorizationFailed.Code || bytes.Contains(p.RecordBatches, []byte("secret")) {
		t.Errorf("a fetch that waited: %+v", p)
	}
	if resp := do[*kmsg.HeartbeatResponse](c, 4, hb); resp.ErrorCode != kerr.GroupAuthorizationFailed.Code {
		t.Errorf("%+v", resp)
	}
	r.say(acl.None, "anna", opWrite, topicKind, "t")
	resp := do[*kmsg.ProduceResponse](c, 9, produceRequest("t", 0, -1, batchOf(eventlog.None, "x")))
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != kerr.TopicAuthorizationFailed.Code {
		t.Errorf("%+v", p)
	}
}

// In a fetch session a right that goes is told once, and nothing of the partition comes any more.
func TestRevokedWithinAFetchSession(t *testing.T) {
	r := &fakeRights{}
	n, _ := securedNode(t, r)
	topic, _ := n.eng.TopicByName("t")
	r.allow("anna", opRead, topicKind, "t")
	r.allow("anna", opWrite, topicKind, "t")
	c := n.dial()
	if resp, err := c.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
		t.Fatal(resp, err)
	}
	c.produce("t", 0, "a")
	first := fetchRequest(topic, 0, 0, 1, 1000)
	first.SessionEpoch = 0
	opened := do[*kmsg.FetchResponse](c, 12, first)
	if opened.SessionID == 0 || len(opened.Topics) != 1 {
		t.Fatalf("%+v", opened)
	}
	r.say(acl.Deny, "anna", opRead, topicKind, "t")
	c.produce("t", 0, "secret")
	next := kmsg.NewPtrFetchRequest()
	next.SessionID, next.SessionEpoch, next.MinBytes, next.MaxWaitMillis, next.MaxBytes = opened.SessionID, 1, 1, 1000, 1<<20
	got := do[*kmsg.FetchResponse](c, 12, next)
	if len(got.Topics) != 1 || got.Topics[0].Partitions[0].ErrorCode != kerr.TopicAuthorizationFailed.Code || len(got.Topics[0].Partitions[0].RecordBatches) > 0 {
		t.Errorf("%+v", got)
	}
}

// A session is its account's: nobody else goes on with it, sees what it reads, or ends it.
func TestFetchSessionOfSomebodyElse(t *testing.T) {
	r := &fakeRights{}
	n, _ := securedNode(t, r)
	topic, _ := n.eng.TopicByName("t")
	r.allow("anna", opRead, topicKind, "t")
	anna, bert := n.dial(), n.dial()
	for cl, as := range map[*client][2]string{anna: {"anna", "correct horse"}, bert: {"bert", "battery staple"}} {
		if resp, err := cl.login(2, as[0], as[1]); err != nil || resp.ErrorCode != 0 {
			t.Fatal(resp, err)
		}
	}
	first := fetchRequest(topic, 0, 0, 0, 0)
	first.SessionEpoch = 0
	id := do[*kmsg.FetchResponse](anna, 12, first).SessionID
	next := kmsg.NewPtrFetchRequest()
	next.SessionID, next.SessionEpoch, next.MaxBytes = id, 1, 1<<20
	if got := do[*kmsg.FetchResponse](bert, 12, next); got.ErrorCode != kerr.FetchSessionIDNotFound.Code || len(got.Topics) > 0 {
		t.Errorf("%+v", got)
	}
	end := kmsg.NewPtrFetchRequest()
	end.SessionID, end.SessionEpoch = id, -1
	do[*kmsg.FetchResponse](bert, 12, end)
	if got := do[*kmsg.FetchResponse](anna, 12, next); id == 0 || got.ErrorCode != 0 || got.SessionID != id {
		t.Errorf("session %d: %+v", id, got)
	}
}

// What a record's key leads to decides, where not everything does; a batch with one that may not go is refused whole.
func TestPublishingByKey(t *testing.T) {
	r := &fakeRights{publish: map[string]func([]byte) bool{"t": func(key []byte) bool { return bytes.HasPrefix(key, []byte("mine/")) }}}
	n, _ := securedNode(t, r)
	r.allow("anna", opWrite, topicKind, "t")
	r.allow("anna", opDescribe, topicKind, "t")
	produce := func(codec kgo.CompressionCodec, keys ...string) error {
		var records []*kgo.Record
		for _, k := range keys {
			records = append(records, &kgo.Record{Topic: "t", Key: []byte(k), Value: []byte(strings.Repeat("v", 100))})
		}
		cl := n.as("anna", "correct horse", kgo.DisableIdempotentWrite(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec))
		return cl.ProduceSync(patience(t), records...).FirstErr()
	}
	for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.ZstdCompression(), kgo.GzipCompression()} {
		if err := produce(codec, "mine/1", "mine/2"); err != nil {
			t.Errorf("my own: %v", err)
		}
		if err := produce(codec, "mine/1", "yours/2"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
			t.Errorf("somebody else's: %v", err)
		}
	}
	if got := n.srv.Stats().Denied["publish_to_mqtt"]; got < 3 {
		t.Errorf("%d counted", got)
	}
}

// The answers are remembered until something changes.
func TestAnswersAreRemembered(t *testing.T) {
	r := &fakeRights{}
	n, _ := securedNode(t, r)
	r.allow("anna", opWrite, topicKind, "t")
	c := n.dial()
	if resp, err := c.login(2, "anna", "correct horse"); err != nil || resp.ErrorCode != 0 {
		t.Fatal(resp, err)
	}
	c.produce("t", 0, "a")
	before := r.questions()
	for range 50 {
		c.produce("t", 0, "a")
	}
	if now := r.questions(); now != before {
		t.Errorf("asked %d times more", now-before)
	}
}

// ACLs: what an administrator makes is in force at once, survives a restart, and a denial wins over everything.
func TestACLs(t *testing.T) {
	r := &fakeRights{}
	n, u := securedNode(t, r)
	n.topic("tango", 1, nil)
	r.allow("anna", opAlter, cluster, clusterName)
	r.allow("anna", opDescribe, cluster, clusterName)
	admin, ctx := kadm.NewClient(n.as("anna", "correct horse")), patience(t)
	bert := n.as("bert", "battery staple", kgo.DefaultProduceTopic("t"))
	if err := bert.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Fatalf("without an ACL: %v", err)
	}
	create := func(b *kadm.ACLBuilder) error {
		t.Helper()
		got, err := admin.CreateACLs(ctx, b)
		for _, one := range got {
			err = errors.Join(err, one.Err)
		}
		return err
	}
	if err := create(kadm.NewACLs().Allow("User:bert").AllowHosts("127.0.0.1").Topics("t").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpWrite)); err != nil {
		t.Fatal(err)
	}
	bert = n.as("bert", "battery staple", kgo.DefaultProduceTopic("t"))
	for _, topic := range []string{"t", "tango"} { // a prefix means both
		if err := bert.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatalf("with an ACL: %v", err)
		}
	}
	// The policy's no beats an ACL's yes.
	r.say(acl.Deny, "bert", opWrite, topicKind, "t")
	if err := bert.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Fatalf("denied by the policy: %v", err)
	}
	r.say(acl.Allow, "bert", opWrite, topicKind, "t")
	// And an ACL's no the policy's yes, after a restart too.
	if err := create(kadm.NewACLs().Deny("User:*").DenyHosts().Topics("t").Operations(kadm.OpWrite)); err != nil {
		t.Fatal(err)
	}
	n.restart()
	n.serveWith(ListenerOptions{Gate: u.gate()})
	admin, bert = kadm.NewClient(n.as("anna", "correct horse")), n.as("bert", "battery staple", kgo.DefaultProduceTopic("t"))
	if err := bert.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Fatalf("denied by an ACL: %v", err)
	}
	all := kadm.NewACLs().AnyResource().Allow().AllowHosts().Deny().DenyHosts().Operations(kadm.OpAny).ResourcePatternType(kadm.ACLPatternAny)
	described, err := admin.DescribeACLs(ctx, all)
	if err != nil || len(described) == 0 {
		t.Fatal(described, err)
	}
	count := 0
	for _, d := range described {
		count += len(d.Described)
	}
	if count != 2 {
		t.Errorf("%d ACLs described: %+v", count, described)
	}
	// Nobody becomes an administrator by an ACL.
	if err := create(kadm.NewACLs().Allow("User:bert").AllowHosts().Clusters().Operations(kadm.OpAlter)); !errors.Is(err, kerr.PolicyViolation) {
		t.Errorf("alter on the cluster: %v", err)
	}
	if err := create(kadm.NewACLs().Allow("User:bert").AllowHosts().Clusters().Operations(kadm.OpAll)); err != nil {
		t.Error(err)
	}
	if got, err := kadm.NewClient(bert).CreateACLs(ctx, kadm.NewACLs().Allow("User:bert").AllowHosts().Topics("t").Operations(kadm.OpAll)); err == nil && (len(got) == 0 || got[0].Err == nil) {
		t.Errorf("bert made himself an ACL: %+v", got)
	}
	deleted, err := admin.DeleteACLs(ctx, all)
	if err != nil || len(deleted) == 0 {
		t.Fatal(err)
	}
	if got := len(n.srv.acls.set.Load().All()); got != 0 {
		t.Errorf("%d ACLs are left", got)
	}
	if err := bert.ProduceSync(ctx, kgo.StringRecord("x")).FirstErr(); err != nil {
		t.Errorf("after all ACLs are gone: %v", err)
	}
}

func TestNoACLsWithoutAPolicy(t *testing.T) {
	n := start(t, Options{})
	for _, req := range []kmsg.Request{apiRights[kmsg.DescribeACLs][0].(guarded).request(eventlog.Topic{}), apiRights[kmsg.CreateACLs][0].(guarded).request(eventlog.Topic{}),
		apiRights[kmsg.DeleteACLs][0].(guarded).request(eventlog.Topic{}), apiRights[kmsg.AlterUserSCRAMCredentials][0].(guarded).request(eventlog.Topic{})} {
		resp := do[kmsg.Response](n.dial(), lookup(req.Key()).max, req)
		if codes := codesIn(reflect.ValueOf(resp)); !slices.Contains(codes, kerr.SecurityDisabled.Code) {
			t.Errorf("%T: %+v", resp, resp)
		}
	}
}

// A topic of ACLs that cannot be understood may be what keeps somebody out: a server without it does not start.
func TestACLsThatCannotBeRead(t *testing.T) {
	n := start(t, Options{})
	topic := n.topic(aclsTopic, 1, map[string]string{"cleanup.policy": "compact"})
	var b eventlog.Builder
	b.Add(1, []byte("{}"), []byte("{}"), nil)
	batch, _, err := b.Batch(eventlog.Part{Topic: topic.ID}, eventlog.None)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	n.eng.Append(batch, func(o eventlog.Outcome) { done <- o.Err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	o := n.opts
	o.Engine = n.eng
	if s, err := New(o); err == nil {
		s.Close()
		t.Error("it starts")
	}
}

// What may not be described is not listed; a transaction is nobody's business but whose may.
func TestListedTransactions(t *testing.T) {
	r := &fakeRights{}
	n, _ := securedNode(t, r)
	r.allow("anna", opWrite, idKind, "x")
	r.allow("anna", opDescribe, idKind, "x")
	c, other := n.dial(), n.dial()
	for cl, as := range map[*client][2]string{c: {"anna", "correct horse"}, other: {"bert", "battery staple"}} {
		if resp, err := cl.login(2, as[0], as[1]); err != nil || resp.ErrorCode != 0 {
			t.Fatal(resp, err)
		}
	}
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID, init.TransactionTimeoutMillis = kmsg.StringPtr("x"), 10_000
	if resp := do[*kmsg.InitProducerIDResponse](c, 4, init); resp.ErrorCode != 0 {
		t.Fatalf("%+v", resp)
	}
	if resp := do[*kmsg.InitProducerIDResponse](other, 4, init); resp.ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code {
		t.Errorf("somebody else's id: %+v", resp)
	}
	for cl, want := range map[*client]int{c: 1, other: 0} {
		if resp := do[*kmsg.ListTransactionsResponse](cl, 1, kmsg.NewPtrListTransactionsRequest()); len(resp.TransactionStates) != want {
			t.Errorf("%+v, want %d", resp, want)
		}
	}
}

// A right that goes within a transaction is missed at the next record; who lost the id cannot commit, and the transaction ends by its timeout.
func TestRevokedWithinATransaction(t *testing.T) {
	r := &fakeRights{}
	n, _ := securedNode(t, r)
	r.allow("anna", opWrite, idKind, "x")
	r.allow("anna", opDescribe, idKind, "x")
	r.allow("anna", opWrite, topicKind, "t")
	r.allow("anna", opDescribe, topicKind, "t")
	cl := n.as("anna", "correct horse", kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(patience(t), kgo.StringRecord("a")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	r.say(acl.None, "anna", opWrite, topicKind, "t")
	if err := cl.ProduceSync(patience(t), kgo.StringRecord("b")).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("a record after the right went: %v", err)
	}
	r.say(acl.None, "anna", opWrite, idKind, "x")
	if err := cl.EndTransaction(patience(t), kgo.TryCommit); err == nil {
		t.Error("committed without the right")
	}
	topic, _ := n.eng.TopicByName("t")
	for p := range topic.Partitions {
		for _, b := range n.stored(topic, p) {
			if b.Attributes()&eventlog.AttrControl != 0 {
				t.Error("the transaction has ended")
			}
		}
	}
}
