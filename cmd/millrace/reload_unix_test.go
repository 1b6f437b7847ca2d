//go:build linux || darwin

package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/millrace-io/millrace/internal/certs/certtest"
)

// SIGHUP does not end a node: it looks at its certificates.
func TestServeHangup(t *testing.T) {
	dir, ca := t.TempDir(), certtest.NewCA(t, "authority")
	put := func() {
		t.Helper()
		pair := ca.Server()
		for name, b := range map[string][]byte{"cert.pem": pair.Cert, "key.pem": pair.Key} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	put()
	file := write(t, "listeners:\n  mqtt: [{bind: '127.0.0.1:0', tls: {cert: "+filepath.Join(dir, "cert.pem")+", key: "+filepath.Join(dir, "key.pem")+"}}]\n  kafka: []\n  http: {bind: ''}\n")
	node := start(t, nil, "serve", "--config", file, "--data", filepath.Join(dir, "data"))
	node.until("millrace is running")
	put()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	node.until("changed TLS files are in use")
	node.cancel()
	if code := node.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
