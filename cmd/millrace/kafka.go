package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
	"github.com/millrace-io/millrace/kafkatool"
)

// kafkaFlags say which Kafka cluster a command asks, be it a node of Millrace or not.
type kafkaFlags struct {
	env     env
	brokers string
	file    string
	timeout time.Duration
	output  string
}

func (k *kafkaFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&k.brokers, "brokers", "b", "", "host:port of some brokers, separated by commas; kafkas://… with TLS (default: those of --config, or this machine's 127.0.0.1:9092)")
	f.StringVar(&k.file, "config", "", "configuration file of a node: log.kafka, log.tls and log.sasl say how to get in")
	f.DurationVar(&k.timeout, "timeout", 30*time.Second, "give up after this time without an answer")
}

func (k *kafkaFlags) outputFlag(c *cobra.Command) { outputFlag(c, &k.output) }

// open finds the cluster.
func (k *kafkaFlags) open(ctx context.Context) (*kafkatool.Cluster, error) {
	if k.output != "" && k.output != "text" && k.output != "json" {
		return nil, fmt.Errorf("--output %q: text or json", k.output)
	}
	if k.timeout <= 0 {
		return nil, fmt.Errorf("--timeout %v: more than nothing", k.timeout)
	}
	s := settings{file: k.file}
	if k.brokers != "" {
		s.log, s.logFlag = k.brokers, "--brokers"
		if !strings.Contains(s.log, "://") {
			s.log = "kafka://" + s.log
		}
	}
	c, err := s.load(k.env)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	cluster, err := app.Tools(ctx, c)
	if errors.Is(err, kafkatool.ErrUnreachable) {
		return nil, failure{fmt.Errorf("%w; name another with --brokers", err)}
	}
	return cluster, err
}

// ask opens the cluster, asks within the time, and prints the answer.
func (k *kafkaFlags) ask(ctx context.Context, do func(context.Context, *kafkatool.Cluster) (any, func(io.Writer), error)) error {
	c, err := k.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	answer, text, err := do(ctx, c)
	if answer == nil && err != nil {
		return asked(err)
	}
	var out bytes.Buffer
	if p := print(&out, k.output, answer, func() { text(&out) }); p != nil {
		return p
	}
	if _, w := k.env.Out.Write(out.Bytes()); w != nil {
		return failure{fmt.Errorf("write the result: %w", w)}
	}
	return asked(err)
}

// asked tells an error of asking, which ends with 2, from one of doing.
func asked(err error) error {
	if err == nil || errors.Is(err, kafkatool.ErrAsked) {
		return err
	}
	return failure{err}
}

// pairs reads name=value.
func pairs(flag string, list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if _, twice := m[name]; !ok || name == "" || twice {
			return nil, fmt.Errorf("--%s %q: write NAME=VALUE, each name once", flag, s)
		}
		m[name] = value
	}
	return m, nil
}

// number is a number that may not be known.
func number(n *int64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatInt(*n, 10)
}

// seconds is a lag in time.
func seconds(s *float64) string {
	if s == nil {
		return "?"
	}
	if *s == 0 {
		return "0"
	}
	return span(time.Duration(*s * float64(time.Second)))
}

// value is a text that may not be known.
func value(s *string, otherwise string) string {
	if s == nil {
		return otherwise
	}
	return plain(*s)
}
