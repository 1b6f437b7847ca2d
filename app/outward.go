package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// outward asks a server that the configuration names, and no other: redirections are followed as they are allowed, the environment's proxies are
// not looked at, and no answer is read beyond a size.
type outward struct{ c *http.Client }

// newOutward returns one that trusts the authorities of a file, or the system's if there is none.
func newOutward(ca string, redirect func(*http.Request, []*http.Request) error) (*outward, error) {
	t := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 5 * time.Second, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
	}
	if ca != "" {
		var err error
		if t.TLSClientConfig.RootCAs, err = authorities(ca); err != nil {
			return nil, err
		}
	}
	return &outward{&http.Client{Transport: t, CheckRedirect: redirect}}, nil
}

// authorities reads whom a file trusts, in PEM.
func authorities(file string) (*x509.CertPool, error) {
	b, err := readSmall(file, maxTLSFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: there is no certificate in it", file)
	}
	return pool, nil
}

// keepUpTo has so many connections at most, and keeps them.
func (o *outward) keepUpTo(conns int) {
	t := o.c.Transport.(*http.Transport)
	t.MaxConnsPerHost, t.MaxIdleConnsPerHost = conns, conns
}

var errRedirect = errors.New("it redirects to another host, or too often")

// sameHost follows a few redirections that stay where they were sent.
func sameHost(r *http.Request, via []*http.Request) error {
	if first := via[0].URL; len(via) > 3 || r.URL.Host != first.Host || r.URL.Scheme != first.Scheme {
		return errRedirect
	}
	return nil
}

// noRedirect makes a redirection the answer, which is none.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// get fetches a document.
func (o *outward) get(ctx context.Context, url string, within time.Duration, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	return o.do(r, most)
}

// post sends a JSON document, and returns the one that is answered.
func (o *outward) post(ctx context.Context, url string, body []byte, most int64) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	return o.do(r, most)
}

func (o *outward) do(r *http.Request, most int64) ([]byte, error) {
	r.Header.Set("User-Agent", "millrace")
	resp, err := o.c.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s", r.URL.Host, resp.Status)
	case int64(len(b)) > most:
		return nil, fmt.Errorf("%s answers with more than %d bytes", r.URL.Host, most)
	}
	return b, nil
}
