package session

import (
	"testing"
)

// accounts follow the tallies and books of one core of a world. Every message of a partition shares a tally.
type accounts struct {
	tallies map[Part]*Tally
	sums    map[Part]*sums
	ready   bool
	checks  int
}

type sums struct{ owed, delivered, dropped int64 }

// tag gives the messages of a batch their tally.
func (a *accounts) tag(b *Batch) {
	t := a.tallies[b.Part]
	if t == nil {
		t = &Tally{Row: b.Part}
		a.tallies[b.Part] = t
	}
	for i := range b.Msgs {
		b.Msgs[i].Tally = t
	}
}

// check sees to it that nothing that is owed is unaccounted for.
func (a *accounts) check(w *world) {
	if w.core.failed || !w.core.Ready() {
		return
	}
	counts := w.core.Counts(true)
	for _, t := range counts.Tallies {
		if !a.ready {
			continue // of the replay, which the books do not have
		}
		p := t.Row.(Part)
		s := a.sums[p]
		if s == nil {
			s = &sums{}
			a.sums[p] = s
		}
		s.owed += int64(t.Owed)
		s.delivered += int64(t.Delivered)
		for _, d := range t.Dropped {
			s.dropped += int64(d.N)
		}
	}
	if !a.ready { // what the replay counted may be mixed with what came after: begin here
		a.ready = true
		for i := range w.core.places {
			w.core.places[i].book = book{merged: w.core.places[i].book.merged}
		}
		w.core.openBooks()
		return
	}
	for _, b := range counts.Books {
		if why := b.unbalanced(a.sums[b.Part]); why != "" {
			w.fail("books of part %v: %s: %+v, tallies %+v", b.Part.Index, why, b, a.sums[b.Part])
		}
	}
	a.checks++
}

// unbalanced says what of a book does not add up.
func (b *Book) unbalanced(s *sums) string {
	if s == nil {
		s = &sums{}
	}
	switch {
	case !b.Merged && b.Carried+b.Owed != b.Delivered+b.Lost+b.Pending:
		return "deliveries are unaccounted for"
	case !b.Merged && s.delivered+s.dropped+b.Loose+b.Unrowed != b.Delivered+b.Lost:
		return "the tallies have not what the book has"
	case !b.Merged && s.owed > b.Owed:
		return "the tallies are owed more than the book"
	}
	return ""
}

// A queue that forgets a position, and a delivery that is forgotten in flight, must not balance.
func TestBooksCatchAForgottenDelivery(t *testing.T) {
	for name, forget := range map[string]func(*session){
		"queued":    func(s *session) { s.queue.sets[0].cut(s.queue.sets[0].head() + 1) },
		"in flight": func(s *session) { s.flight.remove(&s.flight.all()[0]) },
	} {
		s := newScene(t)
		s.connect(s.a, 1000, func(r *Connect) { r.ReceiveMaximum = 1 })
		s.subscribe(s.a, sub1("a/1"))
		s.tick(1)
		for range 3 {
			s.publish("a/1", "x", 1)
		}
		s.tick(1)
		if s.err != nil || s.books.checks == 0 {
			t.Fatalf("%d checks, %v", s.books.checks, s.err)
		}
		forget(s.core.sessions[s.a.key])
		s.tick(1)
		if s.err == nil {
			t.Errorf("%s: nobody misses it", name)
		}
	}
}

// What a core before this one has counted as owed is not counted again.
func TestWhatWasCountedIsNotCountedAgain(t *testing.T) {
	s := newScene(t)
	s.connect(s.a, 1000)
	s.subscribe(s.a, sub1("#"))
	p := s.parts[0]
	s.core.Counted(Vector{p.part: p.next + 3})
	tally := &Tally{}
	b := Batch{Part: p.part, Base: p.next, Next: p.next + 5}
	for i := range int64(5) {
		b.Msgs = append(b.Msgs, Message{Offset: p.next + i, Time: s.now, Topic: "a/1", Payload: []byte("x"), QoS: 0, Tally: tally})
	}
	s.model.quiet = true
	before := s.core.Counts(true)
	for i := range b.Msgs {
		s.model.matched(0, &b.Msgs[i])
	}
	s.core.Tail(s.now, &b)
	after := s.core.Counts(true)
	if len(after.Tallies) != 1 || after.Tallies[0].Owed != 2 || after.Tallies[0].Delivered != 2 || b.Msgs[0].Tally != tally {
		t.Errorf("%+v", after.Tallies)
	}
	if was, is := before.Books[0], after.Books[0]; is.Owed-was.Owed != 5 || is.Delivered-was.Delivered != 5 || is.Loose-was.Loose != 3 {
		t.Errorf("books %+v, then %+v", was, is)
	}
}
