package app

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/kafka"
)

// openCluster opens the log on the cluster that the configuration names.
func (n *Node) openCluster(ctx context.Context) error {
	c := &n.o.Config.Log
	o, err := wayTo(ctx, c, n.o.Now)
	if err != nil {
		return err
	}
	now := n.o.Now
	if n.o.tune.clock != nil {
		now = n.o.tune.clock
	}
	o.Logger, o.Now = n.o.Logger.With("part", "log"), now
	if n.o.tune.kafka != nil {
		n.o.tune.kafka(&o)
	}
	if n.cluster, err = kafka.Open(ctx, o); err != nil {
		return fmt.Errorf("open the log on the Kafka cluster at %v (log.kafka): %w", c.Kafka, err)
	}
	n.log, n.now = eventlog.New(n.cluster), newClock(now).now
	return nil
}

// wayTo is how the cluster of a configuration is reached.
func wayTo(ctx context.Context, c *config.Log, now func() time.Time) (o kafka.Options, err error) {
	o = kafka.Options{Seeds: c.Kafka, Replication: int16(c.Replication), Linger: time.Duration(c.Linger)}
	if o.Dial, err = dialCluster(&c.TLS, c.Kafka[0]); err != nil {
		return o, fmt.Errorf("log.tls: %w", err)
	}
	if o.Login, err = loginOf(&c.SASL, now); err != nil {
		return o, fmt.Errorf("log.sasl: %w", err)
	}
	if err := trusts(ctx, c.Kafka, o.Dial); err != nil {
		return o, fmt.Errorf("log.tls: %w", err)
	}
	return o, nil
}

// dialCluster opens connections to brokers. Files that are wrong now are an error; later they are read at each connection.
func dialCluster(t *config.ClusterTLS, broker string) (func(context.Context, string) (net.Conn, error), error) {
	var files *config.BridgeTLS
	if *t != (config.ClusterTLS{}) {
		f := config.BridgeTLS(*t)
		if f.CA == config.SystemCA {
			f.CA = ""
		}
		if _, err := remoteTLS(&f, broker); err != nil {
			return nil, err
		}
		files = &f
	}
	return func(ctx context.Context, address string) (net.Conn, error) { return dialRemote(address, files)(ctx) }, nil
}

// trusts finds out at once what no repetition mends: that a broker's certificate is not believed, or that it does not speak TLS. A broker that does
// not answer is another matter.
func trusts(ctx context.Context, brokers []string, dial func(context.Context, string) (net.Conn, error)) error {
	for _, b := range brokers {
		conn, err := dial(ctx, b)
		if err == nil {
			return conn.Close()
		}
		var distrust *tls.CertificateVerificationError
		var plain tls.RecordHeaderError
		if errors.As(err, &distrust) || errors.As(err, &plain) {
			return err
		}
	}
	return nil
}

// loginOf is how brokers are told who we are; nil: they are not. A secret that cannot be read now is an error; later it is read at each login.
func loginOf(s *config.ClusterSASL, now func() time.Time) (*kafka.Login, error) {
	if *s == (config.ClusterSASL{}) {
		return nil, nil
	}
	l := &kafka.Login{Mechanism: strings.ToUpper(s.Mechanism)}
	read := func(key string, from config.Secret) (func() (string, error), error) {
		f := func() (string, error) {
			b, err := secret(from)
			if err == nil && len(b) == 0 {
				err = errors.New("it is empty")
			}
			if err != nil {
				return "", fmt.Errorf("%s: %w", key, err)
			}
			return string(b), nil
		}
		_, err := f()
		return f, err
	}
	switch {
	case s.TokenURL != "":
		key, err := read("client_secret", s.ClientSecret)
		if err != nil {
			return nil, err
		}
		out, err := newOutward(string(s.CA), noRedirect)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		if now == nil {
			now = time.Now
		}
		l.Token = (&tokens{s: s, secret: key, out: out, now: now}).token
	case s.Token != "":
		token, err := read("token", s.Token)
		if err != nil {
			return nil, err
		}
		l.Token = func(context.Context) (string, error) { return token() }
	default:
		password, err := read("password", s.Password)
		if err != nil {
			return nil, err
		}
		l.Password = func(context.Context) (string, string, error) {
			p, err := password()
			return s.Username, p, err
		}
	}
	return l, nil
}

// tokens fetches bearer tokens with the client credentials grant (RFC 6749, 4.4), and keeps one for most of its life.
type tokens struct {
	s      *config.ClusterSASL
	secret func() (string, error)
	out    *outward
	now    func() time.Time

	mu    sync.Mutex
	have  string
	until time.Time
}

const (
	tokenTimeout = 10 * time.Second
	maxToken     = 64 << 10
)

func (t *tokens) token(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.have != "" && t.now().Before(t.until) {
		return t.have, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	key, err := t.secret()
	if err != nil {
		return "", fmt.Errorf("log.sasl: %w", err)
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if t.s.Scope != "" {
		form.Set("scope", t.s.Scope)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, string(t.s.TokenURL), strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("log.sasl.token_url: %w", err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.SetBasicAuth(url.QueryEscape(t.s.ClientID), url.QueryEscape(key)) // RFC 6749, 2.3.1
	b, err := t.out.do(r, maxToken)
	if err != nil {
		return "", fmt.Errorf("log.sasl.token_url: %w", err)
	}
	var answer struct {
		Token string  `json:"access_token"`
		Type  string  `json:"token_type"`
		Lasts float64 `json:"expires_in"` // seconds
	}
	if err := json.Unmarshal(b, &answer); err != nil || answer.Token == "" || !strings.EqualFold(answer.Type, "bearer") {
		return "", errors.New("log.sasl.token_url: the answer has no access_token of the type Bearer")
	}
	t.have, t.until = answer.Token, t.now().Add(time.Duration(min(answer.Lasts, 86_400)*0.8*float64(time.Second)))
	return t.have, nil
}
