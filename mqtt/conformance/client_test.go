package conformance

import (
	"bufio"
	"errors"
	"net"
	"os"
	"slices"
	"time"
)

// client is one connection.
type client struct {
	e     *env
	nc    net.Conn
	r     *bufio.Reader
	v     byte
	name  string
	ack   *packet   // CONNACK
	stash []*packet // came while something else was waited for
	id    int       // packet identifier that was used last
	total int       // packets that came
}

func (e *env) dial() *client {
	e.Helper()
	nc, err := net.DialTimeout("tcp", e.addr, e.patience)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { nc.Close() })
	return &client{e: e, nc: nc, r: bufio.NewReader(nc), v: e.v}
}

// will is the will of a CONNECT.
type will struct {
	topic, payload string
	qos            byte
	retain         bool
	props          [][]byte
}

// hello is a CONNECT. Zero: a session that ends with the connection, under a new client id.
type hello struct {
	id    string
	noID  bool
	stay  bool // the session outlives the connection, and an earlier one is resumed
	clean bool // with stay: an earlier one is not resumed (5.0)
	keep  int  // 0: a minute
	will  *will
	user  string
	pass  string
	props [][]byte
}

func (h *hello) bytes(v byte) []byte {
	flags := byte(0)
	if !h.stay || h.clean {
		flags |= 2
	}
	if h.will != nil {
		flags |= 4 | h.will.qos<<3
		if h.will.retain {
			flags |= 0x20
		}
	}
	if h.user != "" {
		flags |= 0x80
	}
	if h.pass != "" {
		flags |= 0x40
	}
	ps := h.props
	if h.stay && !slices.ContainsFunc(ps, func(p []byte) bool { return p[0] == propSessionExpiry }) {
		ps = append(slices.Clone(ps), prop(propSessionExpiry, u32(300)))
	}
	keep := h.keep
	if keep == 0 {
		keep = 60
	}
	b := cat(str(protocol(v)), []byte{v, flags}, u16(keep), propsIf(v, ps...), str(h.id))
	if w := h.will; w != nil {
		b = cat(b, propsIf(v, w.props...), str(w.topic), str(w.payload))
	}
	if h.user != "" {
		b = cat(b, str(h.user))
	}
	if h.pass != "" {
		b = cat(b, str(h.pass))
	}
	return pkt(tConnect<<4, b)
}

func protocol(v byte) string {
	if v == v31 {
		return "MQIsdp"
	}
	return "MQTT"
}

// connect makes a connection that the server accepts.
func (e *env) connect(h hello) *client {
	e.Helper()
	if h.id == "" && !h.noID {
		h.id = e.clientID()
	}
	c := e.dial()
	c.name = h.id
	c.send(h.bytes(e.v))
	c.accepted()
	return c
}

// accepted reads the CONNACK.
func (c *client) accepted() {
	c.e.Helper()
	c.ack = c.expect(tConnack)
	if c.ack.code != 0 {
		c.e.Fatalf("CONNECT was refused: %s", c.ack)
	}
}

func (c *client) send(parts ...[]byte) {
	c.e.Helper()
	c.nc.SetWriteDeadline(time.Now().Add(c.e.patience))
	if _, err := c.nc.Write(cat(parts...)); err != nil {
		c.e.Fatalf("write: %v", err)
	}
}

// trySend writes what the server may have hung up on already.
func (c *client) trySend(parts ...[]byte) {
	c.nc.SetWriteDeadline(time.Now().Add(c.e.patience))
	c.nc.Write(cat(parts...)) // an error shows in what is read
}

// read returns the next packet from the socket; nil: the server has closed the connection.
func (c *client) read() *packet {
	c.e.Helper()
	c.nc.SetReadDeadline(time.Now().Add(c.e.patience))
	b, err := readRaw(c.r)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.e.Fatalf("nothing came within %v", c.e.patience)
	case closed(err):
		return nil
	default:
		c.e.Fatal(err)
	}
	p, err := decode(b, c.v)
	if err != nil {
		c.e.Fatal(err)
	}
	c.total++
	return p
}

// next returns the next packet.
func (c *client) next() *packet {
	c.e.Helper()
	if len(c.stash) > 0 {
		p := c.stash[0]
		c.stash = c.stash[1:]
		return p
	}
	p := c.read()
	if p == nil {
		c.e.Fatal("the server closed the connection")
	}
	return p
}

// expect returns the next packet, which must be of a type.
func (c *client) expect(typ byte) *packet {
	c.e.Helper()
	p := c.next()
	if p.typ != typ {
		c.e.Fatalf("got %s, want %s", p, typeNames[typ])
	}
	return p
}

// await returns the next packet of a type; publishes that come before it are kept for later.
func (c *client) await(typ byte) *packet {
	c.e.Helper()
	for {
		p := c.read()
		switch {
		case p == nil:
			c.e.Fatalf("the server closed the connection, want %s", typeNames[typ])
		case p.typ == typ:
			return p
		case p.typ != tPublish && p.typ != tPubrel:
			c.e.Fatalf("got %s, want %s", p, typeNames[typ])
		}
		c.stash = append(c.stash, p)
	}
}

// ended reads to the end of the connection, which the server makes. Ours says why in 5.0, with one of the codes. Other brokers
// may go without a word, and mistake Malformed Packet and Protocol Error for each other.
func (c *client) ended(codes ...byte) {
	c.e.Helper()
	if !c.e.strict && (slices.Contains(codes, 0x81) || slices.Contains(codes, 0x82)) {
		codes = append(slices.Clone(codes), 0x81, 0x82)
	}
	c.trySend(pkt(tPingreq << 4)) // the answer to this would show that it goes on
	c.cutOff(codes...)
}

// cutOff is ended for a client that says nothing itself.
func (c *client) cutOff(codes ...byte) {
	c.e.Helper()
	said := false
	for p := c.read(); p != nil; p = c.read() {
		if said || p.typ != tDisconnect {
			c.e.Fatalf("got %s, want the connection ended", p)
		}
		if said = true; !slices.Contains(codes, p.code) {
			c.e.Fatalf("got %s, want one of the codes % x", p, codes)
		}
	}
	if c.e.strict && c.v == v5 && !said {
		c.e.Fatalf("the connection was ended without DISCONNECT, want one of the codes % x", codes)
	}
}

// refused sends what is no good CONNECT. In 5.0 the answer is a CONNACK with one of the codes, and the end; before, it is a
// return code and the end, or (ret 0) the end without a word.
func (e *env) refused(connect []byte, ret byte, codes ...byte) {
	e.Helper()
	c := e.dial()
	c.trySend(connect)
	c.turnedAway(ret, codes...)
}

func (c *client) turnedAway(ret byte, codes ...byte) {
	c.e.Helper()
	p := c.read()
	switch {
	case p == nil && (!c.e.strict || c.v < v5 && ret == 0):
		return
	case p == nil:
		c.e.Fatal("the connection was closed without CONNACK")
	case p.typ != tConnack || p.code == 0:
		c.e.Fatalf("got %s, want a refusal", p)
	case c.v == v5 && !slices.Contains(codes, p.code):
		c.e.Fatalf("got %s, want one of the codes % x", p, codes)
	case c.v < v5 && p.code != ret:
		c.e.Fatalf("got %s, want return code %d (0: none, only the end)", p, ret)
	}
	if p := c.read(); p != nil {
		c.e.Fatalf("got %s after a refusal, want the connection closed", p)
	}
}

// cut ends the connection as a network failure would.
func (c *client) cut() {
	if t, ok := c.nc.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.nc.Close()
}

// leave ends the connection with DISCONNECT, and waits until the server has closed it too: then a session that stays is offline.
func (c *client) leave() {
	c.e.Helper()
	c.send(pkt(tDisconnect << 4))
	for p := c.read(); p != nil; p = c.read() {
	}
}

func (c *client) packetID() int {
	c.id++
	return c.id
}

// message is a PUBLISH.
type message struct {
	topic, payload string
	qos            byte
	retain, dup    bool
	id             int // 0: a new one
	props          [][]byte
}

func (m *message) bytes(v byte) []byte {
	first := tPublish<<4 | m.qos<<1
	if m.dup {
		first |= 8
	}
	if m.retain {
		first |= 1
	}
	b := str(m.topic)
	if m.qos > 0 {
		b = cat(b, u16(m.id))
	}
	return pkt(first, b, propsIf(v, m.props...), raw(m.payload))
}

// publish sends a message and brings its exchange to the end. It returns the first answer, nil for QoS 0.
func (c *client) publish(m message) *packet {
	c.e.Helper()
	if m.qos > 0 && m.id == 0 {
		m.id = c.packetID()
	}
	c.send(m.bytes(c.v))
	switch m.qos {
	case 1:
		return c.acked(tPuback, m.id)
	case 2:
		rec := c.acked(tPubrec, m.id)
		if rec.code < 0x80 {
			c.send(ack(tPubrel, m.id))
			c.acked(tPubcomp, m.id)
		}
		return rec
	}
	return nil
}

func (c *client) acked(typ byte, id int) *packet {
	c.e.Helper()
	p := c.await(typ)
	if p.id != id {
		c.e.Fatalf("got %s, want the id %d", p, id)
	}
	return p
}

// put publishes a message at QoS 1 that must be accepted.
func (c *client) put(topic, payload string) {
	c.e.Helper()
	c.must(message{topic: topic, payload: payload, qos: 1})
}

// must publishes a message that must be accepted.
func (c *client) must(m message) {
	c.e.Helper()
	if p := c.publish(m); p != nil && p.code >= 0x80 {
		c.e.Fatalf("a publish was refused: %s", p)
	}
}

// ack is a PUBACK, PUBREC, PUBREL or PUBCOMP in its short form.
func ack(typ byte, id int) []byte {
	first := typ << 4
	if typ == tPubrel {
		first |= 2
	}
	return pkt(first, u16(id))
}

// filter is one subscription of a SUBSCRIBE.
type filter struct {
	filter  string
	options int
}

const (
	noLocal     = 0x04
	asPublished = 0x08
	sendIfNew   = 0x10 // retain handling
	sendNever   = 0x20
)

func subscribe(v byte, id int, ps [][]byte, fs ...filter) []byte {
	b := cat(u16(id), propsIf(v, ps...))
	for _, f := range fs {
		b = cat(b, str(f.filter), u8(f.options))
	}
	return pkt(tSubscribe<<4|2, b)
}

func unsubscribe(v byte, id int, fs ...string) []byte {
	b := cat(u16(id), propsIf(v))
	for _, f := range fs {
		b = cat(b, str(f))
	}
	return pkt(tUnsubscribe<<4|2, b)
}

// subscribe makes one subscription that must be granted as asked.
func (c *client) subscribe(f string, options int, ps ...[]byte) {
	c.e.Helper()
	if codes := c.ask(ps, filter{f, options}); codes[0] != byte(options&3) {
		c.e.Fatalf("SUBSCRIBE %q with options %02X was answered %02X", f, options, codes[0])
	}
}

// ask subscribes and returns the answers.
func (c *client) ask(ps [][]byte, fs ...filter) []byte {
	c.e.Helper()
	id := c.packetID()
	c.send(subscribe(c.v, id, ps, fs...))
	p := c.acked(tSuback, id)
	if len(p.codes) != len(fs) {
		c.e.Fatalf("%d filters were answered with %s", len(fs), p)
	}
	return p.codes
}

// unsubscribe ends subscriptions and returns the answers, none before 5.0.
func (c *client) unsubscribe(fs ...string) []byte {
	c.e.Helper()
	id := c.packetID()
	c.send(unsubscribe(c.v, id, fs...))
	p := c.acked(tUnsuback, id)
	if c.v == v5 && len(p.codes) != len(fs) {
		c.e.Fatalf("%d filters were answered with %s", len(fs), p)
	}
	return p.codes
}

// subscriber is a new client with one subscription.
func (e *env) subscriber(f string, options int) *client {
	e.Helper()
	c := e.connect(hello{})
	c.subscribe(f, options)
	return c
}

// message returns the next PUBLISH, and answers nothing.
func (c *client) message() *packet {
	c.e.Helper()
	return c.expect(tPublish)
}

// take returns the next PUBLISH, and brings its exchange to the end.
func (c *client) take() *packet {
	c.e.Helper()
	p := c.message()
	c.finish(p)
	return p
}

// finish brings the exchange of a PUBLISH to the end.
func (c *client) finish(p *packet) {
	c.e.Helper()
	switch p.qos() {
	case 1:
		c.send(ack(tPuback, p.id))
	case 2:
		c.send(ack(tPubrec, p.id))
		c.released(p.id)
		c.send(ack(tPubcomp, p.id))
	}
}

// released waits for a PUBREL.
func (c *client) released(id int) {
	c.e.Helper()
	for i, p := range c.stash {
		if p.typ == tPubrel && p.id == id {
			c.stash = slices.Delete(c.stash, i, i+1)
			return
		}
	}
	if p := c.await(tPubrel); p.id != id || p.code != 0 {
		c.e.Fatalf("got %s, want PUBREL #%d", p, id)
	}
}

// want takes the next message, which must have a payload.
func (c *client) want(payload string) *packet {
	c.e.Helper()
	p := c.take()
	if p.payload != payload {
		c.e.Fatalf("got %s, want the payload %q", p, payload)
	}
	return p
}

// waiting returns what the server has for the client at once: what came before the answer to a SUBSCRIBE.
func (c *client) waiting() []*packet {
	c.e.Helper()
	id := c.packetID()
	c.send(subscribe(c.v, id, nil, filter{c.e.prefix + "nothing", 0}))
	c.acked(tSuback, id)
	ps := c.stash
	c.stash = nil
	return ps
}

// atLeast returns n packets or more: all that the server has for the client once there are so many.
func (c *client) atLeast(n int) (ps []*packet) {
	c.e.Helper()
	for end := time.Now().Add(c.e.patience); ; time.Sleep(time.Millisecond) {
		if ps = append(ps, c.waiting()...); len(ps) >= n {
			return ps
		}
		if time.Now().After(end) {
			c.e.Fatalf("got %v, want %d packets", ps, n)
		}
	}
}

// left returns what the client is still owed, as far as the window takes it: a message of its own comes behind all that.
func (c *client) left() (ps []*packet) {
	c.e.Helper()
	id := c.e.clientID()
	topic := c.e.prefix + "fence/" + id
	c.subscribe(topic, 0)
	c.e.connect(hello{}).put(topic, id)
	for p := c.message(); p.payload != id; p = c.message() {
		ps = append(ps, p)
	}
	c.unsubscribe(topic)
	return ps
}

// nothingRetained checks that a new subscriber is owed no retained message. Those of a second subscription would come later.
func (e *env) nothingRetained(f string, options int) {
	e.Helper()
	fence := e.topic("fence/" + e.clientID())
	e.connect(hello{}).must(message{topic: fence, payload: "fence", qos: 1, retain: true})
	c := e.subscriber(f, options)
	c.subscribe(fence, 1)
	c.want("fence")
	e.clear(fence)
}

// quiet checks that the server sends nothing now; with a full window there may be more to come.
func (c *client) quiet() {
	c.e.Helper()
	if ps := c.waiting(); len(ps) > 0 {
		c.e.Fatalf("got %s, want nothing", ps[0])
	}
}

// nothing checks that the server has nothing for the client, neither now nor queued.
func (c *client) nothing() {
	c.e.Helper()
	if ps := append(c.waiting(), c.left()...); len(ps) > 0 {
		c.e.Fatalf("got %s, want nothing", ps[0])
	}
}

// alive checks that the connection still works, and that nothing comes before the answer.
func (c *client) alive() {
	c.e.Helper()
	c.send(pkt(tPingreq << 4))
	c.expect(tPingresp)
}
