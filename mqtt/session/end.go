package session

import (
	"errors"
	"math"
	"slices"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Disconnected is the end of a connection, accepted or not. expiry is the session expiry of a DISCONNECT that has one. After
// Normal the core calls conn.Close with code Success once the will's removal is durable, or at once if there is nothing to
// remove; after another cause it calls conn no more, unless the expiry is a protocol error.
func (c *Core) Disconnected(now int64, conn Conn, cause Cause, expiry *uint32) {
	if !c.enter(now) {
		return
	}
	if a := c.attempts[conn]; a != nil {
		a.gone, a.cause = true, cause
		delete(c.attempts, conn)
		return
	}
	l := c.links[conn]
	if l == nil {
		return
	}
	if s := l.session; expiry != nil && (cause == Normal || cause == WithWill) {
		if s.expiry == 0 && *expiry > 0 {
			conn.Close(packet.ProtocolError, "session expiry of 0 cannot be changed")
			cause, conn = Lost, nil
		} else if e := min(*expiry, c.o.MaxExpiry); e != s.expiry {
			s.expiry = e
			if s.durable && e > 0 {
				c.write(s.shard.lane, nil, sessionRecord(s.key, sessionValue{inc: s.inc, expiry: e}))
			}
		}
	}
	if cause != Normal {
		conn = nil
	}
	c.lost(l.session, cause, conn)
	c.leave()
}

// lost makes a session offline. closing is the connection to close when what its end writes is durable, if any.
func (c *Core) lost(s *session, cause Cause, closing Conn) {
	groups := c.unlink(s)
	if cause == Draining {
		return
	}
	c.dispatchAll(groups)
	w := s.will
	if cause == Moved {
		if cause = Normal; w != nil {
			c.host.Count(DropWillMoved, 1)
		}
	}
	if w != nil && (cause == Normal || s.expiry == 0 || w.delay == 0) {
		s.will = nil
	}
	if w != nil && cause == Normal {
		c.dropWill(w)
		c.tombstone(s.shard.lane, kindWill, s.key, nil)
		w = nil
	}
	c.arm(s)
	switch {
	case s.expiry == 0 && !s.durable:
		c.remove(s)
		if w != nil {
			c.fire(w, nil)
		}
	case s.expiry == 0 && w != nil:
		c.fire(w, func() { c.end(s) })
	case s.expiry == 0:
		c.end(s)
	case w != nil && w.delay == 0:
		c.fire(w, nil)
	}
	if closing == nil {
		return
	}
	if len(s.shard.pending) == 0 {
		closing.Close(packet.Success, "")
		return
	}
	last := &s.shard.pending[len(s.shard.pending)-1]
	done := last.done
	last.done = func(results []Result, err error) {
		done(results, err)
		closing.Close(packet.Success, "")
	}
}

// kick closes a connection whose packets could not be kept.
func (c *Core) kick(s *session) {
	if l := s.link; l != nil {
		l.conn.Close(packet.ImplementationSpecificError, "session state could not be written")
		c.lost(s, Lost, nil)
	}
}

// unlink takes the connection from a session. What was on the wire is sent again on the next one; QoS 0 is forgotten. What was
// leased goes back to the groups it returns.
func (c *Core) unlink(s *session) (groups []*group) {
	l := s.link
	s.link = nil
	delete(c.links, l.conn)
	c.dropBuffers(l)
	for i := range s.flight.all() {
		s.flight.all()[i].wire = false
	}
	c.forgetQoS0(s, l)
	kept := s.cursors[:0]
	for _, cur := range s.cursors {
		if cur.sub.opts.qos > 0 {
			kept = append(kept, cur)
		} else {
			cur.sub.queued = true
		}
	}
	s.cursors = kept
	c.touch(s)
	for _, m := range s.shares {
		c.offline(m.group)
	}
	return c.returnAll(s)
}

// forgetQoS0 gives up what of QoS 0 waited for the connection.
func (c *Core) forgetQoS0(s *session, l *link) {
	for i := range l.held {
		if h := &l.held[i]; h.id == 0 {
			c.drop(h.msg.Tally, h.place, DropOffline)
		}
	}
	c.forgetFleeting(&s.queue)
}

func (c *Core) forgetFleeting(q *queue) {
	for i := range q.sets {
		set := &q.sets[i]
		n := set.fleeting.offsets
		c.places[set.place].book.owed += n // of QoS 0 owed is what is decided, and that is now
		c.gone(set.place, n, DropOffline)
	}
	q.dropFleeting()
}

// arm sets the timers of a session that has just gone offline.
func (c *Core) arm(s *session) {
	s.offline, s.offlineDirty = c.now, s.durable
	s.willAt, s.expireAt = 0, 0
	if s.will != nil {
		s.willAt = c.now + int64(s.will.delay)*1000
	}
	if s.expiry != never {
		s.expireAt = c.now + int64(s.expiry)*1000
	}
	c.schedule(s)
	c.touch(s)
}

// expired ends what the clock ends: the will's delay, or the session. It waits while a CONNECT for the key is being written.
func (c *Core) expired(s *session) {
	switch w := s.will; {
	case c.turns[s.key] != nil:
		s.due = c.now + 50
		c.timers.put(s)
	case w != nil:
		s.will, s.willAt = nil, 0 // its delay is over, or the session's expiry is
		ends := s.expireAt != 0 && s.expireAt <= c.now
		c.schedule(s)
		c.fire(w, func() {
			if ends {
				c.expire(s)
			}
		})
	case s.expireAt != 0 && s.expireAt <= c.now:
		c.expire(s)
	default:
		c.schedule(s)
	}
}

// expire ends a session because it was away for too long.
func (c *Core) expire(s *session) {
	if c.o.Expired != nil && !s.ended {
		c.o.Expired(s.key)
	}
	c.end(s)
}

// end ends a session for good.
func (c *Core) end(s *session) { c.endThen(s, func(error) {}) }

// endThen is end that tells when no restart can bring the session back, or that this could not be written yet: it is tried again.
func (c *Core) endThen(s *session, then func(error)) {
	if s.ended {
		then(nil)
		return
	}
	durable := s.durable
	if durable {
		parts, shares := s.parts(), slices.Clone(s.shares)
		for _, m := range shares {
			m.group.leaving++
		}
		c.hold(s.key) // nobody may be told that there is no session while a crash could bring it back
		c.tombstone(s.shard.lane, kindSession, s.key, func(err error) {
			if err == nil {
				c.discardAll(s.shard.lane, parts)
				c.left(shares)
			}
			c.release(s.key)
			then(err)
		})
	}
	c.remove(s)
	if !durable {
		then(nil)
	}
}

// EndSession errors.
var (
	ErrNoSession = errors.New("there is no such session")
	ErrBusy      = errors.New("the session is being connected or ended, or not restored yet: try again")
)

// EndSession ends a session whatever its expiry: its connection is closed with the code, its will fires, what is queued is given up. then
// is called with how many deliveries that was, once no restart can bring the session back.
func (c *Core) EndSession(now int64, k Key, code packet.Code, then func(given int64, err error)) {
	if !c.enter(now) {
		then(0, ErrBusy)
		return
	}
	s := c.sessions[k]
	switch {
	case c.replaying, c.turns[k] != nil:
		then(0, ErrBusy)
		return
	case s == nil:
		then(0, ErrNoSession)
		return
	}
	if l := s.link; l != nil {
		l.conn.Close(code, "the session was ended by an administrator")
		c.dispatchAll(c.unlink(s)) // what it had of a group others get
	}
	given := s.queue.owed() + int64(s.flight.len())
	w := s.will
	s.will, s.willAt, s.expireAt = nil, 0, 0
	c.schedule(s)
	end := func() { c.endThen(s, func(err error) { then(given, err) }) }
	if w == nil {
		end()
	} else {
		c.fire(w, end)
	}
	c.leave()
}

// parts are the keys of a session's records, but for the session's own and the will. They are removed once the session itself is:
// a session that is there has all of its parts. What is left of them after a crash or a refused write belongs to no
// incarnation, and is removed by the next restore. The out/ids of groups are theirs to remove.
func (s *session) parts() (keys [][]byte) {
	for _, b := range s.queue.subs.list {
		keys = append(keys, subKey(s.key, b.filter))
	}
	if s.saved {
		keys = append(keys, sessionKey(kindQueue, s.key))
	}
	for _, d := range s.flight.all() {
		if d.qos == 2 && d.state != unsaved && (d.lease == nil || d.lease.group.buried) {
			keys = append(keys, idKey(kindOut, s.key, d.id))
		}
	}
	for _, d := range s.flight.done {
		if !d.shared {
			keys = append(keys, idKey(kindOut, s.key, d.id))
		}
	}
	for _, id := range s.inbound.stored() {
		keys = append(keys, idKey(kindIn, s.key, id))
	}
	return keys
}

// discardAll writes tombstones that nothing waits for.
func (c *Core) discardAll(l *lane, keys [][]byte) {
	for _, key := range keys {
		c.write(l, nil, StateRecord{Key: key})
	}
}

// remove takes a session out of memory.
func (c *Core) remove(s *session) {
	if n := s.queue.owed() + int64(s.flight.len()); n > 0 {
		c.host.Count(DropSessionEnded, int(min(n, math.MaxInt32)))
	}
	for i := range s.queue.sets {
		c.places[s.queue.sets[i].place].book.lose(s.queue.sets[i].offsets)
	}
	for i := range s.flight.all() {
		if e := &s.flight.all()[i]; !e.settled {
			c.dropped(e.tally, e.place, DropSessionEnded)
		}
	}
	s.ended = true
	c.endLeases(s)
	for _, b := range s.queue.subs.list {
		c.uproot(s, b)
	}
	for _, h := range s.histories {
		c.uncount(s, h)
	}
	s.queue, s.flight, s.cursors, s.histories = queue{}, flight{}, nil, nil
	delete(c.sessions, s.key)
	if c.lives[s.inc] == s {
		delete(c.lives, s.inc)
	}
	s.willAt, s.expireAt = 0, 0
	c.schedule(s)
}

// staleKey is a record whose removal was refused.
type staleKey struct {
	kind kind
	key  Key
}

// tombstone removes a session's own record or its will. If that is refused it is tried again, as long as memory agrees.
// done may be nil.
func (c *Core) tombstone(l *lane, kd kind, k Key, done func(err error)) {
	l.removals++
	c.write(l, func(err error) {
		l.removals--
		if err != nil {
			if len(c.stale)+len(c.redo) == 0 {
				c.staleAt = c.now + redoEvery
			}
			c.stale[staleKey{kd, k}] = l
		}
		if done != nil {
			done(err)
		}
		c.saveSome(c.shardOf(l))
	}, StateRecord{Key: sessionKey(kd, k)})
}

// tryAgain repeats refused removals, and returns when it is due next.
func (c *Core) tryAgain() int64 {
	if len(c.stale)+len(c.redo) == 0 {
		return math.MaxInt64
	}
	if c.staleAt > c.now {
		return c.staleAt
	}
	c.staleAt = c.now + redoEvery
	redo := c.redo
	c.redo = nil
	for _, again := range redo {
		again()
	}
	for _, st := range sortedKeys(c.stale) {
		s := c.sessions[st.key]
		switch {
		case c.turns[st.key] != nil:
			continue
		case st.kind == kindWill && (s == nil || s.will == nil), st.kind == kindSession && (s == nil || !s.durable):
			c.tombstone(c.stale[st], st.kind, st.key, nil)
		}
		delete(c.stale, st)
	}
	return c.staleAt
}
