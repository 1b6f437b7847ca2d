package session

import "math"

// Tail is the next batch of stable records of a data partition. b is not kept; the topics and payloads of its messages may be.
func (c *Core) Tail(now int64, b *Batch) {
	if !c.enter(now) {
		return
	}
	i := c.place(b.Part)
	p := &c.places[i]
	p.tailed = true
	counted := c.counted[b.Part]
	for n := range b.Msgs {
		m := &b.Msgs[n]
		if m.Offset < p.next {
			continue
		}
		if m.Offset < counted && m.Tally != nil {
			own := *m
			own.Tally, m = nil, &own
		}
		c.message(m, i)
		p = &c.places[i]
	}
	c.advance(i, b.Next)
	c.leave()
}

// message is one stable record, met by the matcher for the first time in this life of the core.
func (c *Core) message(m *Message, place int32) {
	c.since.bytes += int64(len(m.Topic) + len(m.Payload) + 64)
	if m.Will != 0 {
		c.willSeen(m.Will)
	}
	if m.QoS2.Incarnation != 0 && c.duplicate(m, place) {
		c.host.Count(DropDuplicate, 1)
		return
	}
	if m.Retain {
		c.retain(m, place)
	}
	found := c.match(m.Topic)
	if !c.replaying {
		found.met(m, c.now)
	}
	for i := range found.targets {
		c.offer(&found.targets[i], m, place)
	}
}

// duplicate tells whether a record of QoS 2 is the second one of its triple, as far as its publisher's session is here. A replay
// for another sessions partition may begin below the frontier of the publisher's own, where its ids are already forgotten.
func (c *Core) duplicate(m *Message, place int32) bool {
	s := c.lives[m.QoS2.Incarnation]
	if s == nil {
		return false
	}
	if c.replaying && m.Offset < s.queue.f.at(place) {
		_, twin := c.triples[m.QoS2]
		c.triples[m.QoS2] = struct{}{}
		return twin
	}
	if !s.inbound.saw(m.QoS2, s.shard.number, c.replaying) {
		return true
	}
	c.touch(s)
	return false
}

func (c *Core) advance(place int32, next int64) {
	p := &c.places[place]
	if next <= p.next {
		return
	}
	p.next = next
	c.snapshot = nil
	if c.since.start == 0 {
		c.since.start = c.now
	}
	if c.replaying && next >= p.ready {
		c.tryReady()
	}
}

// Unlogged is a message of a `store: false` route: effective QoS 0, for connected subscribers only. m is not kept.
func (c *Core) Unlogged(now int64, m *Message) {
	if !c.enter(now) {
		return
	}
	found := c.match(m.Topic)
	found.met(m, c.now)
	for i := range found.targets {
		c.offerUnlogged(&found.targets[i], m)
	}
	c.leave()
}

// Gap says that the tail jumped: the records of p before next are gone.
func (c *Core) Gap(now int64, p Part, next int64) {
	if !c.enter(now) {
		return
	}
	i := c.place(p)
	c.places[i].tailed = true
	if lost := next - c.places[i].next; lost > 0 {
		c.host.Count(DropGap, int(min(lost, math.MaxInt32)))
	}
	for _, s := range c.queues() {
		if set := s.queue.find(i); set != nil {
			c.miss(s, set, next, byAny, DropReplayGap)
			c.lose(s, i, set.cutOf(next, byQueue), DropGap)
		}
	}
	c.advance(i, next)
	c.leave()
}

// Deleted says that a topic is gone.
func (c *Core) Deleted(now int64, topic [16]byte) {
	if !c.enter(now) {
		return
	}
	for i := range c.places {
		if p := &c.places[i]; p.part.Topic == topic && !p.dead {
			p.dead = true
			c.snapshot = nil
			for _, s := range c.queues() {
				if set := s.queue.find(int32(i)); set != nil {
					c.miss(s, set, math.MaxInt64, byAny, DropReplayDeleted)
					c.lose(s, int32(i), set.cutOf(math.MaxInt64, byQueue), DropTopicDeleted)
				}
			}
		}
	}
	c.tryReady()
	c.leave()
}

// lose counts queued positions that are gone, and lets the session go on with what is left.
func (c *Core) lose(s *session, place int32, n int64, reason string) {
	if n > 0 {
		c.gone(place, n, reason)
		c.touch(s)
		c.pump(s)
	}
}
