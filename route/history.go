package route

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
)

// leading is a log topic that messages of a filter go to, and their key if it is one and the same.
type leading struct {
	topic int
	key   string
	keyed bool
}

// leads lists where the routes take messages whose topics match a filter, narrower routes first.
func (t *Table) leads(filter string) (list []leading) {
	if strings.HasPrefix(filter, "$") { // no route has its topics
		return nil
	}
	f := filterPattern(filter)
	for _, r := range t.routes {
		if !f.overlaps(&r.pattern) {
			continue
		}
		if !r.Discard {
			l := leading{topic: r.topic}
			l.key, l.keyed = r.keyFor(&f)
			list = append(list, l)
		}
		if f.within(&r.pattern) {
			break // it takes whatever the narrower ones have left
		}
	}
	return list
}

// filterPattern is a valid MQTT filter as a pattern.
func filterPattern(filter string) (p pattern) {
	for i, s := range strings.Split(filter, "/") {
		switch s {
		case "#":
			if p.multi = true; i == 0 {
				p.levels = append(p.levels, level{wild: true})
			}
		case "+":
			p.levels = append(p.levels, level{wild: true})
		default:
			p.levels = append(p.levels, level{literal: s})
		}
	}
	return p
}

// keyFor is the key of every message of a route whose topic matches a filter, if that is known.
func (r *route) keyFor(f *pattern) (key string, known bool) {
	if r.key.fromClient() {
		return "", false
	}
	vars := map[string]string{}
	for i, l := range r.pattern.levels {
		switch {
		case l.name == "":
		case i >= len(f.levels) || f.levels[i].wild:
			vars[l.name] = ""
			if slices.Contains(r.key.parts, keyPart{name: l.name}) {
				return "", false
			}
		case l.name != r.pattern.rest:
			vars[l.name] = f.levels[i].literal
		default: // it binds all that follow
			rest := []string{}
			for _, l := range f.levels[i:] {
				if l.wild || f.multi {
					if slices.Contains(r.key.parts, keyPart{name: r.pattern.rest}) {
						return "", false
					}
				}
				rest = append(rest, l.literal)
			}
			vars[l.name] = strings.Join(rest, "/")
		}
	}
	return r.key.render(vars), true
}

// History implements broker.Store. It follows the routes of now: the history of a filter is looked for where its messages go today.
func (s *Store) History(ctx context.Context, ask session.HistoryAsk) session.History {
	h, err := s.history(ctx, ask)
	if err != nil {
		return session.History{Err: fmt.Errorf("history of %q: %w", ask.Filter, err)}
	}
	return h
}

func (s *Store) history(ctx context.Context, ask session.HistoryAsk) (session.History, error) {
	at := s.places.Load()
	starts, ends, err := s.Data(ctx)
	if err != nil {
		return session.History{}, err
	}
	h := session.History{From: session.Vector{}}
	if len(ask.From.Offsets) > 0 {
		return h, s.named(&h, at, ask.From.Offsets, starts)
	}
	for _, part := range s.reach(at, ask.Filter) {
		p := sessionPart(part)
		switch from := &ask.From; {
		case from.Offset >= 0:
			begin(&h, p, from.Offset, starts[p], at.origins[part])
		case from.Time == 0:
			h.From[p] = starts[p]
		default:
			if err := s.since(ctx, &h, part, from.Time, starts[p], ends[p], at.origins[part]); err != nil {
				return h, err
			}
		}
	}
	return h, nil
}

// reach lists the partitions that can have messages for a filter. Where Kafka clients write too, they choose the partition.
func (s *Store) reach(at *places, filter string) (parts []eventlog.Part) {
	seen := map[eventlog.Part]bool{}
	add := func(p eventlog.Part) {
		if !seen[p] {
			seen[p] = true
			parts = append(parts, p)
		}
	}
	for _, l := range s.table.leads(filter) {
		t := at.topics[l.topic]
		if l.keyed && s.table.topics[l.topic].reverse == nil {
			add(eventlog.Part{Topic: t.ID, Index: partition([]byte(l.key), t.Partitions)})
			continue
		}
		for i := range t.Partitions {
			add(eventlog.Part{Topic: t.ID, Index: i})
		}
	}
	return parts
}

// named has history begin at places that the client has named.
func (s *Store) named(h *session.History, at *places, list []session.NamedOffset, starts session.Vector) error {
	for _, o := range list {
		i := slices.IndexFunc(at.topics, func(t eventlog.Topic) bool { return t.Name == o.Topic })
		switch {
		case i < 0:
			names := map[string]bool{}
			for _, t := range at.topics {
				names[t.Name] = true
			}
			return fmt.Errorf("%w: no route leads to log topic %q; there are %s", session.ErrNoPlace, o.Topic,
				strings.Join(slices.Sorted(maps.Keys(names)), ", "))
		case o.Partition >= at.topics[i].Partitions:
			return fmt.Errorf("%w: log topic %q has the partitions 0 to %d", session.ErrNoPlace, o.Topic, at.topics[i].Partitions-1)
		}
		part := eventlog.Part{Topic: at.topics[i].ID, Index: o.Partition}
		begin(h, sessionPart(part), o.Offset, starts[sessionPart(part)], at.origins[part])
	}
	return nil
}

// begin has history begin at an offset, or where the partition starts. What lies before MQTT began to look is no part of it.
func begin(h *session.History, p session.Part, offset, start, origin int64) {
	h.From[p] = max(offset, start)
	if lost := start - max(offset, origin); lost > 0 && h.Lost != session.LostUnknown {
		h.Lost += lost
	}
}

// since has history begin with the first record of a time or later. Retention may have taken such records where all that is left is
// of that time or later; of which time those were that are gone, nobody knows.
func (s *Store) since(ctx context.Context, h *session.History, part eventlog.Part, time, start, end, origin int64) error {
	p := sessionPart(part)
	off, err := s.log.OffsetByTime(ctx, part, time)
	if err != nil {
		return fmt.Errorf("first record of %v since %d: %w", part, time, err)
	}
	if h.From[p] = max(off, start); off < 0 {
		h.From[p] = end
	}
	if start <= origin {
		return nil // nothing is gone
	}
	first, err := s.log.OffsetByTime(ctx, part, 0)
	switch {
	case err != nil:
		return fmt.Errorf("first record of %v: %w", part, err)
	case first < 0 && time < s.now()-s.retention(part):
		h.Lost = session.LostUnknown
	case first >= 0 && off == first:
		h.Lost = session.LostUnknown
		b, err := s.Read(ctx, session.Position{Part: p, Offset: h.From[p]}, 1)
		if err == nil && len(b.Msgs) > 0 { // else it is not known
			h.Since = max(h.Since, b.Msgs[len(b.Msgs)-1].Time)
		}
	}
	return nil
}

// retention is how long the records of a partition are kept, milliseconds; for ever if that is not known.
func (s *Store) retention(part eventlog.Part) int64 {
	at := s.places.Load()
	if i, ok := at.byID[part.Topic]; ok {
		if ms, err := strconv.ParseInt(at.topics[i].Config["retention.ms"], 10, 64); err == nil && ms >= 0 {
			return ms
		}
	}
	return math.MaxInt64 / 2
}
