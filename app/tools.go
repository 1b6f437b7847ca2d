package app

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/kafkatool"
)

// Tools opens the Kafka cluster of a configuration for the command line: that of log.kafka or, where the log is embedded, this node's own listener.
func Tools(ctx context.Context, c *config.Config) (*kafkatool.Cluster, error) {
	if len(c.Log.Kafka) > 0 {
		o, err := wayTo(ctx, &c.Log, nil)
		if err != nil {
			return nil, err
		}
		return kafkatool.Open(ctx, o)
	}
	if len(c.Listeners.Kafka) == 0 {
		return nil, errors.New("this configuration has no listener for Kafka clients (listeners.kafka): name brokers with --brokers")
	}
	l := &c.Listeners.Kafka[0]
	if l.TLS.Any() {
		return nil, errors.New("the listener of this configuration speaks TLS, and it does not say whom clients trust: name it with --brokers, and a --config whose log.tls says so")
	}
	host, port, err := net.SplitHostPort(string(l.Bind))
	if err != nil {
		return nil, fmt.Errorf("listeners.kafka: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return kafkatool.Open(ctx, kafka.Options{Seeds: []string{net.JoinHostPort(host, port)}})
}
