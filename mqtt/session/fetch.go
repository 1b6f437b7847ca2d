package session

import (
	"errors"
	"math"
	"slices"
	"sort"
)

// buffer holds what was read of one place for one session.
type buffer struct {
	place      int32
	reading    bool
	failed     bool // reading, once the retry is due
	gap        bool // retention has taken what was to be read
	base, next int64
	msgs       []Message
	bytes      int
}

// fetch is an outstanding Host.Read.
type fetch struct {
	link   *link
	place  int32
	offset int64
	past   bool // for history alone
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
	past := l.session.queue.isPast(b.place, off)
	switch {
	case past && c.pastReads >= historyReads:
		if !l.waiting {
			l.waiting = true
			c.pastReaders = append(c.pastReaders, l)
		}
		return
	case len(c.reads) >= maxReads:
		if !l.waiting {
			l.waiting = true
			c.readers = append(c.readers, l)
		}
		return
	case past:
		c.pastReads++
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
	c.reads[c.token] = &fetch{l, b.place, off, past}
	c.host.Read(c.token, c.position(b.place, off), max(c.o.ReadBytes/max(share, 1), 4<<10))
}

// ReadDone is the outcome of a Host.Read. b's messages are kept, not copied.
func (c *Core) ReadDone(now int64, token uint64, b Batch, err error) {
	if !c.enter(now) {
		return
	}
	if k, ok := c.copying[token]; ok {
		delete(c.copying, token)
		c.copyRead(k, b, err)
		c.copyOpen()
		c.leave()
		return
	}
	f := c.reads[token]
	if f == nil {
		return
	}
	delete(c.reads, token)
	if f.past {
		c.pastReads--
	}
	if l := f.link; l.session.link == l {
		c.filled(l, f, b, err)
		c.pump(l.session)
	}
	for len(c.pastReaders) > 0 && c.pastReads < historyReads && len(c.reads) < maxReads {
		c.awaken(&c.pastReaders)
	}
	for len(c.readers) > 0 && len(c.reads) < maxReads {
		c.awaken(&c.readers)
	}
	c.leave()
}

// awaken lets the first of those that wait to read go on. It may come to wait again, for another of its places.
func (c *Core) awaken(list *[]*link) {
	l := (*list)[0]
	*list = slices.Delete(*list, 0, 1)
	l.waiting = false
	c.pump(l.session)
}

func (c *Core) filled(l *link, f *fetch, b Batch, err error) {
	buf := l.buffer(f.place)
	buf.reading = false
	c.buffered -= buf.bytes
	buf.bytes, buf.gap = 0, false
	var gap *GapError
	switch {
	case errors.As(err, &gap) && gap.Next > f.offset:
		buf.base, buf.next, buf.gap = f.offset, gap.Next, true
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
