package transport

import (
	"errors"
	"net"
	"os"
	"slices"
	"testing"
	"time"
)

func TestWatch(t *testing.T) {
	w, err := NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	tokens, ended := make(chan []uint64, 16), make(chan error, 1)
	go func() {
		var buf [4]uint64
		for {
			got, err := w.Wait(buf[:])
			if err != nil {
				ended <- err
				return
			}
			tokens <- slices.Clone(got)
		}
	}()
	next := func(want uint64) {
		t.Helper()
		select {
		case got := <-tokens:
			if len(got) != 1 || got[0] != want {
				t.Fatalf("told %#x, want %#x", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told of %#x", want)
		}
	}
	silent := func() {
		t.Helper()
		select {
		case got := <-tokens:
			t.Fatalf("told %#x", got)
		case <-time.After(20 * time.Millisecond):
		}
	}
	client, server := socketPair(t)
	raw := Socket(server)
	arm := func(token uint64, known bool) {
		t.Helper()
		if err := w.Arm(raw, token, known); err != nil {
			t.Fatal(err)
		}
	}
	const far = 7<<32 | 1 // all of a token comes back
	arm(far, false)
	silent()
	send := func() {
		t.Helper()
		if _, err := client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	send()
	next(far)
	send()
	silent() // once
	arm(2, true)
	next(2) // there are bytes already
	if _, err := server.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	arm(3, true)
	arm(4, true) // 3 is forgotten
	client.Close()
	next(4)
	arm(5, false) // it is known after all
	next(5)
	server.Close()
	if err := w.Arm(raw, 6, true); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed socket: %v", err)
	}
	w.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// socketPair is a connection over TCP.
func socketPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}
