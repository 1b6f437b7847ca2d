package broker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// Principal is who authenticated.
type Principal struct {
	Tenant string
	Name   string    // of the account, whatever was shown to be it: a session goes on after its credential was renewed
	Until  time.Time // when what was shown ends, and the connection with it; zero: it does not
	// Holds tells, whenever Recheck asks, whether what was shown is still in force; nil: it is until Until.
	Holds func() bool
}

// Anonymous is everybody while there is no authentication.
var Anonymous = Principal{Name: "anonymous"}

// Why connections end whose credential does, for counters.
const (
	credentialExpired = "credential_expired"
	credentialRevoked = "credential_revoked"
)

func (c *conn) authenticate(p *packet.Connect) (Principal, packet.Code) {
	info := c.info()
	if c.b.o.Authenticate == nil {
		switch {
		case info.Identity != "":
			return Principal{Name: info.Identity}, packet.Success
		case c.lis.o.RefuseAnonymous:
			return Principal{}, packet.NotAuthorized
		}
		return Anonymous, packet.Success
	}
	ctx, cancel := context.WithTimeout(c.b.ctx, c.b.o.Limits.AuthTimeout)
	defer cancel()
	return c.b.o.Authenticate(ctx, p, info)
}

// admitAs has the connection stand and fall with what its client has shown. Holds is asked once more when Recheck can see the connection: what
// it depends on may have changed since.
func (c *conn) admitAs(who *Principal) *fault {
	if !who.Until.IsZero() {
		if !c.b.o.Now().Before(who.Until) {
			return &fault{packet.NotAuthorized, "not authenticated"}
		}
		c.b.roster.expire(c, who.Until)
	}
	if who.Holds != nil {
		c.mu.Lock()
		c.holds = who.Holds
		c.mu.Unlock()
		if !who.Holds() {
			return &fault{packet.NotAuthorized, "not authenticated"}
		}
	}
	return nil
}

// bind holds the client id to the account, where the listener wants that: it is the account's name, or begins with it and a colon.
func (c *conn) bind(p *packet.Connect, h *hello, who *Principal) *fault {
	if !c.lis.o.BoundClientIDs || who.Name == Anonymous.Name {
		return nil
	}
	if h.assigned != "" {
		h.assigned = who.Name + ":" + h.assigned
		p.ClientID = h.assigned
	}
	if p.ClientID != who.Name && !strings.HasPrefix(p.ClientID, who.Name+":") || len(p.ClientID) > c.b.o.Limits.ClientIDBytes {
		return &fault{packet.ClientIDNotValid, "the client identifier is not the account's"}
	}
	return nil
}

// Recheck looks again at what every client has shown, and ends the connections of those whose certificate is not accepted any more, or
// whose Principal does not hold. It is to be called when what decides on that has changed, and now and then, for certificates expire.
func (b *Broker) Recheck() {
	for _, c := range b.roster.all() {
		c.recheck()
	}
}

func (c *conn) recheck() {
	var lost *transport.Error
	if c.layer != nil && errors.As(c.layer.Recheck(), &lost) {
		c.b.samples.warn("connection ended: "+lost.Reason, "listener", c.lis.o.Name, "peer", c.nc.RemoteAddr(), "error", lost)
		c.lose(lost.Reason, "the client's certificate is not accepted any more")
		return
	}
	c.mu.Lock()
	holds := c.holds
	c.mu.Unlock()
	if holds != nil && !holds() {
		c.b.samples.warn("connection ended: "+credentialRevoked, "listener", c.lis.o.Name, "peer", c.nc.RemoteAddr())
		c.lose(credentialRevoked, "what the client authenticated with is not in force any more")
	}
}

// lose ends a connection whose client is no longer welcome.
func (c *conn) lose(reason, text string) {
	c.mu.Lock()
	accepted := c.accepted
	c.mu.Unlock()
	if accepted {
		c.endAs(packet.NotAuthorized, text, reason)
	} else { // what is under way may be the handshake: nobody else writes then
		c.cut(reason)
	}
}
