package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-io/millrace/bridge"
	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/spill"
)

// ErrEmbedded says that there is no cluster to look at.
var ErrEmbedded = errors.New("the log of this configuration is embedded, and looks after itself")

// ClusterReport is what Doctor has found.
type ClusterReport = kafka.Report

// Doctor looks at the cluster of a configuration, whether or not a node runs on it. With probe it makes a topic there, for a moment.
func Doctor(ctx context.Context, c *config.Config, probe bool) (*ClusterReport, error) {
	if len(c.Log.Kafka) == 0 {
		return nil, ErrEmbedded
	}
	o, err := wayTo(ctx, &c.Log, nil)
	if err != nil {
		return nil, err
	}
	k := kafka.Checkup{Options: o, Probe: probe, Away: time.Duration(c.Limits.SessionExpiry), Topics: wanted(Routes(c))}
	if c.Log.SASL.Username != "" {
		k.Principal = "User:" + c.Log.SASL.Username
	}
	r, err := kafka.Examine(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("look at the Kafka cluster at %v (log.kafka): %w", c.Log.Kafka, err)
	}
	return r, nil
}

// wanted are the topics of the routes, and the node's own.
func wanted(specs []route.Spec) (list []kafka.Wanted) {
	seen := map[string]int{}
	for _, s := range specs {
		if s.Discard {
			continue
		}
		w := kafka.Wanted{Name: s.Topic, Partitions: s.Partitions, Compact: s.Compact, Reversible: s.Both, Configured: s.Compact || s.Retention != 0}
		if i, there := seen[s.Topic]; there {
			list[i].Reversible = list[i].Reversible || w.Reversible
			continue
		}
		seen[s.Topic] = len(list)
		list = append(list, w)
	}
	if _, there := seen[route.CatchAllTopic]; !there {
		list = append(list, kafka.Wanted{Name: route.CatchAllTopic})
	}
	own := []string{route.SessionsTopic, route.RetainedTopic, route.OriginsTopic, kafka.ProducersTopic, bridge.StateTopic, bansTopic}
	if slices.ContainsFunc(specs, func(s route.Spec) bool { return s.Spill }) {
		own = append(own, spill.PositionsTopic)
	}
	for _, name := range own {
		list = append(list, kafka.Wanted{Name: name, Compact: true, Internal: true})
	}
	return append(list, kafka.Wanted{Name: meter.Topic, Internal: true})
}
