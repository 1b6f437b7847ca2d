package session

import "math"

// Tally counts what became of messages on their way to subscribers. Whoever gives a Message a Tally decides which messages share one
// (package meter: those of one sender in one minute). Its counts belong to the goroutine that calls the Core.
type Tally struct {
	Row any // whose counts these are; the core only hands it back

	owed, delivered uint32
	dropped         []Dropped // few, and rarely any
	listed          bool      // in Core.tallies
}

// Dropped is a number of deliveries that were given up for one reason.
type Dropped struct {
	Reason string
	N      uint32
}

// TallyCount is what was added to one Tally since it was last asked for.
type TallyCount struct {
	Row             any
	Owed, Delivered uint32
	Dropped         []Dropped
}

// Book is what a core did with the records of one data partition since it was ready. What was owed when it became ready, and what
// became owed after, is delivered, lost, or still pending: Carried + Owed = Delivered + Lost + Pending, unless Merged.
type Book struct {
	Part Part
	Next int64 // records below it have been matched

	Carried   int64
	Owed      int64
	Delivered int64 // QoS 0: handed to the connection; QoS 1 and 2: acknowledged
	Lost      int64 // given up, and counted by their reason
	Loose     int64 // of Delivered and Lost: what a Tally was owed, perhaps, and has not, since the message was not at hand
	Unrowed   int64 // of Delivered and Lost: history, which no Tally was owed either
	Pending   int64
	Merged    bool // a queue was so long that its positions were merged, and holds some that are not owed: Pending is no exact number
}

// Counts are what the core has counted.
type Counts struct {
	Life    Incarnation // of the core: books of another one begin anew
	Ready   bool        // else there are no Books yet
	Matched Vector      // per data partition: records below are in the tallies' Owed
	Tallies []TallyCount
	Books   []Book
}

// book is a Book as a place keeps it.
type book struct {
	carried, owed, delivered, lost, loose, unrowed int64
	merged                                         bool
}

// Counted says that the tallies have what is owed of records below these positions: an earlier core of this process has met them.
func (c *Core) Counted(v Vector) { c.counted = v }

// Counts hands over what the tallies have counted since the last call, and if books is set, the books, for which it visits every
// session. A core that has failed still gives them.
func (c *Core) Counts(books bool) Counts {
	out := Counts{Life: Incarnation(c.epoch << 32), Ready: !c.replaying, Matched: Vector{}}
	for i := range c.places {
		if p := &c.places[i]; p.tailed && !p.retained {
			out.Matched[p.part] = p.next
		}
	}
	out.Tallies = make([]TallyCount, 0, len(c.tallies))
	for i, t := range c.tallies {
		out.Tallies = append(out.Tallies, TallyCount{t.Row, t.owed, t.delivered, t.dropped})
		t.owed, t.delivered, t.dropped, t.listed = 0, 0, nil, false
		c.tallies[i] = nil
	}
	c.tallies = c.tallies[:0]
	if books && !c.replaying {
		out.Books = c.books()
	}
	return out
}

func (c *Core) books() (list []Book) {
	pending := c.pending()
	for i := range c.places {
		p := &c.places[i]
		if !p.tailed || p.retained {
			continue
		}
		b := &p.book
		list = append(list, Book{Part: p.part, Next: p.next, Carried: b.carried, Owed: b.owed, Delivered: b.delivered, Lost: b.lost,
			Loose: b.loose, Unrowed: b.unrowed, Pending: pending[i], Merged: b.merged})
	}
	return list
}

// pending is how many deliveries are under way or queued, by place.
func (c *Core) pending() []int64 {
	n := make([]int64, len(c.places))
	for _, s := range c.sessions {
		c.pendingSets(n, &s.queue)
		for i := range s.flight.all() {
			if e := &s.flight.all()[i]; !e.settled {
				n[e.place]++
			}
		}
		if l := s.link; l != nil {
			for i := range l.held {
				if h := &l.held[i]; h.id == 0 && h.place >= 0 {
					n[h.place]++
				}
			}
		}
	}
	for _, g := range c.groups {
		c.pendingSets(n, &g.queue)
		for sp := range g.limbo {
			n[sp.place]++
		}
	}
	return n
}

func (c *Core) pendingSets(n []int64, q *queue) {
	for i := range q.sets {
		set := &q.sets[i]
		n[set.place] += set.offsets
		if set.merged {
			c.places[set.place].book.merged = true
		}
	}
}

// openBooks begins them: the replay is over.
func (c *Core) openBooks() {
	carried := c.pending()
	for i := range c.places {
		c.places[i].book = book{carried: carried[i], merged: c.places[i].book.merged}
	}
}

// unplaced is the place of a message that is not in the log.
const unplaced = -1

// list notes that a tally has something to tell.
func (c *Core) list(t *Tally) {
	if !t.listed {
		t.listed = true
		c.tallies = append(c.tallies, t)
	}
}

// owe counts a delivery that was decided on.
func (c *Core) owe(t *Tally, place int32) {
	if t != nil && t != &c.unrowed {
		c.list(t)
		t.owed++
	}
	if place >= 0 {
		c.places[place].book.owed++
	}
}

// delivered counts a delivery that is done.
func (c *Core) delivered(t *Tally, place int32) {
	if t != nil && t != &c.unrowed {
		c.list(t)
		t.delivered++
	}
	if place >= 0 {
		b := &c.places[place].book
		b.delivered++
		c.unlisted(b, t)
	}
}

// unlisted counts what has come to an end and is in no row.
func (c *Core) unlisted(b *book, t *Tally) {
	switch t {
	case nil:
		b.loose++
	case &c.unrowed:
		b.unrowed++
	}
}

// drop counts a delivery that is given up.
func (c *Core) drop(t *Tally, place int32, reason string) {
	c.host.Count(reason, 1)
	c.dropped(t, place, reason)
}

// dropped is drop for what others count by its reason.
func (c *Core) dropped(t *Tally, place int32, reason string) {
	if t != nil && t != &c.unrowed {
		c.list(t)
		t.drop(reason)
	}
	if place >= 0 {
		b := &c.places[place].book
		b.lost++
		c.unlisted(b, t)
	}
}

func (t *Tally) drop(reason string) {
	for i := range t.dropped {
		if t.dropped[i].Reason == reason {
			t.dropped[i].N++
			return
		}
	}
	t.dropped = append(t.dropped, Dropped{reason, 1})
}

// gone counts positions that were owed and are given up unread.
func (c *Core) gone(place int32, n int64, reason string) {
	if n <= 0 {
		return
	}
	c.host.Count(reason, int(min(n, math.MaxInt32)))
	c.places[place].book.lose(n)
}

func (b *book) lose(n int64) {
	b.lost += n
	b.loose += n
}
