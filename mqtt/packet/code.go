package packet

import "fmt"

// Code is a reason code (MQTT 5.0, 2.4). Codes of 0x80 and above are failures.
type Code byte

const (
	Success                     Code = 0x00 // also Normal disconnection and Granted QoS 0
	GrantedQoS1                 Code = 0x01
	GrantedQoS2                 Code = 0x02
	DisconnectWithWill          Code = 0x04
	NoMatchingSubscribers       Code = 0x10
	NoSubscriptionExisted       Code = 0x11
	ContinueAuthentication      Code = 0x18
	ReAuthenticate              Code = 0x19
	UnspecifiedError            Code = 0x80
	MalformedPacket             Code = 0x81
	ProtocolError               Code = 0x82
	ImplementationSpecificError Code = 0x83
	UnsupportedProtocolVersion  Code = 0x84
	ClientIDNotValid            Code = 0x85
	BadUsernameOrPassword       Code = 0x86
	NotAuthorized               Code = 0x87
	ServerUnavailable           Code = 0x88
	ServerBusy                  Code = 0x89
	Banned                      Code = 0x8A
	ServerShuttingDown          Code = 0x8B
	BadAuthenticationMethod     Code = 0x8C
	KeepAliveTimeout            Code = 0x8D
	SessionTakenOver            Code = 0x8E
	TopicFilterInvalid          Code = 0x8F
	TopicNameInvalid            Code = 0x90
	PacketIDInUse               Code = 0x91
	PacketIDNotFound            Code = 0x92
	ReceiveMaximumExceeded      Code = 0x93
	TopicAliasInvalid           Code = 0x94
	PacketTooLarge              Code = 0x95
	MessageRateTooHigh          Code = 0x96
	QuotaExceeded               Code = 0x97
	AdministrativeAction        Code = 0x98
	PayloadFormatInvalid        Code = 0x99
	RetainNotSupported          Code = 0x9A
	QoSNotSupported             Code = 0x9B
	UseAnotherServer            Code = 0x9C
	ServerMoved                 Code = 0x9D
	SharedNotSupported          Code = 0x9E
	ConnectionRateExceeded      Code = 0x9F
	MaximumConnectTime          Code = 0xA0
	SubIDsNotSupported          Code = 0xA1
	WildcardsNotSupported       Code = 0xA2
)

// Failed tells whether the code is a failure.
func (c Code) Failed() bool { return c >= 0x80 }

// String is the standard's name and the number: "Not authorized (0x87)".
func (c Code) String() string {
	if name := codeNames[c]; name != "" {
		return fmt.Sprintf("%s (0x%02X)", name, byte(c))
	}
	return fmt.Sprintf("0x%02X", byte(c))
}

// ReturnCode is the CONNACK return code of 3.1 and 3.1.1 that comes closest: 0 accepted, 1 unacceptable protocol version,
// 2 identifier rejected, 3 server unavailable, 4 bad user name or password, 5 not authorized.
func (c Code) ReturnCode() byte {
	switch c {
	case UnsupportedProtocolVersion:
		return 1
	case ClientIDNotValid:
		return 2
	case BadUsernameOrPassword:
		return 4
	case NotAuthorized, Banned, BadAuthenticationMethod:
		return 5
	}
	if !c.Failed() {
		return 0
	}
	return 3
}

// fromReturnCode is the inverse, for the return codes 0 to 5.
var fromReturnCode = [...]Code{
	Success, UnsupportedProtocolVersion, ClientIDNotValid, ServerUnavailable, BadUsernameOrPassword, NotAuthorized,
}

var codeNames = [256]string{
	Success:                     "Success",
	GrantedQoS1:                 "Granted QoS 1",
	GrantedQoS2:                 "Granted QoS 2",
	DisconnectWithWill:          "Disconnect with Will Message",
	NoMatchingSubscribers:       "No matching subscribers",
	NoSubscriptionExisted:       "No subscription existed",
	ContinueAuthentication:      "Continue authentication",
	ReAuthenticate:              "Re-authenticate",
	UnspecifiedError:            "Unspecified error",
	MalformedPacket:             "Malformed Packet",
	ProtocolError:               "Protocol Error",
	ImplementationSpecificError: "Implementation specific error",
	UnsupportedProtocolVersion:  "Unsupported Protocol Version",
	ClientIDNotValid:            "Client Identifier not valid",
	BadUsernameOrPassword:       "Bad User Name or Password",
	NotAuthorized:               "Not authorized",
	ServerUnavailable:           "Server unavailable",
	ServerBusy:                  "Server busy",
	Banned:                      "Banned",
	ServerShuttingDown:          "Server shutting down",
	BadAuthenticationMethod:     "Bad authentication method",
	KeepAliveTimeout:            "Keep Alive timeout",
	SessionTakenOver:            "Session taken over",
	TopicFilterInvalid:          "Topic Filter invalid",
	TopicNameInvalid:            "Topic Name invalid",
	PacketIDInUse:               "Packet Identifier in use",
	PacketIDNotFound:            "Packet Identifier not found",
	ReceiveMaximumExceeded:      "Receive Maximum exceeded",
	TopicAliasInvalid:           "Topic Alias invalid",
	PacketTooLarge:              "Packet too large",
	MessageRateTooHigh:          "Message rate too high",
	QuotaExceeded:               "Quota exceeded",
	AdministrativeAction:        "Administrative action",
	PayloadFormatInvalid:        "Payload format invalid",
	RetainNotSupported:          "Retain not supported",
	QoSNotSupported:             "QoS not supported",
	UseAnotherServer:            "Use another server",
	ServerMoved:                 "Server moved",
	SharedNotSupported:          "Shared Subscriptions not supported",
	ConnectionRateExceeded:      "Connection rate exceeded",
	MaximumConnectTime:          "Maximum connect time",
	SubIDsNotSupported:          "Subscription Identifiers not supported",
	WildcardsNotSupported:       "Wildcard Subscriptions not supported",
}

// codeSet is a set of reason codes.
type codeSet [4]uint64

func codes(cs ...Code) (s codeSet) {
	for _, c := range cs {
		s[c>>6] |= 1 << (c & 63)
	}
	return s
}

func (s *codeSet) has(c Code) bool { return s[c>>6]&(1<<(c&63)) != 0 }

// codesOf says which reason codes a packet of 5.0 may carry (MQTT 5.0, 2.4).
var codesOf = [16]codeSet{
	CONNACK: codes(Success, UnspecifiedError, MalformedPacket, ProtocolError, ImplementationSpecificError,
		UnsupportedProtocolVersion, ClientIDNotValid, BadUsernameOrPassword, NotAuthorized, ServerUnavailable, ServerBusy,
		Banned, BadAuthenticationMethod, TopicNameInvalid, PacketTooLarge, QuotaExceeded, PayloadFormatInvalid,
		RetainNotSupported, QoSNotSupported, UseAnotherServer, ServerMoved, ConnectionRateExceeded),
	PUBACK:  publishCodes,
	PUBREC:  publishCodes,
	PUBREL:  codes(Success, PacketIDNotFound),
	PUBCOMP: codes(Success, PacketIDNotFound),
	SUBACK: codes(Success, GrantedQoS1, GrantedQoS2, UnspecifiedError, ImplementationSpecificError, NotAuthorized,
		TopicFilterInvalid, PacketIDInUse, QuotaExceeded, SharedNotSupported, SubIDsNotSupported, WildcardsNotSupported),
	UNSUBACK: codes(Success, NoSubscriptionExisted, UnspecifiedError, ImplementationSpecificError, NotAuthorized,
		TopicFilterInvalid, PacketIDInUse),
	DISCONNECT: codes(Success, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError,
		ImplementationSpecificError, NotAuthorized, ServerBusy, ServerShuttingDown, BadAuthenticationMethod, KeepAliveTimeout,
		SessionTakenOver, TopicFilterInvalid, TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge,
		MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid, RetainNotSupported, QoSNotSupported,
		UseAnotherServer, ServerMoved, SharedNotSupported, ConnectionRateExceeded, MaximumConnectTime, SubIDsNotSupported,
		WildcardsNotSupported),
	AUTH: codes(Success, ContinueAuthentication, ReAuthenticate),
}

var publishCodes = codes(Success, NoMatchingSubscribers, UnspecifiedError, ImplementationSpecificError, NotAuthorized,
	TopicNameInvalid, PacketIDInUse, QuotaExceeded, PayloadFormatInvalid)
