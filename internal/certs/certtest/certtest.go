// Package certtest makes authorities, certificates and revocation lists for tests. Nothing of it is on disk, and nothing is
// random that a test could depend on but keys and serial numbers.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io/fs"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var serial atomic.Int64

// CA is an authority.
type CA struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	PEM  []byte
}

// Pair is a certificate with its key.
type Pair struct {
	Cert, Key []byte // PEM
	Leaf      *x509.Certificate
	TLS       tls.Certificate
}

// NewCA makes an authority.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	ca := &CA{t: t, key: newKey(t)}
	der := ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * 365 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, ca.key)
	ca.cert, _ = x509.ParseCertificate(der)
	ca.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return ca
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (ca *CA) sign(c *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	ca.t.Helper()
	c.SerialNumber = big.NewInt(serial.Add(1) + 0x1000)
	parent := ca.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return der
}

// Issue makes a certificate that is valid for a day, unless change says otherwise.
func (ca *CA) Issue(change func(*x509.Certificate)) Pair {
	ca.t.Helper()
	c := &x509.Certificate{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	change(c)
	key := newKey(ca.t)
	der := ca.sign(c, key)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	p := Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
	if p.TLS, err = tls.X509KeyPair(p.Cert, p.Key); err != nil {
		ca.t.Fatal(err)
	}
	p.Leaf = p.TLS.Leaf
	return p
}

// Server makes a certificate for localhost and 127.0.0.1.
func (ca *CA) Server() Pair {
	ca.t.Helper()
	return ca.Issue(func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
}

// Client makes a client's certificate with a common name, which is its alternative name too unless change gives it one.
func (ca *CA) Client(name string, change ...func(*x509.Certificate)) Pair {
	ca.t.Helper()
	return ca.Issue(func(c *x509.Certificate) {
		c.Subject.CommonName = name
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		for _, f := range change {
			f(c)
		}
		if name != "" && len(c.URIs)+len(c.DNSNames)+len(c.EmailAddresses) == 0 {
			c.DNSNames = []string{name}
		}
	})
}

// CRL makes a revocation list.
func (ca *CA) CRL(revoked ...*x509.Certificate) []byte {
	ca.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(serial.Add(1)), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, ca.cert, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// Pool is the authority as a client's roots.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// Files are files in memory that a Source reads.
type Files struct {
	mu sync.Mutex
	m  map[string][]byte
}

// Set writes files: name, content, name, content …; a content of nil removes one.
func (f *Files) Set(pairs ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m == nil {
		f.m = map[string][]byte{}
	}
	for i := 0; i < len(pairs); i += 2 {
		if b, _ := pairs[i+1].([]byte); b != nil {
			f.m[pairs[i].(string)] = b
		} else {
			delete(f.m, pairs[i].(string))
		}
	}
}

// Read reads one.
func (f *Files) Read(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, there := f.m[name]; there {
		return b, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}
