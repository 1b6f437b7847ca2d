package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/certs"
	"github.com/millrace-io/millrace/internal/certs/certtest"
)

// server answers every connection with the client's name, or ends it; what the handshakes failed for is in refused.
type server struct {
	t       *testing.T
	ca      *certtest.CA
	files   *certtest.Files
	src     *certs.Source
	addr    string
	refused chan error
}

func newServer(t *testing.T, change func(*certs.Options), files ...any) *server {
	t.Helper()
	s := &server{t: t, ca: certtest.NewCA(t, "server authority"), files: &certtest.Files{}, refused: make(chan error, 100)}
	pair := s.ca.Server()
	s.files.Set("cert", pair.Cert, "key", pair.Key)
	s.files.Set(files...)
	o := certs.Options{Cert: "cert", Key: "key", Read: s.files.Read}
	change(&o)
	var err error
	if s.src, err = certs.New(o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.addr = l.Addr().String()
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(nc)
		}
	}()
	return s
}

func (s *server) serve(nc net.Conn) {
	defer nc.Close()
	tc := tls.Server(nc, s.src.Config())
	if err := tc.Handshake(); err != nil {
		s.refused <- err
		return
	}
	pass, err := s.src.Verify(tc.ConnectionState())
	if err != nil {
		s.t.Errorf("the handshake let in whom the check afterwards refuses: %v", err)
		return
	}
	fmt.Fprintf(tc, "%s %v\n", pass.Name, tc.ConnectionState().DidResume)
	io.Copy(io.Discard, tc)
}

// dial connects and returns what the server says: name and whether the session was resumed.
func (s *server) dial(change func(*tls.Config)) (string, error) {
	s.t.Helper()
	c := &tls.Config{RootCAs: s.ca.Pool(), ServerName: "localhost"}
	if change != nil {
		change(c)
	}
	nc, err := tls.Dial("tcp", s.addr, c)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 300)
	n, err := nc.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

// refusal dials in vain, and returns the reason.
func (s *server) refusal(change func(*tls.Config)) (reason string, err error) {
	s.t.Helper()
	if said, err := s.dial(change); err == nil {
		s.t.Fatalf("the server lets in %q", said)
	}
	select {
	case err := <-s.refused:
		return certs.Refused(err)
	case <-time.After(20 * time.Second):
		s.t.Fatal("the server refused nobody")
		return "", nil
	}
}

func with(p certtest.Pair) func(*tls.Config) {
	return func(c *tls.Config) { c.Certificates = []tls.Certificate{p.TLS} }
}

func TestServerCertificate(t *testing.T) {
	s := newServer(t, func(*certs.Options) {})
	if said, err := s.dial(nil); err != nil || said != "false" {
		t.Fatalf("%q %v", said, err)
	}
	if said, err := s.dial(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }); err != nil || said != "false" {
		t.Fatalf("TLS 1.2: %q %v", said, err)
	}
	for name, change := range map[string]func(*tls.Config){
		"TLS 1.1": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
		"CBC": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		},
	} {
		if reason, _ := s.refusal(change); reason != "tls_handshake_failed" {
			t.Errorf("%s: %s", name, reason)
		}
	}
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.Write([]byte("\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a"))
	if reason, _ := certs.Refused(<-s.refused); reason != "not_tls" {
		t.Errorf("plain MQTT: %s", reason)
	}
}

func TestClientCertificates(t *testing.T) {
	ca, foreign := certtest.NewCA(t, "fleet authority"), certtest.NewCA(t, "fleet authority")
	stolen := ca.Client("stolen")
	s := newServer(t, func(o *certs.Options) { o.ClientCA, o.ClientCRL = "ca", "crl" }, "ca", ca.PEM, "crl", ca.CRL(stolen.Leaf))
	for _, max := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if said, err := s.dial(func(c *tls.Config) { with(ca.Client("truck-7"))(c); c.MaxVersion = max }); err != nil || said != "truck-7 false" {
			t.Fatalf("%q %v", said, err)
		}
		for _, c := range []struct {
			want string
			pair *certtest.Pair
		}{
			{"client_certificate_missing", nil},
			{"client_certificate_unknown_authority", ptr(foreign.Client("truck-7"))},
			{"client_certificate_expired", ptr(ca.Client("truck-7", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))},
			{"client_certificate_invalid", ptr(ca.Client("truck-7", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))},
			{"client_certificate_revoked", &stolen},
			{"client_certificate_name", ptr(ca.Client("anonymous"))},
			{"client_certificate_name", ptr(ca.Client(""))},
			{"client_certificate_name", ptr(ca.Client("a/b"))},
		} {
			reason, err := s.refusal(func(cfg *tls.Config) {
				cfg.MaxVersion = max
				if c.pair != nil { // whatever authorities the server names
					cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.pair.TLS, nil }
				}
			})
			if reason != c.want {
				t.Errorf("%s, want %s: %v", reason, c.want, err)
			}
			if c.pair != nil && !strings.Contains(err.Error(), fmt.Sprintf("%x", c.pair.Leaf.SerialNumber)) {
				t.Errorf("the error does not name the certificate: %v", err)
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestIdentity(t *testing.T) {
	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { u, _ := url.Parse(s); c.URIs = []*url.URL{u} }
	}
	dns := func(s string) func(*x509.Certificate) { return func(c *x509.Certificate) { c.DNSNames = []string{s} } }
	mail := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.EmailAddresses = []string{s} }
	}
	ip := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(1, 2, 3, 4)} }
	ca := certtest.NewCA(t, "fleet authority")
	bare := ca.Issue(func(c *x509.Certificate) {
		c.Subject.CommonName, c.IPAddresses, c.ExtKeyUsage = "cn", []net.IP{net.IPv4(1, 2, 3, 4)}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	for _, fromCN := range []bool{false, true} {
		s := newServer(t, func(o *certs.Options) { o.ClientCA, o.FromCN = "ca", fromCN }, "ca", ca.PEM)
		for _, c := range []struct {
			change []func(*x509.Certificate)
			want   string
		}{
			{nil, "cn"},
			{[]func(*x509.Certificate){ip}, "cn"},
			{[]func(*x509.Certificate){mail("ops@fleet.example"), ip}, "ops@fleet.example"},
			{[]func(*x509.Certificate){mail("ops@fleet.example"), dns("Truck-7.fleet.example")}, "truck-7.fleet.example"},
			{[]func(*x509.Certificate){dns("truck-7.fleet.example"), uri("spiffe://fleet.example/device/7")}, "7"},
			{[]func(*x509.Certificate){uri("urn:dev:mac:0024befffe804ff1")}, "urn:dev:mac:0024befffe804ff1"},
		} {
			want := c.want
			if fromCN {
				want = "cn"
			}
			if said, err := s.dial(with(ca.Client("cn", c.change...))); err != nil || said != want+" false" {
				t.Errorf("%q %v, want %q", said, err, want)
			}
		}
		if fromCN { // that is the only way for a certificate without an alternative name
			if said, err := s.dial(with(bare)); err != nil || said != "cn false" {
				t.Errorf("%q %v", said, err)
			}
		} else if reason, err := s.refusal(with(bare)); reason != "client_certificate_name" || !strings.Contains(err.Error(), "identity_from: cn") {
			t.Errorf("%s %v", reason, err)
		}
	}
}

// What is not a SPIFFE ID of a device is no name, nor is a URI that would be more than one level of a topic.
func TestURIsThatAreNoNames(t *testing.T) {
	ca := certtest.NewCA(t, "fleet authority")
	s := newServer(t, func(o *certs.Options) { o.ClientCA = "ca" }, "ca", ca.PEM)
	for _, bad := range []string{
		"spiffe://fleet.example/ns/prod/sa/web", "spiffe://fleet.example/device/", "spiffe://fleet.example/device/a/b", "spiffe://fleet.example/device/a%2Fb",
		"spiffe://fleet.example/device/a+b", "spiffe://fleet.example:1/device/a", "spiffe://me@fleet.example/device/a", "spiffe://fleet.example/device/a?x=1",
		"spiffe:///device/a", "spiffe://fleet.example/device/anonymous", "https://fleet.example/device/7", "urn:a#b",
	} {
		change := func(c *x509.Certificate) { u, _ := url.Parse(bad); c.URIs = []*url.URL{u} }
		if reason, err := s.refusal(with(ca.Client("cn", change))); reason != "client_certificate_name" {
			t.Errorf("%s: %s %v", bad, reason, err)
		}
	}
}

// A ticket neither outlives its generation nor skips the check within one.
func TestResumption(t *testing.T) {
	ca := certtest.NewCA(t, "fleet authority")
	device := ca.Client("truck-7")
	for _, max := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := newServer(t, func(o *certs.Options) { o.ClientCA, o.ClientCRL = "ca", "crl" }, "ca", ca.PEM, "crl", ca.CRL())
		sessions := tls.NewLRUClientSessionCache(10)
		dial := func(c *tls.Config) { with(device)(c); c.ClientSessionCache, c.MaxVersion = sessions, max }
		for i, want := range []string{"truck-7 false", "truck-7 true"} {
			if said, err := s.dial(dial); err != nil || said != want {
				t.Fatalf("connection %d: %q %v, want %q", i, said, err, want)
			}
		}
		s.files.Set("crl", ca.CRL(device.Leaf))
		if changed, err := s.src.Reload(); !changed || err != nil {
			t.Fatal(changed, err)
		}
		if reason, err := s.refusal(dial); reason != "client_certificate_revoked" {
			t.Errorf("a revoked client that resumes: %s %v", reason, err)
		}
	}
}

// A session is not resumed beyond the end of the certificate that began it.
func TestResumptionEndsWithTheCertificate(t *testing.T) {
	ca := certtest.NewCA(t, "fleet authority")
	device := ca.Client("truck-7")
	var late atomic.Int64
	s := newServer(t, func(o *certs.Options) {
		o.ClientCA = "ca"
		o.Now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	}, "ca", ca.PEM)
	sessions := tls.NewLRUClientSessionCache(10)
	dial := func(c *tls.Config) { with(device)(c); c.ClientSessionCache = sessions }
	if said, err := s.dial(dial); err != nil || said != "truck-7 false" {
		t.Fatalf("%q %v", said, err)
	}
	late.Store(int64(25 * time.Hour))
	if reason, err := s.refusal(dial); reason != "client_certificate_expired" {
		t.Errorf("%s %v", reason, err)
	}
}

func TestReload(t *testing.T) {
	s := newServer(t, func(o *certs.Options) { o.ClientCA = "ca"; o.ClientOptional = true }, "ca", certtest.NewCA(t, "fleet authority").PEM)
	first := s.src.Config()
	if changed, err := s.src.Reload(); changed || err != nil || s.src.Config() != first {
		t.Fatal("files that are the same changed something:", changed, err)
	}
	good := s.ca.Server()
	expired := s.ca.Issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	failures := int64(0)
	for name, set := range map[string][]any{
		"a key of another certificate": {"key", good.Key},
		"no file":                      {"cert", nil},
		"an empty file":                {"cert", []byte{}},
		"an expired certificate":       {"cert", expired.Cert, "key", expired.Key},
		"no authority":                 {"ca", []byte("# none\n")},
		"half an authority":            {"ca", append(s.ca.PEM, s.ca.PEM[:100]...)},
	} {
		saved := map[string][]byte{}
		for i := 0; i < len(set); i += 2 {
			saved[set[i].(string)], _ = s.files.Read(set[i].(string))
		}
		s.files.Set(set...)
		if changed, err := s.src.Reload(); changed || err == nil {
			t.Errorf("%s: accepted", name)
		}
		failures++
		if changed, err := s.src.Reload(); changed || err != nil {
			t.Errorf("%s: said again: %v", name, err)
		}
		if s.src.Config() != first || s.src.Status().Failures != failures || !strings.Contains(strings.Join(s.src.Warnings(), "\n"), "not used") {
			t.Errorf("%s: %+v %q", name, s.src.Status(), s.src.Warnings())
		}
		for file, b := range saved {
			s.files.Set(file, b)
		}
		if _, err := s.src.Reload(); err != nil { // the old ones are back
			t.Errorf("after %s: %v", name, err)
		}
		first = s.src.Config()
	}
	s.files.Set("cert", good.Cert, "key", good.Key)
	if changed, err := s.src.Reload(); !changed || err != nil || s.src.Config() == first {
		t.Fatal("new files:", changed, err)
	}
	if ws := strings.Join(s.src.Warnings(), "\n"); strings.Contains(ws, "not used") || !strings.Contains(ws, "expires in 0 days") {
		t.Errorf("warnings %q", ws)
	}
}

func TestNewRefuses(t *testing.T) {
	ca, other := certtest.NewCA(t, "one"), certtest.NewCA(t, "two")
	pair := ca.Server()
	for want, change := range map[string]func(*certtest.Files){
		"read key":                          func(f *certtest.Files) { f.Set("key", nil) },
		"private key does not match":        func(f *certtest.Files) { f.Set("key", ca.Server().Key) },
		"ca: there is no certificate in it": func(f *certtest.Files) { f.Set("ca", []byte("x")) },
		"crl: there is no revocation list":  func(f *certtest.Files) { f.Set("crl", ca.PEM) },
		"follows revocation list 1":         func(f *certtest.Files) { f.Set("crl", append(ca.CRL(), ca.CRL()[:200]...)) },
		"is signed by none of the client":   func(f *certtest.Files) { f.Set("crl", other.CRL()) },
		"crl: revocation list 1 of the file": func(f *certtest.Files) {
			f.Set("crl", []byte("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"))
		},
	} {
		files := &certtest.Files{}
		files.Set("cert", pair.Cert, "key", pair.Key, "ca", ca.PEM, "crl", ca.CRL())
		o := certs.Options{Cert: "cert", Key: "key", ClientCA: "ca", ClientCRL: "crl", Read: files.Read}
		if _, err := certs.New(o); err != nil {
			t.Fatal(err)
		}
		change(files)
		if _, err := certs.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestRefusedNamesTheUnknown(t *testing.T) {
	if reason, err := certs.Refused(io.EOF); reason != "connection_closed_by_client" || !errors.Is(err, io.EOF) {
		t.Error(reason, err)
	}
	if reason, _ := certs.Refused(&certs.RefusedError{Reason: "r", Subject: pkix.Name{}.String()}); reason != "r" {
		t.Error(reason)
	}
}
