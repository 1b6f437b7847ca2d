package app

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
)

// set has the names of a list.
func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, name := range names {
		m[name] = true
	}
	return m
}

// CheckRoutes finds what is wrong with the routes together, with their fields, and with what their topics would have to take.
func CheckRoutes(c *config.Config) error {
	_, err := route.Compile(Routes(c))
	return errors.Join(err, checkFields(c), checkSizes(c))
}

// checkSizes refuses MQTT packets that the embedded log has no room for: they would be let in, and then refused one by one.
func checkSizes(c *config.Config) error {
	most := config.Size(engine.MaxAppend - route.Overhead)
	spilled := slices.ContainsFunc(c.Routes, func(r config.Route) bool { return r.Spill }) // what waits for a cluster is in one, too
	if len(c.Log.Kafka) > 0 && !spilled || c.Limits.PacketBytes <= most {
		return nil
	}
	return fmt.Errorf("%s: limits.packet_bytes: %d is more than a record of the embedded log can have beside its headers: write at most %dKiB",
		c.Where("limits.packet_bytes"), c.Limits.PacketBytes, most>>10)
}

// Routes translates the configuration's routes. Their words are checked already.
func Routes(c *config.Config) (specs []route.Spec) {
	for i, r := range c.Routes {
		codec, _ := eventlog.ParseCodec(r.Compression)
		retention := time.Duration(r.Retention) // Forever is negative in both
		specs = append(specs, route.Spec{
			MQTT: r.MQTT, Topic: r.Topic, Key: r.Key, Partitions: int32(r.Partitions), Retention: retention, Compression: codec,
			Compact: r.Compact, AckMemory: r.Ack == "memory", Both: r.Direction == "both", Spill: r.Spill, Discard: r.Store != nil && !*r.Store,
			Where: c.Where(fmt.Sprintf("routes[%d]", i)), Invalid: invalidPayload(&r.Schema),
		})
	}
	return specs
}

func (n *Node) unlogged(m *session.Message) { n.broker.Unlogged(m) }

func (n *Node) brokerOptions() broker.Options {
	l := &n.o.Config.Limits
	expiry := uint32(l.SessionExpiry.Seconds())
	return broker.Options{
		Store: n.store, Logger: n.o.Logger.With("part", "mqtt"), Now: n.o.Now, Authenticate: n.authenticate, Authorizer: n.authorizer(),
		SysInterval: time.Duration(n.o.Config.Sys.Interval), Version: n.o.Version,
		Processors: n.processors,
		Limits: broker.Limits{
			Connections: n.budget.mqtt, PacketBytes: int(l.PacketBytes), ReceiveMaximum: uint16(l.ReceiveMaximum),
			KeepAlive: uint16(l.KeepAlive.Seconds()), HalfOpenPerIP: l.HalfOpenPerIP,
			HalfOpen: l.HalfOpen, HandshakeTimeout: time.Duration(l.Handshake),
			InboundBytes: int(l.InboundBytes), InboundTotal: int64(l.AllInbound), OutboundBytes: int(l.OutboundBytes), OutboundTotal: int64(l.AllOutbound),
			Bans: l.Bans, Rates: rates(&l.Rates), ParkAfter: n.o.Test.ParkAfter,
		},
		Bans: n.bans.bans, OnBan: n.bans.told,
		Flapping: broker.Flapping{Losses: l.Flapping.Losses, Failures: l.Flapping.Failures, Exempt: set(l.Flapping.Exempt), Window: time.Duration(l.Flapping.Window), Ban: time.Duration(l.Flapping.Ban)},
		Session: session.Options{MaxExpiry: expiry, MaxInflight: l.Inflight, MaxSubs: l.Subscriptions, MaxAllSubs: l.AllSubs,
			MaxReplays: orNone(l.Replays), MaxAllReplays: orNone(l.AllReplays), MaxSessions: l.Sessions, MaxRetained: l.Retained, MaxRetainedBytes: int64(l.RetainedBytes), MaxWillBytes: int64(l.WillBytes)},
	}
}

// orNone is a limit of a core, where 0 is its default: 0 is none.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// rates translates those of the node, or of a listener.
func rates(r *config.Rates) broker.Rates {
	rate := func(r config.Rate) broker.Rate { return broker.Rate{PerSecond: r.PerSecond(), Burst: float64(r.Burst)} }
	return broker.Rates{Connects: rate(r.Connects), ConnectsPerIP: rate(r.ConnectsPerIP), Messages: rate(r.Messages), Bytes: rate(config.Rate(r.Bytes))}
}

// budget divides the descriptors that the system gives us.
type budget struct {
	limit uint64 // 0: the system does not say
	mqtt  int    // connections of devices
	kafka int    // connections of Kafka clients
	http  int    // connections of browsers and programs
	files int    // open files of the log's segments
}

// spare is kept for what is not counted: the WAL, listeners, the runtime.
const spare = 64

func divide(limit uint64, c *config.Config) budget {
	b := budget{limit: limit, mqtt: c.Limits.Connections, kafka: 4096, http: 256, files: 512}
	if limit == 0 {
		return b
	}
	have := int(min(limit, 1<<30))
	b.kafka, b.files, b.http = min(b.kafka, have/8), min(b.files, have/8), max(8, min(b.http, have/16))
	room := max(have-b.kafka-b.files-b.http-spare, 1)
	if b.mqtt == 0 || b.mqtt > room {
		b.mqtt = room
	}
	return b
}
