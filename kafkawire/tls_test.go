package kafkawire

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/millrace-io/millrace/internal/admission"
	"github.com/millrace-io/millrace/internal/certs/certtest"
)

// Clients that begin a TLS handshake and say no more hold no processor: with one to be had, another client is served at once. They end
// when their patience is over, and whoever is in does not notice.
func TestHalfTLSHandshakes(t *testing.T) {
	ca := certtest.NewCA(t, "ca")
	n, u := secured(t, Options{Processors: admission.NewProcessors(1)})
	c := &tls.Config{Certificates: []tls.Certificate{ca.Server().TLS}}
	n.serveWith(ListenerOptions{Gate: u.gate(), TLS: func() *tls.Config { return c }})
	for range 50 {
		nc, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := nc.Write([]byte{22, 3, 1, 2, 0}); err != nil { // a record's header
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); n.srv.Stats().HalfOpen < 50; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d half open", n.srv.Stats().HalfOpen)
		}
	}
	began := time.Now()
	cl := n.franz(kgo.DialTLSConfig(&tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"}), kgo.SASL(plain.Auth{User: "anna", Pass: "correct horse"}.AsMechanism()))
	if err := cl.Ping(patience(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("served after %v", took)
	}
}

// The connections that are refused leave nothing behind.
func TestRefusedConnectionsLeaveNothing(t *testing.T) {
	n, _ := secured(t, Options{MaxConnections: 2, MaxHalfOpen: 2})
	a, b := n.dial(), n.dial()
	for _, c := range []*client{a, b} {
		do[*kmsg.ApiVersionsResponse](c, 3, kmsg.NewPtrApiVersionsRequest())
	}
	for range 20 {
		n.dial().ended()
	}
	if s := n.srv.Stats(); s.Refused != 20 || s.Connections != 2 || s.HalfOpen != 2 {
		t.Errorf("%d refused, %d there, %d half open", s.Refused, s.Connections, s.HalfOpen)
	}
	a.nc.Close()
	b.nc.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if s := n.srv.Stats(); s.Connections == 0 && s.HalfOpen == 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d connections, %d half open", s.Connections, s.HalfOpen)
		}
	}
	do[*kmsg.ApiVersionsResponse](n.dial(), 3, kmsg.NewPtrApiVersionsRequest())
}
