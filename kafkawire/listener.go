package kafkawire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/internal/admission"
)

// ListenerOptions are what is a listener's own. The zero ones let everybody in.
type ListenerOptions struct {
	Name string // for messages
	// Advertise is what clients are told to connect to, host:port, where that is another address than the one they see here: behind a
	// NAT, a proxy, a container's port mapping. Empty: the one connected to; an empty host: that host.
	Advertise string
	TLS       func() *tls.Config // of the next connection; nil: there is no TLS
	Gate      *Gate              // who gets in; nil: everybody, as anonymous
}

func splitAdvertised(advertise string) (host string, port int32, err error) {
	if advertise == "" {
		return "", 0, nil
	}
	host, text, err := net.SplitHostPort(advertise)
	if err != nil {
		return "", 0, fmt.Errorf("advertised address %q: %w", advertise, err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("advertised address %q: port is not a number from 1 to 65535", advertise)
	}
	return host, int32(n), nil
}

// prepare makes ready what a gate needs.
func (s *Server) prepare(g *Gate) error {
	if g == nil || !slices.ContainsFunc(g.Mechanisms, func(m string) bool { return strings.HasPrefix(m, "SCRAM") }) {
		return nil
	}
	return s.credentials.keepSecret(s.ctx)
}

// Serve answers the connections of a listener until it or the server is closed. Clients are told to come back to the address
// they connected to.
func (s *Server) Serve(l net.Listener) error { return s.ServeWith(l, ListenerOptions{}) }

// ServeWith is Serve with options of the listener's own.
func (s *Server) ServeWith(l net.Listener, o ListenerOptions) error {
	host, port, err := splitAdvertised(o.Advertise)
	if err == nil {
		err = s.prepare(o.Gate)
	}
	if err != nil {
		l.Close()
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
		l.Close()
	}()
	for wait := time.Duration(0); ; {
		nc, err := l.Accept()
		if err == nil {
			wait = 0
			s.accept(nc, &o, host, port)
			continue
		}
		if s.draining() {
			return ErrServerClosed
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept on %v: %w", l.Addr(), err)
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second) // out of descriptors, most likely
		s.Logger.Warn("kafka: accept failed", "listener", l.Addr().String(), "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-s.drain:
			return ErrServerClosed
		}
	}
}

// accept starts a connection, or refuses it when there are too many.
func (s *Server) accept(nc net.Conn, o *ListenerOptions, host string, port int32) {
	s.mu.Lock()
	if len(s.conns) >= s.MaxConnections {
		s.mu.Unlock()
		s.stats.refused.Add(1)
		s.Logger.Warn("kafka: connection refused: too many", "remote", nc.RemoteAddr().String(), "limit", s.MaxConnections)
		nc.Close()
		return
	}
	if o.Gate != nil && !s.half.Enter(admission.ClientOf(nc)) && !mutant(mutantHalfOpen) {
		s.mu.Unlock()
		s.stats.ended[slices.Index(endings[:], endedHalfOpen)].Add(1)
		nc.Close()
		return
	}
	c := newConn(s, nc, o, host, port)
	c.half.Store(o.Gate != nil)
	s.conns[c] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	s.stats.accepted.Add(1)
	go func() {
		defer s.running.Done()
		defer func() {
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			s.grown(c)
		}()
		c.serve()
	}()
}
