// Package certs makes a listener's TLS of files, and makes it anew when the files change, without touching a connection.
//
// A Source holds one generation at a time: the certificate, the client CAs, the revocation list, and a tls.Config that is never
// changed once made. Reload replaces it as a whole or not at all: files that do not fit together leave the old generation in place.
// Each generation has session ticket keys of its own, so that no session outlives the CAs it was verified with; beyond that, every
// connection, resumed or not, passes Source's own check of chain, revocation and identity.
//
// The package starts no goroutines and opens no files: the caller reads them and says when to look again. It will never serve a
// configuration that is weaker than the files say: a CA file without a usable certificate is an error, not "no verification".
package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Options say what TLS is made of. Files are PEM.
type Options struct {
	Cert, Key string
	ClientCA  string // empty: clients show no certificate
	ClientCRL string // empty: none is revoked
	// ClientOptional lets clients without a certificate in. One that is shown is verified all the same.
	ClientOptional bool
	FromCN         bool   // a client's name is its certificate's common name, whatever else it says
	MinVersion     uint16 // 0: TLS 1.2

	Read func(name string) ([]byte, error)
	Now  func() time.Time // default time.Now
}

// Source is the present TLS of a listener. Its methods are safe for concurrent use.
type Source struct {
	o   Options
	cur atomic.Pointer[generation]

	mu      sync.Mutex // held by Reload
	seen    [sha256.Size]byte
	fault   atomic.Pointer[error] // of files that are there and not used
	loaded  atomic.Int64
	refused atomic.Int64
}

// generation is what one state of the files means.
type generation struct {
	config   *tls.Config
	leaf     *x509.Certificate
	roots    *x509.CertPool // nil: clients show no certificate
	revoked  *revoked       // nil: none is
	optional bool
	fromCN   bool
	now      func() time.Time
}

// suites of TLS 1.2: forward secret and authenticated. TLS 1.3 has no others.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// New reads the files for the first time. A certificate that has expired is served all the same, for want of another.
func New(o Options) (*Source, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Source{o: o}
	s.mu.Lock()
	defer s.mu.Unlock()
	g, sum, err := s.read()
	if err != nil {
		return nil, err
	}
	s.seen = sum
	s.cur.Store(g)
	return s, nil
}

// Reload looks at the files again. changed: they are others, and in use from now on. An error says why others are not used; it is
// returned once for each state of the files, and kept for Warnings.
func (s *Source) Reload() (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, sum, err := s.read()
	if sum == s.seen {
		return false, nil
	}
	s.seen = sum
	old := s.cur.Load()
	if now := s.o.Now(); err == nil && now.After(g.leaf.NotAfter) && !now.After(old.leaf.NotAfter) {
		err = fmt.Errorf("%s: the certificate has expired, on %s", s.o.Cert, g.leaf.NotAfter.Format(time.RFC3339))
	}
	if err != nil {
		s.refused.Add(1)
		s.fault.Store(&err)
		return false, err
	}
	s.loaded.Add(1)
	s.fault.Store(nil)
	s.cur.Store(g)
	return true, nil
}

// read makes a generation of the files. sum tells states of the files apart, those that cannot be read too.
func (s *Source) read() (*generation, [sha256.Size]byte, error) {
	h := sha256.New()
	var failed error
	read := func(name string) []byte {
		if name == "" || failed != nil {
			return nil
		}
		b, err := s.o.Read(name)
		if err != nil {
			failed = fmt.Errorf("read %s: %w", name, err)
			fmt.Fprintf(h, "!%v", failed)
			return nil
		}
		fmt.Fprintf(h, "%d:", len(b))
		h.Write(b)
		return b
	}
	cert, key, ca, crl := read(s.o.Cert), read(s.o.Key), read(s.o.ClientCA), read(s.o.ClientCRL)
	sum := [sha256.Size]byte(h.Sum(nil))
	if failed != nil {
		return nil, sum, failed
	}
	g, err := s.build(cert, key, ca, crl)
	return g, sum, err
}

func (s *Source) build(cert, key, ca, crl []byte) (*generation, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", s.o.Cert, s.o.Key, err)
	}
	g := &generation{leaf: pair.Leaf, optional: s.o.ClientOptional, fromCN: s.o.FromCN, now: s.o.Now}
	g.config = &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: max(s.o.MinVersion, tls.VersionTLS12), CipherSuites: suites, Time: s.o.Now,
		DynamicRecordSizingDisabled: true, // messages leave in as few records as hold them
	}
	if s.o.ClientCA == "" {
		return g, nil
	}
	authorities, err := parseCertificates(ca)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.o.ClientCA, err)
	}
	g.roots = x509.NewCertPool()
	for _, c := range authorities {
		g.roots.AddCert(c)
	}
	if s.o.ClientCRL != "" {
		if g.revoked, err = parseRevoked(crl, authorities); err != nil {
			return nil, fmt.Errorf("%s: %w", s.o.ClientCRL, err)
		}
	}
	g.config.ClientCAs = g.roots
	g.config.ClientAuth = tls.RequireAndVerifyClientCert
	if g.optional {
		g.config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	g.config.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := g.verify(cs, cs.DidResume)
		return err
	}
	return g, nil
}

// parseCertificates reads every certificate of a file; there must be one.
func parseCertificates(b []byte) (cs []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the file: %w", len(cs)+1, err)
		}
		cs = append(cs, c)
	}
	if len(cs) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	if bytes.Contains(b, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("what follows certificate %d of the file is cut off, or not PEM", len(cs))
	}
	return cs, nil
}

// Config is for new connections. It is never changed, and must not be.
func (s *Source) Config() *tls.Config { return s.cur.Load().config }

// Mutual tells whether clients show certificates.
func (s *Source) Mutual() bool { return s.o.ClientCA != "" }

// Status is what operators ask for.
type Status struct {
	Expires  time.Time // of the certificate that is served
	Reloads  int64     // files that came into use
	Failures int64     // files that did not
}

// Status returns the counters.
func (s *Source) Status() Status {
	return Status{Expires: s.cur.Load().leaf.NotAfter, Reloads: s.loaded.Load(), Failures: s.refused.Load()}
}

// expiresSoon is when the certificate's end begins to be a warning.
const expiresSoon = 14 * 24 * time.Hour

// Warnings name what somebody should look at.
func (s *Source) Warnings() (ws []string) {
	g, now := s.cur.Load(), s.o.Now()
	if err := s.fault.Load(); err != nil {
		ws = append(ws, fmt.Sprintf("changed TLS files are not used, the old ones are: %v", *err))
	}
	switch left := g.leaf.NotAfter.Sub(now); {
	case left <= 0:
		ws = append(ws, fmt.Sprintf("%s: the certificate has expired, on %s", s.o.Cert, g.leaf.NotAfter.Format(time.RFC3339)))
	case now.Before(g.leaf.NotBefore):
		ws = append(ws, fmt.Sprintf("%s: the certificate is not valid before %s", s.o.Cert, g.leaf.NotBefore.Format(time.RFC3339)))
	case left < expiresSoon:
		ws = append(ws, fmt.Sprintf("%s: the certificate expires in %d days", s.o.Cert, int(left.Hours()/24)))
	}
	if len(g.leaf.DNSNames)+len(g.leaf.IPAddresses)+len(g.leaf.URIs) == 0 {
		ws = append(ws, fmt.Sprintf("%s: the certificate has no subject alternative name, most clients refuse it", s.o.Cert))
	}
	if r := g.revoked; r != nil && !r.next.IsZero() && now.After(r.next) {
		ws = append(ws, fmt.Sprintf("%s: a newer revocation list was due on %s; the old one is used", s.o.ClientCRL, r.next.Format(time.RFC3339)))
	}
	return ws
}
