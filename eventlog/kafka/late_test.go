package kafka

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
)

// late has one broker of a cluster learn of everything a few answers later than the others, as brokers of a real cluster do: for
// so many answers it does not know the topic, or its configs.
func late(c *kfake.Cluster, node int32, topic string, answers int32) *atomic.Int32 {
	var left atomic.Int32
	left.Store(answers)
	behind := func() bool { return c.CurrentNode() == node && left.Add(-1) >= 0 }
	c.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.MetadataRequest)
		named := slices.ContainsFunc(req.Topics, func(rt kmsg.MetadataRequestTopic) bool { return rt.Topic != nil && *rt.Topic == topic })
		if !named || !behind() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		rt := kmsg.NewMetadataResponseTopic()
		rt.Topic, rt.ErrorCode = &topic, kerr.UnknownTopicOrPartition.Code
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	c.ControlKey(int16(kmsg.DescribeConfigs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.DescribeConfigsRequest)
		if !slices.ContainsFunc(req.Resources, func(r kmsg.DescribeConfigsRequestResource) bool { return r.ResourceName == topic }) || !behind() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
		for _, r := range req.Resources {
			rr := kmsg.NewDescribeConfigsResponseResource()
			rr.ResourceType, rr.ResourceName = r.ResourceType, r.ResourceName
			if r.ResourceName == topic {
				rr.ErrorCode = kerr.UnknownTopicOrPartition.Code
			}
			resp.Resources = append(resp.Resources, rr)
		}
		return resp, nil, true
	})
	return &left
}

// TestBrokersLearnLate: who made a topic finds it, whichever broker is asked.
func TestBrokersLearnLate(t *testing.T) {
	for node := range int32(3) {
		r := newRig(t, nil)
		left := late(r.c, node, "late", 5)
		made, err := r.d.CreateTopic(r.ctx, eventlog.TopicSpec{Name: "late", Partitions: 2, Config: map[string]string{"retention.ms": "5"}})
		if err != nil {
			t.Fatalf("broker %d is late: %v", node, err)
		}
		if left.Load() >= 5 {
			t.Error("nobody asked the late broker")
		}
		all, err := r.d.Topics(r.ctx)
		if err != nil || !slices.ContainsFunc(all, func(t eventlog.Topic) bool { return t.ID == made.ID && t.Config["retention.ms"] == "5" }) {
			t.Errorf("broker %d was late: %v lacks the topic; %v", node, all, err)
		}
	}
}

// TestConfigsDescribedLate: a topic whose configs a broker does not know yet is not left out of a list.
func TestConfigsDescribedLate(t *testing.T) {
	r := newRig(t, nil)
	r.d.o.Grace = 10 * time.Second // a busy machine takes longer than the rig's for four answers
	r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.UnknownTopicOrPartition, Count: 3})
	all, err := r.d.Topics(r.ctx)
	if err != nil || !slices.ContainsFunc(all, func(x eventlog.Topic) bool { return x.ID == r.topic.ID }) {
		t.Errorf("%v lacks the topic; %v", all, err)
	}
}

// TestLittleIsAllowed: a cluster that does not let us ask about everything in it is no reason to stop.
func TestLittleIsAllowed(t *testing.T) {
	r := newRig(t, nil)
	r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeCluster}, Err: kerr.ClusterAuthorizationFailed, Count: -1})
	made, err := r.d.CreateTopic(r.ctx, eventlog.TopicSpec{Name: "ours", Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.d.topics.cached(made.ID); got.copies != 3 {
		t.Errorf("the topic has %d replicas", got.copies)
	}
	r.c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	all, err := r.d.Topics(r.ctx)
	if err != nil || !slices.ContainsFunc(all, func(x eventlog.Topic) bool { return x.ID == made.ID }) {
		t.Errorf("%v lacks the topic; %v", all, err)
	}
}

// TestVetWarns: the first append to a topic that is less safe than it could be says so in the log, once.
func TestVetWarns(t *testing.T) {
	c := newCluster(t)
	var said lines
	o := testOptions(c)
	o.Logger = slog.New(slog.NewTextHandler(&said, nil))
	d, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	made, err := d.adm.CreateTopic(t.Context(), 1, 1, nil, "weak")
	if err != nil {
		t.Fatal(err)
	}
	l := logtest.NewLedger()
	for range 3 {
		l.Append(d, eventlog.Part{Topic: eventlog.TopicID(made.ID)}, "s", 1, 0)
		if err := l.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	d.vetting.Wait()
	if got := said.String(); strings.Count(got, "replication factor 1 on 3 brokers") != 1 || !strings.Contains(got, "topic=weak") {
		t.Errorf("the driver says:\n%s", got)
	}
}

type lines struct {
	mu sync.Mutex
	strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

// TestCopies: topics get three replicas of which two must have a record; what others made is judged, and left as it is.
func TestCopies(t *testing.T) {
	r := newRig(t, nil)
	testCopies(r.TB, r.d, r.topic, "", r.d.adm)
}

// TestRealKafkaCopies is TestCopies on a cluster that has replicas.
func TestRealKafkaCopies(t *testing.T) {
	c := newReal(t)
	d := c.open(t)
	made, err := d.CreateTopic(t.Context(), eventlog.TopicSpec{Name: "t", Partitions: 2})
	if err != nil {
		t.Fatal(err)
	}
	made.Name = d.full(made.Name)
	testCopies(t, d.Driver, made, c.prefix, d.adm)
}

func testCopies(t testing.TB, d *Driver, made eventlog.Topic, prefix string, adm *kadm.Client) {
	ctx := t.Context()
	if got := d.topics.cached(made.ID); got.copies != 3 {
		t.Errorf("a topic on three brokers has %d replicas", got.copies)
	}
	configs, err := adm.DescribeTopicConfigs(ctx, made.Name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := configs.On(made.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.Configs {
		if e.Key == minISR && (e.Value == nil || *e.Value != "2") {
			t.Errorf("%s is %v", minISR, e.MaybeValue())
		}
	}
	if _, found, err := d.findings(ctx, made.ID); err != nil || len(found) > 0 {
		t.Errorf("our own topic is judged %+v, %v", found, err)
	}
	value := func(s string) *string { return &s }
	for name, tt := range map[string]struct {
		copies int16
		config map[string]*string
		want   string
	}{
		"single":  {1, nil, "replication factor 1 on 3 brokers"},
		"one":     {3, map[string]*string{minISR: value("1")}, "min.insync.replicas=1 with 3 replicas"},
		"all":     {3, map[string]*string{minISR: value("3")}, "min.insync.replicas=3 with 3 replicas"},
		"unclean": {3, map[string]*string{minISR: value("2"), "unclean.leader.election.enable": value("true")}, "unclean.leader.election.enable=true"},
	} {
		name = prefix + name
		strange, err := adm.CreateTopic(ctx, 1, tt.copies, tt.config, name)
		if err != nil {
			t.Fatal(err)
		}
		id := idOf(name, strange.ID)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			_, found, err := d.findings(ctx, id)
			if err == nil && len(found) == 1 && found[0].what == tt.want {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: %+v, %v, want %q", name, found, err, tt.want)
				break
			}
		}
	}
}
