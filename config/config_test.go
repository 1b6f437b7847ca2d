package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const example = `
listeners:
  mqtt:  [{bind: 127.0.0.1:1883}, {bind: ":8883"}]
  kafka: [{bind: 127.0.0.1:9092, advertise: log.example:9092}]
  http:  {bind: 127.0.0.1:8080}
log:    {data: ./millrace-data, max_bytes: 80%, retention: 7d}
routes:
  - {mqtt: "fleet/{vehicle}/telemetry", topic: telemetry, key: "{vehicle}", retention: 30d, compression: zstd}
  - {mqtt: "fleet/{vehicle}/cmd", topic: commands, key: "{vehicle}", direction: both}
  - mqtt: live/#
    store: false
limits:
  packet_bytes: 256KiB
  keep_alive: 20m
insecure_allow_anonymous: true
`

func TestExample(t *testing.T) {
	c, err := Parse(example, "millrace.yaml")
	if err != nil {
		t.Fatal(err)
	}
	off := false
	want := Default()
	want.Listeners.MQTT = []MQTT{{Bind: "127.0.0.1:1883"}, {Bind: ":8883"}}
	want.Listeners.Kafka = []Kafka{{Bind: "127.0.0.1:9092", Advertise: "log.example:9092"}}
	want.Routes = []Route{
		{MQTT: "fleet/{vehicle}/telemetry", Topic: "telemetry", Key: "{vehicle}", Retention: Duration(30 * 24 * time.Hour), Compression: "zstd"},
		{MQTT: "fleet/{vehicle}/cmd", Topic: "commands", Key: "{vehicle}", Direction: "both"},
		{MQTT: "live/#", Store: &off},
	}
	want.InsecureAllowAnonymous = true
	want.Limits.PacketBytes, want.Limits.KeepAlive = 256<<10, Duration(20*time.Minute)
	want.origin = c.origin
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	for path, where := range map[string]string{
		"log.data": "millrace.yaml:6", "log.partitions": "default", "routes[1].topic": "millrace.yaml:9", "routes[1].key": "millrace.yaml:9",
		"routes[1].partitions": "millrace.yaml:9", "limits.keep_alive": "millrace.yaml:14", "limits.inflight": "default", "routes[2].store": "millrace.yaml:11",
	} {
		if got := c.Where(path); got != where {
			t.Errorf("%s comes from %s, want %s", path, got, where)
		}
	}
}

func TestLayers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(file, []byte("log: {data: /from/file, retention: 1d, partitions: 3}\nroutes: [{mqtt: a, topic: a}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Source{
		File: file,
		Environ: []string{"HOME=/root", "MILLRACE_LOG_RETENTION=2d", "MILLRACE_LOG_DATA=/from/env", "MILLRACE_CONFIG=/not/read/since/there/is/a/flag", "MILLRACE_TIER=soak",
			"MILLRACE_ROUTES=[{mqtt: b/#, topic: b}, {mqtt: c, topic: c}]", "MILLRACE_LISTENERS_HTTP_BIND=:0", "MILLRACE_INSECURE_ALLOW_ANONYMOUS=true"},
		Flags: map[string]string{"log.data": "/from/flag", "listeners.mqtt": "[{bind: ':1'}]"},
		Names: map[string]string{"log.data": "--data", "listeners.mqtt": "--mqtt-listen"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Data != "/from/flag" || c.Log.Retention != Duration(48*time.Hour) || c.Log.Partitions != 3 || len(c.Routes) != 2 ||
		c.Routes[0].MQTT != "b/#" || c.Listeners.HTTP.Bind != ":0" || c.Listeners.MQTT[0].Bind != ":1" || !c.InsecureAllowAnonymous {
		t.Errorf("%+v", c)
	}
	for path, where := range map[string]string{"log.data": "flag --data", "log.retention": "variable MILLRACE_LOG_RETENTION",
		"log.partitions": file + ":1", "routes[1].topic": "variable MILLRACE_ROUTES", "listeners.mqtt[0].bind": "flag --mqtt-listen"} {
		if got := c.Where(path); got != where {
			t.Errorf("%s comes from %s, want %s", path, got, where)
		}
	}
}

func TestEnvironmentTypos(t *testing.T) {
	_, err := Load(Source{Environ: []string{"MILLRACE_LOG_DAAT=x", "MILLRACE_PASSWORD=secret", "MILLRACE_LOG_PARTITIONS=many"}})
	for _, want := range []string{"MILLRACE_LOG_DAAT: unknown variable; did you mean MILLRACE_LOG_DATA?", "MILLRACE_PASSWORD: unknown", `variable MILLRACE_LOG_PARTITIONS: log.partitions: "many"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a value is repeated: %v", err)
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"lisseners: {}", []string{"f:1: lisseners: unknown key; did you mean listeners?"}},
		{"log:\n  data: x\n  retenton: 7d\n", []string{"f:3: log.retenton: unknown key; did you mean retention?"}},
		{"log:\n  xyzzy: 1\n", []string{"f:2: log.xyzzy: unknown key; known here: data, max_bytes,"}},
		{"routes:\n  - {mqtt: a, topc: b}\n", []string{"f:2: routes[0].topc: unknown key; did you mean topic?"}},
		{"log: {retention: 7 days, max_bytes: lots, partitions: -1}\nlogging: {level: loud}\ninsecure_allow_anonymous: yes\n", []string{
			`f:1: log.retention: "7 days" is not a time span`, `log.max_bytes: "lots" is not a size`, `log.partitions: "-1" is not a whole number`,
			`f:3: insecure_allow_anonymous: "yes" is not true or false`}},
		{"logging: {level: loud, format: xml}\nlog: {retention: 1ms, max_bytes: 1MiB}", []string{"f:1: logging.level: \"loud\" is not one of debug, info, warn, error",
			"logging.format", "f:2: log.retention: less than a second", "f:2: log.max_bytes: less than 256MiB"}},
		{"listeners: {mqtt: [{bind: 1883}], http: {bind: nowhere}}", []string{`"1883" is a port without a host; write 127.0.0.1:1883, or ":1883"`, `"nowhere" is not host:port`}},
		{"listeners: {mqtt: [{bind: 'h:99999'}, {}]}", []string{"99999"}},
		{"listeners: {mqtt: [{bind: '127.0.0.1:8080'}, {}], kafka: [{bind: ':9092', advertise: ':9092'}]}", []string{"listeners.http.bind: 127.0.0.1:8080 is taken by listeners.mqtt[0].bind",
			"listeners.mqtt[1].bind: missing", "listeners.kafka[0].advertise"}},
		{"log: {data: x, kafka: [h1:9092, ':9092', h]}\nlisteners: {kafka: [{bind: ':1'}]}", []string{"listeners.kafka: with log.kafka", "log.kafka[1]", "log.kafka[2]"}},
		{"listeners:\n  mqtt: [{bind: ':1883'}]\n  kafka: [{bind: '10.0.0.1:9092'}]\n  http: {bind: '[::]:80'}", []string{"f:2: listeners.mqtt[0].bind: :1883 is reached from other machines",
			"bind 127.0.0.1:1883", "--insecure-allow-anonymous", "f:3: listeners.kafka[0].bind", "f:4: listeners.http.bind", "millrace passwd"}},
		{"listeners:\n  mqtt: [{bind: ':1883'}]\n  http: {bind: ':80', password_file: p}", []string{"f:2: listeners.mqtt[0].bind"}},
		{"listeners:\n  http:\n    tls: {cert: c}", []string{"f:3: listeners.http.tls.cert: a certificate needs its key"}},
		{"listeners: {http: {tls: {key: k}}}", []string{"listeners.http.tls.key: a key needs its certificate"}},
		{"log: {data: '', replication: 3}", []string{"log.data: missing", "log.replication"}},
		{"routes: [{topic: x}, {mqtt: a, topic: a, ack: never, direction: out, compression: rar, partitions: 20000}]", []string{
			"routes[0].mqtt: missing", `routes[1].ack: "never" is not one of disk, memory`, "routes[1].direction", "routes[1].compression", "routes[1].partitions"}},
		{"routes: [{mqtt: a, topic: a, label: \"" + strings.Repeat("x", 201) + "\", attribution: \"" + strings.Repeat("©", 101) + "\"}]", []string{
			"routes[0].label: longer than 200 bytes", "routes[0].attribution: longer"}},
		{"limits: {packet_bytes: 1, receive_maximum: 0, keep_alive: 1d, session_expiry: forever, inflight: 70000, subscriptions: 0, half_open_per_ip: 0, sessions: 0, total_subscriptions: 0, retained: 0, retained_bytes: 1}", []string{
			"limits.packet_bytes", "limits.receive_maximum", "limits.keep_alive", "limits.session_expiry", "limits.inflight", "limits.subscriptions", "limits.half_open_per_ip",
			"limits.sessions", "limits.total_subscriptions", "limits.retained:", "limits.retained_bytes"}},
		{"log: [1]", []string{"f:1: log: a mapping belongs here"}},
		{"routes: {mqtt: a}", []string{"f:1: routes: a list belongs here"}},
		{"log: {data: {x: y}}", []string{"log.data: a single value belongs here"}},
		{"log: &a {data: x}\nlimits: *a", []string{"f:1: log: anchors", "f:2: limits: anchors"}},
		{"log: {data: x", []string{"f:1"}},
		{"a: 1\n---\nb: 1", []string{"more than one YAML document"}},
		{"log: {data: x}\nlog: {data: y}", []string{"f:2: mapping key \"log\" already defined"}},
		{"x: " + strings.Repeat("[", 1000), []string{"brackets are open"}},
		{"x: " + strings.Repeat("a", 10000), []string{"a line has"}},
		{strings.Repeat("#\n", 100_000), []string{"the document has"}},
	} {
		_, err := Parse(c.text, "f")
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%.60q: %v\n does not say %q", c.text, err, want)
			}
		}
	}
	if _, err := Load(Source{Environ: []string{"MILLRACE_CONFIG=/nonexistent/y"}}); err == nil || !strings.Contains(err.Error(), "/nonexistent/y") {
		t.Errorf("%v", err)
	}
	if _, err := Load(Source{File: "/nonexistent/x"}); err == nil || !strings.Contains(err.Error(), "/nonexistent/x") {
		t.Errorf("%v", err)
	}
}

// What show prints means the same when it is read.
func TestShowReadsBack(t *testing.T) {
	c, err := Parse(example, "millrace.yaml")
	if err != nil {
		t.Fatal(err)
	}
	readBack(t, c)
	if s := string(c.YAML()); !strings.Contains(s, "  retention: 7d  # millrace.yaml:6\n") || !strings.Contains(s, "  inflight: 4096  # default\n") ||
		!strings.Contains(s, `  - mqtt: "fleet/{vehicle}/cmd"`) && !strings.Contains(s, "  - mqtt: fleet/{vehicle}/cmd") {
		t.Errorf("%s", s)
	}
	if es := c.Effective(); len(es) < 20 || es[0] != (Entry{Path: "listeners.mqtt[0].bind", Value: "127.0.0.1:1883", Origin: "millrace.yaml:3"}) {
		t.Errorf("%+v", es)
	}
}

func readBack(t *testing.T, c *Config) {
	t.Helper()
	shown := c.YAML()
	again, err := Parse(string(shown), "shown")
	if err != nil {
		t.Fatalf("%v\n%s", err, shown)
	}
	a, b := c.Effective(), again.Effective()
	for i := range a {
		a[i].Origin, b[i].Origin = "", ""
	}
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("shown:\n%s\nread  %+v\nwrote %+v", shown, b, a)
	}
}

func TestValues(t *testing.T) {
	for s, want := range map[string]time.Duration{"90s": 90 * time.Second, "1d12h": 36 * time.Hour, "2w": 14 * 24 * time.Hour, "0": 0, "250ms": 250 * time.Millisecond,
		"1h30m": 90 * time.Minute, "forever": -1} {
		var d Duration
		if err := d.UnmarshalText([]byte(s)); err != nil || time.Duration(d) != want {
			t.Errorf("%q = %v, %v", s, time.Duration(d), err)
		}
	}
	for _, s := range []string{"", "7", "d", "7 d", "-1d", "1y", "99999999999999999999d", "300000000w", "1.5h", "1d-1h"} {
		var d Duration
		if err := d.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q = %v", s, time.Duration(d))
		}
	}
	for s, want := range map[string]Size{"0": 0, "1_000": 1000, "64KiB": 65536, "10 MB": 1e7, "1TiB": 1 << 40, "5B": 5} {
		var z Size
		if err := z.UnmarshalText([]byte(s)); err != nil || z != want {
			t.Errorf("%q = %v, %v", s, int64(z), err)
		}
	}
	for _, s := range []string{"", "KB", "1.5GB", "1kb", "9999999999TiB", "-1", "1 2"} {
		var z Size
		if err := z.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q = %v", s, int64(z))
		}
	}
	for s, loop := range map[string]bool{"127.0.0.1:1": true, "localhost:1": true, "[::1]:1": true, ":1": false, "0.0.0.0:1": false, "10.0.0.1:1": false, "[::]:1": false, "": false} {
		if got := Address(s).Loopback(); got != loop {
			t.Errorf("%q loopback: %v", s, got)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(example)
	for _, s := range []string{"", "log: {data: x}", "routes:\n- mqtt: \"a\\nb\"\n  topic: t\n", "a: &b [*b]", "? x\n: y", "log: |\n  text\n", "limits: {packet_bytes: 0x10}", "\xff\xfe",
		"listeners: {mqtt: [], http: {bind: ''}}", "routes: [null, {}]", "log: {data: '#'}", "log: {retention: 1w1d1h1m1s1ms}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text, "f")
		if err == nil {
			readBack(t, c)
		}
	})
}

// The HTTP server may be reached from other machines once it knows who may read, and only it.
func TestPasswordFileOpensHTTP(t *testing.T) {
	c, err := Parse("listeners: {http: {bind: ':8080', password_file: users, tls: {cert: c.pem, key: k.pem}}}", "f")
	if err != nil {
		t.Fatal(err)
	}
	if h := c.Listeners.HTTP; h.PasswordFile != "users" || h.TLS != (TLS{"c.pem", "k.pem"}) {
		t.Errorf("%+v", h)
	}
	if _, err := Parse("listeners: {kafka: [{bind: ':9092'}], http: {bind: ':8080', password_file: users}}", "f"); err == nil || strings.Contains(err.Error(), "http") {
		t.Errorf("%v", err)
	}
}
