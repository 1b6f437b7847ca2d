package conformance

import (
	"bufio"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// fault alters what a server says: it gets a packet, and returns the bytes that go on instead.
type fault func(b []byte) []byte

// only makes a fault of what is done to packets of one type.
func only(typ byte, alter func(b []byte) []byte) func() fault {
	return func() fault {
		return func(b []byte) []byte {
			if b[0]>>4 == typ {
				return alter(b)
			}
			return b
		}
	}
}

func lost([]byte) []byte { return nil }

// proxy stands before a broker and alters what it says, on each connection with a new fault.
func proxy(t *testing.T, broker string, faults func() fault, closes bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	pass := func(client, server net.Conn) {
		alter := faults()
		for r := bufio.NewReader(server); ; {
			b, err := readRaw(r)
			if err != nil {
				break
			}
			client.Write(alter(b)) // an error shows in the next read
		}
		if closes {
			client.Close()
		}
	}
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", broker)
			if err != nil {
				client.Close()
				continue
			}
			wg.Go(func() { pass(client, server) })
			wg.Go(func() {
				defer client.Close()
				defer server.Close()
				server.(*net.TCPConn).SetLinger(0) // a client that is cut off must not look as if it had closed in order
				b := make([]byte, 4096)
				for {
					n, err := client.Read(b)
					if err != nil {
						return
					}
					if _, err := server.Write(b[:n]); err != nil && closes {
						return
					}
				}
			})
		}
	})
	return l.Addr().String()
}

// The suite has teeth: a broker that is at fault is found out, by the statement that it breaks. A proxy makes the faults; without
// one the same checks pass through it.
func TestSuiteFindsFaults(t *testing.T) {
	if *broker != "" {
		t.Skip("another broker is being checked")
	}
	t.Parallel()
	addr := boot(t, "").addr
	set5, n := all(t, parts5), 0
	publish := func(alter func(b []byte) []byte) func() fault { return only(tPublish, alter) }
	every := func(n int, alter func(b []byte) []byte) func() fault {
		return func() fault {
			seen := 0
			return func(b []byte) []byte {
				if b[0]>>4 != tPublish {
					return b
				}
				if seen++; seen%n == 0 {
					return alter(b)
				}
				return b
			}
		}
	}
	swapped := func() fault {
		var held []byte
		return func(b []byte) []byte {
			switch {
			case b[0]>>4 != tPublish:
				return b
			case held == nil:
				held = b
				return nil
			}
			two := cat(b, held)
			held = nil
			return two
		}
	}
	set := func(i int, mask byte) func(b []byte) []byte {
		return func(b []byte) []byte { b[i] |= mask; return b }
	}
	cleared := func(i int, mask byte) func(b []byte) []byte {
		return func(b []byte) []byte { b[i] &^= mask; return b }
	}
	twice := func(b []byte) []byte { return cat(b, b) }
	open := func() fault { return func(b []byte) []byte { return b } }
	for name, c := range map[string]struct {
		faults func() fault
		closes bool
		breaks string
	}{
		"loses a message":             {every(5, lost), true, "MQTT-4.5.0-1"},
		"delivers twice":              {publish(twice), true, "MQTT-4.3.3-10"},
		"swaps messages":              {swapped, true, "MQTT-4.6.0-5"},
		"sends again without DUP":     {publish(cleared(0, 8)), true, "MQTT-3.3.1-1"},
		"leaves RETAIN set":           {publish(set(0, 1)), true, "MQTT-3.3.1-12"},
		"clears RETAIN":               {publish(cleared(0, 1)), true, "MQTT-3.3.1-9"},
		"acknowledges another id":     {only(tPuback, set(3, 0x40)), true, "MQTT-2.2.1-5"},
		"finds a session always":      {only(tConnack, set(2, 1)), true, "MQTT-3.2.2-2"},
		"finds a session never":       {only(tConnack, cleared(2, 1)), true, "MQTT-3.1.2-5"},
		"forgets PUBREL":              {only(tPubrel, lost), true, "MQTT-4.3.3-4"},
		"forgets PUBCOMP":             {only(tPubcomp, lost), true, "MQTT-4.3.3-11"},
		"uses a reserved flag":        {only(tPingresp, set(0, 1)), true, "MQTT-3.12.4-1"},
		"uses ids of 0":               {only(tSuback, func(b []byte) []byte { b[2], b[3] = 0, 0; return b }), true, "MQTT-2.2.1-6"},
		"gives another reason":        {only(tDisconnect, func(b []byte) []byte { b[2] = 0x97; return b }), true, "MQTT-3.1.4-3"},
		"says CONNACK twice":          {only(tConnack, twice), true, "MQTT-3.2.0-2"},
		"does not close":              {open, false, "MQTT-3.1.0-2"},
		"stops at a fault":            {only(tDisconnect, lost), false, "MQTT-4.13.1-1"},
		"answers a PINGREQ too often": {only(tPingresp, twice), true, "MQTT-3.3.4-1"},
	} {
		t.Run(name, func(t *testing.T) {
			n++
			prefix := fmt.Sprintf("cft%s%d", session, n)
			through := func(faults func() fault, closes bool, patience time.Duration) *recorder {
				e := &env{addr: proxy(t, addr, faults, closes), v: v5, prefix: prefix, patience: patience}
				return record(t, e, set5[c.breaks])
			}
			if r := through(open, true, patience); r.failed() {
				t.Fatalf("%s does not pass without a fault: %q", c.breaks, r.says)
			}
			r := through(c.faults, c.closes, 300*time.Millisecond)
			if !r.failed() {
				t.Fatalf("%s was not found broken", c.breaks)
			}
			t.Logf("%s: %.200q", c.breaks, r.says)
		})
	}
}

// recorder is a test that only remembers how it went.
type recorder struct {
	testing.TB
	mu   sync.Mutex
	says []string // why it failed
}

func (r *recorder) failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.says) > 0
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.says = append(r.says, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Error(args ...any)   { r.Errorf("%s", fmt.Sprint(args...)) }
func (r *recorder) Fatal(args ...any)   { r.Fatalf("%s", fmt.Sprint(args...)) }
func (r *recorder) Failed() bool        { return r.failed() }
func (r *recorder) Log(...any)          {}
func (r *recorder) Logf(string, ...any) {}

// record runs a check and returns how it went.
func record(t *testing.T, e *env, f check) *recorder {
	r := &recorder{TB: t}
	e.TB = r
	over := make(chan struct{})
	go func() {
		defer close(over)
		if nothing := e.show(f); nothing != "" { // which is not what was to be shown
			r.Errorf("nothing to see: %s", nothing)
		}
	}()
	<-over
	return r
}
