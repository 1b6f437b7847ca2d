package session

import (
	"errors"
	"math"
	"slices"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// will is a will that may still have to fire. It has an id of its own, in incarnations' numbers: the record of a fired will
// carries it, so that after a crash a will is never fired twice, nor mistaken for a later one of the same session.
type will struct {
	key     Key
	lane    *lane
	inc     Incarnation // of its session; 0: one that is not persistent
	id      Incarnation
	delay   uint32
	msg     Message
	removed bool   // its record is removed, or being removed
	kept    bool   // it counts towards Options.MaxWillBytes
	then    func() // after it was fired
}

func (c *Core) newWill(k Key, inc Incarnation, p *packet.Will) *will {
	w := &will{key: k, lane: c.shard(k).lane, inc: inc, id: c.incarnation()}
	if p.Props.Has&packet.PWillDelay != 0 {
		w.delay = p.Props.WillDelay
	}
	w.msg = Message{
		Offset: -1, Topic: p.Topic, Payload: slices.Clone(p.Payload), QoS: p.QoS, Retain: p.Retain,
		Clear: p.Retain && len(p.Payload) == 0, Client: k.ClientID, Props: willProps(&p.Props), Will: w.id,
	}
	return w
}

// keepWill counts a will towards the limit, until dropWill.
func (c *Core) keepWill(w *will) {
	w.kept = true
	c.willBytes += w.size()
}

// dropWill forgets a will that will not fire any more, or has.
func (c *Core) dropWill(w *will) {
	delete(c.armed, w.id)
	if w.kept {
		w.kept = false
		c.willBytes -= w.size()
	}
}

func (w *will) size() int64 { return willOverhead + int64(publishSize(&w.msg, nil, packet.V5)) }

const willOverhead = 256 // of its record, and of what finds it

// roomForWill tells whether a CONNECT may leave its will. One that takes no more room than the will it replaces always may.
func (c *Core) roomForWill(s *session, p *packet.Will) bool {
	if p == nil || c.willBytes < c.o.MaxWillBytes {
		return true
	}
	next := will{msg: Message{Topic: p.Topic, Payload: p.Payload, Props: willProps(&p.Props)}}
	return s != nil && s.will != nil && next.size() <= s.will.size()
}

func willProps(p *packet.Properties) *Props {
	props := Props{
		HasExpiry: p.Has&packet.PMessageExpiry != 0, PayloadFormat: p.PayloadFormat,
		ContentType: p.ContentType, ResponseTopic: p.ResponseTopic, User: slices.Clone(p.User),
	}
	if props.HasExpiry {
		props.Expiry = p.MessageExpiry
	}
	if p.Has&packet.PCorrelation != 0 {
		props.Correlation = slices.Clone(p.Correlation)
		if props.Correlation == nil {
			props.Correlation = []byte{}
		}
	}
	if !props.HasExpiry && props.PayloadFormat == 0 && props.ContentType == "" && props.ResponseTopic == "" &&
		props.Correlation == nil && len(props.User) == 0 {
		return nil
	}
	return &props
}

func (w *will) record() StateRecord {
	v := willValue{inc: w.inc, id: w.id, delay: w.delay, msg: w.msg}
	return StateRecord{sessionKey(kindWill, w.key), v.append(nil)}
}

// fire publishes a will that has been taken from its session; then runs once it is in the log. Until then no CONNECT for the key
// goes on: its own will would replace the record.
func (c *Core) fire(w *will, then func()) {
	c.hold(w.key)
	w.then = then
	c.publish(w)
}

// publish publishes a will if it is still authorised, at the first time and each other one.
func (c *Core) publish(w *will) {
	if !c.host.Allowed(w.key, true, w.msg.Topic) && !spared(DropDenied, "will") {
		c.host.Count(DropWillDenied, 1)
		c.fired(w)
		return
	}
	c.token++
	c.wills[c.token] = w
	m := w.msg
	m.Time = c.now
	if m.Retain && !m.Clear && !c.retained.Admits(m.Topic, len(m.Payload)) {
		m.Retain = false
		c.host.Count(DropRetainedFull, 1)
	}
	c.host.Publish(c.token, &m)
}

// Published is the outcome of a Host.Publish.
func (c *Core) Published(now int64, token uint64, r Result) {
	if !c.enter(now) {
		return
	}
	w := c.wills[token]
	if w == nil {
		return
	}
	delete(c.wills, token)
	switch {
	case r.Err == nil:
		c.fired(w)
	case errors.Is(r.Err, ErrUnknown), errors.Is(r.Err, ErrFenced):
		c.fail(r.Err)
	case final(r.Err):
		c.host.Count(DropWillRefused, 1)
		c.fired(w)
	default:
		c.unfired = append(c.unfired, w)
		c.unfiredAt = c.now + redoEvery
		if t := c.turns[w.key]; t.waiting != nil {
			c.turnDown(t.waiting, packet.ServerUnavailable, "the will of the session before could not be published")
			t.waiting = nil
		}
	}
	c.leave()
}

// final tells whether a message was refused for what it is, so that it would be refused again for ever; else there was no room for
// it now.
func final(err error) bool {
	var e *packet.Error
	return errors.Is(err, ErrTooLarge) || errors.As(err, &e) && e.Code != packet.QuotaExceeded
}

// retryWills publishes wills whose publish was refused again, and returns when it is due next.
func (c *Core) retryWills() int64 {
	if len(c.unfired) == 0 {
		return math.MaxInt64
	}
	if c.unfiredAt > c.now {
		return c.unfiredAt
	}
	list := c.unfired
	c.unfired = nil
	for _, w := range list {
		c.publish(w)
	}
	return math.MaxInt64
}

func (c *Core) fired(w *will) {
	c.removeWill(w)
	if w.then != nil {
		w.then()
	}
	c.release(w.key)
}

func (c *Core) removeWill(w *will) {
	c.dropWill(w)
	if !w.removed {
		w.removed = true
		c.tombstone(w.lane, kindWill, w.key, nil)
	}
}

// willSeen: the tail shows the record of a fired will. Its key is removed now at the latest, before a checkpoint's frontier can
// pass the record. In a replay the will was fired before the crash.
func (c *Core) willSeen(id Incarnation) {
	w := c.armed[id]
	if w == nil {
		return
	}
	if s := c.sessions[w.key]; s != nil && s.will == w {
		s.will, s.willAt = nil, 0
		c.schedule(s)
	}
	c.removeWill(w)
}
