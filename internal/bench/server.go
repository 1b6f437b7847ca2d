package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// interrupted ends when the program is told to stop, and with it the server that runs.
var interrupted, _ = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)

// server is a broker under test, in a process of its own with a fresh folder.
type server struct {
	kind             kind
	cmd              *exec.Cmd
	dir, mqtt, kafka string // folder and addresses
	http             string
	secure           *authority // it speaks mutual TLS at mqtt; nil: it does not
}

// kind is a broker, and how to start it.
type kind struct {
	name    string
	command func(s *server) (path string, args []string, err error)
	address func(s *server) string // where it listens; nil: where MQTT is
	starts  time.Duration          // how long it may take until then; 0: twelve seconds
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// start runs a kind in a folder, and waits until it listens.
func (k kind) start(dir string, secure *authority) (*server, error) {
	s := &server{kind: k, dir: dir, secure: secure}
	for _, at := range []*string{&s.mqtt, &s.kafka, &s.http} {
		var err error
		if *at, err = freePort(); err != nil {
			return nil, err
		}
	}
	return s, s.spawn()
}

// spawn runs it (again), on what is in its folder.
func (s *server) spawn() error {
	path, args, err := s.kind.command(s)
	if err != nil {
		return err
	}
	log := filepath.Join(s.dir, "server.log")
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	s.cmd = exec.CommandContext(interrupted, path, args...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, out, out
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.kind.name, err)
	}
	at := s.mqtt
	if s.kind.address != nil {
		at = s.kind.address(s)
	}
	for deadline := time.Now().Add(cmp.Or(s.kind.starts, 12*time.Second)); time.Now().Before(deadline); {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.stop()
	said, _ := os.ReadFile(log)
	return fmt.Errorf("%s did not listen on %s: %s", s.kind.name, at, said)
}

func (s *server) stop() {
	if s.cmd.Process == nil || s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		<-done
	}
}

// kill is kill -9.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// cpu is the CPU time the server has used, from /proc (100 ticks a second on Linux).
func (s *server) cpu() time.Duration { return cpuOf(s.cmd.Process.Pid) }

func cpuOf(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	u, _ := strconv.ParseInt(f[11], 10, 64)
	k, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(u+k) * 10 * time.Millisecond
}

// memory is the server's resident memory in bytes, and the most it ever was.
func (s *server) memory() (now, peak int64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = kb << 10
		case "VmHWM:":
			peak = kb << 10
		}
	}
	return now, peak
}

func (s *server) rss() int64 {
	now, _ := s.memory()
	return now
}

// disk is what the server's folder takes, in bytes of files that match.
func (s *server) disk(suffix string) (n int64) {
	_ = filepath.Walk(s.dir, func(p string, i os.FileInfo, err error) error {
		if err == nil && !i.IsDir() && strings.HasSuffix(p, suffix) {
			n += i.Size()
		}
		return nil
	})
	return n
}

// syncs is how many of Millrace's fdatasyncs took at most how long, by its own histogram; nil of a server that does not say.
func (s *server) syncs() map[float64]float64 {
	resp, err := http.Get("http://" + s.http + "/metrics")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	m := map[float64]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), `millrace_log_fsync_seconds_bucket{le="`)
		if !ok {
			continue
		}
		bound, count, _ := strings.Cut(rest, `"} `)
		le, err1 := strconv.ParseFloat(bound, 64)
		n, err2 := strconv.ParseFloat(count, 64)
		if errors.Join(err1, err2) == nil {
			m[le] = n
		}
	}
	return m
}

// syncQuantile is the bound that a fraction of the syncs between two calls did not exceed, and how many there were.
func syncQuantile(from, to map[float64]float64, q float64) (bound time.Duration, n int64) {
	all := to[math.Inf(1)] - from[math.Inf(1)]
	least := math.Inf(1)
	for le, count := range to {
		if count-from[le] >= q*all {
			least = min(least, le)
		}
	}
	if all == 0 || math.IsInf(least, 1) {
		return 0, int64(all)
	}
	return time.Duration(least * float64(time.Second)), int64(all)
}
