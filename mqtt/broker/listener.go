package broker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// listener is one Serve.
type listener struct {
	o      ListenerOptions
	l      net.Listener
	limits Limits

	rates   rates
	inbound budget

	connections, halfOpen atomic.Int64
	outWait               atomic.Int64 // counted if there is a limit
}

// Serve accepts connections until the listener is closed, by Drain, Close or the caller. It owns l. Start comes first.
func (b *Broker) Serve(l net.Listener, o ListenerOptions) error {
	lis := &listener{o: o, l: l, limits: o.limits(b.o.Limits)}
	lis.rates, lis.inbound.limit = newRates(&lis.limits.Rates), lis.limits.InboundOfOne
	if !b.addListener(lis) {
		l.Close()
		return ErrClosed
	}
	defer b.removeListener(lis)
	delay := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			delay = 0
			b.accept(lis, nc)
		case b.stopping():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("listener %s: %w", o.Name, err)
		default: // out of descriptors, most likely: it passes
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			b.samples.warn("accept failed", "listener", o.Name, "error", err)
			select {
			case <-time.After(delay):
			case <-b.stop:
				return nil
			}
		}
	}
}

// accept admits a connection, before a byte of it is read.
func (b *Broker) accept(lis *listener, nc net.Conn) {
	b.stats.accepted.Add(1)
	if reason := b.full(lis); reason != "" {
		b.stats.turned.add(reason, 1)
		nc.Close()
		return
	}
	// Who comes through a proxy is counted by an address that is not known yet.
	counted := !lis.o.Transport.Proxied(nc.RemoteAddr())
	if counted && b.bans.some.Load() && b.bans.address(b.o.Now(), address(nc.RemoteAddr())) {
		b.stats.turned.add(label(packet.Banned), 1)
		nc.Close()
		return
	}
	if counted && !lis.rates.byAddress.admits(&lis.rates.addresses, b.clock(), network(nc.RemoteAddr())) {
		b.stats.turned.add(turnedAddressRate, 1)
		nc.Close()
		return
	}
	wait, ok := lis.rates.turn(b.clock())
	if !ok {
		b.stats.turned.add(turnedRate, 1)
		nc.Close()
		return
	}
	if counted && !b.half.enter(nc.RemoteAddr(), lis.limits.HalfOpenPerIP) {
		b.stats.turned.add("half_open_limit", 1)
		nc.Close()
		return
	}
	if !b.enter() {
		if counted {
			b.half.leave(nc.RemoteAddr())
		}
		nc.Close()
		return
	}
	b.stats.connections.Add(1)
	b.stats.halfOpen.Add(1)
	lis.connections.Add(1)
	lis.halfOpen.Add(1)
	c := &conn{b: b, lis: lis, nc: nc, halfOpen: true, counted: counted}
	begin, patience := func() { c.serve(true) }, lis.limits.ConnectTimeout
	if lis.o.Transport.None() {
		if c.raw = transport.Socket(nc); c.raw != nil {
			b.lot.opened.Do(b.openLot)
		}
	} else {
		c.layer = transport.New(nc, &lis.o.Transport)
		c.nc, c.raw = c.layer, c.layer.Raw()
		begin, patience = c.handshake, lis.limits.HandshakeTimeout
	}
	if c.raw != nil {
		c.readFn = c.readable
	}
	if lis.rates.flows() {
		c.flow = &flow{}
	}
	if wait > 0 {
		row := begin
		begin = func() {
			c.awaitTurn(wait)
			b.roster.limit(c, patience) // from now on
			row()
		}
		c.paused.Store(true)
	}
	b.roster.limit(c, patience)
	if b.stopping() { // Drain may have looked at the roster before c was in it
		c.nc.SetReadDeadline(longAgo)
	}
	go begin()
}

// Reasons of rates for turning a connection away.
const (
	turnedRate        = "connect_rate"
	turnedAddressRate = "connect_rate_of_address"
)

// awaitTurn is where a connection waits that has come too early. Nothing of it was read.
func (c *conn) awaitTurn(wait time.Duration) {
	over := make(chan struct{})
	t := time.AfterFunc(wait, func() { close(over) })
	c.pause(pausedHandshake, nil, over)
	t.Stop()
}

// full names the limit that is reached; "": none.
func (b *Broker) full(lis *listener) string {
	reached := func(n *atomic.Int64, limit int) bool { return limit > 0 && n.Load() >= int64(limit) }
	switch {
	case reached(&b.stats.connections, b.o.Limits.Connections):
		return "connection_limit"
	case reached(&lis.connections, lis.limits.Connections):
		return "listener_connection_limit"
	case reached(&lis.halfOpen, lis.limits.HalfOpen):
		return "listener_half_open_limit"
	}
	return ""
}

// waitsMore notes that n more bytes wait for the listener's clients; false: they are as many as may.
func (l *listener) waitsMore(n int) (room bool) {
	most := l.limits.OutboundOfOne
	return most == 0 || l.outWait.Add(int64(n)) < most
}

// ListenerStats are one listener's.
type ListenerStats struct {
	Name, Transport       string
	Connections, HalfOpen int64
}

// Listeners returns the counters of each listener.
func (b *Broker) Listeners() (ls []ListenerStats) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.listeners {
		ls = append(ls, ListenerStats{l.o.Name, l.o.Transport.Name(), l.connections.Load(), l.halfOpen.Load()})
	}
	return ls
}

// enter counts a connection in, unless Drain has begun: then nobody waits for it any more.
func (b *Broker) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		b.conns.Add(1)
	}
	return !b.stopped
}

// handshake is what comes before MQTT, on a goroutine of its own, so that the reader's stack stays small.
func (c *conn) handshake() {
	err := guard(c.prepare)
	if err == nil {
		c.b.roster.limit(c, c.lis.limits.ConnectTimeout)
		go c.serve(true)
		return
	}
	c.b.notePanic("handshake", err)
	reason := "handshake_failed"
	var known *transport.Error
	if errors.As(err, &known) {
		reason = known.Reason
	}
	c.mu.Lock()
	told := !c.closing && !c.b.stopping() // otherwise it is our own doing
	if !c.closing {
		c.closing, c.why = true, reason
	}
	c.mu.Unlock()
	if told && reason != "connection_closed_by_client" && reason != "connection_lost" {
		c.b.samples.warn("connection refused: "+reason, "listener", c.lis.o.Name, "peer", c.nc.RemoteAddr(), "error", err)
	}
	if half, ok := c.layer.Socket().(interface{ CloseWrite() error }); ok {
		half.CloseWrite() //nolint:errcheck // it is about to be closed
	}
	c.finish()
	c.b.conns.Done()
}

func (c *conn) prepare() error {
	if err := c.layer.ReadProxy(); err != nil {
		return err
	}
	if !c.counted {
		if c.b.bans.address(c.b.o.Now(), address(c.nc.RemoteAddr())) {
			return &transport.Error{Reason: label(packet.Banned), Err: errBanned}
		}
		if !c.lis.rates.byAddress.admits(&c.lis.rates.addresses, c.b.clock(), network(c.nc.RemoteAddr())) {
			return &transport.Error{Reason: turnedAddressRate, Err: errAddressRate}
		}
		if !c.b.half.enter(c.nc.RemoteAddr(), c.lis.limits.HalfOpenPerIP) {
			return &transport.Error{Reason: "half_open_limit", Err: errHalfOpen}
		}
		c.counted = true
	}
	return c.layer.Open((*handshaker)(c))
}

var (
	errBanned      = errors.New("the address is banned")
	errAddressRate = errors.New("the address connects too often")
	errHalfOpen    = errors.New("too many connections of this address have not sent CONNECT")
	errStopping    = errors.New("the server is stopping")
)

// handshaker is a conn that needs a processor for its handshake. Waiting for one is no fault of the client.
type handshaker conn

// Enter implements transport.Gate.
func (h *handshaker) Enter() error {
	b := h.b
	if b.o.Processors.TryEnter() {
		return nil
	}
	began := b.roster.now.Load()
	h.paused.Store(true)
	defer func() {
		h.heard.Add(b.roster.now.Load() - began)
		h.paused.Store(false)
	}()
	if !b.o.Processors.Enter(b.stop) {
		return errStopping
	}
	return nil
}

// Leave implements transport.Gate.
func (h *handshaker) Leave() { h.b.o.Processors.Leave() }

// info is what is known of the connection before its CONNECT.
func (c *conn) info() ConnInfo {
	i := ConnInfo{Remote: c.nc.RemoteAddr(), Local: c.nc.LocalAddr(), Listener: c.lis.o.Name, Transport: c.lis.o.Transport.Name()}
	if c.layer != nil {
		i.TLS, i.Identity = c.layer.TLS(), c.layer.Identity()
	}
	return i
}

// halfOpen counts, per address, the connections that have not sent CONNECT yet.
type halfOpen struct {
	mu sync.Mutex
	n  map[netip.Prefix]int
}

// address is that of a TCP connection, IPv4 as such; else it is not valid.
func address(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap().WithZone("")
}

// network is the address, or the /64 of an IPv6 address: what one client can easily have many of.
func network(a net.Addr) netip.Prefix {
	ip := address(a)
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

func (h *halfOpen) enter(a net.Addr, limit int) bool {
	key := network(a)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n[key] >= limit {
		return false
	}
	if h.n == nil {
		h.n = map[netip.Prefix]int{}
	}
	h.n[key]++
	return true
}

func (h *halfOpen) leave(a net.Addr) {
	key := network(a)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n[key]--; h.n[key] <= 0 {
		delete(h.n, key)
	}
}
