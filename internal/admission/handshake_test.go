package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/certs/certtest"
)

// pair is a TLS server's side of a connection that waits for its handshake, and the client's.
func pair(t *testing.T, p Processors, l net.Listener, c *tls.Config, patience time.Duration) (client net.Conn, shake func(context.Context) error, server *tls.Conn) {
	t.Helper()
	client = dial(t, l)
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server, shake = p.Server(nc, c, patience)
	t.Cleanup(func() { server.Close() })
	return client, shake, server
}

// Whoever says nothing more holds no processor, and no more handshakes compute at once than there are processors.
func TestHandshakesShareProcessors(t *testing.T) {
	t.Parallel()
	ca, l, p := certtest.NewCA(t, "ca"), listen(t), NewProcessors(2)
	var inside, most atomic.Int32
	release := make(chan struct{})
	c := &tls.Config{Certificates: []tls.Certificate{ca.Server().TLS}}
	slow := c.Clone()
	slow.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { // which is called by who has a processor
		for n := inside.Add(1); n > most.Load(); {
			most.Store(n)
		}
		<-release
		inside.Add(-1)
		return nil, nil
	}
	const n = 8
	failed := make(chan error, n)
	for range n {
		client, shake, server := pair(t, p, l, slow, time.Minute)
		go func() { failed <- errors.Join(shake(t.Context()), server.SetDeadline(time.Now().Add(30*time.Second))) }()
		go tls.Client(client, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}).Handshake()
	}
	for deadline := time.Now().Add(30 * time.Second); inside.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody shakes hands")
		}
	}
	time.Sleep(50 * time.Millisecond) // for a third one that must not come
	close(release)
	for range n {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	if most.Load() != 2 {
		t.Errorf("%d computed at once, want 2", most.Load())
	}
	if len(p) != 0 {
		t.Errorf("%d processors are still held", len(p))
	}
}

// A client that begins and says no more is ended when its patience is over, and holds nothing meanwhile.
func TestHalfAHandshake(t *testing.T) {
	t.Parallel()
	ca, l, p := certtest.NewCA(t, "ca"), listen(t), NewProcessors(1)
	c := &tls.Config{Certificates: []tls.Certificate{ca.Server().TLS}}
	silent, shakeSilent, _ := pair(t, p, l, c, 300*time.Millisecond)
	if _, err := silent.Write([]byte{22, 3, 1}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- shakeSilent(t.Context()) }()
	client, shake, server := pair(t, p, l, c, time.Minute)
	go func() {
		tc := tls.Client(client, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"})
		tc.Write([]byte("hello"))
	}()
	if err := shake(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := server.Read(b); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
	if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("who said nothing more: %v", err)
	}
}

// Waiting for a processor is no fault of the client's, and ends with the server.
func TestWaitingForAProcessor(t *testing.T) {
	t.Parallel()
	ca, l, p := certtest.NewCA(t, "ca"), listen(t), NewProcessors(1)
	c := &tls.Config{Certificates: []tls.Certificate{ca.Server().TLS}}
	begin := func(ctx context.Context) chan error {
		client, shake, _ := pair(t, p, l, c, 2*time.Second)
		done := make(chan error, 1)
		go func() { done <- shake(ctx) }()
		go tls.Client(client, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}).Handshake()
		return done
	}
	if !p.TryEnter() || p.TryEnter() {
		t.Fatal("there is one processor")
	}
	ctx, stop := context.WithCancel(t.Context())
	waits, stopped := begin(t.Context()), begin(ctx)
	time.Sleep(2500 * time.Millisecond) // longer than its patience
	stop()
	if err := <-stopped; err == nil {
		t.Error("a handshake goes on without its server")
	}
	p.Leave()
	if err := <-waits; err != nil {
		t.Errorf("a client that we let wait: %v", err)
	}
}

// Whoever closes a connection may do so right when its handshake ends.
func TestCloseAtTheEndOfAHandshake(t *testing.T) {
	t.Parallel()
	ca, l, p := certtest.NewCA(t, "ca"), listen(t), NewProcessors(1)
	c := &tls.Config{Certificates: []tls.Certificate{ca.Server().TLS}}
	for range 50 {
		client, shake, server := pair(t, p, l, c, time.Minute)
		shaken := make(chan struct{})
		go func() { _ = shake(t.Context()); close(shaken) }() // it may meet the end of the connection
		go tls.Client(client, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}).Handshake()
		for deadline := time.Now().Add(30 * time.Second); !server.ConnectionState().HandshakeComplete; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal("no handshake")
			}
		}
		server.Close()
		<-shaken
	}
	if len(p) != 0 {
		t.Errorf("%d processors are still held", len(p))
	}
}
