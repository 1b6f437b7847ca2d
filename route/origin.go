package route

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/millrace-io/millrace/eventlog"
)

// An origin is where in a partition MQTT began to look: the end it had when a route named its topic first. Without it a session
// that is older than a route would be given a Kafka topic's whole history. Origins are records of __millrace_routes: the key
// is the partition, the value the offset in decimal.

// openOrigins reads the origins and adds those of partitions that are new.
func (s *Store) openOrigins(ctx context.Context) error {
	known := map[string]int64{}
	err := s.visit(ctx, eventlog.Part{Topic: s.routes.ID}, func(r *eventlog.Record) error {
		n, err := strconv.ParseInt(string(r.Value), 10, 64)
		if err != nil {
			return fmt.Errorf("origin of %s: %q is not an offset", clip(r.Key), clip(r.Value))
		}
		known[string(r.Key)] = n
		return nil
	})
	if err != nil {
		return fmt.Errorf("topic %q: %w", routesTopic, err)
	}
	p := s.places.Load()
	p.origins = map[eventlog.Part]int64{}
	fresh, err := s.log.EndsOf(ctx, p.topics...)
	if err != nil {
		return fmt.Errorf("ends of the routed topics: %w", err)
	}
	for i := range p.topics {
		s.count.follow(p, i, fresh)
	}
	for _, part := range p.parts() {
		if at, there := known[part.String()]; there {
			delete(fresh, part)
			p.origins[part] = at
		} else {
			p.origins[part] = fresh[part]
		}
	}
	return s.saveOrigins(ctx, fresh)
}

func (s *Store) saveOrigins(ctx context.Context, origins map[eventlog.Part]int64) (err error) {
	for range 5 { // writing an origin twice is harmless, so an answer that says nothing is no reason to give up
		var b eventlog.Builder
		for part, at := range origins {
			b.Add(s.now(), []byte(part.String()), strconv.AppendInt(nil, at, 10), nil)
		}
		if b.Len() == 0 {
			return nil
		}
		var batch *eventlog.Batch
		if batch, _, err = b.Batch(eventlog.Part{Topic: s.routes.ID}, eventlog.None); err != nil {
			return err
		}
		if _, err = s.log.AppendWait(ctx, batch); err == nil {
			return nil
		}
	}
	return fmt.Errorf("topic %q: %w", routesTopic, err)
}

// visit calls f for each record that is in a partition now, in order.
func (s *Store) visit(ctx context.Context, p eventlog.Part, f func(*eventlog.Record) error) error {
	ends, err := s.log.Ends(ctx, p.Topic)
	if err != nil {
		return err
	}
	starts, err := s.log.Starts(ctx, p.Topic)
	if err != nil {
		return err
	}
	all := func(*eventlog.Batch) bool { return true }
	return s.visitRange(ctx, p, starts[p.Index], ends[p.Index], all, f)
}

// visitRange calls f for each record of [from, end) in a batch that is wanted.
func (s *Store) visitRange(ctx context.Context, p eventlog.Part, from, end int64, want func(*eventlog.Batch) bool,
	f func(*eventlog.Record) error,
) error {
	for from < end {
		batches, next, err := s.log.Read(ctx, eventlog.Position{Part: p, Offset: from}, 1<<20)
		var low *eventlog.OutOfRangeError
		if errors.As(err, &low) && from < low.Start {
			from = low.Start // trimmed meanwhile
			continue
		}
		if err != nil {
			return err
		}
		if len(batches) == 0 && next <= from {
			return fmt.Errorf("read %v: nothing at %d, though the partition ends at %d", p, from, end)
		}
		for _, b := range batches {
			if !want(b) {
				continue
			}
			err := b.Each(func(r *eventlog.Record) error {
				if r.Offset < from || r.Offset >= end {
					return nil
				}
				return f(r)
			})
			if err != nil {
				return fmt.Errorf("batch of %v at %d: %w", p, b.Base(), err)
			}
		}
		from = next
	}
	return nil
}
