package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Check finds what a value alone does not show; nil: nothing is wrong. Whether routes can work together is for package route
// to say.
func (c *Config) Check() Problems {
	ck := checker{c: c}
	ck.listeners()
	ck.auth()
	ck.log()
	for i := range c.Routes {
		ck.route(i)
	}
	ck.policy()
	ck.bridges()
	ck.limits()
	if d := time.Duration(ck.c.Sys.Interval); d != 0 && (d < time.Second || d > time.Hour) {
		ck.problem("sys.interval", "neither 0s nor between 1s and 1h", "write 10s, or 0s for no $SYS topics")
	}
	ck.oneOf("logging.level", c.Logging.Level, "debug", "info", "warn", "error")
	ck.oneOf("logging.format", c.Logging.Format, "text", "json")
	return ck.problems
}

type checker struct {
	c        *Config
	problems Problems
}

func (ck *checker) problem(path, text, fix string) {
	ck.problems = append(ck.problems, Problem{Where: ck.c.Where(path), Path: path, Text: text, Fix: fix})
}

func (ck *checker) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		ck.problem(path, fmt.Sprintf("%q is not one of %s", clip(value), strings.Join(allowed, ", ")), "")
	}
}

func (ck *checker) between(path string, value, least, most int64) {
	if value < least || value > most {
		ck.problem(path, fmt.Sprintf("%d is not between %d and %d", value, least, most), "")
	}
}

func (ck *checker) log() {
	l := &ck.c.Log
	if len(l.Kafka) == 0 {
		if l.Data == "" {
			ck.problem("log.data", "missing", "write the folder for the data")
		}
		if l.Replication != 0 {
			ck.problem("log.replication", "the embedded log is on one machine", "remove it, or name a cluster in log.kafka")
		}
	} else {
		if ck.c.Where("listeners.kafka") != "default" && len(ck.c.Listeners.Kafka) > 0 {
			ck.problem("listeners.kafka", "with log.kafka, Kafka clients connect to that cluster", "remove listeners.kafka")
		}
	}
	for i, h := range l.Kafka {
		var a Address
		path := fmt.Sprintf("log.kafka[%d]", i)
		if err := a.UnmarshalText([]byte(h)); err != nil {
			ck.problem(path, err.Error(), "")
		} else if host, _, _ := net.SplitHostPort(h); host == "" {
			ck.problem(path, fmt.Sprintf("%q names no host", clip(h)), "write host:9092")
		}
	}
	ck.cluster()
	ck.spill()
	if l.MaxBytes.Percent == 0 && l.MaxBytes.Bytes < 256<<20 {
		ck.problem("log.max_bytes", "less than 256MiB", "give the log room, or write a percentage")
	}
	ck.retention("log.retention", l.Retention)
	ck.retention("log.scrub", l.Scrub)
	if d := l.CommitDelay; d < 0 || d > Duration(100*time.Millisecond) {
		ck.problem("log.commit_delay", "not between 0 and 100ms", "write a time span such as 1ms, or 0")
	}
	if d := l.Linger; d < 0 || d > Duration(time.Second) {
		ck.problem("log.linger", "not between 0 and 1s", "write a time span such as 10ms, or 0")
	}
	ck.between("log.partitions", int64(l.Partitions), 1, 10_000)
	ck.between("log.session_partitions", int64(l.SessionPartitions), 0, 1000)
	ck.between("log.retained_partitions", int64(l.RetainedPartitions), 0, 1000)
	ck.groups(&l.Groups)
	ck.transactions(&l.Transactions)
	ck.between("log.replication", int64(l.Replication), 0, 100)
}

func (ck *checker) retention(path string, d Duration) {
	if d >= 0 && d < Duration(1e9) && (d != 0 || path == "log.retention") {
		ck.problem(path, "less than a second", "write a time span such as 7d, or forever")
	}
}

// shown checks a text for the console's map.
func (ck *checker) shown(path, text string) {
	if len(text) > 200 {
		ck.problem(path, "longer than 200 bytes", "shorten it: it is shown on the map")
	}
}

func (ck *checker) route(i int) {
	r := &ck.c.Routes[i]
	path := fmt.Sprintf("routes[%d]", i)
	if r.MQTT == "" {
		ck.problem(path+".mqtt", "missing", "write an MQTT filter, such as fleet/{vehicle}/telemetry")
	}
	ck.between(path+".partitions", int64(r.Partitions), 0, 10_000)
	ck.retention(path+".retention", r.Retention)
	if r.Compression != "" {
		ck.oneOf(path+".compression", r.Compression, "none", "gzip", "snappy", "lz4", "zstd")
	}
	if r.Ack != "" {
		ck.oneOf(path+".ack", r.Ack, "disk", "memory")
	}
	if r.Spill && len(ck.c.Log.Kafka) == 0 {
		ck.problem(path+".spill", "the embedded log is on the local disk already", "remove it, or name a cluster in log.kafka")
	}
	if r.Direction != "" {
		ck.oneOf(path+".direction", r.Direction, "in", "both")
	}
	if r.Kind != "" {
		ck.oneOf(path+".kind", r.Kind, "recorded", "simulated")
	}
	ck.shown(path+".label", r.Label)
	ck.shown(path+".attribution", r.Attribution)
	ck.schema(path, r)
	if r.Store != nil && !*r.Store && r.Fields != (Fields{}) {
		ck.problem(path+".fields", "store: false keeps no records, so nothing is looked for in them", "remove fields")
	}
}

func (ck *checker) limits() {
	l := &ck.c.Limits
	ck.between("limits.connections", int64(l.Connections), 0, 10_000_000)
	ck.between("limits.packet_bytes", int64(l.PacketBytes), 1024, 256<<20)
	ck.between("limits.receive_maximum", int64(l.ReceiveMaximum), 1, 65_535)
	ck.between("limits.sessions", int64(l.Sessions), 1, 100_000_000)
	ck.between("limits.subscriptions", int64(l.Subscriptions), 1, 10_000_000)
	ck.between("limits.total_subscriptions", int64(l.AllSubs), 1, 1_000_000_000)
	ck.between("limits.replays", int64(l.Replays), 0, 22)
	ck.between("limits.total_replays", int64(l.AllReplays), 0, 1_000_000)
	ck.between("limits.retained", int64(l.Retained), 1, 1_000_000_000)
	ck.between("limits.retained_bytes", int64(l.RetainedBytes), 1024, 1<<50)
	ck.between("limits.inflight", int64(l.Inflight), 1, 65_535)
	ck.between("limits.half_open_per_ip", int64(l.HalfOpenPerIP), 1, 1_000_000)
	ck.between("limits.half_open", int64(l.HalfOpen), 1, 10_000_000)
	ck.between("limits.handshakes", int64(l.Handshakes), 0, 10_000)
	ck.handshakeTimeout("limits.handshake_timeout", l.Handshake)
	ck.keepAlive("limits.keep_alive", l.KeepAlive)
	if l.Memory != 0 {
		ck.between("limits.memory", int64(l.Memory), 64<<20, 1<<50)
	}
	ck.budget("limits.inbound_bytes", l.InboundBytes, 1)
	ck.budget("limits.total_inbound_bytes", l.AllInbound, l.InboundBytes)
	ck.budget("limits.outbound_bytes", l.OutboundBytes, 1)
	ck.budget("limits.total_outbound_bytes", l.AllOutbound, l.OutboundBytes)
	ck.between("limits.will_bytes", int64(l.WillBytes), 16<<10, 1<<50)
	ck.between("limits.bans", int64(l.Bans), 1, 1_000_000)
	ck.flapping()
	ck.drain()
	if l.SessionExpiry < 0 || l.SessionExpiry.Seconds() > 1<<32-2 {
		ck.problem("limits.session_expiry", "longer than MQTT can say", "write at most 49710d")
	}
}

// budget checks a budget of bytes; 0 is allowed where least is 0.
func (ck *checker) budget(path string, z, least Size) {
	if z == 0 && least == 0 {
		return
	}
	ck.between(path, int64(z), int64(max(least, 16<<10)), 1<<50)
}

func (ck *checker) flapping() {
	f := &ck.c.Limits.Flapping
	ck.between("limits.flapping.losses", int64(f.Losses), 0, 1_000_000)
	ck.between("limits.flapping.failures", int64(f.Failures), 0, 1_000_000)
	if f.Losses == 1 || f.Failures == 1 {
		ck.problem("limits.flapping", "one loss is no flapping", "write 2 or more, or 0 for never")
	}
	for i, name := range f.Exempt {
		if name == "" || slices.Contains(f.Exempt[:i], name) {
			ck.problem(fmt.Sprintf("limits.flapping.exempt[%d]", i), "empty, or named twice", "name each account once")
		}
	}
	ck.aSecond("limits.flapping.window", f.Window)
	ck.aSecond("limits.flapping.ban", f.Ban)
}

func (ck *checker) aSecond(path string, d Duration) {
	if d.Seconds() < 1 {
		ck.problem(path, "less than a second", "write a time span such as 1m")
	}
}

func (ck *checker) drain() {
	d := &ck.c.Drain
	ck.between("drain.rate", int64(d.Rate), 0, 10_000_000)
	if host, port, _ := net.SplitHostPort(string(d.Reference)); d.Reference != "" && (host == "" || port == "0") {
		ck.problem("drain.reference", fmt.Sprintf("%q is not an address that a client can connect to", d.Reference), "write host:port")
	}
	if d.Timeout.Seconds() < 1 || d.Timeout.Seconds() > 3600 {
		ck.problem("drain.timeout", "not between 1s and 1h", "write a time span such as 25s")
	}
	if d.Wait < 0 || d.Wait > d.Timeout {
		ck.problem("drain.wait", "longer than drain.timeout", "write a time span such as 10s, and a longer timeout")
	}
}

// Seconds is the span in seconds.
func (d Duration) Seconds() float64 { return float64(d) / 1e9 }
