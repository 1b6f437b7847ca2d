package broker_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// states are the packets that bring a connection into the state in which the hostile bytes come.
var states = []string{
	"",
	"CONNECT v4 clean id=a",
	"CONNECT v5 id=a expiry=100 will=w",
	"CONNECT v5 clean id=a|SUBSCRIBE #1 #:2",
	`CONNECT v5 clean id=a|SUBSCRIBE #1 #:2|PUBLISH q2 #1 t=x "m"`,
	`CONNECT v5 id=a expiry=100|PUBLISH q2 #1 t=x "m"|PUBREL #1`,
}

// FuzzConnection sends bytes of any kind in every state. The broker must not panic (the connection's goroutine would recover,
// and count it), must go on serving others, and must let go of the connection.
func FuzzConnection(f *testing.F) {
	for _, line := range []string{
		"CONNECT v4 clean id=b", "CONNECT v5 clean id=b will=w", `PUBLISH q0 t=x "m"`, `PUBLISH q1 #1 t=x "m"`, `PUBLISH q2 #1 t=x "m"`,
		"PUBACK #1", "PUBREC #1", "PUBREL #1", "PUBCOMP #1", "SUBSCRIBE #2 a/+:1 b/#:2", "UNSUBSCRIBE #3 a/+", "PINGREQ", "DISCONNECT", "AUTH",
	} {
		b, err := parse(f, line).Append(nil, packet.V5)
		if err != nil {
			f.Fatal(err)
		}
		for state := range states {
			f.Add(byte(state), b)
			f.Add(byte(state), b[:len(b)/2])
		}
	}
	store := newMemStore()
	b := broker.New(broker.Options{Store: store})
	store.unlogged = b.Unlogged
	if err := b.Start(context.Background()); err != nil {
		f.Fatal(err)
	}
	l := newPipeListener()
	go b.Serve(l, broker.ListenerOptions{})
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			f.Error(err)
		}
		store.close()
	})
	dial := func() net.Conn {
		here, there := net.Pipe()
		here.SetDeadline(time.Now().Add(patience))
		l.conns <- there
		return here
	}
	f.Fuzz(func(t *testing.T, state byte, hostile []byte) {
		nc := dial()
		read := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, nc)
			read <- err
		}()
		version := packet.V5
		for _, line := range strings.Split(states[int(state)%len(states)], "|") {
			if line == "" {
				continue
			}
			p := parse(t, line)
			if p, ok := p.(*packet.Connect); ok {
				version = p.Version
			}
			bytes, err := p.Append(nil, version)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := nc.Write(bytes); err != nil {
				break
			}
		}
		nc.Write(hostile) // the broker may have closed
		nc.Close()
		if err := <-read; err != nil && !strings.Contains(err.Error(), "closed pipe") {
			t.Fatalf("read: %v", err)
		}
		other := &client{t: t, nc: dial()}
		other.send("CONNECT v4 clean id=other")
		other.expect("CONNACK")
		other.quiet()
		other.nc.Close()
		if n := b.Stats().Ended["panic"] + b.Stats().Turned["panic"]; n > 0 {
			t.Fatalf("%d panics", n)
		}
	})
}
