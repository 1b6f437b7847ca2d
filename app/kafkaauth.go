package app

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"time"

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/identity/scram"
	"github.com/millrace-io/millrace/kafkawire"
	"github.com/millrace-io/millrace/metrics"
)

// kafkaGate is who gets in at a listener for Kafka clients: the links of its chain that look at the connection alone, and those
// that look at what SASL brings. A client that logs in by SASL is who that says, whatever its certificate says.
type kafkaGate struct {
	n          *Node
	d          *door
	connection *identity.Chain // cert, anonymous
	anonymous  bool
	cert       bool
	sasl       *identity.Chain // the others, but for scram
}

// kafkaListener is what the Kafka server is told of a door.
func (n *Node) kafkaListener(d *door) kafkawire.ListenerOptions {
	g := &kafkaGate{n: n, d: d, connection: identity.NewChain(&n.auth.kafka), sasl: identity.NewChain(&n.auth.kafka)}
	var byToken, byPassword, bySCRAM bool
	for _, link := range d.kafka.Chain() {
		switch link {
		case identity.LinkCertificate:
			g.cert = true
			g.connection.Add(link, identity.ByCertificate{})
		case identity.LinkAnonymous:
			g.anonymous = true
			g.connection.Add(link, identity.ByNothing{})
		case identity.LinkSCRAM:
			bySCRAM = true
		default:
			byToken = byToken || link == identity.LinkJWT
			byPassword = true
			g.sasl.Add(link, n.auth.links[link])
		}
	}
	gate := &kafkawire.Gate{Connected: g.connected, Judge: g.judge, Proven: g.proven, Session: time.Duration(d.kafka.Session)}
	if bySCRAM {
		for _, m := range scram.Mechanisms {
			gate.Mechanisms = append(gate.Mechanisms, string(m))
		}
	}
	if byToken {
		gate.Mechanisms = append(gate.Mechanisms, "OAUTHBEARER")
	}
	if byPassword {
		gate.Mechanisms = append(gate.Mechanisms, "PLAIN")
	}
	if d.certs != nil {
		gate.Trusted = func(state *tls.ConnectionState) error {
			_, err := d.certs.Verify(*state)
			return err
		}
	}
	o := kafkawire.ListenerOptions{Name: d.path, Advertise: d.advertise, Gate: gate}
	if d.certs != nil {
		o.TLS = d.certs.Config
	}
	return o
}

// connected judges a connection by itself.
func (g *kafkaGate) connected(ctx context.Context, state *tls.ConnectionState, peer string) (identity.Grant, error) {
	claim := identity.Claim{Peer: peer, Listener: g.d.path}
	if g.banned("", peer) {
		return identity.Grant{}, errBanned
	}
	shown, err := g.certificate(state)
	if err != nil {
		return identity.Grant{}, err
	}
	if g.cert {
		claim.Certificate = shown
	}
	if claim.Certificate.Name == "" && !g.anonymous {
		return identity.Grant{}, identity.ErrNotMine
	}
	grant, err := g.connection.Judge(ctx, &claim)
	return g.welcome(grant, err, peer)
}

// judge judges what SASL has brought.
func (g *kafkaGate) judge(ctx context.Context, claim *identity.Claim, state *tls.ConnectionState) (identity.Grant, error) {
	var err error
	if claim.Certificate, err = g.certificate(state); err != nil {
		return identity.Grant{}, err
	}
	grant, err := g.sasl.Judge(ctx, claim)
	return g.welcome(grant, err, claim.Peer)
}

// proven is for those whom the Kafka server has judged itself, by SCRAM.
func (g *kafkaGate) proven(grant identity.Grant, peer string) (identity.Grant, error) {
	return g.welcome(grant, nil, peer)
}

// certificate is what the client has shown in the TLS handshake.
func (g *kafkaGate) certificate(state *tls.ConnectionState) (c identity.Certificate, err error) {
	if state == nil || g.d.certs == nil || len(state.PeerCertificates) == 0 {
		return c, nil
	}
	pass, err := g.d.certs.Verify(*state)
	if err != nil {
		return c, errors.Join(identity.ErrRefused, err)
	}
	return identity.Certificate{Name: pass.Name, Until: state.PeerCertificates[0].NotAfter}, nil
}

var errBanned = errors.Join(identity.ErrRefused, errors.New("banned"))

// welcome lets nobody in who is banned, now or later.
func (g *kafkaGate) welcome(grant identity.Grant, err error, peer string) (identity.Grant, error) {
	if err != nil {
		return grant, err
	}
	if g.banned(grant.Name, peer) {
		return identity.Grant{}, errBanned
	}
	holds := grant.Holds
	grant.Holds = func() bool { return (holds == nil || holds()) && !g.banned(grant.Name, peer) }
	return grant, nil
}

func (g *kafkaGate) banned(account, peer string) bool {
	a, err := netip.ParseAddrPort(peer)
	if err != nil {
		return g.n.broker.Banned(account, netip.Addr{})
	}
	return g.n.broker.Banned(account, a.Addr().Unmap().WithZone(""))
}

// verifier is what the password file has for SCRAM.
func (n *Node) verifier(m scram.Mechanism, name string) (*scram.Verifier, identity.Grant, bool) {
	if n.auth.passwords == nil {
		return nil, identity.Grant{}, false
	}
	return n.auth.passwords.Verifier(m, name)
}

// recheck looks again at what all clients have shown.
func (n *Node) recheck() {
	n.broker.Recheck()
	if n.kafka != nil {
		n.kafka.Recheck()
	}
}

func (n *Node) collectKafkaSecurity(s *metrics.Samples, k *kafkawire.Stats) {
	s.Gauge("kafka_half_open", "Kafka connections whose client is nobody yet.", float64(k.HalfOpen))
	metrics.Counters(s, "kafka_turned_away", "Kafka connections ended because of who their client was, or was not.", "reason", k.Ended)
	for mechanism, results := range k.Logins {
		for result, n := range results {
			s.Counter("kafka_auth", "Logins of Kafka clients by SASL; failed: nobody could judge them.", float64(n), "mechanism", mechanism, "result", result)
		}
	}
	metrics.Counters(s, "kafka_authz_denied", "What Kafka clients were denied, by what they wanted to do.", "operation", k.Denied)
	s.Gauge("kafka_acls", "ACLs in force.", float64(k.ACLs))
}
