package broker_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// ackIsReceipt publishes while the store holds everything back, and returns an error if an ack comes before the store is done.
func ackIsReceipt(n *node) error {
	n.store.hold()
	c := n.connected("CONNECT v5 clean id=receipts")
	c.send(`PUBLISH q1 #1 t=a "1"`, `PUBLISH q2 #2 t=a "2"`)
	eventually(n.t, "the append", func() bool { _, msgs := n.store.held(); return msgs == 2 })
	c.send("PINGREQ")
	if got := show(c.next()); got != "PINGRESP" {
		return fmt.Errorf("%s before the message is durable", got)
	}
	n.store.release()
	for _, want := range []string{"PUBACK #1", "PUBREC #2"} {
		if got := show(c.next()); got != want {
			return fmt.Errorf("got %s, want %s", got, want)
		}
	}
	return nil
}

func TestAckIsReceipt(t *testing.T) {
	if err := ackIsReceipt(newNode(t, nil)); err != nil {
		t.Error(err)
	}
}

// TestAckOrder lands the appends of one connection in the wrong order: the acks come in the order of the publishes.
func TestAckOrder(t *testing.T) {
	n := newNode(t, nil)
	n.store.hold()
	c := n.connected("CONNECT v5 clean id=a")
	for i := 1; i <= 4; i++ {
		c.send(fmt.Sprintf(`PUBLISH q%d #%d t=a "m"`, 1+i%2, i))
		eventually(t, "the append", func() bool { k, _ := n.store.held(); return k == i })
	}
	c.send(`PUBLISH q1 #5 t=$SYS "refused at once"`)
	c.quiet()
	n.store.land(3) // the fourth
	n.store.land(1)
	n.store.land(1)
	c.quiet()
	n.store.land(0)
	c.expect("PUBREC #1", "PUBACK #2", "PUBREC #3", "PUBACK #4", "PUBACK #5 0x90")
}

// TestSubscribeWaits: what a client has published before a SUBSCRIBE is in the log before the owner sees the SUBSCRIBE.
func TestSubscribeWaits(t *testing.T) {
	n := newNode(t, nil)
	n.store.hold()
	c := n.connected("CONNECT v5 clean id=a")
	c.send(`PUBLISH q0 retain t=a "m"`, "SUBSCRIBE #1 a:0")
	c.quiet()
	n.store.release()
	c.expect("SUBACK #1 0x00", `PUBLISH q0 retain t=a "m"`)
}

func TestStoreRefuses(t *testing.T) {
	n := newNode(t, nil)
	n.store.refusing(func(m *session.Message) error {
		switch m.Topic {
		case "full":
			return refusal(packet.QuotaExceeded, "not enough free disk space")
		case "unknown":
			return session.ErrUnknown
		}
		return nil
	})
	c := n.connected("CONNECT v5 clean id=a problem=0")
	c.send(`PUBLISH q1 #1 t=full "m"`, `PUBLISH q2 #2 t=full "m"`, `PUBLISH q0 t=full "m"`, `PUBLISH q0 t=unknown "m"`)
	c.expect("PUBACK #1 0x97", "PUBREC #2 0x97")
	c.send(`PUBLISH q2 #2 t=ok "m"`)
	c.expect("PUBREC #2")
	if got := n.b.Stats().Refused; got["quota_exceeded"] != 3 || got["outcome_unknown"] != 1 {
		t.Errorf("refused: %v", got)
	}

	old := n.connected("CONNECT v4 clean id=b")
	old.send(`PUBLISH q1 #1 t=full "m"`)
	old.expectClosed() // 3.1.1 knows no refusal, and an ack would be a receipt

	// An outcome that nobody knows gets no ack: the client must send again.
	u := n.connected("CONNECT v5 id=u expiry=100")
	u.send(`PUBLISH q1 #1 t=unknown "m"`)
	u.expect("DISCONNECT 0x89")
	u.expectClosed()
	u = n.connected("CONNECT v5 id=u expiry=100")
	n.store.refusing(nil)
	u.send(`PUBLISH q1 #1 dup t=unknown "m"`)
	u.expect("PUBACK #1")
}

// TestLatePubrec takes a session over while its QoS 2 append is outstanding: the new connection gets the PUBREC.
func TestLatePubrec(t *testing.T) {
	n := newNode(t, nil)
	n.store.hold()
	a := n.connected("CONNECT v5 id=c expiry=100")
	a.send(`PUBLISH q2 #7 t=x "once"`)
	eventually(t, "the append", func() bool { k, _ := n.store.held(); return k == 1 })
	b := n.connected("CONNECT v5 id=c expiry=100")
	b.send(`PUBLISH q2 #7 dup t=x "once"`)
	b.quiet()
	n.store.release()
	b.expect("PUBREC #7")
	b.send("PUBREL #7")
	b.expect("PUBCOMP #7")
	if got := n.store.logged("x"); len(got) != 1 {
		t.Errorf("logged %d times", len(got))
	}
}

func TestReceiveMaximum(t *testing.T) {
	limit := func(o *broker.Options) { o.Limits.ReceiveMaximum = 2 }
	n := newNode(t, limit)
	n.store.hold()
	a := n.connected("CONNECT v5 clean id=a")
	a.send(`PUBLISH q1 #1 t=x "m"`, `PUBLISH q2 #2 t=x "m"`)
	a.send(`PUBLISH q0 t=x "QoS 0 does not count"`)
	a.quiet()
	n.store.release()
	a.expect("PUBACK #1", "PUBREC #2")
	a.send(`PUBLISH q1 #1 t=x "m"`)
	a.expect("PUBACK #1")
	n.store.hold()
	a.send(`PUBLISH q1 #3 t=x "m"`, `PUBLISH q1 #4 t=x "one too many: #2 is not released"`)
	a.expect("DISCONNECT 0x93")
	a.expectClosed()
	n.store.release()

	n.stop()
	n.lis.Lenient = true
	n.start()
	n.store.hold()
	c := n.connected("CONNECT v5 clean id=c")
	c.send(`PUBLISH q1 #1 t=x "m"`, `PUBLISH q1 #2 t=x "m"`, `PUBLISH q1 #3 t=x "m"`)
	c.quiet()
	n.store.release()
	c.expect("PUBACK #1", "PUBACK #2", "PUBACK #3")
	if got := n.b.Stats().Refused["receive_maximum_exceeded_tolerated"]; got != 1 {
		t.Errorf("tolerated: %d", got)
	}
}

// TestWillRefused: a will that the log never takes is given up, and its client is not locked out. One that there is no room for now
// is kept until there is.
func TestWillRefused(t *testing.T) {
	for _, expiry := range []string{"", " expiry=100"} {
		n := newNode(t, nil)
		w := n.connected("CONNECT v5 id=w")
		w.send("SUBSCRIBE #1 #:1")
		w.expect("SUBACK #1 0x01")
		var full atomic.Bool
		full.Store(true)
		n.store.refusing(func(m *session.Message) error {
			switch {
			case m.Topic == "never":
				return refusal(packet.TopicNameInvalid, "no route")
			case m.Topic == "large":
				return fmt.Errorf("%w: %w", session.ErrTooLarge, refusal(packet.QuotaExceeded, "too large"))
			case full.Load():
				return refusal(packet.QuotaExceeded, "no space")
			}
			return nil
		})
		a := n.connected("CONNECT v5 id=a" + expiry + ` will=never will-q1 "x"`)
		a.nc.Close()
		c := n.connected("CONNECT v5 id=c" + expiry + ` will=large will-q1 "x"`)
		c.nc.Close()
		b := n.connected("CONNECT v5 id=b" + expiry + ` will=later will-q1 "x"`)
		b.nc.Close()
		eventually(t, "two wills given up", func() bool { return n.b.Stats().Dropped[session.DropWillRefused] == 2 })
		n.connected("CONNECT v5 id=a" + expiry)
		n.connected("CONNECT v5 id=c" + expiry)
		full.Store(false)
		w.expect(`PUBLISH q1 #1 t=later "x"`)
		n.connected("CONNECT v5 id=b" + expiry)
	}
}

// TestReceiveMaximumBeginsAnew: a client that loses a connection with every id open resends on the next one, and may use as many
// ids again before the old ones are released.
func TestReceiveMaximumBeginsAnew(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.ReceiveMaximum = 2 })
	n.transcript(`
		a> CONNECT v5 id=a expiry=1000
		a< CONNACK
		a> PUBLISH q2 #1 t=x "m"
		a< PUBREC #1
		a> PUBLISH q2 #2 t=x "m"
		a< PUBREC #2
		a> CONNECT v5 id=a expiry=1000
		a< CONNACK present
		a> PUBLISH q2 #1 dup t=x "m"
		a< PUBREC #1
		a> PUBLISH q2 #3 t=x "m"
		a< PUBREC #3
		a> PUBLISH q2 #4 t=x "m"
		a< PUBREC #4
		a> PUBLISH q2 #5 t=x "m"
		a< DISCONNECT 0x93
		a<!`)
}

// TestRefusalOfADuplicate: a client that loses its right to publish between a QoS 2 message and its resend gets the receipt of
// the message that is in the log. A failure would make it use the id again, and that message would pass for a duplicate.
func TestRefusalOfADuplicate(t *testing.T) {
	var denied atomic.Bool
	n := newNode(t, func(o *broker.Options) { o.Authorizer = when{&denied} })
	a := n.connected("CONNECT v5 id=a expiry=1000")
	a.send(`PUBLISH q2 #1 t=no "first"`)
	a.expect("PUBREC #1")
	a.nc.Close()
	denied.Store(true)
	n.b.PolicyChanged()
	a = n.connected("CONNECT v5 id=a expiry=1000")
	a.send(`PUBLISH q2 #1 dup t=no "first"`, `PUBLISH q2 #2 t=no "refused"`)
	a.expect("PUBREC #1", "PUBREC #2 0x87")
	a.send("PUBREL #1")
	a.expect("PUBCOMP #1")
	denied.Store(false)
	n.b.PolicyChanged()
	for _, id := range []string{"#1", "#2"} {
		a.send(`PUBLISH q2 ` + id + ` t=no "again"`)
		a.expect("PUBREC " + id)
	}
	if got := strings.Join(n.store.logged("no"), " "); got != "first again again" {
		t.Errorf("the log has %q", got)
	}
}

// when is an Authorizer that allows no publish while denied.
type when struct{ denied *atomic.Bool }

func (w when) Allowed(_ session.Key, a broker.Action, _ string) bool {
	return a != broker.Publish || !w.denied.Load()
}

// TestBackPressure: when the log has no room a client is not read, and is not timed out for its silence.
func TestBackPressure(t *testing.T) {
	n := newNode(t, nil)
	c := n.connected("CONNECT v5 clean id=a keepalive=1")
	room := n.store.full()
	c.send(`PUBLISH q1 #1 t=x "m"`)
	c.expect("PUBACK #1") // it is in the log; there is no room for the next
	eventually(t, "the pause", func() bool { return n.b.Stats().Paused == 1 })
	c.send(`PUBLISH q1 #2 t=x "m"`)
	time.Sleep(2500 * time.Millisecond) // longer than one and a half keep-alives; nothing to poll for
	if got := len(n.store.logged("x")); got != 1 {
		t.Errorf("%d messages logged while there was no room", got)
	}
	room()
	c.expect("PUBACK #2")
}

// TestPublishInPieces sends packets byte by byte, and a packet larger than a burst.
// idleConn now and then has nothing, without an error, as a transport may that has only seen to itself.
type idleConn struct {
	net.Conn
	reads int
}

func (c *idleConn) Read(b []byte) (int, error) {
	if c.reads++; c.reads%7 != 0 {
		return 0, nil
	}
	return c.Conn.Read(b[:min(len(b), 3)])
}

type idleListener struct{ *pipeListener }

func (l idleListener) Accept() (net.Conn, error) {
	c, err := l.pipeListener.Accept()
	return &idleConn{Conn: c}, err
}

func TestReadsOfNothing(t *testing.T) {
	n := newNode(t, nil)
	n.connected("CONNECT v5 clean id=first") // its own listener is at work
	l := idleListener{newPipeListener()}
	served := make(chan error, 1)
	go func() { served <- n.b.Serve(l, broker.ListenerOptions{}) }()
	here, there := net.Pipe()
	l.conns <- there
	a := &client{t: t, nc: here}
	a.send("CONNECT v5 clean id=a")
	a.expect("CONNACK")
	a.send(`PUBLISH q1 #1 t=x "in pieces, between which there is nothing"`)
	a.expect("PUBACK #1")
	a.send("PINGREQ")
	a.expect("PINGRESP")
	here.Close()
	l.Close()
	if err := <-served; err == nil {
		t.Error("the listener was closed by nobody")
	}
}

func TestPublishInPieces(t *testing.T) {
	n := newNode(t, nil)
	c := n.connected("CONNECT v5 clean id=a")
	b, err := parse(t, `PUBLISH q1 #1 t=x "pieces"`).Append(nil, packet.V5)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		c.write(b[i : i+1])
	}
	c.expect("PUBACK #1")
	large := strings.Repeat("0123456789abcdef", 60_000/16*10)
	c.send(`PUBLISH q1 #2 t=large "`+large+`"`, `PUBLISH q1 #3 t=x "after"`)
	c.expect("PUBACK #2", "PUBACK #3")
	if got := n.store.logged("large"); len(got) != 1 || got[0] != large {
		t.Errorf("the large message is not logged as it was sent")
	}
	s := n.connected("CONNECT v5 clean id=s")
	s.send("SUBSCRIBE #1 large:1")
	s.expect("SUBACK #1 0x01")
	c.send(`PUBLISH q1 #2 t=large "` + large + `"`)
	c.expect("PUBACK #2")
	if got := s.next().(*packet.Publish); got.PacketID != 1 || !bytes.Equal(got.Payload, []byte(large)) {
		t.Errorf("the large message is not delivered as it was sent")
	}
}

func TestPacketTooLarge(t *testing.T) {
	n := newNode(t, func(o *broker.Options) { o.Limits.PacketBytes = 100 })
	c := n.connected("CONNECT v5 clean id=a")
	c.send(`PUBLISH q1 #1 t=x "` + strings.Repeat("x", 200) + `"`)
	c.expect("DISCONNECT 0x95")
	c.expectClosed()
}

// TestTakeOverOrder: once a connection has taken a session over, nothing of the one before enters the log any more.
func TestTakeOverOrder(t *testing.T) {
	n := newNode(t, nil)
	for round := range tier.N(50) {
		topic := fmt.Sprint("order/", round)
		a := n.connected("CONNECT v5 id=c expiry=100")
		flood, err := parse(t, `PUBLISH q0 t=`+topic+` "a"`).Append(nil, packet.V5)
		if err != nil {
			t.Fatal(err)
		}
		flood = bytes.Repeat(flood, 1000)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for a.nc.SetWriteDeadline(time.Now().Add(patience)) == nil {
				if _, err := a.nc.Write(flood); err != nil {
					return
				}
			}
		}()
		eventually(t, "the flood", func() bool { return len(n.store.logged(topic)) > 0 })
		b := n.connected("CONNECT v5 id=c expiry=100")
		b.send(`PUBLISH q1 #1 t=` + topic + ` "b"`)
		b.expect("PUBACK #1")
		<-ended
		eventually(t, "the end of the first connection", func() bool { return n.b.Stats().Connections == 1 })
		b.send(`PUBLISH q1 #2 t=` + topic + ` "b"`)
		b.expect("PUBACK #2")
		if log := strings.Join(n.store.logged(topic), ""); !strings.HasSuffix(strings.TrimLeft(log, "a"), "bb") || strings.Contains(log, "ba") {
			t.Fatalf("round %d: the first connection's messages are between or behind the second's", round)
		}
		b.nc.Close()
		eventually(t, "the end of the second connection", func() bool { return n.b.Stats().Connections == 0 })
	}
}

// TestTLS reads and writes through something that is not a plain socket.
func TestTLS(t *testing.T) {
	n := newNode(t, nil)
	cert, pool := selfSigned(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- n.b.Serve(l, broker.ListenerOptions{Name: "tls"}) }()
	nc, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := &client{t: t, nc: nc}
	c.send("CONNECT v5 clean id=tls")
	c.expect("CONNACK")
	c.send("SUBSCRIBE #1 x:1")
	c.expect("SUBACK #1 0x01")
	for i, size := range []int{0, 10, 1000, 20_000, 300_000, 5} {
		payload := strings.Repeat("x", size)
		c.send(fmt.Sprintf(`PUBLISH q0 t=x "%s"`, payload))
		if got := c.next().(*packet.Publish); len(got.Payload) != size {
			t.Fatalf("message %d has %d bytes, want %d", i, len(got.Payload), size)
		}
	}
	c.send("DISCONNECT")
	c.expectClosed()
	l.Close()
	if err := <-served; err == nil {
		t.Error("Serve hides that its listener was closed")
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestReasonStrings: a client that asked for no problem information gets codes only [MQTT-3.1.2-29].
func TestReasonStrings(t *testing.T) {
	n := newNode(t, nil)
	for problem, wanted := range map[string]bool{"problem=0": false, "problem=1": true} {
		c := n.connected("CONNECT v5 clean id=a " + problem)
		c.send(`PUBLISH q1 #1 t=$SYS "m"`)
		if a := c.next().(*packet.Ack); a.Code != packet.TopicNameInvalid || (a.Props.ReasonString != "") != wanted {
			t.Errorf("%s: %v, reason %q", problem, a.Code, a.Props.ReasonString)
		}
	}
}
