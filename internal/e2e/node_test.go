package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/tier"
)

// binary builds millrace once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "millrace-e2e-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "millrace")
	args := []string{"build", "-o", bin}
	if !tier.Soak() {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "../../cmd/millrace")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w: %s", err, out)
	}
	return bin, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if bin, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// node is one millrace process after another on the same data and the same ports.
type node struct {
	t                       *testing.T
	bin, dir                string
	mqtt, kafka, http, conf string
	cmd                     *exec.Cmd
	exited                  chan error
	log                     *syncBuffer
}

// syncBuffer keeps the end of what a process prints.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.b.Len() > 1<<20 {
		s.b.Next(s.b.Len() - 1<<18)
	}
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newNode(t *testing.T, config string) *node {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, bin: bin, dir: t.TempDir(), mqtt: freePort(t), kafka: freePort(t), http: freePort(t), log: &syncBuffer{}}
	if config != "" {
		n.conf = filepath.Join(n.dir, "millrace.yaml")
		if err := os.WriteFile(n.conf, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		n.kill()
		if t.Failed() {
			t.Logf("the node's last words:\n%s", tail(n.log.String(), 4000))
		}
	})
	return n
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// environ is what the program is given: without MILLRACE_KAFKA…, which says where the test's cluster is, and is no setting.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MILLRACE_KAFKA") })
}

// start starts the process and waits until it is ready; it returns how long that took.
func (n *node) start() time.Duration {
	n.t.Helper()
	args := []string{"serve", "--data", filepath.Join(n.dir, "data"), "--http-listen", n.http}
	if n.kafka != "" { // else the log is on a cluster
		args = append(args, "--kafka-listen", n.kafka)
	}
	if n.mqtt != "" { // else the configuration says it
		args = append(args, "--mqtt-listen", n.mqtt)
	}
	if n.conf != "" {
		args = append(args, "--config", n.conf)
	}
	began := time.Now()
	n.cmd = exec.Command(n.bin, args...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.Env = environ()
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	exited := make(chan error, 1)
	cmd := n.cmd
	go func() { exited <- cmd.Wait() }()
	n.exited = exited
	for deadline := began.Add(3 * time.Minute); time.Now().Before(deadline); {
		select {
		case err := <-exited:
			n.cmd = nil
			n.t.Fatalf("the node ended at start: %v\n%s", err, tail(n.log.String(), 4000))
		case <-time.After(5 * time.Millisecond):
		}
		if r, err := http.Get("http://" + n.http + "/readyz"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return time.Since(began)
			}
		}
	}
	n.t.Fatalf("the node was not ready within three minutes:\n%s", tail(n.log.String(), 4000))
	return 0
}

// kill is kill -9.
func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	n.cmd.Process.Kill()
	<-n.exited
	n.cmd = nil
}

// stop is SIGTERM; the node must end cleanly.
func (n *node) stop() {
	n.t.Helper()
	n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-n.exited:
		n.cmd = nil // it is gone, however it went
		if err != nil {
			n.t.Fatalf("clean stop: %v\n%s", err, tail(n.log.String(), 4000))
		}
	case <-time.After(60 * time.Second):
		n.t.Fatal("the node did not stop within a minute of SIGTERM")
	}
}

// rss is the process's resident memory in bytes, after it had a moment to settle; 0 where the system does not tell.
func (n *node) rss() int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// eventually polls until ok, for as long as a busy machine may need.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within two minutes: %s", what)
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
