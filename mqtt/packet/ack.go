package packet

import "encoding/binary"

// Ack is PUBACK, PUBREC, PUBREL or PUBCOMP.
type Ack struct {
	Kind     Type
	PacketID uint16
	Code     Code
	Props    Properties
}

// Type is the kind.
func (a *Ack) Type() Type { return a.Kind }

func (d *Decoder) decodeAck(kind Type, b []byte) (Packet, error) {
	a := d.ack
	if a == nil {
		a = &Ack{}
		d.ack = a
	} else if !a.Props.empty() {
		a.Props.reset()
	}
	r := reader{b: b}
	a.Kind, a.PacketID, a.Code = kind, r.packetID(), Success
	if d.Version == V5 && len(r.b) > 0 {
		a.Code = Code(r.byte())
		if !codesOf[kind].has(a.Code) {
			r.fail(protocolError("reason code that does not belong to " + kind.String())) // MQTT-3.4.2-1
		}
		if len(r.b) > 0 {
			r.properties(&a.Props, inAck)
		}
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return a, nil
}

// Append encodes a, in its short form if it can be.
func (a *Ack) Append(dst []byte, v Version) ([]byte, error) {
	if a.Kind < PUBACK || a.Kind > PUBCOMP {
		return dst, ErrInvalid
	}
	size, inner := 2, 0
	if v >= V5 && (a.Code != Success || !a.Props.empty()) {
		size = 3
		if !a.Props.empty() {
			block, n, err := a.Props.block(v, inAck)
			if err != nil {
				return dst, err
			}
			size, inner = 3+block, n
		}
	}
	out, err := header(dst, a.Kind, size)
	if err != nil {
		return dst, err
	}
	out = binary.BigEndian.AppendUint16(out, a.PacketID)
	if size > 2 {
		out = append(out, byte(a.Code))
	}
	if size > 3 {
		out = a.Props.append(out, inner)
	}
	return out, nil
}
