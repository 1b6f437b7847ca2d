package route

import (
	"context"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Targets implements broker.Store: one node owns all.
func (s *Store) Targets() (ts []session.Target) {
	for i := range s.sessions.Partitions {
		ts = append(ts, session.Target{Partition: i})
	}
	for i := range s.retained.Partitions {
		ts = append(ts, session.Target{Retained: true, Partition: i})
	}
	return ts
}

// TargetPart implements broker.Store.
func (s *Store) TargetPart(t session.Target) session.Part {
	topic := s.sessions.ID
	if t.Retained {
		topic = s.retained.ID
	}
	return session.Part{Topic: topic, Index: t.Partition}
}

// Claim implements broker.Store.
func (s *Store) Claim(ctx context.Context, t session.Target) (broker.StateWriter, func(func(int64, session.StateRecord) error) error, error) {
	p := logPart(s.TargetPart(t))
	w, err := s.log.Claim(ctx, p)
	if err != nil {
		return nil, nil, fmt.Errorf("claim %v: %w", p, err)
	}
	restore := func(f func(int64, session.StateRecord) error) error {
		err := s.visit(ctx, p, func(r *eventlog.Record) error {
			return f(r.Offset, session.StateRecord{Key: r.Key, Value: r.Value})
		})
		if err != nil {
			return fmt.Errorf("restore %v: %w", p, err)
		}
		return nil
	}
	return &stateWriter{store: s, part: p, w: w}, restore, nil
}

// stateWriter is a broker.StateWriter.
type stateWriter struct {
	store *Store
	part  eventlog.Part
	w     eventlog.Writer
}

func (w *stateWriter) Epoch() int64 { return w.w.Epoch() }

func (w *stateWriter) Append(recs []session.StateRecord, done func([]session.Result)) {
	c := &call{done: done, results: make([]session.Result, len(recs))}
	c.left.Store(1)
	now, first := w.store.now(), 0
	b := eventlog.Builder{Stamped: true}
	for i := range recs {
		if b.Len() > 0 && b.Size()+len(recs[i].Key)+len(recs[i].Value) > maxBatch {
			w.flush(c, &b, first)
			first = i
		}
		b.Add(now, recs[i].Key, recs[i].Value, nil)
	}
	if b.Len() > 0 {
		w.flush(c, &b, first)
	}
	if c.left.Add(-1) == 0 {
		go done(c.results)
	}
}

// flush appends what is in the builder: the records of the call from first on.
func (w *stateWriter) flush(c *call, b *eventlog.Builder, first int) {
	n := b.Len()
	answer := func(o eventlog.Outcome) {
		for i := range n {
			r := o.At(i)
			if r.Err != nil {
				c.results[first+i].Err = refusal(r.Err)
				continue
			}
			c.results[first+i].Pos = session.Position{Part: sessionPart(w.part), Offset: r.Offset}
		}
		c.answered()
	}
	c.left.Add(1)
	batch, _, err := b.Batch(w.part, eventlog.None)
	if err != nil {
		go answer(eventlog.Outcome{Err: err})
		return
	}
	w.w.Append(batch, answer)
}
