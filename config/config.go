// Package config is the one schema of everything that can be set: defaults, then a file, then MILLRACE_… variables, then flags.
// Nothing else in the program reads the environment.
//
// A configuration is checked as a whole: Load returns all that is wrong at once, each with where it was written and what to
// write instead. An unknown key is an error, with the nearest known one. There is no secret in a configuration, and there will be
// none: a field that needs one says where to find it.
//
// The package starts no goroutines and writes nothing; it reads the files it is told to.
package config

import (
	"os"
	"strings"
	"time"

	"github.com/goccy/go-yaml/token"
)

// Config is the whole configuration. The field tags are its keys; docs/configuration.md describes them.
type Config struct {
	Listeners Listeners `yaml:"listeners"`
	Auth      Auth      `yaml:"auth"`
	Log       Log       `yaml:"log"`
	Routes    []Route   `yaml:"routes"`
	Policy    Policy    `yaml:"policy"`
	Bridges   []Bridge  `yaml:"bridges"`
	Limits    Limits    `yaml:"limits"`
	Sys       Sys       `yaml:"sys"`
	Drain     Drain     `yaml:"drain"`
	Logging   Logging   `yaml:"logging"`
	// InsecureAllowAnonymous lets listeners without authentication be reached from other machines.
	InsecureAllowAnonymous bool `yaml:"insecure_allow_anonymous"`

	origin origins
}

// Log is where messages are kept: embedded, in Data, or in the Kafka cluster that Kafka names.
type Log struct {
	Data               string       `yaml:"data"`
	MaxBytes           Share        `yaml:"max_bytes"` // of all topics together
	Retention          Duration     `yaml:"retention"` // of topics that do not say; forever: no limit
	Scrub              Duration     `yaml:"scrub"`     // how long reading all segments to verify them takes; forever: they are not read
	Partitions         int          `yaml:"partitions"`
	CommitDelay        Duration     `yaml:"commit_delay"`       // between the beginnings of commits of few appends; 0: none
	SessionPartitions  int          `yaml:"session_partitions"` // 0: as they are, 4 in a new log
	RetainedPartitions int          `yaml:"retained_partitions"`
	Kafka              []string     `yaml:"kafka"`       // host:port of some brokers
	Replication        int          `yaml:"replication"` // of topics made on the cluster; 0: 3, or as many as there are brokers
	Linger             Duration     `yaml:"linger"`      // between the beginnings of requests of few messages to a broker; 0: none
	Groups             Groups       `yaml:"groups"`
	Transactions       Transactions `yaml:"transactions"`

	TLS   ClusterTLS  `yaml:"tls"` // of connections to the cluster
	SASL  ClusterSASL `yaml:"sasl"`
	Spill Spill       `yaml:"spill"` // of what waits in data for the cluster, on routes with spill
}

// Route maps a part of the MQTT topic tree to a log topic. Zero fields take the defaults that package route names.
type Route struct {
	MQTT        string   `yaml:"mqtt"`
	Topic       string   `yaml:"topic"`
	Key         string   `yaml:"key"`
	Partitions  int      `yaml:"partitions"`
	Retention   Duration `yaml:"retention"`
	Compression string   `yaml:"compression"`
	Compact     bool     `yaml:"compact"`
	Ack         string   `yaml:"ack"`       // disk | memory
	Spill       bool     `yaml:"spill"`     // wait on the local disk for the cluster
	Direction   string   `yaml:"direction"` // in | both
	Store       *bool    `yaml:"store"`
	Kind        string   `yaml:"kind"` // recorded | simulated
	Label       string   `yaml:"label"`
	Attribution string   `yaml:"attribution"`
	Fields      Fields   `yaml:"fields"`

	Schema RouteSchema `yaml:"schema"`
}

// Fields says where in a route's messages the things are that the console and verify look for. Package fleet knows the syntax.
type Fields struct {
	Device    string `yaml:"device"`
	Sequence  string `yaml:"sequence"`
	Time      string `yaml:"time"`
	Latitude  string `yaml:"lat"`
	Longitude string `yaml:"lon"`
	Speed     string `yaml:"speed"`
	Heading   string `yaml:"heading"`
}

// Limits bound what clients can cost. 0 means the default of the part that enforces it, which `config show` names.
type Limits struct {
	Connections    int      `yaml:"connections"`     // MQTT, in all; 0: what the descriptor limit allows
	PacketBytes    Size     `yaml:"packet_bytes"`    // largest MQTT packet
	ReceiveMaximum int      `yaml:"receive_maximum"` // QoS 1 and 2 publishes of one client under way at once
	KeepAlive      Duration `yaml:"keep_alive"`      // longest a client may ask for; 0: as it asks
	SessionExpiry  Duration `yaml:"session_expiry"`  // longest a session outlives its connection
	Sessions       int      `yaml:"sessions"`        // connected or not
	Subscriptions  int      `yaml:"subscriptions"`   // per session
	AllSubs        int      `yaml:"total_subscriptions"`
	Replays        int      `yaml:"replays"` // of history, per session at once; 0: none
	AllReplays     int      `yaml:"total_replays"`
	Retained       int      `yaml:"retained"`       // topics with a retained message
	RetainedBytes  Size     `yaml:"retained_bytes"` // of their names and payloads
	Inflight       int      `yaml:"inflight"`       // deliveries to one client not yet acknowledged
	HalfOpenPerIP  int      `yaml:"half_open_per_ip"`
	HalfOpen       int      `yaml:"half_open"`  // of one listener
	Handshakes     int      `yaml:"handshakes"` // that compute at once; 0: half of the processors
	Handshake      Duration `yaml:"handshake_timeout"`
	Memory         Size     `yaml:"memory"`               // of the process, which its collector keeps to; 0: not bounded as a whole
	InboundBytes   Size     `yaml:"inbound_bytes"`        // of one client's publishes that the log has not answered
	AllInbound     Size     `yaml:"total_inbound_bytes"`  // of all clients
	OutboundBytes  Size     `yaml:"outbound_bytes"`       // waiting for one subscriber
	AllOutbound    Size     `yaml:"total_outbound_bytes"` // of all subscribers
	WillBytes      Size     `yaml:"will_bytes"`           // of all wills
	Bans           int      `yaml:"bans"`                 // in the list
	Rates          Rates    `yaml:"rates"`
	Flapping       Flapping `yaml:"flapping"`
}

// Rates hold clients back by not reading them. The zero Rate is none at the node, and the node's at a listener.
type Rates struct {
	Connects      Rate  `yaml:"connects"`        // of one listener; more wait
	ConnectsPerIP Rate  `yaml:"connects_per_ip"` // of one address; more are closed
	Messages      Rate  `yaml:"messages"`        // PUBLISHes of one client
	Bytes         Flood `yaml:"bytes"`           // of one client
}

// Flapping bans clients that lose their connections again and again.
type Flapping struct {
	Losses   int      `yaml:"losses"`   // of one client in the window; 0: never
	Failures int      `yaml:"failures"` // of one address in the window; 0: never
	Exempt   []string `yaml:"exempt"`   // accounts that it is not for
	Window   Duration `yaml:"window"`
	Ban      Duration `yaml:"ban"`
}

// Drain is how clients are sent away when the node stops.
type Drain struct {
	Reference Address  `yaml:"reference"` // the server that clients are told to use
	Rate      int      `yaml:"rate"`      // clients per second; 0: all at once
	Wait      Duration `yaml:"wait"`      // between not being ready any more and the first client
	Timeout   Duration `yaml:"timeout"`   // for all of the stop
}

// Sys is about the topics under $SYS, by which the broker tells its numbers as Mosquitto does.
type Sys struct {
	Interval Duration `yaml:"interval"` // between two rounds of them; 0: there are none
}

// Logging is how the program talks about itself.
type Logging struct {
	Level  string `yaml:"level"`  // debug | info | warn | error
	Format string `yaml:"format"` // text | json
}

// Default is the configuration of a node that was told nothing: loopback only, durable, in ./millrace-data.
func Default() *Config {
	return &Config{
		Listeners: Listeners{
			MQTT:  []MQTT{{Bind: "127.0.0.1:1883"}},
			Kafka: []Kafka{{Bind: "127.0.0.1:9092"}},
			HTTP:  HTTP{Bind: "127.0.0.1:8080"},
		},
		Auth: Auth{JWT: JWT{NameClaim: "sub", Refresh: Duration(5 * time.Minute)},
			Hook: Hook{Timeout: Duration(5 * time.Second), Concurrency: 32, Cache: Duration(time.Minute), CacheDenied: Duration(5 * time.Second)}},
		Log: Log{Data: "./millrace-data", MaxBytes: Share{Percent: 80}, Retention: Duration(7 * 24 * time.Hour), Scrub: Duration(7 * 24 * time.Hour), Partitions: 8, CommitDelay: Duration(time.Millisecond), Linger: Duration(10 * time.Millisecond), Groups: defaultGroups(), Transactions: defaultTransactions(),
			Spill: Spill{MaxBytes: 1 << 30, WhenFull: "reject"}},
		Limits: Limits{PacketBytes: 1_000_000, ReceiveMaximum: 1024, SessionExpiry: Duration(7 * 24 * time.Hour),
			Sessions: 1_000_000, Subscriptions: 10_000, AllSubs: 2_000_000, Replays: 8, AllReplays: 256, Retained: 1_000_000, RetainedBytes: 1 << 30,
			Inflight: 4096, HalfOpenPerIP: 4096, HalfOpen: 16_384, Handshake: Duration(10 * time.Second),
			InboundBytes: 4 << 20, AllInbound: 128 << 20, OutboundBytes: 2 << 20, AllOutbound: 256 << 20, WillBytes: 256 << 20, Bans: 10_000,
			Flapping: Flapping{Losses: 15, Window: Duration(time.Minute), Ban: Duration(5 * time.Minute)}},
		Sys:     Sys{Interval: Duration(10 * time.Second)},
		Drain:   Drain{Rate: 500, Timeout: Duration(25 * time.Second)},
		Logging: Logging{Level: "info", Format: "text"},
	}
}

// Source says where a configuration comes from beside its defaults.
type Source struct {
	File    string            // path of a YAML file; empty: what MILLRACE_CONFIG names, if anything
	Environ []string          // "NAME=value", as os.Environ returns; only MILLRACE_… is looked at
	Flags   map[string]string // by path ("log.data"): a YAML value
	Names   map[string]string // what to call a flag in messages, by path
}

// Load reads, merges and checks. The error, if any, is Problems.
func Load(s Source) (*Config, error) {
	c := Default()
	var problems Problems
	c.origin = origins{}
	for _, e := range s.Environ {
		if file, ok := strings.CutPrefix(e, fileVariable+"="); ok && s.File == "" {
			s.File = file
		}
	}
	if s.File != "" {
		text, err := os.ReadFile(s.File)
		if err != nil {
			return nil, Problems{{Where: s.File, Text: "cannot be read: " + err.Error()}}
		}
		problems = append(problems, c.merge("", string(text), s.File)...)
	}
	problems = append(problems, c.mergeEnviron(s.Environ)...)
	for _, path := range sortedKeys(s.Flags) {
		problems = append(problems, c.merge(path, s.Flags[path], "flag "+s.Names[path])...)
	}
	if len(problems) == 0 {
		problems = c.Check()
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// Parse is Load of a file's bytes, under a name for messages.
func Parse(text, name string) (*Config, error) {
	c := Default()
	c.origin = origins{}
	problems := c.merge("", text, name)
	if len(problems) == 0 {
		problems = c.Check()
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// Where says where a path's value was written: a file and line, a variable, a flag, or "default".
func (c *Config) Where(path string) string { return c.origin.of(path) }

func position(name string, t *token.Token) string {
	if t == nil || t.Position == nil || strings.HasPrefix(name, "flag ") || strings.HasPrefix(name, "variable ") {
		return name
	}
	return name + ":" + itoa(t.Position.Line)
}
