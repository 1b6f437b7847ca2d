// Package schematool is what the command line does with a schema registry: list, show, register, compare, set levels and delete. It speaks
// Confluent's REST API, and so works with a node's registry and with any other.
//
// It starts no goroutines and keeps nothing. What a registry answers is read up to a bound and believed no further than that; nothing of it
// is executed or fetched.
package schematool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Errors that callers tell apart.
var (
	// ErrUnreachable: nothing answers there.
	ErrUnreachable = errors.New("no schema registry answers")
	// ErrForeign: something does, and is no registry.
	ErrForeign = errors.New("what answers is no schema registry")
	// ErrUnauthorized: the registry asks who this is, or does not believe it.
	ErrUnauthorized = errors.New("the registry does not let in")
)

// Error is what a registry says.
type Error struct {
	Status int // of HTTP
	Code   int // Confluent's
	Text   string
}

func (e *Error) Error() string { return e.Text }

// Confluent's codes that are told apart here.
const (
	codeSubjectNotFound = 40401
	codeVersionNotFound = 40402
	codeSubjectDeleted  = 40404 // softly, already
	codeVersionDeleted  = 40406
	codeNoLevel         = 40408 // the subject has no level of its own
)

func hasCode(err error, codes ...int) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code == c {
			return true
		}
	}
	return false
}

// Options say where a registry is and who asks. Token, if there is one, goes before name and password.
type Options struct {
	URL            string // http is taken where no scheme is named
	User, Password string
	Token          string       // a bearer token
	Client         *http.Client // default http.DefaultClient
}

// Registry is one that is asked. It is safe for concurrent use.
type Registry struct {
	o    Options
	base string
}

// New returns a registry that has not been asked yet.
func New(o Options) (*Registry, error) {
	if !strings.Contains(o.URL, "://") {
		o.URL = "http://" + o.URL
	}
	u, err := url.Parse(o.URL)
	var bad *url.Error
	switch {
	case errors.As(err, &bad): // without the text, which may have a password in it
		return nil, fmt.Errorf("address of the registry: %w", bad.Err)
	case err != nil:
		return nil, errors.New("address of the registry: it cannot be read")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("address of the registry %q: write http://HOST:PORT or https://HOST:PORT", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("address of the registry %q: name and password do not belong into it", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("address of the registry %q: nothing may follow the path", u.Redacted())
	}
	client := *cmp.Or(o.Client, http.DefaultClient)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // see refused
	o.Client = &client
	return &Registry{o: o, base: strings.TrimSuffix(u.String(), "/")}, nil
}

// contentType is that of the API.
const contentType = "application/vnd.schemaregistry.v1+json"

// maxAnswer is the largest that is read.
const maxAnswer = 64 << 20

// call sends a request and reads the answer into a value.
func (r *Registry) call(ctx context.Context, method, path string, q url.Values, body, into any) error {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		in = bytes.NewReader(b)
	}
	target := r.base + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, in)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Accept", contentType+", application/json")
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	switch {
	case r.o.Token != "":
		req.Header.Set("Authorization", "Bearer "+r.o.Token)
	case r.o.User != "":
		req.SetBasicAuth(r.o.User, r.o.Password)
	}
	res, err := r.o.Client.Do(req)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, r.base, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the registry's answer: %w", err)
	case len(b) > maxAnswer:
		return fmt.Errorf("the registry's answer has more than %d bytes", maxAnswer)
	case res.StatusCode >= 300:
		return r.refused(res, b)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%w at %s: its answer to %s %s is not that of one: %w", ErrForeign, r.base, method, path, err)
	}
	return nil
}

// refused is what the registry says, if it is a registry's word. Nobody is followed to another address: name and password would go there too, in the
// clear perhaps, and a POST would become a GET.
func (r *Registry) refused(res *http.Response, b []byte) error {
	if to := res.Header.Get("Location"); res.StatusCode < 400 && to != "" {
		return fmt.Errorf("%w at %s: it sends on to %q; give that address, if it is the registry's", ErrForeign, r.base, to)
	}
	var said struct {
		Code int    `json:"error_code"`
		Text string `json:"message"`
	}
	if err := json.Unmarshal(b, &said); err != nil || said.Code == 0 {
		if res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden {
			return fmt.Errorf("%w at %s: %s", ErrUnauthorized, r.base, res.Status)
		}
		return fmt.Errorf("%w at %s: %s", ErrForeign, r.base, res.Status)
	}
	e := &Error{res.StatusCode, said.Code, cmp.Or(said.Text, res.Status)}
	if res.StatusCode == http.StatusUnauthorized {
		return fmt.Errorf("%w at %s: %w", ErrUnauthorized, r.base, e)
	}
	return e
}

// subjectPath is where a subject is; its name may have slashes.
func subjectPath(subject string, rest ...string) string {
	return "/subjects/" + url.PathEscape(subject) + strings.Join(rest, "")
}

func flag(name string, set bool) url.Values {
	if !set {
		return nil
	}
	return url.Values{name: {"true"}}
}
