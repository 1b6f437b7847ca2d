package packet

import "encoding/binary"

// maxVarint is the largest Variable Byte Integer, and so the largest remaining length.
const maxVarint = 268_435_455

// Decoder decodes the packets of one connection. Set Version after CONNECT (it starts at 0 = expect CONNECT, which sets it as
// soon as the protocol level is known, so that even a CONNECT refused for another reason can be answered). A client sets it
// before it reads CONNACK.
type Decoder struct {
	Version Version
	MaxSize int  // largest whole packet accepted, bytes; larger: *Error{PacketTooLarge} as soon as the fixed header is known. 0: MQTT's own limit
	Server  bool // true: refuses packet types only a server sends, and the reverse

	publish *Publish // handed out again by every Next
	ack     *Ack     // likewise
}

// Next decodes the packet at the start of buf. n is its whole length; n == 0, p == nil, err == nil means more bytes are needed.
// need, then, is how many bytes the packet has in all if known, else 0.
//
// The Packet (and what it aliases) is valid until the next call of Next or until buf changes. A *Publish is always the same
// struct, and so is an *Ack: their slices are used again too. All strings are copies, and so is everything in any other packet.
// An error is an *Error; the connection cannot be decoded further.
func (d *Decoder) Next(buf []byte) (p Packet, n int, need int, err error) {
	if len(buf) == 0 {
		return nil, 0, 0, nil
	}
	typ, flags := Type(buf[0]>>4), buf[0]&0x0F
	if err := d.admit(typ, flags); err != nil {
		return nil, 0, 0, err
	}
	size, width := varint(buf[1:])
	if width <= 0 {
		if width < 0 {
			err = malformed("Remaining Length longer than four bytes")
		}
		return nil, 0, 0, err
	}
	total := 1 + width + size
	if d.MaxSize > 0 && total > d.MaxSize {
		return nil, 0, 0, &Error{PacketTooLarge, "packet larger than the limit"}
	}
	if len(buf) < total {
		return nil, 0, total, nil
	}
	p, err = d.decode(typ, flags, buf[1+width:total:total])
	if err == nil && d.Version == V5 && width != varintSize(size) {
		err = malformed("Remaining Length not in its shortest form") // MQTT-1.5.5-1
	}
	if err != nil {
		return nil, 0, 0, err
	}
	return p, total, 0, nil
}

// senders says who sends a packet type.
const (
	fromClient = 1 << iota
	fromServer
	only5       // not before 5.0
	fromServer5 // by a server not before 5.0
)

var senders = [16]byte{
	CONNECT:     fromClient,
	CONNACK:     fromServer,
	PUBLISH:     fromClient | fromServer,
	PUBACK:      fromClient | fromServer,
	PUBREC:      fromClient | fromServer,
	PUBREL:      fromClient | fromServer,
	PUBCOMP:     fromClient | fromServer,
	SUBSCRIBE:   fromClient,
	SUBACK:      fromServer,
	UNSUBSCRIBE: fromClient,
	UNSUBACK:    fromServer,
	PINGREQ:     fromClient,
	PINGRESP:    fromServer,
	DISCONNECT:  fromClient | fromServer | fromServer5,
	AUTH:        fromClient | fromServer | only5,
}

// admit refuses what cannot be right whatever follows: a type that the other side does not send or not yet, reserved bits.
func (d *Decoder) admit(typ Type, flags byte) error {
	from := senders[typ]
	if from == 0 {
		return malformed("packet type 0")
	}
	if d.Version == 0 {
		if typ != CONNECT || !d.Server {
			return protocolError("first packet is not CONNECT") // MQTT-3.1.0-1
		}
		return nil // what its flags must be depends on the version within
	}
	sender := byte(fromServer)
	if d.Server {
		sender = fromClient
	}
	switch {
	case from&sender == 0,
		from&only5 != 0 && d.Version < V5,
		from&fromServer5 != 0 && d.Version < V5 && !d.Server:
		return protocolError(typ.String() + " from the wrong side")
	case typ == CONNECT:
		return protocolError("second CONNECT") // MQTT-3.1.0-2
	case typ != PUBLISH && d.Version > V31 && flags != fixedFlags(typ):
		return malformed("reserved flag bits") // MQTT-2.1.3-1
	}
	return nil
}

// fixedFlags are the flag bits that every packet but PUBLISH must have.
func fixedFlags(typ Type) byte {
	switch typ {
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return 0x02
	}
	return 0
}

func (d *Decoder) decode(typ Type, flags byte, body []byte) (Packet, error) {
	switch typ {
	case PUBLISH:
		return d.decodePublish(flags, body)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		return d.decodeAck(typ, body)
	}
	r := &reader{b: body}
	var p Packet
	switch typ {
	case CONNECT:
		p = d.decodeConnect(r, flags)
	case CONNACK:
		p = d.decodeConnack(r)
	case SUBSCRIBE:
		p = d.decodeSubscribe(r)
	case SUBACK, UNSUBACK:
		p = d.decodeSuback(r, typ)
	case UNSUBSCRIBE:
		p = d.decodeUnsubscribe(r)
	case PINGREQ, PINGRESP:
		p = &Ping{Kind: typ}
	case DISCONNECT:
		p = d.decodeDisconnect(r)
	case AUTH:
		p = d.decodeAuth(r)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return p, nil
}

// varint reads a Variable Byte Integer. width is its length; 0 if b ends within it, negative if it is longer than four bytes.
func varint(b []byte) (v, width int) {
	for i := range b {
		if i == 4 {
			return 0, -1
		}
		v |= int(b[i]&0x7F) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	if len(b) >= 4 {
		return 0, -1
	}
	return 0, 0
}

// reader takes a packet's body apart. The first failure stays; what is read after it is zero.
type reader struct {
	b     []byte
	err   error
	alias bool   // binary data may alias b, and strings may share one copy of all
	all   []byte // what b was at first, if alias
	copy  string // of all, once there is a string in it
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(malformed("packet ends too early"))
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) varint() int {
	v, width := varint(r.b)
	if width <= 0 || width != varintSize(v) {
		r.fail(malformed("bad Variable Byte Integer"))
		return 0
	}
	r.take(width)
	return v
}

// packetID reads a packet identifier, which is never 0.
func (r *reader) packetID() uint16 {
	id := r.uint16()
	if id == 0 {
		r.fail(protocolError("Packet Identifier of 0")) // MQTT-2.2.1-3
	}
	return id
}

// binary reads binary data: a copy, unless r may alias.
func (r *reader) binary() []byte {
	b := r.take(int(r.uint16()))
	if r.alias || b == nil {
		return b
	}
	return append(make([]byte, 0, len(b)), b...)
}

// string reads a UTF-8 string.
func (r *reader) string() string {
	b := r.take(int(r.uint16()))
	if !validText(b) {
		r.fail(malformed("string is not UTF-8, or has U+0000"))
		return ""
	}
	if !r.alias || len(b) == 0 {
		return string(b)
	}
	if r.copy == "" {
		r.copy = string(r.all)
	}
	end := len(r.all) - len(r.b)
	return r.copy[end-len(b) : end]
}

// texts counts the strings that are left, each followed by some more bytes, so that a list of them is allocated once.
func (r *reader) texts(more int) (n int) {
	for b := r.b; len(b) >= 2; n++ {
		size := 2 + int(binary.BigEndian.Uint16(b)) + more
		b = b[min(size, len(b)):]
	}
	return n
}

// end returns the failure, if any; bytes that are left over are one.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = malformed("bytes after the end of the packet")
	}
	return r.err
}
