package transport

import (
	"encoding/binary"
	"io"
	"math"
	"sync"
)

// frames is the server's side of WebSocket (RFC 6455) without extensions: a decoder that works in place on whatever bytes have come,
// however they are cut, and never holds more than a header and the payload of one control frame.
type frames struct {
	head   [maxHeader]byte
	have   uint8 // of head
	within bool  // a frame's payload
	op     byte
	final  bool
	began  bool   // a message that is not at its end
	mask   uint32 // turned to the next byte
	left   uint64 // of the payload
	ctl    []byte // payload of a control frame, so far

	mu      *sync.Mutex // the Conn's; guards the rest
	pong    []byte
	ponged  bool   // pong is to be sent
	leaving bool   // Close is to be sent
	said    bool   // Close is on its way: nothing follows
	code    uint16 // of Close
}

const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10

	final  = 0x80
	masked = 0x80

	maxHeader  = 14
	maxControl = 125
	maxAround  = 2 + maxControl + 4 + 10 // what fill adds: a pong, Close, and a header
)

// Codes of a Close frame.
const (
	closeNormal      = 1000
	closeProtocol    = 1002
	closeUnsupported = 1003
)

var (
	errClosed   = &Error{"connection_closed_by_client", io.EOF}
	errMessages = failed("websocket_not_binary", "WebSocket: a message that is not binary")
)

func violation(text string) error { return failed("websocket_protocol_error", "WebSocket: "+text) }

// decode leaves in b[:n] what the frames in b carry. After an error nothing that follows counts.
func (f *frames) decode(b []byte) (n int, err error) {
	for in := b; len(in) > 0; {
		if !f.within {
			used, whole := f.header(in)
			in = in[used:]
			if !whole {
				return n, nil
			}
			if err = f.begin(); err != nil {
				f.end(err)
				return n, err
			}
		}
		part := in[:min(uint64(len(in)), f.left)]
		in = in[len(part):]
		f.left -= uint64(len(part))
		f.mask = unmask(part, f.mask)
		if f.op >= opClose {
			f.ctl = append(f.ctl, part...)
		} else {
			n += copy(b[n:], part)
		}
		if f.left > 0 {
			continue
		}
		f.within = false
		if f.op >= opClose {
			if err = f.control(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// header gathers a header; used is what it takes of b.
func (f *frames) header(b []byte) (used int, whole bool) {
	for f.have < 2 || int(f.have) < f.headerSize() {
		if used == len(b) {
			return used, false
		}
		f.head[f.have] = b[used]
		f.have++
		used++
	}
	return used, true
}

func (f *frames) headerSize() int {
	size := 2
	switch f.head[1] &^ masked {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if f.head[1]&masked != 0 {
		size += 4
	}
	return size
}

// begin checks a whole header.
func (f *frames) begin() error {
	h := f.head[:f.have]
	f.have = 0
	f.final, f.op = h[0]&final != 0, h[0]&0x0F
	short := uint64(h[1] &^ masked)
	switch f.left = short; short {
	case 126:
		f.left = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		f.left = binary.BigEndian.Uint64(h[2:])
	}
	switch {
	case h[0]&0x70 != 0:
		return violation("a reserved bit is set")
	case h[1]&masked == 0:
		return violation("a frame of a client without a mask")
	case f.left > math.MaxInt64, short == 126 && f.left < 126, short == 127 && f.left <= math.MaxUint16:
		return violation("a length that is not written as it should be")
	case f.op >= opClose && (!f.final || f.left > maxControl):
		return violation("a control frame in fragments, or longer than 125 bytes")
	case f.op > opPong || f.op > opBinary && f.op < opClose:
		return violation("an unknown kind of frame")
	case f.op == opText:
		return errMessages // MQTT-6.0.0-1
	case f.op == opBinary && f.began:
		return violation("a message within a message")
	case f.op == opContinuation && !f.began:
		return violation("the continuation of no message")
	}
	f.mask = binary.LittleEndian.Uint32(h[len(h)-4:])
	if f.op < opClose {
		f.began = !f.final
	}
	f.within = true
	f.ctl = f.ctl[:0]
	return nil
}

// control acts on a whole control frame.
func (f *frames) control() error {
	switch f.op {
	case opPing:
		f.mu.Lock()
		f.pong, f.ponged = append(f.pong[:0], f.ctl...), true // of several that wait, only the last has to be answered
		f.mu.Unlock()
	case opClose:
		if len(f.ctl) == 1 {
			err := violation("a Close frame with half a code")
			f.end(err)
			return err
		}
		f.end(errClosed)
		return errClosed
	}
	return nil
}

// end chooses the code of our Close.
func (f *frames) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch err {
	case errClosed:
		f.code = closeNormal
	case errMessages:
		f.code = closeUnsupported
	default:
		f.code = closeProtocol
	}
}

// unmask unmasks b, and returns the mask turned to what follows.
func unmask(b []byte, mask uint32) uint32 {
	wide := uint64(mask)<<32 | uint64(mask)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(mask)
		mask = mask>>8 | mask<<24
	}
	return mask
}

// pending, appendDue and bye are called under the lock.
func (f *frames) pending() bool { return f.ponged && !f.said }

// appendDue appends the control frames that are due.
func (f *frames) appendDue(b []byte) []byte {
	if f.said {
		return b
	}
	if f.ponged {
		f.ponged = false
		b = append(appendHeader(b, opPong, len(f.pong)), f.pong...)
	}
	if f.leaving {
		f.said = true
		b = binary.BigEndian.AppendUint16(appendHeader(b, opClose, 2), f.code)
	}
	return b
}

// bye makes Close due.
func (f *frames) bye() {
	f.leaving = true
	if f.code == 0 {
		f.code = closeNormal
	}
}

// appendHeader appends the header of an unmasked frame that is a message.
func appendHeader(b []byte, op byte, n int) []byte {
	b = append(b, final|op)
	switch {
	case n < 126:
		return append(b, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
}
