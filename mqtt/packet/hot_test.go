package packet

import (
	"bytes"
	"testing"
)

var hotTopic = []byte("/hfp/v2/journey/ongoing/vp/bus/0012/01211/2550/1/Kamppi")

func hotPublish(qos byte, user bool) *Publish {
	p := &Publish{QoS: qos, Topic: hotTopic, PacketID: 9, Payload: bytes.Repeat([]byte("x"), 300)}
	if user {
		p.Props.User = []UserProperty{{"sim-device", "0012/01211"}, {"sim-seq", "1234567"}, {"sim-time", "1700000000000000"}}
		p.Props.Has, p.Props.MessageExpiry = PMessageExpiry, 60
	}
	return p
}

func TestPublishDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 1024)
	for _, v := range []Version{V311, V5} {
		for qos := range byte(3) {
			p := hotPublish(qos, false)
			wire, err := p.Append(nil, v)
			if err != nil {
				t.Fatal(err)
			}
			d := &Decoder{Version: v, Server: true}
			if n := testing.AllocsPerRun(100, func() {
				if _, n, _, err := d.Next(wire); n != len(wire) || err != nil {
					t.Fatal(n, err)
				}
			}); n != 0 {
				t.Errorf("%v QoS %d: decode allocates %v times", v, qos, n)
			}
			if n := testing.AllocsPerRun(100, func() {
				local := Publish{QoS: qos, Topic: hotTopic, PacketID: 9, Payload: wire}
				if _, _, err := AppendPublish(buf, &local, v); err != nil {
					t.Fatal(err)
				}
			}); n != 0 {
				t.Errorf("%v QoS %d: encode allocates %v times", v, qos, n)
			}
		}
	}
}

// With properties: no allocation for numbers, one copy for all strings of a packet.
func TestPropertiesAllocateOnce(t *testing.T) {
	p := hotPublish(1, true)
	wire, _ := p.Append(nil, V5)
	d := &Decoder{Version: V5, Server: true}
	if n := testing.AllocsPerRun(100, func() { d.Next(wire) }); n > 1 {
		t.Errorf("decode with user properties allocates %v times", n)
	}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { AppendPublish(buf, p, V5) }); n != 0 {
		t.Errorf("encode with user properties allocates %v times", n)
	}
	p.Props.User = nil
	wire, _ = p.Append(nil, V5)
	if n := testing.AllocsPerRun(100, func() { d.Next(wire) }); n != 0 {
		t.Errorf("decode with an expiry allocates %v times", n)
	}
	ack := []byte{0x40, 3, 0, 1, 0x10}
	if n := testing.AllocsPerRun(100, func() { d.Next(ack) }); n != 0 {
		t.Errorf("decode of an ack allocates %v times", n)
	}
}

func TestPacketIDPlace(t *testing.T) {
	out, at, err := AppendPublish([]byte("before"), hotPublish(1, true), V5)
	if err != nil || out[at] != 0 || out[at+1] != 9 {
		t.Fatalf("packet id not at %d: %v", at, err)
	}
	out[at], out[at+1] = 0xAB, 0xCD
	p, _, _, err := (&Decoder{Version: V5, Server: true}).Next(out[len("before"):])
	if err != nil || p.(*Publish).PacketID != 0xABCD {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, at, _ := AppendPublish(nil, hotPublish(0, false), V5); at != -1 {
		t.Fatalf("QoS 0 has a packet id at %d", at)
	}
}

// One struct serves all PUBLISH packets: nothing of one shows in the next.
func TestPublishIsReused(t *testing.T) {
	d := &Decoder{Version: V5, Server: false}
	for _, c := range goodCases {
		if c.version != V5 || c.server {
			continue
		}
		if _, ok := c.want.(*Publish); !ok {
			continue
		}
		full, _, _, err := d.Next(unhex(t, c.wire))
		if err != nil {
			t.Fatal(err)
		}
		wire, _ := (&Publish{Topic: []byte("t")}).Append(nil, V5)
		again, _, _, err := d.Next(wire)
		p := again.(*Publish)
		if err != nil || full != again || !p.Props.empty() || p.PacketID != 0 || p.QoS != 0 || len(p.Payload) != 0 || p.Props.ContentType != "" {
			t.Fatalf("%+v, %v", p, err)
		}
	}
}

func BenchmarkDecodePublish(b *testing.B) {
	for _, c := range []struct {
		name string
		v    Version
		qos  byte
		user bool
	}{{"3.1.1 QoS0", V311, 0, false}, {"5 QoS1", V5, 1, false}, {"5 QoS1 user properties", V5, 1, true}} {
		b.Run(c.name, func(b *testing.B) {
			wire, _ := hotPublish(c.qos, c.user).Append(nil, c.v)
			d := &Decoder{Version: c.v, Server: true}
			b.ReportAllocs()
			b.SetBytes(int64(len(wire)))
			for b.Loop() {
				if _, n, _, err := d.Next(wire); n == 0 || err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncodePublish(b *testing.B) {
	for _, c := range []struct {
		name string
		v    Version
		qos  byte
		user bool
	}{{"3.1.1 QoS0", V311, 0, false}, {"5 QoS1", V5, 1, false}, {"5 QoS1 user properties", V5, 1, true}} {
		b.Run(c.name, func(b *testing.B) {
			p := hotPublish(c.qos, c.user)
			buf := make([]byte, 0, 1024)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := AppendPublish(buf, p, c.v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeAck(b *testing.B) {
	d := &Decoder{Version: V5, Server: true}
	wire := []byte{0x40, 2, 0, 1}
	b.ReportAllocs()
	for b.Loop() {
		d.Next(wire)
	}
}
