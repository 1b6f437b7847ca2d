package kafkawire

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
)

// What the server itself must not forget (groups, transactions, ACLs, credentials) is in compacted topics of its own, each one
// partition: the log makes everything that waits durable with one sync, so more would only scatter it. State is what replay of
// the records makes, when the server starts as when it runs.

// ownTopic finds such a topic, or makes it; "max.message.bytes" is left out where the log cannot take records that large.
func ownTopic(ctx context.Context, log Engine, name string, config map[string]string) (eventlog.Part, error) {
	if topic, ok := log.TopicByName(name); ok {
		return eventlog.Part{Topic: topic.ID}, nil
	}
	spec := eventlog.TopicSpec{Name: name, Partitions: 1, Config: map[string]string{"cleanup.policy": "compact"}}
	for k, v := range config {
		spec.Config[k] = v
	}
	topic, err := log.CreateTopic(ctx, spec)
	if errors.Is(err, eventlog.ErrInvalid) && spec.Config["max.message.bytes"] != "" {
		delete(spec.Config, "max.message.bytes")
		topic, err = log.CreateTopic(ctx, spec)
	}
	if err != nil {
		return eventlog.Part{}, fmt.Errorf("create topic %s: %w", name, err)
	}
	return eventlog.Part{Topic: topic.ID}, nil
}

// replayTopic calls f with all that is stable in the topic, and returns where that ends.
func replayTopic(ctx context.Context, log Engine, name string, part eventlog.Part, f func(*eventlog.Record) error) (end int64, err error) {
	starts, err := log.Starts(ctx, part.Topic)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	for end = starts[0]; ; {
		batches, next, err := log.Read(ctx, eventlog.Position{Part: part, Offset: end}, 4<<20)
		if err != nil {
			return end, fmt.Errorf("read %s from offset %d: %w", name, end, err)
		}
		for _, b := range batches {
			if err := b.Each(f); err != nil {
				return end, fmt.Errorf("%s, batch at %d: %w", name, b.Base(), err)
			}
		}
		if len(batches) == 0 && next == end {
			return end, nil
		}
		end = next
	}
}

// lost is why not all of a batch's records are there; nil if they are.
func lost(o eventlog.Outcome) error {
	err := o.Err
	for _, r := range o.Each {
		err = errors.Join(err, r.Err)
	}
	return err
}
