package session

import (
	"cmp"
	"math"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// session is one life of a session: from a CONNECT that creates it until it expires or a clean start replaces it.
type session struct {
	key     Key
	seq     uint64
	inc     Incarnation
	shard   *shard
	durable bool // it has a record: its expiry was not 0 when it was created
	ended   bool
	expiry  uint32
	queue   queue
	flight  flight
	inbound *Inbound
	cursors []cursor
	link    *link // nil: offline
	will    *will

	offline  int64 // since when, milliseconds; 0: connected
	willAt   int64 // when the will fires; 0: not by the clock
	expireAt int64
	due      int64 // the earlier of the two
	timer    int   // place in Core.timers, from 1; 0: not there

	offlineSaved bool // the session's record says since when it is offline
	offlineDirty bool // it should
	dirty        bool // in shard.dirty
	saved        bool // the log has a queue record
}

const never = math.MaxUint32 // as a session expiry

// attempt is a CONNECT that is not answered yet.
type attempt struct {
	conn  Conn
	r     Connect
	gone  bool // the connection has ended meanwhile
	cause Cause
}

// turn is held while something about a session key must be in the log before a CONNECT may go on: a will that fires, or an
// earlier CONNECT's records. One CONNECT may wait; a second one ends the first.
type turn struct {
	holds   int
	waiting *attempt
}

// Connect is a CONNECT. It is answered by Conn.Accept or Conn.Refuse, perhaps later.
func (c *Core) Connect(now int64, conn Conn, r *Connect) {
	if !c.enter(now) {
		return
	}
	a := &attempt{conn: conn, r: *r}
	a.r.Expiry = min(a.r.Expiry, c.o.MaxExpiry)
	c.attempts[conn] = a
	switch {
	case r.Will != nil && !c.host.Allowed(r.Key, true, r.Will.Topic):
		c.turnDown(a, packet.NotAuthorized, "will not authorized")
	case c.replaying:
		c.early = append(c.early, a)
	default:
		c.begin(a)
	}
	c.leave()
}

func (c *Core) turnDown(a *attempt, code packet.Code, reason string) {
	delete(c.attempts, a.conn)
	if !a.gone {
		a.conn.Refuse(code, reason)
	}
}

// hold makes CONNECTs for a key wait until release.
func (c *Core) hold(k Key) {
	t := c.turns[k]
	if t == nil {
		t = &turn{}
		c.turns[k] = t
	}
	t.holds++
}

func (c *Core) release(k Key) {
	t := c.turns[k]
	if t.holds--; t.holds > 0 {
		return
	}
	delete(c.turns, k)
	if t.waiting != nil {
		c.begin(t.waiting)
	}
}

// begin starts an attempt when it is its turn.
func (c *Core) begin(a *attempt) {
	if a.gone {
		delete(c.attempts, a.conn)
		return
	}
	if t := c.turns[a.r.Key]; t != nil {
		if t.waiting != nil {
			c.turnDown(t.waiting, packet.ServerBusy, "another connection with this client id came")
		}
		t.waiting = a
		return
	}
	c.proceed(a)
}

// proceed takes the session over, fires the will that this connection's coming causes, and writes what must be in the log
// before CONNACK. The old session goes on collecting until the new one's record is durable.
func (c *Core) proceed(a *attempt) {
	s := c.sessions[a.r.Key]
	ends := false
	if s != nil {
		ends = a.r.CleanStart || s.expiry == 0
		if s.link != nil {
			s.link.conn.Close(packet.SessionTakenOver, "the client id has connected again")
			c.unlink(s)
			c.arm(s)
		}
	}
	if s != nil && s.will != nil && (ends || s.willAt <= c.now) {
		w := s.will
		s.will, s.willAt = nil, 0
		c.schedule(s)
		c.hold(a.r.Key)
		c.turns[a.r.Key].waiting = a
		c.fire(w, nil)
		c.release(a.r.Key)
		return
	}
	resume := s != nil && !ends
	inc, sh := Incarnation(0), c.shard(a.r.Key)
	var recs []StateRecord
	switch {
	case resume:
		inc = s.inc
		if s.durable && (s.expiry != a.r.Expiry || s.offlineSaved) {
			recs = append(recs, sessionRecord(a.r.Key, sessionValue{inc: inc, expiry: a.r.Expiry}))
		}
	case a.r.Expiry > 0:
		inc = c.incarnation()
		recs = append(recs, sessionRecord(a.r.Key, sessionValue{inc: inc, expiry: a.r.Expiry}))
	case s != nil && s.durable, s == nil && c.stale[staleKey{kindSession, a.r.Key}] != nil:
		recs = append(recs, StateRecord{Key: sessionKey(kindSession, a.r.Key)})
	}
	var w *will
	if a.r.Will != nil {
		w = c.newWill(a.r.Key, inc, a.r.Will)
		recs = append(recs, w.record())
	} else if s != nil && s.will != nil {
		recs = append(recs, StateRecord{Key: sessionKey(kindWill, a.r.Key)})
	}
	if len(recs) == 0 {
		c.finish(a, s, resume, inc, w)
		return
	}
	c.hold(a.r.Key)
	c.write(sh.lane, func(err error) {
		if err == nil {
			c.finish(a, s, resume, inc, w)
		} else {
			c.turnDown(a, packet.ServerUnavailable, "session state could not be written")
		}
		c.release(a.r.Key)
	}, recs...)
}

func sessionRecord(k Key, v sessionValue) StateRecord {
	return StateRecord{sessionKey(kindSession, k), v.append(nil)}
}

// finish connects an attempt to its session. old is the session there was, if any.
func (c *Core) finish(a *attempt, old *session, resume bool, inc Incarnation, w *will) {
	delete(c.attempts, a.conn)
	s := old
	if !resume {
		if old != nil {
			if old.durable {
				c.discardAll(old.shard.lane, old.parts())
			}
			c.remove(old)
		}
		s = c.create(a.r.Key, inc)
	}
	s.expiry = a.r.Expiry
	s.offline, s.willAt, s.expireAt, s.offlineSaved, s.offlineDirty = 0, 0, 0, false, false
	if s.will != nil {
		delete(c.armed, s.will.id)
	}
	if s.will = w; w != nil {
		c.armed[w.id] = w
	}
	c.schedule(s)
	l := &link{
		conn: a.conn, session: s, version: a.r.Version, maxPacket: a.r.MaximumPacket, room: true,
		window: min(max(int(a.r.ReceiveMaximum), 1), c.o.MaxInflight),
	}
	s.link = l
	c.links[a.conn] = l
	if a.gone {
		c.lost(s, a.cause, nil)
		return
	}
	a.conn.Accept(Accepted{SessionPresent: resume, Expiry: s.expiry, Inbound: s.inbound})
	c.pump(s)
}

func (c *Core) create(k Key, inc Incarnation) *session {
	c.seq++
	s := &session{key: k, seq: c.seq, inc: inc, shard: c.shard(k), durable: inc != 0, inbound: newInbound(inc)}
	c.sessions[k] = s
	if s.durable {
		c.lives[inc] = s
	}
	return s
}

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
	c.unlink(s)
	if cause == Draining {
		return
	}
	w := s.will
	if w != nil && (cause == Normal || s.expiry == 0 || w.delay == 0) {
		s.will = nil
	}
	if w != nil && cause == Normal {
		delete(c.armed, w.id)
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

// unlink takes the connection from a session. What was on the wire is sent again on the next one; QoS 0 is forgotten.
func (c *Core) unlink(s *session) {
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
}

// forgetQoS0 gives up what of QoS 0 waited for the connection.
func (c *Core) forgetQoS0(s *session, l *link) {
	for i := range l.held {
		if h := &l.held[i]; h.id == 0 {
			c.drop(h.msg.Tally, h.place, DropOffline)
		}
	}
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		n := set.fleeting.offsets
		c.places[set.place].book.owed += n // of QoS 0 owed is what is decided, and that is now
		c.gone(set.place, n, DropOffline)
	}
	s.queue.dropFleeting()
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
				c.end(s)
			}
		})
	case s.expireAt != 0 && s.expireAt <= c.now:
		c.end(s)
	default:
		c.schedule(s)
	}
}

// end ends a session for good.
func (c *Core) end(s *session) {
	if s.ended {
		return
	}
	if s.durable {
		parts := s.parts()
		c.hold(s.key) // nobody may be told that there is no session while a crash could bring it back
		c.tombstone(s.shard.lane, kindSession, s.key, func(err error) {
			if err == nil {
				c.discardAll(s.shard.lane, parts)
			}
			c.release(s.key)
		})
	}
	c.remove(s)
}

// parts are the keys of a session's records, but for the session's own and the will. They are removed once the session itself is:
// a session that is there has all of its parts. What is left of them after a crash or a refused write belongs to no
// incarnation, and is removed by the next restore.
func (s *session) parts() (keys [][]byte) {
	for _, b := range s.queue.subs.list {
		keys = append(keys, subKey(s.key, b.filter))
	}
	if s.saved {
		keys = append(keys, sessionKey(kindQueue, s.key))
	}
	for _, d := range s.flight.all() {
		if d.qos == 2 && d.state != unsaved {
			keys = append(keys, idKey(kindOut, s.key, d.id))
		}
	}
	for _, d := range s.flight.done {
		keys = append(keys, idKey(kindOut, s.key, d.id))
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
	for _, b := range s.queue.subs.list {
		c.filter.Delete(b.filter, s)
	}
	s.queue, s.flight, s.cursors = queue{}, flight{}, nil
	delete(c.sessions, s.key)
	if c.lives[s.inc] == s {
		delete(c.lives, s.inc)
	}
	s.willAt, s.expireAt = 0, 0
	c.schedule(s)
}

// touch notes that a checkpoint has something to write about a session.
func (c *Core) touch(s *session) {
	if s.durable && !s.dirty && !s.ended {
		s.dirty = true
		s.shard.dirty = append(s.shard.dirty, s)
	}
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
			if len(c.stale) == 0 {
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
	if len(c.stale) == 0 {
		return math.MaxInt64
	}
	if c.staleAt > c.now {
		return c.staleAt
	}
	c.staleAt = c.now + redoEvery
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

func compareKey(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.ClientID, b.ClientID))
}
