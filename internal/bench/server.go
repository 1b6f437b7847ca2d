package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a broker under test, in a process of its own with a fresh folder.
type server struct {
	cmd              *exec.Cmd
	dir, mqtt, kafka string
}

// kind is how to start one.
type kind struct {
	name  string
	start func(dir string) (*server, error)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func spawn(dir string, s *server, name string, args ...string) (*server, error) {
	out, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.dir, s.cmd = dir, exec.CommandContext(context.Background(), name, args...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = dir, out, out
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	for range 200 {
		if c, err := net.Dial("tcp", s.mqtt); err == nil {
			c.Close()
			return s, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.stop()
	log, _ := os.ReadFile(filepath.Join(dir, "server.log"))
	return nil, fmt.Errorf("%s did not listen on %s: %s", name, s.mqtt, log)
}

// mosquitto runs with persistence on as it ships and no limits on queues, as in peers' published comparisons.
func mosquitto(path string) kind {
	return kind{"mosquitto", func(dir string) (*server, error) {
		addr, err := freePort()
		if err != nil {
			return nil, err
		}
		_, port, _ := net.SplitHostPort(addr)
		conf := "listener " + port + " 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location " + dir + "/\n" +
			"max_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 0\nlog_dest none\nset_tcp_nodelay true\nuser root\n"
		file := filepath.Join(dir, "mosquitto.conf")
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			return nil, err
		}
		return spawn(dir, &server{mqtt: addr}, path, "-c", file)
	}}
}

// millrace runs as it ships, or with a configuration and further flags.
func millrace(name, path, config string, flags ...string) kind {
	return kind{name, func(dir string) (*server, error) {
		var addrs [3]string
		for i := range addrs {
			var err error
			if addrs[i], err = freePort(); err != nil {
				return nil, err
			}
		}
		args := []string{"serve", "--data", filepath.Join(dir, "data"), "--mqtt-listen", addrs[0], "--kafka-listen", addrs[1], "--http-listen", addrs[2]}
		if config != "" {
			file := filepath.Join(dir, "millrace.yaml")
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				return nil, err
			}
			args = append(args, "--config", file)
		}
		return spawn(dir, &server{mqtt: addrs[0], kafka: addrs[1]}, path, append(args, flags...)...)
	}}
}

func (s *server) stop() {
	if s.cmd.Process != nil {
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
}

// cpu is the CPU time the server has used, from /proc (100 ticks a second on Linux).
func (s *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	u, _ := strconv.ParseInt(f[11], 10, 64)
	k, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(u+k) * 10 * time.Millisecond
}

// rss is the server's resident memory, bytes.
func (s *server) rss() int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
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
