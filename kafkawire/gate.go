package kafkawire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/admission"
)

// Gate is who a listener lets in. Its functions are safe for concurrent use and heed their context.
type Gate struct {
	// Mechanisms are what clients may authenticate with by SASL, of PLAIN, OAUTHBEARER, SCRAM-SHA-256 and SCRAM-SHA-512; none: there is no SASL.
	Mechanisms []string
	// Connected judges who shows nothing but a connection, and over TLS perhaps a certificate. identity.ErrNotMine: that says nothing, and SASL must.
	Connected func(ctx context.Context, state *tls.ConnectionState, peer string) (identity.Grant, error)
	// Trusted tells, whenever it is asked, whether a TLS connection's certificate is still accepted; nil: nobody asks.
	Trusted func(*tls.ConnectionState) error
	// Judge judges a name and password, or a token in the password's place.
	Judge func(ctx context.Context, c *identity.Claim, state *tls.ConnectionState) (identity.Grant, error)
	// Proven has the last word on a name that SCRAM has shown to be the client's; nil: what was shown is enough.
	Proven func(g identity.Grant, peer string) (identity.Grant, error)
	// Session is for how long a login by SASL is good at most; 0: as long as what was shown.
	Session time.Duration
}

// principal is who a connection's client is, and for how long.
type principal struct {
	account   string
	mechanism string    // "": nothing but the connection said so
	until     time.Time // zero: for good
	holds     func() bool
}

// anonymous is everybody where no gate is.
var anonymous = &principal{account: identity.Anonymous}

const (
	authPatience = 10 * time.Second       // for the TLS handshake, and again for all that comes before a client is somebody
	failureDelay = 200 * time.Millisecond // before a client is told that it is nobody
)

// Why connections end that have to do with who somebody is, for counters.
const (
	endedUnauthenticated = "unauthenticated"    // asked for something before it was somebody
	endedRefused         = "refused"            // what it showed is not enough
	endedUnknown         = "not_judged"         // nobody could say: too many at once, or what is asked did not answer
	endedExpired         = "credential_expired" // and it did not authenticate again
	endedRevoked         = "credential_revoked"
	endedTLS             = "tls_failed"
	endedHalfOpen        = "half_open" // too many of its address, or of all, that are nobody yet
)

var endings = [...]string{endedUnauthenticated, endedRefused, endedUnknown, endedExpired, endedRevoked, endedTLS, endedHalfOpen}

// endedError ends a connection for a reason that is counted.
type endedError struct {
	reason string
	err    error
}

func (e *endedError) Error() string { return e.reason + ": " + e.err.Error() }
func (e *endedError) Unwrap() error { return e.err }

func ended(reason, format string, args ...any) error {
	return &endedError{reason, fmt.Errorf(format, args...)}
}

// admit finds out what the connection says by itself about its client. It is the first that the reader does.
func (c *conn) admit() error {
	if c.shake != nil {
		if err := c.shake(c.ctx); err != nil {
			if c.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return err
			}
			return ended(endedTLS, "TLS handshake: %w", err)
		}
		state := c.nc.(*tls.Conn).ConnectionState()
		c.tls.Store(&state)
	}
	c.patience = time.AfterFunc(authPatience, func() {
		if c.who.Load() == nil {
			c.lose(endedUnauthenticated)
		}
	})
	g := c.listener.Gate
	if g == nil {
		c.become(anonymous)
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, authPatience)
	defer cancel()
	grant, err := g.Connected(ctx, c.tls.Load(), c.nc.RemoteAddr().String())
	switch {
	case err == nil:
		c.become(&principal{account: grant.Name, until: grant.Until, holds: grant.Holds})
		if grant.Holds != nil && !grant.Holds() { // once more, now that Recheck sees it
			return ended(endedRevoked, "the connection: what was shown is in force no more")
		}
		return nil
	case errors.Is(err, identity.ErrNotMine) && len(g.Mechanisms) > 0:
		return nil
	case errors.Is(err, identity.ErrNotMine), errors.Is(err, identity.ErrRefused):
		return ended(endedRefused, "the connection: %w", err)
	}
	return ended(endedUnknown, "the connection: %w", err)
}

// become has the connection be somebody's from now on, until that ends.
func (c *conn) become(who *principal) {
	c.who.Store(who)
	if c.expiry != nil {
		c.expiry.Stop()
		c.expiry = nil
	}
	c.s.grown(c)
	if !who.until.IsZero() {
		c.expiry = time.AfterFunc(who.until.Sub(c.s.Now()), func() {
			if c.who.Load() == who && !mutant(mutantOutlive) {
				c.lose(endedExpired)
			}
		})
	}
}

// lose ends a connection whose client is not welcome any more.
func (c *conn) lose(reason string) {
	c.count(reason)
	c.end()
}

func (c *conn) count(reason string) {
	c.once.Do(func() { c.s.stats.ended[slices.Index(endings[:], reason)].Add(1) })
}

// account is whose the connection is, for what is written down.
func (c *conn) account() string {
	if who := c.who.Load(); who != nil {
		return who.account
	}
	return ""
}

// before are the requests that a client may make before it is somebody.
func before(key int16) bool {
	return key == int16(kmsg.ApiVersions) || key == int16(kmsg.SASLHandshake) || key == int16(kmsg.SASLAuthenticate)
}

// allowedNow ends a connection that asks for something before it is somebody, or after.
func (c *conn) allowedNow(key int16) error {
	who := c.who.Load()
	switch {
	case before(key), mutant(mutantBefore):
		return nil
	case who == nil:
		return ended(endedUnauthenticated, "%s before authentication", kmsg.NameForKey(key))
	case !who.until.IsZero() && !c.s.Now().Before(who.until) && !mutant(mutantOutlive):
		return ended(endedExpired, "the session is over")
	}
	c.settled = true
	return nil
}

// Recheck looks again at what every client has shown, and ends the connections of those for whom it is in force no more. It is to
// be called when what decides on that has changed, and now and then, for certificates expire.
func (s *Server) Recheck() { s.recheckBut(nil) }

func (s *Server) recheckBut(one *conn) {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		if c != one {
			c.recheck()
		}
	}
}

func (c *conn) recheck() {
	if g, state := c.listener.Gate, c.tls.Load(); g != nil && g.Trusted != nil && state != nil {
		if err := g.Trusted(state); err != nil {
			c.s.Logger.Warn("kafka: connection ended: its certificate is not accepted any more", "remote", c.nc.RemoteAddr().String(), "error", err)
			c.lose(endedRevoked)
			return
		}
	}
	if who := c.who.Load(); who != nil && who.holds != nil && !who.holds() && !mutant(mutantRevoked) {
		c.s.Logger.Warn("kafka: connection ended: what its client authenticated with is not in force any more",
			"remote", c.nc.RemoteAddr().String(), "account", who.account)
		c.lose(endedRevoked)
	}
}

// grown gives back the place of a connection whose client was nobody until now. It may be called more than once.
func (s *Server) grown(c *conn) {
	if c.half.Swap(false) {
		s.half.Leave(admission.ClientOf(c.nc))
	}
}
