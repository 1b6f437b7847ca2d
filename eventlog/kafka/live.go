package kafka

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog"
)

// live is what all tails of a driver share once they have come to the ends of their partitions: a stream per partition, whose batches
// go into one bounded ring that every tail reads at its own pace. Two sources feed a stream:
//
//   - What this driver appended itself, when its answer comes. The answer to acks=all comes when the high watermark has passed the
//     batch; and if it lies right where the stream goes on, everything below it was stable, so no transaction is open below it either:
//     it is stable, and next. So it need not be fetched, nor decoded.
//   - What others appended, by fetches: one long poll per broker, for all partitions that it leads and that had no answer for a while.
//     An answer that does not follow on what the stream has shows a gap, which is fetched at once.
//
// The ring never holds anybody up. Who falls out of it, who is not at the end yet, and everybody when a partition cannot be fetched
// (its leader moved, its topic went) goes on by fetches of his own (see tail), and comes back at the end.
type live struct {
	d      *Driver
	cl     *kgo.Client // of its own, so that its long polls hold up nobody else's requests
	ctx    context.Context
	cancel context.CancelFunc
	busy   sync.WaitGroup // one goroutine per broker with streams, and one for a moment per gap

	mu      sync.Mutex // of everything below, and of all tails
	streams map[eventlog.Part]*stream
	loops   map[int32]bool // brokers with a goroutine
	tails   map[*tail]struct{}
	closed  bool

	entries []entry // from number first on, after head of them that are gone already
	head    int
	first   uint64
	bytes   int
}

// stream is one partition at its end. It lives while a tail has joined it, and ends when it cannot be fetched.
type stream struct {
	part    eventlog.Part
	topic   *topic
	leader  int32
	next    int64     // what comes, or is to be fetched
	joined  int       // tails
	acked   time.Time // when an answer last showed that it is at the end
	waiting []*shot   // appended by us, beyond a gap
	bytes   int       // of those
	filling bool      // somebody fetches the gap
}

// entry is one batch of the ring.
type entry struct {
	of    *stream
	from  int64 // where the stream was before it
	event eventlog.Event
	cost  int
}

const (
	pollMillis  = 250                    // of a long poll; what is added meanwhile waits as long
	askedMillis = 100                    // the same while partitions are left out because of answers
	answered    = 100 * time.Millisecond // so long after an answer a partition need not be fetched
	fetchBytes  = 1 << 20                // of one fetch
	gapBytes    = 1 << 20                // of what waits beyond a gap; more is fetched as well
	seenBytes   = 1 << 20                // of the ring, kept after all have seen it for those who come to the end
)

func newLive(d *Driver) (*live, error) {
	cl, err := d.o.client()
	if err != nil {
		return nil, err
	}
	l := &live{d: d, cl: cl, streams: map[eventlog.Part]*stream{}, loops: map[int32]bool{}, tails: map[*tail]struct{}{}}
	l.ctx, l.cancel = context.WithCancel(d.ctx)
	return l, nil
}

// refresh makes its client know the brokers, and the driver the topics.
func (l *live) refresh(ctx context.Context) error {
	return errors.Join(newTopics(l.cl, 0, 0).refresh(ctx), l.d.topics.refresh(ctx))
}

// close ends the streams, when no tail is left.
func (l *live) close() {
	l.cancel()
	l.mu.Lock()
	l.closed = true
	for _, s := range l.streams {
		l.end(s)
	}
	l.mu.Unlock()
	l.busy.Wait()
	l.cl.Close()
}

// join has a tail fed by the stream of a partition, if the ring reaches back to where the tail is. One that is at the end of everything
// may begin a stream. Under mu, like all that follows but for the loops.
func (l *live) join(t *tail, f *followed, atEnd bool) {
	s := l.streams[f.part]
	if l.closed || s == nil && (!atEnd || f.leader < 0) {
		return
	}
	if s == nil {
		s = &stream{part: f.part, topic: f.topic, leader: f.leader, next: f.next}
		l.streams[f.part] = s
		if !l.loops[s.leader] {
			l.loops[s.leader] = true
			l.busy.Go(func() { l.loop(s.leader) })
		}
	}
	missed, all := l.since(s, f.next)
	if !all {
		return
	}
	for _, e := range missed {
		t.push(f, e)
	}
	s.joined++
	f.stream = s
}

// since lists what the ring has of a stream from an offset on, and says whether that is all there was.
func (l *live) since(s *stream, offset int64) (events []eventlog.Event, all bool) {
	for i := len(l.entries) - 1; i >= l.head && offset < s.next; i-- {
		e := &l.entries[i]
		if e.of != s {
			continue
		}
		events = append(events, e.event)
		if e.from <= offset {
			slices.Reverse(events)
			return events, true
		}
	}
	return nil, offset >= s.next
}

// leave takes a tail out of a stream.
func (l *live) leave(f *followed) {
	s := f.stream
	f.stream = nil
	if s.joined--; s.joined == 0 {
		l.end(s)
	}
}

// dissolve ends a stream: its tails go on by themselves.
func (l *live) dissolve(s *stream) {
	l.end(s)
	for t := range l.tails {
		if f := t.parts[s.part]; f != nil && f.stream == s {
			t.alone(f)
		}
	}
}

func (l *live) end(s *stream) {
	if l.streams[s.part] == s {
		delete(l.streams, s.part)
	}
	s.waiting, s.bytes = nil, 0
	l.d.trouble.end(true, s, false)
}

// push adds a batch to a stream.
func (l *live) push(s *stream, b *eventlog.Batch, next int64) {
	e := entry{of: s, from: s.next, cost: cost(b),
		event: eventlog.Event{Kind: eventlog.Records, Part: s.part, Next: next, Batch: b}}
	l.entries = append(l.entries, e)
	l.bytes += e.cost
	s.next = next
}

// wake tells the tails of a stream that there is more, and lets go of what is too much.
func (l *live) wake(s *stream) {
	for t := range l.tails {
		if f := t.parts[s.part]; f != nil && f.stream == s {
			t.notify()
		}
	}
	l.evict()
}

// last is the number of the entry that comes next.
func (l *live) last() uint64 { return l.first + uint64(len(l.entries)-l.head) }

// evict lets go of what all tails have seen, but for a little, and of what is more than shall be kept.
func (l *live) evict() {
	unseen := l.last()
	for t := range l.tails {
		unseen = min(unseen, t.cursor)
	}
	for l.head < len(l.entries) && (l.bytes > l.d.o.RingBytes || l.first < unseen && l.bytes > seenBytes) {
		e := l.entries[l.head]
		l.entries[l.head] = entry{}
		l.head++
		l.first++
		l.bytes -= e.cost
		for t := range l.tails {
			if t.cursor < l.first {
				t.cursor = l.first
				t.fell(&e)
			}
		}
	}
	if l.head > 64 && l.head > len(l.entries)/2 {
		n := copy(l.entries, l.entries[l.head:])
		clear(l.entries[n:])
		l.entries, l.head = l.entries[:n], 0
	}
}

// appended is told of every shot that is in the log, before its jobs are answered: who subscribes after an answer finds what was
// appended before. The jobs' batches are the stream's from here on. It takes the lock.
func (l *live) appended(shot *shot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[shot.part]
	switch {
	case s == nil:
		return
	case shot.next() < s.next: // a fetch was faster; or the log has gone back, or is another topic's by now, which the next fetch finds
		return
	case shot.next() == s.next: // a fetch was faster
		s.acked = time.Now()
	case (shot.base == s.next || mutantOverGap()) && shot.asStored():
		l.own(s, shot)
		l.wake(s)
	default:
		if s.bytes += shot.cost(); s.bytes <= gapBytes {
			s.waiting = append(s.waiting, shot)
		}
		if !s.filling {
			s.filling = true
			l.busy.Go(func() { l.fill(s) })
		}
		return
	}
	l.d.trouble.end(true, s, true)
}

// own adds what we appended to a stream.
func (l *live) own(s *stream, shot *shot) {
	for _, j := range shot.jobs {
		j.b.Raw().SetBase(s.next)
		j.b.Own = true
		l.push(s, j.b, s.next+int64(j.b.Len()))
	}
	s.acked = time.Now()
}

// drain adds what waited for a gap to be filled.
func (l *live) drain(s *stream) {
	for len(s.waiting) > 0 && s.waiting[0].base <= s.next {
		if shot := s.waiting[0]; shot.base == s.next && shot.asStored() {
			l.own(s, shot)
		} else if shot.next() > s.next {
			return // it is to be fetched
		}
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
	}
}

// fill fetches a gap. What it cannot get the loop does, or finds out why.
func (l *live) fill(s *stream) {
	for more := true; more; {
		l.mu.Lock()
		next := s.next
		l.mu.Unlock()
		got, err := l.d.readOnce(l.ctx, eventlog.Position{Part: s.part, Offset: next}, fetchBytes)
		l.mu.Lock()
		if err == nil && l.streams[s.part] == s {
			l.took(s, got)
		}
		if more = s.next > next && len(s.waiting) > 0; !more {
			s.waiting, s.bytes, s.filling = nil, 0, false
		}
		l.mu.Unlock()
	}
}

// loop fetches the streams that one broker leads, until there are none.
func (l *live) loop(leader int32) {
	for {
		wants, wait, on := l.wanted(leader)
		if !on {
			return
		}
		if len(wants) == 0 {
			_ = sleep(l.ctx, time.Duration(wait)*time.Millisecond)
			continue
		}
		got, err := l.d.fetch(l.ctx, l.cl, leader, wants, fetchBytes, wait)
		l.mu.Lock()
		for i, w := range wants {
			s := w.who.(*stream)
			switch {
			case l.streams[s.part] != s:
				l.d.trouble.end(true, s, false) // it may have been told of meanwhile
			case err != nil:
				l.d.o.Logger.Debug("fetch failed", "broker", leader, "error", err)
				l.dissolve(s)
			default:
				l.took(s, got[i])
			}
		}
		l.mu.Unlock()
	}
}

// wanted lists what to fetch from a broker, and for how many milliseconds to wait for it. on is false when the goroutine has nothing to
// do any more. It takes the lock.
func (l *live) wanted(leader int32) (wants []want, wait int32, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait = pollMillis
	now := time.Now()
	for _, s := range l.streams {
		if s.leader != leader {
			continue
		}
		if on = true; now.Sub(s.acked) < answered {
			wait = askedMillis
			continue
		}
		wants = append(wants, want{s.part, s.topic, s.next, s})
	}
	if !on {
		delete(l.loops, leader)
	}
	return wants, wait, on
}

// took deals with what a fetch says about a stream.
func (l *live) took(s *stream, got found) {
	for _, b := range got.batches {
		if b.Next() > s.next { // else it was answered meanwhile
			l.push(s, b, b.Next())
		}
	}
	if got.next > s.next { // what came after was not for anybody's eyes
		l.push(s, eventlog.NewRecordBatch(s.part, nil, got.next), got.next)
	}
	l.drain(s)
	l.wake(s)
	switch {
	case got.err == nil:
		l.d.trouble.end(true, s, true)
	case !isDone(got.err):
		l.d.o.Logger.Debug("fetch failed", "partition", s.part, "error", got.err)
		l.dissolve(s)
	}
}

// sleep waits for a while, or for ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
