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

// How a SUBSCRIBE asks for history, waits for the log's answer, and what waits behind it.

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
