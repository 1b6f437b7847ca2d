package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// config is what is known of a topic's configs.
type config struct {
	set       map[string]string // what was set for the topic
	effective map[string]string // what holds, the brokers' defaults included
}

// configs asks for the configs of topics, by name; those that are gone are not in it. A topic that we may see but not ask about
// is somebody else's, and has none to show.
func (d *Driver) configs(ctx context.Context, of []*topic) (map[string]config, error) {
	var names []string
	for _, t := range of {
		names = append(names, t.name)
	}
	return describeConfigs(ctx, d.cl, names...)
}

func describeConfigs(ctx context.Context, to kmsg.Requestor, names ...string) (map[string]config, error) {
	if len(names) == 0 {
		return nil, nil
	}
	resp, err := anyBroker(ctx, 3, func(ctx context.Context) (*kmsg.DescribeConfigsResponse, error) {
		req := kmsg.NewPtrDescribeConfigsRequest() // another one each time, as in topics.refresh
		for _, name := range names {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
			req.Resources = append(req.Resources, r)
		}
		return req.RequestWith(ctx, to)
	})
	if err != nil {
		return nil, fmt.Errorf("describe configs: %w", err)
	}
	out := map[string]config{}
	for _, r := range resp.Resources {
		switch err := kerr.ErrorForCode(r.ErrorCode); err {
		case nil, kerr.TopicAuthorizationFailed:
		case kerr.UnknownTopicOrPartition:
			continue
		default:
			return nil, fmt.Errorf("configs of topic %q: %w", r.ResourceName, err)
		}
		c := config{set: map[string]string{}, effective: map[string]string{}}
		for _, e := range r.Configs {
			if e.Value == nil {
				continue
			}
			c.effective[e.Name] = *e.Value
			if e.Source == kmsg.ConfigSourceDynamicTopicConfig {
				c.set[e.Name] = *e.Value
			}
		}
		out[r.ResourceName] = c
	}
	return out, nil
}

// ConfigureTopic implements eventlog.Driver.
func (d *Driver) ConfigureTopic(ctx context.Context, name string, set map[string]*string) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	var changes []kadm.AlterConfig
	for k, v := range set {
		c := kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: v}
		if v == nil {
			c.Op = kadm.DeleteConfig
		}
		changes = append(changes, c)
	}
	resps, err := d.adm.AlterTopicConfigs(ctx, changes, name)
	if err != nil {
		return d.fail(err, "configure topic %q", name)
	}
	r, err := resps.On(name, nil)
	if err == nil {
		err = r.Err
	}
	if err != nil {
		return d.fail(err, "configure topic %q: %s", name, r.ErrMessage)
	}
	// The change is made; this is for who asks next. A value that the cluster words in its own way is never told as it was set.
	for until, n := time.Now().Add(d.o.Grace), 0; time.Now().Before(until) && !d.configured(ctx, name, set); n++ {
		if err := d.pause(ctx, n); err != nil {
			return d.fail(err, "configure topic %q: wait until every broker knows", name)
		}
	}
	return nil
}

// configured asks every broker for the configs of a topic and says whether all tell what was set.
func (d *Driver) configured(ctx context.Context, name string, set map[string]*string) bool {
	if d.topics.refresh(ctx) != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, node := range d.topics.brokers() {
		all, err := describeConfigs(ctx, d.cl.Broker(int(node)), name)
		if err != nil {
			continue
		}
		is := all[name].set
		for k, want := range set {
			if have, ok := is[k]; ok != (want != nil) || ok && have != *want {
				return false
			}
		}
	}
	return true
}
