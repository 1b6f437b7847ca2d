package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Data implements broker.Store. The starts are never below where MQTT began to look in a partition.
func (s *Store) Data(ctx context.Context) (starts, ends session.Vector, err error) {
	at := s.places.Load()
	topics := at.topics
	first, err := s.log.StartsOf(ctx, topics...)
	if err != nil {
		return nil, nil, fmt.Errorf("starts of the routed topics: %w", err)
	}
	last, err := s.log.EndsOf(ctx, topics...)
	if err != nil {
		return nil, nil, fmt.Errorf("ends of the routed topics: %w", err)
	}
	starts, ends = session.Vector{}, session.Vector{}
	for p, o := range first {
		starts[sessionPart(p)] = max(o, at.origins[p])
	}
	for p, o := range last {
		ends[sessionPart(p)] = max(o, starts[sessionPart(p)])
	}
	return starts, ends, nil
}

// Read implements broker.Store.
func (s *Store) Read(ctx context.Context, pos session.Position, maxBytes int) (session.Batch, error) {
	at := eventlog.Position{Part: logPart(pos.Part), Offset: pos.Offset}
	batches, next, err := s.log.Read(ctx, at, maxBytes)
	var low *eventlog.OutOfRangeError
	if errors.As(err, &low) && pos.Offset < low.Start {
		return session.Batch{}, &session.GapError{Next: low.Start}
	}
	if err != nil {
		return session.Batch{}, fmt.Errorf("read %v: %w", at, err)
	}
	out := session.Batch{Part: pos.Part, Base: pos.Offset, Next: next}
	if len(batches) > 0 { // it is taken apart anyway: another session may want what comes before pos
		out.Base = min(out.Base, batches[0].Base())
	}
	for i, size := 0, 0; i < len(batches); i++ {
		n, err := s.readInto(&out, batches[i])
		if err != nil {
			return session.Batch{}, fmt.Errorf("read %v: %w", at, err)
		}
		if size += n; size >= maxBytes { // compressed, they were less
			out.Next = max(batches[i].Next(), pos.Offset+1)
			break
		}
	}
	return out, nil
}

// readInto appends the messages of a batch, and tells what had to be decoded for it. What cannot be rendered was dealt with by
// the tail.
func (s *Store) readInto(out *session.Batch, b *eventlog.Batch) (decoded int, err error) {
	if b.Part.Topic == s.retained.ID || b.Part.Topic == s.sessions.ID {
		return 0, b.Each(func(r *eventlog.Record) error {
			if r.Offset < out.Base {
				return nil
			}
			if m, ok := session.StoredMessage(r.Offset, session.StateRecord{Key: r.Key, Value: r.Value}); ok {
				out.Msgs = append(out.Msgs, m)
			}
			return nil
		})
	}
	var v viewed
	if own := messagesOf(b); own != nil { // it is in memory still
		v.msgs = own.Msgs
	} else {
		v = s.viewOf(b, true)
	}
	if len(out.Msgs) == 0 {
		out.Msgs = slices.Clip(v.msgs)
	} else {
		out.Msgs = append(out.Msgs, v.msgs...)
	}
	return v.decoded, nil
}

// viewed is a batch as MQTT sees it.
type viewed struct {
	msgs []session.Message
	dead []deadLetter
	skip map[string]uint64

	decoded int // bytes it takes in memory, about
}

// undecodable is why a batch is skipped that is intact and yet no records: its producer made it so, and neither sessions nor what
// comes after it may wait for that.
const undecodable = "undecodable"

// viewOf decodes a batch of a routed topic, for deliveries, which are counted, or for who only looks on.
func (s *Store) viewOf(b *eventlog.Batch, counts bool) (v viewed) {
	skip := func(why string) viewed { return viewed{skip: map[string]uint64{why: uint64(b.Len())}} }
	i, routed := s.places.Load().byID[b.Part.Topic]
	if !routed {
		return skip("topic_not_routed")
	}
	plan := s.table.topics[i]
	if !b.Own && plan.reverse == nil {
		return skip(reason(errOneWay)) // whatever is in it
	}
	if b.Own { // what others claim of a batch is worth no memory
		v.msgs = make([]session.Message, 0, b.Len())
	}
	err := b.Each(func(r *eventlog.Record) error {
		v.decoded += messageBytes + len(r.Key) + len(r.Value)
		var m session.Message
		err := s.message(b.Own, r, plan, &m)
		switch {
		case err == nil:
			if counts { // a row for each minute of the past that somebody looks at would leave none for the present
				m.Tally = s.count.tally(i, r)
			}
			v.msgs = append(v.msgs, m)
		case errors.Is(err, errNullValue):
			if v.skip == nil {
				v.skip = map[string]uint64{}
			}
			v.skip[reason(err)]++
		default:
			v.dead = append(v.dead, newDeadLetter(r, err))
		}
		return nil
	})
	if err != nil {
		return skip(undecodable)
	}
	return v
}

// messageBytes is what a message takes in memory beside its record.
const messageBytes = int(unsafe.Sizeof(session.Message{}))

// message makes the message of one record.
func (s *Store) message(own bool, r *eventlog.Record, plan *topicPlan, m *session.Message) error {
	if own {
		if err := decode(r, m); err != nil {
			return err
		}
		known := s.cache.get(m.Topic, s.resolve)
		if known.route == nil {
			return fmt.Errorf("header %s: %q is not a topic", hTopic, clip(bytesOf(m.Topic)))
		}
		m.Topic = known.name
		return nil
	}
	if err := decodeForeign(r, plan, m); err != nil {
		return err
	}
	known := s.cache.get(m.Topic, s.resolve)
	if known.route == nil || known.route.topic != plan.reverse.topic {
		return fmt.Errorf("topic %q belongs to another route", m.Topic)
	}
	m.Topic = known.name
	return nil
}
