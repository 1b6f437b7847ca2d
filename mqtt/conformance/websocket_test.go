package conformance

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Section 6: MQTT over WebSocket, with a client of our own that lays out its frames as it likes.

var websocket = checks{
	"MQTT-6.0.0-1": binaryFrames,
	"MQTT-6.0.0-2": framesAreNoPackets,
	"MQTT-6.0.0-4": subprotocol,
}

const (
	wsContinuation = 0x0
	wsText         = 0x1
	wsBinary       = 0x2
	wsClose        = 0x8
	wsPing         = 0x9
	wsPong         = 0xA
	wsFinal        = 0x80
)

// wsConn is a connection on which every Write is one binary frame, and Read joins what the server's frames hold.
type wsConn struct {
	net.Conn
	r     *bufio.Reader
	left  int  // of the frame that is being read
	whole bool // the message before is complete
	pongs int
}

// upgrade dials the broker's WebSocket listener, and returns which subprotocol it has selected. The connection is nil if the
// upgrade was refused.
func (e *env) upgrade(protocols ...string) (w *wsConn, selected string) {
	e.Helper()
	if e.ws == "" {
		e.choice("no WebSocket listener was given (-ws)")
	}
	host, path, _ := strings.Cut(e.ws, "/")
	nc, err := net.DialTimeout("tcp", host, e.patience)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(e.patience))
	key := base64.StdEncoding.EncodeToString([]byte("sixteen bytes...")[:16])
	fmt.Fprintf(nc, "GET /%s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", path, host, key)
	if len(protocols) > 0 {
		fmt.Fprintf(nc, "Sec-WebSocket-Protocol: %s\r\n", strings.Join(protocols, ", "))
	}
	io.WriteString(nc, "\r\n") // an error shows in the answer
	c := &wsConn{Conn: nc, r: bufio.NewReader(nc), whole: true}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		if e.strict {
			e.Fatalf("upgrade: %v", err)
		}
		return nil, ""
	}
	defer resp.Body.Close() // there is none
	selected = resp.Header.Get("Sec-WebSocket-Protocol")
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, selected
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got := resp.Header.Get("Sec-WebSocket-Accept"); got != base64.StdEncoding.EncodeToString(sum[:]) {
		e.Fatalf("Sec-WebSocket-Accept is %q", got)
	}
	return c, selected
}

// overWebSocket is a client whose CONNECT is still to come.
func (e *env) overWebSocket() (*client, *wsConn) {
	e.Helper()
	w, _ := e.upgrade("mqtt")
	if w == nil {
		e.Fatal("the upgrade was refused")
	}
	return &client{e: e, nc: w, r: bufio.NewReader(w), v: e.v}, w
}

// frame sends one frame, masked as a client must.
func (w *wsConn) frame(first byte, payload []byte) error {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	_, err := w.Conn.Write(b)
	return err
}

func (w *wsConn) Write(b []byte) (int, error) {
	return len(b), w.frame(wsFinal|wsBinary, b)
}

// Read refuses what a server must not send: frames that are masked, or that hold anything but binary data.
func (w *wsConn) Read(b []byte) (int, error) {
	for w.left == 0 {
		first, err := w.r.ReadByte()
		if err != nil {
			return 0, err
		}
		size, err := w.size()
		if err != nil {
			return 0, err
		}
		switch op := first & 0x0F; {
		case op == wsClose:
			return 0, io.EOF
		case op == wsPong:
			w.pongs++
			if _, err := w.r.Discard(size); err != nil {
				return 0, err
			}
		case op == wsPing:
			payload := make([]byte, size)
			if _, err := io.ReadFull(w.r, payload); err != nil {
				return 0, err
			}
			if err := w.frame(wsFinal|wsPong, payload); err != nil {
				return 0, err
			}
		case op == wsBinary && w.whole, op == wsContinuation && !w.whole:
			w.left, w.whole = size, first&wsFinal != 0
		default:
			return 0, fmt.Errorf("the server sent a frame that begins %02X", first)
		}
	}
	n, err := w.r.Read(b[:min(len(b), w.left)])
	w.left -= n
	return n, err
}

func (w *wsConn) size() (int, error) {
	c, err := w.r.ReadByte()
	if err != nil {
		return 0, err
	}
	if c&0x80 != 0 {
		return 0, fmt.Errorf("the server sent a masked frame")
	}
	width := map[byte]int{126: 2, 127: 8}[c]
	n := int(c)
	if width > 0 {
		n = 0
		for range width {
			c, err := w.r.ReadByte()
			if err != nil {
				return 0, err
			}
			n = n<<8 | int(c)
		}
	}
	return n, nil
}

func binaryFrames(e *env) {
	sub := e.subscriber(e.topic("t"), 1)
	hello := hello{id: e.clientID()}
	for _, first := range []byte{wsFinal | wsText, wsText} { // whole, and the beginning of a longer one
		c, w := e.overWebSocket()
		c.send(hello.bytes(e.v))
		c.accepted()
		c.alive()
		m := message{topic: e.topic("t"), payload: "as text", qos: 1, id: 1}
		w.frame(first, m.bytes(e.v)) // an error shows in what is read
		for p := c.read(); p != nil; p = c.read() {
			if p.typ != tDisconnect {
				e.Fatalf("got %s after a text frame", p)
			}
		}
	}
	c, w := e.overWebSocket()
	w.frame(wsFinal|wsText, hello.bytes(e.v))
	if p := c.read(); p != nil {
		e.Fatalf("got %s after a text frame", p)
	}
	sub.nothing()
}

// framesAreNoPackets: packets are cut out of the stream of bytes, wherever frames begin and end.
func framesAreNoPackets(e *env) {
	sub := e.subscriber(e.topic("t"), 1)
	m := message{topic: e.topic("t"), payload: strings.Repeat("in pieces ", 30), qos: 1, id: 1}
	all := cat((&hello{id: e.clientID()}).bytes(e.v), m.bytes(e.v), pkt(tPingreq<<4))
	for name, lay := range map[string]func(w *wsConn){
		"one frame": func(w *wsConn) { w.frame(wsFinal|wsBinary, all) },
		"a frame for each byte": func(w *wsConn) {
			for i := range all {
				w.frame(wsFinal|wsBinary, all[i:i+1])
			}
		},
		"one message in fragments, others between": func(w *wsConn) {
			w.frame(wsBinary, all[:7])
			w.frame(wsFinal|wsPing, []byte("ping"))
			w.frame(wsContinuation, all[7:40])
			w.frame(wsContinuation, nil)
			w.frame(wsFinal|wsContinuation, all[40:])
		},
		"frames across packets, and empty ones": func(w *wsConn) {
			w.frame(wsFinal|wsBinary, nil)
			for part := range slices.Chunk(all, 150) {
				w.frame(wsFinal|wsBinary, part)
			}
		},
	} {
		e.Log(name)
		c, w := e.overWebSocket()
		lay(w)
		c.accepted()
		sub.want(m.payload)
		got := []byte{c.next().typ, c.next().typ}
		if slices.Sort(got); got[0] != tPuback || got[1] != tPingresp {
			e.Fatalf("%s: got types %v", name, got)
		}
		if strings.Contains(name, "others between") && w.pongs != 1 {
			e.Fatalf("a WebSocket ping was answered with %d pongs", w.pongs)
		}
	}
	// And back: a large message, and many small ones.
	c, _ := e.overWebSocket()
	c.send((&hello{id: e.clientID()}).bytes(e.v))
	c.accepted()
	c.subscribe(e.topic("u"), 1)
	pub := e.connect(hello{})
	for _, size := range []int{0, 100, 70_000} {
		pub.put(e.topic("u"), strings.Repeat("x", size))
		c.want(strings.Repeat("x", size))
	}
}

func subprotocol(e *env) {
	for _, offer := range [][]string{{"mqtt"}, {"mqtt", "other"}, {"other", "mqtt"}} {
		if w, selected := e.upgrade(offer...); w == nil || selected != "mqtt" {
			e.Fatalf("%q was answered %q", offer, selected)
		}
	}
	// What is not on offer is not selected.
	for _, offer := range [][]string{nil, {"other"}} {
		if _, selected := e.upgrade(offer...); selected != "" {
			e.Fatalf("%q was answered %q", offer, selected)
		}
	}
}
