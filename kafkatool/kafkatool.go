// Package kafkatool is what the command line does with a Kafka cluster, be it a node of Millrace or anything else that speaks the protocol: topics,
// groups and how far they lag, reading and writing. It knows the protocol, not flags or terminals; what it returns is for tables and JSON alike.
//
// Nothing is on disk, and nothing is kept: a Cluster asks whenever it is asked. Reading has one goroutine per broker that leads a partition,
// and at most one answer of each in memory; writing keeps what the brokers have not confirmed, up to a bound. Both end before their call does.
//
// It never makes a topic that it was not told to make, and never commits an offset but for Commit.
package kafkatool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog/kafka"
)

// Errors that callers branch on.
var (
	// ErrUnreachable says that no broker answers.
	ErrUnreachable = errors.New("no Kafka broker answers")
	// ErrNoTopic says that the cluster does not know a topic, or does not show it to us.
	ErrNoTopic = errors.New("there is no such topic")
	// ErrNoGroup says that the cluster does not know a group.
	ErrNoGroup = errors.New("there is no such group")
	// ErrActive says that a group has members, who would overwrite what is committed for them.
	ErrActive = errors.New("the group is active")
	// ErrAsked says that what was asked for makes no sense; nothing was done.
	ErrAsked = errors.New("it cannot be done as asked")
)

// Cluster is a way into a Kafka cluster.
type Cluster struct {
	o   kafka.Options
	cl  *kgo.Client
	adm *kadm.Client

	patience time.Duration // with a reader's partition that cannot be read
}

const (
	patience   = 30 * time.Second // for what can be tried again
	firstDials = 5 * time.Second
	freshness  = 10 * time.Millisecond // of what is known of topics
)

// Open finds out whether any of the brokers answers, and keeps connections to them.
func Open(ctx context.Context, o kafka.Options) (*Cluster, error) {
	if o.Dial == nil {
		var d net.Dialer
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	// The client would try again and in the end only say that its time was up.
	if err := answers(ctx, o); err != nil {
		return nil, err
	}
	cl, err := kafka.NewClient(o, kgo.RetryTimeout(patience), kgo.RequestRetries(8), kgo.MetadataMinAge(freshness))
	if err != nil {
		return nil, err
	}
	if err := cl.Ping(ctx); err != nil {
		cl.Close()
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, strings.Join(o.Seeds, ","), hungUp(err))
	}
	return &Cluster{o: o, cl: cl, adm: kadm.NewClient(cl), patience: patience}, nil
}

// answers dials the brokers until one takes the connection.
func answers(ctx context.Context, o kafka.Options) error {
	ctx, cancel := context.WithTimeout(ctx, firstDials)
	defer cancel()
	var failed []error
	for _, b := range o.Seeds {
		conn, err := o.Dial(ctx, b)
		if err == nil {
			return conn.Close()
		}
		failed = append(failed, err)
	}
	return fmt.Errorf("%w at %s: %w", ErrUnreachable, strings.Join(o.Seeds, ","), errors.Join(failed...))
}

// hungUp says what it may mean that a connection is taken and then closed.
func hungUp(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("the connection is closed at once: either it is no Kafka, or it wants TLS, or it does not accept the login (log.tls and log.sasl of --config say how to get in): %w", err)
	}
	return tidy(err)
}

// Close ends the connections.
func (c *Cluster) Close() { c.cl.Close() }

// tidy finds in an error of the client what a person can use.
func tidy(err error) error {
	var shards *kadm.ShardErrors
	if errors.As(err, &shards) && len(shards.Errs) > 0 {
		err = shards.Errs[0].Err
	}
	var auth *kadm.AuthError
	if errors.As(err, &auth) {
		err = auth.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("it took longer than --timeout allows: %w", err)
	case errors.Is(err, kgo.ErrRecordTimeout):
		return errors.New("the cluster did not confirm it in time")
	}
	return err
}

// said is an error of a broker with the words it added. They come from outside: what would move a terminal's cursor is left out.
func said(err error, words string) error {
	if err == nil {
		return nil
	}
	words = Clean(words)
	var k *kerr.Error
	if errors.As(err, &k) && words != "" {
		return brokerError{k, k.Message + ": " + words}
	}
	return tidy(err)
}

type brokerError struct {
	code *kerr.Error
	text string
}

func (b brokerError) Error() string { return b.text }
func (b brokerError) Unwrap() error { return b.code }

// Clean is a text of somebody else's without what a terminal would obey.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return '·'
		}
		return r
	}, s)
}

// millis is a time as Kafka counts it.
func millis(t time.Time) int64 { return t.UnixMilli() }
