// Package history records what concurrent Kafka clients do and are told while their server dies and comes back, and finds what a log must never
// do: lose an acknowledged write, show one twice, show what was aborted, show a part of a transaction, change what is at an offset, skip a
// record, or send a consumer group back to where it has been.
//
// A History is written by many goroutines; Check is pure. Workload is clients that write one. The package owns the goroutines of a Workload,
// from Start to Finish, and touches no files.
package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Place is where a record is.
type Place struct {
	Topic  string
	Part   int32
	Offset int64
}

// Anomaly is something that a log must never do.
type Anomaly struct{ Kind, What string }

func (a Anomaly) String() string { return a.Kind + ": " + a.What }

// Kinds of anomalies.
const (
	LostWrite    = "lost write"
	Duplicate    = "duplicate"
	AbortedRead  = "aborted read"
	Torn         = "torn transaction"
	Inconsistent = "inconsistent offset"
	NonMonotonic = "non-monotonic poll"
	Skipped      = "skipped record"
	Unknown      = "record nobody sent"
)

// Outcome is what a producer knows of its transaction.
type Outcome uint8

const (
	Open      Outcome = iota // no end was asked for
	Committed                // the commit was answered
	Aborted                  // the abort was answered, or there never was another wish
	Unsure                   // the commit was asked for and has no answer
)

// Txn is one transaction of a history.
type Txn struct {
	h       *History
	outcome Outcome
	values  []string
}

type write struct {
	txn   *Txn
	acked bool
	at    Place
}

// session is what one consumer was shown, from its start on.
type session struct {
	name  string
	polls []shown
}

type shown struct {
	at    Place
	value string
}

// History is what clients did and were told.
type History struct {
	Input, Output string // topics: each record of the one is copied to the other exactly once; empty: no such thing

	mu       sync.Mutex
	writes   map[string]*write
	txns     []*Txn
	sessions []*session
	resumed  []string                   // what groups were sent back to, as found when it happened
	position map[string]map[Place]int64 // by group and partition (offset 0): what was committed and answered
	final    map[Place]string           // what is there in the end, with the topics' names
	finalAll []shown
}

// New returns an empty history.
func New() *History {
	return &History{writes: map[string]*write{}, position: map[string]map[Place]int64{}, final: map[Place]string{}}
}

// Sent notes a record before it is sent; values are never the same. txn may be nil.
func (h *History) Sent(value string, txn *Txn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writes[value] = &write{txn: txn}
	if txn != nil {
		txn.values = append(txn.values, value)
	}
}

// Acked notes that a record was acknowledged.
func (h *History) Acked(value string, at Place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.writes[value]
	w.acked, w.at = true, at
}

// Begin notes a transaction.
func (h *History) Begin() *Txn {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := &Txn{h: h}
	h.txns = append(h.txns, t)
	return t
}

// Is notes an outcome.
func (t *Txn) Is(o Outcome) {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	t.outcome = o
}

// Consumer begins what one consumer is shown; it calls the function with each record.
func (h *History) Consumer(name string) func(at Place, value string) {
	s := &session{name: name}
	h.mu.Lock()
	h.sessions = append(h.sessions, s)
	h.mu.Unlock()
	return func(at Place, value string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		s.polls = append(s.polls, shown{at, value})
	}
}

// Position notes an answered commit of a group.
func (h *History) Position(group, topic string, part int32, next int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.position[group] == nil {
		h.position[group] = map[Place]int64{}
	}
	p := Place{Topic: topic, Part: part}
	h.position[group][p] = max(h.position[group][p], next)
}

// Resumed notes where a group's member begins in a partition: not before what was committed and answered.
func (h *History) Resumed(group, topic string, part int32, at int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if was := h.position[group][Place{Topic: topic, Part: part}]; at < was {
		h.resumed = append(h.resumed, fmt.Sprintf("group %s begins at %d of %s/%d, and has committed %d", group, at, topic, part, was))
	}
}

// Final notes a record that is there in the end, partition by partition, in order.
func (h *History) Final(at Place, value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.finalAll = append(h.finalAll, shown{at, value})
	h.final[at] = value
}

// checker gathers anomalies.
type checker struct {
	*History
	found []Anomaly
}

func (c *checker) add(kind, format string, args ...any) {
	c.found = append(c.found, Anomaly{kind, fmt.Sprintf(format, args...)})
}

// Check finds what must not be. The history is complete: nobody writes to it any more.
func (h *History) Check() []Anomaly {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &checker{History: h}
	for _, r := range h.resumed {
		c.add(NonMonotonic, "%s", r)
	}
	places := c.contents()
	c.copies()
	c.plain()
	for i, t := range h.txns {
		c.transaction(i, t, places)
	}
	for _, s := range h.sessions {
		c.session(s)
	}
	slices.SortStableFunc(c.found, func(a, b Anomaly) int { return cmp.Compare(a.Kind, b.Kind) })
	return c.found
}

// contents checks what is there in the end, and returns where each record is.
func (c *checker) contents() map[string]Place {
	places := map[string]Place{}
	for _, s := range c.finalAll {
		if before, twice := places[s.value]; twice {
			c.add(Duplicate, "%q is at %v and %v", s.value, before, s.at)
		}
		places[s.value] = s.at
		w := c.writes[s.value]
		switch {
		case w == nil:
			c.add(Unknown, "%q at %v", s.value, s.at)
		case w.acked && w.at != s.at:
			c.add(Inconsistent, "%q was acknowledged at %v and is at %v", s.value, w.at, s.at)
		}
	}
	return places
}

// copies checks that every input was copied, and none twice.
func (c *checker) copies() {
	if c.Input == "" {
		return
	}
	copies := map[string]Place{}
	for _, s := range c.finalAll {
		if s.at.Topic != c.Output {
			continue
		}
		if before, twice := copies[original(s.value)]; twice {
			c.add(Duplicate, "%q is copied to %v and %v", original(s.value), before, s.at)
		}
		copies[original(s.value)] = s.at
	}
	for _, s := range c.finalAll {
		if _, ok := copies[s.value]; s.at.Topic == c.Input && !ok {
			c.add(LostWrite, "%q at %v is not copied", s.value, s.at)
		}
	}
}

// plain checks that what was acknowledged outside of transactions is there.
func (c *checker) plain() {
	for _, value := range slices.Sorted(maps.Keys(c.writes)) {
		if w := c.writes[value]; w.acked && w.txn == nil && c.final[w.at] != value {
			c.add(LostWrite, "%q was acknowledged at %v, where %q is", value, w.at, c.final[w.at])
		}
	}
}

// transaction checks one: all of it or nothing, as its producer was told.
func (c *checker) transaction(n int, t *Txn, places map[string]Place) {
	there, missing := 0, ""
	acked := 0
	for _, v := range t.values {
		if !c.writes[v].acked {
			if _, ok := places[v]; ok && t.outcome != Unsure && t.outcome != Committed {
				c.add(AbortedRead, "%q of transaction %d", v, n)
			}
			continue
		}
		acked++
		if _, ok := places[v]; ok {
			there++
		} else {
			missing = v
		}
	}
	switch {
	case (t.outcome == Open || t.outcome == Aborted) && there > 0:
		c.add(AbortedRead, "%d records of transaction %d, which was never to be committed", there, n)
	case there > 0 && there < acked:
		c.add(Torn, "transaction %d has %d of %d records; %q is missing", n, there, acked, missing)
	case t.outcome == Committed && there < acked:
		c.add(LostWrite, "transaction %d was committed, and has none of its %d records", n, acked)
	}
}

// session checks what one consumer was shown: in order, each record, what is there in the end, nothing that was aborted.
func (c *checker) session(s *session) {
	last := map[Place]int64{}
	first := map[Place]int64{}
	seen := map[Place]bool{}
	for _, p := range s.polls {
		part := Place{Topic: p.at.Topic, Part: p.at.Part}
		if was, ok := last[part]; ok && p.at.Offset <= was {
			c.add(NonMonotonic, "%s was shown %v after offset %d", s.name, p.at, was)
		} else if !ok {
			first[part] = p.at.Offset
		}
		last[part], seen[p.at] = p.at.Offset, true
		if c.final[p.at] == p.value {
			continue
		}
		if w := c.writes[p.value]; w != nil && w.txn != nil && w.txn.outcome != Committed {
			c.add(AbortedRead, "%s was shown %q at %v", s.name, p.value, p.at)
		} else {
			c.add(Inconsistent, "%s was shown %q at %v, where %q is", s.name, p.value, p.at, c.final[p.at])
		}
	}
	for _, f := range c.finalAll {
		part := Place{Topic: f.at.Topic, Part: f.at.Part}
		if from, ok := first[part]; ok && f.at.Offset > from && f.at.Offset < last[part] && !seen[f.at] {
			c.add(Skipped, "%s was not shown %q at %v", s.name, f.value, f.at)
		}
	}
}
