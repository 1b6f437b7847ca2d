package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/policy"
	"github.com/millrace-io/millrace/registry"
	"github.com/millrace-io/millrace/route"
)

// schemas is the schema registry, if there is one, and what routes have it look at.
type schemas struct {
	registry *registry.Registry      // nil: neither a listener nor a route wants it
	server   *registry.Server        // nil: no listener
	checks   map[int]*registry.Check // by the route's index
	logins   identity.Counts
}

// openRegistry opens the registry where something wants it. Without a listener it is read only, so that on a cluster it may be another
// registry's.
func (n *Node) openRegistry(ctx context.Context) (err error) {
	c, s := n.o.Config, &n.schemas
	s.checks = map[int]*registry.Check{}
	checked := false
	for i := range c.Routes {
		checked = checked || c.Routes[i].Schema.Checked()
	}
	if !checked && len(c.Listeners.Registry) == 0 {
		return nil
	}
	s.registry, err = registry.Open(ctx, registry.Options{Log: n.log, Now: n.now, Logger: n.o.Logger.With("part", "registry"),
		ReadOnly: len(c.Listeners.Registry) == 0})
	switch {
	case errors.Is(err, eventlog.ErrUnknownTopic):
		return fmt.Errorf("schemas that routes name are in the log topic %s, which is not there: write listeners: {registry: [{bind: 127.0.0.1:8081}]} and register them, "+
			"or start the registry that keeps them there: %w", registry.Topic, err)
	case err != nil:
		return fmt.Errorf("schema registry: %w", err)
	}
	for i := range c.Routes {
		if w := &c.Routes[i].Schema; w.Checked() {
			s.checks[i] = s.registry.Check(registry.CheckOptions{Subject: w.Subject, Version: int(w.Version), Message: w.Message, Framed: w.Framed()})
			n.specs[i].Payloads = s.checks[i]
		}
	}
	if len(c.Listeners.Registry) > 0 {
		var hosts []string
		for _, l := range c.Listeners.Registry {
			hosts = append(hosts, l.Hosts...)
		}
		s.server = registry.NewServer(registry.ServerOptions{Registry: s.registry, Hosts: hosts, Allowed: n.subjectAllowed,
			Logger: n.o.Logger.With("part", "registry"), Now: n.o.Now, MaxConnections: n.budget.http})
	}
	return nil
}

func (n *Node) closeRegistry(ctx context.Context) (err error) {
	if n.schemas.server != nil {
		err = n.schemas.server.Close(ctx)
	}
	if n.schemas.registry != nil {
		n.schemas.registry.Close()
	}
	return err
}

// invalidPayload is what a route's check means.
func invalidPayload(s *config.RouteSchema) route.Invalid {
	switch s.Check {
	case config.CheckDLQ:
		return route.DeadLetter
	case config.CheckReject:
		return route.Refuse
	}
	return route.Warn
}

// takeRegistry takes the address of a listener of the registry, once its certificate is read.
func (n *Node) takeRegistry(d door, r *config.Registry) (err error) {
	d.registry = r
	if r.TLS.Any() {
		if d.certs, err = n.readTLS(&r.TLS, r.Admission().CertificateOptional()); err != nil {
			return fmt.Errorf("%s.tls: %w", d.path, err)
		}
	}
	return n.take(d, r.Bind)
}

// registryChains says who gets in at the listeners of the registry, by the links that there are.
func (n *Node) registryChains(links map[string]identity.Link) {
	for _, d := range n.doorsOf(doorRegistry) {
		m := d.registry.Admission()
		chain := identity.NewChain(&n.schemas.logins)
		for _, name := range m.Chain() {
			l := links[name]
			if name == identity.LinkAnonymous {
				l = identity.Everybody{}
				if m.SecretsShown() {
					l = identity.ByNothing{}
				}
			}
			chain.Add(name, l)
		}
		n.auth.chains[d.path] = chain
	}
}

// subjectAllowed asks the policy. The subject "" is what holds for all of them.
func (n *Node) subjectAllowed(account string, to registry.Right, subject string) bool {
	p := n.rights.policy.Load()
	if p == nil {
		return true
	}
	right := [...]policy.Right{registry.Read: policy.Read, registry.Write: policy.Write, registry.Manage: policy.Manage}[to]
	v := p.DecideOn(policy.Subject{Account: account}, right, policy.SchemaSubject, subject)
	if v.Unusable {
		n.rights.unusable.Add(1)
	}
	return v.Allowed
}

// letRegistryIn begins to answer the registry's clients.
func (n *Node) letRegistryIn() {
	for _, d := range n.doorsOf(doorRegistry) {
		to := &registry.Door{Name: d.path, Listener: d.listener, Chain: n.auth.chains[d.path]}
		if d.certs != nil {
			to.TLS = httpsOf(d.certs)
			to.Certificate = func(st *tls.ConnectionState) (identity.Certificate, error) {
				p, err := d.certs.Verify(*st)
				return identity.Certificate{Name: p.Name}, err
			}
		}
		n.accept(func() error { return n.schemas.server.Serve(to) })
	}
}

// tryRegistry is a line that uses a door of the registry.
func (d *door) tryRegistry() (does, line string) {
	line = "curl -s "
	scheme := "http"
	if d.certs != nil {
		scheme = "https"
		line += "--cacert CA.pem "
		if d.certs.Mutual() {
			line += "--cert CLIENT.pem --key CLIENT.key "
		}
	}
	if m := d.registry.Admission(); !m.AllowAnonymous() && m.SecretsShown() {
		line += "-u NAME:PASSWORD "
	}
	return "list the subjects of the schema registry", line + scheme + "://" + d.listener.Addr().String() + "/subjects"
}

// topicFixed says why the number of partitions of a topic must not change, or "" if it may.
func (n *Node) topicFixed(topic string) (reason string) {
	if topic == registry.Topic && n.schemas.registry != nil {
		return "the schema registry needs one order of all schemas"
	}
	return n.store.Fixed(topic)
}

// schemaWarnings name what is weak about the registry's listeners, and routes whose payloads cannot be checked at present.
func (n *Node) schemaWarnings() (ws []string) {
	doors, p := n.doorsOf(doorRegistry), n.rights.policy.Load()
	for _, d := range doors {
		m := d.registry.Admission()
		if m.TLS.Cert == "" && !m.Bind.Loopback() && m.SecretsShown() {
			ws = append(ws, d.path+": passwords and tokens cross the network unencrypted: set tls, or put it behind something that does TLS")
		}
		if p == nil && !m.Bind.Loopback() {
			ws = append(ws, d.path+": whoever is let in may register and delete every schema: write a policy (docs/schema-registry.md)")
		}
	}
	if len(doors) > 0 && p != nil && !p.SpeaksOf(policy.SchemaSubject) {
		ws = append(ws, "policy: no rule speaks of the schema registry's subjects, so nobody may read or write them: write rules with schema_subjects (docs/schema-registry.md)")
	}
	for i := range n.o.Config.Routes {
		if c := n.schemas.checks[i]; c != nil {
			if err := c.Ready(); err != nil {
				r := &n.o.Config.Routes[i]
				ws = append(ws, fmt.Sprintf("routes[%d].schema (%s): no payload is valid (check: %s): %v", i, r.MQTT, r.Schema.Check, err))
			}
		}
	}
	return ws
}

func (n *Node) collectRegistry(s *metrics.Samples) {
	if n.schemas.registry == nil {
		return
	}
	st := n.schemas.registry.Stats()
	s.Gauge("registry_subjects", "Subjects of the schema registry, those too that are deleted softly.", float64(st.Subjects))
	s.Gauge("registry_versions", "Versions in the schema registry, those too that are deleted softly.", float64(st.Versions))
	s.Gauge("registry_bytes", "Bytes of the texts of all versions in the schema registry.", float64(st.Bytes))
	s.Counter("registry_foreign_records", "Records in the topic of the schemas that no registry has written.", float64(st.Skipped))
	if n.schemas.server != nil {
		n.schemas.logins.Each(func(link string, byResult map[string]int64, _ *metrics.Histogram) {
			for _, r := range identity.Results {
				s.Counter("registry_auth", "Requests to the schema registry judged, by the link of the chain that has decided.", float64(byResult[r]), "method", link, "result", r)
			}
		})
	}
	for i := range n.o.Config.Routes {
		c := n.schemas.checks[i]
		if c == nil {
			continue
		}
		r, cs := &n.o.Config.Routes[i], c.Stats()
		s.Counter("payloads_valid", "Payloads that were looked at, and are of their route's schema.", float64(cs.Valid), "route", r.MQTT, "subject", r.Schema.Subject)
		for _, reason := range slices.Sorted(maps.Keys(cs.Invalid)) {
			s.Counter("payloads_invalid", "Payloads that were looked at, and are not of their route's schema.", float64(cs.Invalid[reason]),
				"route", r.MQTT, "subject", r.Schema.Subject, "reason", reason)
		}
		s.Durations("payload_check_seconds", "Time that a payload takes to be looked at.", c.Took(), "route", r.MQTT, "subject", r.Schema.Subject)
	}
	metrics.Counters(s, "payloads_handled", "Messages whose payload is not of their route's schema, by what became of them.", "action", n.store.Stats().Invalid)
}
