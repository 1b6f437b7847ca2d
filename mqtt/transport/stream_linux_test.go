package transport

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// pair is a connection over TCP whose upgrade is done, and its client.
func pair(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	c := New(there, &Options{WebSocket: &WebSocket{Path: "/mqtt"}})
	c.ws, c.open = &frames{mu: &c.mu}, true
	return c, here
}

// Frames that carry nothing cannot keep a read from ending.
func TestFloodOfPings(t *testing.T) {
	c, here := pair(t)
	flood := bytes.Repeat(clientFrame(final|opPing, ""), 4000)
	if _, err := here.Write(flood); err != nil {
		t.Fatal(err)
	}
	var n int
	var err error
	for end := time.Now().Add(20 * time.Second); n == 0 && err == nil && time.Now().Before(end); {
		c.Raw().Read(func(fd uintptr) bool {
			var again bool
			n, again, err = c.TryRead(fd, make([]byte, 64))
			return !again
		})
	}
	var e *Error
	if n != 0 || !errors.As(err, &e) || e.Reason != "websocket_protocol_error" || !strings.Contains(err.Error(), "nothing but control") {
		t.Errorf("%d %v", n, err)
	}
}

// What the reader answers (a key update, say) is bounded, however little the client takes.
func TestAnswersAreBounded(t *testing.T) {
	c, _ := pair(t)
	w, b := (*wire)(c), make([]byte, 1000)
	total := 0
	for {
		n, err := w.Write(b)
		if total += n; err != nil {
			break
		}
		if total > maxSealed {
			t.Fatalf("%d bytes are kept", total)
		}
	}
	if total == 0 || !c.Pending() {
		t.Errorf("%d bytes, pending %v", total, c.Pending())
	}
}
