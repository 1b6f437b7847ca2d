package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Loads on a Kafka cluster of three brokers that scripts/bench-kafka has started: `make bench-kafka`. The processes beside Millrace are
// those of peers/onkafka.

// cluster is where the brokers are, and their processes.
type cluster struct {
	brokers string
	pids    []int
	tool    string // peers/onkafka
}

func findCluster() (c cluster, err error) {
	c.brokers = os.Getenv("BENCH_KAFKA")
	dir := os.Getenv("KAFKA_DIR")
	if c.brokers == "" || dir == "" {
		return c, errors.New("there is no cluster to measure on: run make bench-kafka, which starts one")
	}
	if c.tool, err = filepath.Abs(".bench/peers/onkafka"); err != nil {
		return c, err
	}
	for _, n := range []string{"1", "2", "3"} {
		b, err := os.ReadFile(filepath.Join(dir, n, "pid"))
		if err != nil {
			return c, fmt.Errorf("broker %s: %w", n, err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return c, fmt.Errorf("broker %s: %w", n, err)
		}
		c.pids = append(c.pids, pid)
	}
	return c, nil
}

func (c *cluster) cpu() (sum time.Duration) {
	for _, pid := range c.pids {
		sum += cpuOf(pid)
	}
	return sum
}

// run runs the tool to its end.
func (c *cluster) run(what string, args ...string) (out []byte, err error) {
	cmd := exec.CommandContext(interrupted, c.tool, append([]string{what, "-brokers", c.brokers}, args...)...)
	cmd.Stderr = os.Stderr
	if out, err = cmd.Output(); err != nil {
		return nil, fmt.Errorf("%s %s: %w", c.tool, what, err)
	}
	return out, nil
}

// millraceOn is Millrace with its log on the cluster, and a topic of its own.
func (b *bench) millraceOn(c *cluster, topic, more string) kind {
	conf := fmt.Sprintf("log: {kafka: [%s]}\nroutes:\n  - {mqtt: \"bench/{n}/data\", topic: %s, key: \"{n}\", partitions: 8}\n%s", strings.ReplaceAll(c.brokers, ",", ", "), topic, more)
	return kind{name: "millrace", command: func(s *server) (string, []string, error) {
		file, err := s.write("millrace.yaml", conf)
		return b.bin, []string{"serve", "--config", file, "--mqtt-listen", s.mqtt, "--http-listen", s.http}, err
	}}
}

var topics atomic.Int64

func (c *cluster) newTopic() (string, error) {
	name := fmt.Sprintf("bench-%d-%d", time.Now().Unix(), topics.Add(1))
	_, err := c.run("topic", "-topic", name)
	return name, err
}

// loaded is what one run showed.
type loaded struct {
	rate      float64
	cpu, ours float64 // seconds per million: of all processes, and of those that are not brokers
	p50, p99  time.Duration
}

// produced runs the plain producer; rate 0: as fast as it can.
func (c *cluster) produced(b *bench, size int, rate float64) (l loaded, err error) {
	topic, err := c.newTopic()
	if err != nil {
		return l, err
	}
	cmd := exec.CommandContext(interrupted, c.tool, "produce", "-brokers", c.brokers, "-topic", topic, "-size", strconv.Itoa(size),
		"-rate", fmt.Sprint(rate), "-warm", b.pace.warm.String(), "-window", b.pace.window.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return l, err
	}
	if err := cmd.Start(); err != nil {
		return l, err
	}
	var brokers time.Duration
	var saw struct {
		Count    int64
		CPU      float64
		P50, P99 time.Duration
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch text := lines.Text(); text {
		case "begin":
			brokers = c.cpu()
		case "end":
			brokers = c.cpu() - brokers
		default:
			if err := json.Unmarshal([]byte(text), &saw); err != nil {
				return l, err
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		return l, err
	}
	n := float64(saw.Count)
	return loaded{rate: n / b.pace.window.Seconds(), cpu: (saw.CPU + brokers.Seconds()) / n * 1e6, ours: saw.CPU / n * 1e6, p50: saw.P50, p99: saw.P99}, nil
}

// arrived is how many records a topic has, and when it was asked.
func (c *cluster) arrived(topic string) (n int64, at time.Time, err error) {
	out, err := c.run("ends", "-topic", topic)
	if err == nil {
		err = json.Unmarshal(out, &n)
	}
	return n, time.Now(), err
}

// published has devices publish to a broker that is running; what CPU it costs is that of the processes, and the cluster's. What is counted
// is what comes to the topic: not everybody acknowledges only that.
func (c *cluster) published(b *bench, address, topic string, size int, rate float64, pids ...int) (l loaded, err error) {
	var mine, all time.Duration
	cpu := func() (sum time.Duration) {
		for _, pid := range pids {
			sum += cpuOf(pid)
		}
		return sum
	}
	var from, to int64
	var since, until time.Time
	var errs [2]error
	begin := func() { from, since, errs[0] = c.arrived(topic); mine, all = cpu(), c.cpu() }
	end := func() { mine, all = cpu()-mine, c.cpu()-all; to, until, errs[1] = c.arrived(topic) }
	var r result
	if rate == 0 {
		r, err = closed(address, true, 100, 64, noise(1, size), b.pace, begin, end)
	} else {
		r, _, err = paced(address, 50, rate, size, b.pace, begin, end)
	}
	if err = errors.Join(err, errs[0], errs[1]); err != nil {
		return l, err
	}
	l.rate = float64(to-from) / until.Sub(since).Seconds()
	n := l.rate * r.elapsed.Seconds()
	l.cpu, l.ours = (mine+all).Seconds()/n*1e6, mine.Seconds()/n*1e6
	if r.lat != nil {
		l.p50, l.p99 = r.lat.quantile(0.5), r.lat.quantile(0.99)
	}
	return l, nil
}

// throughMillrace is published, with a fresh node.
func (c *cluster) throughMillrace(b *bench, size int, rate float64) (l loaded, err error) {
	topic, err := c.newTopic()
	if err != nil {
		return l, err
	}
	err = b.with(b.millraceOn(c, topic, ""), func(s *server) error {
		l, err = c.published(b, s.mqtt, topic, size, rate, s.cmd.Process.Pid)
		return err
	})
	return l, err
}

// with runs a server for as long as f.
func (b *bench) with(k kind, f func(s *server) error) error {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := k.start(dir, nil)
	if err != nil {
		return err
	}
	defer s.stop()
	if strings.HasPrefix(k.name, "millrace") {
		if err := s.ready(); err != nil {
			return err
		}
	}
	if err := f(s); err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, "server.log"))
		return fmt.Errorf("%w; %s said: %s", err, k.name, said[max(0, len(said)-2000):])
	}
	return nil
}

// ready waits until Millrace lets clients in: it listens before.
func (s *server) ready() error {
	for range 600 {
		if resp, err := http.Get("http://" + s.http + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s is not ready after half a minute", s.kind.name)
}

// medians of several runs of each way, in turn.
func (b *bench) inTurn(ways ...func() (loaded, error)) ([]loaded, error) {
	runs := make([][]loaded, len(ways))
	for range b.runs {
		for i, way := range ways {
			l, err := way()
			if err != nil {
				return nil, err
			}
			runs[i] = append(runs[i], l)
		}
	}
	out := make([]loaded, len(ways))
	for i, rs := range runs {
		out[i] = loaded{rate: middle(rs, func(l loaded) float64 { return l.rate }), cpu: middle(rs, func(l loaded) float64 { return l.cpu }), ours: middle(rs, func(l loaded) float64 { return l.ours }),
			p50: middle(rs, func(l loaded) time.Duration { return l.p50 }), p99: middle(rs, func(l loaded) time.Duration { return l.p99 })}
	}
	return out, nil
}

func middle[T cmp.Ordered](rs []loaded, f func(loaded) T) T {
	v := make([]T, 0, len(rs))
	for _, r := range rs {
		v = append(v, f(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
