package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/meter"
)

// runs are the runs of nodes that counted in the window: which records their counts are about, and whether their books balance.
type runs struct {
	c       *check
	list    []*run
	byID    map[uint64]*run
	covers  map[eventlog.Part][]cover
	matched map[eventlog.Part]int64 // how far deliveries are counted
	counted map[eventlog.Part]int64 // how far a running node has counted
	flying  map[string]int64        // by topic: on its way into the log at the last flush of runs that did not end cleanly
	landed  map[string]int64        // by topic: of flying, what may have landed after its node was killed
	pending map[string]int64        // by topic: owed at the last flush of all
	loose   map[string]int64        // by topic: settled without a row
	unsure  map[string]bool         // by topic: a queue was merged, or there are no books, or none of the last flush
	lives   map[string]map[eventlog.TopicID]int64
	told    uint64 // of the uncounted records, those of which a finding tells
	overlap bool   // nodes counted side by side
	killed  bool
}

type run struct {
	id          uint64
	began, last int64
	clean, live bool
	mapping     uint64
	parts       map[eventlog.Part]meter.PartCount
	books       map[bookKey]meter.BookCount
	overflow    uint64
}

type bookKey struct {
	part eventlog.Part
	life uint64
}

// cover is a stretch of a partition that a run counted; it is empty if the run was killed before it did. mapping is where its routes led.
type cover struct {
	from, to int64
	mapping  uint64
}

func (r *runs) init(c *check) {
	*r = runs{c: c, byID: map[uint64]*run{}, covers: map[eventlog.Part][]cover{}, matched: map[eventlog.Part]int64{}, counted: map[eventlog.Part]int64{}, flying: map[string]int64{}, landed: map[string]int64{},
		pending: map[string]int64{}, loose: map[string]int64{}, unsure: map[string]bool{}, lives: map[string]map[eventlog.TopicID]int64{}}
}

// read takes the totals of all runs that counted since the window began.
func (r *runs) read(ctx context.Context, reader *meter.Reader) error {
	for {
		f, err := reader.Next(ctx)
		if err != nil {
			return err
		}
		if f == nil {
			break
		}
		r.take(f)
	}
	slices.SortFunc(r.list, func(a, b *run) int { return cmp.Compare(a.began, b.began) })
	r.list = slices.DeleteFunc(r.list, func(x *run) bool { return x.last < r.c.from*60_000 })
	for i, x := range r.list {
		r.settle(i, x)
	}
	for _, cs := range r.covers {
		slices.SortFunc(cs, func(a, b cover) int { return cmp.Compare(a.from, b.from) })
	}
	return nil
}

func (r *runs) take(f *meter.Flush) {
	x := r.byID[f.Run]
	if x == nil {
		x = &run{id: f.Run, began: f.Began, parts: map[eventlog.Part]meter.PartCount{}, books: map[bookKey]meter.BookCount{}}
		r.byID[f.Run] = x
		r.list = append(r.list, x)
	}
	x.last, x.clean, x.overflow, x.mapping = f.Time, f.Clean, f.Overflow, f.Mapping
	for _, p := range f.Parts {
		x.parts[p.Part] = p
		if r.lives[p.Topic] == nil {
			r.lives[p.Topic] = map[eventlog.TopicID]int64{}
		}
		if _, known := r.lives[p.Topic][p.Part.Topic]; !known {
			r.lives[p.Topic][p.Part.Topic] = f.Time
		}
	}
	for _, b := range f.Books {
		k := bookKey{b.Part, b.Life}
		if old := x.books[k]; !b.Known && old.Known {
			b.Known, b.Book = true, old.Book
		}
		x.books[k] = b
		r.matched[b.Part] = max(r.matched[b.Part], b.Matched)
	}
}

// settle works out what a run covers and what it left open.
func (r *runs) settle(i int, x *run) {
	newest := r.list[len(r.list)-1]
	if r.c.Flush != nil && !x.clean {
		x.live = x == newest || !r.c.Embedded && x.last >= newest.last-90_000
	}
	for _, o := range r.list[:i] {
		r.overlap = r.overlap || o.last > x.began && !r.c.Embedded
	}
	for part, p := range x.parts {
		r.covers[part] = append(r.covers[part], cover{p.Start, p.Next, x.mapping})
		if x.live {
			r.counted[part] = max(r.counted[part], p.Next)
		}
		if !x.clean {
			n := p.Sent - p.Logged - p.Refused - p.Unknown
			if r.flying[p.Topic] += n; !x.live {
				r.landed[p.Topic] += n
			}
		}
	}
	r.killed = r.killed || !x.clean && !x.live
	topics := x.topicOf()
	for k, b := range x.books {
		topic := topics[k.part]
		switch {
		case k.life != x.lastLife(k.part): // a core that failed: what it had under way is carried to the next one, or decided anew
			r.unsure[topic] = true
			r.loose[topic] += b.Book.Loose
		case !b.Known:
			r.unsure[topic] = true
		default:
			// A node does not make its books with each flush: rows may tell of more than they do.
			r.unsure[topic] = r.unsure[topic] || b.Book.Merged || b.Book.Next < b.Matched
			r.loose[topic] += b.Book.Loose
			if x == newest && k.life == x.lastLife(k.part) {
				r.pending[topic] += b.Book.Pending
			}
		}
	}
}

func (x *run) topicOf() map[eventlog.Part]string {
	names := map[eventlog.Part]string{}
	for part, p := range x.parts {
		names[part] = p.Topic
	}
	return names
}

func (x *run) lastLife(part eventlog.Part) (life uint64) {
	for k := range x.books {
		if k.part == part {
			life = max(life, k.life)
		}
	}
	return life
}

// inFlight is how many messages of a topic may be on their way, or were when their node was killed.
func (r *runs) inFlight(topic string) int64 { return r.flying[topic] }

// outstanding says what deliveries are that are owed and have not come to an end.
func (r *runs) outstanding(topic string, n int64) (Kind, Severity, string) {
	known := r.pending[topic] + r.loose[topic]
	switch {
	case n <= r.pending[topic]:
		return Pending, Note, fmt.Sprintf("%d deliveries are owed to subscribers that are away or slow", n)
	case n <= known:
		return Pending, Note, fmt.Sprintf("%d deliveries have no end in their minute: %d are owed still, and %d have ended of which the minute is not known "+
			"(sessions that ended, retention, a restart)", n, r.pending[topic], r.loose[topic])
	case r.killed:
		return Killed, Note, fmt.Sprintf("of %d deliveries it is not known whether they were made: their node was killed", n-known)
	case r.unsure[topic]:
		return Pending, Note, fmt.Sprintf("%d deliveries have not come to an end; it is not known exactly how many are owed: a session's queue is very long, "+
			"or the node has not counted them since the last came", n)
	}
	return LostDeliveries, Wrong, fmt.Sprintf("%d deliveries were owed to subscribers and are neither made, nor given up, nor owed still", n-known)
}

// finish checks the books of every run.
func (r *runs) finish() {
	r.c.sum.Runs = len(r.list)
	if n := r.c.rows.uncounted; n > 0 && !r.killed {
		r.c.find(Finding{Kind: NotCounted, Severity: Note, Partition: -1, Offset: -1, Count: n,
			Text: fmt.Sprintf("%d records were written when nothing was counted, or their counts are gone: only the log itself was looked at", n)})
	}
	for i, x := range r.list {
		r.killedRun(i, x)
		topics := x.topicOf()
		parts := make([]meter.PartCount, 0, len(x.parts))
		for _, p := range x.parts {
			parts = append(parts, p)
		}
		slices.SortFunc(parts, func(a, b meter.PartCount) int {
			return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Part.Index, b.Part.Index))
		})
		for _, p := range parts {
			if r.c.Topic == "" || p.Topic == r.c.Topic {
				r.checkPart(x, &p)
			}
		}
		for k, b := range x.books {
			if topic := topics[k.part]; r.c.Topic == "" || topic == r.c.Topic {
				r.checkBook(topic, x, &b)
			}
		}
		if x.overflow > 0 {
			r.c.find(Finding{Kind: TooMany, Severity: Note, Partition: -1, Offset: -1, Count: x.overflow,
				Text: fmt.Sprintf("there were too many devices in a minute, or keys of more than 1 KiB: %d rows of the node that began at %s are added up", x.overflow, clock(x.began))})
		}
	}
}

func (r *runs) killedRun(i int, x *run) {
	if x.clean || x.live {
		return
	}
	text := fmt.Sprintf("the node that began at %s was killed after %s", clock(x.began), clock(x.last))
	uncounted := r.c.rows.uncounted - min(r.told, r.c.rows.uncounted) // if nobody came after it, all that are left
	if i+1 < len(r.list) {
		next := r.list[i+1]
		text += " and began again at " + clock(next.began)
		uncounted = x.uncounted(next)
	}
	r.told += uncounted
	text += fmt.Sprintf(": what came after its last count is known from the log alone (%d records)", uncounted)
	r.c.find(Finding{Kind: Killed, Severity: Note, Minute: x.last / 60_000 * 60_000, Partition: -1, Offset: -1, Count: uncounted, Text: text})
}

// uncounted is how many records were written between the last count of a run and the beginning of the next one.
func (x *run) uncounted(next *run) (n uint64) {
	for part, p := range next.parts {
		if was, ok := x.parts[part]; ok {
			n += uint64(max(p.Start-was.Next, 0))
		}
	}
	return n
}

// checkPart compares what was accepted for a partition with what was given to the log and what it answered.
func (r *runs) checkPart(x *run, p *meter.PartCount) {
	f := Finding{Kind: LostBeforeLog, Severity: Wrong, Topic: p.Topic, Partition: p.Part.Index, Offset: -1}
	if n := p.Published - p.Sent; n != 0 {
		f.Count = uint64(max(n, -n))
		f.Text = fmt.Sprintf("since %s, %d messages were accepted and %d were given to the log", clock(x.began), p.Published, p.Sent)
		r.c.find(f)
	}
	if n := p.Sent - p.Logged - p.Refused - p.Unknown; n < 0 || n > 0 && x.clean {
		f.Count = uint64(max(n, -n))
		f.Text = fmt.Sprintf("since %s, %d messages were given to the log, and it answered for %d", clock(x.began), p.Sent, p.Sent-n)
		r.c.find(f)
	}
}

// checkBook compares what was owed to subscribers with what became of it.
func (r *runs) checkBook(topic string, x *run, b *meter.BookCount) {
	k := &b.Book
	if n := k.Carried + k.Owed - k.Delivered - k.Lost - k.Pending; b.Known && !k.Merged && n != 0 {
		r.c.find(Finding{Kind: LostDeliveries, Severity: Wrong, Topic: topic, Partition: b.Part.Index, Offset: -1, Count: uint64(max(n, -n)),
			Text: fmt.Sprintf("since %s, %d deliveries were owed and %d have come to an end or are owed still", clock(x.began), k.Carried+k.Owed,
				k.Delivered+k.Lost+k.Pending)})
	}
}

// recreated is the minute in which a topic that was deleted came back, 0 if it was not deleted.
func (r *runs) recreated(topic string, id eventlog.TopicID) int64 {
	if len(r.lives[topic]) < 2 {
		return 0
	}
	return meter.Minute(r.lives[topic][id])
}
