package packet

import "encoding/binary"

// Suback is SUBACK, or UNSUBACK (Kind).
type Suback struct {
	Kind     Type
	PacketID uint16
	Props    Properties
	Codes    []Code // none in an UNSUBACK of 3.1.1
}

// Type is the kind.
func (s *Suback) Type() Type { return s.Kind }

func (d *Decoder) decodeSuback(r *reader, kind Type) *Suback {
	s := &Suback{Kind: kind, PacketID: r.packetID()}
	if d.Version == V5 {
		r.properties(&s.Props, inSuback)
	} else if kind == UNSUBACK {
		return s
	}
	if r.err == nil && len(r.b) == 0 {
		r.fail(malformed(kind.String() + " without a reason code"))
	}
	for _, c := range r.take(len(r.b)) {
		s.Codes = append(s.Codes, Code(c))
		if !subackCode(kind, Code(c), d.Version) {
			r.fail(protocolError("reason code that does not belong to " + kind.String()))
			break
		}
	}
	return s
}

func subackCode(kind Type, c Code, v Version) bool {
	if v == V5 {
		return codesOf[kind].has(c)
	}
	return c <= GrantedQoS2 || c == UnspecifiedError
}

// Append encodes s. Before 5.0 every failure is 0x80, and an UNSUBACK has no codes.
func (s *Suback) Append(dst []byte, v Version) ([]byte, error) {
	if s.Kind != SUBACK && s.Kind != UNSUBACK {
		return dst, ErrInvalid
	}
	codes := s.Codes
	if v < V5 && s.Kind == UNSUBACK {
		codes = nil
	}
	block, inner, err := s.Props.block(v, inSuback)
	if err != nil {
		return dst, err
	}
	out, err := header(dst, s.Kind, 2+block+len(codes))
	if err != nil {
		return dst, err
	}
	out = binary.BigEndian.AppendUint16(out, s.PacketID)
	out = s.Props.appendBlock(out, v, inner)
	for _, c := range codes {
		if v < V5 && c.Failed() {
			c = UnspecifiedError
		}
		out = append(out, byte(c))
	}
	return out, nil
}
