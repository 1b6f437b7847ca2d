package conformance

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/app"
	"github.com/millrace-io/millrace/config"
)

var (
	broker = flag.String("broker", "", "host:port of the broker to check; empty: a node that the test starts")
	webs   = flag.String("ws", "", "host:port/path of its WebSocket listener, if there is one")
)

// check shows one statement, or several that come to the same.
type check func(e *env)

// checks are named by statement.
type checks map[string]check

// versions are the suites, by the name that subtests and the document have for them.
var versions = []struct {
	name  string
	level byte
	title string // of its section in the document
	parts []checks
}{
	{"v5", v5, "MQTT 5.0", parts5},
	{"v311", v311, "MQTT 3.1.1", parts311},
	{"v31", v31, "MQTT 3.1", parts31},
	{"share", v5, "Shared subscriptions", sharing},
}

// all merges the parts of a version. A statement has one check.
func all(t *testing.T, parts []checks) checks {
	m := checks{}
	for _, part := range parts {
		for id, f := range part {
			if m[id] != nil {
				t.Fatalf("%s has two checks", id)
			}
			m[id] = f
		}
	}
	return m
}

// target is the broker that is checked.
type target struct {
	addr   string
	ws     string
	strict bool
	known  map[string]string // subtests that it fails, and why
}

func TestConformance(t *testing.T) {
	t.Parallel()
	if *broker != "" {
		run(t, target{addr: *broker, ws: *webs})
		return
	}
	ours := boot(t, "")
	ours.strict = true
	run(t, ours)
}

// atOnce is how many checks of a version run side by side: most of them wait most of the time.
const atOnce = 16

// run runs every check against a broker. They are not t.Parallel, which would run only as many as there are processors.
func run(t *testing.T, target target) {
	var groups sync.WaitGroup
	defer groups.Wait()
	for v, version := range versions {
		set := all(t, version.parts)
		groups.Go(func() {
			t.Run(version.name, func(t *testing.T) {
				var checks sync.WaitGroup
				defer checks.Wait()
				tickets := make(chan struct{}, atOnce)
				for n, id := range slices.Sorted(maps.Keys(set)) {
					e := env{addr: target.addr, ws: target.ws, v: version.level, prefix: fmt.Sprintf("cf%s%cx%d", session, 'a'+v, n),
						strict: target.strict, patience: patience}
					tickets <- struct{}{}
					checks.Go(func() {
						defer func() { <-tickets }()
						t.Run(id, func(t *testing.T) {
							if why := target.known[version.name+"/"+id]; why != "" {
								deviation(t, &e, set[id], why)
								return
							}
							e.TB = t
							switch nothing := e.show(set[id]); {
							case nothing == "":
							case target.strict:
								t.Skipf("not yet: %s", nothing)
							default:
								t.Logf("nothing to see: %s", nothing)
							}
						})
					})
				}
			})
		})
	}
}

// deviation runs a check that a broker is known to fail, and says whether it does.
func deviation(t *testing.T, e *env, f check, why string) {
	e.patience = time.Second
	if r := record(t, e, f); r.failed() {
		t.Logf("known deviation: %s (%.200q)", why, r.says)
	} else {
		t.Logf("this version has it right, though it is said: %s", why)
	}
}

// session tells runs apart, for brokers that remember the last one.
var session = fmt.Sprintf("%04d", rand.IntN(10_000))

// boot starts a node of ours, on free ports.
func boot(t *testing.T, settings string) target {
	t.Helper()
	c, err := config.Parse(settings, "test")
	if err != nil {
		t.Fatal(err)
	}
	local := []config.MQTT{{Bind: "127.0.0.1:0"}}
	c.Listeners = config.Listeners{MQTT: local, WS: local}
	c.Log.Data = filepath.Join(t.TempDir(), "data")
	var test app.Test
	if os.Getenv("MILLRACE_PARK") == "at-once" { // as the broker's own tests
		test.ParkAfter = 1
	}
	n, err := app.Start(t.Context(), app.Options{Config: c, Version: "test", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Test: test})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := n.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return target{addr: n.Address("MQTT"), ws: n.Address("WebSocket") + "/mqtt"}
}

// mosquitto starts a Mosquitto.
func mosquitto(t *testing.T) target {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto"
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mosquitto is not installed")
		}
		t.Skip("SKIPPED: mosquitto is not installed")
	}
	addr, ws := freePort(t), freePort(t)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	port := func(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
	text := "allow_anonymous true\nmax_queued_messages 0\nlistener " + port(addr) + " 127.0.0.1\n" +
		"listener " + port(ws) + " 127.0.0.1\nprotocol websockets\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	})
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return target{addr: addr, ws: ws + "/mqtt"}
		}
		if time.Now().After(end) {
			t.Fatal("mosquitto does not listen")
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestForeignMosquitto runs the suite against another broker, which checks the suite: what Mosquitto does otherwise is in the
// document, each with the reason.
func TestForeignMosquitto(t *testing.T) {
	t.Parallel()
	theirs := mosquitto(t)
	theirs.known = deviations(t)
	run(t, theirs)
}
