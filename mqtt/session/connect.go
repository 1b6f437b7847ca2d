package session

import (
	"cmp"
	"math"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// session is one life of a session: from a CONNECT that creates it until it expires or a clean start replaces it.
type session struct {
	key       Key
	seq       uint64
	inc       Incarnation
	shard     *shard
	durable   bool // it has a record: its expiry was not 0 when it was created
	ended     bool
	expiry    uint32
	queue     queue
	flight    flight
	inbound   *Inbound
	cursors   []cursor
	histories []*history // that it has not all of, or of which no checkpoint says so yet
	gapped    bool       // some of a history was gone
	coming    int32      // histories asked for, of which the record is not durable yet; of the connections before, too
	link      *link      // nil: offline
	will      *will
	shares    []*member // of groups
	group     *group    // that it is the queue of: then it is no client's session

	offline  int64 // since when, milliseconds; 0: connected
	willAt   int64 // when the will fires; 0: not by the clock
	expireAt int64
	due      int64 // the earlier of the two
	timer    int   // place in Core.timers, from 1; 0: not there

	offlineSaved bool // the session's record says since when it is offline
	offlineDirty bool // it should
	dirty        bool // in shard.dirty
	saved        bool // the log has a queue record
	aging        bool // in Core.aging
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
	case r.Will != nil && !c.host.Allowed(r.Key, true, r.Will.Topic) && !spared(DropDenied, "will-set"):
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
	if s == nil && len(c.sessions)+c.coming >= c.o.MaxSessions {
		c.turnDown(a, packet.QuotaExceeded, "there are as many sessions as the server takes")
		return
	}
	if !c.roomForWill(s, a.r.Will) {
		c.turnDown(a, packet.QuotaExceeded, "there are as many bytes of wills as the server keeps")
		return
	}
	ends := false
	if s != nil {
		ends = a.r.CleanStart || s.expiry == 0
		if s.link != nil {
			s.link.conn.Close(packet.SessionTakenOver, "the client id has connected again")
			groups := c.unlink(s)
			c.arm(s)
			c.dispatchAll(groups)
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
		c.keepWill(w)
		recs = append(recs, w.record())
	} else if s != nil && s.will != nil {
		recs = append(recs, StateRecord{Key: sessionKey(kindWill, a.r.Key)})
	}
	if len(recs) == 0 {
		c.finish(a, s, resume, inc, w)
		return
	}
	created := 0
	if s == nil {
		created = 1
	}
	c.coming += created
	c.hold(a.r.Key)
	c.write(sh.lane, func(err error) {
		c.coming -= created
		if err == nil {
			c.finish(a, s, resume, inc, w)
		} else {
			if w != nil {
				c.dropWill(w)
			}
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
		c.dropWill(s.will)
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
	c.connected(s)
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
	s.flight.done = c.spent[k] // ids of an earlier life that its groups have not freed yet
	delete(c.spent, k)
	c.sessions[k] = s
	if s.durable {
		c.lives[inc] = s
	}
	return s
}

// touch notes that a checkpoint has something to write about a session or a group.
func (c *Core) touch(s *session) {
	if s.durable && !s.dirty && !s.ended {
		s.dirty = true
		s.shard.dirty = append(s.shard.dirty, s)
	}
}

func compareKey(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.ClientID, b.ClientID))
}
