// Package packet is the codec of MQTT 3.1 (MQIsdp), 3.1.1 and 5.0 control packets: bytes in, structs out, and back.
//
// It is a push decoder over the bytes the caller has: no io.Reader, no goroutine, no allocation for a PUBLISH. Decoding never
// panics and never allocates more than a small multiple of the bytes that were really received. It knows the form of a packet,
// not when it may be sent.
//
// What it checks: lengths, reserved bits, enumerated values, which property and which reason code belongs to which packet, and
// that every string is UTF-8 without U+0000 and surrogates. Control characters and non-characters, which the standard says
// should not be sent but may be, pass here; mqtt/topic refuses control characters in topics. Whether a topic or filter is a
// legal one is mqtt/topic's to say. The rules that 3.1 leaves open (flag bits of other packets than PUBLISH) are not enforced
// on 3.1 clients, nor the shortest form of a length on any but 5.0 ones.
package packet

import (
	"errors"
	"fmt"
)

// Version is a protocol level.
type Version byte

const (
	V31  Version = 3 // MQIsdp
	V311 Version = 4
	V5   Version = 5
)

func (v Version) String() string {
	switch v {
	case V31:
		return "3.1"
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	}
	return fmt.Sprintf("level %d", byte(v))
}

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

var typeNames = [16]string{
	"packet type 0", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
	"UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}

func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("packet type %d", byte(t))
}

// Packet is one control packet. Append encodes it behind dst; on an error dst is unchanged.
type Packet interface {
	Type() Type
	Append(dst []byte, v Version) ([]byte, error)
}

var (
	// ErrTooLarge says that a string, or the whole packet, is longer than MQTT can carry.
	ErrTooLarge = errors.New("packet: longer than MQTT can carry")
	// ErrInvalid says that MQTT, or the version asked for, has no such packet: a QoS of 3, an AUTH in 3.1.1, a property that
	// belongs elsewhere.
	ErrInvalid = errors.New("packet: no such packet in this version of MQTT")
)

// Error is a decoding error with the reason code that MQTT 5.0 wants sent for it (0x81 Malformed Packet, 0x82 Protocol Error,
// 0x84 Unsupported Protocol Version, 0x95 Packet Too Large, …).
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Text, e.Code) }

func malformed(text string) error     { return &Error{MalformedPacket, text} }
func protocolError(text string) error { return &Error{ProtocolError, text} }
