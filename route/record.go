package route

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// The record contract, version 1 (docs/records.md). Header names that begin with one of the reserved prefixes are ours; every
// other header is a user property.
const (
	hTopic         = "mqtt.topic"
	hQoS           = "mqtt.qos"
	hRetain        = "mqtt.retain"
	hClient        = "mqtt.client"
	hContentType   = "mqtt.content-type"
	hResponseTopic = "mqtt.response-topic"
	hCorrelation   = "mqtt.correlation"
	hExpiry        = "mqtt.expiry"
	hPayloadFormat = "mqtt.payload-format"
	hQoS2          = "mr-qos2"
	hWill          = "mr-will"
)

// reserved tells whether a header name is the contract's own.
func reserved(name string) bool {
	return strings.HasPrefix(name, "mqtt.") || strings.HasPrefix(name, "mr-")
}

var (
	empty  = []byte{}
	one    = []byte("1")
	digits = [...][]byte{[]byte("0"), []byte("1"), []byte("2")}
)

// bytesOf views a string as bytes, never nil, which must not be written.
func bytesOf(s string) []byte {
	if s == "" {
		return empty
	}
	return unsafe.Slice(unsafe.StringData(s), len(s))
}

// stringOf views bytes as a string; the bytes must not change after.
func stringOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// encoder makes headers of messages. What it returns is valid until the next call.
type encoder struct {
	headers []eventlog.Header
	numbers []byte
	last    plainHeaders
	encoded []byte // the last ones, as a record has them
}

// plainHeaders is what the headers of most messages depend on: one that has neither properties nor an exactly-once mark. Devices say
// the same things many times.
type plainHeaders struct {
	name, client string
	qos          byte
	retain, set  bool
}

// encode returns the headers of a message's record as eventlog.AppendHeaders makes them.
func (e *encoder) encode(name string, m *session.Message) []byte {
	p := plainHeaders{name, m.Client, m.QoS, m.Retain, m.QoS2 == (session.Triple{}) && m.Will == 0 && m.Props == nil}
	if !p.set || p != e.last {
		e.last = p
		e.encoded = eventlog.AppendHeaders(e.encoded[:0], e.list(name, m))
	}
	return e.encoded
}

func (e *encoder) add(key string, value []byte) {
	e.headers = append(e.headers, eventlog.Header{Key: key, Value: value})
}

// grow returns what f appends, in space that the next call of encode reuses.
func (e *encoder) grow(f func([]byte) []byte) []byte {
	at := len(e.numbers)
	e.numbers = f(e.numbers)
	return e.numbers[at:len(e.numbers):len(e.numbers)]
}

// list returns the headers of a message's record.
func (e *encoder) list(name string, m *session.Message) []eventlog.Header {
	e.headers, e.numbers = e.headers[:0], e.numbers[:0]
	e.add(hTopic, bytesOf(name))
	if m.QoS > 0 {
		e.add(hQoS, digits[min(m.QoS, 2)])
	}
	if m.Retain {
		e.add(hRetain, one)
	}
	if m.Client != "" {
		e.add(hClient, bytesOf(m.Client))
	}
	if m.QoS2 != (session.Triple{}) {
		e.add(hQoS2, e.grow(func(b []byte) []byte {
			b = binary.BigEndian.AppendUint64(b, uint64(m.QoS2.Incarnation))
			b = binary.BigEndian.AppendUint16(b, m.QoS2.PacketID)
			return binary.BigEndian.AppendUint32(b, m.QoS2.Use)
		}))
	}
	if m.Will != 0 {
		e.add(hWill, e.grow(func(b []byte) []byte { return binary.BigEndian.AppendUint64(b, uint64(m.Will)) }))
	}
	if m.Props != nil {
		e.props(m.Props)
	}
	return e.headers
}

func (e *encoder) props(p *session.Props) {
	if p.HasExpiry {
		e.add(hExpiry, e.grow(func(b []byte) []byte { return strconv.AppendUint(b, uint64(p.Expiry), 10) }))
	}
	if p.PayloadFormat != 0 {
		e.add(hPayloadFormat, one)
	}
	if p.ContentType != "" {
		e.add(hContentType, bytesOf(p.ContentType))
	}
	if p.ResponseTopic != "" {
		e.add(hResponseTopic, bytesOf(p.ResponseTopic))
	}
	if p.Correlation != nil {
		e.add(hCorrelation, p.Correlation)
	}
	for i := range p.User {
		e.add(p.User[i].Name, bytesOf(p.User[i].Value))
	}
}

// clonedProps copies what may alias a read buffer.
func clonedProps(p *session.Props) *session.Props {
	if p == nil {
		return nil
	}
	c := *p
	c.ContentType, c.ResponseTopic = strings.Clone(p.ContentType), strings.Clone(p.ResponseTopic)
	c.Correlation = bytes.Clone(p.Correlation)
	c.User = make([]packet.UserProperty, len(p.User))
	for i, u := range p.User {
		c.User[i] = packet.UserProperty{Name: strings.Clone(u.Name), Value: strings.Clone(u.Value)}
	}
	return &c
}

// decode is the inverse of encode, for a record of ours. Strings and slices of the message alias the record; the topic does
// until the caller interns it.
func decode(r *eventlog.Record, m *session.Message) error {
	*m = session.Message{Offset: r.Offset, Time: r.Timestamp, Payload: r.Value}
	topics := 0
	for i := range r.Headers {
		h := &r.Headers[i]
		switch v := h.Value; h.Key {
		case hTopic:
			m.Topic, topics = stringOf(v), topics+1
		case hQoS:
			if len(v) != 1 || v[0] < '0' || v[0] > '2' {
				return errHeader(h)
			}
			m.QoS = v[0] - '0'
		case hRetain:
			m.Retain = string(v) == "1"
		case hClient:
			m.Client = stringOf(v)
		case hQoS2:
			if len(v) != 14 {
				return errHeader(h)
			}
			m.QoS2 = session.Triple{Incarnation: session.Incarnation(binary.BigEndian.Uint64(v)),
				PacketID: binary.BigEndian.Uint16(v[8:]), Use: binary.BigEndian.Uint32(v[10:])}
		case hWill:
			if len(v) != 8 {
				return errHeader(h)
			}
			m.Will = session.Incarnation(binary.BigEndian.Uint64(v))
		default:
			if err := decodeProp(h, m); err != nil {
				return err
			}
		}
	}
	if topics != 1 {
		return fmt.Errorf("%d headers %s, want one", topics, hTopic)
	}
	m.Clear = m.Retain && len(m.Payload) == 0
	return nil
}

func decodeProp(h *eventlog.Header, m *session.Message) error {
	switch v := h.Value; h.Key {
	case hExpiry:
		n, err := strconv.ParseUint(string(v), 10, 32)
		if err != nil {
			return errHeader(h)
		}
		p := props(m)
		p.HasExpiry, p.Expiry = true, uint32(n)
	case hPayloadFormat:
		props(m).PayloadFormat = 1
	case hContentType:
		props(m).ContentType = stringOf(v)
	case hResponseTopic:
		props(m).ResponseTopic = stringOf(v)
	case hCorrelation:
		if v == nil {
			v = empty
		}
		props(m).Correlation = v
	default:
		if !reserved(h.Key) { // a reserved name of a later version of the contract is nothing to us
			p := props(m)
			p.User = append(p.User, packet.UserProperty{Name: h.Key, Value: stringOf(v)})
		}
	}
	return nil
}

func props(m *session.Message) *session.Props {
	if m.Props == nil {
		m.Props = &session.Props{}
	}
	return m.Props
}

func errHeader(h *eventlog.Header) error { return fmt.Errorf("header %s: %q", h.Key, h.Value) }

// What a record of a Kafka client may carry to MQTT: more is dead-lettered, since cutting it would be silent.
const (
	maxForeignHeaders     = 256
	maxForeignHeaderBytes = 64 << 10
)

// foreignQoS is the QoS a record of a Kafka client is published with: each subscriber gets it at the QoS it subscribed with.
const foreignQoS = 2

// Why a record that is stable does not reach MQTT and needs not to.
var (
	errOneWay    = errors.New("record of a Kafka client in a topic whose route has direction: in")
	errNullValue = errors.New("null value in a topic that is not compact")
)

// decodeForeign makes the message of a record that is not ours: its topic comes from the key alone, reserved headers are
// nothing, the other headers are user properties. The topic's route must be reversible.
func decodeForeign(r *eventlog.Record, plan *topicPlan, m *session.Message) error {
	if r.Value == nil && !plan.compact {
		return errNullValue
	}
	name, err := plan.reverse.topicOf(r.Key)
	if err != nil {
		return err
	}
	*m = session.Message{Offset: r.Offset, Time: r.Timestamp, Topic: name, Payload: r.Value, QoS: foreignQoS}
	if r.Value == nil {
		m.Retain, m.Clear = true, true
	}
	return foreignProps(r.Headers, m)
}

// topicOf renders the MQTT topic of a key.
func (r *route) topicOf(key []byte) (string, error) {
	if key == nil && len(r.pattern.names()) > 0 {
		return "", errors.New("record without a key")
	}
	vars, ok := r.key.parse(string(key))
	if !ok {
		return "", fmt.Errorf("key %q is not of the form %q", clip(key), r.key.text)
	}
	name := r.pattern.render(vars)
	if strings.HasPrefix(name, "$") || strings.ContainsFunc(name, func(c rune) bool { return c < 0x20 || c >= 0x7f && c < 0xa0 }) {
		return "", fmt.Errorf("key %q makes a topic that begins with $ or holds control characters", clip(key))
	}
	if err := topic.ValidateName(bytesOf(name)); err != nil {
		return "", fmt.Errorf("key %q makes no MQTT topic: %w", clip(key), err)
	}
	if !r.pattern.match(name) {
		return "", fmt.Errorf("key %q makes a topic that its route %q does not match", clip(key), r.MQTT)
	}
	return name, nil
}

// clip shortens bytes for a message.
func clip(b []byte) []byte { return b[:min(len(b), 200)] }

func foreignProps(headers []eventlog.Header, m *session.Message) error {
	n, size := 0, 0
	for i := range headers {
		h := &headers[i]
		if reserved(h.Key) {
			continue
		}
		n, size = n+1, size+len(h.Key)+len(h.Value)
		if n > maxForeignHeaders || size > maxForeignHeaderBytes {
			return fmt.Errorf("more than %d headers or %d bytes of them", maxForeignHeaders, maxForeignHeaderBytes)
		}
		if !mqttString(bytesOf(h.Key)) || !mqttString(h.Value) {
			return fmt.Errorf("header %q is not text, as a user property must be", clip(bytesOf(h.Key)))
		}
		p := props(m)
		p.User = append(p.User, packet.UserProperty{Name: h.Key, Value: stringOf(h.Value)})
	}
	return nil
}

// mqttString tells whether b may be a UTF-8 string of MQTT (5.0, 1.5.4).
func mqttString(b []byte) bool {
	return len(b) <= 65535 && utf8.Valid(b) && bytes.IndexByte(b, 0) < 0
}
