package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// Severity says how bad a finding is.
type Severity string

const (
	Broken  Severity = "error"   // a node does not work so, or loses what it has acknowledged
	Risky   Severity = "warning" // it works until something fails
	Unknown Severity = "unknown" // it could not be found out
)

// Finding is one thing about a cluster that somebody should know.
type Finding struct {
	Severity Severity `json:"severity"`
	About    string   `json:"about"` // "cluster", or a topic's name
	What     string   `json:"what"`
	Risk     string   `json:"risk,omitempty"`
	Fix      string   `json:"fix,omitempty"` // a command, or what to do
}

// Wanted is a topic as a node wants it.
type Wanted struct {
	Name       string
	Partitions int32 // 0: as they are
	Compact    bool
	Internal   bool // of ours; nobody else should write it
	Reversible bool // what is written to it reaches devices
	Configured bool // a route says something about its configs
}

// Checkup says what a doctor looks at.
type Checkup struct {
	Options   Options
	Topics    []Wanted
	Away      time.Duration // how long a session may be away and still be owed its messages
	Principal string        // ours, as the cluster calls it ("User:millrace"); "": it is not known
	Probe     bool          // make a topic for a moment, write to it, and take it away: the only way to see the cluster's clock
}

// Report is what was looked at, and found.
type Report struct {
	Brokers  int       `json:"brokers"`
	Version  string    `json:"version"` // of the oldest broker, as its requests tell
	Topics   int       `json:"topics"`  // of those wanted, that are there
	Findings []Finding `json:"findings"`
}

// Bad tells whether a node does not work so, or loses what it has acknowledged.
func (r *Report) Bad() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Severity == Broken })
}

// doctor is one look at a cluster.
type doctor struct {
	c   Checkup
	cl  *kgo.Client
	adm *kadm.Client
	r   Report

	there   map[string]*kmsg.MetadataResponseTopic
	configs map[string]config
	open    bool // the cluster has no authorizer
}

// Examine looks at a cluster, before a node uses it or while it does. It alters nothing, but for the topic of Probe. The error says that the
// cluster could not be looked at; what a principal may not see is a finding.
func Examine(ctx context.Context, c Checkup) (*Report, error) {
	c.Options.setDefaults()
	cl, err := c.Options.client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	d := &doctor{c: c, cl: cl, adm: kadm.NewClient(cl)}
	if err := d.versions(ctx); err != nil {
		return nil, fmt.Errorf("ask the brokers for their versions: %w", err)
	}
	if err := d.metadata(ctx); err != nil {
		return nil, fmt.Errorf("ask for the topics: %w", err)
	}
	d.acls(ctx)
	for i := range c.Topics {
		d.topic(ctx, &c.Topics[i])
	}
	d.quotas(ctx)
	if c.Probe {
		d.probe(ctx)
	}
	order := []Severity{Broken, Risky, Unknown}
	slices.SortStableFunc(d.r.Findings, func(a, b Finding) int { return slices.Index(order, a.Severity) - slices.Index(order, b.Severity) })
	return &d.r, nil
}

const cluster = "cluster"

func (d *doctor) find(s Severity, about, what, risk, fix string) {
	d.r.Findings = append(d.r.Findings, Finding{s, about, what, risk, fix})
}

// versions finds the oldest broker.
func (d *doctor) versions(ctx context.Context) error {
	all, err := d.adm.ApiVersions(ctx)
	if err != nil {
		return err
	}
	var oldest string
	for _, b := range all.Sorted() {
		if b.Err != nil {
			d.find(Broken, cluster, fmt.Sprintf("broker %d does not answer: %v", b.NodeID, b.Err), "partitions that it leads cannot be written or read", "look at the broker")
			continue
		}
		if v, ok := b.KeyMaxVersion(int16(kmsg.Metadata)); !ok || v < 10 {
			d.find(Broken, cluster, fmt.Sprintf("broker %d is older than 2.8: it knows no topic ids", b.NodeID), "a topic that is deleted and made again would be taken for the one before", "upgrade it")
		}
		if v := b.VersionGuess(); oldest == "" || v < oldest {
			oldest = v
		}
	}
	d.r.Version = oldest
	return nil
}

// metadata finds the topics that are wanted, with what we may do with them.
func (d *doctor) metadata(ctx context.Context) error {
	req := kmsg.NewPtrMetadataRequest()
	req.IncludeTopicAuthorizedOperations = true
	req.Topics = []kmsg.MetadataRequestTopic{}
	for i := range d.c.Topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &d.c.Topics[i].Name
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, d.cl)
	if err != nil {
		return err
	}
	d.r.Brokers = len(resp.Brokers)
	if n := d.brokers(ctx); n > d.r.Brokers {
		d.find(Risky, cluster, fmt.Sprintf("%d of %d brokers are down", n-d.r.Brokers, n), "one failure fewer is survived", "look at the brokers")
		d.r.Brokers = n
	}
	if d.r.Brokers < 3 {
		d.find(Risky, cluster, fmt.Sprintf("there are %d brokers", d.r.Brokers), "with fewer than three, either nothing is accepted while one is down, or what is acknowledged is on one disk", "three brokers or more")
	}
	d.there = map[string]*kmsg.MetadataResponseTopic{}
	var names []string
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if t.Topic == nil {
			continue
		}
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case err == nil:
			d.there[*t.Topic] = t
			names = append(names, *t.Topic)
		case errors.Is(err, kerr.TopicAuthorizationFailed):
			d.find(Broken, *t.Topic, "we may not see it", "the node cannot use it", d.allow("Describe", *t.Topic))
		case !errors.Is(err, kerr.UnknownTopicOrPartition):
			d.find(Unknown, *t.Topic, err.Error(), "", "")
		}
	}
	d.r.Topics = len(names)
	if d.configs, err = describeConfigs(ctx, d.cl, names...); err != nil {
		d.find(Unknown, cluster, "the topics' configs cannot be read: "+err.Error(), "", "")
	}
	return nil
}

func (d *doctor) brokers(ctx context.Context) int {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.EndpointType, req.IncludeFencedBrokers = 1, true
	if resp, err := req.RequestWith(ctx, d.cl); err == nil && resp.ErrorCode == 0 {
		return len(resp.Brokers)
	}
	return 0
}

// tool is a command of Kafka's, for this cluster.
func (d *doctor) tool(name, args string) string {
	at := "BROKER:9092"
	if len(d.c.Options.Seeds) > 0 {
		at = d.c.Options.Seeds[0]
	}
	return fmt.Sprintf("%s --bootstrap-server %s %s", name, at, args)
}

func (d *doctor) allow(operation, topic string) string {
	who := d.c.Principal
	if who == "" {
		who = "User:NAME"
	}
	return d.tool("kafka-acls.sh", fmt.Sprintf("--add --allow-principal %s --operation %s --topic %s", who, operation, topic))
}

func (d *doctor) set(topic, config string) string {
	return d.tool("kafka-configs.sh", fmt.Sprintf("--alter --entity-type topics --entity-name %s --add-config %s", topic, config))
}

// topic looks at one topic. One that is not there will be made by the node.
func (d *doctor) topic(ctx context.Context, w *Wanted) {
	t := d.there[w.Name]
	if t == nil {
		return
	}
	is := d.configs[w.Name].effective
	copies := 0
	offline, under := 0, 0
	for i := range t.Partitions {
		p := &t.Partitions[i]
		copies = max(copies, len(p.Replicas))
		if p.Leader < 0 {
			offline++
		} else if len(p.ISR) < len(p.Replicas) {
			under++
		}
	}
	if offline > 0 {
		d.find(Broken, w.Name, fmt.Sprintf("%d of %d partitions have no leader", offline, len(t.Partitions)), "their publishers wait", "bring their brokers back")
	}
	if under > 0 {
		d.find(Risky, w.Name, fmt.Sprintf("%d of %d partitions lack replicas that are in sync", under, len(t.Partitions)), "one failure fewer is survived", "look at the brokers")
	}
	if len(is) > 0 {
		for _, f := range unsafe(w.Name, copies, d.r.Brokers, is) {
			if args, ok := strings.CutPrefix(f.fix, "kafka-configs.sh "); ok {
				f.fix = d.tool("kafka-configs.sh", args)
			}
			d.find(Risky, w.Name, f.what, f.risk, f.fix)
		}
		d.shape(w, len(t.Partitions), is)
	}
	d.rights(w, t.AuthorizedOperations)
	if w.Reversible || w.Internal {
		d.writers(ctx, w)
	}
}

// shape compares a topic's partitions and configs with what the node wants.
func (d *doctor) shape(w *Wanted, partitions int, is map[string]string) {
	if w.Partitions > 0 && int(w.Partitions) != partitions {
		d.find(Broken, w.Name, fmt.Sprintf("it has %d partitions, and its route says %d", partitions, w.Partitions), "the node does not start", fmt.Sprintf("write partitions: %d, or give the route another topic", partitions))
	}
	policy := is["cleanup.policy"]
	compacts, deletes := strings.Contains(policy, "compact"), strings.Contains(policy, "delete")
	switch {
	case w.Compact && w.Internal && !compacts:
		d.find(Broken, w.Name, "cleanup.policy="+policy, "sessions, retained messages and claims are forgotten when its records grow old", d.set(w.Name, "cleanup.policy=compact"))
	case w.Compact && w.Internal && deletes:
		d.find(Broken, w.Name, "cleanup.policy="+policy, "what is old is forgotten, though it holds still", d.set(w.Name, "cleanup.policy=compact"))
	case !w.Compact && compacts:
		d.find(Risky, w.Name, "cleanup.policy="+policy, "of each key only the last record is kept: subscribers that are away, and history, miss the others", "say compact: true on the route if that is meant, or "+d.set(w.Name, "cleanup.policy=delete"))
	}
	if ms, err := strconv.ParseInt(is["retention.ms"], 10, 64); err == nil && deletes && !w.Internal && ms >= 0 && d.c.Away > 0 && time.Duration(ms)*time.Millisecond < d.c.Away {
		d.find(Risky, w.Name, fmt.Sprintf("retention.ms=%d, and a session may be away for %v", ms, d.c.Away), "a subscriber that comes back late finds a gap (it is told)", "a longer retention, or a shorter limits.session_expiry: "+d.set(w.Name, fmt.Sprintf("retention.ms=%d", d.c.Away.Milliseconds())))
	}
	if is["message.timestamp.type"] == "LogAppendTime" {
		d.find(Risky, w.Name, "message.timestamp.type=LogAppendTime", "a record's time is the broker's, not when the message was received: latencies, expiry and replay by time are off by the way between", d.set(w.Name, "message.timestamp.type=CreateTime"))
	}
	if n, err := strconv.ParseInt(is["max.message.bytes"], 10, 64); err == nil && n < 1_000_000 {
		d.find(Risky, w.Name, fmt.Sprintf("max.message.bytes=%d", n), "larger messages are refused", "limits.packet_bytes below it, or "+d.set(w.Name, "max.message.bytes=1048588"))
	}
}

// rights compares what we may do with a topic with what a node does.
func (d *doctor) rights(w *Wanted, have int32) {
	if have == -1<<31 {
		return // the cluster does not tell
	}
	for _, need := range []struct {
		op     kmsg.ACLOperation
		name   string
		wanted bool
	}{
		{kmsg.ACLOperationRead, "Read", true}, {kmsg.ACLOperationWrite, "Write", true}, {kmsg.ACLOperationDescribe, "Describe", true},
		{kmsg.ACLOperationDescribeConfigs, "DescribeConfigs", true}, {kmsg.ACLOperationAlterConfigs, "AlterConfigs", w.Configured},
	} {
		if need.wanted && have&(1<<need.op) == 0 {
			d.find(Broken, w.Name, "we lack the right to "+need.name, "the node cannot do its work on it", d.allow(need.name, w.Name))
		}
	}
}

// acls finds out whether the cluster asks anybody who they are.
func (d *doctor) acls(ctx context.Context) {
	_, err := d.aclsOf(ctx, eventlog.InternalPrefix+"producers")
	switch {
	case errors.Is(err, kerr.SecurityDisabled):
		d.open = true
		d.find(Risky, cluster, "it has no authorizer", "whoever reaches a broker may write topics that devices are sent, and pass records off as ours", "keep the brokers on a network of their own, or set authorizer.class.name and ACLs")
	case err != nil:
		d.open = true // it cannot be asked again
		d.find(Unknown, cluster, "who may write which topic cannot be seen: "+err.Error(), "", "let us describe the cluster: "+d.tool("kafka-acls.sh", "--add --allow-principal User:NAME --operation Describe --cluster"))
	}
}

func (d *doctor) aclsOf(ctx context.Context, topic string) ([]kmsg.DescribeACLsResponseResource, error) {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourceName, req.ResourcePatternType = kmsg.ACLResourceTypeTopic, &topic, kmsg.ACLResourcePatternTypeMatch
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAllow
	resp, err := req.RequestWith(ctx, d.cl)
	if err != nil {
		return nil, err
	}
	return resp.Resources, kerr.ErrorForCode(resp.ErrorCode)
}

// writers says who else may write a topic whose records are more than data.
func (d *doctor) writers(ctx context.Context, w *Wanted) {
	if d.open {
		return
	}
	resources, err := d.aclsOf(ctx, w.Name)
	if err != nil {
		d.find(Unknown, w.Name, "who may write it cannot be seen: "+err.Error(), "", "")
		return
	}
	var others []string
	for _, r := range resources {
		for _, a := range r.ACLs {
			if may := a.Operation == kmsg.ACLOperationWrite || a.Operation == kmsg.ACLOperationAll; may && a.Principal != d.c.Principal && !slices.Contains(others, a.Principal) {
				others = append(others, a.Principal)
			}
		}
	}
	slices.Sort(others)
	switch list := strings.Join(others, ", "); {
	case list == "":
	case w.Internal && d.c.Principal == "":
		d.find(Unknown, w.Name, "may be written by "+list+"; which of them the node is cannot be told from its certificate or token",
			"whoever else it is can alter sessions and retained messages, or pass records off as ours", "take the right away from all but the node, with kafka-acls.sh --remove")
	case w.Internal:
		d.find(Broken, w.Name, "others may write it: "+list, "who does can alter sessions and retained messages, or pass records off as ours", "take the right away with kafka-acls.sh --remove")
	default:
		d.find(Risky, w.Name, "others may write it: "+list, "what they write is sent to devices; that may be what it is for", "take the right away from whoever should not")
	}
}

// quotas finds what holds us back.
func (d *doctor) quotas(ctx context.Context) {
	all, err := d.adm.DescribeClientQuotas(ctx, false, nil)
	if err != nil {
		d.find(Unknown, cluster, "quotas cannot be seen: "+err.Error(), "", "")
		return
	}
	for _, q := range all {
		var who []string
		ours := true
		for _, e := range q.Entity {
			name := "the default"
			if e.Name != nil {
				name = *e.Name
				ours = ours && (e.Type == "client-id" && name == d.c.Options.ClientID || e.Type == "user" && "User:"+name == d.c.Principal)
			}
			who = append(who, e.Type+" "+name)
		}
		for _, v := range q.Values {
			if ours && (v.Key == "producer_byte_rate" || v.Key == "consumer_byte_rate" || v.Key == "request_percentage") {
				d.find(Risky, cluster, fmt.Sprintf("quota %s=%g for %s", v.Key, v.Value, strings.Join(who, ", ")), "beyond it the cluster slows the node down, and the node its devices", "raise it above what all devices send together")
			}
		}
	}
}

// probeTopic is there for a moment.
const probeTopic = eventlog.InternalPrefix + "doctor"

// clockOff is by how much the clocks of the node and of a broker may differ before it is said; the brokers' limit is an hour.
const clockOff = 5 * time.Second

// probe writes a record whose time the broker sets, and reads it back.
func (d *doctor) probe(ctx context.Context) {
	stamp := "LogAppendTime"
	if _, err := d.adm.CreateTopic(ctx, 1, -1, map[string]*string{"message.timestamp.type": &stamp}, probeTopic); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		d.find(Broken, cluster, "a topic cannot be made: "+err.Error(), "the node makes the topics that are not there", d.tool("kafka-acls.sh", "--add --allow-principal User:NAME --operation Create --cluster"))
		return
	}
	defer d.adm.DeleteTopics(context.WithoutCancel(ctx), probeTopic) //nolint:errcheck // it is looked at no more
	if err := d.roundTrip(ctx); err != nil {
		d.find(Broken, cluster, "a record cannot be written and read: "+err.Error(), "", "")
	}
}

func (d *doctor) roundTrip(ctx context.Context) error {
	cl, err := d.c.Options.client(kgo.DefaultProduceTopic(probeTopic), kgo.ConsumeTopics(probeTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.UnknownTopicRetries(20))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	text := []byte(randomName())
	sent := time.Now()
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: text}).FirstErr(); err != nil {
		return err
	}
	answered := time.Now()
	for {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, r := range fetches.Records() {
			if string(r.Value) != string(text) {
				continue
			}
			if off := apart(r.Timestamp, sent, answered); off > clockOff {
				d.find(Broken, cluster, fmt.Sprintf("the clocks of this machine and of a broker are %v apart", off.Round(time.Millisecond)), "retention goes by the records' times, which are this machine's; an hour ahead, brokers refuse them (message.timestamp.after.max.ms)", "synchronise the clocks (chrony, systemd-timesyncd)")
			}
			return nil
		}
	}
}

// apart is how far a time lies outside a span.
func apart(at, from, to time.Time) time.Duration {
	return max(from.Sub(at), at.Sub(to), 0)
}
