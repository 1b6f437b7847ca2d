// Package faultproxy makes the network between a program and its servers bad, for tests and measurements: TCP proxies that hang, refuse,
// reset or trickle, and heal.
//
// A Proxy owns a goroutine that accepts, and two for each connection; Close ends them. It never alters bytes: what it passes on late it
// passes on whole and in order, so that a server may well get a request after the client has given it up.
package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Mode is how bad a network is.
type Mode int

// The modes.
const (
	Pass    Mode = iota // it works
	Hang                // a black hole: connections stand, or can be made, and nothing comes through until it works again
	Refuse              // connections are cut, and new ones refused
	Reset               // connections are reset (RST), new ones too as soon as they are made
	Trickle             // one byte per second, each way
)

// Proxy stands in front of one server.
type Proxy struct {
	target string
	addr   string

	mu       sync.Mutex
	changed  *sync.Cond
	mode     Mode
	closed   bool
	listener net.Listener // nil while it refuses
	conns    map[*net.TCPConn]struct{}
	running  sync.WaitGroup
}

// New starts a proxy in front of a server.
func New(target string) (*Proxy, error) {
	p := &Proxy{target: target, addr: "127.0.0.1:0", conns: map[*net.TCPConn]struct{}{}}
	p.changed = sync.NewCond(&p.mu)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.listen(); err != nil {
		return nil, err
	}
	p.addr = p.listener.Addr().String()
	return p, nil
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.addr }

// listen opens the door, under p.mu.
func (p *Proxy) listen() error {
	var err error
	for range 100 { // the port was ours a moment ago
		if p.listener, err = net.Listen("tcp", p.addr); err == nil {
			l := p.listener
			p.running.Go(func() { p.accept(l) })
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("fault proxy for %s: %w", p.target, err)
}

// Set changes how bad it is.
func (p *Proxy) Set(m Mode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || m == p.mode {
		return nil
	}
	p.mode = m
	if m == Refuse {
		p.listener.Close()
		p.listener = nil
	}
	if m == Refuse || m == Reset {
		p.cut()
	}
	p.changed.Broadcast()
	if p.listener == nil && m != Refuse {
		return p.listen()
	}
	return nil
}

// cut resets all connections, under p.mu.
func (p *Proxy) cut() {
	for c := range p.conns {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
	clear(p.conns)
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		p.listener.Close()
	}
	p.cut()
	p.changed.Broadcast()
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(c.(*net.TCPConn)) })
	}
}

// wait holds up whoever passes bytes while the network hangs; false: there is nothing to pass any more.
func (p *Proxy) wait() (m Mode, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mode == Hang && !p.closed {
		p.changed.Wait()
	}
	return p.mode, !p.closed
}

func (p *Proxy) keep(c *net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.mode == Refuse || p.mode == Reset {
		_ = c.SetLinger(0)
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) serve(a *net.TCPConn) {
	if !p.keep(a) {
		return
	}
	defer p.drop(a)
	if _, ok := p.wait(); !ok {
		return
	}
	c, err := net.Dial("tcp", p.target)
	if err != nil { // a reset is as near to what the client would have seen as we can come: the end of a stream is another thing
		_ = a.SetLinger(0)
		return
	}
	b := c.(*net.TCPConn)
	if !p.keep(b) {
		return
	}
	defer p.drop(b)
	var both sync.WaitGroup
	both.Go(func() { p.pass(a, b) })
	both.Go(func() { p.pass(b, a) })
	both.Wait()
}

func (p *Proxy) pass(to, from *net.TCPConn) {
	defer func() { _ = to.CloseWrite() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			mode, ok := p.wait()
			if !ok {
				return
			}
			k := len(rest)
			if mode == Trickle {
				time.Sleep(time.Second)
				k = 1
			}
			if _, err := to.Write(rest[:k]); err != nil {
				_ = from.Close()
				return
			}
			rest = rest[k:]
		}
		if err != nil {
			return
		}
	}
}

// Net is a network of servers, each behind a proxy that is made when it is first dialled.
type Net struct {
	mu      sync.Mutex
	mode    Mode
	proxies map[string]*Proxy
}

// Dial connects to a server through its proxy.
func (n *Net) Dial(ctx context.Context, address string) (net.Conn, error) {
	p, err := n.proxy(address)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", p.Address())
}

func (n *Net) proxy(address string) (*Proxy, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.proxies[address]; p != nil {
		return p, nil
	}
	p, err := New(address)
	if err != nil {
		return nil, err
	}
	if n.proxies == nil {
		n.proxies = map[string]*Proxy{}
	}
	n.proxies[address] = p
	return p, p.Set(n.mode)
}

// Set changes how bad the network is to all servers.
func (n *Net) Set(m Mode) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mode = m
	var errs []error
	for _, p := range n.proxies {
		errs = append(errs, p.Set(m))
	}
	return errors.Join(errs...)
}

// SetOne changes it to one server.
func (n *Net) SetOne(address string, m Mode) error {
	p, err := n.proxy(address)
	if err != nil {
		return err
	}
	return p.Set(m)
}

// Close ends all proxies.
func (n *Net) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.proxies {
		p.Close()
	}
}
