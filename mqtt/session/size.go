package session

import "github.com/millrace-io/millrace/mqtt/packet"

// publishSize is the size of a PUBLISH of QoS 1 or 2 on the wire (of QoS 0: two bytes less, which nobody will miss).
func publishSize(m *Message, ids []uint32, v packet.Version) uint64 {
	n := uint64(2 + len(m.Topic) + 2 + len(m.Payload))
	if v >= packet.V5 {
		props := uint64(0)
		for _, id := range ids {
			props += 1 + varintSize(uint64(id))
		}
		if p := m.Props; p != nil {
			if p.HasExpiry {
				props += 5
			}
			if p.PayloadFormat != 0 {
				props += 2
			}
			props += textSize(p.ContentType) + textSize(p.ResponseTopic)
			if p.Correlation != nil {
				props += 3 + uint64(len(p.Correlation))
			}
			for _, u := range p.User {
				props += uint64(5 + len(u.Name) + len(u.Value))
			}
		}
		n += varintSize(props) + props
	}
	return 1 + varintSize(n) + n
}

func textSize(s string) uint64 {
	if s == "" {
		return 0
	}
	return uint64(3 + len(s))
}

func varintSize(n uint64) uint64 {
	size := uint64(1)
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
