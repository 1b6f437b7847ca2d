package app

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/internal/certs/certtest"
)

// A node gets into a cluster that asks for TLS and SASL, and says what is wrong when it does not. (The cluster is kfake, in this process.)
func TestClusterLogin(t *testing.T) {
	ca := certtest.NewCA(t, "brokers")
	server := ca.Server()
	pair, err := tls.X509KeyPair(server.Cert, server.Key)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "millrace", "plain secret"), kfake.Superuser("SCRAM-SHA-256", "millrace", "secret 256"), kfake.Superuser("SCRAM-SHA-512", "millrace", "secret 512"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	dir, files := t.TempDir(), 0
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	authority, other := write("ca.pem", string(ca.PEM)), write("other.pem", string(certtest.NewCA(t, "other").PEM))
	configure := func(t *testing.T, tls, mechanism, password string) *config.Config {
		files++
		c := testConfig(t, fmt.Sprintf("log: {kafka: [%s], tls: {%s}, sasl: {mechanism: %s, username: millrace, password: \"file:%s\"}}\n",
			cluster.ListenAddrs()[0], tls, mechanism, write(fmt.Sprint("secret", files), password)))
		c.Log.Data = ""
		return c
	}
	for mechanism, password := range map[string]string{"plain": "plain secret", "scram-sha-256": "secret 256\n", "scram-sha-512": "secret 512\r\nnot this"} {
		t.Run(mechanism, func(t *testing.T) { boot(t, configure(t, "ca: "+authority, mechanism, password)) })
	}
	for what, c := range map[string]*config.Config{
		"certificate":        configure(t, "ca: "+other, "plain", "plain secret"),
		"log.sasl: password": configure(t, "ca: "+authority, "plain", ""),
		"log.tls: ":          configure(t, "ca: "+filepath.Join(dir, "nowhere"), "plain", "plain secret"),
	} {
		if said := startError(t, c); !strings.Contains(said, what) {
			t.Errorf("%q does not say %q", said, what)
		}
	}
}

// Tokens are fetched with the client credentials grant, kept for most of their life, and no longer.
func TestTokens(t *testing.T) {
	var asked atomic.Int32
	answer := `{"access_token": "t%d", "token_type": "Bearer", "expires_in": 100}`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, key, _ := r.BasicAuth()
		if r.Method != http.MethodPost || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "kafka" || name != "mill+race" || key != "wonder" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, answer, asked.Add(1))
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "secret")
	secret := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secret("wonder")
	now := time.Unix(1_000_000, 0)
	l, err := loginOf(&config.ClusterSASL{Mechanism: "oauthbearer", TokenURL: config.Location(s.URL), ClientID: "mill race", ClientSecret: config.Secret("file:" + file), Scope: "kafka"},
		func() time.Time { return now })
	if err != nil || l.Mechanism != "OAUTHBEARER" {
		t.Fatalf("%+v %v", l, err)
	}
	want := func(token string) {
		t.Helper()
		if got, err := l.Token(t.Context()); got != token || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, token)
		}
	}
	want("t1")
	now = now.Add(79 * time.Second)
	want("t1")
	now = now.Add(2 * time.Second)
	want("t2")
	now = now.Add(100 * time.Second)
	secret("stolen")
	if got, err := l.Token(t.Context()); err == nil || got != "" || !strings.Contains(err.Error(), "401") {
		t.Errorf("got %q, %v", got, err)
	}
	secret("wonder")
	answer = `{"token_type": "mac", "access_token": "x%d"}`
	if got, err := l.Token(t.Context()); err == nil {
		t.Errorf("got %q", got)
	}
	if _, err := loginOf(&config.ClusterSASL{Mechanism: "oauthbearer", Token: config.Secret("file:" + file + "-not")}, nil); err == nil {
		t.Error("a token that is not there")
	}
}
