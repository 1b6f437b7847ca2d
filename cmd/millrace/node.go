package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// nodeFlags say which running node a command asks, and as whom.
type nodeFlags struct {
	env       env
	http      string
	token, ca string
	output    string
}

func (n *nodeFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&n.http, "http", "127.0.0.1:8080", "address of the node's HTTP server; https://… with TLS")
	f.StringVar(&n.token, "token", "", "bearer token: env:VARIABLE or file:PATH (millrace passwd --token makes one)")
	f.StringVar(&n.ca, "ca", "", "PEM file of the authority that its certificate is from, if it is not one of the system's")
	f.StringVarP(&n.output, "output", "o", "text", "text or json")
}

// bearer finds the token.
func (n *nodeFlags) bearer() (string, error) { return n.env.secret("--token", n.token) }

// secret finds what a reference names. A secret on the command line would be in the list of processes.
func (e env) secret(flag, reference string) (string, error) {
	switch kind, name, ok := strings.Cut(reference, ":"); {
	case reference == "":
		return "", nil
	case ok && kind == "env":
		for _, v := range e.Environ {
			if value, found := strings.CutPrefix(v, name+"="); found && value != "" {
				return value, nil
			}
		}
		return "", fmt.Errorf("%s: the variable %s is not set", flag, name)
	case ok && kind == "file":
		b, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("%s: %w", flag, err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	return "", fmt.Errorf("%s: write env:VARIABLE or file:PATH; a secret itself does not belong on a command line", flag)
}

// clientTrusting trusts the system's authorities, or the one that is named.
func clientTrusting(ca string) (*http.Client, error) {
	if ca == "" {
		return http.DefaultClient, nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca %s: there is no certificate in it", ca)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: t}, nil
}

// send asks the node; the answer is a success, and the caller's to close.
func (n *nodeFlags) send(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	if n.output != "text" && n.output != "json" {
		return nil, fmt.Errorf("--output %q: text or json", n.output)
	}
	token, err := n.bearer()
	if err != nil {
		return nil, err
	}
	client, err := clientTrusting(n.ca)
	if err != nil {
		return nil, err
	}
	base := n.http
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	target := strings.TrimSuffix(base, "/") + "/api/v1/" + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	var b []byte
	if body != nil {
		if b, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("--http %q: %w", n.http, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, failure{fmt.Errorf("no node answers at %s (--http): %w", n.http, err)}
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close()
		return nil, failure{n.refused(res)}
	}
	return res, nil
}

// refused tells what the node said, if it is a node's word: anything else may be any server's, and is not for a terminal.
func (n *nodeFlags) refused(res *http.Response) error {
	var problem struct{ Title, Detail string }
	if res.Header.Get("Content-Type") != "application/problem+json" || json.NewDecoder(io.LimitReader(res.Body, 16<<10)).Decode(&problem) != nil {
		return fmt.Errorf("what answers at %s (%s) is no node of Millrace; name one with --http", n.http, plain(res.Status))
	}
	if res.StatusCode == http.StatusUnauthorized && n.token == "" {
		return fmt.Errorf("the node at %s asks who you are: --token file:PATH or env:VARIABLE (millrace passwd USERS NAME --token makes one)", n.http)
	}
	return fmt.Errorf("the node at %s answers %s: %s", n.http, plain(res.Status), plain(cmp.Or(problem.Detail, problem.Title)))
}

const maxAnswer = 64 << 20

// ask sends a request, reads the answer into a value, and prints it: as JSON, or as text makes it.
func (n *nodeFlags) ask(ctx context.Context, method, path string, q url.Values, body, into any, text func(io.Writer)) error {
	res, err := n.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return failure{fmt.Errorf("read the node's answer: %w", err)}
	}
	if res.StatusCode == http.StatusNoContent {
		b = []byte("{}")
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			return failure{fmt.Errorf("the answer of %s is not what a node of this version says: %w", n.http, err)}
		}
	}
	if n.output == "json" {
		return rewrite(n.env.Out, b, "  ")
	}
	var out bytes.Buffer
	text(&out)
	if _, err := n.env.Out.Write(out.Bytes()); err != nil {
		return failure{fmt.Errorf("write the result: %w", err)}
	}
	return nil
}

// rewrite writes JSON anew: whatever the node is, nothing but JSON reaches the terminal.
func rewrite(w io.Writer, b []byte, indent string) error {
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return failure{fmt.Errorf("the node's answer is no JSON: %w", err)}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return failure{fmt.Errorf("write the result: %w", err)}
	}
	return nil
}

// plain is a text for a terminal. Client ids, topics and the like are devices' words: what is not to be seen, or would move the cursor, is
// written as an escape, in quotes.
func plain(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar }) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}

// short is plain of a text that is cut where it is too long for a column.
func short(s string, n int) string {
	if r := []rune(s); len(r) > n {
		s = string(r[:n-1]) + "…"
	}
	return plain(s)
}

// clock is a time of the API, in this machine's zone.
func clock(ms *float64) string {
	if ms == nil || *ms == 0 {
		return "-"
	}
	return time.UnixMilli(int64(*ms)).Format("2006-01-02 15:04:05")
}

// ago is how long ago a time of the API was.
func ago(ms *float64, now time.Time) string {
	if ms == nil || *ms == 0 {
		return "-"
	}
	return span(now.Sub(time.UnixMilli(int64(*ms))))
}

// span is a duration in two units at most.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// size is a number of bytes.
func size(n int64) string {
	f := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 || unit == "TiB" {
			if unit == "B" {
				return fmt.Sprintf("%d B", n)
			}
			return fmt.Sprintf("%.1f %s", f, unit)
		}
		f /= 1024
	}
	return ""
}
