package kafka

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// said lists findings as severity, about and what.
func (r *Report) said() (list []string) {
	for _, f := range r.Findings {
		list = append(list, fmt.Sprintf("%s %s: %s", f.Severity, f.About, f.What))
	}
	return list
}

func examine(t *testing.T, c Checkup) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := Examine(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// has fails unless each of the words is in one finding of its own, with a risk and a fix, and there are no others.
func (r *Report) has(t *testing.T, words ...string) {
	t.Helper()
	left := r.said()
	for _, w := range words {
		i := slices.IndexFunc(left, func(s string) bool { return strings.Contains(s, w) })
		if i < 0 {
			t.Errorf("nothing says %q:\n%s", w, strings.Join(r.said(), "\n"))
			continue
		}
		left = slices.Delete(left, i, i+1)
	}
	for _, s := range left {
		t.Errorf("too much is said: %s", s)
	}
	for _, f := range r.Findings {
		if f.Severity != Unknown && (f.Risk == "" || f.Fix == "") {
			t.Errorf("no risk, or no fix: %+v", f)
		}
	}
}

func TestDoctor(t *testing.T) {
	cluster := newCluster(t)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeACLs}, Err: kerr.SecurityDisabled, Count: -1}) // as a cluster without rules answers
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	topic := func(name string, copies int16, config ...string) {
		t.Helper()
		set := map[string]*string{}
		for i := 0; i < len(config); i += 2 {
			set[config[i]] = &config[i+1]
		}
		if _, err := adm.CreateTopic(t.Context(), 4, copies, set, name); err != nil {
			t.Fatal(err)
		}
	}
	topic("good", 3, "min.insync.replicas", "2", "retention.ms", "604800000")
	topic("kept", 3, "min.insync.replicas", "2", "cleanup.policy", "compact")
	topic("alone", 1, "min.insync.replicas", "1")
	topic("hasty", 3, "min.insync.replicas", "1", "unclean.leader.election.enable", "true")
	topic("brittle", 3, "min.insync.replicas", "3")
	topic("short", 3, "min.insync.replicas", "2", "retention.ms", "3600000")
	topic("odd", 3, "min.insync.replicas", "2", "cleanup.policy", "compact", "message.timestamp.type", "LogAppendTime", "max.message.bytes", "1000")
	topic("forgets", 3, "min.insync.replicas", "2")
	c := Checkup{Options: testOptions(cluster), Away: 7 * 24 * time.Hour, Probe: true, Topics: []Wanted{{Name: "good", Partitions: 4}, {Name: "kept", Compact: true, Internal: true}, {Name: "to be made"}}}
	const open = "cluster: it has no authorizer"
	healthy := examine(t, c)
	healthy.has(t, open)
	if healthy.Brokers != 3 || healthy.Topics != 2 || healthy.Version == "" {
		t.Errorf("%+v", healthy)
	}
	c.Topics = []Wanted{{Name: "alone"}, {Name: "hasty"}, {Name: "brittle"}, {Name: "short", Partitions: 8}, {Name: "odd"}, {Name: "forgets", Compact: true, Internal: true}}
	sick := examine(t, c)
	sick.has(t, open, "alone: replication factor 1 on 3", "hasty: min.insync.replicas=1 with 3", "hasty: unclean.leader", "brittle: min.insync.replicas=3",
		"short: it has 4 partitions, and its route says 8", "short: retention.ms=3600000", "odd: cleanup.policy=compact", "odd: message.timestamp.type=LogAppendTime",
		"odd: max.message.bytes=1000", "forgets: cleanup.policy=delete")
	if sick.Findings[0].Severity != Broken || sick.Findings[len(sick.Findings)-1].Severity == Broken {
		t.Errorf("what is worst is not first: %v", sick.said())
	}
	topics, err := adm.ListTopics(t.Context())
	if err != nil || topics.Has(probeTopic) {
		t.Errorf("the probe's topic is there still: %v %v", topics.Names(), err)
	}
	value := 1000.0
	if _, err := adm.AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{{Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: kadm.StringPtr("millrace")}},
		Ops: []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: value}}}}); err != nil {
		t.Fatal(err)
	}
	c.Topics, c.Options.ClientID = nil, "millrace"
	examine(t, c).has(t, open, "quota producer_byte_rate=1000 for client-id millrace")
}

// On a cluster with rules: which rights we lack, and who else has some that they should not.
func TestDoctorOfRights(t *testing.T) {
	grant := func(resource kmsg.ACLResourceType, name string, ops ...kmsg.ACLOperation) (list []kfake.ACL) {
		for _, op := range ops {
			list = append(list, kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true})
		}
		return list
	}
	ours := slices.Concat(
		grant(kmsg.ACLResourceTypeCluster, "kafka-cluster", kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs),
		grant(kmsg.ACLResourceTypeTopic, "commands", kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs),
		grant(kmsg.ACLResourceTypeTopic, "__millrace_sessions", kmsg.ACLOperationAll),
		grant(kmsg.ACLResourceTypeTopic, "telemetry", kmsg.ACLOperationRead, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs))
	theirs := slices.Concat(grant(kmsg.ACLResourceTypeTopic, "commands", kmsg.ACLOperationWrite), grant(kmsg.ACLResourceTypeTopic, "__millrace_sessions", kmsg.ACLOperationAll),
		grant(kmsg.ACLResourceTypeTopic, "telemetry", kmsg.ACLOperationWrite))
	cluster := newCluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "a"),
		kfake.User("PLAIN", "millrace", "m", ours...), kfake.User("PLAIN", "billing", "b", theirs...))
	login := func(name, password string) *Login {
		return &Login{Mechanism: "PLAIN", Password: func(context.Context) (string, string, error) { return name, password, nil }}
	}
	o := Options{Seeds: cluster.ListenAddrs(), Login: login("admin", "a")}
	cl, err := o.client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	two, compact := "2", "compact"
	for _, name := range []string{"commands", "__millrace_sessions", "telemetry", "secret"} {
		config := map[string]*string{"min.insync.replicas": &two}
		if name == "__millrace_sessions" {
			config["cleanup.policy"] = &compact
		}
		if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 1, 3, config, name); err != nil {
			t.Fatal(err)
		}
	}
	o.Login = login("millrace", "m")
	r := examine(t, Checkup{Options: o, Principal: "User:millrace", Topics: []Wanted{{Name: "commands", Reversible: true, Configured: true}, {Name: "__millrace_sessions", Compact: true, Internal: true},
		{Name: "telemetry"}, {Name: "secret"}}})
	r.has(t, "error commands: we lack the right to AlterConfigs", "warning commands: others may write it: User:billing", "error __millrace_sessions: others may write it: User:billing",
		"error telemetry: we lack the right to Write", "error secret: we may not see it")
	for _, f := range r.Findings {
		if strings.Contains(f.What, "lack the right to Write") && f.Fix != "kafka-acls.sh --bootstrap-server "+o.Seeds[0]+" --add --allow-principal User:millrace --operation Write --topic telemetry" {
			t.Errorf("%+v", f)
		}
	}
}

func TestApart(t *testing.T) {
	now := time.Now()
	for _, c := range []struct{ at, want time.Duration }{{-time.Hour, time.Hour}, {0, 0}, {500 * time.Millisecond, 0}, {time.Second, 0}, {11 * time.Second, 10 * time.Second}} {
		if got := apart(now.Add(c.at), now, now.Add(time.Second)); got != c.want {
			t.Errorf("%v: %v, want %v", c.at, got, c.want)
		}
	}
}
