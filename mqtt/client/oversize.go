package client

import (
	"encoding/binary"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Before MQTT 5 nobody can tell a server how large a packet may be. What of one that is too large would be kept is discarded as it comes:
// of a PUBLISH what precedes the payload is read, since the server wants an answer, and no more.

// oversized begins to deal with a packet of so many bytes at the start of the buffer, of which there is only a part yet. nil: more of it
// has to come first.
func (l *link) oversized(size int) (*packet.Publish, error) {
	buf := l.buf[l.from:l.to]
	if packet.Type(buf[0]>>4) != packet.PUBLISH {
		return nil, &packet.Error{Code: packet.PacketTooLarge, Text: "packet larger than the limit"}
	}
	head := 2
	for buf[head-1] >= 0x80 { // of the length, of which all is there
		head++
	}
	at := head + 2
	if len(buf) < at {
		return nil, nil
	}
	at += int(binary.BigEndian.Uint16(buf[head:]))
	if buf[0]&0x06 != 0 { // QoS
		at += 2
	}
	switch {
	case at > size:
		return nil, &packet.Error{Code: packet.MalformedPacket, Text: "packet ends too early"}
	case len(buf) < at:
		return nil, nil
	}
	bare := binary.AppendUvarint([]byte{buf[0]}, uint64(at-head)) // the same packet without its payload: what is wrong with any is wrong with it
	p, _, _, err := l.dec.Next(append(bare, buf[head:at]...))
	if err != nil {
		return nil, err
	}
	return p.(*packet.Publish), l.discard(size)
}

// discard reads to the end of a packet of so many bytes.
func (l *link) discard(size int) error {
	for size > l.to-l.from {
		size -= l.to - l.from
		l.from, l.to = 0, 0
		m, err := l.conn.Read(l.buf)
		if m == 0 && err != nil {
			return err
		}
		l.heard.Add(1)
		l.to = m
	}
	l.from += size
	return nil
}
