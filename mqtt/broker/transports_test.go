package broker_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/admission"
	"github.com/millrace-io/millrace/internal/certs"
	"github.com/millrace-io/millrace/internal/certs/certtest"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// pki is what TLS listeners and clients of a test are made of.
type pki struct {
	ca     *certtest.CA
	files  *certtest.Files
	source *certs.Source
	later  atomic.Int64 // how far the server's clock is ahead
}

// newPKI has a server certificate, and asks for clients' if mutual.
func newPKI(t testing.TB, mutual bool) *pki {
	t.Helper()
	p := &pki{ca: certtest.NewCA(t, "fleet authority"), files: &certtest.Files{}}
	pair := p.ca.Server()
	p.files.Set("cert", pair.Cert, "key", pair.Key, "ca", p.ca.PEM, "crl", p.ca.CRL())
	o := certs.Options{Cert: "cert", Key: "key", Read: p.files.Read, Now: func() time.Time { return time.Now().Add(time.Duration(p.later.Load())) }}
	if mutual {
		o.ClientCA, o.ClientCRL = "ca", "crl"
	}
	var err error
	if p.source, err = certs.New(o); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pki) client(pair *certtest.Pair) *tls.Config {
	c := &tls.Config{RootCAs: p.ca.Pool(), ServerName: "localhost"}
	if pair != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair.TLS, nil }
	}
	return c
}

// reach dials TCP and puts layers on it, each over the one before.
func reach(layers ...func(net.Conn) (net.Conn, error)) func(string) (net.Conn, error) {
	return func(address string) (net.Conn, error) {
		network := "tcp"
		if strings.HasPrefix(address, "/") {
			network = "unix"
		}
		nc, err := net.Dial(network, address)
		for _, layer := range layers {
			if err != nil {
				return nil, err
			}
			nc, err = layer(nc)
		}
		return nc, err
	}
}

func overTLS(c *tls.Config) func(net.Conn) (net.Conn, error) {
	return func(nc net.Conn) (net.Conn, error) { return tls.Client(nc, c), nil }
}

func behind(header string) func(net.Conn) (net.Conn, error) {
	return func(nc net.Conn) (net.Conn, error) {
		_, err := io.WriteString(nc, header)
		return nc, err
	}
}

// webSocket is a client's side that cuts what is written into frames of a size, one message each or all of them one.
type webSocket struct {
	net.Conn
	in    *bufio.Reader
	left  int
	frame int  // size
	whole bool // one message per Write
	eof   bool // the server has said Close
}

const upgradeRequest = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"

func overWebSocket(frame int, whole bool) func(net.Conn) (net.Conn, error) {
	return func(nc net.Conn) (net.Conn, error) {
		if _, err := io.WriteString(nc, upgradeRequest); err != nil {
			return nil, err
		}
		w := &webSocket{Conn: nc, in: bufio.NewReader(nc), frame: frame, whole: whole}
		r, err := http.ReadResponse(w.in, nil)
		if err != nil {
			return nil, err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusSwitchingProtocols {
			b, _ := io.ReadAll(r.Body)
			return nil, fmt.Errorf("%s: %s", r.Status, b)
		}
		return w, nil
	}
}

// wsFrame is a masked frame.
func wsFrame(first byte, payload []byte) []byte {
	b := []byte{first, 0x80}
	switch n := len(payload); {
	case n < 126:
		b[1] |= byte(n)
	case n < 1<<16:
		b[1] |= 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] |= 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	mask := [4]byte{1, 2, 3, 4}
	b = append(b, mask[:]...)
	for i, x := range payload {
		b = append(b, x^mask[i%4])
	}
	return b
}

func (w *webSocket) Write(b []byte) (int, error) {
	var out []byte
	for at := 0; at < len(b); at += w.frame {
		end := min(at+w.frame, len(b))
		first := byte(0x82)
		if w.whole {
			if at > 0 {
				first &^= 2
			}
			if end < len(b) {
				first &^= 0x80
			}
		}
		if first&0x80 == 0 && at%7 == 0 {
			out = append(out, wsFrame(0x89, []byte("between fragments"))...) // a ping may stand there
		}
		out = append(out, wsFrame(first, b[at:end])...)
	}
	if _, err := w.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (w *webSocket) Read(b []byte) (int, error) {
	for w.left == 0 {
		if w.eof {
			return 0, io.EOF
		}
		op, n, err := w.header()
		if err != nil {
			return 0, err
		}
		switch op {
		case 0x82:
			w.left = n
		case 0x8A: // a pong
			if _, err := w.in.Discard(n); err != nil {
				return 0, err
			}
		case 0x88:
			w.eof = true
		default:
			return 0, fmt.Errorf("a frame that begins with %#x", op)
		}
	}
	n, err := w.in.Read(b[:min(len(b), w.left)])
	w.left -= n
	return n, err
}

func (w *webSocket) header() (op byte, n int, err error) {
	var h [8]byte
	if _, err = io.ReadFull(w.in, h[:2]); err != nil {
		return 0, 0, err
	}
	op, n = h[0], int(h[1])
	switch n {
	case 126:
		_, err = io.ReadFull(w.in, h[:2])
		n = int(binary.BigEndian.Uint16(h[:]))
	case 127:
		_, err = io.ReadFull(w.in, h[:])
		n = int(binary.BigEndian.Uint64(h[:]))
	}
	return op, n, err
}

// v2Header is a PROXY header of version 2 that names 192.0.2.7.
const v2Header = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0f\xc0\x00\x02\x07\x7f\x00\x00\x01\x30\x39\x07\x5b\x04\x00\x00"

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// way is a transport, and how a client comes through it.
type way struct {
	name     string
	options  transport.Options
	identity string
	unix     bool
	bare     bool // the server's sockets have no descriptor to be asked, as on Windows
	reach    func(string) (net.Conn, error)
}

func ways(t testing.TB) []way {
	plain, mutual := newPKI(t, false), newPKI(t, true)
	device := mutual.ca.Client("truck-7")
	ws := &transport.WebSocket{Path: "/mqtt"}
	mtls := overTLS(mutual.client(&device))
	tls12 := plain.client(nil)
	tls12.MaxVersion = tls.VersionTLS12
	return []way{
		{name: "tcp", reach: reach()},
		{name: "unix", unix: true, reach: reach()},
		{name: "tls", options: transport.Options{TLS: plain.source}, reach: reach(overTLS(plain.client(nil)))},
		{name: "tls 1.2", options: transport.Options{TLS: plain.source}, reach: reach(overTLS(tls12))},
		{name: "mutual tls", options: transport.Options{TLS: mutual.source}, identity: "truck-7", reach: reach(mtls)},
		{name: "ws", options: transport.Options{WebSocket: ws}, reach: reach(overWebSocket(1<<20, false))},
		{name: "ws, small frames", options: transport.Options{WebSocket: ws}, reach: reach(overWebSocket(7, false))},
		{name: "ws, fragments", options: transport.Options{WebSocket: ws}, reach: reach(overWebSocket(100, true))},
		{name: "wss", options: transport.Options{WebSocket: ws, TLS: mutual.source}, identity: "truck-7", reach: reach(mtls, overWebSocket(1000, true))},
		{name: "tcp, no descriptor", bare: true, reach: reach()},
		{name: "tls, no descriptor", bare: true, options: transport.Options{TLS: plain.source}, reach: reach(overTLS(plain.client(nil)))},
		{name: "wss, no descriptor", bare: true, options: transport.Options{WebSocket: ws, TLS: mutual.source}, identity: "truck-7",
			reach: reach(mtls, overWebSocket(300, true))},
		{name: "proxy v1", options: transport.Options{Proxies: loopback}, reach: reach(behind("PROXY TCP4 192.0.2.7 127.0.0.1 12345 1883\r\n"))},
		{name: "proxy v2", options: transport.Options{Proxies: loopback}, reach: reach(behind(v2Header))},
		{name: "proxy, then wss", options: transport.Options{Proxies: loopback, WebSocket: ws, TLS: mutual.source}, identity: "truck-7",
			reach: reach(behind(v2Header), mtls, overWebSocket(1<<20, false))},
	}
}

// bareListener hides the descriptors of its connections.
type bareListener struct{ net.Listener }

type bareConn struct{ net.Conn }

func (c bareConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

func (l bareListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return bareConn{nc}, nil
}

// over is a node with one listener.
func (w way) over(t testing.TB, change func(*broker.Options), listener ...func(*broker.ListenerOptions)) *node {
	n := &node{t: t, store: newMemStore(), lis: broker.ListenerOptions{Name: w.name, Transport: w.options}, reach: w.reach}
	if w.unix {
		n.listen = func() (net.Listener, error) { return net.Listen("unix", filepath.Join(t.TempDir(), "s")) }
	}
	if w.bare {
		n.listen = func() (net.Listener, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			return bareListener{l}, err
		}
	}
	n.opts.Store = n.store
	if change != nil {
		change(&n.opts)
	}
	for _, f := range listener {
		f(&n.lis)
	}
	n.start()
	t.Cleanup(func() {
		n.stop()
		n.store.close()
	})
	return n
}

// TestTransports holds the same conversations over every transport.
func TestTransports(t *testing.T) {
	for _, w := range ways(t) {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			t.Run("flows", func(t *testing.T) { w.over(t, nil).transcript(flowsOverTransports) })
			t.Run("who", func(t *testing.T) { testWho(t, w) })
			t.Run("cut at every byte", func(t *testing.T) { testCuts(t, w) })
			t.Run("large", func(t *testing.T) { testLarge(t, w) })
			t.Run("slow reader", func(t *testing.T) { testSlowReader(t, w) })
			t.Run("drain", func(t *testing.T) { testDrained(t, w) })
			t.Run("keep-alive", func(t *testing.T) { testKeepAliveOver(t, w) })
		})
	}
}

const flowsOverTransports = `
	a> CONNECT v5 id=a expiry=100
	a< CONNACK
	a> SUBSCRIBE #1 x/#:2
	a< SUBACK #1 0x02
	b> CONNECT v4 clean id=b
	b< CONNACK
	b> PUBLISH q0 t=x/0 "zero"
	a< PUBLISH q0 t=x/0 "zero"
	b> PUBLISH q1 #1 t=x/1 "one"
	b< PUBACK #1
	a< PUBLISH q1 #1 t=x/1 "one"
	a> PUBACK #1
	b> PUBLISH q2 #2 t=x/2 "two"
	b< PUBREC #2
	b> PUBREL #2
	b< PUBCOMP #2
	a< PUBLISH q2 #2 t=x/2 "two"
	a> PUBREC #2
	a< PUBREL #2
	a> PUBCOMP #2
	a<-
	// the same client again: the old connection is told
	c> CONNECT v5 id=a expiry=100
	c< CONNACK present
	a< DISCONNECT 0x8E
	a<!
	b> PUBLISH q1 #3 t=x/1 "to the new one"
	b< PUBACK #3
	c< PUBLISH q1 #3 t=x/1 "to the new one"
	c> PUBACK #3
	c> DISCONNECT
	c<!
	b> DISCONNECT
	b<!`

// testWho: what the transport knows of the client reaches authentication, and a certificate's name is the session's.
func testWho(t *testing.T, w way) {
	infos := make(chan broker.ConnInfo, 1)
	n := w.over(t, func(o *broker.Options) {
		o.Authenticate = func(_ context.Context, _ *packet.Connect, i broker.ConnInfo) (broker.Principal, packet.Code) {
			infos <- i
			return broker.Principal{Name: "x"}, packet.Success
		}
	})
	n.connected("CONNECT v5 clean id=a")
	i := <-infos
	if i.Identity != w.identity || i.Transport != w.options.Name() || i.Listener != w.name || (i.TLS != nil) != (w.options.TLS != nil) {
		t.Errorf("%+v", i)
	}
	if w.identity != "" && (len(i.TLS.VerifiedChains) == 0 || i.TLS.PeerCertificates[0].Subject.CommonName != w.identity) {
		t.Errorf("TLS state %+v", i.TLS)
	}
	remote := i.Remote.String()
	switch {
	case w.unix:
	case len(w.options.Proxies) > 0:
		if remote != "192.0.2.7:12345" || i.Local.String() != "127.0.0.1:1883" {
			t.Errorf("from %s to %v", remote, i.Local)
		}
	case !strings.HasPrefix(remote, "127.0.0.1:"):
		t.Errorf("from %s", remote)
	}
}

// testCuts: the bytes of a conversation mean the same however they are cut.
func testCuts(t *testing.T, w way) {
	n := w.over(t, nil)
	var b []byte
	for _, line := range []string{"CONNECT v4 clean id=cut", `PUBLISH q1 #2 t=c "payload"`, "PINGREQ", `PUBLISH q2 #3 t=c "0"`, "SUBSCRIBE #1 d:1"} {
		b, _ = parse(t, line).Append(b, packet.V311)
	}
	check := func(c *client) {
		t.Helper()
		c.dec.Version = packet.V311
		seen := map[string]int{}
		for range 5 {
			seen[show(c.next())]++
		}
		for _, want := range []string{"CONNACK", "PUBACK #2", "PINGRESP", "PUBREC #3", "SUBACK #1 0x01"} {
			if seen[want] != 1 {
				t.Fatalf("got %v, want %s", seen, want)
			}
		}
		c.nc.Close()
	}
	step := 1
	if w.options.TLS != nil {
		step = 7 // a handshake each; that every byte may be a record of its own is tried below
	}
	for at := 1; at < len(b); at += step {
		c := n.dial()
		c.write(b[:at])
		c.write(b[at:])
		check(c)
	}
	c := n.dial()
	for i := range b {
		c.write(b[i : i+1])
	}
	check(c)
	c = n.dial()
	c.write(b)
	check(c)
}

// testLarge: packets of every size, larger than any buffer, both ways.
func testLarge(t *testing.T, w way) {
	n := w.over(t, nil)
	c := n.connected("CONNECT v5 clean id=large")
	c.send("SUBSCRIBE #1 x:1")
	c.expect("SUBACK #1 0x01")
	for i, size := range []int{0, 1, 120, 16_380, 16_384, 40_000, 65_530, 65_536, 70_000, 300_000, 990_000, 5} {
		payload := bytes.Repeat([]byte{byte('a' + i)}, size)
		b, err := (&packet.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte("x"), Payload: payload}).Append(nil, packet.V5)
		if err != nil {
			t.Fatal(err)
		}
		go func() { c.nc.Write(b) }()
		for answers := 0; answers < 2; answers++ {
			switch p := c.next().(type) {
			case *packet.Ack:
			case *packet.Publish:
				if !bytes.Equal(p.Payload, payload) {
					t.Fatalf("message of %d bytes came with %d", size, len(p.Payload))
				}
				c.send(fmt.Sprintf("PUBACK #%d", p.PacketID))
			default:
				t.Fatalf("size %d: %s", size, show(p))
			}
		}
	}
}

// testSlowReader: a subscriber that does not read makes writes wait; when it reads again, everything comes, in order.
func testSlowReader(t *testing.T, w way) {
	n := w.over(t, nil)
	sub := n.connected("CONNECT v4 id=slow")
	sub.send("SUBSCRIBE #1 x:1")
	sub.expect("SUBACK #1 0x01")
	pub := n.connected("CONNECT v4 clean id=fast")
	const messages, size = 700, 10_000
	go func() {
		for i := range messages {
			payload := append(binary.BigEndian.AppendUint32(nil, uint32(i)), bytes.Repeat([]byte{byte(i)}, size)...)
			b, _ := (&packet.Publish{QoS: 1, PacketID: uint16(i + 1), Topic: []byte("x"), Payload: payload}).Append(nil, packet.V311)
			pub.nc.Write(b)
		}
	}()
	for range messages {
		if a, ok := pub.next().(*packet.Ack); !ok {
			t.Fatalf("got %v", a)
		}
	}
	if !w.bare { // there every flush may wait
		eventually(t, "a stalled flush", func() bool { return n.b.Stats().Stalls > 0 })
	}
	for i := range messages {
		p, ok := sub.next().(*packet.Publish)
		if !ok || len(p.Payload) != 4+size || binary.BigEndian.Uint32(p.Payload) != uint32(i) || p.Payload[4] != byte(i) || p.Payload[3+size] != byte(i) {
			t.Fatalf("message %d: %v", i, p)
		}
		sub.send(fmt.Sprintf("PUBACK #%d", p.PacketID))
	}
	sub.quiet()
}

// testDrained: who is sent away hears why, whatever the transport.
func testDrained(t *testing.T, w way) {
	n := w.over(t, nil)
	c := n.connected("CONNECT v5 clean id=a")
	stopped := make(chan struct{})
	go func() { defer close(stopped); n.stop() }()
	c.expect("DISCONNECT 0x8B")
	c.expectClosed()
	<-stopped
}

func testKeepAliveOver(t *testing.T, w way) {
	n := w.over(t, nil)
	c := n.connected("CONNECT v5 clean id=a keepalive=1")
	c.expect("DISCONNECT 0x8D")
	c.expectClosed()
}

// logged collects what a broker says.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// refusedBy waits until a node has turned one more connection away for a reason.
func turnedAway(t testing.TB, n *node, reason string, was int64) {
	t.Helper()
	eventually(t, reason, func() bool { return n.b.Stats().Turned[reason] > was })
}

// TestClientCertificates: every client that a listener with client_ca does not trust is refused, counted by reason and named in the
// log; whoever it does trust is whom the certificate names.
func TestClientCertificates(t *testing.T) {
	p, foreign := newPKI(t, true), certtest.NewCA(t, "fleet authority")
	good, stolen, other := p.ca.Client("truck-7"), p.ca.Client("stolen"), foreign.Client("truck-7")
	expired := p.ca.Client("old", validUntil(time.Now().Add(-time.Minute)))
	p.files.Set("crl", p.ca.CRL(stolen.Leaf))
	if _, err := p.source.Reload(); err != nil {
		t.Fatal(err)
	}
	var log logged
	w := way{name: "mtls", options: transport.Options{TLS: p.source}}
	n := w.over(t, func(o *broker.Options) { o.Logger = log.logger() })
	for reason, pair := range map[string]*certtest.Pair{
		"client_certificate_missing": nil, "client_certificate_revoked": &stolen, "client_certificate_unknown_authority": &other, "client_certificate_expired": &expired,
	} {
		was := n.b.Stats().Turned[reason]
		n.reach = reach(overTLS(p.client(pair)))
		nc, err := n.reach(n.addr)
		if err == nil {
			nc.SetDeadline(time.Now().Add(patience))
			_, err = nc.Read(make([]byte, 1))
			nc.Close()
		}
		if err == nil {
			t.Errorf("%s: let in", reason)
		}
		turnedAway(t, n, reason, was)
		want := "connection refused: " + reason
		if pair != nil {
			want = fmt.Sprintf("serial %x", pair.Leaf.SerialNumber)
		}
		eventually(t, "a log line with "+want, func() bool { return strings.Contains(log.String(), want) })
	}
	// One session for each name, not for each certificate.
	n.reach = reach(overTLS(p.client(&good)))
	a := n.connected("CONNECT v5 id=a expiry=100")
	renewed := p.ca.Client("truck-7")
	n.reach = reach(overTLS(p.client(&renewed)))
	b := n.dial()
	b.send("CONNECT v5 id=a expiry=100")
	b.expect("CONNACK present")
	a.expect("DISCONNECT 0x8E")
	another := p.ca.Client("truck-8")
	n.reach = reach(overTLS(p.client(&another)))
	c := n.dial()
	c.send("CONNECT v5 id=a expiry=100")
	c.expect("CONNACK")
	b.quiet()
}

// TestRevokedWhileConnected: who loses the right to be here loses the connection, at the next look at the files.
func TestRevokedWhileConnected(t *testing.T) {
	p := newPKI(t, true)
	stays, goes := p.ca.Client("stays"), p.ca.Client("goes")
	w := way{name: "mtls", options: transport.Options{TLS: p.source}}
	var log logged
	n := w.over(t, func(o *broker.Options) { o.Logger = log.logger() })
	n.reach = reach(overTLS(p.client(&stays)))
	a := n.connected("CONNECT v5 clean id=a")
	n.reach = reach(overTLS(p.client(&goes)))
	b := n.connected("CONNECT v5 clean id=b")
	n.b.Recheck()
	a.quiet()
	b.quiet()
	p.files.Set("crl", p.ca.CRL(goes.Leaf))
	if changed, err := p.source.Reload(); !changed || err != nil {
		t.Fatal(changed, err)
	}
	n.b.Recheck()
	b.expect("DISCONNECT 0x87")
	b.expectClosed()
	a.quiet()
	eventually(t, "the reason counted", func() bool { return n.b.Stats().Ended["client_certificate_revoked"] == 1 })
	if !strings.Contains(log.String(), "goes") {
		t.Errorf("the log does not say who: %s", log.String())
	}
	// A new authority without the old one ends the rest.
	p.files.Set("ca", certtest.NewCA(t, "another").PEM, "crl", []byte("none"))
	if _, err := p.source.Reload(); err == nil {
		t.Fatal("a revocation list that is none was accepted")
	}
	n.b.Recheck()
	a.quiet()
	next := certtest.NewCA(t, "another")
	p.files.Set("ca", next.PEM, "crl", next.CRL())
	if changed, err := p.source.Reload(); !changed || err != nil {
		t.Fatal(changed, err)
	}
	n.b.Recheck()
	a.expect("DISCONNECT 0x87")
}

// TestRevokedWhileConnecting: it may happen between two handshakes.
func TestRevokedWhileConnecting(t *testing.T) {
	p := newPKI(t, true)
	device := p.ca.Client("goes")
	w := way{name: "wss", options: transport.Options{TLS: p.source, WebSocket: &transport.WebSocket{Path: "/mqtt"}}}
	n := w.over(t, nil)
	nc, err := tls.Dial("tcp", n.addr, p.client(&device))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, upgradeRequest[:20]); err != nil {
		t.Fatal(err)
	}
	p.files.Set("crl", p.ca.CRL(device.Leaf))
	if changed, err := p.source.Reload(); !changed || err != nil {
		t.Fatal(changed, err)
	}
	eventually(t, "the end", func() bool {
		n.b.Recheck()
		return n.b.Stats().Turned["client_certificate_revoked"] == 1
	})
}

// TestExpiredWhileConnected: a certificate that expires takes its connection along.
func TestExpiredWhileConnected(t *testing.T) {
	p := newPKI(t, true)
	day, hour := p.ca.Client("day"), p.ca.Client("hour", validUntil(time.Now().Add(time.Hour)))
	n := way{name: "mtls", options: transport.Options{TLS: p.source}, reach: reach(overTLS(p.client(&day)))}.over(t, nil)
	a := n.connected("CONNECT v5 clean id=a")
	n.reach = reach(overTLS(p.client(&hour)))
	b := n.connected("CONNECT v5 clean id=b")
	p.later.Store(int64(2 * time.Hour))
	n.b.Recheck()
	b.expect("DISCONNECT 0x87")
	eventually(t, "the reason counted", func() bool { return n.b.Stats().Ended["client_certificate_expired"] == 1 })
	a.quiet()
}

// TestReloadUnderLoad: certificates change many times while clients talk and others connect; nobody is cut off or turned away.
func TestReloadUnderLoad(t *testing.T) {
	p := newPKI(t, true)
	device := p.ca.Client("truck-7")
	w := way{name: "mtls", options: transport.Options{TLS: p.source}, reach: reach(overTLS(p.client(&device)))}
	n := w.over(t, nil)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		c := n.connected(fmt.Sprintf("CONNECT v4 clean id=talks-%d", i))
		wg.Go(func() {
			for k := 1; ; k++ {
				select {
				case <-done:
					return
				default:
				}
				id := k%60000 + 1
				c.send(fmt.Sprintf(`PUBLISH q1 #%d t=x "m"`, id))
				if p := c.next(); p == nil || show(p) != fmt.Sprintf("PUBACK #%d", id) {
					t.Errorf("client %d was cut off: %v", i, p)
					return
				}
			}
		})
	}
	served := map[string]bool{}
	for i := range 20 {
		pair := p.ca.Server()
		p.files.Set("cert", pair.Cert, "key", pair.Key)
		if changed, err := p.source.Reload(); !changed || err != nil {
			t.Fatal(changed, err)
		}
		n.b.Recheck()
		c := n.connected(fmt.Sprintf("CONNECT v4 clean id=comes-%d", i))
		served[c.nc.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
	}
	close(done)
	wg.Wait()
	if s := n.b.Stats(); len(s.Ended)+len(s.Turned) > 0 || s.Connections != 24 {
		t.Errorf("ended %v, turned away %v, %d connections", s.Ended, s.Turned, s.Connections)
	}
	if len(served) != 20 {
		t.Errorf("%d certificates were served of 20", len(served))
	}
}

// TestHostileTransports: what is no client costs little, is cut off, and is counted by what it did.
func TestHostileTransports(t *testing.T) {
	p := newPKI(t, false)
	ws := &transport.WebSocket{Path: "/mqtt"}
	hello := clientHello(t)
	upgraded := []func(net.Conn) (net.Conn, error){overWebSocket(100, false)}
	connect, _ := parse(t, "CONNECT v4 clean id=hostile").Append(nil, packet.V311)
	frame := func(first byte, payload string) []byte { return wsFrame(first, []byte(payload)) }
	for _, c := range []struct {
		name    string
		options transport.Options
		layers  []func(net.Conn) (net.Conn, error)
		send    []byte
		reason  string
	}{
		{"plain MQTT to TLS", transport.Options{TLS: p.source}, nil, connect, "not_tls"},
		{"garbage to TLS", transport.Options{TLS: p.source}, nil, []byte{0x16, 3, 1, 0, 5, 7, 0, 0, 1, 9}, "tls_handshake_failed"},
		{"half a handshake", transport.Options{TLS: p.source}, nil, hello[:len(hello)/2], "connect_timeout"},
		{"silence after the hello", transport.Options{TLS: p.source}, nil, hello, "connect_timeout"},
		{"nothing", transport.Options{TLS: p.source}, nil, nil, "connect_timeout"},
		{"half a PROXY header", transport.Options{Proxies: loopback}, nil, []byte("PROXY TCP4 1."), "connect_timeout"},
		{"MQTT where a PROXY header belongs", transport.Options{Proxies: loopback}, nil, connect, "proxy_header"},
		{"a PROXY header too long", transport.Options{Proxies: loopback}, nil, []byte("PROXY UNKNOWN " + strings.Repeat("x", 200)), "proxy_header"},
		{"a PROXY header from elsewhere", transport.Options{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, nil, []byte(v2Header), "proxy_not_listed"},
		{"a PROXY header to whom none is believed", transport.Options{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, PlainOthers: true}, nil, []byte(v2Header), "malformed_packet"},
		{"half a request", transport.Options{WebSocket: ws}, nil, []byte(upgradeRequest[:40]), "connect_timeout"},
		{"an endless request", transport.Options{WebSocket: ws}, nil, []byte("GET /mqtt HTTP/1.1\r\nX: " + strings.Repeat("x", 20_000)), "websocket_not_http"},
		{"MQTT to WebSocket", transport.Options{WebSocket: ws}, nil, append(connect, "\r\n\r\n"...), "websocket_not_http"},
		{"a page", transport.Options{WebSocket: ws}, nil, []byte("GET /mqtt HTTP/1.1\r\nHost: x\r\nOrigin: http://evil.example\r\n\r\n"), "websocket_refused"},
		{"an unmasked frame", transport.Options{WebSocket: ws}, upgraded, append([]byte{0x82, byte(len(connect))}, connect...), "websocket_protocol_error"},
		{"a text frame", transport.Options{WebSocket: ws}, upgraded, frame(0x81, string(connect)), "websocket_not_binary"},
		{"a fragmented control frame", transport.Options{WebSocket: ws}, upgraded, frame(0x09, "x"), "websocket_protocol_error"},
		{"a large control frame", transport.Options{WebSocket: ws}, upgraded, frame(0x89, strings.Repeat("x", 200)), "websocket_protocol_error"},
		{"a frame with a sign", transport.Options{WebSocket: ws}, upgraded, []byte{0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "websocket_protocol_error"},
		{"an endless frame of nothing", transport.Options{WebSocket: ws}, upgraded, append([]byte{0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}, connect[:8]...), "connect_timeout"},
		{"Close", transport.Options{WebSocket: ws}, upgraded, frame(0x88, "\x03\xe8"), "connection_closed_by_client"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := way{name: "hostile", options: c.options, reach: reach(c.layers...)}
			n := w.over(t, func(o *broker.Options) {
				o.Limits.HandshakeTimeout, o.Limits.ConnectTimeout = 500*time.Millisecond, 500*time.Millisecond
			})
			nc, err := w.reach(n.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if ws, ok := nc.(*webSocket); ok {
				nc = ws.Conn
			}
			if _, err := nc.Write(c.send); err != nil {
				t.Fatal(err)
			}
			turnedAway(t, n, c.reason, 0)
			nc.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, nc); errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("still open: %v", err)
			}
			eventually(t, "everything let go", func() bool { s := n.b.Stats(); return s.Connections == 0 && s.HalfOpen == 0 })
			if turned := n.b.Stats().Turned; len(turned) != 1 {
				t.Errorf("turned away %v", turned)
			}
		})
	}
}

// clientHello is the first flight of a TLS client.
func clientHello(t testing.TB) []byte {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	go tls.Client(there, &tls.Config{ServerName: "localhost"}).Handshake()
	b := make([]byte, 64<<10)
	n, err := here.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// TestHalfHandshakesDoNotStarve: clients that begin a handshake and say no more hold no processor: with one to be had, another
// client is served at once.
func TestHalfHandshakesDoNotStarve(t *testing.T) {
	p := newPKI(t, false)
	w := way{name: "tls", options: transport.Options{TLS: p.source}, reach: reach(overTLS(p.client(nil)))}
	n := w.over(t, func(o *broker.Options) { o.Processors = admission.NewProcessors(1) })
	hello := clientHello(t)
	for range 50 {
		nc, err := net.Dial("tcp", n.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := nc.Write(hello); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the flood", func() bool { return n.b.Stats().HalfOpen == 50 })
	start := time.Now()
	n.connected("CONNECT v4 clean id=a").quiet()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("served after %v", d)
	}
}

// TestListenerLimits: each listener has its own.
func TestListenerLimits(t *testing.T) {
	w := way{name: "limited", reach: reach()}
	n := w.over(t, nil, func(o *broker.ListenerOptions) {
		o.Limits = broker.Limits{Connections: 3, HalfOpen: 2, PacketBytes: 2000, ReceiveMaximum: 7, KeepAlive: 60, ConnectTimeout: time.Minute}
	})
	a := n.dial()
	a.send("CONNECT v5 clean id=a keepalive=100")
	ack := a.next().(*packet.Connack)
	if ack.Props.MaximumPacket != 2000 || ack.Props.ReceiveMaximum != 7 || ack.Props.ServerKeepAlive != 60 {
		t.Errorf("%+v", ack.Props)
	}
	n.dial()
	n.dial()
	eventually(t, "two half open", func() bool { return n.b.Stats().HalfOpen == 2 })
	n.dial()
	turnedAway(t, n, "listener_connection_limit", 0)
	a.send("DISCONNECT")
	a.expectClosed()
	eventually(t, "room", func() bool { return n.b.Stats().Connections == 2 })
	n.dial()
	turnedAway(t, n, "listener_half_open_limit", 0)

	n = w.over(t, nil, func(o *broker.ListenerOptions) { o.RefuseAnonymous = true })
	b := n.dial()
	b.send("CONNECT v5 clean id=a")
	b.expect("CONNACK 0x87")
}

// TestProxiedHalfOpen: clients behind a proxy are counted by their own addresses, not by the proxy's.
func TestProxiedHalfOpen(t *testing.T) {
	w := way{name: "proxied", options: transport.Options{Proxies: loopback}}
	n := w.over(t, func(o *broker.Options) { o.Limits.HalfOpenPerIP = 2 })
	for i := range 4 {
		w.reach = reach(behind(fmt.Sprintf("PROXY TCP4 192.0.2.%d 127.0.0.1 1 1883\r\n", i)))
		for range 2 {
			if _, err := w.reach(n.addr); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all of them", func() bool { return n.b.Stats().HalfOpen == 8 })
	if _, err := w.reach(n.addr); err != nil {
		t.Fatal(err)
	}
	turnedAway(t, n, "half_open_limit", 0)
}

func validUntil(end time.Time) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotAfter = end }
}
