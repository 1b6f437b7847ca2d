package route

import (
	"context"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/spill"
)

// openSpill opens the spill of the topics whose routes have one.
func (s *Store) openSpill(ctx context.Context, o Options) (err error) {
	var names []string
	for _, plan := range s.table.topics {
		if plan.spill {
			names = append(names, plan.name)
		}
	}
	if o.Spill == nil {
		if len(names) > 0 {
			return fmt.Errorf("topic %q: spill: true is for a log on a Kafka cluster: the embedded log is on the local disk already; remove it", names[0])
		}
		return nil
	}
	s.spill, err = o.Spill(ctx, names, spill.Hooks{Partition: partition, Drained: s.drained, GivenUp: s.givenUp})
	return err
}

// Spill is what waits for the cluster; nil: no route has one.
func (s *Store) Spill() *spill.Spill { return s.spill }

// topicOf is where a route's records are put first: in the log, or in front of it.
func (s *Store) topicOf(at *places, r *route) eventlog.Topic {
	if r.Spill {
		return s.spill.Topic(r.Topic)
	}
	return at.topics[r.topic]
}

func (s *Store) room(p *plan) <-chan struct{} {
	if p.spill {
		return s.spill.Room(p.part)
	}
	if !p.dead {
		if wait := s.gates[p.topic].room(); wait != nil {
			return wait
		}
	}
	return s.log.Room(p.part)
}

// drained counts what came to the log by way of the spill: as published and as logged, at once, since it could not be lost between.
func (s *Store) drained(topic string, b *eventlog.Batch, next int64) {
	s.stats.appended.Add(uint64(b.Len()))
	e := s.late()
	if !e.on {
		return
	}
	defer e.leave()
	i, n := s.table.named(topic), 0
	if i < 0 {
		return // its route is gone, and its cells with it
	}
	s.eachCell(i, b, &e, func(c *meter.Cell, digest uint32) {
		c.Published(e.Entry, 1)
		c.Logged(e.Entry, 1, digest)
		n++
	})
	if at := s.places.Load(); at.topics[i].ID == b.Part.Topic {
		if p := at.counter(i, b.Part.Index); p != nil {
			p.Published(e.Entry, n)
			p.Sent(e.Entry, n)
			p.Logged(e.Entry, n, next)
		}
	}
}

// givenUp counts what the log will never have.
func (s *Store) givenUp(topic string, b *eventlog.Batch, why string) {
	e := s.late()
	if !e.on {
		return
	}
	defer e.leave()
	i := s.table.named(topic)
	if i < 0 {
		return // its route is gone, and its cells with it
	}
	s.eachCell(i, b, &e, func(c *meter.Cell, _ uint32) {
		c.Published(e.Entry, 1)
		c.Failed(e.Entry, why)
	})
}

func (s *Store) late() entry {
	if s.count.meter == nil {
		return entry{}
	}
	return entry{Entry: s.count.meter.EnterAnswer(), on: true}
}

// eachCell visits the records of a batch with where they are counted: in the minute of their time, as those are that are read back.
func (s *Store) eachCell(topic int, b *eventlog.Batch, e *entry, visit func(c *meter.Cell, digest uint32)) {
	err := b.Each(func(r *eventlog.Record) error {
		visit(s.count.topics[topic].Cell(meter.Minute(r.Timestamp), stringOf(r.Key)), Digest(r.Value))
		return nil
	})
	if err != nil { // it is our own
		s.logger.Error("a spilled batch cannot be counted", "err", err)
	}
}

// named is the index of a topic.
func (t *Table) named(name string) int {
	for i, plan := range t.topics {
		if plan.name == name {
			return i
		}
	}
	return -1
}
