// Package client is an MQTT client, 3.1 to 5.0, on mqtt/packet: both directions of QoS 0 to 2, sessions that outlive connections, flow
// control, topic aliases, and control over every acknowledgement. Devices are played with it (sim), and bridges speak to other brokers
// with it (bridge).
//
// It is the protocol only. Who uses it dials, decides when to connect again, and keeps what must outlive the process: messages on their
// way are in memory. A connected client owns two goroutines, one that reads and one that writes; they end with the connection. It
// sends a message again only on a new connection, in the order of Publish, and never one that the server has answered.
package client

import (
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
	ErrOffline = errors.New("mqtt: not connected")
	// ErrOnline says that there is a connection already.
	ErrOnline = errors.New("mqtt: already connected")
	// ErrDial says that there was no network connection.
	ErrDial = errors.New("mqtt: dial")
	// ErrSilent says that the server has not answered for too long.
	ErrSilent = errors.New("mqtt: no answer")
)

// Refused is the error of a CONNECT that the server answered with a failure, or of a subscription.
type Refused struct{ Code packet.Code }

func (r *Refused) Error() string { return "mqtt: refused: " + r.Code.String() }

// Options say who a client is and what it does. Only Dial is required.
type Options struct {
	// Dial opens a network connection; see DialTCP.
	Dial func(ctx context.Context) (net.Conn, error)
	// Connect is the CONNECT to send. Version 0 is 5.0. In it a topic alias maximum makes the client follow aliases.
	Connect packet.Connect
	// Window is how many QoS 1 and 2 messages may be on their way at once; default 64. The server's receive maximum holds beside it.
	Window int
	// OnMessage gets every message, in order, from the goroutine that reads: until it returns nothing else is read, so it must not
	// wait for an acknowledgement. p is valid during the call. Without it messages are kept for Receive.
	OnMessage func(p *packet.Publish)
	// Patience is how long an answer may take before the connection counts as dead, though nobody has closed it: at least that, at
	// most twice. It bounds the wait for CONNACK too. 0: there is no end to it.
	Patience time.Duration
	// Fresh begins with a new session: what a server still has of an earlier life of the client id is gone, even if Connect asks for a
	// session that outlives its connections.
	Fresh bool
	// Seldom says that the client publishes now and then: Publish then writes by itself, instead of waking the goroutine that writes
	// for one message. Many at once are written better without it.
	Seldom bool
	// ManualAcks leaves PUBACK and PUBREC to calls of Ack and Answer.
	ManualAcks bool
	// MaxPacket is the largest packet that is taken on a connection before MQTT 5, where a server cannot be told; on MQTT 5 it is what
	// Connect says. The payload of a larger PUBLISH is discarded as it comes. OnDiscarded, if there is one, then gets the rest in place
	// of OnMessage; under ManualAcks it is its business to have it answered. 0: any.
	MaxPacket   int
	OnDiscarded func(p *packet.Publish)
	// OnRepeated, if there is one, gets QoS 2 messages that come again, which are not delivered; under ManualAcks it is its business to
	// have them answered. Without it they are acknowledged at once.
	OnRepeated func(p *packet.Publish)
	// OwnIDs: packet ids from this one on are used by Deliver only; 0: none.
	OwnIDs uint16
	// Prepare, if there is one, completes each CONNECT before it is sent, with a password that may have changed, say.
	Prepare func(p *packet.Connect) error
	// Quota, if there is one, says at each connection how many QoS 1 and 2 messages may be unanswered at once, beside the server's
	// receive maximum.
	Quota func() int
	// OnLink, if there is one, is called with true when a connection has been made, and with false when it has ended.
	OnLink func(up bool)
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
	o Options

	mu      sync.Mutex
	link    *link         // nil: offline
	keeping bool          // see Await
	changed chan struct{} // closed and made anew by wake
	waiting int           // how many wait for it
	stats   Stats
	why     error // the last connection ended

	lastID   uint16
	order    uint64
	pending  map[uint16]*outgoing           // sent or to be sent, not complete
	queue    []*outgoing                    // the ones of these not sent on this connection yet, in order
	quota    int                            // how many more the server's receive maximum allows
	requests map[uint16]chan *packet.Suback // SUBSCRIBE and UNSUBSCRIBE without their answer
	inbound  map[uint16]bool                // QoS 2 ids received, not released

	inbox []*packet.Publish
}

// Stats count what a client did.
type Stats struct {
	Connects   int // CONNECTs accepted
	Lost       int // of these, without the session that the client expected
	Sent       int // messages given to the connection, resent ones not counted
	Resent     int
	Acked      int // QoS 1 and 2 messages that the server took
	Refused    int // that it answered with a failure
	Received   int // messages delivered to the client's user
	Discarded  int // that were too large for that
	Duplicates int // QoS 2 messages that came again and were not delivered
	Stray      int // acknowledgements that belong to nothing
}

const (
	outLimit       = 256 << 10       // bytes to be written beyond which QoS 0 messages wait
	disconnectWait = 5 * time.Second // for what is to be written before a DISCONNECT, and for it
)

// New makes a client. It does not connect.
func New(o Options) *Client {
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
	connect := c.o.Connect
	if c.o.Prepare != nil {
		if err := c.o.Prepare(&connect); err != nil {
			return nil, err
		}
	}
	if c.o.Fresh && c.Stats().Connects == 0 && !connect.CleanStart {
		connect.CleanStart = true
		if connect.Version < packet.V5 { // a clean session of these ends with its connection
			if err := c.clean(ctx, connect); err != nil {
				return nil, err
			}
			connect.CleanStart = false
		}
	}
	l, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	if ack, err = c.greet(ctx, l, &connect); err != nil {
		l.conn.Close()
		return ack, err
	}
	if ack.Props.Has&packet.PAssignedClientID != 0 {
		c.o.Connect.ClientID = ack.Props.AssignedClientID
	}
	for _, o := range c.resume(l, ack) {
		o.follow(Complete, packet.PacketIDNotFound)
	}
	if c.o.OnLink != nil {
		c.o.OnLink(true)
	}
	go c.write(l, c.keepAlive(ack))
	go c.read(l)
	return ack, nil
}

// ErrImpatient says that the answer to a CONNECT was not waited for any longer.
var ErrImpatient = errors.New("no answer within the client's patience")

// greet sends CONNECT and waits for CONNACK, with patience.
func (c *Client) greet(ctx context.Context, l *link, connect *packet.Connect) (*packet.Connack, error) {
	if c.o.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.o.Patience, ErrImpatient)
		defer cancel()
	}
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	ack, err := l.connect(connect)
	if !stop() {
		err = cmp.Or(context.Cause(ctx), err)
	}
	return ack, err
}

// dial opens a network connection.
func (c *Client) dial(ctx context.Context) (*link, error) {
	conn, err := c.o.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDial, err)
	}
	l := &link{
		conn:    conn,
		version: c.o.Connect.Version,
		writing: make(chan struct{}, 1),
		kick:    make(chan struct{}, 1),
		failed:  make(chan struct{}),
		written: make(chan struct{}),
		ended:   make(chan struct{}),
		buf:     make([]byte, bufFirst),
		aliases: map[uint16][]byte{},
	}
	l.dec = packet.Decoder{Version: l.version, MaxSize: int(c.o.Connect.Props.MaximumPacket)}
	if l.version < packet.V5 {
		l.largest = c.o.MaxPacket
	}
	return l, nil
}

// clean has the server forget the session, on a connection of its own.
func (c *Client) clean(ctx context.Context, connect packet.Connect) error {
	l, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer l.conn.Close()
	if _, err := c.greet(ctx, l, &connect); err != nil {
		return err
	}
	wire, err := (&packet.Disconnect{}).Append(nil, connect.Version)
	if err == nil {
		_, err = l.conn.Write(wire)
	}
	if err != nil {
		return fmt.Errorf("mqtt: end an earlier session: %w", err)
	}
	return nil
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

// resume makes l the connection and puts what is pending in order on it. It returns messages that there is nothing left of to send.
func (c *Client) resume(l *link, ack *packet.Connack) (gone []*outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Connects++
	// 3.1 does not say whether the session is there: it is, if it was asked for.
	if present := ack.SessionPresent || l.version == packet.V31 && !c.o.Connect.CleanStart; !present {
		if c.stats.Connects > 1 && !c.o.Connect.CleanStart {
			c.stats.Lost++
		}
		gone = c.forget()
	}
	c.link = l
	l.may = l.max
	if c.o.Quota != nil {
		l.max = max(1, min(l.max, c.o.Quota()))
	}
	c.quota = l.max
	c.queue = c.queue[:0]
	for _, o := range c.pending {
		c.queue = append(c.queue, o)
	}
	slices.SortFunc(c.queue, func(a, b *outgoing) int { return cmp.Compare(a.order, b.order) })
	c.pump()
	l.signal()
	c.wake()
	return gone
}

// forget drops what only made sense with the server's side of the session: inbound ids, and outbound messages that the server
// had taken already, but for those of Deliver. The others become new messages.
func (c *Client) forget() (gone []*outgoing) {
	clear(c.inbound)
	for id, o := range c.pending {
		if o.follow != nil { // its sender would rather send it twice than not at all
			o.received, o.released = false, false
		}
		if len(o.wire) == 0 { // of Restore
			gone = append(gone, o)
			delete(c.pending, id)
			continue
		}
		if o.released {
			delete(c.pending, id)
		}
		o.dup = false
		o.wire[0] &^= dupBit
	}
	return gone
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

// Widen lets as many messages be unanswered as the server allows, on the present connection.
func (c *Client) Widen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.link; l != nil && l.max < l.may {
		c.quota += l.may - l.max
		l.max = l.may
		c.pump()
		l.signal()
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
		return fmt.Errorf("mqtt: encode %v: %w", p.Type(), err)
	}
	c.link.out = out
	c.link.signal()
	return nil
}

// Pending is how many QoS 1 and 2 messages are on their way.
func (c *Client) Pending() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// Stats returns the counts so far.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Err is why the last connection ended; nil: none has yet.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
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
