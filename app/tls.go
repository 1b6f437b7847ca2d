package app

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/internal/certs"
	"github.com/millrace-io/millrace/metrics"
)

// TLS files are looked at every so often, rather than watched: that sees every way in which tools replace files.
const (
	lookAtTLS    = 5 * time.Second
	recheckEvery = time.Minute // certificates of connected clients expire
	maxTLSFile   = 16 << 20    // revocation lists can be long
)

// readTLS makes a listener's TLS of its files.
func (n *Node) readTLS(t *config.ListenerTLS, optional bool) (*certs.Source, error) {
	o := certs.Options{
		Cert: string(t.Cert), Key: string(t.Key), ClientCA: string(t.ClientCA), ClientCRL: string(t.ClientCRL),
		ClientOptional: optional, FromCN: t.IdentityFrom == "cn", Now: n.o.Now,
		Read: func(name string) ([]byte, error) { return readSmall(name, maxTLSFile) },
	}
	if t.MinVersion == "1.3" {
		o.MinVersion = tls.VersionTLS13
	}
	return certs.New(o)
}

// Reload looks at the files of certificates, authorities, revocation lists, passwords, keys and the policy now, as it does by itself every
// few seconds.
func (n *Node) Reload() {
	n.reloadPolicy()
	n.reloadAuth()
	n.reloadTLS()
}

func (n *Node) reloadTLS() {
	changed := false
	for _, d := range n.doors {
		if d.certs == nil {
			continue
		}
		took, err := d.certs.Reload()
		if err != nil {
			n.o.Logger.Error("changed TLS files are not used, the old ones are", "listener", d.path, "err", err)
		}
		if took {
			n.o.Logger.Info("changed TLS files are in use", "listener", d.path, "certificate_expires", d.certs.Status().Expires)
		}
		changed = changed || took
	}
	if changed {
		n.recheck()
	}
}

// followTLS looks at the files while the node runs, and says each warning about them once.
func (n *Node) followTLS(context.Context) error {
	if len(n.tlsDoors()) == 0 {
		return nil
	}
	said := map[string]bool{}
	for _, w := range n.tlsWarnings() {
		said[w] = true // announced at the start
	}
	n.running.Go(func() {
		look, recheck := time.NewTicker(lookAtTLS), time.NewTicker(recheckEvery)
		defer look.Stop()
		defer recheck.Stop()
		for {
			select {
			case <-look.C:
				n.reloadTLS()
				now := map[string]bool{}
				for _, w := range n.tlsWarnings() {
					if now[w] = true; !said[w] {
						n.o.Logger.Warn(w)
					}
				}
				said = now
			case <-recheck.C:
				n.recheck()
			case <-n.quit:
				return
			}
		}
	})
	return nil
}

func (n *Node) tlsDoors() (ds []door) {
	for _, d := range n.doors {
		if d.certs != nil {
			ds = append(ds, d)
		}
	}
	return ds
}

func (n *Node) tlsWarnings() (ws []string) {
	for _, d := range n.tlsDoors() {
		for _, w := range d.certs.Warnings() {
			ws = append(ws, d.path+".tls: "+w)
		}
	}
	return ws
}

func (n *Node) collectTLS(s *metrics.Samples) {
	now := time.Now()
	if n.o.Now != nil {
		now = n.o.Now()
	}
	for _, d := range n.tlsDoors() {
		st := d.certs.Status()
		s.Gauge("tls_certificate_expires_seconds", "Seconds until the certificate that a listener serves expires; negative: it has.",
			st.Expires.Sub(now).Seconds(), "listener", d.path)
		s.Counter("tls_reloads", "Changed TLS files that came into use, and that did not.", float64(st.Reloads), "listener", d.path, "result", "used")
		s.Counter("tls_reloads", "Changed TLS files that came into use, and that did not.", float64(st.Failures), "listener", d.path, "result", "refused")
	}
}
