package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// A SUBSCRIBE may ask for history: what its filter matches of the log from some place on. The filter enters the tree as always, and
// starts at V, where the matcher is; its history is [from, V) of the partitions that the filter's routes lead to. Where that begins
// is asked of the log (Host.History), and while the answer and the record of the subscription are under way, what the subscription
// matches is collected, also where another one would have it delivered: so nothing from V on can come before the history does.
//
// History is runs of positions in the session's queue, beside those that are owed. In each partition positions are delivered in order,
// so history comes before what is live, and a position that is both is delivered once. The runs are an upper bound: a position is
// matched when it is read, against the subscription that asked and no other, and the right to it is asked for then.
//
// The record of the subscription says which history it asked for; checkpoints say what is left of it, and when nothing is, the record
// says so too. A crash goes on from there: deliveries of QoS 2 by their out/id, which names the histories it is for, those of QoS 1 and 0
// perhaps anew. History that is replaced by another SUBSCRIBE, or unsubscribed, is forgotten.

// HistoryAsk is what one filter asks of the log.
type HistoryAsk struct {
	Filter string
	From   From
}

// History is what the log answers.
type History struct {
	From Vector // where it begins, in each partition that can have messages for the filter; never below the partition's start
	// Lost is how many records retention has taken that might have been in it, LostUnknown if some, or -- by their times -- perhaps
	// some, but not how many. Since is then when what is left begins, milliseconds since 1970; 0: it is not known.
	Lost  int64
	Since int64
	Err   error
}

// LostUnknown is a number of records that nobody knows.
const LostUnknown = -1

// ErrNoPlace in a History: the client has named a place that is none. Its text is for the client.
var ErrNoPlace = errors.New("no such place in the log")

// Reasons counted through Host.Count, of history: positions, of which the filter may not have matched all.
const (
	DropReplayGap     = "replay_gap_retention"
	DropReplayDeleted = "replay_topic_deleted"
)

const (
	maxHistories   = 24      // of one session: there is a bit for each
	pastLook       = 256     // records of history in one call
	historyReads   = 2       // outstanding, of all sessions, for history alone: the others must not wait for it
	maxLaterWeight = 1 << 10 // of SUBSCRIBE and UNSUBSCRIBE packets that wait for an earlier one to learn where history begins
)

// history is what one SUBSCRIBE asked for of the past.
type history struct {
	sub     *sub
	number  uint64 // no other has the same
	bit     askers
	spans   []span // as it was asked for
	lost    int64  // before it, as History says
	left    int    // places with positions of it
	counted bool   // in Core.histories
}

type span struct {
	place int32
	run
}

// past is what is left of a history in one place.
type past struct {
	history *history
	runs    runs
}

// gap is how much of history could not be delivered, until the client is told by the next message of the subscription.
type gap struct {
	lost  int64 // records; LostUnknown
	told  bool  // in the message at this position
	place int32
	off   int64
}

func (g *gap) add(n int64) {
	if g.told {
		*g = gap{}
	}
	if n == LostUnknown || g.lost == LostUnknown {
		g.lost = LostUnknown
	} else {
		g.lost += n
	}
}

// untold is what the client is still to be told.
func (g *gap) untold() int64 {
	if g.told {
		return 0
	}
	return g.lost
}

// Asking.

// asks is what the filters of a SUBSCRIBE want of the past.
type asks struct {
	filters []packet.Filter // without prefixes
	from    []*From         // of each; nil: nothing. The whole is nil when none wants any
	codes   []packet.Code   // not 0: why the filter is refused
	reasons []string        // for the SUBACK
	gaps    []packet.UserProperty
	of      []int // indices into the changes, of those that were asked for
}

func (a *asks) reason(filter string, err error) {
	if len(a.reasons) < 4 {
		a.reasons = append(a.reasons, fmt.Sprintf("%.80q: %v", filter, err))
	}
}

func (a *asks) wanted(i int) bool { return a.from != nil && a.from[i] != nil && !a.codes[i].Failed() }

func (a *asks) code(i int) packet.Code {
	if a.codes == nil {
		return packet.Success
	}
	return a.codes[i]
}

// props are the properties of the SUBACK.
func (a *asks) props() (p packet.Properties) {
	p.User = a.gaps
	if len(a.reasons) > 0 {
		p.Has |= packet.PReasonString
		p.ReasonString = strings.Join(a.reasons, "; ")
	}
	return p
}

// asksOf takes the prefixes off the filters of a SUBSCRIBE, and reads from where history is wanted.
func (c *Core) asksOf(l *link, p *packet.Subscribe) *asks {
	a := &asks{filters: p.Filters}
	text, all := "", false
	for _, u := range p.Props.User {
		if u.Name == ReplayFrom {
			text, all = u.Value, true
		}
	}
	if !all && !slices.ContainsFunc(p.Filters, func(f packet.Filter) bool { return strings.Contains(f.Filter, ReplayPrefix) }) {
		return a
	}
	a.filters, a.from, a.codes = slices.Clone(p.Filters), make([]*From, len(p.Filters)), make([]packet.Code, len(p.Filters))
	asked := 0
	for i := range a.filters {
		f := &a.filters[i]
		if f.Refused != 0 {
			continue
		}
		plain, from, prefixed := PlainFilter(f.Filter)
		code := packet.ImplementationSpecificError
		switch {
		case prefixed:
			code = packet.TopicFilterInvalid
			if f.Filter = plain; l.version < packet.V5 {
				f.RetainHandling = 2 // it cannot say so itself, and history has them in their place
			}
		case all:
			from = text
		case shared(plain) && strings.Contains(plain, "/"+ReplayPrefix): // else it would be a filter of topics that nobody has
		default:
			continue
		}
		var err error
		if a.from[i], err = c.askOf(l.session, plain, from, asked); err == nil {
			asked++
			continue
		}
		if a.codes[i] = code; errors.Is(err, errTooMany) {
			a.codes[i] = packet.QuotaExceeded
		}
		a.reason(plain, err)
	}
	return a
}

var (
	errTooMany          = errors.New("there are as many replays as the server takes: wait until one has caught up")
	errTooManyOfAccount = fmt.Errorf("%w (what is left is for accounts with fewer)", errTooMany)
)

func shared(filter string) bool {
	_, _, shared, err := topic.ParseShared(filter)
	return shared || err != nil
}

func (c *Core) askOf(s *session, filter, text string, asked int) (*From, error) {
	if c.o.MaxReplays < 0 || c.o.MaxAllReplays < 0 {
		return nil, errors.New("replay is switched off on this server (limits.replays)")
	}
	if shared(filter) {
		return nil, errors.New("a shared subscription has no history of its own: subscribe without $share, or read the log topic with a Kafka " +
			"consumer group")
	}
	if err := topic.ValidateFilter(filter); err != nil {
		return nil, fmt.Errorf("%w: write %s<from>/<filter>", err, ReplayPrefix)
	}
	from, err := ParseFrom(text, c.now)
	if err != nil {
		return nil, err
	}
	running, free := asked, maxHistories-asked-int(s.coming)
	for _, h := range s.histories {
		if h.sub.filter == filter { // it will be replaced
			continue
		}
		if free--; h.left > 0 {
			running++
		}
	}
	if running >= c.o.MaxReplays || free <= 1 {
		c.replays.refused.Session++
		return nil, errTooMany
	}
	if err := c.replays.refuses(&s.key, asked, c.o.MaxAllReplays); err != nil {
		return nil, err
	}
	return &from, nil
}

// await has a change wait until it is known where its history begins, and is durable. From now on what the subscription matches is
// collected.
func (c *Core) await(s *session, a *asks, ch *change, i int) {
	b := ch.sub
	ch.history = &history{sub: b, number: uint64(c.incarnation()), spans: c.upTo()}
	b.asking++
	b.pending = b.pending || ch.isNew
	s.coming++
	c.replays.add(&s.key, 1)
	c.plant(s, b) // what it matches is worked out per message
	a.of = append(a.of, i)
}

// upTo is where history ends, now: in each place of the data topics.
func (c *Core) upTo() (list []span) {
	for i := range c.places {
		if p := &c.places[i]; p.tailed && !p.dead && !p.retained && p.next > 0 {
			list = append(list, span{int32(i), run{0, p.next}})
		}
	}
	return list
}

// asksFor is the history that a change's record is to say: a new one, or the one there is. One that is still asked for when its connection
// is lost is none: what comes on the next connection meanwhile must not say it.
func (ch *change) asksFor() *history {
	switch {
	case ch.history != nil:
		return ch.history
	case ch.sub.coming != nil: // by the same packet, or being written when an earlier connection was lost
		return ch.sub.coming
	}
	return ch.sub.history
}

// answered ends the waiting of a change.
func (c *Core) answered(s *session, ch *change) {
	if ch.history != nil {
		if ch.sub.coming == ch.history {
			ch.sub.coming = nil
		}
		ch.sub.asking--
		s.coming--
		c.replays.add(&s.key, -1)
	}
}

// ask asks the log where the histories of some changes begin. write goes on with those that have an answer. Meanwhile what else the
// connection wants with its subscriptions waits, and so it does till the records are durable: a later record says which history there is.
func (c *Core) ask(l *link, a *asks, codes []packet.Code, changes []change, write func(kept []change)) {
	s := l.session
	list := make([]HistoryAsk, len(a.of))
	for k, i := range a.of {
		list[k] = HistoryAsk{changes[i].sub.filter, *a.from[changes[i].index]}
	}
	c.token++
	l.asking = c.token
	c.asked[c.token] = func(answers []History) {
		if s.ended || s.link != l {
			for _, ch := range changes {
				c.refuse(s, ch)
			}
			c.pump(s)
			return
		}
		for k, i := range a.of {
			ch := &changes[i]
			if code := c.learn(a, ch, &answers[k]); code.Failed() {
				codes[ch.index] = code
			} else {
				ch.sub.coming = ch.history
			}
		}
		kept := changes[:0]
		for _, ch := range changes {
			if codes[ch.index].Failed() {
				c.refuse(s, ch)
			} else {
				kept = append(kept, ch)
			}
		}
		write(kept)
	}
	c.host.History(c.token, list)
}

// learn takes in where a history begins, or why it is refused.
func (c *Core) learn(a *asks, ch *change, answer *History) (refused packet.Code) {
	h := ch.history
	switch {
	case errors.Is(answer.Err, ErrNoPlace):
		a.reason(h.sub.filter, answer.Err)
		return packet.ImplementationSpecificError
	case answer.Err != nil:
		a.reason(h.sub.filter, errors.New("the log could not be asked; try again"))
		return packet.UnspecifiedError
	}
	kept := h.spans[:0]
	for _, sp := range h.spans {
		from, has := answer.From[c.places[sp.place].part]
		if sp.from = max(from, 0); has && sp.from < sp.to {
			kept = append(kept, sp)
		}
	}
	h.spans, h.lost = kept, answer.Lost
	for i := range h.spans {
		switch {
		case mutant("replay-ends-early"):
			h.spans[i].to--
		case mutant("replay-ends-late"):
			h.spans[i].to++
		case mutant("replay-begins-late"):
			h.spans[i].from++
		}
	}
	if h.lost != 0 {
		why := errors.New("retention may have removed the oldest part of this history")
		if answer.Since > 0 {
			why = fmt.Errorf("%w; it begins at %s", why, time.UnixMilli(answer.Since).UTC().Format(time.RFC3339Nano))
		}
		a.reason(h.sub.filter, why)
		a.gaps = append(a.gaps, packet.UserProperty{Name: GapProperty, Value: GapText(h.lost)})
	}
	return packet.Success
}

// Names of the user properties that tell a 5.0 client about history, and what the first one says. They begin with mr-, so no device
// can have sent them.
const (
	GapProperty  = "mr-gap"
	TimeProperty = "mr-time"
)

// GapText is the value of a GapProperty.
func GapText(lost int64) string {
	if lost == LostUnknown {
		return "unknown"
	}
	return fmt.Sprint(lost)
}

// HistoryDone is the outcome of a Host.History, one answer per ask.
func (c *Core) HistoryDone(now int64, token uint64, answers []History) {
	if !c.enter(now) {
		return
	}
	if done := c.asked[token]; done != nil {
		delete(c.asked, token)
		done(answers)
	}
	c.leave()
}

// waits keeps a SUBSCRIBE or UNSUBSCRIBE while an earlier one asks for history.
func (c *Core) waits(l *link, p packet.Packet) bool {
	if l.asking == 0 {
		return false
	}
	l.later.weight += laterWeight(p)
	switch p := p.(type) {
	case *packet.Subscribe:
		own := *p
		own.Filters = slices.Clone(p.Filters)
		l.later.packets = append(l.later.packets, &own)
	case *packet.Unsubscribe:
		own := *p
		own.Filters = slices.Clone(p.Filters)
		l.later.packets = append(l.later.packets, &own)
	}
	if l.later.weight > maxLaterWeight {
		l.conn.Close(packet.QuotaExceeded, "too many subscriptions at once while it is looked up where history begins")
		c.lost(l.session, Lost, nil)
	}
	return true
}

// resume goes on with what has waited for a SUBSCRIBE that is durable now.
func (c *Core) resume(l *link, asking uint64) {
	if asking == 0 || asking != l.asking {
		return
	}
	l.asking = 0
	for len(l.later.packets) > 0 && l.asking == 0 && l.session.link == l {
		p := l.later.packets[0]
		l.later.packets = l.later.packets[1:]
		l.later.weight -= laterWeight(p)
		switch p := p.(type) {
		case *packet.Subscribe:
			c.subscribe(l, p)
		case *packet.Unsubscribe:
			c.unsubscribe(l, p)
		}
	}
}

// later is what waits for an answer.
type later struct {
	packets []packet.Packet
	weight  int
}

// laterWeight is what a packet that waits counts towards the limit.
func laterWeight(p packet.Packet) int {
	n := 1
	switch p := p.(type) {
	case *packet.Subscribe:
		for i := range p.Filters {
			n += subWeight(p.Filters[i].Filter)
		}
		for _, u := range p.Props.User {
			n += subWeight(u.Name) + subWeight(u.Value)
		}
	case *packet.Unsubscribe:
		for _, f := range p.Filters {
			n += subWeight(f)
		}
	}
	return n
}

// Running.

// beginHistory adds a history to the queue. One that its subscription has already is replaced.
func (c *Core) beginHistory(s *session, h *history) {
	c.endHistory(s, h.sub.history)
	c.addHistory(s, h)
	for _, sp := range h.spans {
		if !c.places[sp.place].dead {
			c.addPast(s, h, sp.place, []run{sp.run})
		}
	}
	c.begun(s, h)
}

// addHistory gives a history its bit.
func (c *Core) addHistory(s *session, h *history) {
	taken := byQueue
	for _, o := range s.histories {
		taken |= o.bit
	}
	for h.bit = byQueue; h.bit&taken != 0; h.bit <<= 1 {
	}
	c.replays.add(&s.key, 1)
	h.counted = true
	s.histories = append(s.histories, h)
	h.sub.history = h
	if h.lost != 0 {
		s.gapped = true
		h.sub.gap.add(h.lost)
	}
}

func (c *Core) addPast(s *session, h *history, place int32, list []run) {
	set := s.queue.set(place)
	set.past = append(set.past, past{history: h})
	set.past[len(set.past)-1].runs.set(list)
	set.timed = 0
	h.left++
}

func (c *Core) begun(s *session, h *history) {
	if h.left > 0 && s.link != nil {
		s.link.live = false
	}
	c.caughtUp(s, h)
	c.touch(s)
}

// caughtUp ends a history of which nothing is left. That of a persistent session is remembered till a checkpoint has written so.
func (c *Core) caughtUp(s *session, h *history) {
	if h.left > 0 {
		return
	}
	c.uncount(s, h)
	if h.sub.gap.untold() != 0 && s.queue.subs.get(h.sub.filter) == h.sub { // its next message, which is live, tells
		c.plant(s, h.sub)
	}
	if !s.durable {
		c.endHistory(s, h)
	}
	c.touch(s)
}

// uncount takes a history off those that are under way.
func (c *Core) uncount(s *session, h *history) {
	if h.counted {
		h.counted = false
		c.replays.add(&s.key, -1)
	}
}

// endHistory forgets a history; nil: there is none.
func (c *Core) endHistory(s *session, h *history) {
	i := slices.Index(s.histories, h)
	if h == nil || i < 0 {
		return
	}
	s.histories = slices.Delete(s.histories, i, i+1)
	c.uncount(s, h)
	if h.sub.history == h {
		h.sub.history = nil
	}
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		set.past = slices.DeleteFunc(set.past, func(p past) bool { return p.history == h })
	}
	for i := range s.flight.all() { // the bit may be another's next
		s.flight.all()[i].by.end(h)
	}
	for i := range s.flight.done {
		s.flight.done[i].by.end(h)
	}
	if s.link != nil {
		for i := range s.link.held {
			s.link.held[i].by.end(h)
		}
	}
	c.touch(s)
}

// cutShort ends the delivery of a history; nil: there is none. It is still there, with nothing left, as long as a record may say it: so
// a checkpoint says that nothing is left.
func (c *Core) cutShort(s *session, h *history) {
	if h == nil {
		return
	}
	for i := range s.queue.sets {
		set := &s.queue.sets[i]
		set.past = slices.DeleteFunc(set.past, func(p past) bool { return p.history == h })
	}
	h.left = 0
	c.caughtUp(s, h)
}

// end takes a history out that has ended.
func (by *askers) end(h *history) {
	if *by&h.bit != 0 {
		*by = *by&^h.bit | wasPast
	}
}

// tidy takes histories out of a set that have nothing left in it.
func (c *Core) tidy(s *session, set *set) {
	for i := 0; i < len(set.past); {
		h := set.past[i].history
		if !set.past[i].runs.empty() {
			i++
			continue
		}
		set.past = slices.Delete(set.past, i, i+1)
		h.left--
		c.caughtUp(s, h)
	}
}

// miss notes that the positions of histories below off are gone.
func (c *Core) miss(s *session, set *set, off int64, by askers, reason string) {
	for i := range set.past {
		p := &set.past[i]
		if p.history.bit&by == 0 {
			continue
		}
		if n := p.runs.cut(off); n > 0 {
			s.gapped = true
			p.history.sub.gap.add(n)
			c.host.Count(reason, int(min(n, 1<<31-1)))
		}
	}
	c.tidy(s, set)
}

// holds tells whether a position is in a set for one of some askers, beside the queue.
func (s *set) holds(off int64, by askers) bool {
	return s.runs.has(off) || slices.ContainsFunc(s.past, func(p past) bool { return p.history.bit&by != 0 && p.runs.has(off) })
}

// isPast tells whether a position is wanted for history alone.
func (q *queue) isPast(place int32, off int64) bool {
	set := q.find(place)
	return set != nil && len(set.past) > 0 && set.headOf(byQueue) != off
}

// asked tells who wants the position at the head of a set.
func (s *set) asked(off int64) (by askers) {
	if !s.runs.empty() && s.runs.min() == off || !s.fleeting.empty() && s.fleeting.min() == off {
		by = byQueue
	}
	for i := range s.past {
		if p := &s.past[i]; !p.runs.empty() && p.runs.min() == off {
			by |= p.history.bit
		}
	}
	return by
}

// pastSum is effective for a position that histories want, and perhaps the queue: history counts for the subscriptions that asked.
func (c *Core) pastSum(t *target, m *Message, place int32, off int64, by askers) applies {
	var part target
	var a applies
	who := askers(0)
	if by&byQueue != 0 {
		if a = c.effective(t, m, place, off); a.pending {
			return a
		}
	}
	for _, b := range t.subs {
		var asked askers
		if h := b.history; h != nil && !b.ownMessage(t.session, m) {
			asked = h.bit & by
		}
		if by&byQueue != 0 && !b.pending && c.reaches(t.session, b, m, place, off) {
			asked |= byQueue
		}
		if mutant("replay-all") {
			asked = by
		}
		if asked != 0 {
			part.add(b)
			who |= asked
		}
	}
	return applies{options: options{qos: min(part.qos, m.QoS), rap: part.rap}, ids: part.ids, none: who == 0, who: who}
}

// gapFor is what a delivery has to tell its client of gaps, and notes that it does. The same message sent again tells the same.
func (s *session) gapFor(by askers, m *Message, place int32) (lost int64) {
	if !s.gapped {
		return 0
	}
	for _, b := range s.queue.subs.list {
		g := &b.gap
		switch {
		case g.lost == 0 || !topic.Match(b.filter, m.Topic):
			continue
		case g.told && g.place == place && g.off == m.Offset:
		case g.told, !(b.history != nil && b.history.bit&by != 0 || by&tells != 0 && b.tells()):
			continue
		}
		g.told, g.place, g.off = true, place, m.Offset
		if lost >= 0 && g.lost > 0 {
			lost += g.lost
		} else {
			lost = LostUnknown
		}
	}
	return lost
}

// tells tells whether a live message has to tell of a gap: there is no more history that could.
func (b *sub) tells() bool { return b.gap.untold() != 0 && (b.history == nil || b.history.left == 0) }

// Between crashes.

// historyValues are what a checkpoint says of a session's histories. over are those that have nothing left: their subscriptions'
// records may say so once this is durable.
func (c *Core) historyValues(s *session) (list []historyValue, over []*history) {
	for _, h := range s.histories {
		v := historyValue{number: h.number, lost: h.sub.gap.untold()}
		byPlace := map[int32][]run{}
		for i := range s.queue.sets {
			set := &s.queue.sets[i]
			for j := range set.past {
				if p := &set.past[j]; p.history == h {
					byPlace[set.place] = p.runs.list()
				}
			}
		}
		for _, d := range s.flight.all() {
			if d.by&h.bit != 0 && d.unwritten() && !mutant("replay-forgets-flight") {
				byPlace[d.place] = append(byPlace[d.place], run{d.offset, d.offset + 1})
			}
		}
		for place := range int32(len(c.places)) {
			if runs := byPlace[place]; len(runs) > 0 && !c.places[place].dead {
				v.sets = append(v.sets, setValue{part: c.places[place].part, runs: normal(runs)})
			}
		}
		if len(v.sets) == 0 {
			over = append(over, h)
		}
		list = append(list, v)
	}
	return list, over
}

// forgetOver has the records of subscriptions say that nothing of their history is left.
func (c *Core) forgetOver(sh *shard) {
	for _, o := range sh.over {
		s, h := o.session, o.history
		b := h.sub
		if s.ended || b.history != h {
			continue
		}
		if b.owes || b.writes > 0 || b.ending > 0 || s.queue.subs.get(b.filter) != b {
			c.touch(s) // another record of it is being written, or about to
			continue
		}
		c.write(sh.lane, func(err error) {
			if err == nil && !s.ended && b.history == h && b.writes == 0 { // else a later record says that there is history
				c.endHistory(s, h)
			}
			c.touch(s)
		}, c.recordOf(s, b, b.opts, false, nil))
	}
	sh.over = nil
}

type over struct {
	session *session
	history *history
}

// value is a history as the record of its subscription has it.
func (h *history) value(c *Core) *historyOf {
	v := &historyOf{number: h.number, lost: h.lost}
	for _, sp := range h.spans {
		p := &c.places[sp.place]
		if p.dead {
			continue
		}
		v.from = append(v.from, Position{p.part, sp.from})
		v.to = append(v.to, Position{p.part, sp.to})
	}
	return v
}

// restoreHistory restores the history of a subscription: what the last checkpoint that knew it has left of it, or all.
func (c *Core) restoreHistory(s *session, b *sub, v *historyOf, q *queueValue) {
	if len(s.histories) >= maxHistories {
		return
	}
	h := &history{sub: b, number: v.number, lost: v.lost}
	byPart := map[Part][]run{}
	for i, from := range v.from {
		if place, known := c.index[from.Part]; known && c.places[place].tailed {
			sp := span{place, run{from.Offset, v.to[i].Offset}}
			h.spans = append(h.spans, sp)
			byPart[from.Part] = []run{sp.run}
		}
	}
	lost := v.lost
	if q != nil && q.inc == s.inc {
		if i := slices.IndexFunc(q.histories, func(o historyValue) bool { return o.number == v.number }); i >= 0 {
			lost = q.histories[i].lost
			clear(byPart)
			for _, set := range q.histories[i].sets {
				byPart[set.part] = set.runs
			}
		}
	}
	h.lost = lost
	c.addHistory(s, h)
	h.lost = v.lost
	for i := range c.places {
		if list := byPart[c.places[i].part]; len(list) > 0 && c.places[i].tailed {
			c.addPast(s, h, int32(i), list)
		}
	}
	if h.left == 0 {
		c.uncount(s, h)
	}
}

// before tells whose positions in a set go before a delivery in flight: those of who asked for it, and history that it was live after.
func (s *set) before(e *flown) askers {
	by := e.by
	for i := range s.past {
		if e.by&byQueue == 0 {
			break
		}
		h := s.past[i].history
		if k := slices.IndexFunc(h.spans, func(sp span) bool { return sp.place == s.place }); k >= 0 && h.spans[k].to <= e.offset {
			by |= h.bit
		}
	}
	return by
}

// own takes a position that an out/id stands for out of a set.
func (c *Core) own(s *session, set *set, d *flown) {
	if d.by&byQueue != 0 {
		set.runs.remove(d.offset)
	}
	for i := range set.past {
		if p := &set.past[i]; p.history.bit&d.by != 0 && !mutant("replay-twice") {
			p.runs.remove(d.offset)
		}
	}
	c.tidy(s, set)
}

// askersOf are those that an out/id names, as far as they are there.
func (s *session) askersOf(v *outValue) (by askers) {
	if !v.past {
		return byQueue
	}
	by = wasPast
	if v.queued {
		by |= byQueue
	}
	for _, h := range s.histories {
		if slices.Contains(v.histories, h.number) {
			by |= h.bit
		}
	}
	return by
}

// outOf is what an out/id says of a delivery.
func (c *Core) outOf(s *session, e *flown) outValue {
	v := outValue{inc: s.inc, pos: c.position(e.place, e.offset), past: e.by&^tells > byQueue, queued: e.by&byQueue != 0}
	if e.lease != nil {
		v.group = e.lease.group.inc
	}
	for _, h := range s.histories {
		if e.by&h.bit != 0 {
			v.histories = append(v.histories, h.number)
		}
	}
	return v
}
