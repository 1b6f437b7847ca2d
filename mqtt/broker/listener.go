package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// listener is one Serve.
type listener struct {
	o ListenerOptions
	l net.Listener
}

// Serve accepts connections until the listener is closed, by Drain, Close or the caller. It owns l. Start comes first.
func (b *Broker) Serve(l net.Listener, o ListenerOptions) error {
	lis := &listener{o: o, l: l}
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
	if limit := b.o.Limits.Connections; limit > 0 && b.stats.connections.Load() >= int64(limit) {
		b.stats.turned.add("connection_limit", 1)
		nc.Close()
		return
	}
	if !b.half.enter(nc.RemoteAddr(), b.o.Limits.HalfOpenPerIP) {
		b.stats.turned.add("half_open_limit", 1)
		nc.Close()
		return
	}
	if !b.enter() {
		b.half.leave(nc.RemoteAddr())
		nc.Close()
		return
	}
	b.stats.connections.Add(1)
	b.stats.halfOpen.Add(1)
	c := &conn{b: b, lis: lis, nc: nc, raw: rawSocket(nc), halfOpen: true}
	if c.raw != nil {
		c.readFn = c.readable
	}
	b.roster.limit(c, b.o.Limits.ConnectTimeout)
	if b.stopping() { // Drain may have looked at the roster before c was in it
		c.nc.SetReadDeadline(longAgo)
	}
	if tls, ok := nc.(interface{ HandshakeContext(context.Context) error }); ok {
		go c.handshake(tls.HandshakeContext)
		return
	}
	go c.serve(true)
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

// handshake runs on a goroutine of its own, so that the reader's stack stays small.
func (c *conn) handshake(do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(c.b.ctx, c.b.o.Limits.ConnectTimeout)
	defer cancel()
	if err := do(ctx); err != nil {
		c.cut("tls_handshake_failed")
	}
	go c.serve(true)
}

// halfOpen counts, per address, the connections that have not sent CONNECT yet.
type halfOpen struct {
	mu sync.Mutex
	n  map[netip.Prefix]int
}

// network is the address, or the /64 of an IPv6 address: what one client can easily have many of.
func network(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.WithZone("").Prefix(bits)
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
