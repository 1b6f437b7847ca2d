package sim

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

var (
	// ErrOffline says that there is no connection, or that it ended before the answer came.
	ErrOffline = errors.New("sim: not connected")
	// ErrOnline says that there is a connection already.
	ErrOnline = errors.New("sim: already connected")
)

// Refused is the error of a CONNECT that the server answered with a failure, or of a subscription.
type Refused struct{ Code packet.Code }

func (r *Refused) Error() string { return "sim: refused: " + r.Code.String() }

// ClientOptions say who a client is and what it does. Only Dial is required.
type ClientOptions struct {
	// Dial opens a network connection; see DialTCP.
	Dial func(ctx context.Context) (net.Conn, error)
	// Connect is the CONNECT to send. Version 0 is 5.0. In it a topic alias maximum makes the client follow aliases.
	Connect packet.Connect
	// Window is how many QoS 1 and 2 messages may be on their way at once; default 64. The server's receive maximum holds beside it.
	Window int
	// OnMessage gets every message, in order, from the goroutine that reads: until it returns nothing else is read, so it must not
	// wait for an acknowledgement. p is valid during the call. Without it messages are kept for Receive.
	OnMessage func(p *packet.Publish)
	// ManualAcks leaves PUBACK and PUBREC to calls of Ack.
	ManualAcks bool
	// OnPacket sees every packet that comes after CONNACK, before the client does. If it returns true, the client takes no notice
	// of the packet.
	OnPacket func(p packet.Packet) (handled bool)
}

// DialTCP dials an address, host:port.
func DialTCP(address string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
}

// Client is an MQTT client with its session: the messages on their way, in both directions, outlive a connection and are
// resumed by the next one, if the server still has its side of the session. It is safe for concurrent use.
type Client struct {
	o ClientOptions

	mu      sync.Mutex
	link    *link         // nil: offline
	keeping bool          // Keep runs: Publish waits for the next connection
	changed chan struct{} // closed and made anew by wake
	waiting int           // how many wait for it
	stats   ClientStats

	lastID   uint16
	order    uint64
	pending  map[uint16]*outgoing           // sent or to be sent, not complete
	queue    []*outgoing                    // the ones of these not sent on this connection yet, in order
	quota    int                            // how many more the server's receive maximum allows
	requests map[uint16]chan *packet.Suback // SUBSCRIBE and UNSUBSCRIBE without their answer
	inbound  map[uint16]bool                // QoS 2 ids received, not released

	inbox []*packet.Publish
}

// ClientStats count what a client did.
type ClientStats struct {
	Connects   int // CONNECTs accepted
	Lost       int // of these, without the session that the client expected
	Sent       int // messages given to the connection, resent ones not counted
	Resent     int
	Acked      int // QoS 1 and 2 messages that the server took
	Refused    int // that it answered with a failure
	Received   int // messages delivered to the client's user
	Duplicates int // QoS 2 messages that came again and were not delivered
	Stray      int // acknowledgements that belong to nothing
}

// outgoing is one QoS 1 or 2 message on its way.
type outgoing struct {
	order    uint64
	id       uint16
	idAt     int // in wire
	wire     []byte
	qos      byte
	sent     bool // at least once, on this connection or an earlier one
	dup      bool // and the server has the session in which it was
	released bool // PUBREC came: only its PUBREL is sent from now on
	done     func(code packet.Code)
}

// link is one network connection.
type link struct {
	conn    net.Conn
	dec     packet.Decoder
	version packet.Version
	buf     []byte // buf[from:to] is read and not decoded
	from    int
	to      int
	max     int // receive maximum of the server

	out     []byte // guarded by Client.mu
	last    bool   // close once out is written
	kick    chan struct{}
	failed  chan struct{} // closed at the first error; err says which
	written chan struct{} // closed when the goroutine that writes has ended
	ended   chan struct{} // closed when both have
	once    sync.Once
	err     error
	aliases map[uint16][]byte
}

const (
	outLimit       = 256 << 10       // bytes to be written beyond which QoS 0 messages wait
	disconnectWait = 5 * time.Second // for what is to be written before a DISCONNECT, and for it
)

// NewClient makes a client. It does not connect.
func NewClient(o ClientOptions) *Client {
	if o.Connect.Version == 0 {
		o.Connect.Version = packet.V5
	}
	if o.Window == 0 {
		o.Window = 64
	}
	return &Client{
		o:        o,
		changed:  make(chan struct{}),
		pending:  map[uint16]*outgoing{},
		requests: map[uint16]chan *packet.Suback{},
		inbound:  map[uint16]bool{},
	}
}

// Connect opens a connection and resumes the session. The CONNACK says whether the server has it too; if not, messages on their
// way are sent again as new ones. One goroutine connects.
func (c *Client) Connect(ctx context.Context) (ack *packet.Connack, err error) {
	if err := c.offline(ctx); err != nil {
		return nil, err
	}
	conn, err := c.o.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("sim: dial: %w", err)
	}
	l := &link{
		conn:    conn,
		version: c.o.Connect.Version,
		kick:    make(chan struct{}, 1),
		failed:  make(chan struct{}),
		written: make(chan struct{}),
		ended:   make(chan struct{}),
		buf:     make([]byte, 4096),
		aliases: map[uint16][]byte{},
	}
	l.dec = packet.Decoder{Version: l.version, MaxSize: int(c.o.Connect.Props.MaximumPacket)}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	ack, err = l.connect(&c.o.Connect)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return ack, err
	}
	if ack.Props.Has&packet.PAssignedClientID != 0 {
		c.o.Connect.ClientID = ack.Props.AssignedClientID
	}
	c.resume(l, ack)
	go c.write(l, c.keepAlive(ack))
	go c.read(l)
	return ack, nil
}

// offline waits for the end of a connection that has failed, so that its last message is delivered before the next one's first.
func (c *Client) offline(ctx context.Context) error {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return nil
	}
	select {
	case <-l.failed:
	default:
		return ErrOnline
	}
	select {
	case <-l.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// connect sends CONNECT and waits for CONNACK.
func (l *link) connect(p *packet.Connect) (*packet.Connack, error) {
	wire, err := p.Append(nil, p.Version)
	if err != nil {
		return nil, fmt.Errorf("sim: encode CONNECT: %w", err)
	}
	if _, err := l.conn.Write(wire); err != nil {
		return nil, fmt.Errorf("sim: send CONNECT: %w", err)
	}
	answer, err := l.next()
	if err != nil {
		return nil, fmt.Errorf("sim: wait for CONNACK: %w", err)
	}
	ack, ok := answer.(*packet.Connack)
	if !ok {
		return nil, fmt.Errorf("sim: %v before CONNACK", answer.Type())
	}
	if ack.Code != packet.Success {
		return ack, &Refused{ack.Code}
	}
	l.max = 65_535
	if ack.Props.Has&packet.PReceiveMaximum != 0 {
		l.max = int(ack.Props.ReceiveMaximum)
	}
	return ack, nil
}

func (c *Client) keepAlive(ack *packet.Connack) time.Duration {
	seconds := c.o.Connect.KeepAlive
	if ack.Props.Has&packet.PServerKeepAlive != 0 {
		seconds = ack.Props.ServerKeepAlive
	}
	return time.Duration(seconds) * time.Second
}

// resume makes l the connection and puts what is pending in order on it.
func (c *Client) resume(l *link, ack *packet.Connack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Connects++
	// 3.1 does not say whether the session is there: it is, if it was asked for.
	if present := ack.SessionPresent || l.version == packet.V31 && !c.o.Connect.CleanStart; !present {
		if c.stats.Connects > 1 && !c.o.Connect.CleanStart {
			c.stats.Lost++
		}
		c.forget()
	}
	c.link = l
	c.quota = l.max
	c.queue = c.queue[:0]
	for _, o := range c.pending {
		c.queue = append(c.queue, o)
	}
	slices.SortFunc(c.queue, func(a, b *outgoing) int { return cmp.Compare(a.order, b.order) })
	c.pump()
	c.wake()
}

// forget drops what only made sense with the server's side of the session: inbound ids, and outbound messages that the server
// had taken already. The others become new messages.
func (c *Client) forget() {
	clear(c.inbound)
	for id, o := range c.pending {
		if o.released {
			delete(c.pending, id)
		}
		o.dup = false
		o.wire[0] &^= dupBit
	}
}

const dupBit = 0x08 // of a PUBLISH, in its first byte

// pump sends what is queued, as far as the server's receive maximum allows.
func (c *Client) pump() {
	n := 0
	for _, o := range c.queue {
		if o.released {
			c.quota = max(0, c.quota-1)
			c.send(&packet.Ack{Kind: packet.PUBREL, PacketID: o.id})
			n++
			continue
		}
		if c.quota == 0 {
			break
		}
		c.quota--
		n++
		if o.dup {
			o.wire[0] |= dupBit
		}
		if o.sent {
			c.stats.Resent++
		} else {
			c.stats.Sent++
		}
		o.sent, o.dup = true, true
		c.link.out = append(c.link.out, o.wire...)
	}
	c.queue = slices.Delete(c.queue, 0, n)
	c.link.signal()
}

func (l *link) signal() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// send queues a packet that the client made itself; it cannot fail to encode.
func (c *Client) send(p packet.Packet) {
	if c.link != nil {
		c.link.out, _ = p.Append(c.link.out, c.link.version)
		c.link.signal()
	}
}

// wake lets those who wait look again. Called with mu held.
func (c *Client) wake() {
	if c.waiting == 0 {
		return
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait blocks, with mu held but not while waiting, until something has changed.
func (c *Client) wait(ctx context.Context) error {
	changed := c.changed
	c.waiting++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.waiting--
	}()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Publish sends a message. It waits for room in the window, and, while Keep runs, for a connection; else without one it returns
// ErrOffline. Its packet id is the client's business. p and what it points to is free again when Publish returns.
//
// Of QoS 1 and 2, done, unless it is nil, is called once when the server has taken responsibility or refused it: at PUBACK or
// PUBREC, on whichever connection that comes. It is called from the goroutine that reads, like OnMessage.
func (c *Client) Publish(ctx context.Context, p *packet.Publish, done func(code packet.Code)) error {
	o := &outgoing{qos: p.QoS, done: done}
	if p.QoS > 0 {
		var err error
		if o.wire, o.idAt, err = packet.AppendPublish(nil, p, c.o.Connect.Version); err != nil {
			return fmt.Errorf("sim: encode PUBLISH: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.link == nil || !c.room(p.QoS) {
		if c.link == nil && !c.keeping {
			return ErrOffline
		}
		if err := c.wait(ctx); err != nil {
			return err
		}
	}
	if p.QoS == 0 {
		return c.publish0(p)
	}
	o.id, o.order = c.newID(), c.order
	c.order++
	o.wire[o.idAt], o.wire[o.idAt+1] = byte(o.id>>8), byte(o.id)
	c.pending[o.id] = o
	c.queue = append(c.queue, o)
	c.pump()
	return nil
}

func (c *Client) publish0(p *packet.Publish) error {
	out, _, err := packet.AppendPublish(c.link.out, p, c.link.version)
	if err != nil {
		return fmt.Errorf("sim: encode PUBLISH: %w", err)
	}
	c.link.out = out
	c.link.signal()
	c.stats.Sent++
	return nil
}

func (c *Client) room(qos byte) bool {
	if qos == 0 {
		return len(c.link.out) < outLimit
	}
	return len(c.pending) < c.o.Window
}

// newID returns a packet id that is not in use. The window is far smaller than the number of ids.
func (c *Client) newID() uint16 {
	for {
		c.lastID++
		if c.lastID != 0 && c.pending[c.lastID] == nil && c.requests[c.lastID] == nil {
			return c.lastID
		}
	}
}

// Subscribe asks for subscriptions and returns the server's word on each. A refusal of one is not an error.
func (c *Client) Subscribe(ctx context.Context, filters ...packet.Filter) ([]packet.Code, error) {
	return c.SubscribeAs(ctx, &packet.Subscribe{Filters: filters})
}

// SubscribeAs sends a SUBSCRIBE as it is, but for the packet id.
func (c *Client) SubscribeAs(ctx context.Context, p *packet.Subscribe) ([]packet.Code, error) {
	return c.request(ctx, func(id uint16) packet.Packet {
		s := *p
		s.PacketID = id
		return &s
	})
}

// Unsubscribe ends subscriptions. In 3.1.1 the answer has no codes.
func (c *Client) Unsubscribe(ctx context.Context, filters ...string) ([]packet.Code, error) {
	return c.request(ctx, func(id uint16) packet.Packet { return &packet.Unsubscribe{PacketID: id, Filters: filters} })
}

func (c *Client) request(ctx context.Context, build func(id uint16) packet.Packet) ([]packet.Code, error) {
	answer := make(chan *packet.Suback, 1)
	c.mu.Lock()
	l := c.link
	if l == nil {
		c.mu.Unlock()
		return nil, ErrOffline
	}
	id := c.newID()
	wire, err := build(id).Append(nil, l.version)
	if err == nil {
		c.requests[id] = answer
		l.out = append(l.out, wire...)
		l.signal()
	}
	c.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("sim: encode request: %w", err)
	}
	defer func() {
		c.mu.Lock()
		delete(c.requests, id)
		c.mu.Unlock()
	}()
	select {
	case a := <-answer:
		return a.Codes, nil
	case <-l.ended:
		return nil, fmt.Errorf("%w: %w", ErrOffline, l.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Ack acknowledges a message received under ManualAcks: PUBACK, or PUBREC. Only QoS and PacketID of p matter.
func (c *Client) Ack(p *packet.Publish) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ack(p.QoS, p.PacketID)
}

func (c *Client) ack(qos byte, id uint16) {
	switch qos {
	case 1:
		c.send(&packet.Ack{Kind: packet.PUBACK, PacketID: id})
	case 2:
		c.send(&packet.Ack{Kind: packet.PUBREC, PacketID: id})
	}
}

// Send sends any packet as it is, past the session.
func (c *Client) Send(p packet.Packet) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return ErrOffline
	}
	out, err := p.Append(c.link.out, c.link.version)
	if err != nil {
		return fmt.Errorf("sim: encode %v: %w", p.Type(), err)
	}
	c.link.out = out
	c.link.signal()
	return nil
}

// Receive returns the next message, of a client without OnMessage. The caller owns it.
func (c *Client) Receive(ctx context.Context) (*packet.Publish, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.inbox) == 0 {
		if err := c.wait(ctx); err != nil {
			return nil, err
		}
	}
	p := c.inbox[0]
	c.inbox = c.inbox[1:]
	return p, nil
}

// Drain waits until no QoS 1 or 2 message is on its way any more.
func (c *Client) Drain(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.pending) > 0 {
		if c.link == nil && !c.keeping {
			return ErrOffline
		}
		if err := c.wait(ctx); err != nil {
			return fmt.Errorf("sim: %d messages not acknowledged: %w", len(c.pending), err)
		}
	}
	return nil
}

// Pending is how many QoS 1 and 2 messages are on their way.
func (c *Client) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// Stats returns the counts so far.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Done returns a channel that closes when the present connection has ended and its last message is delivered; a closed one if
// there is none.
func (c *Client) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return c.link.ended
}

// Disconnect sends DISCONNECT behind everything sent before, closes the connection and waits for its end. OnMessage, OnPacket
// and done must not call it.
func (c *Client) Disconnect(code packet.Code) {
	c.mu.Lock()
	l := c.link
	if l != nil {
		c.send(&packet.Disconnect{Code: code})
		l.last = true
		l.conn.SetWriteDeadline(time.Now().Add(disconnectWait))
	}
	c.mu.Unlock()
	if l != nil {
		<-l.ended
	}
}

// Drop cuts the connection without a word, and does not wait for its end (see Done).
func (c *Client) Drop() {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return
	}
	if tcp, ok := l.conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the peer sees a reset, as it does when a device loses its power or its network
	}
	l.fail(ErrOffline)
}

// Keep keeps the client connected until ctx is done: it takes the connection that there is, if there is one, and connects again
// whenever it has ended, after refusals too. Then it disconnects. up, unless it is nil, is called for every connection, with
// whether the server had the session (true for one that was there before); an error ends that connection. Keep returns the last
// error if there never was a connection.
func (c *Client) Keep(ctx context.Context, up func(ctx context.Context, present bool) error) error {
	c.setKeeping(true)
	defer c.setKeeping(false)
	const shortest, longest = 20 * time.Millisecond, time.Second
	pause := shortest
	var last error
	for ctx.Err() == nil {
		present := true
		ack, err := c.Connect(ctx)
		if err == nil {
			present = ack.SessionPresent
		} else if errors.Is(err, ErrOnline) {
			err = nil
		}
		if err == nil && up != nil {
			if err = up(ctx, present); err != nil {
				c.Drop()
			}
		}
		if err != nil {
			last = err
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, longest)
			continue
		}
		pause = shortest
		select {
		case <-ctx.Done():
		case <-c.Done():
		}
	}
	c.Disconnect(packet.Success)
	if c.Stats().Connects == 0 {
		return last
	}
	return nil
}

func (c *Client) setKeeping(keeping bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keeping = keeping
	c.wake()
}

// fail closes the network connection, once; the two goroutines then end.
func (l *link) fail(err error) {
	l.once.Do(func() {
		l.err = err
		l.conn.Close()
		close(l.failed)
	})
}

// write is the goroutine that writes.
func (c *Client) write(l *link, keepAlive time.Duration) {
	defer close(l.written)
	var ping <-chan time.Time
	if keepAlive > 0 {
		t := time.NewTicker(keepAlive * 3 / 4)
		defer t.Stop()
		ping = t.C
	}
	var spare []byte
	for {
		select {
		case <-l.kick:
		case <-ping:
			_ = c.Send(&packet.Ping{Kind: packet.PINGREQ}) // an error ends the connection, which is seen here next
		case <-l.failed:
			return
		}
		c.mu.Lock()
		out, last := l.out, l.last
		l.out = spare[:0]
		if len(out) >= outLimit {
			c.wake()
		}
		c.mu.Unlock()
		if len(out) > 0 { // else an earlier round has written what this kick was for
			if _, err := l.conn.Write(out); err != nil {
				l.fail(err)
				return
			}
		}
		spare = out
		if last {
			l.fail(ErrOffline)
			return
		}
	}
}

// read is the goroutine that reads. It is the last to end, and ends the connection for the client.
func (c *Client) read(l *link) {
	for {
		p, err := l.next()
		if err == nil && (c.o.OnPacket == nil || !c.o.OnPacket(p)) {
			err = c.handle(l, p)
		}
		if err != nil {
			l.fail(err)
			break
		}
	}
	<-l.written
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = nil
	close(l.ended)
	c.wake()
}

// next reads one packet. It is valid until the next call.
func (l *link) next() (packet.Packet, error) {
	for {
		p, n, _, err := l.dec.Next(l.buf[l.from:l.to])
		if err != nil {
			return nil, err
		}
		if n > 0 {
			l.from += n
			return p, nil
		}
		l.to = copy(l.buf, l.buf[l.from:l.to])
		l.from = 0
		if l.to == len(l.buf) {
			l.buf = append(l.buf, make([]byte, max(12<<10, len(l.buf)))...)
		}
		m, err := l.conn.Read(l.buf[l.to:])
		if m == 0 && err != nil {
			return nil, err
		}
		l.to += m
	}
}

func (c *Client) handle(l *link, p packet.Packet) error {
	switch p := p.(type) {
	case *packet.Publish:
		return c.receive(l, p)
	case *packet.Ack:
		c.acked(p)
	case *packet.Suback:
		c.mu.Lock()
		answer := c.requests[p.PacketID]
		delete(c.requests, p.PacketID)
		c.mu.Unlock()
		if answer != nil {
			answer <- p
		}
	case *packet.Disconnect:
		return &Refused{p.Code}
	}
	return nil
}

// receive delivers a message and acknowledges it.
func (c *Client) receive(l *link, p *packet.Publish) error {
	if p.Props.Has&packet.PTopicAlias != 0 {
		if err := l.alias(p, &c.o.Connect.Props); err != nil {
			return err
		}
	}
	c.mu.Lock()
	repeated := p.QoS == 2 && c.inbound[p.PacketID]
	switch {
	case repeated:
		c.stats.Duplicates++
	case p.QoS == 2:
		c.inbound[p.PacketID] = true
		fallthrough
	default:
		c.stats.Received++
		if c.o.OnMessage == nil {
			c.inbox = append(c.inbox, clonePublish(p))
			c.wake()
		}
	}
	c.mu.Unlock()
	if c.o.OnMessage != nil && !repeated {
		c.o.OnMessage(p)
	}
	if !c.o.ManualAcks || repeated {
		c.Ack(p)
	}
	return nil
}

// alias resolves a topic alias.
func (l *link) alias(p *packet.Publish, mine *packet.Properties) error {
	id := p.Props.TopicAlias
	if id > mine.TopicAliasMax {
		return fmt.Errorf("sim: topic alias %d beyond the maximum of %d", id, mine.TopicAliasMax)
	}
	if len(p.Topic) > 0 {
		l.aliases[id] = bytes.Clone(p.Topic)
		return nil
	}
	topic, ok := l.aliases[id]
	if !ok {
		return fmt.Errorf("sim: topic alias %d was never set", id)
	}
	p.Topic = topic
	return nil
}

func clonePublish(p *packet.Publish) *packet.Publish {
	q := *p
	q.Topic, q.Payload = bytes.Clone(p.Topic), bytes.Clone(p.Payload)
	q.Props.Correlation = bytes.Clone(p.Props.Correlation)
	q.Props.SubscriptionIDs = slices.Clone(p.Props.SubscriptionIDs)
	q.Props.User = slices.Clone(p.Props.User)
	return &q
}

// acked takes one step of a QoS 1 or 2 exchange.
func (c *Client) acked(p *packet.Ack) {
	if p.Kind == packet.PUBREL {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.inbound, p.PacketID)
		c.send(&packet.Ack{Kind: packet.PUBCOMP, PacketID: p.PacketID})
		return
	}
	c.mu.Lock()
	o := c.pending[p.PacketID]
	taken, complete := c.step(o, p)
	if complete {
		delete(c.pending, p.PacketID)
		c.queue = slices.DeleteFunc(c.queue, func(q *outgoing) bool { return q == o }) // if it came before it could be sent again
		if c.link != nil {
			c.quota = min(c.quota+1, c.link.max)
			c.pump()
		}
		c.wake()
	}
	c.mu.Unlock()
	if taken && o.done != nil {
		o.done(p.Code)
	}
}

// step decides what an acknowledgement means for a message: that the server has taken it or refused it, that it is complete.
func (c *Client) step(o *outgoing, p *packet.Ack) (taken, complete bool) {
	switch {
	case o != nil && p.Kind == packet.PUBACK && o.qos == 1:
		taken, complete = true, true
	case o != nil && p.Kind == packet.PUBREC && o.qos == 2:
		taken, complete = !o.released, p.Code.Failed()
		if !complete {
			o.released = true
			c.send(&packet.Ack{Kind: packet.PUBREL, PacketID: p.PacketID})
		}
	case o != nil && p.Kind == packet.PUBCOMP && o.released:
		return false, true
	case p.Kind == packet.PUBREC:
		c.stats.Stray++
		c.send(&packet.Ack{Kind: packet.PUBREL, PacketID: p.PacketID, Code: packet.PacketIDNotFound})
		return false, false
	default:
		c.stats.Stray++
		return false, false
	}
	if taken && p.Code.Failed() {
		c.stats.Refused++
	} else if taken {
		c.stats.Acked++
	}
	return taken, complete
}
