package app

import (
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace-io/millrace/bridge"
	"github.com/millrace-io/millrace/internal/certs/certtest"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// TestBridgeTLS: a bridge shows its certificate to a remote that asks for one, and does not speak to one of another authority.
func TestBridgeTLS(t *testing.T) {
	ca, other := certtest.NewCA(t, "ours"), certtest.NewCA(t, "another")
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pair := ca.Client("site-a")
	cert, key := write("cert.pem", pair.Cert), write("key.pem", pair.Key)
	b := newSite(t, "").start()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.Server().TLS}, ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	p := newProxyOn(t, listener, func() string { return b.port })
	for name, authority := range map[string][]byte{"ours": ca.PEM, "another": other.PEM} {
		a := newSite(t, fmt.Sprintf("bridges:\n- name: up\n  remote: {url: \"mqtts://%s\", client_id: %s, tls: {ca: %s, cert: %s, key: %s}}\n  out: [{filter: \"#\"}]\n",
			p.address(), name, write(name+".pem", authority), cert, key)).start()
		if name == "another" {
			eventually(t, "it is refused", func() bool { return a.status().LastError != "" })
			expect(t, a.status().LastError, "certificate")
			continue
		}
		a.connected()
		device := a.client("device", packet.V5)
		publishOn(t, device, "t", "x", 1)
		eventually(t, "it is through", func() bool { s := a.status(); return s.Acked == 1 && s.State == bridge.Connected })
	}
}
