package broker_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// node is a broker on a memStore, with a listener on loopback.
type node struct {
	t     testing.TB
	store *memStore
	opts  broker.Options
	lis   broker.ListenerOptions
	b     *broker.Broker
	addr  string
	serve chan error

	listen func() (net.Listener, error)           // nil: TCP on loopback
	reach  func(address string) (net.Conn, error) // nil: over TCP
}

func newNode(t testing.TB, change func(*broker.Options)) *node {
	n := &node{t: t, store: newMemStore(), opts: broker.Options{}, lis: broker.ListenerOptions{Name: "test"}}
	n.opts.Store = n.store
	if change != nil {
		change(&n.opts)
	}
	n.start()
	t.Cleanup(func() {
		n.stop()
		n.store.close()
	})
	return n
}

func (n *node) start() {
	n.t.Helper()
	n.b = broker.New(n.opts)
	n.store.unlogged = n.b.Unlogged
	if err := n.b.Start(context.Background()); err != nil {
		n.t.Fatal(err)
	}
	if n.listen == nil {
		n.listen = func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	}
	l, err := n.listen()
	if err != nil {
		n.t.Fatal(err)
	}
	n.addr = l.Addr().String()
	n.serve = make(chan error, 1)
	go func() { n.serve <- n.b.Serve(l, n.lis) }()
}

func (n *node) stop() {
	n.t.Helper()
	if n.b == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.b.Close(ctx); err != nil {
		n.t.Errorf("close: %v", err)
	}
	if err := <-n.serve; err != nil && !errors.Is(err, broker.ErrClosed) { // closed before it was served at all
		n.t.Errorf("serve: %v", err)
	}
	n.b = nil
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// client speaks MQTT one packet at a time.
type client struct {
	t   testing.TB
	nc  net.Conn
	dec packet.Decoder
	buf []byte
}

func (n *node) dial() *client {
	n.t.Helper()
	if n.reach == nil {
		n.reach = func(address string) (net.Conn, error) { return net.Dial("tcp", address) }
	}
	nc, err := n.reach(n.addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { nc.Close() })
	return &client{t: n.t, nc: nc}
}

func (c *client) write(b []byte) {
	c.t.Helper()
	c.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

func (c *client) send(lines ...string) {
	c.t.Helper()
	var b []byte
	for _, line := range lines {
		p := parse(c.t, line)
		if p, ok := p.(*packet.Connect); ok {
			c.dec.Version = p.Version
		}
		var err error
		if b, err = p.Append(b, c.dec.Version); err != nil {
			c.t.Fatalf("%s: %v", line, err)
		}
	}
	c.write(b)
}

// next reads one packet; nil: the connection was closed.
func (c *client) next() packet.Packet {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(patience))
	for {
		p, n, _, err := c.dec.Next(c.buf)
		if err != nil {
			c.t.Fatalf("the broker sent what cannot be decoded: %v: % x", err, c.buf)
		}
		if n > 0 {
			if pub, ok := p.(*packet.Publish); ok { // aliases the buffer
				own := *pub
				own.Topic, own.Payload = slices.Clone(pub.Topic), slices.Clone(pub.Payload)
				p = &own
			} else if a, ok := p.(*packet.Ack); ok {
				own := *a
				p = &own
			}
			c.buf = c.buf[n:]
			return p
		}
		more := make([]byte, 64<<10)
		m, err := c.nc.Read(more)
		c.buf = append(c.buf, more[:m]...)
		if m > 0 {
			continue
		}
		if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") && !errors.Is(err, io.ErrClosedPipe) {
			c.t.Fatalf("read: %v", err)
		}
		return nil
	}
}

func (c *client) expect(lines ...string) {
	c.t.Helper()
	for _, want := range lines {
		p := c.next()
		if p == nil {
			c.t.Fatalf("connection closed, want %s", want)
		}
		if got := show(p); got != want {
			c.t.Fatalf("got  %s\nwant %s", got, want)
		}
	}
}

func (c *client) expectClosed() {
	c.t.Helper()
	if p := c.next(); p != nil {
		c.t.Fatalf("got %s, want the connection closed", show(p))
	}
}

// quiet checks that the broker has nothing more to say now.
func (c *client) quiet() {
	c.t.Helper()
	c.send("PINGREQ")
	c.expect("PINGRESP")
}

// connected is a client with an accepted connection.
func (n *node) connected(line string) *client {
	n.t.Helper()
	c := n.dial()
	c.send(line)
	p := c.next()
	if ack, ok := p.(*packet.Connack); !ok || ack.Code != packet.Success {
		n.t.Fatalf("%s: got %v", line, p)
	}
	return c
}

// transcript runs a script of lines:
//
//	a> PACKET       client a sends; CONNECT dials first
//	a< PACKET       client a gets exactly this next
//	a>! 30 02 …     client a sends bytes
//	a<!             the broker closes a's connection
//	a<-             nothing more comes to a
//	a x             client a's socket is closed, without DISCONNECT
//	restart         the broker is closed and started anew on the same store
func (n *node) transcript(script string) {
	n.t.Helper()
	clients := map[string]*client{}
	for i, line := range strings.Split(script, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '/' {
			continue
		}
		if line == "restart" {
			n.stop()
			n.start()
			continue
		}
		at := strings.IndexAny(line, "<> ")
		name, rest := line[:at], line[at:]
		t := &located{n.t, fmt.Sprintf("line %d: %s", i, line)}
		c := clients[name]
		if c == nil || strings.HasPrefix(rest, "> CONNECT") && c.dec.Version != 0 {
			c = n.dial()
			clients[name] = c
		}
		c.t = t
		switch {
		case strings.HasPrefix(rest, ">!"):
			b, err := hex.DecodeString(strings.ReplaceAll(rest[2:], " ", ""))
			if err != nil {
				t.Fatalf("%v", err)
			}
			if c.dec.Version == 0 {
				c.dec.Version = rawVersion(b)
			}
			c.write(b)
		case rest == "<!":
			c.expectClosed()
			c.nc.Close()
		case rest == "<-":
			c.quiet()
		case rest == " x":
			c.nc.Close()
		case rest[0] == '>':
			c.send(strings.TrimSpace(rest[1:]))
		case rest[0] == '<':
			c.expect(strings.TrimSpace(rest[1:]))
		default:
			t.Fatalf("what is this?")
		}
	}
	for _, c := range clients {
		c.nc.Close()
	}
}

// rawVersion is how the broker will answer a hand-made CONNECT.
func rawVersion(b []byte) packet.Version {
	if len(b) > 8 && b[8] == byte(packet.V5) {
		return packet.V5
	}
	return packet.V311
}

// located says which line of a script failed.
type located struct {
	testing.TB
	line string
}

func (l *located) Fatalf(format string, args ...any) {
	l.TB.Helper()
	l.TB.Fatalf("%s\n"+format, append([]any{l.line}, args...)...)
}

// parse makes a packet of its written form, which is the one show writes.
func parse(t testing.TB, line string) packet.Packet {
	t.Helper()
	f := split(line)
	w := words{t: t, line: line, f: f[1:]}
	switch f[0] {
	case "CONNECT":
		return w.connect()
	case "PUBLISH":
		return w.publish()
	case "PUBACK", "PUBREC", "PUBREL", "PUBCOMP":
		kind := map[string]packet.Type{"PUBACK": packet.PUBACK, "PUBREC": packet.PUBREC, "PUBREL": packet.PUBREL, "PUBCOMP": packet.PUBCOMP}[f[0]]
		return &packet.Ack{Kind: kind, PacketID: w.id(), Code: w.code()}
	case "SUBSCRIBE":
		s := &packet.Subscribe{PacketID: w.id()}
		if v, ok := w.take("sid="); ok {
			s.Props.SubscriptionIDs = []uint32{uint32(w.number(v))}
		}
		for _, x := range w.f {
			filter, options, _ := strings.Cut(x, ":")
			p := packet.Filter{Filter: filter}
			for _, o := range strings.Split(options, ",") {
				switch o {
				case "0", "1", "2":
					p.QoS = o[0] - '0'
				case "nl":
					p.NoLocal = true
				case "rap":
					p.RetainAsPublished = true
				case "rh1", "rh2":
					p.RetainHandling = o[2] - '0'
				default:
					t.Fatalf("%s: option %q", line, o)
				}
			}
			s.Filters = append(s.Filters, p)
		}
		return s
	case "UNSUBSCRIBE":
		return &packet.Unsubscribe{PacketID: w.id(), Filters: w.f}
	case "PINGREQ":
		return &packet.Ping{Kind: packet.PINGREQ}
	case "DISCONNECT":
		d := &packet.Disconnect{}
		if v, ok := w.take("expiry="); ok {
			d.Props.Has, d.Props.SessionExpiry = packet.PSessionExpiry, uint32(w.number(v))
		}
		d.Code = w.code()
		return d
	case "AUTH":
		return &packet.Auth{Code: packet.ContinueAuthentication, Props: packet.Properties{Has: packet.PAuthMethod, AuthMethod: "x"}}
	}
	t.Fatalf("%s: no such packet", line)
	return nil
}

// split cuts at spaces, but not within quotes.
func split(line string) (f []string) {
	head, quoted, ok := strings.Cut(line, ` "`)
	f = strings.Fields(head)
	if ok {
		f = append(f, `"`+quoted)
	}
	return f
}

type words struct {
	t    testing.TB
	line string
	f    []string
}

// take removes a word with a prefix and returns what follows the prefix.
func (w *words) take(prefix string) (string, bool) {
	for i, x := range w.f {
		if v, ok := strings.CutPrefix(x, prefix); ok {
			w.f = slices.Delete(w.f, i, i+1)
			return v, true
		}
	}
	return "", false
}

func (w *words) flag(name string) bool {
	i := slices.Index(w.f, name)
	if i >= 0 {
		w.f = slices.Delete(w.f, i, i+1)
	}
	return i >= 0
}

func (w *words) number(v string) int {
	n, err := strconv.ParseInt(v, 0, 64)
	if err != nil {
		w.t.Fatalf("%s: %v", w.line, err)
	}
	return int(n)
}

func (w *words) id() uint16 {
	v, _ := w.take("#")
	return uint16(w.number(v))
}

func (w *words) code() packet.Code {
	v, ok := w.take("0x")
	if !ok {
		return 0
	}
	return packet.Code(w.number("0x" + v))
}

func (w *words) quoted() []byte {
	v, ok := w.take(`"`)
	if !ok {
		return nil
	}
	return []byte(strings.TrimSuffix(v, `"`))
}

func (w *words) connect() *packet.Connect {
	c := &packet.Connect{CleanStart: w.flag("clean")}
	v, _ := w.take("v")
	c.Version = packet.Version(w.number(v))
	c.ClientID, _ = w.take("id=")
	number := func(prefix string, bit packet.PropSet) uint32 {
		v, ok := w.take(prefix)
		if !ok {
			return 0
		}
		c.Props.Has |= bit
		return uint32(w.number(v))
	}
	c.KeepAlive = uint16(number("keepalive=", 0))
	c.Props.SessionExpiry = number("expiry=", packet.PSessionExpiry)
	c.Props.ReceiveMaximum = uint16(number("receive=", packet.PReceiveMaximum))
	c.Props.MaximumPacket = number("packet=", packet.PMaximumPacket)
	c.Props.RequestProblem = byte(number("problem=", packet.PRequestProblem))
	if m, ok := w.take("auth="); ok {
		c.Props.Has |= packet.PAuthMethod
		c.Props.AuthMethod = m
	}
	if u, ok := w.take("user="); ok {
		c.HasUser, c.Username = true, u
	}
	if p, ok := w.take("password="); ok {
		c.HasPass, c.Password = true, []byte(p)
	}
	if topic, ok := w.take("will="); ok {
		c.Will = &packet.Will{Topic: topic, Retain: w.flag("will-retain"), Payload: w.quoted()}
		if q, ok := w.take("will-q"); ok {
			c.Will.QoS = byte(w.number(q))
		}
		if d, ok := w.take("will-delay="); ok {
			c.Will.Props.Has, c.Will.Props.WillDelay = packet.PWillDelay, uint32(w.number(d))
		}
		if name, ok := w.take("will-user:"); ok {
			c.Will.Props.User = []packet.UserProperty{{Name: name, Value: "x"}}
		}
	}
	w.done()
	return c
}

func (w *words) publish() *packet.Publish {
	p := &packet.Publish{Dup: w.flag("dup"), Retain: w.flag("retain"), Payload: w.quoted()}
	if v, ok := w.take("#"); ok {
		p.PacketID = uint16(w.number(v))
	}
	if v, ok := w.take("alias="); ok {
		p.Props.Has |= packet.PTopicAlias
		p.Props.TopicAlias = uint16(w.number(v))
	}
	if v, ok := w.take("expiry="); ok {
		p.Props.Has |= packet.PMessageExpiry
		p.Props.MessageExpiry = uint32(w.number(v))
	}
	if v, ok := w.take("type="); ok {
		p.Props.Has |= packet.PContentType
		p.Props.ContentType = v
	}
	if v, ok := w.take("user:"); ok {
		name, value, _ := strings.Cut(v, "=")
		p.Props.User = []packet.UserProperty{{Name: name, Value: value}}
	}
	for _, q := range []string{"q0", "q1", "q2"} {
		if w.flag(q) {
			p.QoS = q[1] - '0'
		}
	}
	if v, ok := w.take("t="); ok {
		p.Topic = []byte(v)
	}
	w.done()
	return p
}

func (w *words) done() {
	if len(w.f) > 0 {
		w.t.Fatalf("%s: what is %q?", w.line, w.f)
	}
}

// show writes a packet from the broker.
func show(p packet.Packet) string {
	f := []string{p.Type().String()}
	add := func(format string, args ...any) { f = append(f, fmt.Sprintf(format, args...)) }
	failed := func(c packet.Code) {
		if c != 0 {
			add("0x%02X", byte(c))
		}
	}
	switch p := p.(type) {
	case *packet.Connack:
		if p.SessionPresent {
			add("present")
		}
		failed(p.Code)
		if p.Props.Has&packet.PSessionExpiry != 0 {
			add("expiry=%d", p.Props.SessionExpiry)
		}
		if p.Props.Has&packet.PServerKeepAlive != 0 {
			add("keepalive=%d", p.Props.ServerKeepAlive)
		}
	case *packet.Publish:
		add("q%d", p.QoS)
		if p.QoS > 0 {
			add("#%d", p.PacketID)
		}
		if p.Dup {
			add("dup")
		}
		if p.Retain {
			add("retain")
		}
		if p.Props.Has&packet.PMessageExpiry != 0 {
			add("expiry=%d", p.Props.MessageExpiry)
		}
		if p.Props.Has&packet.PContentType != 0 {
			add("type=%s", p.Props.ContentType)
		}
		for _, u := range p.Props.User {
			add("user:%s=%s", u.Name, u.Value)
		}
		for _, id := range p.Props.SubscriptionIDs {
			add("sid=%d", id)
		}
		add("t=%s", p.Topic)
		if len(p.Payload) > 0 {
			add("%q", p.Payload)
		}
	case *packet.Ack:
		add("#%d", p.PacketID)
		failed(p.Code)
	case *packet.Suback:
		add("#%d", p.PacketID)
		for _, c := range p.Codes {
			add("0x%02X", byte(c))
		}
	case *packet.Disconnect:
		failed(p.Code)
	}
	return strings.Join(f, " ")
}
