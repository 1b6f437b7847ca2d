package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/identity"
)

// passwordFile makes a file with one token.
func passwordFile(t *testing.T, name string) (token string) {
	t.Helper()
	f, err := identity.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if token, err = f.SetToken(nil, "scraper", identity.Admin); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, f.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return token
}

func ask(t *testing.T, c *http.Client, url, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// A password file decides who reads, from its next change on too; a wrong one changes nothing but the warnings.
func TestPasswordFile(t *testing.T) {
	c := testConfig(t, "")
	users := filepath.Join(t.TempDir(), "users")
	c.Listeners.HTTP.PasswordFile = config.File(users)
	if why := startError(t, c); !strings.Contains(why, "millrace passwd") {
		t.Errorf("without the file: %s", why)
	}
	token := passwordFile(t, users)
	n := boot(t, c)
	url := "http://" + n.Address("HTTP")
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/": 200, "/metrics": 401, "/api/v1/status": 401, "/api/v1/pipeline": 401} {
		if code, body := ask(t, http.DefaultClient, url+path, ""); code != want || strings.Contains(body, "checks") {
			t.Errorf("%s, anonymous: %d %s", path, code, body)
		}
		if code, body := ask(t, http.DefaultClient, url+path, token); code != 200 {
			t.Errorf("%s, with the token: %d %s", path, code, body)
		}
	}
	if err := os.WriteFile(users, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the wrong file is complained of", func() bool {
		code, body := ask(t, http.DefaultClient, url+"/readyz", token)
		return code == 200 && strings.Contains(body, "line 1")
	})
	next := passwordFile(t, users)
	eventually(t, "the new token is good, and the old one not", func() bool {
		a, _ := ask(t, http.DefaultClient, url+"/metrics", next)
		b, _ := ask(t, http.DefaultClient, url+"/metrics", token)
		return a == 200 && b == 401
	})
}

// issue writes a certificate for 127.0.0.1 of that serial number.
func issue(t *testing.T, cert, key string, serial int64, until time.Time) *x509.Certificate {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: until.Add(-48 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kb}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func trusting(cs ...*x509.Certificate) *http.Client {
	pool := x509.NewCertPool()
	for _, c := range cs {
		pool.AddCert(c)
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

// The server speaks TLS, and takes over a renewed certificate.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c := testConfig(t, "")
	c.Listeners.HTTP.TLS = config.TLS{Cert: config.File(cert), Key: config.File(key)}
	if why := startError(t, c); !strings.Contains(why, "listeners.http.tls") {
		t.Errorf("without files: %s", why)
	}
	first := issue(t, cert, key, 2, time.Now().Add(time.Hour))
	n := boot(t, c)
	url := "https://" + n.Address("HTTP") + "/livez"
	if code, _ := ask(t, trusting(first), url, ""); code != 200 {
		t.Errorf("%d", code)
	}
	second := issue(t, cert, key, 3, time.Now().Add(time.Hour))
	eventually(t, "the renewed certificate is in use", func() bool {
		nc, err := tls.Dial("tcp", n.Address("HTTP"), &tls.Config{RootCAs: x509.NewCertPool(), InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		n.Reload() // as it does by itself every few seconds
		return nc.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(second.SerialNumber) == 0
	})
	if code, _ := ask(t, http.DefaultClient, "http://"+n.Address("HTTP")+"/livez", ""); code == 200 {
		t.Error("plain HTTP on a TLS listener")
	}
}

// Passwords that cross a network in the clear are warned of.
func TestAccessWarnings(t *testing.T) {
	c := testConfig(t, "")
	c.Listeners.HTTP.PasswordFile, c.Listeners.HTTP.Bind = "users", ":8080"
	n := &Node{o: Options{Config: c}}
	if ws := n.accessWarnings(); len(ws) != 1 || !strings.Contains(ws[0], "unencrypted") {
		t.Errorf("%q", ws)
	}
	c.Listeners.HTTP.TLS.Cert = "c"
	if ws := n.accessWarnings(); len(ws) != 0 {
		t.Errorf("%q", ws)
	}
	if err := (&Node{o: Options{Config: c}}).openAccess(context.Background()); err == nil {
		t.Error("a file that is not there")
	}
}
