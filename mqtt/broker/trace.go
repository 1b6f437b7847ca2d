package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// TraceOptions say what to trace: the packets of one client, or the messages that a filter matches, both ways.
type TraceOptions struct {
	Client  string // client id, under whatever account; or
	Filter  string
	Payload int // bytes of each payload to show
	Buffer  int // events that may wait to be read; default 1,024
	Bytes   int // that these may take; default 4 MiB
}

// TraceEvent is one packet, or the end of a connection.
type TraceEvent struct {
	At        time.Time
	Client    string
	Principal string // "" before a CONNECT is authenticated
	Out       bool   // to the client
	Packet    string // PUBLISH, or CLOSED
	Topic     string // of a PUBLISH, or of the will
	Filters   []string
	QoS       byte
	Retain    bool
	Dup       bool
	ID        uint16
	Size      int    // of the payload
	Reason    string // the code of an answer, or why a message was refused or dropped
	Payload   []byte
}

// Tracer is a trace that runs. Who reads it too slowly misses events, which are counted; nobody waits for it.
type Tracer struct {
	b       *Broker
	o       TraceOptions
	ready   chan struct{} // has one while events wait
	dropped atomic.Int64
	claims  sync.Map // *conn: it says that it is the client, and is not authenticated yet

	mu      sync.Mutex
	waiting []TraceEvent
	bytes   int // of waiting
}

// tracers are the traces that run. While there are none, which is nearly always, a packet costs one load of a pointer.
type tracers struct {
	mu  sync.Mutex
	now atomic.Pointer[[]*Tracer] // nil: none
}

const maxTraces = 8

// ErrTraces is what Trace returns while as many run as may.
var ErrTraces = errors.New("8 traces run already")

// Trace begins to trace.
func (b *Broker) Trace(o TraceOptions) (*Tracer, error) {
	switch {
	case (o.Client == "") == (o.Filter == ""):
		return nil, errors.New("trace: name either a client or a filter")
	case o.Filter != "" && topic.ValidateFilter(o.Filter) != nil:
		return nil, fmt.Errorf("trace: %w", topic.ValidateFilter(o.Filter))
	}
	def(&o.Buffer, 1024)
	def(&o.Bytes, 4<<20)
	t := &Tracer{b: b, o: o, ready: make(chan struct{}, 1)}
	b.traces.mu.Lock()
	defer b.traces.mu.Unlock()
	list := b.traces.list()
	if len(list) >= maxTraces {
		return nil, ErrTraces
	}
	list = append(slices.Clone(list), t)
	b.traces.now.Store(&list)
	return t, nil
}

func (t *tracers) list() []*Tracer {
	if p := t.now.Load(); p != nil {
		return *p
	}
	return nil
}

// Ready receives once something is there to Take; it never closes.
func (t *Tracer) Ready() <-chan struct{} { return t.ready }

// Take takes what is traced, the oldest first, so many events at most.
func (t *Tracer) Take(most int) (list []TraceEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.waiting), most)
	list = slices.Clone(t.waiting[:n])
	clear(t.waiting[:n]) // its array may be there for longer
	t.waiting = t.waiting[n:]
	for i := range list {
		t.bytes -= list[i].size()
	}
	if len(t.waiting) > 0 {
		t.tell()
	}
	return list
}

// tell has whoever waits look.
func (t *Tracer) tell() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// size is about what an event takes of memory.
func (e *TraceEvent) size() int {
	n := int(unsafe.Sizeof(*e)) + len(e.Client) + len(e.Principal) + len(e.Topic) + len(e.Reason) + len(e.Payload)
	for _, f := range e.Filters {
		n += int(unsafe.Sizeof(f)) + len(f)
	}
	return n
}

// Dropped is how many events there was no room for since the last call.
func (t *Tracer) Dropped() int64 { return t.dropped.Swap(0) }

// Close ends the trace.
func (t *Tracer) Close() {
	x := &t.b.traces
	x.mu.Lock()
	defer x.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(x.list()), func(o *Tracer) bool { return o == t })
	if len(list) == 0 {
		x.now.Store(nil)
		return
	}
	x.now.Store(&list)
}

// wants tells whether a packet is of this trace; name is the topic of a PUBLISH, else "".
func (t *Tracer) wants(c *conn, name string) bool {
	switch {
	case t.o.Client == "":
		return name != "" && topic.Match(t.o.Filter, name)
	case c.key.ClientID != "":
		return c.key.ClientID == t.o.Client
	}
	_, claims := t.claims.Load(c)
	return claims
}

// put hands an event over, or counts it.
func (t *Tracer) put(e TraceEvent, payload []byte) {
	e.At = t.b.o.Now()
	payload = payload[:min(len(payload), t.o.Payload)]
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) >= t.o.Buffer || t.bytes+e.size()+len(payload) > t.o.Bytes {
		t.dropped.Add(1)
		return
	}
	e.Payload = slices.Clone(payload)
	t.waiting = append(t.waiting, e)
	t.bytes += e.size()
	t.tell()
}

// trace gives an event to the traces that want it. Its topic may be in a buffer that is used again, and so is the payload. make completes
// the event, and is called once, if anybody wants it.
func (c *conn) trace(list []*Tracer, name string, payload []byte, make func() TraceEvent) {
	var e TraceEvent
	for _, t := range list {
		if !t.wants(c, name) {
			continue
		}
		if e.Packet == "" {
			e = make()
			e.Client, e.Principal, e.Size = c.key.ClientID, c.key.Principal, len(payload)
		}
		if own := e; t.o.Client != "" {
			own.Client = t.o.Client
			t.put(own, payload)
		} else {
			t.put(e, payload)
		}
	}
}

// traceIn traces a packet that came.
func (c *conn) traceIn(list []*Tracer, p packet.Packet) {
	name, payload := "", []byte(nil)
	switch p := p.(type) {
	case *packet.Publish:
		payload, name = p.Payload, unsafe.String(unsafe.SliceData(p.Topic), len(p.Topic))
		if alias := int(p.Props.TopicAlias); name == "" && p.Props.Has&packet.PTopicAlias != 0 && alias < len(c.aliases) {
			name = c.aliases[alias]
		}
	case *packet.Connect:
		for _, t := range list {
			if t.o.Client == p.ClientID && c.key.ClientID == "" {
				t.claims.Store(c, true)
			}
		}
	}
	c.trace(list, name, payload, func() TraceEvent {
		e := describe(p)
		if name != "" {
			e.Topic = strings.Clone(name)
		}
		return e
	})
}

// traceOut traces an answer that is queued.
func (c *conn) traceOut(list []*Tracer, p packet.Packet) {
	c.trace(list, "", nil, func() TraceEvent {
		e := describe(p)
		e.Out = true
		return e
	})
}

// traceDelivery traces a delivery that is queued, or was dropped.
func (c *conn) traceDelivery(list []*Tracer, d *session.Delivery) {
	c.trace(list, d.Msg.Topic, d.Msg.Payload, func() TraceEvent {
		return TraceEvent{Out: true, Packet: "PUBLISH", Topic: strings.Clone(d.Msg.Topic), QoS: d.QoS, Retain: d.Retain, Dup: d.Dup, ID: d.PacketID, Reason: dropText(d.Dropped)}
	})
}

func dropText(reason string) string {
	if reason == "" {
		return ""
	}
	return "dropped: " + reason
}

// traceRefused traces why a PUBLISH is not taken.
func (c *conn) traceRefused(list []*Tracer, p *packet.Publish, why *packet.Error) {
	name := string(p.Topic)
	c.trace(list, name, nil, func() TraceEvent {
		return TraceEvent{Packet: "PUBLISH", Topic: name, QoS: p.QoS, Retain: p.Retain, ID: p.PacketID, Reason: "refused: " + why.Text}
	})
}

// traceClosed traces the end of a connection, and why.
func (c *conn) traceClosed(list []*Tracer, why string) {
	c.trace(list, "", nil, func() TraceEvent { return TraceEvent{Packet: "CLOSED", Reason: why} })
	for _, t := range list {
		t.claims.Delete(c)
	}
}

// describe makes the event of a packet.
func describe(p packet.Packet) (e TraceEvent) {
	e.Packet = p.Type().String()
	switch p := p.(type) {
	case *packet.Publish:
		e.Topic, e.QoS, e.Retain, e.Dup, e.ID = string(p.Topic), p.QoS, p.Retain, p.Dup, p.PacketID
	case *packet.Connect:
		if w := p.Will; w != nil {
			e.Topic, e.QoS, e.Retain = w.Topic, w.QoS, w.Retain
		}
	case *packet.Connack:
		e.Reason = p.Code.String()
	case *packet.Ack:
		e.ID, e.Reason = p.PacketID, p.Code.String()
	case *packet.Subscribe:
		e.ID = p.PacketID
		for _, f := range p.Filters[:min(len(p.Filters), maxTraced)] {
			e.Filters = append(e.Filters, strings.Clone(f.Filter))
			e.QoS = max(e.QoS, f.QoS)
		}
	case *packet.Unsubscribe:
		e.ID = p.PacketID
		for _, f := range p.Filters[:min(len(p.Filters), maxTraced)] {
			e.Filters = append(e.Filters, strings.Clone(f))
		}
	case *packet.Suback:
		e.ID = p.PacketID
		for _, code := range p.Codes[:min(len(p.Codes), maxTraced)] {
			if code.Failed() {
				e.Reason = code.String()
			}
		}
	case *packet.Disconnect:
		e.Reason = p.Code.String()
	}
	return e
}

// maxTraced is how many filters of one packet an event shows.
const maxTraced = 20
