package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
)

// clientFrame is a frame as a client sends it.
func clientFrame(first byte, payload string) []byte {
	b := appendHeader(nil, first, len(payload))
	b[0] = first
	b[1] |= masked
	mask := [4]byte{0xA1, 0xB2, 0xC3, 0xD4}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

const bin = final | opBinary

func newFrames() *frames { return &frames{mu: &sync.Mutex{}} }

// decodeIn decodes b in pieces of at most size bytes.
func decodeIn(f *frames, b []byte, size int) (out []byte, err error) {
	for len(b) > 0 && err == nil {
		piece := bytes.Clone(b[:min(size, len(b))])
		b = b[len(piece):]
		var n int
		n, err = f.decode(piece)
		out = append(out, piece[:n]...)
	}
	return out, err
}

func TestFramesDecode(t *testing.T) {
	long := strings.Repeat("0123456789", 7000)
	var b []byte
	for _, f := range [][]byte{
		clientFrame(bin, "one"), clientFrame(bin, ""), clientFrame(final|opPing, "p1"), clientFrame(opBinary, "tw"), clientFrame(final|opPing, "p2"),
		clientFrame(opContinuation, ""), clientFrame(final|opPong, "unasked"), clientFrame(final|opContinuation, "o"), clientFrame(bin, long[:200]),
		clientFrame(bin, long), clientFrame(final|opPing, strings.Repeat("x", 125)),
	} {
		b = append(b, f...)
	}
	want := "onetwo" + long[:200] + long
	for _, size := range []int{1, 2, 3, 5, 7, 13, 14, 15, 1000, 65536, len(b)} {
		f := newFrames()
		out, err := decodeIn(f, b, size)
		if err != nil || string(out) != want {
			t.Fatalf("in pieces of %d: %v, %d bytes", size, err, len(out))
		}
		if !f.pending() || string(f.pong) != strings.Repeat("x", 125) {
			t.Errorf("pong %q", f.pong)
		}
		if got := f.appendDue(nil); len(got) != 127 || got[0] != final|opPong || got[1] != 125 || f.pending() {
			t.Errorf("pong frame % x", got)
		}
	}
}

func TestFramesRefuse(t *testing.T) {
	unmasked := append(appendHeader(nil, opBinary, 1), 'x')
	length := func(short byte, n uint64) []byte {
		b := []byte{bin, masked | short}
		if short == 126 {
			return append(binary.BigEndian.AppendUint16(b, uint16(n)), 0, 0, 0, 0)
		}
		return append(binary.BigEndian.AppendUint64(b, n), 0, 0, 0, 0)
	}
	for name, c := range map[string]struct {
		frames []byte
		code   uint16
		reason string
	}{
		"unmasked":               {unmasked, 1002, "websocket_protocol_error"},
		"text":                   {clientFrame(final|opText, "hello"), 1003, "websocket_not_binary"},
		"reserved bit":           {clientFrame(bin|0x40, "x"), 1002, "websocket_protocol_error"},
		"unknown data frame":     {clientFrame(final|3, "x"), 1002, "websocket_protocol_error"},
		"unknown control frame":  {clientFrame(final|11, "x"), 1002, "websocket_protocol_error"},
		"fragmented ping":        {clientFrame(opPing, "x"), 1002, "websocket_protocol_error"},
		"fragmented Close":       {clientFrame(opClose, ""), 1002, "websocket_protocol_error"},
		"ping of 126 bytes":      {clientFrame(final|opPing, strings.Repeat("x", 126)), 1002, "websocket_protocol_error"},
		"message in a message":   {append(clientFrame(opBinary, "x"), clientFrame(bin, "y")...), 1002, "websocket_protocol_error"},
		"continuation of none":   {clientFrame(final|opContinuation, "x"), 1002, "websocket_protocol_error"},
		"length with its sign":   {length(127, 1<<63), 1002, "websocket_protocol_error"},
		"16 bits for a small":    {length(126, 125), 1002, "websocket_protocol_error"},
		"64 bits for a small":    {length(127, math.MaxUint16), 1002, "websocket_protocol_error"},
		"Close with half a code": {clientFrame(final|opClose, "x"), 1002, "websocket_protocol_error"},
		"Close":                  {clientFrame(final|opClose, "\x03\xe8bye"), 1000, "connection_closed_by_client"},
		"empty Close":            {clientFrame(final|opClose, ""), 1000, "connection_closed_by_client"},
	} {
		for _, size := range []int{1, 1000} {
			f := newFrames()
			_, err := decodeIn(f, append(clientFrame(bin, "before"), c.frames...), size)
			var e *Error
			if !errors.As(err, &e) || e.Reason != c.reason {
				t.Errorf("%s: %v, want %s", name, err, c.reason)
				continue
			}
			f.bye()
			want := binary.BigEndian.AppendUint16([]byte{final | opClose, 2}, c.code)
			if got := f.appendDue(nil); !bytes.Equal(got, want) {
				t.Errorf("%s: Close % x, want % x", name, got, want)
			}
			if got := f.appendDue(nil); len(got) != 0 {
				t.Errorf("%s: something after Close: % x", name, got)
			}
		}
	}
}

// A frame may announce what it likes: nothing is kept for it, and its payload is passed on as it comes.
func TestFramesHugeLength(t *testing.T) {
	f := newFrames()
	head := binary.BigEndian.AppendUint64([]byte{bin, masked | 127}, math.MaxInt64)
	b := append(append(head, 0, 0, 0, 0), "payload"...)
	if allocs := testing.AllocsPerRun(10, func() {
		*f = frames{mu: f.mu}
		in := b
		if n, err := f.decode(in); n != 7 || err != nil {
			t.Fatal(n, err)
		}
		copy(b, head)
		copy(b[len(head):], "\x00\x00\x00\x00payload")
	}); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// FuzzFrames holds the decoder against a plain one, however the bytes are cut.
func FuzzFrames(f *testing.F) {
	for _, seed := range [][]byte{
		clientFrame(bin, "one"), append(clientFrame(opBinary, "tw"), clientFrame(final|opContinuation, "o")...),
		append(clientFrame(final|opPing, "ping"), clientFrame(bin, strings.Repeat("x", 300))...), clientFrame(final|opClose, "\x03\xe8"),
		clientFrame(final|opText, "t"), {bin, 1, 'x'}, {bin, masked | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4},
	} {
		f.Add(seed, uint8(1))
		f.Add(seed, uint8(200))
	}
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		fr := newFrames()
		out, err := decodeIn(fr, b, int(size)+1)
		want, bad := plainDecode(b)
		if !bytes.Equal(out, want) || (err != nil) != bad {
			t.Fatalf("got %q %v, want %q, refused: %v", out, err, want, bad)
		}
		if cap(fr.ctl) > 1024 {
			t.Fatalf("%d bytes kept", cap(fr.ctl))
		}
	})
}

// plainDecode is the decoder as one would write it for a whole byte sequence, from RFC 6455, 5.2.
func plainDecode(b []byte) (out []byte, bad bool) {
	open := false
	for {
		if len(b) < 2 {
			return out, false
		}
		fin, rsv, op, mask, n := b[0]&0x80 != 0, b[0]&0x70, b[0]&0x0F, b[1]&0x80 != 0, uint64(b[1]&0x7F)
		at := 2
		minimal := true
		switch n {
		case 126:
			if at += 2; len(b) >= at {
				n = uint64(binary.BigEndian.Uint16(b[2:]))
				minimal = n > 125
			}
		case 127:
			if at += 8; len(b) >= at {
				n = binary.BigEndian.Uint64(b[2:])
				minimal = n > 65535
			}
		}
		if mask {
			at += 4
		}
		if len(b) < at {
			return out, false
		}
		control := op >= 8
		switch {
		case rsv != 0, !mask, !minimal, n>>63 != 0, control && (!fin || n > 125), op > 10, op > 2 && op < 8, op == 1, op == 2 && open, op == 0 && !open:
			return out, true
		}
		key := b[at-4 : at]
		payload := b[at:]
		whole := uint64(len(payload)) >= n
		if whole {
			payload = payload[:n]
		}
		for i, x := range payload {
			if !control {
				out = append(out, x^key[i%4])
			}
		}
		if !control {
			open = !fin
		}
		if !whole {
			return out, false
		}
		if op == 8 {
			return out, true
		}
		b = b[at+int(n):]
	}
}
