package client

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// TestOversized has a server of 3.1.1 send what is too large: it is answered and not kept, the connection and the messages around it stay.
func TestOversized(t *testing.T) {
	for _, chunk := range []int{1, 1 << 16} { // bytes written at once, of what is sent first
		t.Run(fmt.Sprint(chunk), func(t *testing.T) {
			dial, conns := serve(t)
			got := make(chan string, 16)
			c := New(Options{Dial: dial, Connect: packet.Connect{Version: packet.V311, ClientID: "c"}, MaxPacket: 1000,
				OnMessage:   func(p *packet.Publish) { got <- fmt.Sprintf("%s %d %d", p.Topic, p.QoS, len(p.Payload)) },
				OnDiscarded: func(p *packet.Publish) { got <- fmt.Sprintf("%s %d discarded %d", p.Topic, p.QoS, len(p.Payload)) }})
			s := accept(t, c, conns, false, 0)
			defer s.conn.Close()
			send := func(p packet.Packet, chunk int) {
				t.Helper()
				wire, err := p.Append(nil, packet.V311)
				if err != nil {
					t.Fatal(err)
				}
				s.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
				head := wire[:min(len(wire), 40)]
				for i := 0; i < len(head); i += chunk {
					if _, err := s.conn.Write(head[i:min(i+chunk, len(head))]); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := s.conn.Write(wire[len(head):]); len(wire) > len(head) && err != nil {
					t.Fatal(err)
				}
			}
			expect := func(want string, answer packet.Type, id uint16) {
				t.Helper()
				if what := <-got; what != want {
					t.Fatalf("got %q, want %q", what, want)
				}
				if answer == 0 {
					return
				}
				if a, ok := s.next().(*packet.Ack); !ok || a.Kind != answer || a.PacketID != id {
					t.Fatalf("answered %+v", a)
				}
			}
			large := bytes.Repeat([]byte("x"), 4<<20)
			topic := []byte("some/topic")
			send(&packet.Publish{Topic: topic, QoS: 1, PacketID: 7, Payload: large}, chunk)
			expect("some/topic 1 discarded 0", packet.PUBACK, 7)
			send(&packet.Publish{Topic: topic, QoS: 1, PacketID: 8, Payload: []byte("small")}, chunk)
			expect("some/topic 1 5", packet.PUBACK, 8)
			send(&packet.Publish{Topic: topic, Payload: large}, chunk)
			send(&packet.Publish{Topic: topic, Payload: large[:2000]}, chunk) // whole in one buffer
			expect("some/topic 0 discarded 0", 0, 0)
			expect("some/topic 0 discarded 0", 0, 0)
			send(&packet.Publish{Topic: topic, QoS: 2, PacketID: 9, Payload: large[:1<<20]}, chunk)
			expect("some/topic 2 discarded 0", packet.PUBREC, 9)
			send(&packet.Publish{Topic: topic, QoS: 2, PacketID: 9, Dup: true, Payload: large[:1<<20]}, chunk)
			if a, ok := s.next().(*packet.Ack); !ok || a.Kind != packet.PUBREC {
				t.Fatalf("answered %+v", a)
			}
			send(&packet.Ack{Kind: packet.PUBREL, PacketID: 9}, chunk)
			if a, ok := s.next().(*packet.Ack); !ok || a.Kind != packet.PUBCOMP {
				t.Fatalf("answered %+v", a)
			}
			if st := c.Stats(); st.Discarded != 4 || st.Received != 1 || st.Duplicates != 1 {
				t.Errorf("counted %+v", st)
			}
			c.mu.Lock()
			l := c.link
			c.mu.Unlock()
			if _, err := s.conn.Write([]byte{byte(packet.SUBACK) << 4, 0x88, 0x27, 0, 1}); err != nil { // of 5,000 codes
				t.Fatal(err)
			}
			<-l.ended
			if e, ok := errors.AsType[*packet.Error](c.Err()); !ok || e.Code != packet.PacketTooLarge {
				t.Errorf("after a SUBACK that is too large: %v", c.Err())
			}
			if len(l.buf) > 2*bufEnough {
				t.Errorf("a buffer of %d bytes", len(l.buf))
			}
		})
	}
}

// TestOversizedIsAPacket: what would be wrong with a smaller PUBLISH is wrong with one that is too large, and ends the connection.
func TestOversizedIsAPacket(t *testing.T) {
	for _, c := range []struct {
		name string
		head []byte // what comes before the payload
	}{
		{"packet id of 0", []byte{0x32, 0xD0, 0x0F, 0, 1, 't', 0, 0}},
		{"QoS of 3", []byte{0x36, 0xD0, 0x0F, 0, 1, 't', 0, 1}},
		{"DUP with QoS 0", []byte{0x38, 0xD0, 0x0F, 0, 1, 't'}},
		{"empty topic", []byte{0x30, 0xD0, 0x0F, 0, 0}},
		{"topic that is no text", []byte{0x30, 0xD0, 0x0F, 0, 1, 0xFF}},
		{"topic beyond the packet", []byte{0x30, 0xD0, 0x0F, 0xFF, 0xFF}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dial, conns := serve(t)
			heard := func(p *packet.Publish) { t.Errorf("taken for %q, %d bytes", p.Topic, len(p.Payload)) }
			m := New(Options{Dial: dial, Connect: packet.Connect{Version: packet.V311, ClientID: "c"}, MaxPacket: 1000, OnMessage: heard, OnDiscarded: heard})
			s := accept(t, m, conns, false, 0)
			defer s.conn.Close()
			m.mu.Lock()
			l := m.link
			m.mu.Unlock()
			s.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
			s.conn.Write(append(c.head, make([]byte, 2003-len(c.head))...))
			s.conn.Close()
			<-l.ended
			if _, ok := errors.AsType[*packet.Error](m.Err()); !ok {
				t.Errorf("ended with %v", m.Err())
			}
		})
	}
}
