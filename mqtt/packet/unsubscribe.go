package packet

import "encoding/binary"

// Unsubscribe is UNSUBSCRIBE.
type Unsubscribe struct {
	PacketID uint16
	Props    Properties
	Filters  []string
}

// Type is UNSUBSCRIBE.
func (u *Unsubscribe) Type() Type { return UNSUBSCRIBE }

func (d *Decoder) decodeUnsubscribe(r *reader) *Unsubscribe {
	u := &Unsubscribe{PacketID: r.packetID()}
	if d.Version == V5 {
		r.properties(&u.Props, inUnsubscribe)
	}
	if r.err == nil && len(r.b) == 0 {
		r.fail(protocolError("UNSUBSCRIBE without a filter")) // MQTT-3.10.3-2
	}
	u.Filters = make([]string, 0, r.texts(0))
	for len(r.b) > 0 {
		f := r.string()
		if f == "" {
			r.fail(malformed("empty topic filter")) // MQTT-4.7.3-1
		}
		u.Filters = append(u.Filters, f)
	}
	return u
}

// Append encodes u.
func (u *Unsubscribe) Append(dst []byte, v Version) ([]byte, error) {
	block, inner, err := u.Props.block(v, inUnsubscribe)
	if err != nil {
		return dst, err
	}
	size := 2 + block
	for _, f := range u.Filters {
		if f == "" {
			return dst, ErrInvalid
		}
		size += text(len(f), &err)
	}
	if len(u.Filters) == 0 {
		return dst, ErrInvalid
	}
	if err != nil {
		return dst, err
	}
	out, err := header(dst, UNSUBSCRIBE, size)
	if err != nil {
		return dst, err
	}
	out = binary.BigEndian.AppendUint16(out, u.PacketID)
	out = u.Props.appendBlock(out, v, inner)
	for _, f := range u.Filters {
		out = appendString(out, f)
	}
	return out, nil
}
