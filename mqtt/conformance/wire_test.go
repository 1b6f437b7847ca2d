package conformance

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// Building packets.

const (
	tConnect byte = iota + 1
	tConnack
	tPublish
	tPuback
	tPubrec
	tPubrel
	tPubcomp
	tSubscribe
	tSuback
	tUnsubscribe
	tUnsuback
	tPingreq
	tPingresp
	tDisconnect
	tAuth
)

var typeNames = [16]string{"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
	"UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

const (
	v31  byte = 3
	v311 byte = 4
	v5   byte = 5
)

func u8(n int) []byte     { return []byte{byte(n)} }
func u16(n int) []byte    { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func raw(s string) []byte { return []byte(s) }

// str is a string, or binary data, after its length.
func str(s string) []byte { return append(u16(len(s)), s...) }

func varint(n int) (b []byte) {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func cat(parts ...[]byte) []byte { return slices.Concat(parts...) }

// pkt is a packet: its first byte, the length of the rest, the rest.
func pkt(first byte, parts ...[]byte) []byte {
	body := cat(parts...)
	return cat([]byte{first}, varint(len(body)), body)
}

// The properties of 5.0.
const (
	propPayloadFormat   byte = 0x01
	propMessageExpiry   byte = 0x02
	propContentType     byte = 0x03
	propResponseTopic   byte = 0x08
	propCorrelation     byte = 0x09
	propSubscriptionID  byte = 0x0B
	propSessionExpiry   byte = 0x11
	propAssignedID      byte = 0x12
	propServerKeepAlive byte = 0x13
	propAuthMethod      byte = 0x15
	propAuthData        byte = 0x16
	propRequestProblem  byte = 0x17
	propWillDelay       byte = 0x18
	propRequestResponse byte = 0x19
	propResponseInfo    byte = 0x1A
	propServerReference byte = 0x1C
	propReasonString    byte = 0x1F
	propReceiveMaximum  byte = 0x21
	propTopicAliasMax   byte = 0x22
	propTopicAlias      byte = 0x23
	propMaximumQoS      byte = 0x24
	propRetainAvailable byte = 0x25
	propUser            byte = 0x26
	propMaximumPacket   byte = 0x27
	propWildcardAvail   byte = 0x28
	propSubIDAvail      byte = 0x29
	propSharedAvail     byte = 0x2A
)

// prop is one property: its identifier, and its value as it is on the wire.
func prop(id byte, value ...[]byte) []byte { return cat([]byte{id}, cat(value...)) }

// props is a block of properties after its length.
func props(ps ...[]byte) []byte {
	b := cat(ps...)
	return cat(varint(len(b)), b)
}

// propsIf is a block of properties in 5.0, and nothing before.
func propsIf(v byte, ps ...[]byte) []byte {
	if v < v5 {
		return nil
	}
	return props(ps...)
}

// Reading what a server sends.

// property is one property that came.
type property struct {
	id    byte
	n     uint32 // a number
	s     string // a string, binary data, or the name of a pair
	value string // of a pair
}

// packet is one packet from the server.
type packet struct {
	raw     []byte
	typ     byte
	flags   byte
	id      int
	code    byte // reason or return code
	codes   []byte
	present bool // session present
	topic   string
	payload string
	props   []property
}

func (p *packet) qos() int     { return int(p.flags >> 1 & 3) }
func (p *packet) dup() bool    { return p.flags&8 != 0 }
func (p *packet) retain() bool { return p.flags&1 != 0 }

func (p *packet) prop(id byte) (property, bool) {
	i := slices.IndexFunc(p.props, func(x property) bool { return x.id == id })
	if i < 0 {
		return property{}, false
	}
	return p.props[i], true
}

// number is a property's value, or what it is if it is not there.
func (p *packet) number(id byte, absent int) int {
	if x, ok := p.prop(id); ok {
		return int(x.n)
	}
	return absent
}

func (p *packet) has(id byte) bool { _, ok := p.prop(id); return ok }

// all are the values of a property that may repeat, as name=value for pairs.
func (p *packet) all(id byte) (vs []string) {
	for _, x := range p.props {
		switch {
		case x.id != id:
		case id == propUser:
			vs = append(vs, x.s+"="+x.value)
		default:
			vs = append(vs, fmt.Sprint(x.n))
		}
	}
	return vs
}

func (p *packet) String() string {
	s := typeNames[p.typ]
	switch p.typ {
	case tPublish:
		s += fmt.Sprintf(" #%d q%d dup=%t retain=%t %.80q %.80q", p.id, p.qos(), p.dup(), p.retain(), p.topic, p.payload)
	case tConnack, tDisconnect, tAuth:
		s += fmt.Sprintf(" 0x%02X present=%t", p.code, p.present)
	case tSuback, tUnsuback:
		s += fmt.Sprintf(" #%d % x", p.id, p.codes)
	case tPuback, tPubrec, tPubrel, tPubcomp:
		s += fmt.Sprintf(" #%d 0x%02X", p.id, p.code)
	}
	for _, x := range p.props {
		s += fmt.Sprintf(" {%02X %d %.60q %.60q}", x.id, x.n, x.s, x.value)
	}
	return s
}

// readRaw reads the bytes of one packet. io.EOF: there is none.
func readRaw(r *bufio.Reader) ([]byte, error) {
	first, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	b := []byte{first}
	size := 0
	for shift := 0; ; shift += 7 {
		c, err := r.ReadByte()
		if err != nil {
			return nil, fmt.Errorf("within a fixed header: %w", err)
		}
		b = append(b, c)
		size |= int(c&0x7F) << shift
		if c < 0x80 {
			if c == 0 && shift > 0 {
				return nil, errors.New("remaining length is not in its shortest form")
			}
			break
		}
		if shift == 21 {
			return nil, errors.New("remaining length of more than four bytes")
		}
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("within a packet: %w", err)
	}
	return append(b, body...), nil
}

// reader takes a body apart; the first fault stays.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("it ends too early")
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() byte      { return r.take(1)[0] }
func (r *reader) u16() int      { return int(binary.BigEndian.Uint16(r.take(2))) }
func (r *reader) u32() uint32   { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) bytes() string { return string(r.take(r.u16())) }

func (r *reader) text() string {
	s := r.bytes()
	if !utf8.ValidString(s) || slices.Contains([]byte(s), 0) {
		r.fail("%q is not a UTF-8 string", s)
	}
	return s
}

func (r *reader) varint() (n int) {
	for shift := 0; shift <= 21; shift += 7 {
		c := r.u8()
		n |= int(c&0x7F) << shift
		if c < 0x80 {
			if c == 0 && shift > 0 {
				r.fail("a variable byte integer is not in its shortest form")
			}
			return n
		}
	}
	r.fail("a variable byte integer of more than four bytes")
	return 0
}

// packetID reads a packet identifier, which is never 0.
func (r *reader) packetID() int {
	id := r.u16()
	if id == 0 {
		r.fail("a packet identifier of 0")
	}
	return id
}

// Which properties a server may send in which packet, by type.
var serverProps = [16][]byte{
	tConnack: {propSessionExpiry, propReceiveMaximum, propMaximumQoS, propRetainAvailable, propMaximumPacket, propAssignedID, propTopicAliasMax,
		propReasonString, propUser, propWildcardAvail, propSubIDAvail, propSharedAvail, propServerKeepAlive, propResponseInfo,
		propServerReference, propAuthMethod, propAuthData},
	tPublish: {propPayloadFormat, propMessageExpiry, propTopicAlias, propResponseTopic, propCorrelation, propUser, propSubscriptionID, propContentType},
	tPuback:  {propReasonString, propUser}, tPubrec: {propReasonString, propUser}, tPubrel: {propReasonString, propUser},
	tPubcomp: {propReasonString, propUser}, tSuback: {propReasonString, propUser}, tUnsuback: {propReasonString, propUser},
	tDisconnect: {propReasonString, propUser, propServerReference},
	tAuth:       {propAuthMethod, propAuthData, propReasonString, propUser},
}

func (r *reader) props(p *packet) {
	n := r.varint()
	block := reader{b: r.take(n), err: r.err}
	for len(block.b) > 0 && block.err == nil {
		block.prop(p)
	}
	if r.err == nil {
		r.err = block.err
	}
}

func (r *reader) prop(p *packet) {
	x := property{id: r.u8()}
	if !slices.Contains(serverProps[p.typ], x.id) {
		r.fail("property %02X does not belong there", x.id)
		return
	}
	if p.has(x.id) && x.id != propUser && x.id != propSubscriptionID {
		r.fail("property %02X twice", x.id)
	}
	limit := func(low, high uint32) {
		if x.n < low || x.n > high {
			r.fail("property %02X has the value %d", x.id, x.n)
		}
	}
	switch x.id {
	case propPayloadFormat, propMaximumQoS, propRetainAvailable, propWildcardAvail, propSubIDAvail, propSharedAvail:
		x.n = uint32(r.u8())
		limit(0, 1)
	case propServerKeepAlive, propTopicAliasMax:
		x.n = uint32(r.u16())
	case propReceiveMaximum, propTopicAlias:
		x.n = uint32(r.u16())
		limit(1, 65535)
	case propMessageExpiry, propSessionExpiry:
		x.n = r.u32()
	case propMaximumPacket:
		x.n = r.u32()
		limit(1, 1<<32-1)
	case propSubscriptionID:
		x.n = uint32(r.varint())
		limit(1, 268_435_455)
	case propCorrelation, propAuthData:
		x.s = r.bytes()
	case propUser:
		x.s, x.value = r.text(), r.text()
	default:
		x.s = r.text()
	}
	p.props = append(p.props, x)
}

// Which codes a server may send in which packet of 5.0, by type.
var serverCodes = [16][]byte{
	tConnack: {0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F},
	tPuback:  {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}, tPubrec: {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	tPubrel: {0, 0x92}, tPubcomp: {0, 0x92},
	tSuback:   {0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2},
	tUnsuback: {0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91},
	tDisconnect: {0, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B,
		0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2},
	tAuth: {0, 0x18},
}

func (r *reader) reason(p *packet) byte {
	c := r.u8()
	if !slices.Contains(serverCodes[p.typ], c) {
		r.fail("reason code 0x%02X does not belong there", c)
	}
	return c
}

// decode reads a packet that a server has sent to a client of version v, and says what is wrong with it.
func decode(b []byte, v byte) (*packet, error) {
	p := &packet{raw: b, typ: b[0] >> 4, flags: b[0] & 15}
	n := 1
	for b[n] >= 0x80 {
		n++
	}
	r := &reader{b: b[n+1:]}
	want := byte(0)
	if p.typ == tPubrel {
		want = 2
	}
	if p.typ != tPublish && p.flags != want {
		r.fail("reserved flag bits are %04b", p.flags)
	}
	switch p.typ {
	case tConnack:
		r.connack(p, v)
	case tPublish:
		r.publish(p, v)
	case tPuback, tPubrec, tPubrel, tPubcomp:
		p.id = r.packetID()
		if v == v5 && len(r.b) > 0 {
			p.code = r.reason(p)
			if len(r.b) > 0 {
				r.props(p)
			}
		}
	case tSuback, tUnsuback:
		r.suback(p, v)
	case tPingresp:
	case tDisconnect, tAuth:
		if v < v5 {
			r.fail("there is no such packet from a server before 5.0")
		} else if len(r.b) > 0 {
			p.code = r.reason(p)
			if len(r.b) > 0 {
				r.props(p)
			}
		}
	default:
		r.fail("a server does not send it")
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes are left over", len(r.b))
	}
	if r.err != nil {
		return p, fmt.Errorf("the server sent a wrong %s: %w: % x", typeNames[p.typ], r.err, b[:min(len(b), 200)])
	}
	return p, nil
}

func (r *reader) connack(p *packet, v byte) {
	flags := r.u8()
	if flags > 1 {
		r.fail("reserved acknowledge flags %08b", flags)
	}
	p.present = flags == 1
	if v == v5 {
		p.code = r.reason(p)
		r.props(p)
	} else if p.code = r.u8(); p.code > 5 {
		r.fail("return code %d is reserved", p.code)
	}
	if p.present && p.code != 0 {
		r.fail("session present in a refusal")
	}
}

func (r *reader) publish(p *packet, v byte) {
	p.topic = r.text()
	switch {
	case p.qos() == 3:
		r.fail("QoS 3")
	case p.qos() == 0 && p.dup():
		r.fail("DUP with QoS 0")
	case p.qos() > 0:
		p.id = r.packetID()
	}
	if v == v5 {
		r.props(p)
	}
	if p.topic == "" && !p.has(propTopicAlias) {
		r.fail("neither topic nor alias")
	}
	if slices.ContainsFunc([]byte(p.topic), func(c byte) bool { return c == '+' || c == '#' }) {
		r.fail("a wildcard in the topic")
	}
	p.payload = string(r.b)
	r.b = nil
}

func (r *reader) suback(p *packet, v byte) {
	p.id = r.packetID()
	if v == v5 {
		r.props(p)
	} else if p.typ == tUnsuback {
		return
	}
	p.codes = r.take(len(r.b))
	for _, c := range p.codes {
		if v == v5 && !slices.Contains(serverCodes[p.typ], c) || v < v5 && c > 2 && c != 0x80 {
			r.fail("code 0x%02X does not belong there", c)
		}
	}
}
