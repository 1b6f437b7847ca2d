package packet

import (
	"encoding/binary"
	"math/bits"
)

// Limits on the properties of one packet. A packet beyond them is refused with 0x97 Quota exceeded.
const (
	MaxPropertyBytes  = 64 << 10 // of one property block, lengths included
	MaxUserProperties = 256
)

// PropSet is a set of single-valued properties.
type PropSet uint32

// The single-valued properties, one bit each.
const (
	PPayloadFormat PropSet = 1 << iota
	PRequestProblem
	PRequestResponse
	PMaximumQoS
	PRetainAvailable
	PWildcardAvail
	PSubIDAvail
	PSharedAvail
	PServerKeepAlive
	PReceiveMaximum
	PTopicAliasMax
	PTopicAlias
	PMessageExpiry
	PSessionExpiry
	PWillDelay
	PMaximumPacket
	PContentType
	PResponseTopic
	PAssignedClientID
	PAuthMethod
	PResponseInfo
	PServerReference
	PReasonString
	PCorrelation
	PAuthData
)

// Properties are the properties of any packet (MQTT 5.0, 2.2.2.2). Has tells which single-valued ones are there; the decoder
// refuses one that does not belong to its packet or comes twice. Empty in 3.1 and 3.1.1.
type Properties struct {
	Has PropSet // single-valued properties present

	PayloadFormat    byte
	RequestProblem   byte
	RequestResponse  byte
	MaximumQoS       byte
	RetainAvailable  byte
	WildcardAvail    byte
	SubIDAvail       byte
	SharedAvail      byte
	ServerKeepAlive  uint16
	ReceiveMaximum   uint16
	TopicAliasMax    uint16
	TopicAlias       uint16
	MessageExpiry    uint32 // seconds
	SessionExpiry    uint32 // seconds; 0xFFFFFFFF never
	WillDelay        uint32 // seconds
	MaximumPacket    uint32 // bytes
	ContentType      string
	ResponseTopic    string
	AssignedClientID string
	AuthMethod       string
	ResponseInfo     string
	ServerReference  string
	ReasonString     string
	Correlation      []byte
	AuthData         []byte
	SubscriptionIDs  []uint32       // may repeat in PUBLISH; one in SUBSCRIBE
	User             []UserProperty // in order
}

// UserProperty is a name and value; both may repeat.
type UserProperty struct{ Name, Value string }

// place is where a property block stands: a packet type, the will, or one direction of a type.
type place uint16

const (
	inConnect place = 1 << iota
	inWill
	inConnack
	inPublish  // either way
	inDelivery // a PUBLISH from a server
	inAck      // PUBACK, PUBREC, PUBREL, PUBCOMP
	inSubscribe
	inSuback // and UNSUBACK
	inUnsubscribe
	inDisconnect       // either way
	inClientDisconnect // DISCONNECT from a client
	inServerDisconnect // DISCONNECT from a server
	inAuth
)

// rule limits a numeric value beyond its type. Breaking it is a Protocol Error.
type rule byte

const (
	free    rule = iota
	flag         // 0 or 1
	nonZero      // at least 1
)

type property struct {
	id   byte
	name string
	in   place
	rule rule
}

// properties describes the single-valued properties, in the order of their bits in PropSet (MQTT 5.0, table 2-4).
var properties = [...]property{
	{0x01, "Payload Format Indicator", inPublish | inWill, flag},
	{0x17, "Request Problem Information", inConnect, flag},
	{0x19, "Request Response Information", inConnect, flag},
	{0x24, "Maximum QoS", inConnack, flag},
	{0x25, "Retain Available", inConnack, flag},
	{0x28, "Wildcard Subscription Available", inConnack, flag},
	{0x29, "Subscription Identifier Available", inConnack, flag},
	{0x2A, "Shared Subscription Available", inConnack, flag},
	{0x13, "Server Keep Alive", inConnack, free},
	{0x21, "Receive Maximum", inConnect | inConnack, nonZero},
	{0x22, "Topic Alias Maximum", inConnect | inConnack, free},
	{0x23, "Topic Alias", inPublish, nonZero},
	{0x02, "Message Expiry Interval", inPublish | inWill, free},
	{0x11, "Session Expiry Interval", inConnect | inConnack | inClientDisconnect, free},
	{0x18, "Will Delay Interval", inWill, free},
	{0x27, "Maximum Packet Size", inConnect | inConnack, nonZero},
	{0x03, "Content Type", inPublish | inWill, free},
	{0x08, "Response Topic", inPublish | inWill, free},
	{0x12, "Assigned Client Identifier", inConnack, free},
	{0x15, "Authentication Method", inConnect | inConnack | inAuth, free},
	{0x1A, "Response Information", inConnack, free},
	{0x1C, "Server Reference", inConnack | inServerDisconnect, free},
	{0x1F, "Reason String", inConnack | inAck | inSuback | inDisconnect | inAuth, free},
	{0x09, "Correlation Data", inPublish | inWill, free},
	{0x16, "Authentication Data", inConnect | inConnack | inAuth, free},
}

// The properties that may repeat, and so have no bit.
const (
	subscriptionID = 0x0B
	userProperty   = 0x26
)

// bitOf gives the index in properties of a property identifier, plus one.
var bitOf = func() (t [256]uint8) {
	for i, p := range properties {
		t[p.id] = uint8(i + 1)
	}
	return t
}()

// field points to the field behind the i-th bit; its type is the type on the wire.
func (p *Properties) field(i int) any {
	switch PropSet(1) << i {
	case PPayloadFormat:
		return &p.PayloadFormat
	case PRequestProblem:
		return &p.RequestProblem
	case PRequestResponse:
		return &p.RequestResponse
	case PMaximumQoS:
		return &p.MaximumQoS
	case PRetainAvailable:
		return &p.RetainAvailable
	case PWildcardAvail:
		return &p.WildcardAvail
	case PSubIDAvail:
		return &p.SubIDAvail
	case PSharedAvail:
		return &p.SharedAvail
	case PServerKeepAlive:
		return &p.ServerKeepAlive
	case PReceiveMaximum:
		return &p.ReceiveMaximum
	case PTopicAliasMax:
		return &p.TopicAliasMax
	case PTopicAlias:
		return &p.TopicAlias
	case PMessageExpiry:
		return &p.MessageExpiry
	case PSessionExpiry:
		return &p.SessionExpiry
	case PWillDelay:
		return &p.WillDelay
	case PMaximumPacket:
		return &p.MaximumPacket
	case PContentType:
		return &p.ContentType
	case PResponseTopic:
		return &p.ResponseTopic
	case PAssignedClientID:
		return &p.AssignedClientID
	case PAuthMethod:
		return &p.AuthMethod
	case PResponseInfo:
		return &p.ResponseInfo
	case PServerReference:
		return &p.ServerReference
	case PReasonString:
		return &p.ReasonString
	case PCorrelation:
		return &p.Correlation
	case PAuthData:
		return &p.AuthData
	}
	return nil
}

func (p *Properties) empty() bool {
	return p.Has == 0 && len(p.SubscriptionIDs) == 0 && len(p.User) == 0
}

// reset empties p for the next packet. It keeps small slices for reuse but nothing that they point to.
func (p *Properties) reset() {
	const keep = 16
	ids, user := p.SubscriptionIDs[:0], p.User
	clear(user)
	user = user[:0]
	if cap(ids) > keep {
		ids = nil
	}
	if cap(user) > keep {
		user = nil
	}
	*p = Properties{SubscriptionIDs: ids, User: user}
}

// properties reads a property block into p, which is empty.
func (r *reader) properties(p *Properties, in place) {
	n := r.varint()
	if n == 0 || r.err != nil {
		return
	}
	if n > MaxPropertyBytes {
		r.fail(&Error{QuotaExceeded, "properties longer than the limit"})
		return
	}
	block := reader{b: r.take(n), alias: r.alias, err: r.err}
	block.all = block.b
	for len(block.b) > 0 && block.err == nil {
		block.property(p, in)
	}
	r.err = block.err
}

func (r *reader) property(p *Properties, in place) {
	switch id := r.byte(); id {
	case subscriptionID:
		r.subscriptionID(p, in)
	case userProperty:
		if len(p.User) == MaxUserProperties {
			r.fail(&Error{QuotaExceeded, "more user properties than the limit"})
			return
		}
		p.User = append(p.User, UserProperty{r.string(), r.string()})
	default:
		i := int(bitOf[id]) - 1
		if i < 0 || properties[i].in&in == 0 {
			r.fail(malformed("a property that does not belong to the packet"))
			return
		}
		r.single(p, i)
	}
}

// subscriptionID reads a subscription identifier: any number of them in a delivery, one in a SUBSCRIBE, never 0.
func (r *reader) subscriptionID(p *Properties, in place) {
	switch {
	case in&(inPublish|inSubscribe) == 0:
		r.fail(malformed("a property that does not belong to the packet"))
		return
	case in == inPublish:
		r.fail(protocolError("Subscription Identifier in a PUBLISH from a client")) // MQTT-3.3.4-6
		return
	case in == inSubscribe && len(p.SubscriptionIDs) > 0:
		r.fail(protocolError("Subscription Identifier twice"))
		return
	}
	id := r.varint()
	if id == 0 {
		r.fail(protocolError("Subscription Identifier of 0"))
	}
	p.SubscriptionIDs = append(p.SubscriptionIDs, uint32(id))
}

// single reads a property that may come once.
func (r *reader) single(p *Properties, i int) {
	bit := PropSet(1) << i
	if p.Has&bit != 0 {
		r.fail(protocolError(properties[i].name + " twice"))
		return
	}
	p.Has |= bit
	number := uint32(1)
	switch f := p.field(i).(type) {
	case *byte:
		*f = r.byte()
		number = uint32(*f)
	case *uint16:
		*f = r.uint16()
		number = uint32(*f)
	case *uint32:
		*f = r.uint32()
		number = *f
	case *string:
		*f = r.string()
	case *[]byte:
		*f = r.binary()
	}
	switch rule := properties[i].rule; {
	case bit == PTopicAlias && number == 0:
		r.fail(&Error{TopicAliasInvalid, "Topic Alias of 0"}) // MQTT-3.3.2-8
	case rule == nonZero && number == 0, rule == flag && number > 1:
		r.fail(protocolError(properties[i].name + " out of range"))
	case bit == PResponseTopic && !plainTopic(p.ResponseTopic):
		r.fail(protocolError("Response Topic is empty or has a wildcard")) // MQTT-3.3.2-14
	}
}

func plainTopic(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == '+' || s[i] == '#' {
			return false
		}
	}
	return s != ""
}

// size is the encoded length of the properties without the length before them, if they can be encoded at a place.
func (p *Properties) size(in place) (n int, err error) {
	for s := p.Has; s != 0; s &= s - 1 {
		i := bits.TrailingZeros32(uint32(s))
		if i >= len(properties) || properties[i].in&in == 0 {
			return 0, ErrInvalid
		}
		switch f := p.field(i).(type) {
		case *byte:
			n += 1 + 1
		case *uint16:
			n += 1 + 2
		case *uint32:
			n += 1 + 4
		case *string:
			n += 1 + text(len(*f), &err)
		case *[]byte:
			n += 1 + text(len(*f), &err)
		}
	}
	if len(p.SubscriptionIDs) > 0 && in&(inPublish|inSubscribe) == 0 {
		return 0, ErrInvalid
	}
	for _, id := range p.SubscriptionIDs {
		if id == 0 || id > maxVarint {
			return 0, ErrInvalid
		}
		n += 1 + varintSize(int(id))
	}
	for i := range p.User {
		n += 1 + text(len(p.User[i].Name), &err) + text(len(p.User[i].Value), &err)
	}
	if n > maxVarint {
		err = ErrTooLarge
	}
	return n, err
}

// append encodes a block whose size is known.
func (p *Properties) append(dst []byte, size int) []byte {
	dst = appendVarint(dst, size)
	for s := p.Has; s != 0; s &= s - 1 {
		i := bits.TrailingZeros32(uint32(s))
		dst = append(dst, properties[i].id)
		switch f := p.field(i).(type) {
		case *byte:
			dst = append(dst, *f)
		case *uint16:
			dst = binary.BigEndian.AppendUint16(dst, *f)
		case *uint32:
			dst = binary.BigEndian.AppendUint32(dst, *f)
		case *string:
			dst = appendString(dst, *f)
		case *[]byte:
			dst = appendBinary(dst, *f)
		}
	}
	for _, id := range p.SubscriptionIDs {
		dst = appendVarint(append(dst, subscriptionID), int(id))
	}
	for i := range p.User {
		dst = append(dst, userProperty)
		dst = appendString(dst, p.User[i].Name)
		dst = appendString(dst, p.User[i].Value)
	}
	return dst
}
