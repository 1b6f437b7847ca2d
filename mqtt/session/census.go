package session

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Info is what an operator is shown of one session. Nothing of it changes the session.
type Info struct {
	Key
	Conn    Conn   // nil: not connected
	Offline int64  // since when there is no connection, milliseconds since 1970; 0: connected, or not known
	Ends    int64  // when it expires; 0: not by the clock
	Expiry  uint32 // in force, seconds
	Will    string // topic; "": none

	Subscriptions int
	Queued        int64 // deliveries owed and not begun
	Merged        bool  // Queued is an upper bound: the queue was so long that its positions were merged
	Inflight      int   // begun and not acknowledged
	Oldest        int64 // time of the oldest message queued, as far as it has been looked at; 0: not known
	Behind        bool  // connected, and reading from the log
}

// Subscription is one of a session's.
type Subscription struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	ID                uint32
	Pending           bool // not durable yet: nothing is delivered for it
}

func (s *session) info() Info {
	in := Info{
		Key: s.key, Offline: s.offline, Ends: s.expireAt, Expiry: s.expiry,
		Subscriptions: len(s.queue.subs.list), Queued: s.queue.owed(), Inflight: s.flight.len(),
	}
	if s.will != nil {
		in.Will = s.will.msg.Topic
	}
	if s.link != nil {
		in.Conn, in.Behind = s.link.conn, !s.link.live
	}
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		in.Merged = in.Merged || set.merged
		if !set.none() && set.timed == set.head()+1 && (in.Oldest == 0 || set.time < in.Oldest) {
			in.Oldest = set.time
		}
	}
	return in
}

// Session describes one session, with its subscriptions in order of their filters.
func (c *Core) Session(k Key) (in Info, subs []Subscription, ok bool) {
	s := c.sessions[k]
	if s == nil {
		return in, nil, false
	}
	for _, b := range s.queue.subs.list {
		subs = append(subs, Subscription{b.filter, b.opts.qos, b.opts.noLocal, b.opts.rap, b.opts.id, b.pending})
	}
	slices.SortFunc(subs, func(a, b Subscription) int { return strings.Compare(a.Filter, b.Filter) })
	return s.info(), subs, true
}

// Subscribed tells whether the session of a connection has a filter.
func (c *Core) Subscribed(conn Conn, filter string) bool {
	l := c.links[conn]
	return l != nil && l.session.queue.subs.get(filter) != nil
}

// A Walk visits many things a few at a time, so that the core's goroutine does other work between. What comes or goes meanwhile is
// visited or not, and nothing twice. It must be stopped, by the core's goroutine or after that has ended.
type Walk[T any] struct {
	next func() (T, bool)
	stop func()
}

func newWalk[T any](seq iter.Seq[T]) *Walk[T] {
	next, stop := iter.Pull(seq)
	return &Walk[T]{next, stop}
}

// Next appends the next n to into; fewer: there are no more.
func (w *Walk[T]) Next(into []T, n int) []T {
	for range n {
		x, ok := w.next()
		if !ok {
			break
		}
		into = append(into, x)
	}
	return into
}

// Stop ends the walk.
func (w *Walk[T]) Stop() { w.stop() }

// Walk visits the sessions.
func (c *Core) Walk() *Walk[Info] {
	return newWalk(func(yield func(Info) bool) {
		for _, s := range c.sessions {
			if !yield(s.info()) {
				return
			}
		}
	})
}

// Receiver is a session that gets the messages of a topic, or a group of which one member does.
type Receiver struct {
	Key                // of a group: its tenant alone
	Group     string   // $share/NAME/FILTER; "": a session
	Connected bool     // of a group: a member is
	QoS       byte     // at most
	Filters   []string // that match
	Denied    bool     // the policy does not let it have them
}

// Receivers says who would get a message on a topic, at most n of them, and how many there are. Messages of one's own and
// subscriptions that are not durable yet are not told apart.
func (c *Core) Receivers(name string, n int) (list []Receiver, total int) {
	found := c.match(name)
	for i := range found.targets[:min(n, len(found.targets))] {
		t := &found.targets[i]
		r := Receiver{Key: t.session.key, Connected: t.session.link != nil, QoS: t.qos}
		if g := t.session.group; g != nil {
			r.Key, r.Group, r.Connected = Key{Tenant: g.key.Tenant}, "$share/"+g.key.Principal+"/"+g.key.ClientID, g.online > 0
		} else {
			r.Denied = !c.allowed(t, name)
		}
		for _, b := range t.subs {
			r.Filters = append(r.Filters, b.filter)
		}
		list = append(list, r)
	}
	return list, len(found.targets)
}

// RetainedInfo describes a retained message; its payload is in the log.
type RetainedInfo struct {
	Topic   string
	Bytes   int // of topic and payload
	QoS     byte
	Time    int64 // of the message
	Expires int64 // 0: never
}

// RetainedPage lists retained messages that a filter matches, in order of topic, behind after: at most n, and looking at no more than
// looks names. last is what to go on after, if not done.
func (c *Core) RetainedPage(filter, after string, n, looks int) (list []RetainedInfo, last string, done bool) {
	full := false
	last, done = c.retained.names.ScanN(filter, after, &looks, func(name string, r *retained) bool {
		if r.cleared || r.expires > 0 && r.expires <= c.now {
			return true
		}
		if len(list) == n {
			full = true
			return false
		}
		list = append(list, RetainedInfo{r.topic, int(r.size), r.qos, r.time, r.expires})
		return true
	})
	if full {
		return list, list[n-1].Topic, false
	}
	return list, last, done
}

// TopicCount is what came on one topic.
type TopicCount struct {
	Topic           string
	Messages, Bytes int64 // payloads
	Last            int64 // when the latest came
}

func (t *TopicCount) add(u TopicCount) {
	t.Messages += u.Messages
	t.Bytes += u.Bytes
	t.Last = max(t.Last, u.Last)
}

// traffic counts by topic in the cache of matches, where every message's topic has been looked up anyway. When the cache is cleared, the
// topics with most messages are kept, and the others are added up.
type traffic struct {
	kept  map[string]TopicCount
	other TopicCount
	lost  int64 // topics that other is of, at least
}

const keptTopics = 1000

// met counts a message of the log, or an unlogged one.
func (m *matched) met(msg *Message, now int64) {
	m.count.Messages++
	m.count.Bytes += int64(len(msg.Payload))
	m.count.Last = now
}

// fold takes over the counts of a cache that is about to be cleared.
func (t *traffic) fold(cache map[string]*matched) {
	if t.kept == nil {
		t.kept = map[string]TopicCount{}
	}
	all := make([]TopicCount, 0, len(cache)+len(t.kept))
	for name, k := range t.kept {
		if m := cache[name]; m == nil || m.count.Messages == 0 {
			all = append(all, k)
		}
	}
	for name, m := range cache {
		if m.count.Messages > 0 {
			sum := m.count
			sum.Topic = name
			sum.add(t.kept[name])
			all = append(all, sum)
		}
	}
	if len(all) > keptTopics {
		slices.SortFunc(all, func(a, b TopicCount) int { return cmp.Compare(b.Messages, a.Messages) })
		for _, k := range all[keptTopics:] {
			t.other.add(k)
			t.lost++
		}
		all = all[:keptTopics]
	}
	t.kept = make(map[string]TopicCount, len(all))
	for _, k := range all {
		t.kept[k.Topic] = k
	}
}

// Topics visits the topics that messages have come on since the core began, as far as they are known one by one.
func (c *Core) Topics() *Walk[TopicCount] {
	cache, kept := c.cache.topics, c.traffic.kept
	return newWalk(func(yield func(TopicCount) bool) {
		for name, m := range cache {
			if m.count.Messages == 0 {
				continue
			}
			sum := m.count
			sum.Topic = name
			sum.add(kept[name])
			if !yield(sum) {
				return
			}
		}
		for _, name := range slices.Sorted(maps.Keys(kept)) {
			if m := cache[name]; m != nil && m.count.Messages > 0 {
				continue
			}
			if !yield(kept[name]) {
				return
			}
		}
	})
}

// OtherTopics is the sum of what Topics does not know any more, and of how many topics it is at least.
func (c *Core) OtherTopics() (sum TopicCount, topics int64) { return c.traffic.other, c.traffic.lost }
