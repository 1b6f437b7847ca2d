package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
	"unicode/utf8"
)

// HookOptions are what a hook is made of. Only Post is required.
type HookOptions struct {
	// Post sends a question and returns the answer's body. It heeds its context, asks nobody but who is configured, and reads no more than is good.
	Post        func(ctx context.Context, question []byte) ([]byte, error)
	Timeout     time.Duration    // of a question, waiting for a turn not counted; default 5 s
	Concurrency int              // questions at once; default 32
	Waiting     int              // for a turn; beyond it there is ErrBusy; default 1,024
	Allowed     time.Duration    // for how long a yes is remembered; 0: it is not
	Denied      time.Duration    // for how long a no is
	Now         func() time.Time // default time.Now
}

// ByHook is the link that asks a service of the user's. Answers are remembered for a short time, by a keyed hash of all that was asked.
type ByHook struct {
	o       HookOptions
	asking  chan struct{}
	waiting chan struct{}
	allowed *memo[Grant]
	denied  *memo[error] // ErrRefused or ErrNotMine; apart, so that who is refused does not push out who is let in
}

const (
	maxAllowed = 100_000
	maxDenied  = 10_000
)

// NewHook returns the link.
func NewHook(o HookOptions) *ByHook {
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Concurrency == 0 {
		o.Concurrency = 32
	}
	if o.Waiting == 0 {
		o.Waiting = 1024
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &ByHook{o: o, asking: make(chan struct{}, o.Concurrency), waiting: make(chan struct{}, o.Waiting),
		allowed: newMemo[Grant](o.Now, o.Allowed, maxAllowed), denied: newMemo[error](o.Now, o.Denied, maxDenied)}
}

// question is what the hook is asked.
type question struct {
	ClientID string `json:"client_id"`
	Username string `json:"username"`
	Password string `json:"password"`
	Peer     string `json:"peer"`     // address and port
	Listener string `json:"listener"` // its path in the configuration
	TLSName  string `json:"tls_name"` // in the certificate that was shown
}

// verdict is what it answers.
type verdict struct {
	Result    string `json:"result"`    // allow, deny or ignore
	Principal string `json:"principal"` // the account; else the user name, the certificate's name, the client id
	ExpireAt  *int64 `json:"expire_at"` // seconds since 1970
}

// Judge implements Link.
func (l *ByHook) Judge(ctx context.Context, c *Claim) (Grant, error) {
	for _, s := range []string{c.ClientID, c.Username, c.Password} {
		if !utf8.ValidString(s) { // JSON would make another text of it
			return Grant{}, refusal("what was shown is not UTF-8, and cannot be asked about")
		}
	}
	host, _, err := net.SplitHostPort(c.Peer)
	if err != nil {
		host = c.Peer
	}
	shown := []string{c.ClientID, c.Username, c.Password, host, c.Listener, c.Certificate.Name}
	yes, no := l.allowed.hash(shown...), l.denied.hash(shown...)
	if g, ok := l.allowed.get(yes); ok {
		return g, nil
	}
	if err, ok := l.denied.get(no); ok {
		return Grant{}, err
	}
	g, err := l.ask(ctx, c)
	switch {
	case err == nil:
		l.allowed.put(yes, g, g.Until)
	case errors.Is(err, ErrRefused), errors.Is(err, ErrNotMine):
		l.denied.put(no, err, time.Time{})
	}
	return g, err
}

func (l *ByHook) ask(ctx context.Context, c *Claim) (Grant, error) {
	select {
	case l.waiting <- struct{}{}:
		defer func() { <-l.waiting }()
	default:
		return Grant{}, ErrBusy
	}
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return Grant{}, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.Timeout)
	defer cancel()
	q, err := json.Marshal(question{ClientID: c.ClientID, Username: c.Username, Password: c.Password, Peer: c.Peer, Listener: c.Listener, TLSName: c.Certificate.Name})
	if err != nil {
		return Grant{}, fmt.Errorf("ask the hook: %w", err)
	}
	answer, err := l.o.Post(ctx, q)
	if err != nil {
		return Grant{}, fmt.Errorf("ask the hook: %w", err)
	}
	return l.read(answer, c)
}

// read makes a judgement of an answer. One that is not understood is an error.
func (l *ByHook) read(answer []byte, c *Claim) (g Grant, err error) {
	var v verdict
	d := json.NewDecoder(bytes.NewReader(answer))
	if err := d.Decode(&v); err != nil {
		return g, fmt.Errorf("the hook's answer is not JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return g, errors.New("the hook's answer is more than one JSON value")
	}
	switch v.Result {
	case "deny":
		return g, refusal("the hook says deny")
	case "ignore":
		return g, ErrNotMine
	case "allow":
	default:
		return g, fmt.Errorf("the hook's answer has the result %.40q, which is not one of allow, deny, ignore", v.Result)
	}
	if v.ExpireAt != nil {
		if *v.ExpireAt < 1 || *v.ExpireAt > 1<<40 {
			return g, errors.New("the hook's answer has an expire_at that is not a time in seconds")
		}
		g.Until = time.Unix(*v.ExpireAt, 0)
		if !l.o.Now().Before(g.Until) {
			return Grant{}, refusal("the hook says allow, until a time that has passed")
		}
	}
	for _, name := range []string{v.Principal, c.Username, c.Certificate.Name, c.ClientID} {
		if g.Name = name; name != "" {
			break
		}
	}
	return g, nil
}
