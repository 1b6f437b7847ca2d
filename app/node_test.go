package app

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/config"
)

// testConfig is a node on free ports of loopback, with its data in a temporary folder.
func testConfig(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Parse(text, "test")
	if err != nil {
		t.Fatal(err)
	}
	c.Listeners = config.Listeners{MQTT: []config.MQTT{{Bind: "127.0.0.1:0"}}, Kafka: []config.Kafka{{Bind: "127.0.0.1:0"}}, HTTP: config.HTTP{Bind: "127.0.0.1:0"}}
	if len(c.Log.Kafka) > 0 {
		c.Listeners.Kafka = nil
	}
	c.Log.Data = filepath.Join(t.TempDir(), "data")
	return c
}

// logBuffer keeps what a node says, for when a test fails.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testLogger(t *testing.T) (*slog.Logger, *logBuffer) {
	b := &logBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the node said:\n%s", b)
		}
	})
	return slog.New(slog.NewTextHandler(b, nil)), b
}

// boot starts a node and waits until it is ready; it is stopped at the end of the test.
func boot(t *testing.T, c *config.Config) *Node {
	t.Helper()
	log, _ := testLogger(t)
	n, err := Start(t.Context(), Options{Config: c, Version: "test", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { halt(t, n) })
	eventually(t, "the node is ready", func() bool { return n.Status().Ready })
	return n
}

func halt(t *testing.T, n *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	select {
	case err := <-n.Failed():
		t.Errorf("the node failed: %v", err)
	default:
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came about that %s", what)
		}
	}
}

func fetch(t *testing.T, n *Node, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + n.Address("HTTP") + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestHealthMetricsAndPage(t *testing.T) {
	c := testConfig(t, "routes:\n- {mqtt: live/#, store: false}\n- {mqtt: fast/#, topic: fast, ack: memory}\n")
	c.InsecureAllowAnonymous = true
	n := boot(t, c)
	for path, wants := range map[string][]string{
		"/livez":         {"ok"},
		"/readyz":        {`"ready": true`, "insecure_allow_anonymous", "store: false", "ack: memory"},
		"/":              {"<html"},
		"/api/v1/status": {`"ready":true`, n.Address("MQTT"), n.Address("Kafka"), "mosquitto_sub", "kcat"},
		"/metrics": {"millrace_ready 1", `millrace_latency_seconds_bucket{from="receive",to="commit",le="0.001"}`,
			`millrace_latency_seconds_count{from="receive",to="deliver"} 0`, "millrace_mqtt_sessions_limit 1e+06", "millrace_mqtt_retained_bytes 0", "millrace_mqtt_connections 0", "millrace_log_fsync_seconds_count", "millrace_kafka_connections 0",
			"millrace_routed_total 0", `millrace_messages_total{dir="in",qos="1"} 0`, "go_goroutines", "process_open_fds"},
	} {
		code, body := fetch(t, n, path)
		if code != 200 {
			t.Errorf("%s: %d %s", path, code, body)
		}
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s does not say %q:\n%s", path, want, body)
			}
		}
	}
}

// startError is why a node does not start. It is one line.
func startError(t *testing.T, c *config.Config) string {
	t.Helper()
	log, _ := testLogger(t)
	n, err := Start(t.Context(), Options{Config: c, Version: "test", Logger: log})
	if err == nil {
		halt(t, n)
		t.Fatal("the node started")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
	return err.Error()
}

func expect(t *testing.T, got string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
}

func TestOpenDoorsAreRefused(t *testing.T) {
	c := testConfig(t, "")
	c.Listeners.MQTT[0].Bind = "0.0.0.0:0"
	expect(t, startError(t, c), "0.0.0.0:0", "no authentication", "--insecure-allow-anonymous")
	if _, err := os.Stat(c.Log.Data); !errors.Is(err, os.ErrNotExist) {
		t.Error("a refused node left a data folder")
	}
	c.InsecureAllowAnonymous = true
	n := boot(t, c)
	if ws := n.Status().Warnings; len(ws) != 2 || !strings.Contains(ws[0], "insecure_allow_anonymous") || !strings.Contains(ws[1], "write a policy") {
		t.Errorf("warnings %q", ws)
	}
}

func TestTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := testConfig(t, "")
	c.Listeners.Kafka[0].Bind = config.Address(l.Addr().String())
	expect(t, startError(t, c), l.Addr().String(), "listeners.kafka[0]", "taken by another program", "--kafka-listen")
	if _, err := os.Stat(c.Log.Data); !errors.Is(err, os.ErrNotExist) {
		t.Error("a node that cannot listen left a data folder")
	}
}

func TestSecondProcess(t *testing.T) {
	c := testConfig(t, "")
	boot(t, c)
	again := *c
	expect(t, startError(t, &again), c.Log.Data, "another millrace uses it", "--data")
}

func TestDataFolders(t *testing.T) {
	c := testConfig(t, "")
	if err := os.WriteFile(c.Log.Data, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, startError(t, c), c.Log.Data, "not a folder")

	c = testConfig(t, "")
	if err := os.MkdirAll(c.Log.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Log.Data, "thesis.doc"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, startError(t, c), c.Log.Data, "thesis.doc", "something else")
	if b, err := os.ReadFile(filepath.Join(c.Log.Data, "thesis.doc")); err != nil || string(b) != "precious" {
		t.Errorf("a foreign file was touched: %q, %v", b, err)
	}

	c = testConfig(t, "")
	if err := os.MkdirAll(c.Log.Data, 0o500); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		t.Log("root writes everywhere: the unwritable folder is not tried")
	} else {
		expect(t, startError(t, c), c.Log.Data, "cannot be written", "--data")
	}

	// A folder of a later version: its checkpoint says so.
	c = testConfig(t, "")
	halt(t, boot(t, c))
	files, err := filepath.Glob(filepath.Join(c.Log.Data, "*"))
	if err != nil {
		t.Fatal(err)
	}
	changed := false
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.HasPrefix(b, []byte("MRCP")) {
			continue
		}
		b[4] = 99
		castagnoli := crc32.MakeTable(crc32.Castagnoli)
		binary.BigEndian.PutUint32(b[16:], crc32.Update(crc32.Checksum(b[:16], castagnoli), castagnoli, b[20:]))
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
		changed = true
	}
	if !changed {
		t.Fatalf("no checkpoint in %v", files)
	}
	expect(t, startError(t, c), c.Log.Data, "newer version")
}

func TestRoutesThatCannotBe(t *testing.T) {
	c := testConfig(t, "routes:\n- {mqtt: a/+/c, topic: x}\n- {mqtt: a/b/+, topic: y}\n")
	expect(t, startError(t, c), `"a/+/c" (test:2)`, `"a/b/+" (test:3)`, "narrower")
	c = testConfig(t, "routes: [{mqtt: a/#, topic: x, partitions: 3}]")
	halt(t, boot(t, c))
	c.Routes[0].Partitions = 4
	expect(t, startError(t, c), "asks for 4 partitions", "has 3", "partitions: 3")
}

// A node that cannot start gives everything back: the same configuration without the fault starts.
func TestFailedStartGivesBack(t *testing.T) {
	c := testConfig(t, "routes: [{mqtt: a/#, topic: x, partitions: 3}]")
	halt(t, boot(t, c))
	n := boot(t, c)
	addr := n.Address("MQTT")
	halt(t, n)
	bad := *c
	bad.Listeners.MQTT = []config.MQTT{{Bind: config.Address(addr)}}
	bad.Routes = []config.Route{{MQTT: "a/#", Topic: "x", Partitions: 5}}
	startError(t, &bad)
	good := bad
	good.Routes = c.Routes
	if n := boot(t, &good); n.Address("MQTT") != addr {
		t.Errorf("listens on %s, want %s", n.Address("MQTT"), addr)
	}
}

func TestDescriptorBudget(t *testing.T) {
	c := config.Default()
	for _, x := range []struct {
		limit uint64
		asked int
		want  budget
	}{
		{1024, 0, budget{1024, 640, 128, 64, 128}},
		{1 << 20, 0, budget{1 << 20, 1<<20 - 4096 - 512 - 256 - 64, 4096, 256, 512}},
		{1 << 20, 100, budget{1 << 20, 100, 4096, 256, 512}},
		{1024, 100_000, budget{1024, 640, 128, 64, 128}},
		{0, 0, budget{0, 0, 4096, 256, 512}},
	} {
		c.Limits.Connections = x.asked
		if got := divide(x.limit, c); got != x.want {
			t.Errorf("divide(%d) = %+v, want %+v", x.limit, got, x.want)
		}
	}
}
