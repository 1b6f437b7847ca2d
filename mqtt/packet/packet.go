// Package packet is the codec of MQTT 3.1 (MQIsdp), 3.1.1 and 5.0 control packets: bytes in, structs out, and back.
//
// It is a push decoder over the bytes the caller has: no io.Reader, no goroutine, no allocation for a PUBLISH. Decoding never
// panics and never allocates more than a small multiple of the bytes that were really received. It knows the form of a packet,
// not when it may be sent.
package packet

import "fmt"

// Version is a protocol level.
type Version byte

const (
	V31  Version = 3 // MQIsdp
	V311 Version = 4
	V5   Version = 5
)

// Type is a control packet type (MQTT 5.0, 2.1.2).
type Type byte

const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

// Packet is one control packet. Append encodes it; ErrTooLarge if it cannot be encoded.
type Packet interface {
	Type() Type
	Append(dst []byte, v Version) ([]byte, error)
}

// Error is a decoding error with the reason code that MQTT 5.0 wants sent for it (0x81 Malformed Packet, 0x82 Protocol Error,
// 0x84 Unsupported Protocol Version, 0x95 Packet Too Large, …).
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%v)", e.Text, e.Code) }

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

// Connect is CONNECT.
type Connect struct {
	Version    Version
	CleanStart bool // Clean Session in 3.1.1
	KeepAlive  uint16
	ClientID   string
	Props      Properties
	Will       *Will
	HasUser    bool
	Username   string
	HasPass    bool
	Password   []byte
}

// Will is the will of a CONNECT.
type Will struct {
	QoS     byte
	Retain  bool
	Topic   string
	Payload []byte
	Props   Properties
}

// Connack is CONNACK. In 3.1.1 Code is mapped to a return code when it is encoded.
type Connack struct {
	SessionPresent bool
	Code           Code
	Props          Properties
}

// Publish is PUBLISH. Decoded, Topic and Payload (and Props.Correlation) alias the bytes decoded from.
type Publish struct {
	Dup      bool
	QoS      byte
	Retain   bool
	Topic    []byte
	PacketID uint16 // 0 for QoS 0
	Props    Properties
	Payload  []byte
}

// Ack is PUBACK, PUBREC, PUBREL or PUBCOMP.
type Ack struct {
	Kind     Type
	PacketID uint16
	Code     Code
	Props    Properties
}

// Subscribe is SUBSCRIBE.
type Subscribe struct {
	PacketID uint16
	Props    Properties
	Filters  []Filter
}

// Filter is one subscription asked for.
type Filter struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send retained, 1 only for a new subscription, 2 never
}

// Suback is SUBACK, or UNSUBACK (Kind).
type Suback struct {
	Kind     Type
	PacketID uint16
	Props    Properties
	Codes    []Code // none in an UNSUBACK of 3.1.1
}

// Unsubscribe is UNSUBSCRIBE.
type Unsubscribe struct {
	PacketID uint16
	Props    Properties
	Filters  []string
}

// Ping is PINGREQ or PINGRESP.
type Ping struct{ Kind Type }

// Disconnect is DISCONNECT; 3.1.1 has no code or properties.
type Disconnect struct {
	Code  Code
	Props Properties
}

// Auth is AUTH.
type Auth struct {
	Code  Code
	Props Properties
}
