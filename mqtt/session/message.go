package session

import "github.com/millrace-io/millrace/mqtt/packet"

const (
	flagRetain = 0x04
	flagClear  = 0x08
	flagProps  = 0x10
	flagExpiry = 0x20
)

func appendMessage(dst []byte, m *Message) []byte {
	p := m.Props
	flags := m.QoS | bit(m.Retain, flagRetain) | bit(m.Clear, flagClear) | bit(p != nil, flagProps)
	flags |= bit(p != nil && p.HasExpiry, flagExpiry)
	dst = append(dst, flags)
	dst = appendInt(dst, uint64(m.Time))
	dst = appendText(dst, m.Client)
	dst = appendBytes(dst, m.Payload)
	if p == nil {
		return dst
	}
	if p.HasExpiry {
		dst = appendInt(dst, uint64(p.Expiry))
	}
	dst = append(dst, p.PayloadFormat)
	dst = appendText(dst, p.ContentType)
	dst = appendText(dst, p.ResponseTopic)
	dst = append(dst, bit(p.Correlation != nil, 1))
	dst = appendBytes(dst, p.Correlation)
	dst = appendInt(dst, uint64(len(p.User)))
	for _, u := range p.User {
		dst = appendText(dst, u.Name)
		dst = appendText(dst, u.Value)
	}
	return dst
}

// message reads what appendMessage wrote. Payload and correlation alias the bytes.
func (r *reader) message(m *Message) {
	flags := r.byte()
	m.QoS, m.Retain, m.Clear = flags&flagQoS, flags&flagRetain != 0, flags&flagClear != 0
	if m.QoS > 2 {
		r.bad = true
	}
	m.Time, m.Client, m.Payload = int64(r.int()), r.text(), r.bytes()
	if flags&flagProps == 0 {
		return
	}
	p := &Props{}
	if p.HasExpiry = flags&flagExpiry != 0; p.HasExpiry {
		p.Expiry = r.uint32()
	}
	p.PayloadFormat, p.ContentType, p.ResponseTopic = r.byte(), r.text(), r.text()
	has := r.byte() != 0
	if c := r.bytes(); has {
		p.Correlation = c
	}
	for range r.count(2) {
		p.User = append(p.User, packet.UserProperty{Name: r.text(), Value: r.text()})
	}
	m.Props = p
}
