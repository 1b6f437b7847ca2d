package broker

import (
	"slices"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// answer asks the store where history begins.
func (r *readers) answer(q readRequest) {
	answers := make([]session.History, len(q.asks))
	err := guard(func() error {
		for i, ask := range q.asks {
			answers[i] = r.o.b.store.History(r.ctx, ask)
		}
		return nil
	})
	if err != nil {
		for i := range answers {
			answers[i] = session.History{Err: err}
		}
	}
	r.o.b.notePanic("history", err)
	r.o.post(func(now int64) { r.o.core.HistoryDone(now, q.token, answers) })
}

// withHistory adds what a 5.0 client is told of a message from history, and of a gap before it. The list is the message's own: it is not
// changed.
func withHistory(list []packet.UserProperty, d *session.Delivery) []packet.UserProperty {
	list = slices.Clip(list)
	if d.Replayed {
		list = append(list, packet.UserProperty{Name: session.TimeProperty, Value: time.UnixMilli(d.Msg.Time).UTC().Format(timeLayout)})
	}
	if d.Gap != 0 {
		list = append(list, packet.UserProperty{Name: session.GapProperty, Value: session.GapText(d.Gap)})
	}
	return list
}

const timeLayout = "2006-01-02T15:04:05.000Z07:00" // RFC 3339, always with milliseconds
