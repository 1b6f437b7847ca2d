package bridge

import (
	"bytes"
	"errors"
	"slices"
	"sync"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// receiver takes what the remote sends and puts it into the log, as if a device had published it. The remote is answered once it is
// durable, in the order in which its messages came, and only on the connection on which they came.
type receiver struct {
	b *bridge

	mu    sync.Mutex
	queue []*arrival          // to be answered, in order
	open  map[uint16]*arrival // QoS 2: from PUBLISH to PUBREL, by packet id
	ended bool                // what comes now is neither stored nor answered
	gone  bool                // and there is no connection any more
}

// arrival is one message of the remote on its way into the log.
type arrival struct {
	connection int
	qos        byte
	id         uint16
	state      arrivalState
	code       packet.Code
	msg        *session.Message // until it is stored, of QoS 2: it may have to be stored again
}

type arrivalState byte

const (
	storing arrivalState = iota
	stored               // or refused, for good
	lost                 // the log did not take it: the remote has to send it again
)

// message hears a message, from the client's goroutine that reads. It waits for room in the log, and so does the remote.
func (r *receiver) message(p *packet.Publish) {
	m, code, drop := r.b.incoming(p)
	r.take(p, m, code, drop)
}

// discarded hears of a message that was too large to be taken in. Its remote cannot be told so, and is answered as if it had been.
func (r *receiver) discarded(p *packet.Publish) { r.take(p, nil, packet.Success, DropPacket) }

// take has a message stored, or counts it as dropped.
func (r *receiver) take(p *packet.Publish, m *session.Message, code packet.Code, drop string) {
	b := r.b
	a := &arrival{connection: b.mqtt.Stats().Connects, qos: p.QoS, id: p.PacketID}
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return
	}
	b.counters.received.Add(1)
	if p.QoS > 0 {
		r.queue = append(r.queue, a)
	}
	if p.QoS == 2 {
		r.open[p.PacketID] = a
	}
	if drop != "" {
		b.counters.drop(drop, 1)
		a.state, a.code = stored, code
		r.answer()
		r.mu.Unlock()
		return
	}
	if mutant("bridge-early-ack") {
		a.state = stored
		r.answer()
	}
	a.msg = m
	r.mu.Unlock()
	r.store(a, m)
}

// repeated hears a QoS 2 message that has come before.
func (r *receiver) repeated(p *packet.Publish) {
	r.b.counters.drop(DropDuplicate, 1)
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return
	}
	a := r.open[p.PacketID]
	if a == nil { // of an earlier process
		a = &arrival{state: stored}
		r.open[p.PacketID] = a
	}
	again := a.state == lost
	if again {
		a.state = storing
	}
	a.connection, a.qos, a.id = r.b.mqtt.Stats().Connects, p.QoS, p.PacketID
	if !slices.Contains(r.queue, a) {
		r.queue = append(r.queue, a)
	}
	r.answer()
	m := a.msg
	r.mu.Unlock()
	if again {
		r.store(a, m)
	}
}

// renew begins a connection: what came on the one before is answered on it no more.
func (r *receiver) renew(present bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = nil
	if !present {
		clear(r.open)
	}
}

// forget drops what is known of a packet id: PUBREL came.
func (r *receiver) forget(id uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
}

// end has nothing more stored; what is on its way is still answered.
func (r *receiver) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

// leave says that the last connection is over.
func (r *receiver) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
}

// leftOver lists the packet ids of messages that are stored and that the remote may send again, once nothing changes them any more. While
// there are connections such a list would be out of date when it is needed, and a new message could pass for an old one.
func (r *receiver) leftOver() (ids []uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.gone {
		return nil
	}
	for id, a := range r.open {
		if a.state == stored && !a.code.Failed() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// idle tells whether nothing is to be answered.
func (r *receiver) idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) == 0
}

// store appends a message to the log.
func (r *receiver) store(a *arrival, m *session.Message) {
	r.b.counters.handed.Add(1)
	wait := r.b.set.o.Store.Append([]session.Message{*m}, func(results []session.Result) { r.stored(a, results[0].Err) })
	if wait != nil {
		select {
		case <-wait:
		case <-r.b.ctx.Done():
		}
	}
}

// stored hears what became of a message, from a goroutine of the store.
func (r *receiver) stored(a *arrival, err error) {
	b := r.b
	if err != nil {
		b.counters.refused.Add(1)
	}
	b.counters.answered.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		b.counters.stored.Add(1)
		a.state, a.msg = stored, nil
	case forGood(err):
		b.counters.drop(DropLog, 1)
		b.failed("store a message of the remote", err)
		a.state, a.code, a.msg = stored, packet.ImplementationSpecificError, nil
	default: // the remote sends it again, on the next connection
		a.state = lost
		b.failed("store a message of the remote", err)
		b.mqtt.Drop()
	}
	r.answer()
}

// forGood tells whether a message that was refused would be refused again.
func forGood(err error) bool {
	if errors.Is(err, session.ErrTooLarge) {
		return true
	}
	e, ok := errors.AsType[*packet.Error](err)
	return ok && e.Code != packet.QuotaExceeded
}

// answer acknowledges what is stored, as far as nothing before it is not. Called with mu held.
func (r *receiver) answer() {
	n := 0
	for ; n < len(r.queue) && r.queue[n].state == stored; n++ {
		a := r.queue[n]
		r.b.mqtt.Answer(a.connection, a.qos, a.id, a.code)
		if a.qos == 2 && a.code.Failed() {
			delete(r.open, a.id)
		}
	}
	r.queue = slices.Delete(r.queue, 0, n)
}

// packet looks on what comes.
func (r *receiver) packet(p packet.Packet) (handled bool) {
	if a, ok := p.(*packet.Ack); ok && a.Kind == packet.PUBREL {
		r.forget(a.PacketID)
	}
	return false
}

// incoming makes the message of a PUBLISH, in memory of its own, or says why it is dropped and what the remote is told.
func (b *bridge) incoming(p *packet.Publish) (m *session.Message, code packet.Code, drop string) {
	t, name := inTopic(b.spec.In, string(p.Topic))
	switch {
	case t == nil:
		return nil, packet.Success, DropUnmatched
	case name[0] == '$':
		return nil, packet.TopicNameInvalid, DropTopic
	}
	props := received(&p.Props)
	if !mutant("bridge-no-loop-guard") && b.set.been(props) > 0 {
		return nil, packet.Success, DropLoop
	}
	if props == nil {
		props = &session.Props{}
	}
	props.User = b.set.marked(props.User)
	m = &session.Message{Offset: -1, Time: b.set.o.Now().UnixMilli(), Topic: name, Payload: bytes.Clone(p.Payload), QoS: min(p.QoS, t.QoS),
		Retain: p.Retain, Client: b.client, Props: props}
	if admit := b.set.o.Admits; m.Retain && len(m.Payload) > 0 && admit != nil && !admit(name, len(m.Payload)) {
		m.Retain = false
		b.counters.drop(DropRetained, 1)
	}
	m.Clear = m.Retain && len(m.Payload) == 0
	return m, packet.Success, ""
}

// received are the properties of a PUBLISH that go with the message; nil: none.
func received(p *packet.Properties) *session.Props {
	const all = packet.PMessageExpiry | packet.PPayloadFormat | packet.PContentType | packet.PResponseTopic | packet.PCorrelation
	if p.Has&all == 0 && len(p.User) == 0 {
		return nil
	}
	return &session.Props{HasExpiry: p.Has&packet.PMessageExpiry != 0, Expiry: p.MessageExpiry, PayloadFormat: p.PayloadFormat,
		ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, Correlation: bytes.Clone(p.Correlation), User: slices.Clone(p.User)}
}
