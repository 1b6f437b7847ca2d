package session

import (
	"errors"
	"math"
	"slices"
	"sort"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// link is a session's connection, and what delivery keeps only while there is one. Deliveries go out in this order: those that
// were in flight when an earlier connection was lost, retained messages that were asked for, then the set, merged across
// partitions by message time. When nothing of it is left the link is live: messages go straight from the match to the
// connection. QoS 0 keeps its place: it never overtakes what is queued before it.
type link struct {
	conn      Conn
	session   *session
	version   packet.Version
	window    int    // of deliveries on the wire
	maxPacket uint32 // 0: no limit
	room      bool
	live      bool
	used      int    // deliveries on the wire
	resend    int    // deliveries in flight that this connection has dealt with, from the oldest
	held      []held // deliveries behind one whose out/id is being written, in order
	heldBytes int
	bufs      map[int32]*buffer // by place
	waiting   bool              // in Core.readers
	stuck     bool              // in Core.cursors
	paced     bool              // in Core.paced

	last struct { // topic that target looked at
		name   string
		epoch  uint64
		target target
	}
}

type held struct {
	msg    Message
	qos    byte
	retain bool
	id     uint16
	ids    []uint32
	policy uint64 // as of which it was allowed
	place  int32  // of the message
}

func (h *held) size() int { return len(h.msg.Payload) + len(h.msg.Topic) + 128 }

// buffer holds what was read of one place for one session.
type buffer struct {
	place      int32
	reading    bool
	failed     bool // reading, once the retry is due
	base, next int64
	msgs       []Message
	bytes      int
}

// fetch is an outstanding Host.Read.
type fetch struct {
	link   *link
	place  int32
	offset int64
}

type retry struct {
	at   int64
	link *link
}

const (
	maxReads      = 64       // outstanding, of all sessions
	maxBuffered   = 16 << 20 // bytes read and not delivered; past it, sessions that cannot go on give theirs back
	fleetingBytes = 4 << 10  // of runs of QoS 0 positions, per session and place
	readAgain     = 200      // milliseconds after a read that failed
)

// offer hands a message that the matcher has just met to a session that it matches.
func (c *Core) offer(t *target, m *Message, place int32) {
	s, l := t.session, t.session.link
	a := c.effective(t, m, place, m.Offset)
	switch {
	case a.none:
	case c.replaying:
		if a.qos > 0 && m.Offset >= s.queue.f.at(place) && !s.flight.owns(place, m.Offset) {
			c.enqueue(s, m, place)
		}
	case l == nil:
		if a.qos > 0 {
			c.enqueue(s, m, place)
		}
	case a.qos == 0 && (!l.live || a.pending):
		c.trail(s, m, place)
	case !l.live || a.pending:
		c.enqueue(s, m, place)
	default:
		c.deliverLive(t, m, place, a)
	}
}

// deliverLive delivers a message straight from the match.
func (c *Core) deliverLive(t *target, m *Message, place int32, a applies) {
	l := t.session.link
	retain := m.Retain && a.rap
	switch reason := c.barred(t, m, l); {
	case reason != "":
		c.owe(m.Tally, place)
		c.drop(m.Tally, place, reason)
	case a.qos == 0:
		c.owe(m.Tally, place)
		c.deliver0(l, m, place, a.ids, retain)
	case !l.open(c) || !c.emit(l, m, place, a, retain):
		c.enqueue(t.session, m, place)
	default:
		c.owe(m.Tally, place)
	}
}

// offerUnlogged hands over a message that is not in the log.
func (c *Core) offerUnlogged(t *target, m *Message) {
	l := t.session.link
	if l == nil || c.replaying {
		return
	}
	a := c.effective(t, m, 0, -1)
	if a.none || a.pending {
		return
	}
	c.owe(m.Tally, unplaced)
	if reason := c.barred(t, m, l); reason != "" {
		c.drop(m.Tally, unplaced, reason)
		return
	}
	c.deliver0(l, m, unplaced, a.ids, m.Retain && a.rap)
}

// enqueue adds a position that is owed to the set.
func (c *Core) enqueue(s *session, m *Message, place int32) {
	c.owe(m.Tally, place)
	floor := c.floor
	if c.replaying {
		floor = s.queue.f
	}
	if p := s.queue.add(place, m.Offset, c.o.MaxQueueBytes, floor); p >= 0 {
		c.places[p].book.merged = true
	}
	if s.link != nil {
		s.link.live = false
	}
	c.touch(s)
}

// trail adds a position of effective QoS 0 to a queue that it must not overtake. It becomes owed when its turn comes.
func (c *Core) trail(s *session, m *Message, place int32) {
	set := s.queue.set(place)
	if len(set.fleeting.mid) > fleetingBytes {
		c.owe(m.Tally, place)
		c.drop(m.Tally, place, DropQoS0Full)
		return
	}
	set.fleeting.add(run{m.Offset, m.Offset + 1})
	s.link.live = false
}

// barred decides what is decided at every delivery: policy, expiry, size. It returns why a client may not have a message, or "".
func (c *Core) barred(t *target, m *Message, l *link) (reason string) {
	switch {
	case !c.allowed(t, m.Topic) && !mutant("skip-authorization"):
		return DropDenied
	case m.expired(c.now):
		return DropExpired
	case l.maxPacket > 0 && publishSize(m, t.ids, l.version) > uint64(l.maxPacket):
		return DropTooLarge
	}
	return ""
}

// expired tells whether the message's expiry interval is over.
func (m *Message) expired(now int64) bool {
	return m.Props != nil && m.Props.HasExpiry && now >= m.Time+int64(m.Props.Expiry)*1000
}

// left is how many seconds of the expiry interval are left, at least 1.
func (m *Message) left(now int64) uint32 {
	if m.Props == nil || !m.Props.HasExpiry {
		return 0
	}
	ms := m.Time + int64(m.Props.Expiry)*1000 - now
	return uint32(min(max((ms+999)/1000, 1), int64(m.Props.Expiry)))
}

// deliver0 sends a message of effective QoS 0 if there is room.
func (c *Core) deliver0(l *link, m *Message, place int32, ids []uint32, retain bool) {
	switch {
	case len(l.held) > 0 && l.heldBytes < c.o.ReadBytes:
		c.keep(l, held{msg: *m, retain: retain, ids: ids, place: place})
	case len(l.held) > 0 || !l.room:
		c.drop(m.Tally, place, DropQoS0Full)
	default:
		c.send(l, m, place, 0, retain, false, 0, ids)
	}
}

// open tells whether the next delivery of QoS 1 or 2 may go out.
func (l *link) open(c *Core) bool {
	return l.room && l.used < l.window && l.heldBytes < c.o.ReadBytes
}

// emit starts a delivery of QoS 1 or 2. It is false if there is no packet id; a checkpoint then frees some.
func (c *Core) emit(l *link, m *Message, place int32, a applies, retain bool) bool {
	s := l.session
	id := s.flight.nextID()
	if id == 0 {
		c.hurry = true
		return false
	}
	// It goes before what is still to be sent again: that is how it must be should the connection be lost now.
	e := s.flight.insert(l.resend, flown{offset: m.Offset, place: place, id: id, qos: a.qos, wire: true, tally: m.Tally})
	l.resend++
	l.used++
	c.touch(s)
	if a.qos == 2 && s.durable {
		c.saveOut(s, e)
	}
	if len(l.held) > 0 || e.state == saving {
		c.keep(l, held{msg: *m, qos: a.qos, retain: retain, id: id, ids: a.ids, place: place})
		return true
	}
	e.published = true
	c.send(l, m, place, a.qos, retain, false, id, a.ids)
	return true
}

func (c *Core) keep(l *link, h held) {
	h.policy = c.policy
	l.held = append(l.held, h)
	l.heldBytes += h.size()
}

func (c *Core) send(l *link, m *Message, place int32, qos byte, retain, dup bool, id uint16, ids []uint32) {
	c.out = Delivery{Msg: m, QoS: qos, Retain: retain, Dup: dup, PacketID: id, SubIDs: ids, Expiry: m.left(c.now)}
	if !c.deliver(l) {
		l.room = false
	}
	c.out.Msg = nil
	switch reason := c.out.Dropped; {
	case qos == 0 && reason == "":
		c.delivered(m.Tally, place)
	case qos == 0:
		c.dropped(m.Tally, place, reason)
	case reason != "":
		if e := l.session.flight.find(id); e != nil {
			c.settle(e, reason)
		}
	}
}

// settle counts what became of a delivery in flight that the client will not have; it may still take steps until it is complete.
func (c *Core) settle(e *flown, reason string) {
	if !e.settled {
		e.settled = true
		c.dropped(e.tally, e.place, reason)
	}
}

// saveOut writes which position an outbound QoS 2 id stands for. The PUBLISH leaves once that is durable.
func (c *Core) saveOut(s *session, e *flown) {
	e.state = saving
	id, off, l := e.id, e.offset, s.link
	v := outValue{inc: s.inc, pos: c.position(e.place, off)}
	c.write(s.shard.lane, func(err error) {
		e := s.flight.find(id)
		if e == nil || e.offset != off || e.state != saving {
			return
		}
		if e.state = ready; err != nil {
			e.state = unsaved
			if s.link == l {
				c.kick(s)
				return
			}
		}
		c.pump(s)
	}, StateRecord{idKey(kindOut, s.key, id), v.append(nil)})
}

// pump delivers what may be delivered. Whatever ends it is followed by another call: room by Writable, an ack by ack, a write
// by its outcome, a read by ReadDone.
func (c *Core) pump(s *session) {
	l := s.link
	if l == nil || s.ended {
		return
	}
	for s.link == l && c.step(s, l) {
	}
	if s.link == l && !l.live && c.buffered > maxBuffered && !l.awaits() {
		c.dropBuffers(l)
	}
}

// step makes one step of delivery; false when there is nothing to do, or nothing that can be done now.
func (c *Core) step(s *session, l *link) bool {
	if !c.flushHeld(s, l) {
		return false
	}
	if l.resend < s.flight.len() {
		return c.resendOne(s, l)
	}
	l.settle()
	if l.live || !l.room {
		return false
	}
	if set, more := c.retainedNext(s, l); set != nil || more {
		if set == nil {
			return false // the cursor waits
		}
		return c.drainOne(s, l, set)
	}
	return c.drain(s, l)
}

// settle notes that nothing of an earlier connection is left to send again.
func (l *link) settle() { l.resend = l.session.flight.len() }

// flushHeld sends held deliveries up to the first whose out/id is not durable. It is false if delivery cannot go on.
func (c *Core) flushHeld(s *session, l *link) bool {
	n := 0
	for ; n < len(l.held) && l.room; n++ {
		h := &l.held[n]
		e := s.flight.find(h.id)
		if e != nil && e.state == saving {
			break
		}
		l.heldBytes -= h.size()
		switch reason := c.overtaken(s, h); {
		case h.id != 0 && e == nil:
		case reason != "" && e != nil:
			c.giveUp(s, l, e, reason)
		case reason != "":
			c.drop(h.msg.Tally, h.place, reason)
		default:
			if e != nil {
				e.published = true
			}
			c.send(l, &h.msg, h.place, h.qos, h.retain, false, h.id, h.ids)
		}
	}
	if n > 0 {
		l.held = slices.Delete(l.held, 0, n)
	}
	return l.room && l.heldBytes < c.o.ReadBytes
}

// overtaken tells why a held delivery, decided on before, must not go out any more.
func (c *Core) overtaken(s *session, h *held) string {
	switch {
	case h.policy != c.policy && !c.host.Allowed(s.key, false, h.msg.Topic):
		return DropDenied
	case h.msg.expired(c.now):
		return DropExpired
	}
	return ""
}

// resendOne deals with the oldest delivery in flight that this connection has not dealt with.
func (c *Core) resendOne(s *session, l *link) bool {
	e := &s.flight.all()[l.resend]
	switch {
	case e.wire, e.state == releasing:
		l.resend++
		return true
	case e.state == released:
		l.resend++
		l.conn.Send(&packet.Ack{Kind: packet.PUBREL, PacketID: e.id})
		return true
	case c.places[e.place].dead:
		c.giveUp(s, l, e, DropTopicDeleted)
		return true
	case e.state == unsaved:
		c.saveOut(s, e)
		return false
	case e.state == saving, len(l.held) > 0:
		return false
	}
	// After a crash deliveries of QoS 1 are positions again; they keep their place before later ones of QoS 2.
	if set := s.queue.find(e.place); set != nil && !c.places[e.place].retained && !set.none() && set.head() < e.offset {
		m, wait := c.head(s, l, set)
		if wait {
			return false
		}
		if m != nil && m.Offset < e.offset {
			return c.deliverQueued(s, l, set, m)
		}
	}
	if !l.room || l.used >= l.window {
		return false
	}
	m, _, ok := c.fetch(l, e.place, e.offset)
	if !ok {
		return false
	}
	if m == nil || m.Offset != e.offset {
		c.giveUp(s, l, e, c.reasonGone(e.place))
		return true
	}
	c.resendMessage(s, l, e, m)
	return true
}

func (c *Core) resendMessage(s *session, l *link, e *flown, m *Message) {
	if e.tally == nil {
		e.tally = m.Tally // it was in flight before a crash
	}
	a := applies{}
	if t := c.target(s, m.Topic); t != nil {
		a = c.effective(t, m, e.place, e.offset)
	}
	switch {
	case !c.host.Allowed(s.key, false, m.Topic):
		c.giveUp(s, l, e, DropDenied)
	case !e.published && m.expired(c.now):
		c.giveUp(s, l, e, DropExpired)
	case l.maxPacket > 0 && publishSize(m, a.ids, l.version) > uint64(l.maxPacket):
		c.giveUp(s, l, e, DropTooLarge)
	default:
		dup := e.published
		e.published, e.wire = true, true
		l.used++
		l.resend++
		c.send(l, m, e.place, e.qos, c.places[e.place].retained || m.Retain && a.rap, dup, e.id, a.ids)
	}
}

// giveUp ends a delivery whose message can no longer be sent. The client may hold the id of one of QoS 2: a PUBREL clears it.
func (c *Core) giveUp(s *session, l *link, e *flown, reason string) {
	c.host.Count(reason, 1)
	c.settle(e, reason)
	if e.qos == 2 && e.published {
		l.resend++
		c.releaseOut(s, l, e)
		return
	}
	c.complete(s, e)
}

func (c *Core) reasonGone(place int32) string {
	if c.places[place].retained {
		return DropSuperseded
	}
	return DropGap
}

// drain delivers the next position of the set, the oldest message first; partitions are merged by time.
func (c *Core) drain(s *session, l *link) bool {
	var first *set
	var time int64
	wait, any := false, false
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		if c.places[set.place].retained || set.none() {
			continue
		}
		if set.timed != set.head()+1 {
			m, waits := c.head(s, l, set)
			wait, any = wait || waits, any || waits
			if m == nil {
				continue
			}
			set.timed, set.time = m.Offset+1, m.Time
		}
		if any = true; first == nil || set.time < time {
			first, time = set, set.time
		}
	}
	switch {
	case wait:
		return false
	case any:
		return c.drainOne(s, l, first)
	}
	if len(l.held) > 0 {
		l.live = true // what comes is held behind them
		return false
	}
	c.dropBuffers(l)
	s.queue.dropFleeting() // and empty sets
	l.live = true
	return false
}

func (c *Core) drainOne(s *session, l *link, set *set) bool {
	m, wait := c.head(s, l, set)
	if wait {
		return false
	}
	if m == nil {
		return true // nothing was left of it
	}
	return c.deliverQueued(s, l, set, m)
}

// head returns the message at the head of a set, dropping positions that turn out to be no message. nil and wait: it is being
// read; nil otherwise: the set is empty.
func (c *Core) head(s *session, l *link, set *set) (m *Message, wait bool) {
	for !set.none() {
		off := set.head()
		m, next, ok := c.fetch(l, set.place, off)
		switch {
		case !ok:
			return nil, true
		case m == nil:
			c.skip(s, set, next)
		case m.Offset > off:
			c.skip(s, set, m.Offset)
		default:
			return m, false
		}
	}
	return nil, false
}

// skip removes positions at which there is no message.
func (c *Core) skip(s *session, set *set, to int64) {
	exact := !set.merged
	switch n := set.cut(to); {
	case exact:
		c.gone(set.place, n, c.reasonGone(set.place))
	default:
		c.places[set.place].book.lose(n)
	}
	c.touch(s)
}

// deliverQueued delivers the message at the head of a set, if it is still wanted. It is false if that must wait.
func (c *Core) deliverQueued(s *session, l *link, set *set, m *Message) bool {
	t := c.target(s, m.Topic)
	retained := c.places[set.place].retained
	owed := !set.runs.empty() && set.runs.min() == m.Offset // else it is of QoS 0, which is owed once its turn has come
	var a applies
	drop := ""
	switch {
	case retained && !c.current(m.Topic, set.place, m.Offset):
		drop = DropSuperseded
	case !retained && m.Offset < c.floor.at(set.place) && s.flight.owns(set.place, m.Offset):
		set.cut(m.Offset + 1) // in flight, or done before a crash: a merge has brought it back
		return true
	case t == nil:
		drop = DropUnmatched
	default:
		if a = c.effective(t, m, set.place, m.Offset); a.none {
			drop = DropUnmatched
		} else if a.pending {
			return false
		} else if a.qos == 0 && set.merged && !set.fleeting.has(m.Offset) {
			drop = DropUnmatched // never owed: it lies between two positions that are
		}
	}
	if drop != "" {
		switch {
		case set.merged:
			c.places[set.place].book.lose(1)
		case owed:
			c.drop(m.Tally, set.place, drop)
		default:
			c.host.Count(drop, 1)
		}
		set.cut(m.Offset + 1)
		c.touch(s)
		return true
	}
	if reason := c.barred(t, m, l); reason != "" {
		if !owed {
			c.owe(m.Tally, set.place)
		}
		c.drop(m.Tally, set.place, reason)
		set.cut(m.Offset + 1)
		c.touch(s)
		return true
	}
	retain := retained || m.Retain && a.rap
	if a.qos == 0 {
		if !l.room || l.heldBytes >= c.o.ReadBytes {
			return false
		}
		if !owed {
			c.owe(m.Tally, set.place)
		}
		c.deliver0(l, m, set.place, a.ids, retain)
	} else if !l.open(c) || !c.emit(l, m, set.place, a, retain) {
		return false
	} else if !owed {
		c.owe(m.Tally, set.place) // the subscription has changed meanwhile
	}
	set.cut(m.Offset + 1)
	c.touch(s)
	return true
}

// Reading.

// fetch returns the first message at or after an offset, as far as it has been read: nil if there is none before next. ok is
// false while it is being read.
func (c *Core) fetch(l *link, place int32, off int64) (m *Message, next int64, ok bool) {
	b := l.buffer(place)
	if b.reading {
		return nil, 0, false
	}
	if off < b.base || off >= b.next {
		c.read(l, b, off)
		return nil, 0, false
	}
	i := sort.Search(len(b.msgs), func(i int) bool { return b.msgs[i].Offset >= off })
	if i == len(b.msgs) {
		return nil, b.next, true
	}
	return &b.msgs[i], 0, true
}

func (l *link) buffer(place int32) *buffer {
	b := l.bufs[place]
	if b == nil {
		b = &buffer{place: place}
		if l.bufs == nil {
			l.bufs = map[int32]*buffer{}
		}
		l.bufs[place] = b
	}
	return b
}

// awaits tells whether a read is outstanding.
func (l *link) awaits() bool {
	for _, b := range l.bufs {
		if b.reading {
			return true
		}
	}
	return l.waiting
}

func (c *Core) dropBuffers(l *link) {
	for _, b := range l.bufs {
		c.buffered -= b.bytes
	}
	l.bufs = nil
}

func (c *Core) read(l *link, b *buffer, off int64) {
	if len(c.reads) >= maxReads {
		if !l.waiting {
			l.waiting = true
			c.readers = append(c.readers, l)
		}
		return
	}
	c.buffered -= b.bytes
	*b = buffer{place: b.place, reading: true}
	share := 0
	for i := range l.session.queue.sets {
		if !l.session.queue.sets[i].none() {
			share++
		}
	}
	c.token++
	c.reads[c.token] = &fetch{l, b.place, off}
	c.host.Read(c.token, c.position(b.place, off), max(c.o.ReadBytes/max(share, 1), 4<<10))
}

// ReadDone is the outcome of a Host.Read. b's messages are kept, not copied.
func (c *Core) ReadDone(now int64, token uint64, b Batch, err error) {
	if !c.enter(now) {
		return
	}
	f := c.reads[token]
	if f == nil {
		return
	}
	delete(c.reads, token)
	if l := f.link; l.session.link == l {
		c.filled(l, f, b, err)
		c.pump(l.session)
	}
	for len(c.readers) > 0 && len(c.reads) < maxReads {
		l := c.readers[0]
		c.readers = slices.Delete(c.readers, 0, 1)
		l.waiting = false
		c.pump(l.session)
	}
	c.leave()
}

func (c *Core) filled(l *link, f *fetch, b Batch, err error) {
	buf := l.buffer(f.place)
	buf.reading = false
	c.buffered -= buf.bytes
	buf.bytes = 0
	var gap *GapError
	switch {
	case errors.As(err, &gap) && gap.Next > f.offset:
		buf.base, buf.next = f.offset, gap.Next
	case err != nil || b.Next <= f.offset:
		buf.reading, buf.failed = true, true
		c.retries = append(c.retries, retry{c.now + readAgain, l})
	default:
		buf.base, buf.next, buf.msgs = f.offset, b.Next, b.Msgs
		for i := range b.Msgs {
			buf.bytes += len(b.Msgs[i].Payload) + len(b.Msgs[i].Topic) + 128
		}
		c.buffered += buf.bytes
	}
}

// retryReads tries reads that failed again, and returns when the next one is due.
func (c *Core) retryReads() int64 {
	for len(c.retries) > 0 && c.retries[0].at <= c.now {
		l := c.retries[0].link
		c.retries = c.retries[1:]
		if l.session.link == l {
			for _, b := range l.bufs {
				if b.failed {
					b.reading, b.failed = false, false
				}
			}
			c.pump(l.session)
		}
	}
	if len(c.retries) > 0 {
		return c.retries[0].at
	}
	return math.MaxInt64
}

// publishSize is the size of a PUBLISH of QoS 1 or 2 on the wire (of QoS 0: two bytes less, which nobody will miss).
func publishSize(m *Message, ids []uint32, v packet.Version) uint64 {
	n := uint64(2 + len(m.Topic) + 2 + len(m.Payload))
	if v >= packet.V5 {
		props := uint64(0)
		for _, id := range ids {
			props += 1 + varintSize(uint64(id))
		}
		if p := m.Props; p != nil {
			if p.HasExpiry {
				props += 5
			}
			if p.PayloadFormat != 0 {
				props += 2
			}
			props += textSize(p.ContentType) + textSize(p.ResponseTopic)
			if p.Correlation != nil {
				props += 3 + uint64(len(p.Correlation))
			}
			for _, u := range p.User {
				props += uint64(5 + len(u.Name) + len(u.Value))
			}
		}
		n += varintSize(props) + props
	}
	return 1 + varintSize(n) + n
}

func textSize(s string) uint64 {
	if s == "" {
		return 0
	}
	return uint64(3 + len(s))
}

func varintSize(n uint64) uint64 {
	size := uint64(1)
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
