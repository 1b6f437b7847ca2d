package session

import (
	"errors"
	"math"
	"slices"
)

// A delivery of QoS 2 stays open for as long as its client stays away, and retention may take its record meanwhile. Yet once the PUBLISH has
// left, its id stands for that message and no other until the client has said that it has it. So what stays open is copied: the
// message is read once more and written into its out/id. How much that can be is bounded by the deliveries that a session may have open.

// copied is the copy of the message of an id.
type copied struct {
	id      uint16
	reading bool
	gone    bool  // the record is: only the copy is left
	at      int64 // offset of the out/id that has it, in the session's partition; -1: not there yet
}

// aged is a session that has had deliveries of QoS 2 open since then, or may have.
type aged struct {
	session *session
	at      int64
}

// copying is an outstanding Host.Read for a copy.
type copying struct {
	session *session
	id      uint16
	place   int32
	offset  int64
}

const maxCopies = 16 // reads for copies at once

// age notes that a session has a delivery of QoS 2 open.
func (c *Core) age(s *session) {
	if !s.aging && s.durable {
		s.aging = true
		c.aging = append(c.aging, aged{s, c.now})
	}
}

// copyOpen copies what has been open for long enough, and returns when to ask again.
func (c *Core) copyOpen() int64 {
	after := c.o.CopyAfter.Milliseconds()
	for len(c.aging) > 0 {
		a := c.aging[0]
		if a.at+after > c.now {
			return a.at + after
		}
		if len(c.copying) >= maxCopies {
			return math.MaxInt64 // the next ReadDone goes on
		}
		if !a.session.ended && !c.copySome(a.session) {
			continue
		}
		c.aging[0] = aged{}
		c.aging = c.aging[1:]
		a.session.aging = false
		if !a.session.ended && a.session.flight.unreceived() {
			c.age(a.session)
		}
	}
	return math.MaxInt64
}

// unreceived tells whether there is a delivery of QoS 2 without a copy whose PUBREC has not come.
func (f *flight) unreceived() bool {
	return slices.ContainsFunc(f.all(), func(d flown) bool { return d.qos == 2 && d.state == ready && f.copyOf(d.id) == nil })
}

// copySome begins to copy what a session has had open for long enough; false: more is to be copied than may be under way.
func (c *Core) copySome(s *session) bool {
	for i := range s.flight.all() {
		e := &s.flight.all()[i]
		switch {
		case e.qos != 2 || e.state != ready || !e.published || s.flight.copyOf(e.id) != nil:
		case int64(e.since)*1000+c.o.CopyAfter.Milliseconds() > c.now || c.places[e.place].dead:
		case len(c.copying) >= maxCopies:
			return false
		default:
			s.flight.copies = append(s.flight.copies, copied{id: e.id, reading: true, at: -1})
			c.token++
			c.copying[c.token] = copying{s, e.id, e.place, e.offset}
			c.host.Read(c.token, c.position(e.place, e.offset), 1)
		}
	}
	return true
}

// open returns the delivery that a copy is for, if it still waits for its PUBREC.
func (k *copying) open() (*flown, *copied) {
	if k.session.ended {
		return nil, nil
	}
	e := k.session.flight.find(k.id)
	if e == nil || e.place != k.place || e.offset != k.offset || e.state != ready {
		return nil, nil
	}
	return e, k.session.flight.copyOf(k.id)
}

// copyRead has the message that was to be copied, or not.
func (c *Core) copyRead(k copying, b Batch, err error) {
	e, cp := k.open()
	if e == nil || cp == nil {
		return
	}
	cp.reading = false
	var gap *GapError
	i := slices.IndexFunc(b.Msgs, func(m Message) bool { return m.Offset == k.offset })
	switch {
	case errors.As(err, &gap), err == nil && i < 0: // too late: it is counted if it has to be sent again
		return
	case err != nil:
		c.uncopy(&k)
		return
	}
	s := k.session
	v := c.outOf(s, e)
	v.msg = &b.Msgs[i]
	c.append(s.shard.lane, func(results []Result, err error) {
		_, cp := k.open()
		switch {
		case cp == nil:
		case err != nil:
			c.uncopy(&k)
		default:
			cp.at = results[0].Pos.Offset
		}
	}, StateRecord{idKey(kindOut, s.key, k.id), v.append(nil)})
}

// uncopy lets a copy that failed be tried again.
func (c *Core) uncopy(k *copying) {
	k.session.flight.dropCopy(k.id)
	c.age(k.session)
}

// source is where the message of a delivery is to be read.
func (c *Core) source(s *session, e *flown) (place int32, off int64) {
	if cp := s.flight.copyOf(e.id); cp != nil && cp.gone {
		return s.shard.place, cp.at
	}
	return e.place, e.offset
}

// gone notes that the record of a delivery is gone; false: so is its copy, or there is none.
func (f *flight) gone(id uint16) bool {
	cp := f.copyOf(id)
	if cp == nil || cp.gone || cp.at < 0 || mutant("forget-copy") {
		return false
	}
	cp.gone = true
	return true
}

func (f *flight) copyOf(id uint16) *copied {
	for i := range f.copies {
		if f.copies[i].id == id {
			return &f.copies[i]
		}
	}
	return nil
}

func (f *flight) dropCopy(id uint16) {
	if len(f.copies) > 0 {
		f.copies = slices.DeleteFunc(f.copies, func(cp copied) bool { return cp.id == id })
	}
}
