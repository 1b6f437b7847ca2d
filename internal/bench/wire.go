package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// The generator writes MQTT 3.1.1 by hand: it shares the machine with what it measures, so it must cost next to nothing, and it
// must not share code with the server under test.

// everything is the filter of who receives what the loads publish. It ends in no #: NATS makes two subscriptions of that.
const everything = "bench/+/data"

const headerStamp = 16 // payload: due time (8), publisher (4), sequence (4), then filler

func appendLen(b []byte, n int) []byte {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// dial connects a client and waits for its CONNACK.
func dial(addr, id string, clean bool) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return c, hello(c, id, clean)
}

// hello says CONNECT and waits for the answer; it closes a connection that is not taken.
func hello(c net.Conn, id string, clean bool) (err error) {
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	flags := byte(0)
	if clean {
		flags = 2
	}
	body := append(appendString(nil, "MQTT"), 4, flags, 0, 0)
	body = appendString(body, id)
	if _, err := c.Write(append(appendLen([]byte{0x10}, len(body)), body...)); err != nil {
		return err
	}
	var ack [4]byte
	if _, err := io.ReadFull(c, ack[:]); err != nil {
		return fmt.Errorf("CONNACK: %w", err)
	}
	if ack[0] != 0x20 || ack[3] != 0 {
		return fmt.Errorf("CONNACK % x", ack)
	}
	return nil
}

// subscribe asks for a filter and waits for the SUBACK.
func subscribe(c net.Conn, filter string, qos byte) error {
	body := appendString([]byte{0, 1}, filter)
	body = append(body, qos)
	if _, err := c.Write(append(appendLen([]byte{0x82}, len(body)), body...)); err != nil {
		return err
	}
	var ack [5]byte
	if _, err := io.ReadFull(c, ack[:]); err != nil {
		return err
	}
	if ack[0] != 0x90 || ack[4] > 2 {
		return fmt.Errorf("SUBACK % x", ack)
	}
	return nil
}

// message is a PUBLISH laid out once and patched for each send.
type message struct {
	bytes     []byte
	id, stamp int // where the packet id and the stamp are
	reading   bool
}

// noise is a message of size incompressible bytes, but for the stamp the same each time.
func noise(qos byte, size int) func(topic string) *message {
	return func(topic string) *message { return newMessage(topic, qos, size) }
}

// reading is a message as devices send them: 100 bytes, of them 84 of JSON with new numbers each time.
func reading(topic string) *message {
	m := newMessage(topic, 1, 100)
	m.reading = true
	return m
}

func newMessage(topic string, qos byte, size int) *message {
	n := 2 + len(topic) + size
	if qos > 0 {
		n += 2
	}
	m := &message{bytes: appendString(appendLen([]byte{0x30 | qos<<1}, n), topic)}
	if qos > 0 {
		m.id = len(m.bytes)
		m.bytes = append(m.bytes, 0, 0)
	}
	m.stamp = len(m.bytes)
	filler := make([]byte, size)
	x := uint32(size)*2654435761 + 1
	for i := range filler { // incompressible, and the same in every run
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		filler[i] = byte(x)
	}
	m.bytes = append(m.bytes, filler...)
	return m
}

func (m *message) append(b []byte, id uint16, due int64, pub, seq uint32) []byte {
	at := len(b)
	b = append(b, m.bytes...)
	if m.id > 0 {
		binary.BigEndian.PutUint16(b[at+m.id:], id)
	}
	s := b[at+m.stamp:]
	binary.BigEndian.PutUint64(s, uint64(due))
	binary.BigEndian.PutUint32(s[8:], pub)
	binary.BigEndian.PutUint32(s[12:], seq)
	if m.reading {
		x := (uint64(pub)<<32 | uint64(seq)) * 0x9E3779B97F4A7C15
		text := fmt.Appendf(s[headerStamp:headerStamp], `{"lat":60.%06d,"lon":24.%06d,"speed":%02d.%02d,"temp":%02d.%d`, x>>44%1e6, x>>24%1e6, x>>10%80, x%100, x>>50%40, x>>40%10)
		for len(text) < len(s)-headerStamp-1 {
			text = append(text, ' ')
		}
		s[len(s)-1] = '}'
	}
	return b
}

// nextPacket reads one packet; body is valid until the next call.
func nextPacket(r *bufio.Reader, buf []byte) (head byte, body []byte, err error) {
	if head, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, shift := 0, 0
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		n |= int(b&0x7f) << shift
		if shift += 7; b < 0x80 {
			break
		}
	}
	if n > len(buf) {
		return 0, nil, fmt.Errorf("packet of %d bytes", n)
	}
	if p, err := r.Peek(n); err == nil { // inside the buffer: no copy
		_, err = r.Discard(n)
		return head, p, err
	}
	_, err = io.ReadFull(r, buf[:n])
	return head, buf[:n], err
}
