package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/config"
)

// buffer is written by a command and read by its test.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// command is one that runs.
type command struct {
	t        *testing.T
	out, err buffer
	cancel   context.CancelFunc
	code     chan int
}

func start(t *testing.T, environ []string, args ...string) *command {
	return startWith(t, nil, environ, args...)
}

// startWith is start of a command that reads.
func startWith(t *testing.T, in io.Reader, environ []string, args ...string) *command {
	ctx, cancel := context.WithCancel(context.Background())
	c := &command{t: t, cancel: cancel, code: make(chan int, 1)}
	go func() { c.code <- run(ctx, args, env{In: in, Out: &c.out, Err: &c.err, Environ: environ}) }()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Logf("%q\nout: %s\nerr: %s", args, &c.out, &c.err)
		}
	})
	return c
}

func (c *command) wait() int {
	c.t.Helper()
	select {
	case code := <-c.code:
		c.code <- code
		return code
	case <-time.After(60 * time.Second):
		c.t.Fatal("the command does not end")
		return -1
	}
}

// until waits for a text on standard output or standard error.
func (c *command) until(pattern string) []string {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if m := re.FindStringSubmatch(c.out.String() + c.err.String()); m != nil {
			return m
		}
		if len(c.code) > 0 {
			break
		}
	}
	c.t.Fatalf("never said %q", pattern)
	return nil
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const good = `
log: {retention: 3d}
routes:
  - {mqtt: "fleet/{vehicle}/cmd", topic: commands, key: "{vehicle}", direction: both}
`

func TestCommands(t *testing.T) {
	goodFile := write(t, good)
	typo := write(t, "log:\n  retenton: 3d\nlisteners: {mqtt: [{bind: ':1883'}]}\n")
	clash := write(t, "routes:\n  - {mqtt: a/+/c, topic: x}\n  - {mqtt: a/b/+, topic: y}\n")
	for _, c := range []struct {
		args     string
		environ  []string
		code     int
		out, err string // each a regular expression
	}{
		{args: "version", out: `^millrace unknown \(go`},
		{args: "version -o json", out: `"version": "unknown"`},
		{args: "version -o xml", code: exitUsage, err: `--output "xml": text or json`},
		{args: "--help", out: `Exit codes: 0 done; 1 failed`},
		{args: "serve --help", out: `(?s)Examples:.*--insecure-allow-anonymous`},
		{args: "sreve", code: exitUsage, err: `unknown command "sreve"`},
		{args: "sim --help", out: `(?s)Examples:.*--network tunnel.*Available Commands`},
		{args: "sim relpay", code: exitUsage, err: `unknown command`},
		{args: "config chekc", code: exitUsage, err: `unknown command`},
		{args: "serve --dat x", code: exitUsage, err: `unknown flag: --dat`},
		{args: "serve extra", code: exitUsage, err: `unknown command|accepts 0 arg`},
		{args: "config check -c " + goodFile, out: `^the configuration is right\n$`},
		{args: "config check -o json -c " + goodFile, out: `"ok": true`},
		{args: "config check -c " + typo, code: exitUsage, err: regexp.QuoteMeta(typo + ":2: log.retenton: unknown key; did you mean retention?")},
		{args: "config check -o json -c " + typo, code: exitUsage, out: `(?s)"ok": false.*"path": "log.retenton"`},
		{args: "config check -c " + clash, code: exitUsage, err: `a/\+/c.*:2\) and .*a/b/\+.*:3\)`},
		{args: "config check -o json -c " + clash, code: exitUsage, out: `"text": "route`},
		{args: "config check --mqtt-listen :1883", code: exitUsage, err: `flag --mqtt-listen: listeners.mqtt\[0\].bind: :1883 is reached from other machines.*--insecure-allow-anonymous`},
		{args: "config check --mqtt-listen :1883 --insecure-allow-anonymous", out: `right`},
		{args: "config check --mqtt-listen 1883", code: exitUsage, err: `"1883" is a port without a host`},
		{args: "config check", environ: []string{"MILLRACE_LOG_RETENTOIN=1d"}, code: exitUsage, err: `did you mean MILLRACE_LOG_RETENTION\?`},
		{args: "config check", environ: []string{"MILLRACE_CONFIG=" + typo}, code: exitUsage, err: `log.retenton`},
		{args: "config show --effective -c " + goodFile, environ: []string{"MILLRACE_LOG_DATA=/srv/x"},
			out: `(?s)data: /srv/x  # variable MILLRACE_LOG_DATA.*retention: 3d  # .*millrace.yaml:2.*direction: both`},
		{args: "config show -c " + goodFile + " --http-listen none", out: `(?s)^listeners.http.bind:   # flag --http-listen\nlog.retention: 3d`},
		{args: "config show --effective -o json", out: `"origin": "default"`},
		{args: "serve --config /nonexistent", code: exitUsage, err: `/nonexistent: cannot be read`},
		{args: "serve --log-level loud", code: exitUsage, err: `flag --log-level: logging.level: "loud" is not one of`},
		{args: "sim replay --qos 3", code: exitUsage, err: `--qos 3`},
		{args: "sim load --mqtt 6", code: exitUsage, err: `--mqtt "6"`},
		{args: "sim load --broker 127.0.0.1:1 --count 1 --duration 100ms", code: exitFailed, err: `refused`},
		{args: "sim watch --broker 127.0.0.1:1", code: exitFailed, err: `refused`},
		{args: "demo --speed 0", code: exitUsage, err: `--speed 0`},
		{args: "demo --vehicles 0", code: exitUsage, err: `--vehicles 0: 1 to`},
		{args: "demo --fresh --data " + filepath.Dir(goodFile), code: exitFailed, err: `is not a demo's folder: name another one with --data`},
		{args: "sim --speed 0", code: exitUsage, err: `--speed 0: above 0`},
		{args: "sim --every 1500ms", code: exitUsage, err: `--every 1.5s: whole seconds`},
		{args: "sim --loop", code: exitUsage, err: `--loop is for --csv`},
		{args: "sim --network moon", code: exitUsage, err: `--network "moon": one of good, 3g, tunnel, roaming`},
		{args: "sim --csv /nonexistent", code: exitUsage, err: `--csv: open /nonexistent`},
		{args: "sim --csv " + goodFile, code: exitUsage, err: `no column for vehicle: looked for`},
		{args: "sim --csv " + goodFile + " --from noon", code: exitUsage, err: `--from "noon": a time such as`},
		{args: "sim --ledger " + goodFile, code: exitFailed, err: `millrace.yaml: sim: load ledger: not a ledger`},
		{args: "sim -o xml", code: exitUsage, err: `--output "xml"`},
	} {
		t.Run(strings.Map(func(r rune) rune {
			if r == '/' {
				return '_'
			}
			return r
		}, c.args), func(t *testing.T) {
			cmd := start(t, c.environ, strings.Fields(c.args)...)
			if code := cmd.wait(); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !regexp.MustCompile(c.out).MatchString(cmd.out.String()) {
				t.Errorf("standard output: %s\nwant %s", &cmd.out, c.out)
			}
			if !regexp.MustCompile(c.err).MatchString(cmd.err.String()) {
				t.Errorf("standard error: %s\nwant %s", &cmd.err, c.err)
			}
			if strings.HasSuffix(c.args, "-o json") && cmd.out.String() != "" && !json.Valid([]byte(cmd.out.String())) {
				t.Errorf("no JSON: %s", &cmd.out)
			}
		})
	}
}

// serveNode starts a node on free ports and returns its MQTT address.
func serveNode(t *testing.T, data string, more ...string) (*command, string) {
	t.Helper()
	c := start(t, nil, append([]string{"serve", "--data", data, "--mqtt-listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0", "--http-listen", "none"}, more...)...)
	return c, c.until(`protocol"?[=:]"?MQTT"?[ ,]"?address"?[=:]"?(127\.0\.0\.1:\d+)`)[1]
}

func TestServeSimAndStop(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	node, address := serveNode(t, data, "--log-format", "json")

	load := start(t, nil, "sim", "load", "--broker", address, "--clients", "3", "--count", "50", "--qos", "2", "--verify", "-o", "json")
	if code := load.wait(); code != exitOK {
		t.Fatalf("sim load: %d", code)
	}
	var result fleetResult
	if err := json.Unmarshal([]byte(load.out.String()), &result); err != nil || result.Acked != 150 || result.Ledger.Received != 150 || result.Ledger.Twice != 0 {
		t.Errorf("%+v %+v, %v", result, result.Ledger, err)
	}
	replay := start(t, nil, "sim", "replay", "--broker", address, "--speed", "0", "--mqtt", "3.1.1")
	if code := replay.wait(); code != exitOK || !strings.Contains(replay.out.String(), "1999 acked") {
		t.Errorf("sim replay: %d", code)
	}
	watch := start(t, nil, "sim", "watch", "--broker", address, "--duration", "200ms", "-o", "json")
	if code := watch.wait(); code != exitOK || !strings.Contains(watch.out.String(), `"received"`) {
		t.Errorf("sim watch: %d", code)
	}

	second := start(t, nil, "serve", "--data", data, "--mqtt-listen", "127.0.0.1:0", "--kafka-listen", "none", "--http-listen", "none")
	if code := second.wait(); code != exitFailed || !strings.Contains(second.err.String(), "another millrace uses it") {
		t.Errorf("a second node on the same data: %d %s", code, &second.err)
	}
	taken := start(t, nil, "serve", "--data", data+"2", "--mqtt-listen", address, "--kafka-listen", "none", "--http-listen", "none")
	if code := taken.wait(); code != exitFailed || !strings.Contains(taken.err.String(), "taken by another program") {
		t.Errorf("a second node on the same port: %d %s", code, &taken.err)
	}

	node.cancel()
	if code := node.wait(); code != exitOK || !strings.Contains(node.err.String(), `"msg":"stopped"`) {
		t.Errorf("the stop: %d", code)
	}
	for line := range strings.Lines(node.err.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a log line is no JSON: %s", line)
		}
	}
	again, _ := serveNode(t, data)
	again.cancel()
	if code := again.wait(); code != exitOK {
		t.Errorf("the second life: %d", code)
	}
}

func TestLogFlag(t *testing.T) {
	for _, c := range []struct {
		flag, brokers string
		tls           bool
		wrong         string
	}{
		{"kafka://h1:9092,h2:9093", "['h1:9092', 'h2:9093']", false, ""},
		{"kafkas://h1:9092/", "['h1:9092']", true, ""},
		{"", "", false, ""},
		{"h1:9092", "", false, "kafka://"},
		{"http://h1:9092", "", false, "kafka://"},
		{"kafka://", "", false, "kafka://"},
	} {
		brokers, overTLS, err := cluster("--log", c.flag)
		if brokers != c.brokers || overTLS != c.tls || (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%q: %q, %v, %v", c.flag, brokers, overTLS, err)
		}
	}
	s := settings{log: "kafkas://h1:9092,h2:9092"}
	c, err := s.load(env{})
	if err != nil || len(c.Log.Kafka) != 2 || c.Log.TLS.CA != config.SystemCA {
		t.Errorf("%+v, %v", c, err)
	}
	s = settings{log: "kafka://h1"}
	if _, err := s.load(env{}); err == nil || !strings.Contains(err.Error(), "--log") {
		t.Errorf("a broker without a port: %v", err)
	}
}
