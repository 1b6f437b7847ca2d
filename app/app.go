// Package app builds a node from its configuration: it opens the log, puts the routes, the MQTT broker, the Kafka server and
// the HTTP server on it, and stops all of them again. The order is written once, in Node.stages.
//
// A Node owns the goroutines that accept connections, one that watches the log's health and one that feeds the fleet's view; everything
// else belongs to the parts. What is on disk belongs to the log. The package is the only one that picks a log driver, and it will never decide
// anything about a message.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/bridge"
	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/eventlog/kafka"
	"github.com/millrace-io/millrace/internal/admission"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/kafkawire"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/spill"
)

// Options say how a node is built.
type Options struct {
	Config  *config.Config
	Version string
	Logger  *slog.Logger // required
	Test    Test
	Streets []byte // GeoJSON that the console draws below its map; nil: none

	// Where they are not set, the system's: files (in the folder log.data), clock, listeners.
	Files  vfs.FS
	Now    func() time.Time
	Listen func(network, address string) (net.Listener, error)

	tune tuning
}

// tuning alters what has no setting: this package's tests make everything small, so that everything happens often.
type tuning struct {
	engine func(*engine.Options)
	broker func(*broker.Options)
	bridge func(*bridge.Options)
	kafka  func(*kafka.Options)
	clock  func() time.Time // of records on a cluster
	spill  func(*spill.Options)
}

// Test makes a node behave as on other machines, or in worse moments. It is for measurements only.
type Test struct {
	DatasyncDelay   time.Duration // every fdatasync takes this much longer
	CheckpointEvery time.Duration // the log makes a checkpoint at least this often
	ParkAfter       time.Duration // connections are idle after so long; see broker.Limits
}

// Node is one running program: broker, log and servers. Start, then Stop.
type Node struct {
	o      Options
	specs  []route.Spec
	budget budget
	// processors are those that handshakes may have, of devices and of Kafka clients together.
	processors admission.Processors

	doors   []door
	metrics *metrics.Registry
	http    *console.Server
	access  access
	schemas schemas
	rights  rights
	auth    auth
	log     *eventlog.Log
	engine  *engine.Engine // nil on a Kafka cluster
	cluster *kafka.Driver  // nil on the embedded log
	heard   heard
	now     func() int64
	meter   *meter.Meter
	bans    *banBook

	bansFollow *banFollower // nil: there are no other nodes
	store      *route.Store
	fleet      *follower
	strip      strip
	broker     *broker.Broker
	kafka      *kafkawire.Server // nil on a Kafka cluster
	bridges    *bridge.Set

	legs      []leg // whose time is measured; complete when the node runs
	verifying atomic.Bool
	phase     atomic.Pointer[string] // what the node is doing, while it is not running
	running   sync.WaitGroup         // accept loops and the watch
	started   []stage
	quit      chan struct{}
	failed    chan error
}

// stage is one step of starting, and its way back.
type stage struct {
	name  string
	start func(context.Context) error
	stop  func(context.Context) error // nil: nothing to undo
}

// stages is the order in which a node starts; it stops in the reverse order. Doors are taken first, so that a taken port is
// known before anything is written, but nobody is let in before the log is recovered.
func (n *Node) stages() []stage {
	return []stage{
		{"check the configuration", n.check, nil},
		{"listen", n.listen, n.unlisten},
		{"read who may look on", n.openAccess, nil},
		{"read the policy", n.openPolicy, nil},
		{"read who gets in", n.openAuth, nil},
		{"serve health and metrics", n.serveHTTP, n.stopHTTP},
		{"open the log", n.openLog, n.closeLog},
		{"open the schema registry", n.openRegistry, n.closeRegistry},
		{"open the meter", n.openMeter, n.closeMeter},
		{"open the routes", n.openRoutes, n.closeRoutes},
		{"read who is banned", n.openBans, n.closeBans},
		{"follow the fleet", n.startFleet, n.stopFleet},
		{"start the MQTT broker", n.startBroker, n.stopBroker},
		{"follow who is banned", n.followBans, n.unfollowBans},
		{"count messages", n.startMeter, nil},
		{"start the Kafka server", n.startKafka, n.stopKafka},
		{"start the bridges", n.startBridges, n.stopBridges},
		{"show it", n.show, n.hide},
		{"let clients in", n.letIn, nil},
		{"watch", n.watch, n.unwatch},
		{"follow certificates", n.followTLS, nil},
		{"follow the policy", n.followPolicy, nil},
		{"follow passwords and keys", n.followAuth, nil},
		{"send clients away", nothing, n.drain},
	}
}

// Start builds and starts a node. It returns when clients are let in.
func Start(ctx context.Context, o Options) (*Node, error) {
	if o.Listen == nil {
		o.Listen = listenSparing
	}
	n := &Node{o: o, metrics: metrics.New(o.Version), quit: make(chan struct{}), failed: make(chan error, 1)}
	for _, s := range n.stages() {
		n.phase.Store(&s.name)
		if err := s.start(ctx); err != nil {
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return nil, errors.Join(err, n.Stop(stop))
		}
		n.started = append(n.started, s)
	}
	n.phase.Store(nil)
	n.announce()
	return n, nil
}

// Stop ends the node: clients are sent away, what is acknowledged is durable already, and the log is closed. When ctx ends,
// what would wait is cut short.
func (n *Node) Stop(ctx context.Context) (err error) {
	stopping := "stop"
	n.phase.Store(&stopping)
	for i := len(n.started) - 1; i >= 0; i-- {
		if s := n.started[i]; s.stop != nil {
			if e := s.stop(ctx); e != nil {
				err = errors.Join(err, fmt.Errorf("undo %q: %w", s.name, e))
			}
		}
	}
	n.started = nil
	n.running.Wait()
	return err
}

// Failed gives the error that a running node cannot go on after. The node still has to be stopped.
func (n *Node) Failed() <-chan error { return n.failed }

// fail reports the first fatal error.
func (n *Node) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

func (n *Node) check(context.Context) error {
	if ps := n.o.Config.Check(); len(ps) > 0 {
		return ps
	}
	n.specs = Routes(n.o.Config)
	if err := CheckRoutes(n.o.Config); err != nil {
		return err
	}
	if err := CheckBridges(n.o.Config); err != nil {
		return err
	}
	n.budget = divide(raiseFileLimit(), n.o.Config)
	n.processors = admission.NewProcessors(n.o.Config.Limits.Handshakes)
	return nil
}

func (n *Node) serveHTTP(context.Context) error {
	n.metrics.Collect(n.collect)
	var backup func(context.Context, int64, io.Writer) error
	if len(n.o.Config.Log.Kafka) == 0 {
		backup = n.backup
	}
	n.http = console.New(console.Options{Metrics: n.metrics.Handler(), Status: n.consoleStatus, Streets: n.o.Streets,
		Passwords: n.access.passwords, TLS: n.tlsOfHTTP(), MaxConnections: n.budget.http, Verify: n.verifyFor, Backup: backup,
		Hosts: n.o.Config.Listeners.HTTP.Hosts, Logger: n.o.Logger.With("part", "http")})
	for _, d := range n.doorsOf(doorHTTP) {
		n.accept(func() error { return n.http.Serve(d.listener) })
	}
	return nil
}

func (n *Node) stopHTTP(ctx context.Context) error { return n.http.Close(ctx) }

func (n *Node) openRoutes(ctx context.Context) (err error) {
	c := n.o.Config
	n.store, err = route.Open(ctx, route.Options{
		Log: n.log, Routes: n.specs, Now: n.now, Meter: n.meter, Unlogged: n.unlogged, Logger: n.o.Logger.With("part", "route"),
		SessionPartitions: int32(c.Log.SessionPartitions), RetainedPartitions: int32(c.Log.RetainedPartitions),
		MaxPacket: int(c.Limits.PacketBytes), Spill: n.spillOpener(),
	})
	return err
}

func (n *Node) closeRoutes(context.Context) error {
	n.store.Close()
	return nil
}

func (n *Node) startBroker(ctx context.Context) error {
	o := n.brokerOptions()
	if n.o.tune.broker != nil {
		n.o.tune.broker(&o)
	}
	n.broker = broker.New(o)
	n.measureBroker()
	return n.broker.Start(ctx)
}

func (n *Node) stopBroker(ctx context.Context) error { return n.broker.Close(ctx) }

func (n *Node) startKafka(context.Context) (err error) {
	if n.engine == nil {
		return nil // Kafka clients talk to the cluster
	}
	groups, txns := &n.o.Config.Log.Groups, &n.o.Config.Log.Transactions
	n.kafka, err = kafkawire.New(kafkawire.Options{Engine: n.engine, Logger: n.o.Logger.With("part", "kafka"), Now: n.o.Now,
		AutoCreate: true, Fixed: n.topicFixed, Carries: n.carries, MaxConnections: n.budget.kafka, Processors: n.processors, LogDir: logDir(n.o.Config.Log.Data),
		RebalanceDelay: time.Duration(groups.RebalanceDelay), OffsetRetention: time.Duration(groups.OffsetsRetention),
		ConsumerSession: time.Duration(groups.Session), ConsumerHeartbeat: time.Duration(groups.Heartbeat),
		MaxTransactionTimeout: time.Duration(txns.MaxTimeout), TransactionalIDExpiry: time.Duration(txns.IDExpiry),
		Rights: n.kafkaRights(), Verifier: n.verifier})
	return err
}

// logDir is the log's folder as tools are told it.
func logDir(data string) string {
	if abs, err := filepath.Abs(data); err == nil {
		return abs
	}
	return data
}

func (n *Node) stopKafka(context.Context) error {
	if n.kafka == nil {
		return nil
	}
	return n.kafka.Close()
}

// letIn begins to accept clients.
func (n *Node) letIn(context.Context) error {
	n.letDevicesIn()
	n.letRegistryIn()
	for _, d := range n.doorsOf(doorKafka) {
		n.accept(func() error {
			return ended(n.kafka.ServeWith(d.listener, n.kafkaListener(&d)), kafkawire.ErrServerClosed)
		})
	}
	return nil
}

// accept runs an accept loop. A loop that ends before the node is stopped is fatal: a node that lets nobody in is no node.
func (n *Node) accept(serve func() error) {
	n.running.Go(func() {
		if err := serve(); err != nil && !n.stopping() {
			n.fail(err)
		}
	})
}

// ended makes the expected end of an accept loop no error.
func ended(err, expected error) error {
	if errors.Is(err, expected) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (n *Node) stopping() bool { p := n.phase.Load(); return p != nil && *p == "stop" }

// watch looks after the log's health.
func (n *Node) watch(context.Context) error {
	n.running.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		full := false
		for {
			select {
			case now := <-tick.C:
				n.tickLatency(now)
				n.tickStrip(now)
				n.reloadAccess()
				n.tickCluster()
			case <-n.quit:
				return
			}
			err := n.health()
			if n.stopping() { // a log that is closed has not failed
				return
			}
			switch {
			case errors.Is(err, eventlog.ErrNoSpace):
				if !full {
					n.o.Logger.Error("the disk is nearly full: messages are refused until there is space, reads go on", "err", err)
				}
				full = true
			case err != nil:
				n.fail(fmt.Errorf("the log has failed, and only a restart recovers it: %w", err))
				return
			case full:
				full = false
				n.o.Logger.Info("there is space again: messages are accepted")
			}
		}
	})
	return nil
}

func (n *Node) unwatch(context.Context) error {
	close(n.quit)
	return nil
}

// health is the log's; a cluster's is its own business.
func (n *Node) health() error {
	if n.engine == nil {
		return nil
	}
	return n.engine.Health()
}
