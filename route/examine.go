package route

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

const (
	// wrongPayload is the reason by which refused messages are counted whose payload is not what the route takes.
	wrongPayload = "invalid_payload"
	// DeadLettered is the one by which the meter counts those that are in the dead-letter topic instead.
	DeadLettered = "dead_lettered"
)

// examine has a payload looked at. What is wrong with it is told only if that is to make it a dead letter; refused says why a message is not
// taken. An empty retained message clears what is retained, whatever the schema.
func (s *Store) examine(r *resolved, m *session.Message) (wrong, refused error) {
	if m.Retain && len(m.Payload) == 0 {
		return nil, nil
	}
	why := r.route.Payloads.Validate(m.Payload)
	if why == nil {
		return nil, nil
	}
	s.samples.invalid(s, r, m, why)
	switch r.route.Invalid {
	case DeadLetter:
		return why, nil // counted when it is there
	case Refuse:
		s.stats.invalid.add("refused", 1)
		return nil, &packet.Error{Code: packet.PayloadFormatInvalid, Text: "the payload is not of the schema: " + plain(why.Error(), 200)}
	}
	s.stats.invalid.add("warned", 1)
	return nil, nil
}

// isWrong tells whether a message was refused for its payload.
func isWrong(err error) bool {
	var e *packet.Error
	return errors.As(err, &e) && e.Code == packet.PayloadFormatInvalid
}

// plain makes a text fit for an MQTT string, of at most so many bytes and a mark for what is left out.
func plain(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c >= 0x7f && c < 0xa0 || c == 0xfffd {
			return '?'
		}
		return c
	}, s)
}

// samples lets one line in ten seconds tell of wrong payloads, for each route.
type samples struct {
	mu   sync.Mutex
	last map[int]sample // by the route's index
}

type sample struct {
	at      int64
	skipped uint64
}

const sampleEvery = 10_000 // milliseconds

func (l *samples) invalid(s *Store, r *resolved, m *session.Message, why error) {
	now := s.now()
	l.mu.Lock()
	last := l.last[r.route.index]
	say := last.at == 0 || now-last.at >= sampleEvery
	if l.last == nil {
		l.last = map[int]sample{}
	}
	if say {
		l.last[r.route.index] = sample{at: now}
	} else {
		last.skipped++
		l.last[r.route.index] = last
	}
	l.mu.Unlock()
	if say {
		s.logger.Warn("a payload is not of its route's schema", "route", r.route.MQTT, "action", r.route.Invalid.String(), "topic", plain(r.name, 200),
			"client", plain(m.Client, 200), "why", plain(why.Error(), 500), "skipped_like_it", last.skipped)
	}
}

func (i Invalid) String() string { return [...]string{"warn", "dlq", "reject"}[i] }

// planLetter plans a message for the dead-letter topic. Its partition is the number that it would have had.
func (a *appender) planLetter(at *places, r *resolved, m *session.Message, wrong error) {
	to := at.letters[r.route.topic]
	key := r.key
	if key == nil {
		key = bytesOf(m.Client)
	}
	part := eventlog.Part{Topic: to.ID, Index: partition(key, at.topics[r.route.topic].Partitions) % to.Partitions}
	st := &a.steps[len(a.steps)-1]
	st.wrong = wrong
	st.plan = a.planFor(part, r.route, estimate(r, m)+len(r.route.Topic)+maxWhy+64)
	a.plans[st.plan].dead = true
}

// maxWhy bounds a dead letter's reason, bytes.
const maxWhy = 500

// letter returns the headers of a message that became a dead letter: its own, and why.
func (e *encoder) letter(r *resolved, m *session.Message, wrong error) []byte {
	list := append(e.list(r.name, m), eventlog.Header{Key: hDeadReason, Value: []byte(plain(wrong.Error(), maxWhy))},
		eventlog.Header{Key: hDeadTopic, Value: bytesOf(r.route.Topic)})
	e.headers = list
	e.last = plainHeaders{}
	e.encoded = eventlog.AppendHeaders(e.encoded[:0], list)
	return e.encoded
}

// countLetters counts what became of a batch of dead letters.
func (o *outgoing) countLetters(outcome *eventlog.Outcome) {
	s := o.store
	reasonOf := func(i int) string {
		err := outcome.At(i).Err
		switch {
		case err == nil:
			return DeadLettered
		case errors.Is(err, eventlog.ErrUnknownTopic):
			s.topicGone(o.part.Topic)
		}
		return reason(err)
	}
	written := uint64(0)
	for i := range o.from {
		if reasonOf(i) == DeadLettered {
			written++
		}
	}
	if written > 0 {
		s.stats.invalid.add(DeadLettered, written)
	}
	if s.count.meter == nil {
		return
	}
	e := entry{Entry: s.count.meter.EnterAnswer(), on: true}
	defer e.leave()
	i := 0
	for _, run := range o.runs {
		for range run.n {
			e.refused(run.cell, reasonOf(i))
			i++
		}
	}
}

// moveLetters makes a dead-letter topic again that somebody deleted.
func (s *Store) moveLetters(ctx context.Context, old *places, id eventlog.TopicID) error {
	for i := range old.letters {
		if old.letters[i].ID != id || old.letters[i].Partitions == 0 {
			continue
		}
		t, err := s.log.Ensure(ctx, s.letterTopic(s.table.topics[i], old.topics[i]))
		if err != nil {
			return fmt.Errorf("dead-letter topic of %q: %w", s.table.topics[i].name, err)
		}
		p := old.clone()
		p.letters[i] = t
		s.places.Store(p)
		s.logger.Warn("a dead-letter topic was deleted and made again", "topic", t.Name)
	}
	return nil
}
