package session

import (
	"fmt"
	"slices"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// simHistory is an outstanding Host.History.
type simHistory struct {
	token uint64
	asks  []HistoryAsk
}

func (w *world) History(token uint64, asks []HistoryAsk) {
	w.histories = append(w.histories, &simHistory{token, asks})
	w.model.tokens[token] = w.model.takeAsked(token, asks)
}

func (*nullHost) History(uint64, []HistoryAsk) {}

// historyOne answers an outstanding question for where history begins.
func (w *world) historyOne(n int) {
	q := w.histories[n]
	w.histories = slices.Delete(w.histories, n, n+1)
	answers := make([]History, len(q.asks))
	for i, ask := range q.asks {
		if w.refuse && w.chance(20) {
			w.refusals++
			answers[i].Err = fmt.Errorf("disk")
			continue
		}
		answers[i] = w.history(ask)
		w.logf("history of %s from %v: %v lost %d", ask.Filter, ask.From, answers[i].From, answers[i].Lost)
	}
	w.model.learn(q.token, answers)
	w.core.HistoryDone(w.now, q.token, answers)
}

func (w *world) history(ask HistoryAsk) History {
	h := History{From: Vector{}}
	for _, p := range w.parts {
		from := p.start
		switch f := &ask.From; {
		case f.Time != 0:
			from = p.next
			if i := slices.IndexFunc(p.recs, func(m Message) bool { return m.Time >= f.Time }); i >= 0 {
				from = p.recs[i].Offset
			}
		case f.Offset >= 0:
			from = f.Offset
		}
		if lost := p.start - from; lost > 0 {
			h.Lost += lost
		}
		h.From[p.part] = max(from, p.start)
	}
	return h
}

// replayFrom is a text of a client.
func (w *world) replayFrom() string {
	switch w.rnd.IntN(4) {
	case 0:
		return "earliest"
	case 1:
		return fmt.Sprintf("offset:%d", w.rnd.IntN(30))
	case 2:
		return time.UnixMilli(w.now - int64(w.rnd.IntN(20_000))).UTC().Format(time.RFC3339Nano)
	}
	return fmt.Sprintf("-%ds", w.rnd.IntN(60))
}

// asksHistory has a SUBSCRIBE ask for history, now and then; by prefixes of its filters or by a property.
func (w *world) asksHistory(p *packet.Subscribe) {
	switch {
	case w.model.quiet || !w.chance(25):
	case w.chance(70):
		p.Props.User = []packet.UserProperty{{Name: "other", Value: "x"}, {Name: ReplayFrom, Value: w.replayFrom()}}
	default:
		f := &p.Filters[w.rnd.IntN(len(p.Filters))]
		f.Filter = ReplayPrefix + w.replayFrom() + "/" + f.Filter
	}
}
