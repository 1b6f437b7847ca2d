package session

import (
	"errors"
	"slices"

	"github.com/millrace-io/millrace/mqtt/topic"
)

// A SUBSCRIBE may ask for history: what its filter matches of the log from some place on. The filter enters the tree as always, and
// starts at V, where the matcher is; its history is [from, V) of the partitions that the filter's routes lead to. Where that begins
// is asked of the log (Host.History), and while the answer and the record of the subscription are under way, what the subscription
// matches is collected, also where another one would have it delivered: so nothing from V on can come before the history does.
//
// History is runs of positions in the session's queue, beside those that are owed. In each partition positions are delivered in order,
// so history comes before what is live, and a position that is both is delivered once. The runs are an upper bound: a position is
// matched when it is read, against the subscription that asked and no other, and the right to it is asked for then.
//
// The record of the subscription says which history it asked for; checkpoints say what is left of it, and when nothing is, the record
// says so too. A crash goes on from there: deliveries of QoS 2 by their out/id, which names the histories it is for, those of QoS 1 and 0
// perhaps anew. History that is replaced by another SUBSCRIBE, or unsubscribed, is forgotten.

// HistoryAsk is what one filter asks of the log.
type HistoryAsk struct {
	Filter string
	From   From
}

// History is what the log answers.
type History struct {
	From Vector // where it begins, in each partition that can have messages for the filter; never below the partition's start
	// Lost is how many records retention has taken that might have been in it, LostUnknown if some, or -- by their times -- perhaps
	// some, but not how many. Since is then when what is left begins, milliseconds since 1970; 0: it is not known.
	Lost  int64
	Since int64
	Err   error
}

// LostUnknown is a number of records that nobody knows.
const LostUnknown = -1

// ErrNoPlace in a History: the client has named a place that is none. Its text is for the client.
var ErrNoPlace = errors.New("no such place in the log")

// Reasons counted through Host.Count, of history: positions, of which the filter may not have matched all.
const (
	DropReplayGap     = "replay_gap_retention"
	DropReplayDeleted = "replay_topic_deleted"
)

const (
	maxHistories   = 24      // of one session: there is a bit for each
	pastLook       = 256     // records of history in one call
	historyReads   = 2       // outstanding, of all sessions, for history alone: the others must not wait for it
	maxLaterWeight = 1 << 10 // of SUBSCRIBE and UNSUBSCRIBE packets that wait for an earlier one to learn where history begins
)

// history is what one SUBSCRIBE asked for of the past.
type history struct {
	sub     *sub
	number  uint64 // no other has the same
	bit     askers
	spans   []span // as it was asked for
	lost    int64  // before it, as History says
	left    int    // places with positions of it
	counted bool   // in Core.histories
}

type span struct {
	place int32
	run
}

// past is what is left of a history in one place.
type past struct {
	history *history
	runs    runs
}

// gap is how much of history could not be delivered, until the client is told by the next message of the subscription.
type gap struct {
	lost  int64 // records; LostUnknown
	told  bool  // in the message at this position
	place int32
	off   int64
}

func (g *gap) add(n int64) {
	if g.told {
		*g = gap{}
	}
	if n == LostUnknown || g.lost == LostUnknown {
		g.lost = LostUnknown
	} else {
		g.lost += n
	}
}

// untold is what the client is still to be told.
func (g *gap) untold() int64 {
	if g.told {
		return 0
	}
	return g.lost
}

// beginHistory adds a history to the queue. One that its subscription has already is replaced.
func (c *Core) beginHistory(s *session, h *history) {
	c.endHistory(s, h.sub.history)
	c.addHistory(s, h)
	for _, sp := range h.spans {
		if !c.places[sp.place].dead {
			c.addPast(s, h, sp.place, []run{sp.run})
		}
	}
	c.begun(s, h)
}

// addHistory gives a history its bit.
func (c *Core) addHistory(s *session, h *history) {
	taken := byQueue
	for _, o := range s.histories {
		taken |= o.bit
	}
	for h.bit = byQueue; h.bit&taken != 0; h.bit <<= 1 {
	}
	c.replays.add(&s.key, 1)
	h.counted = true
	s.histories = append(s.histories, h)
	h.sub.history = h
	if h.lost != 0 {
		s.gapped = true
		h.sub.gap.add(h.lost)
	}
}

func (c *Core) addPast(s *session, h *history, place int32, list []run) {
	set := s.queue.set(place)
	set.past = append(set.past, past{history: h})
	set.past[len(set.past)-1].runs.set(list)
	set.timed = 0
	h.left++
}

func (c *Core) begun(s *session, h *history) {
	if h.left > 0 && s.link != nil {
		s.link.live = false
	}
	c.caughtUp(s, h)
	c.touch(s)
}

// caughtUp ends a history of which nothing is left. That of a persistent session is remembered till a checkpoint has written so.
func (c *Core) caughtUp(s *session, h *history) {
	if h.left > 0 {
		return
	}
	c.uncount(s, h)
	if h.sub.gap.untold() != 0 && s.queue.subs.get(h.sub.filter) == h.sub { // its next message, which is live, tells
		c.plant(s, h.sub)
	}
	if !s.durable {
		c.endHistory(s, h)
	}
	c.touch(s)
}

// uncount takes a history off those that are under way.
func (c *Core) uncount(s *session, h *history) {
	if h.counted {
		h.counted = false
		c.replays.add(&s.key, -1)
	}
}

// endHistory forgets a history; nil: there is none.
func (c *Core) endHistory(s *session, h *history) {
	i := slices.Index(s.histories, h)
	if h == nil || i < 0 {
		return
	}
	s.histories = slices.Delete(s.histories, i, i+1)
	c.uncount(s, h)
	if h.sub.history == h {
		h.sub.history = nil
	}
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		set.past = slices.DeleteFunc(set.past, func(p past) bool { return p.history == h })
	}
	for i := range s.flight.all() { // the bit may be another's next
		s.flight.all()[i].by.end(h)
	}
	for i := range s.flight.done {
		s.flight.done[i].by.end(h)
	}
	if s.link != nil {
		for i := range s.link.held {
			s.link.held[i].by.end(h)
		}
	}
	c.touch(s)
}

// cutShort ends the delivery of a history; nil: there is none. It is still there, with nothing left, as long as a record may say it: so
// a checkpoint says that nothing is left.
func (c *Core) cutShort(s *session, h *history) {
	if h == nil {
		return
	}
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		set.past = slices.DeleteFunc(set.past, func(p past) bool { return p.history == h })
	}
	h.left = 0
	c.caughtUp(s, h)
}

// end takes a history out that has ended.
func (by *askers) end(h *history) {
	if *by&h.bit != 0 {
		*by = *by&^h.bit | wasPast
	}
}

// tidy takes histories out of a set that have nothing left in it.
func (c *Core) tidy(s *session, set *set) {
	for i := 0; i < len(set.past); {
		h := set.past[i].history
		if !set.past[i].runs.empty() {
			i++
			continue
		}
		set.past = slices.Delete(set.past, i, i+1)
		h.left--
		c.caughtUp(s, h)
	}
}

// miss notes that the positions of histories below off are gone.
func (c *Core) miss(s *session, set *set, off int64, by askers, reason string) {
	for i := range set.past {
		p := &set.past[i]
		if p.history.bit&by == 0 {
			continue
		}
		if n := p.runs.cut(off); n > 0 {
			s.gapped = true
			p.history.sub.gap.add(n)
			c.host.Count(reason, int(min(n, 1<<31-1)))
		}
	}
	c.tidy(s, set)
}

// holds tells whether a position is in a set for one of some askers, beside the queue.
func (s *set) holds(off int64, by askers) bool {
	return s.runs.has(off) || slices.ContainsFunc(s.past, func(p past) bool { return p.history.bit&by != 0 && p.runs.has(off) })
}

// isPast tells whether a position is wanted for history alone.
func (q *queue) isPast(place int32, off int64) bool {
	set := q.find(place)
	return set != nil && len(set.past) > 0 && set.headOf(byQueue) != off
}

// asked tells who wants the position at the head of a set.
func (s *set) asked(off int64) (by askers) {
	if !s.runs.empty() && s.runs.min() == off || !s.fleeting.empty() && s.fleeting.min() == off {
		by = byQueue
	}
	for i := range s.past {
		if p := &s.past[i]; !p.runs.empty() && p.runs.min() == off {
			by |= p.history.bit
		}
	}
	return by
}

// pastSum is effective for a position that histories want, and perhaps the queue: history counts for the subscriptions that asked.
func (c *Core) pastSum(t *target, m *Message, place int32, off int64, by askers) applies {
	var part target
	var a applies
	who := askers(0)
	if by&byQueue != 0 {
		if a = c.effective(t, m, place, off); a.pending {
			return a
		}
	}
	for _, b := range t.subs {
		var asked askers
		if h := b.history; h != nil && !b.ownMessage(t.session, m) {
			asked = h.bit & by
		}
		if by&byQueue != 0 && !b.pending && c.reaches(t.session, b, m, place, off) {
			asked |= byQueue
		}
		if mutant("replay-all") {
			asked = by
		}
		if asked != 0 {
			part.add(b)
			who |= asked
		}
	}
	return applies{options: options{qos: min(part.qos, m.QoS), rap: part.rap}, ids: part.ids, none: who == 0, who: who}
}

// gapFor is what a delivery has to tell its client of gaps, and notes that it does. The same message sent again tells the same.
func (s *session) gapFor(by askers, m *Message, place int32) (lost int64) {
	if !s.gapped {
		return 0
	}
	for _, b := range s.queue.subs.list {
		g := &b.gap
		switch {
		case g.lost == 0 || !topic.Match(b.filter, m.Topic):
			continue
		case g.told && g.place == place && g.off == m.Offset:
		case g.told, !(b.history != nil && b.history.bit&by != 0 || by&tells != 0 && b.tells()):
			continue
		}
		g.told, g.place, g.off = true, place, m.Offset
		if lost >= 0 && g.lost > 0 {
			lost += g.lost
		} else {
			lost = LostUnknown
		}
	}
	return lost
}

// tells tells whether a live message has to tell of a gap: there is no more history that could.
func (b *sub) tells() bool { return b.gap.untold() != 0 && (b.history == nil || b.history.left == 0) }
