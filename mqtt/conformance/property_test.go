package conformance

import "slices"

// samples are the properties, each with a value that it may have in a packet from a client.
var samples = map[byte][]byte{
	propPayloadFormat: u8(1), propMessageExpiry: u32(9), propContentType: str("x"), propResponseTopic: str("x"), propCorrelation: str("x"),
	propSubscriptionID: varint(1), propSessionExpiry: u32(0), propAssignedID: str("x"), propServerKeepAlive: u16(9), propAuthMethod: str("x"),
	propAuthData: str("x"), propRequestProblem: u8(1), propWillDelay: u32(0), propRequestResponse: u8(0), propResponseInfo: str("x"),
	propServerReference: str("x"), propReasonString: str("x"), propReceiveMaximum: u16(9), propTopicAliasMax: u16(9), propTopicAlias: u16(1),
	propMaximumQoS: u8(1), propRetainAvailable: u8(1), propUser: cat(str("x"), str("y")), propMaximumPacket: u32(9999), propWildcardAvail: u8(1),
	propSubIDAvail: u8(1), propSharedAvail: u8(1),
}

// places are where a client has properties: which of them, and a packet with a block of them.
func (e *env) places() map[string]struct {
	has   []byte
	build func(ps ...[]byte) []byte
} {
	type place = struct {
		has   []byte
		build func(ps ...[]byte) []byte
	}
	message := func(ps [][]byte) []byte { return cat(str(e.topic("t")), props(ps...)) }
	acknowledge := func(first byte, id int) place {
		return place{[]byte{propReasonString, propUser}, func(ps ...[]byte) []byte { return pkt(first, u16(id), u8(0), props(ps...)) }}
	}
	return map[string]place{
		"CONNECT": {[]byte{propSessionExpiry, propReceiveMaximum, propMaximumPacket, propTopicAliasMax, propRequestResponse, propRequestProblem, propUser},
			func(ps ...[]byte) []byte {
				return pkt(tConnect<<4, str("MQTT"), []byte{v5, 2}, u16(60), props(ps...), str(e.clientID()))
			}},
		"will": {[]byte{propWillDelay, propPayloadFormat, propMessageExpiry, propContentType, propResponseTopic, propCorrelation, propUser},
			func(ps ...[]byte) []byte {
				return pkt(tConnect<<4, str("MQTT"), []byte{v5, 6}, u16(60), props(), str(e.clientID()), props(ps...), str(e.topic("t")), str(""))
			}},
		"PUBLISH": {[]byte{propPayloadFormat, propMessageExpiry, propTopicAlias, propResponseTopic, propCorrelation, propUser, propContentType},
			func(ps ...[]byte) []byte { return pkt(tPublish<<4, message(ps)) }},
		"PUBACK": acknowledge(tPuback<<4, 500), "PUBREC": acknowledge(tPubrec<<4, 500),
		"PUBREL": acknowledge(tPubrel<<4|2, 500), "PUBCOMP": acknowledge(tPubcomp<<4, 500),
		"SUBSCRIBE": {[]byte{propSubscriptionID, propUser},
			func(ps ...[]byte) []byte {
				return pkt(tSubscribe<<4|2, u16(5), props(ps...), str(e.topic("t")), u8(0))
			}},
		"UNSUBSCRIBE": {[]byte{propUser}, func(ps ...[]byte) []byte { return pkt(tUnsubscribe<<4|2, u16(5), props(ps...), str(e.topic("t"))) }},
		"DISCONNECT": {[]byte{propSessionExpiry, propReasonString, propUser},
			func(ps ...[]byte) []byte { return pkt(tDisconnect<<4, u8(0), props(ps...)) }},
	}
}

// propertyPlaces: every property is taken where it belongs, refused twice if it may stand once, and refused elsewhere.
func propertyPlaces(e *env) {
	for name, place := range e.places() {
		for id, value := range samples {
			one := place.build(prop(id, value))
			twice := place.build(prop(id, value), prop(id, value))
			isConnect := one[0]>>4 == tConnect
			refused := func(b []byte, code byte) {
				if isConnect {
					e.refused(b, 0, code)
				} else {
					e.bad(b, code)
				}
			}
			switch {
			case name == "CONNECT" && id == propAuthMethod:
				refused(one, 0x8C) // it belongs there, but no method is served
			case name == "CONNECT" && id == propAuthData:
				refused(one, 0x82) // so does this, but with a method
			case name == "PUBLISH" && id == propSubscriptionID:
				refused(one, 0x82) // and this, from a server
			case !slices.Contains(place.has, id):
				refused(one, 0x81)
			case id == propUser:
				e.taken(twice, isConnect)
			default:
				e.taken(one, isConnect)
				refused(twice, 0x82)
			}
			if e.Failed() {
				e.Fatalf("%s with property %02X", name, id)
			}
		}
		// A block that ends within a property.
		short := place.build([]byte{propUser, 0, 9, 'x'})
		if short[0]>>4 == tConnect {
			e.refused(short, 0, 0x81)
		} else {
			e.bad(short, 0x81)
		}
	}
}

// taken: the packet is no reason to end the connection.
func (e *env) taken(b []byte, isConnect bool) {
	e.Helper()
	if isConnect {
		c := e.dial()
		c.send(b)
		c.accepted()
		c.leave()
		return
	}
	c := e.connect(hello{})
	for _, p := range c.try(b) {
		if p.typ == tDisconnect {
			e.Errorf("% x was answered with %s", b, p)
		}
	}
}
