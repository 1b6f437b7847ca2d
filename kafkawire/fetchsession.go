package kafkawire

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
)

// Fetch sessions (KIP-227): a client that fetches many partitions names them once. From then on its requests hold what changed
// of them, and the responses only the partitions with news.
//
// The session of a request is chosen by id and epoch: (0, -1) none; (id, -1) closes it; (0, 0) a new one; (id, 0) a new one for
// an old one; (id, n) the next request of one. A session is made if there is room, or another may go for it: else the response
// has id 0, and the client goes on with full requests.

const (
	newSessionEpoch   = 0
	finalSessionEpoch = -1

	// sessionRest is how long a session is safe from new ones: from its last request on, and as one that is larger, or as
	// large, from its first on.
	sessionRest = 2 * time.Minute
)

// fetchTopic is a topic as a request names it: by id from version 13 on, by name before.
type fetchTopic struct {
	name string // of one named by its id, when it was found
	id   [16]byte

	parts      int  // of the set
	ok         bool // it was there
	asked      bool // during this request
	may        bool // be read by who asks; as of fetchSet.rights
	at         eventlog.TopicID
	partitions int32
}

// fetchPart is a partition in a set.
type fetchPart struct {
	topic    *fetchTopic
	index    int32
	offset   int64
	maxBytes int
	epoch    int32 // the leader's, as the client knows it

	toldHigh, toldLow int64 // what the client heard last; -1: an error, or nothing yet

	// Of the request that is being answered:
	part              eventlog.Part
	code              int16
	raw               []byte      // the records
	file              engine.Span // or where they are
	high, stable, low int64
	aborted           []engine.Aborted
	tell              bool // it goes into the response
}

// size is that of the records.
func (p *fetchPart) size() int { return len(p.raw) + int(p.file.Size) }

type fetchKey struct {
	name  string
	id    [16]byte
	index int32
}

// fetchSet is the partitions that a client fetches, in the order in which they are served. It belongs to one request, or to a
// session and the one request of it that is being answered.
type fetchSet struct {
	byID    bool
	topics  []*fetchTopic
	parts   []*fetchPart
	index   map[fetchKey]*fetchPart // nil while there are few
	moved   []*fetchPart            // scratch of rotate
	changes int                     // counts what a watch must know
	rights  stamp                   // of when the client was asked after

	account string // whose it is

	// A session's, guarded by fetchSessions.mu:
	id            int32
	epoch         int32
	weight        int
	created, used time.Time
	busy          bool // a request is being answered
}

// update takes over what a request says.
func (s *fetchSet) update(req *kmsg.FetchRequest) {
	for i := range req.Topics {
		rt := &req.Topics[i]
		var topic *fetchTopic
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			key := s.key(rt.Topic, rt.TopicID, rp.Partition)
			p := s.find(key)
			if p == nil {
				if topic == nil {
					topic = s.topic(key)
				}
				p = &fetchPart{topic: topic, index: rp.Partition, toldHigh: -1, toldLow: -1}
				topic.parts++
				s.add(key, p)
			}
			p.offset, p.maxBytes, p.epoch = rp.FetchOffset, int(max(rp.PartitionMaxBytes, 0)), rp.CurrentLeaderEpoch
		}
	}
	for i := range req.ForgottenTopics {
		ft := &req.ForgottenTopics[i]
		if mutant(mutantForgetless) {
			break
		}
		for _, index := range ft.Partitions {
			key := s.key(ft.Topic, ft.TopicID, index)
			if p := s.find(key); p != nil {
				delete(s.index, key)
				p.topic.parts--
				p.topic = nil // gone, see prune
				s.changes++
			}
		}
	}
	if len(req.ForgottenTopics) > 0 {
		s.prune()
	}
}

func (s *fetchSet) key(name string, id [16]byte, index int32) fetchKey {
	if s.byID {
		return fetchKey{id: id, index: index}
	}
	return fetchKey{name: name, index: index}
}

// smallSet is how many partitions are found by looking at each: most sets are no larger.
const smallSet = 8

func (s *fetchSet) find(key fetchKey) *fetchPart {
	if s.index != nil {
		return s.index[key]
	}
	for _, p := range s.parts {
		if p.topic != nil && p.index == key.index && s.key(p.topic.name, p.topic.id, p.index) == key {
			return p
		}
	}
	return nil
}

func (s *fetchSet) add(key fetchKey, p *fetchPart) {
	s.parts = append(s.parts, p)
	s.changes++
	switch {
	case s.index != nil:
		s.index[key] = p
	case len(s.parts) > smallSet:
		s.index = make(map[fetchKey]*fetchPart, 2*len(s.parts))
		for _, p := range s.parts {
			if p.topic != nil {
				s.index[s.key(p.topic.name, p.topic.id, p.index)] = p
			}
		}
	}
}

// topic finds the set's entry for a topic: that of the last partition, most likely.
func (s *fetchSet) topic(key fetchKey) *fetchTopic {
	for i := len(s.topics) - 1; i >= 0; i-- {
		if t := s.topics[i]; t.id == key.id && (s.byID || t.name == key.name) {
			return t
		}
		if len(s.topics)-i > 8 { // one that is named again much later is looked up twice: no harm
			break
		}
	}
	t := &fetchTopic{name: key.name, id: key.id}
	s.topics, s.rights = append(s.topics, t), stamp{}
	return t
}

// prune drops what was forgotten.
func (s *fetchSet) prune() {
	parts := s.parts[:0]
	for _, p := range s.parts {
		if p.topic != nil {
			parts = append(parts, p)
		}
	}
	clear(s.parts[len(parts):])
	s.parts = parts
	topics := s.topics[:0]
	for _, t := range s.topics {
		if t.parts > 0 {
			topics = append(topics, t)
		}
	}
	clear(s.topics[len(topics):])
	s.topics = topics
}

// weigh is what the set costs, in partitions' worth of memory. Names have their price: they may be 32 KiB long.
func (s *fetchSet) weigh() int {
	n := len(s.parts)
	for _, t := range s.topics {
		n += len(t.name) / 64
	}
	return n
}

// news chooses what goes into the response: everything, or, of a session, what the client did not hear yet. An error is always
// told, and the partition again when it is over.
func (s *fetchSet) news(all bool) (told int) {
	for _, p := range s.parts {
		p.tell = all || p.code != 0 || p.size() > 0 || p.high != p.toldHigh || p.low != p.toldLow
		if p.tell {
			told++
		}
		if p.toldHigh, p.toldLow = p.high, p.low; p.code != 0 {
			p.toldHigh = -1
		}
	}
	return told
}

// rotate puts the partitions whose records were sent last, so that the others have their turn before them.
func (s *fetchSet) rotate() {
	kept := s.parts[:0]
	s.moved = s.moved[:0]
	for _, p := range s.parts {
		if p.size() > 0 {
			s.moved = append(s.moved, p)
		} else {
			kept = append(kept, p)
		}
	}
	s.parts = append(kept, s.moved...)
	clear(s.moved)
}

// fetchSessions is the cache of sessions.
type fetchSessions struct {
	now       func() time.Time
	newID     func() int32
	slots     int
	maxWeight int

	mu      sync.Mutex
	byID    map[int32]*fetchSet
	weight  int
	evicted uint64
}

func newFetchSessions(slots, maxWeight int, now func() time.Time) *fetchSessions {
	return &fetchSessions{now: now, newID: randomSessionID, slots: slots, maxWeight: maxWeight, byID: map[int32]*fetchSet{}}
}

func randomSessionID() int32 {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand does not fail
	}
	return int32(binary.BigEndian.Uint32(b[:]) >> 1)
}

// take finds the session that a request goes on with; release must follow. A session answers one request at a time: a second
// one, on another connection, is out of order. A session of another account is none: its partitions are nobody else's business.
func (c *fetchSessions) take(id, epoch int32, byID bool, account string) (*fetchSet, *kerr.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.byID[id]
	switch {
	case s == nil || s.account != account:
		return nil, kerr.FetchSessionIDNotFound
	case s.epoch != epoch || s.busy:
		return nil, kerr.InvalidFetchSessionEpoch
	case s.byID != byID:
		return nil, kerr.FetchSessionTopicIDError
	}
	s.busy, s.used = true, c.now()
	if s.epoch++; s.epoch < 0 {
		s.epoch = 1
	}
	return s, nil
}

func (c *fetchSessions) release(s *fetchSet) {
	c.mu.Lock()
	s.busy = false
	c.mu.Unlock()
}

// grown takes note of what an update made of a session; false if there is no room for it: then it is closed.
func (c *fetchSessions) grown(s *fetchSet) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[s.id] != s {
		return true // evicted meanwhile; the next request will hear of it
	}
	c.weight -= s.weight
	delete(c.byID, s.id)
	if s.weight = s.weigh(); !c.room(s) {
		return false
	}
	c.byID[s.id], c.weight = s, c.weight+s.weight
	return true
}

// add makes a session of a set and returns its id, 0 if there is no room. The request that asked for it has it until release.
func (c *fetchSessions) add(s *fetchSet) int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.created = c.now()
	s.used, s.weight = s.created, s.weigh()
	if !c.room(s) {
		return 0
	}
	id := c.newID()
	for id == 0 || c.byID[id] != nil {
		id = c.newID()
	}
	s.id, s.epoch, s.busy = id, 1, true
	c.byID[id], c.weight = s, c.weight+s.weight
	return id
}

// room makes room for a session, at the cost of those that nobody uses any more or that are worth less.
func (c *fetchSessions) room(s *fetchSet) bool {
	for len(c.byID) >= c.slots || c.weight+s.weight > c.maxWeight {
		victim := c.victim(s)
		if victim == nil {
			return false
		}
		c.drop(victim)
		c.evicted++
	}
	return true
}

// victim is the session that was unused for longest, if that is long; else the smallest of those that had their time, if it is
// smaller than the new one.
func (c *fetchSessions) victim(s *fetchSet) *fetchSet {
	var oldest, smallest *fetchSet
	for _, o := range c.byID {
		if oldest == nil || o.used.Before(oldest.used) {
			oldest = o
		}
		if o.used.Sub(o.created) > sessionRest && o.weight < s.weight && (smallest == nil || o.weight < smallest.weight) {
			smallest = o
		}
	}
	if oldest != nil && c.now().Sub(oldest.used) > sessionRest {
		return oldest
	}
	return smallest
}

func (c *fetchSessions) drop(s *fetchSet) {
	delete(c.byID, s.id)
	c.weight -= s.weight
}

// close ends a session, if there is one of this id.
func (c *fetchSessions) close(id int32, account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.byID[id]; s != nil && s.account == account {
		c.drop(s)
	}
}

// stats are the number of sessions, of their partitions, and of sessions that others took the place of.
func (c *fetchSessions) stats() (sessions, weight int, evicted uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byID), c.weight, c.evicted
}

// fetchWatch tells a connection's fetches that partitions moved. It stays from one request of a session to the next, because
// to watch a thousand partitions costs more than to look at them. It belongs to the connection's writer.
type fetchWatch struct {
	set     *fetchSet
	changes int
	moved   chan struct{}
	stop    func()
	timer   *time.Timer // of the fetch that waits; nil before the first one
}

// within returns a timer.
func (w *fetchWatch) within(d time.Duration) *time.Timer {
	if w.timer == nil {
		w.timer = time.NewTimer(d)
	} else {
		w.timer.Reset(d)
	}
	return w.timer
}

// on watches the partitions of a set.
func (w *fetchWatch) on(e Engine, s *fetchSet) {
	if w.set == s && w.changes == s.changes {
		select {
		case <-w.moved:
		default:
		}
		return
	}
	w.end()
	parts := make([]eventlog.Part, len(s.parts))
	for i, p := range s.parts {
		parts[i] = p.part
	}
	moved := make(chan struct{}, 1)
	w.set, w.changes, w.moved = s, s.changes, moved
	w.stop = e.Watch(parts, func(eventlog.Part) {
		select {
		case moved <- struct{}{}:
		default:
		}
	})
}

// end stops watching.
func (w *fetchWatch) end() {
	if w.stop != nil {
		w.stop()
	}
	*w = fetchWatch{timer: w.timer}
}
