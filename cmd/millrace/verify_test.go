package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/verify"
)

// httpNode starts a node and returns its addresses of MQTT and HTTP.
func httpNode(t *testing.T, data string) (c *command, mqtt, http string) {
	t.Helper()
	c = start(t, nil, "serve", "--data", data, "--mqtt-listen", "127.0.0.1:0", "--kafka-listen", "none", "--http-listen", "127.0.0.1:0")
	mqtt = c.until(`protocol=MQTT address=(127\.0\.0\.1:\d+)`)[1]
	return c, mqtt, c.until(`protocol=HTTP address=(127\.0\.0\.1:\d+)`)[1]
}

// expect runs a command and compares its exit code and what it says.
func expect(t *testing.T, code int, out, err string, args ...string) *command {
	t.Helper()
	c := start(t, nil, args...)
	if got := c.wait(); got != code || !strings.Contains(c.out.String(), out) || !strings.Contains(c.err.String(), err) {
		t.Errorf("%s: exit code %d, want %d\n%s\n%s", strings.Join(args, " "), got, code, &c.out, &c.err)
	}
	return c
}

func TestVerifyCommand(t *testing.T) {
	dir := t.TempDir()
	data, ledger := filepath.Join(dir, "data"), filepath.Join(dir, "ledger")
	node, mqtt, http := httpNode(t, data)
	expect(t, exitOK, "", "", "sim", "load", "--broker", mqtt, "--clients", "3", "--count", "50", "--ledger", ledger, "--watch")
	expect(t, exitOK, "complete: 150 records", "", "verify", "--http", http)
	expect(t, exitOK, "150 sequence numbers of 3 devices", "", "verify", "--http", "http://"+http+"/", "--ledger", ledger)
	expect(t, exitOK, "load-1", "", "verify", "--http", http, "--all", "--topic", "mqtt")
	c := expect(t, exitOK, "", "", "verify", "--http", http, "-o", "json", "--device", "load-2")
	var last verify.Row
	for line := range bytes.Lines([]byte(c.out.String())) {
		last = verify.Row{}
		if err := json.Unmarshal(line, &last); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
	}
	if s := last.Summary; s == nil || !s.Complete || s.Records != 50 {
		t.Errorf("%+v", last)
	}
	expect(t, exitUsage, "", "no route leads to this topic", "verify", "--http", http, "--topic", "nothing")
	expect(t, exitUsage, "", "verify through it, with --http", "verify", "--data", data)
	node.cancel()
	if code := node.wait(); code != exitOK {
		t.Errorf("the node: %d", code)
	}
	expect(t, exitOK, "complete: 150 records", "", "verify", "--data", data, "--ledger", ledger)
	expect(t, exitUsage, "", "no node answers", "verify", "--http", http)

	other, _, http := httpNode(t, filepath.Join(dir, "other"))
	expect(t, exitFailed, "WRONG: acked_missing", "NOT COMPLETE", "verify", "--http", http, "--ledger", ledger)
	other.cancel()
	other.wait()
}

// Whoever answers at the address may be anybody: only a node's own words are shown.
func TestVerifyBelievesOnlyANode(t *testing.T) {
	answer := func(kind, body string, code int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		})
	}
	for _, c := range []struct {
		h    http.Handler
		want string
	}{
		{answer("text/html", "<h1>\x1b[2J", http.StatusNotFound), "is no node of Millrace"},
		{answer("application/problem+json", "\x1b[2J", http.StatusNotFound), "is no node of Millrace"},
		{answer("application/problem+json", `{"title":"Log in"}`, http.StatusUnauthorized), "--token-file"},
		{answer("application/problem+json", `{"title":"x","detail":"\u001b[2J busy"}`, http.StatusConflict), `busy`},
	} {
		s := httptest.NewServer(c.h)
		got := expect(t, exitUsage, "", c.want, "verify", "--http", s.URL)
		if strings.Contains(got.err.String(), "\x1b") {
			t.Errorf("escape sequences reach the terminal: %q", &got.err)
		}
		s.Close()
	}
	s := httptest.NewTLSServer(answer("text/html", "", http.StatusNotFound))
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, exitUsage, "", "no node answers", "verify", "--http", s.URL)
	expect(t, exitUsage, "", "is no node of Millrace", "verify", "--http", s.URL, "--ca", ca)
}

// A folder that holds no log is left as it is.
func TestVerifyLeavesOtherFoldersAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, exitUsage, "", "there is no log in it", "verify", "--data", dir)
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestVerifyAsksForWhatItNeeds(t *testing.T) {
	for _, c := range []struct{ args, err string }{
		{"verify -o xml", `--output "xml"`},
		{"verify --last 0s", "above 0"},
		{"verify --from yesterday", `--from "yesterday"`},
		{"verify --from 2026-05-02T00:00:00Z --to 2026-05-01T00:00:00Z", "is empty"},
		{"verify --ledger /no/such", "--ledger"},
		{"verify --http x --data y", "none of the others"},
		{"verify --data /no/such", "there is none"},
		{"verify --http 127.0.0.1:1 --token-file /no/such", "--token-file"},
	} {
		expect(t, exitUsage, "", c.err, strings.Fields(c.args)...)
	}
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	v := verifyFlags{from: "11:15", to: "11:30:30"}
	if err := v.window(now, nil); err != nil || v.request.From != now.Add(-45*time.Minute) || v.request.To != now.Add(-29*time.Minute-30*time.Second) {
		t.Errorf("%v, %v", v.request, err)
	}
}
