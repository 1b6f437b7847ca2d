package app

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/millrace-io/millrace/bridge"
	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// CheckBridges finds what is wrong with the filters of bridges.
func CheckBridges(c *config.Config) error {
	var ps config.Problems
	for i := range c.Bridges {
		b := &c.Bridges[i]
		for key, list := range map[string][]config.BridgeTopic{"out": b.Out, "in": b.In, "both": b.Both} {
			for j, t := range bridgeTopics(list) {
				if err := t.Check(); err != nil {
					path := fmt.Sprintf("bridges[%d].%s[%d]", i, key, j)
					ps = append(ps, config.Problem{Where: c.Where(path), Path: path, Text: err.Error(), Fix: "see docs/bridges.md"})
				}
			}
		}
	}
	if ps == nil {
		return nil
	}
	return ps
}

func bridgeTopics(list []config.BridgeTopic) (topics []bridge.Topic) {
	for _, t := range list {
		qos := 1
		if t.QoS != nil {
			qos = *t.QoS
		}
		topics = append(topics, bridge.Topic{Filter: t.Filter, Local: t.LocalPrefix, Remote: t.RemotePrefix, QoS: byte(qos), Retain: t.Retain == nil || *t.Retain})
	}
	return topics
}

// bridgeSpecs translates the configuration's bridges. Their words are checked already.
func (n *Node) bridgeSpecs() (specs []bridge.Spec, err error) {
	for i := range n.o.Config.Bridges {
		b := &n.o.Config.Bridges[i]
		r := &b.Remote
		s := bridge.Spec{Name: b.Name, Remote: r.URL, Version: packet.V5, ClientID: cmp.Or(r.ClientID, b.Name), Username: r.Username,
			CleanStart: r.CleanStart, KeepAlive: time.Duration(r.KeepAlive), Private: r.Private == nil || *r.Private, StateTopic: r.StateTopic,
			Out: bridgeTopics(b.All(true)), In: bridgeTopics(b.All(false)), MaxAge: max(0, time.Duration(b.Buffer.MaxAge)), MaxBytes: int64(b.Buffer.MaxBytes),
			Window: b.Window, MaxPacket: int(n.o.Config.Limits.PacketBytes), Retry: b.OnRefusal == "retry", RetryMin: time.Duration(r.RetryMin), RetryMax: time.Duration(r.RetryMax)}
		if r.Version == "3.1.1" {
			s.Version = packet.V311
		}
		address, secure, err := r.Host()
		if err != nil {
			return nil, fmt.Errorf("bridges[%d].remote.url: %w", i, err)
		}
		s.Dial = dialRemote(address, nil)
		if secure {
			s.Dial = dialRemote(address, &r.TLS)
			if _, err := remoteTLS(&r.TLS, address); err != nil {
				return nil, fmt.Errorf("bridges[%d].remote.tls: %w", i, err)
			}
		}
		if r.Password != "" {
			s.Password = func() ([]byte, error) { return secret(r.Password) }
			if _, err := s.Password(); err != nil {
				return nil, fmt.Errorf("bridges[%d].remote.password: %w", i, err)
			}
		}
		specs = append(specs, s)
	}
	return specs, nil
}

const (
	dialTimeout = 10 * time.Second
	maxSecret   = 64 << 10
)

// secret reads a secret: the first line of a file, or a variable.
func secret(s config.Secret) ([]byte, error) {
	if s.File() == "" {
		v, err := s.Variable()
		return []byte(v), err
	}
	text, err := readSmall(s.File(), maxSecret)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return bytes.TrimRight(line, "\r"), nil
}

// dialRemote dials a bridge's remote. Its TLS files are read each time, so that new ones are taken over.
func dialRemote(address string, t *config.BridgeTLS) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil || t == nil {
			return conn, err
		}
		c, err := remoteTLS(t, address)
		if err != nil {
			conn.Close()
			return nil, err
		}
		secure := tls.Client(conn, c)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("TLS with %s: %w", address, err)
		}
		return secure, nil
	}
}

func remoteTLS(t *config.BridgeTLS, address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cmp.Or(t.ServerName, host), InsecureSkipVerify: t.Insecure}
	if t.CA != "" {
		if c.RootCAs, err = authorities(string(t.CA)); err != nil {
			return nil, err
		}
	}
	if t.Cert != "" {
		cert, err := readSmall(string(t.Cert), maxTLSFile)
		if err != nil {
			return nil, err
		}
		key, err := readSmall(string(t.Key), maxTLSFile)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", t.Cert, t.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// startBridges finds out how far the bridges are, before clients are let in, and lets them connect.
func (n *Node) startBridges(ctx context.Context) error {
	specs, err := n.bridgeSpecs()
	if err != nil {
		return err
	}
	o := bridge.Options{Log: n.log, Store: n.store, Bridges: specs, Milliseconds: n.now, Now: n.o.Now, Admits: n.broker.AdmitsRetained,
		Logger: n.o.Logger.With("part", "bridge")}
	if n.o.tune.bridge != nil {
		n.o.tune.bridge(&o)
	}
	set, err := bridge.Open(ctx, o)
	if err != nil {
		return err
	}
	if err := set.Start(); err != nil {
		return errors.Join(err, set.Close(ctx))
	}
	n.bridges = set
	return nil
}

func (n *Node) stopBridges(ctx context.Context) error { return n.bridges.Close(ctx) }

// errNotRunning answers who asks for what only a running node has.
var errNotRunning = errors.New("the node is not running")

// Bridges tells how each bridge is.
func (n *Node) Bridges(ctx context.Context) ([]bridge.Status, error) {
	if n.phase.Load() != nil {
		return nil, errNotRunning
	}
	return n.bridges.Status(ctx)
}

// consoleBridges is the same in the API's words.
func (n *Node) consoleBridges(ctx context.Context) (list []console.Bridge, err error) {
	all, err := n.bridges.Status(ctx)
	for i := range all {
		b := &all[i]
		list = append(list, console.Bridge{Name: b.Name, Remote: b.Remote, State: b.State, Since: millis(b.Since), Connects: b.Connects,
			LastError: b.LastError, LastErrorAt: when(b.LastErrAt), BehindRecords: b.Behind, LagSeconds: b.Lag, InFlight: b.InFlight,
			Sent: b.Sent, Resent: b.Resent, Acked: b.Acked, Received: b.Received, Stored: b.Stored, Dropped: b.Dropped})
	}
	return list, err
}

func (n *Node) collectBridges(s *metrics.Samples) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	list, err := n.bridges.Status(ctx)
	if err != nil {
		return
	}
	for i := range list {
		b := &list[i]
		connected := 0.0
		if b.State == bridge.Connected {
			connected = 1
		}
		s.Gauge("bridge_connected", "1 while a bridge is connected to its remote.", connected, "bridge", b.Name)
		s.Counter("bridge_connects", "Connections that a bridge has made.", float64(b.Connects), "bridge", b.Name)
		s.Gauge("bridge_behind_records", "Log records after what a bridge's remote has taken, whether or not they are for it.", float64(b.Behind), "bridge", b.Name)
		s.Gauge("bridge_lag_seconds", "Age of the oldest message that waits for a bridge's remote.", b.Lag, "bridge", b.Name)
		s.Gauge("bridge_in_flight", "Messages on their way to a bridge's remote.", float64(b.InFlight), "bridge", b.Name)
		s.Counter("bridge_messages", "Messages that went over a bridge.", float64(b.Sent), "bridge", b.Name, "stage", "sent")
		s.Counter("bridge_messages", "Messages that went over a bridge.", float64(b.Resent), "bridge", b.Name, "stage", "resent")
		s.Counter("bridge_messages", "Messages that went over a bridge.", float64(b.Acked), "bridge", b.Name, "stage", "acked")
		s.Counter("bridge_messages", "Messages that went over a bridge.", float64(b.Received), "bridge", b.Name, "stage", "received")
		s.Counter("bridge_messages", "Messages that went over a bridge.", float64(b.Stored), "bridge", b.Name, "stage", "stored")
		for reason, count := range b.Dropped {
			s.Counter("bridge_dropped", "Messages that did not go over a bridge.", float64(count), "bridge", b.Name, "reason", reason)
		}
	}
}
