package packet

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// FuzzDecode feeds a connection's bytes to a decoder: it never panics, fails only with *Error, and what it decodes encodes to
// bytes that decode to the same.
func FuzzDecode(f *testing.F) {
	for _, c := range goodCases {
		f.Add(byte(c.version), c.server, unhex(f, c.wire))
	}
	for _, c := range badCases {
		f.Add(byte(c.version), c.server, unhex(f, c.wire))
	}
	f.Add(byte(0), true, unhex(f, "10 0c 0004 4d515454 04 02 0000 0000 c000 30 03 0001 61 e000"))
	f.Fuzz(func(t *testing.T, version byte, server bool, wire []byte) {
		v := Version(version)
		if v != 0 && (v < V31 || v > V5) {
			return
		}
		d := &Decoder{Version: v, Server: server, MaxSize: 1 << 20}
		for len(wire) > 0 {
			p, n, need, err := d.Next(wire)
			if err != nil {
				var e *Error
				if !errors.As(err, &e) || !e.Code.Failed() || n != 0 || p != nil {
					t.Fatalf("%v, %d, %T: %v", p, n, err, err)
				}
				return
			}
			if n == 0 {
				if p != nil || need != 0 && need <= len(wire) {
					t.Fatalf("needs %d bytes of %d: %v", need, len(wire), p)
				}
				return
			}
			again(t, d, p, wire[:n])
			wire = wire[n:]
		}
	})
}

func again(t *testing.T, d *Decoder, p Packet, wire []byte) {
	out, err := p.Append(nil, d.Version)
	if err != nil {
		t.Fatalf("cannot encode %+v, decoded from % x: %v", p, wire, err)
	}
	if len(out) > len(wire) {
		t.Fatalf("encoded % x longer than decoded % x", out, wire)
	}
	second := &Decoder{Version: d.Version, Server: d.Server}
	if p.Type() == CONNECT {
		second.Version = 0
	}
	q, n, _, err := second.Next(out)
	if err != nil || n != len(out) {
		t.Fatalf("% x, encoded from %+v: %v", out, p, err)
	}
	once, _ := q.Append(nil, d.Version)
	if !bytes.Equal(out, once) || !same(p, q) {
		t.Fatalf("not a fixed point:\n%+v\n%+v", p, q)
	}
}

// same compares packets up to what a version of MQTT cannot say, and up to slices that were used before and are empty now.
func same(p, q Packet) bool {
	switch p := p.(type) {
	case *Publish:
		a, b := *p, *q.(*Publish)
		if a.QoS == 0 {
			a.Dup, b.Dup = false, false
		}
		clean(&a.Props)
		clean(&b.Props)
		return reflect.DeepEqual(a, b)
	case *Ack:
		a, b := *p, *q.(*Ack)
		clean(&a.Props)
		clean(&b.Props)
		return reflect.DeepEqual(a, b)
	}
	return reflect.DeepEqual(p, q)
}

// clean makes an emptied slice nil.
func clean(p *Properties) {
	if len(p.User) == 0 {
		p.User = nil
	}
	if len(p.SubscriptionIDs) == 0 {
		p.SubscriptionIDs = nil
	}
}
