package broker

import (
	"container/list"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/session"
)

// Event is something that happened to a client: what its history is of.
type Event struct {
	At     time.Time // of the latest, if it is several
	Kind   string    // one of the Event… constants
	Detail string
	Count  int // of the same kind, one after the other
}

// Kinds of events.
const (
	EventConnected    = "connected"
	EventDisconnected = "disconnected" // with the reason, as the counter mqtt_disconnects has it
	EventTakenOver    = "taken_over"   // by another connection with the client id
	EventKicked       = "kicked"
	EventRefused      = "refused" // a CONNECT of the account and client id, after it was authenticated
	EventExpired      = "session_expired"
	EventEnded        = "session_ended" // by an administrator
	EventSlow         = "slow"          // as much waits for it as may; what comes then is read from the log
)

// history remembers the last events of clients, connected or not. Its memory is bounded: the client that nothing has happened to for
// longest is forgotten first. It ends with the process.
type history struct {
	max int // bytes, about

	mu    sync.Mutex
	of    map[session.Key]*list.Element // of *past
	order list.List                     // the latest at the front
	bytes int
}

// past is the history of one client.
type past struct {
	key    session.Key
	events []Event // the latest last
}

const (
	historyBytes  = 16 << 20
	historyEvents = 20
	eventBytes    = 72
	pastBytes     = 256
)

func (p *past) size() int {
	n := pastBytes + len(p.key.Tenant) + len(p.key.Principal) + len(p.key.ClientID)
	for i := range p.events {
		n += eventBytes + len(p.events[i].Detail)
	}
	return n
}

// add notes an event. Any goroutine.
func (h *history) add(k session.Key, e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = map[session.Key]*list.Element{}
	}
	el := h.of[k]
	if el == nil {
		el = h.order.PushFront(&past{key: k})
		h.of[k] = el
	} else {
		h.order.MoveToFront(el)
		h.bytes -= el.Value.(*past).size()
	}
	el.Value.(*past).add(e)
	h.bytes += el.Value.(*past).size()
	for h.bytes > h.max && h.order.Len() > 1 {
		oldest := h.order.Remove(h.order.Back()).(*past)
		h.bytes -= oldest.size()
		delete(h.of, oldest.key)
	}
}

func (p *past) add(e Event) {
	if n := len(p.events); n > 0 {
		if last := &p.events[n-1]; last.Kind == e.Kind && last.Detail == e.Detail {
			last.At = e.At
			last.Count++
			return
		}
		if n == historyEvents {
			copy(p.events, p.events[1:])
			p.events = p.events[:n-1]
		}
	}
	e.Count = 1
	p.events = append(p.events, e)
}

// find returns the events of a client, the latest last.
func (h *history) find(k session.Key) []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	el := h.of[k]
	if el == nil {
		return nil
	}
	return append([]Event(nil), el.Value.(*past).events...)
}

// named lists the clients with a client id.
func (h *history) named(clientID string) (keys []session.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.of {
		if k.ClientID == clientID {
			keys = append(keys, k)
		}
	}
	return keys
}

// tell notes an event of now.
func (b *Broker) tell(k session.Key, kind, detail string) {
	b.history.add(k, Event{At: b.o.Now(), Kind: kind, Detail: detail})
}

// describe is what the history says of a connection that begins.
func (c *conn) describe(resumed bool) string {
	state := "new session"
	if resumed {
		state = "session resumed"
	}
	return c.nc.RemoteAddr().String() + " " + c.lis.o.Name + " " + c.lis.o.Transport.Name() + ", " + state
}

// tellEnd notes why the connection ends, for the history and for traces.
func (c *conn) tellEnd(accepted bool, why string) {
	if list := c.b.traces.now.Load(); list != nil {
		c.traceClosed(*list, why)
	}
	kind := EventDisconnected
	switch {
	case !accepted && c.key.ClientID == "": // a stranger leaves no trace
		return
	case !accepted:
		kind = EventRefused
	case why == reasonTakenOver:
		kind, why = EventTakenOver, ""
	case why == reasonKicked:
		kind, why = EventKicked, ""
	}
	c.b.tell(c.key, kind, why)
}
