package packet

import "encoding/binary"

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

// The flag bits of a PUBLISH (MQTT 5.0, 3.3.1).
const (
	publishRetain = 0x01
	publishQoS    = 0x06
	publishDup    = 0x08
)

// Type is PUBLISH.
func (p *Publish) Type() Type { return PUBLISH }

func (d *Decoder) decodePublish(flags byte, b []byte) (Packet, error) {
	p := d.publish
	if p == nil {
		p = &Publish{}
		d.publish = p
	} else if !p.Props.empty() {
		p.Props.reset()
	}
	p.QoS, p.Dup, p.Retain = flags&publishQoS>>1, flags&publishDup != 0, flags&publishRetain != 0
	switch {
	case p.QoS == 3:
		return nil, malformed("QoS of 3") // MQTT-3.3.1-4
	case p.Dup && p.QoS == 0 && d.Version > V31:
		return nil, malformed("DUP with QoS 0") // MQTT-3.3.1-2
	case len(b) < 2:
		return nil, malformed("packet ends too early")
	}
	end := 2 + int(binary.BigEndian.Uint16(b))
	if len(b) < end {
		return nil, malformed("packet ends too early")
	}
	p.Topic = b[2:end:end]
	if !validText(p.Topic) {
		return nil, malformed("topic is not UTF-8, or has U+0000")
	}
	b = b[end:]
	p.PacketID = 0
	if p.QoS > 0 {
		if len(b) < 2 {
			return nil, malformed("packet ends too early")
		}
		if p.PacketID = binary.BigEndian.Uint16(b); p.PacketID == 0 {
			return nil, protocolError("Packet Identifier of 0") // MQTT-2.2.1-3
		}
		b = b[2:]
	}
	if d.Version == V5 {
		var err error
		if b, err = d.publishProperties(p, b); err != nil {
			return nil, err
		}
	}
	if len(p.Topic) == 0 && p.Props.Has&PTopicAlias == 0 {
		if d.Version < V5 {
			return nil, malformed("empty topic") // MQTT-4.7.3-1
		}
		return nil, protocolError("neither topic nor Topic Alias")
	}
	p.Payload = b
	return p, nil
}

// publishProperties decodes the properties at the start of b and returns what follows.
func (d *Decoder) publishProperties(p *Publish, b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] == 0 {
		return b[1:], nil
	}
	in := inPublish
	if !d.Server {
		in |= inDelivery
	}
	r := reader{b: b, alias: true}
	r.properties(&p.Props, in)
	return r.b, r.err
}

// Append encodes p.
func (p *Publish) Append(dst []byte, v Version) ([]byte, error) {
	out, _, err := AppendPublish(dst, p, v)
	return out, err
}

// AppendPublish encodes p with the packet id at a place the caller can patch: idAt is the index in out, or -1 for QoS 0.
func AppendPublish(dst []byte, p *Publish, v Version) (out []byte, idAt int, err error) {
	if p.QoS > 2 {
		return dst, -1, ErrInvalid
	}
	size := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		size += 2
	}
	inner := 0
	if v >= V5 {
		if !p.Props.empty() {
			if inner, err = p.Props.size(inPublish); err != nil {
				return dst, -1, err
			}
		}
		size += varintSize(inner) + inner
	}
	if len(p.Topic) > maxText || size > maxVarint {
		return dst, -1, ErrTooLarge
	}
	out = appendVarint(append(dst, p.flags()), size)
	out = appendBinary(out, p.Topic)
	idAt = -1
	if p.QoS > 0 {
		idAt = len(out)
		out = binary.BigEndian.AppendUint16(out, p.PacketID)
	}
	switch {
	case v < V5:
	case inner == 0:
		out = append(out, 0)
	default:
		out = p.Props.append(out, inner)
	}
	return append(out, p.Payload...), idAt, nil
}

// flags is the first byte of the packet.
func (p *Publish) flags() byte {
	b := byte(PUBLISH)<<4 | p.QoS<<1
	if p.Dup && p.QoS > 0 {
		b |= publishDup
	}
	if p.Retain {
		b |= publishRetain
	}
	return b
}
