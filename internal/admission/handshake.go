package admission

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

// Processors are those that handshakes may have: they cost a hundred times what requests do, and whoever asks for enough of them at once
// must not keep the processors from those who are in. Safe for concurrent use; all listeners of a node share one.
type Processors chan struct{}

// NewProcessors is for so many at once; 0: half of those that the program has.
func NewProcessors(n int) Processors {
	if n <= 0 {
		n = max(1, runtime.GOMAXPROCS(0)/2)
	}
	return make(Processors, n)
}

// TryEnter takes a processor if one is free.
func (p Processors) TryEnter() bool {
	select {
	case p <- struct{}{}:
		return true
	default:
		return false
	}
}

// Enter waits for a processor; false: the wait was stopped.
func (p Processors) Enter(stop <-chan struct{}) bool {
	select {
	case p <- struct{}{}:
		return true
	case <-stop:
		return false
	}
}

// Leave gives a processor back.
func (p Processors) Leave() { <-p }

// Server makes a connection a TLS server's. shake makes the handshake, and must be called before anything is read or written; the client may
// take patience in all, our own waiting for a processor not counted. While a client is waited for, it holds no processor. The connection's
// deadlines are used, and cleared. Closing t ends the handshake; whoever calls Server closes it.
func (p Processors) Server(nc net.Conn, c *tls.Config, patience time.Duration) (t *tls.Conn, shake func(context.Context) error) {
	s := &shaking{Conn: nc, of: p, patience: patience}
	t = tls.Server(s, c)
	return t, func(ctx context.Context) error {
		s.ctx = ctx
		err := t.HandshakeContext(ctx)
		s.done.Store(true)
		s.leave()
		if err != nil {
			return err
		}
		return nc.SetDeadline(time.Time{})
	}
}

// shaking is a connection as its TLS sees it. The fields are of the goroutine that makes the handshake, and do not change after it.
type shaking struct {
	net.Conn
	of Processors

	ctx      context.Context
	patience time.Duration // that is left
	holds    bool
	done     atomic.Bool // set before anybody but the handshake reads or writes; who closes the connection then may look while it is
}

func (s *shaking) leave() {
	if s.holds {
		s.holds = false
		s.of.Leave()
	}
}

// Read implements net.Conn.
func (s *shaking) Read(b []byte) (int, error) {
	if s.done.Load() {
		return s.Conn.Read(b)
	}
	s.leave() // whoever makes us wait does not keep others waiting
	n, err := s.within(s.Conn.SetReadDeadline, s.Conn.Read, b)
	if err != nil {
		return n, err
	}
	if !s.of.Enter(s.ctx.Done()) {
		return 0, s.ctx.Err()
	}
	s.holds = true
	return n, nil
}

// Write implements net.Conn. What a handshake writes is small, and does not wait for the client.
func (s *shaking) Write(b []byte) (int, error) {
	if s.done.Load() {
		return s.Conn.Write(b)
	}
	return s.within(s.Conn.SetWriteDeadline, s.Conn.Write, b)
}

// within spends the client's patience.
func (s *shaking) within(deadline func(time.Time) error, move func([]byte) (int, error), b []byte) (int, error) {
	began := time.Now()
	if s.patience <= 0 {
		return 0, os.ErrDeadlineExceeded
	}
	if err := deadline(began.Add(s.patience)); err != nil {
		return 0, err
	}
	n, err := move(b)
	s.patience -= time.Since(began)
	return n, err
}
