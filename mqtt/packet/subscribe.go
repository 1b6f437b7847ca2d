package packet

import (
	"encoding/binary"
	"strings"
)

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

	Refused Code // never on the wire: why it is refused, by who looked at it before the session does
}

// The subscription options (MQTT 5.0, 3.8.3.1).
const (
	optionQoS            = 0x03
	optionNoLocal        = 0x04
	optionRetainAsPub    = 0x08
	optionRetainHandling = 0x30
	optionReserved       = 0xC0
)

// Type is SUBSCRIBE.
func (s *Subscribe) Type() Type { return SUBSCRIBE }

func (d *Decoder) decodeSubscribe(r *reader) *Subscribe {
	s := &Subscribe{PacketID: r.packetID()}
	if d.Version == V5 {
		r.properties(&s.Props, inSubscribe)
	}
	if r.err == nil && len(r.b) == 0 {
		r.fail(protocolError("SUBSCRIBE without a filter")) // MQTT-3.8.3-2
	}
	s.Filters = make([]Filter, 0, r.texts(1))
	for len(r.b) > 0 {
		f := Filter{Filter: r.string()}
		f.options(r, r.byte(), d.Version)
		s.Filters = append(s.Filters, f)
	}
	return s
}

func (f *Filter) options(r *reader, b byte, v Version) {
	f.QoS = b & optionQoS
	if v == V5 {
		f.NoLocal = b&optionNoLocal != 0
		f.RetainAsPublished = b&optionRetainAsPub != 0
		f.RetainHandling = b & optionRetainHandling >> 4
		b &= optionReserved
	} else {
		b &^= optionQoS
	}
	switch {
	case f.Filter == "":
		r.fail(malformed("empty topic filter")) // MQTT-4.7.3-1
	case b != 0:
		r.fail(malformed("reserved subscription options")) // MQTT-3.8.3-5
	case f.QoS == 3:
		r.fail(protocolError("subscription QoS of 3"))
	case f.RetainHandling == 3:
		r.fail(protocolError("Retain Handling of 3"))
	case f.NoLocal && strings.HasPrefix(f.Filter, "$share/"):
		r.fail(protocolError("No Local on a shared subscription")) // MQTT-3.8.3-4
	}
}

// Append encodes s. Before 5.0 only the QoS of a filter is sent.
func (s *Subscribe) Append(dst []byte, v Version) ([]byte, error) {
	block, inner, err := s.Props.block(v, inSubscribe)
	if err != nil {
		return dst, err
	}
	size := 2 + block
	for i := range s.Filters {
		f := &s.Filters[i]
		if f.QoS > 2 || f.RetainHandling > 2 || f.Filter == "" {
			return dst, ErrInvalid
		}
		size += text(len(f.Filter), &err) + 1
	}
	if len(s.Filters) == 0 || len(s.Props.SubscriptionIDs) > 1 {
		return dst, ErrInvalid
	}
	if err != nil {
		return dst, err
	}
	out, err := header(dst, SUBSCRIBE, size)
	if err != nil {
		return dst, err
	}
	out = binary.BigEndian.AppendUint16(out, s.PacketID)
	out = s.Props.appendBlock(out, v, inner)
	for i := range s.Filters {
		out = append(appendString(out, s.Filters[i].Filter), s.Filters[i].encode(v))
	}
	return out, nil
}

func (f *Filter) encode(v Version) byte {
	b := f.QoS
	if v < V5 {
		return b
	}
	if f.NoLocal {
		b |= optionNoLocal
	}
	if f.RetainAsPublished {
		b |= optionRetainAsPub
	}
	return b | f.RetainHandling<<4
}
