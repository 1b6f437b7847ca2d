package kafka

import (
	"context"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// minISR is how many replicas must have a record before it is answered. Like the number of replicas it is the driver's to
// choose when it makes a topic, since the embedded log has neither; so it is not among the configs that Topics tells.
const minISR = "min.insync.replicas"

// replication is how many replicas a topic gets that is made now: three, or as many as there are brokers. Those that are down
// at the moment count, where the cluster tells of them: a topic keeps for life what it is made with.
func (d *Driver) replication(ctx context.Context) (int16, error) {
	if d.o.Replication > 0 {
		return d.o.Replication, nil
	}
	n, err := d.brokers(ctx)
	return int16(max(min(n, 3), 1)), err
}

// brokers counts the brokers of the cluster. Where we may not ask for those that are down as well (an old cluster, or one that
// does not let us describe it), those that are up are what there is.
func (d *Driver) brokers(ctx context.Context) (int, error) {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.EndpointType = 1 // brokers
	req.IncludeFencedBrokers = true
	if resp, err := req.RequestWith(ctx, d.cl); err == nil && resp.ErrorCode == 0 {
		return len(resp.Brokers), nil
	}
	if err := d.topics.refresh(ctx); err != nil {
		return 0, fmt.Errorf("count the brokers: %w", err)
	}
	return len(d.topics.brokers()), nil
}

// vet looks, once, at a topic that is about to be written to, and warns of what makes an ack worth less than it says. It
// alters nothing: the topic is the user's.
func (d *Driver) vet(id eventlog.TopicID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, done := d.vetted[id]; done || d.closed {
		return
	}
	d.vetted[id] = struct{}{}
	d.vetting.Go(func() {
		name, found, err := d.findings(d.ctx, id)
		if err != nil && !isDone(err) {
			d.o.Logger.Warn("cannot see how safe a topic is", "topic", name, "error", err)
		}
		for _, f := range found {
			d.o.Logger.Warn("a topic is less safe than it could be", "topic", name, "finding", f.what, "risk", f.risk, "fix", f.fix)
		}
	})
}

// finding is one thing that is unsafe about a topic.
type finding struct{ what, risk, fix string }

func (d *Driver) findings(ctx context.Context, id eventlog.TopicID) (name string, out []finding, err error) {
	t, err := d.topics.fresh(ctx, id)
	if err != nil {
		return id.String(), nil, err
	}
	brokers, err := d.brokers(ctx)
	if err != nil {
		return t.name, nil, err
	}
	configs, err := d.configs(ctx, []*topic{t})
	if err != nil {
		return t.name, nil, err
	}
	return t.name, unsafe(t.name, t.copies, brokers, configs[t.name].effective), nil
}

// unsafe says what makes an acknowledgement of a topic worth less than it says.
func unsafe(name string, copies, brokers int, is map[string]string) (out []finding) {
	alter := func(config string) string {
		return fmt.Sprintf("kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s", name, config)
	}
	if want := min(3, brokers); copies < want {
		out = append(out, finding{
			fmt.Sprintf("replication factor %d on %d brokers", copies, brokers),
			"what was acknowledged can be lost with fewer brokers than need be",
			fmt.Sprintf("kafka-reassign-partitions.sh, to %d replicas", want),
		})
	}
	need, err := strconv.Atoi(is[minISR])
	switch {
	case err != nil: // a cluster that does not say
	case copies >= 3 && need < 2:
		out = append(out, finding{
			fmt.Sprintf("%s=%d with %d replicas", minISR, need, copies),
			"a record is acknowledged when one broker has it, and lost with that broker", alter(minISR + "=2"),
		})
	case copies > 1 && need >= copies:
		out = append(out, finding{
			fmt.Sprintf("%s=%d with %d replicas", minISR, need, copies),
			"nothing is accepted while any one broker is down", alter(fmt.Sprintf("%s=%d", minISR, copies-1)),
		})
	}
	if is["unclean.leader.election.enable"] == "true" {
		out = append(out, finding{"unclean.leader.election.enable=true",
			"a replica that lacks acknowledged records may become leader, and they are gone", alter("unclean.leader.election.enable=false")})
	}
	return out
}
