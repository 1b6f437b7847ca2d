package kafka

import (
	"context"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/millrace-io/millrace/eventlog"
)

// Login is how a connection shows the cluster who we are, with SASL. Its functions are asked at every connection, so that what has been
// changed is taken over at the next one.
type Login struct {
	Mechanism string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER
	// Password gives the name and the password; of OAUTHBEARER it is not asked.
	Password func(ctx context.Context) (name, password string, err error)
	// Token gives a bearer token that is good now.
	Token func(ctx context.Context) (string, error)
}

// Mechanisms are those that Login takes.
var Mechanisms = []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"}

func (l *Login) mechanism() (sasl.Mechanism, error) {
	switch l.Mechanism {
	case "PLAIN":
		return plain.Plain(func(ctx context.Context) (plain.Auth, error) {
			name, password, err := l.Password(ctx)
			return plain.Auth{User: name, Pass: password}, err
		}), nil
	case "SCRAM-SHA-256":
		return scram.Sha256(l.scram), nil
	case "SCRAM-SHA-512":
		return scram.Sha512(l.scram), nil
	case "OAUTHBEARER":
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := l.Token(ctx)
			return oauth.Auth{Token: token}, err
		}), nil
	}
	return nil, fmt.Errorf("%w: SASL mechanism %q", eventlog.ErrInvalid, l.Mechanism)
}

func (l *Login) scram(ctx context.Context) (scram.Auth, error) {
	name, password, err := l.Password(ctx)
	return scram.Auth{User: name, Pass: password}, err
}

// reach are the client's options that say how it gets to the cluster.
func (o *Options) reach() (opts []kgo.Opt, err error) {
	if len(o.Seeds) > 0 {
		opts = append(opts, kgo.SeedBrokers(o.Seeds...))
	}
	if o.Dial != nil {
		opts = append(opts, kgo.Dialer(func(ctx context.Context, _, address string) (net.Conn, error) { return o.Dial(ctx, address) }))
	}
	if o.Login != nil {
		m, err := o.Login.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	return append(opts, o.Client...), nil
}
