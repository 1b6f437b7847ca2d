package main

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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
func (b *bench) millraceOn(c *cluster, topic, spill string) kind {
	conf := fmt.Sprintf("log: {kafka: [%s]}\nroutes:\n  - {mqtt: \"bench/{n}/data\", topic: %s, key: \"{n}\", partitions: 8%s}\n", strings.ReplaceAll(c.brokers, ",", ", "), topic, spill)
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

// published has devices publish to a broker that is running; what CPU it costs is that of the processes, and the cluster's.
func (c *cluster) published(b *bench, address string, size int, rate float64, pids ...int) (l loaded, err error) {
	var mine, all time.Duration
	cpu := func() (sum time.Duration) {
		for _, pid := range pids {
			sum += cpuOf(pid)
		}
		return sum
	}
	begin := func() { mine, all = cpu(), c.cpu() }
	end := func() { mine, all = cpu()-mine, c.cpu()-all }
	var r result
	if rate == 0 {
		r, err = closed(address, true, 100, 64, noise(1, size), b.pace, begin, end)
	} else {
		r, _, err = paced(address, 50, rate, size, b.pace, begin, end)
	}
	if err != nil {
		return l, err
	}
	n := float64(r.count)
	l = loaded{rate: r.rate(), cpu: (mine + all).Seconds() / n * 1e6, ours: mine.Seconds() / n * 1e6}
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
		l, err = c.published(b, s.mqtt, size, rate, s.cmd.Process.Pid)
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

// besideProducer compares Millrace, fed by MQTT, with a plain producer of the same records.
func besideProducer(b *bench) error {
	c, err := findCluster()
	if err != nil {
		return err
	}
	fmt.Println("| value | who | peak /s | at | CPU s per 1 M: with the brokers (without) | p50 / p99 ms |")
	fmt.Println("| --- | --- | --- | --- | --- | --- |")
	for _, size := range []int{100, 1000} {
		peaks, err := b.inTurn(func() (loaded, error) { return c.produced(b, size, 0) }, func() (loaded, error) { return c.throughMillrace(b, size, 0) })
		if err != nil {
			return err
		}
		half := peaks[0].rate / 2
		for _, at := range []float64{half, min(half, peaks[1].rate/2)} {
			steady, err := b.inTurn(func() (loaded, error) { return c.produced(b, size, at) }, func() (loaded, error) { return c.throughMillrace(b, size, at) })
			if err != nil {
				return err
			}
			for i, who := range []string{"plain producer", "devices → Millrace"} {
				s := steady[i]
				fmt.Printf("| %d B | %s | %.1f k | %.1f k of %.1f k offered | %.1f (%.1f) | %s / %s |\n", size, who, peaks[i].rate/1e3, s.rate/1e3, at/1e3, s.cpu, s.ours, ms(s.p50), ms(s.p99))
			}
			fmt.Printf("\n%d B at %.1f k/s: CPU × %.2f, latency added p50 %s ms, p99 %s ms\n\n", size, at/1e3, steady[1].cpu/steady[0].cpu, ms(steady[1].p50-steady[0].p50), ms(steady[1].p99-steady[0].p99))
			if peaks[1].rate >= 2*half {
				break
			}
		}
	}
	return nil
}

// bridged is Mosquitto with a bridge of the peers' to the cluster.
func (c *cluster) bridged(address, topic string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(interrupted, c.tool, "bridge", "-brokers", c.brokers, "-topic", topic, "-mqtt", address)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("the bridge does not subscribe: %w", err)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return cmd, nil
}

func end(cmd *exec.Cmd) { _ = cmd.Process.Kill(); _ = cmd.Wait() }

// besideBridge compares Millrace with Mosquitto and a bridge, at a rate that both take; then kills a process of either under that load.
func besideBridge(b *bench) error {
	c, err := findCluster()
	if err != nil {
		return err
	}
	path := mosquittoPath()
	if path == "" {
		return errors.New("mosquitto is not there")
	}
	const rate = 5000
	through := func(kill int) (l loaded, lost string, err error) { // of Mosquitto; kill: 0 nothing, 1 the broker, 2 the bridge
		topic, err := c.newTopic()
		if err != nil {
			return l, "", err
		}
		err = b.with(mosquitto(path), func(s *server) error {
			bridge, err := c.bridged(s.mqtt, topic)
			if err != nil {
				return err
			}
			defer func() { end(bridge) }()
			if kill == 0 {
				l, err = c.published(b, s.mqtt, 100, rate, s.cmd.Process.Pid, bridge.Process.Pid)
				return err
			}
			lost, err = c.killing(s, topic, rate, func() error {
				if kill == 1 {
					s.kill()
					return s.spawn()
				}
				end(bridge)
				bridge, err = c.bridged(s.mqtt, topic)
				return err
			})
			return err
		})
		return l, lost, err
	}
	steady, err := b.inTurn(func() (loaded, error) { return c.throughMillrace(b, 100, rate) }, func() (loaded, error) { l, _, err := through(0); return l, err })
	if err != nil {
		return err
	}
	topic, err := c.newTopic()
	if err != nil {
		return err
	}
	var oursLost string
	if err := b.with(b.millraceOn(&c, topic, ""), func(s *server) error {
		oursLost, err = c.killing(s, topic, rate, func() error { s.kill(); return s.spawn() })
		return err
	}); err != nil {
		return err
	}
	_, brokerLost, err := through(1)
	if err != nil {
		return err
	}
	_, bridgeLost, err := through(2)
	if err != nil {
		return err
	}
	fmt.Println("| devices → cluster by | /s | messages per CPU second of what stands between | acked but not in the cluster, kill -9 |")
	fmt.Println("| --- | --- | --- | --- |")
	fmt.Printf("| Millrace | %.1f k | %.0f | %s |\n", steady[0].rate/1e3, 1e6/steady[0].ours, oursLost)
	fmt.Printf("| Mosquitto and a bridge (paho, franz-go, manual ack) | %.1f k | %.0f | of the broker: %s; of the bridge: %s |\n", steady[1].rate/1e3, 1e6/steady[1].ours, brokerLost, bridgeLost)
	fmt.Printf("\nMillrace's messages per CPU second: × %.1f\n", steady[1].ours/steady[0].ours)
	return nil
}

// killing has devices publish, kills something under them, and says how much of what was acknowledged before and after is not in the cluster.
func (c *cluster) killing(s *server, topic string, rate float64, kill func() error) (string, error) {
	before, under := make(chan []uint32, 1), make(chan struct{})
	go func() {
		_, got, _ := paced(s.mqtt, 50, rate, 100, pace{2 * time.Second, 3 * time.Second}, func() { close(under) }, func() {})
		before <- got
	}()
	<-under
	time.Sleep(time.Second)
	if err := kill(); err != nil {
		return "", err
	}
	got := <-before
	time.Sleep(10 * time.Second) // what was queued comes
	return c.counted(topic, got)
}

func (c *cluster) counted(topic string, acked []uint32) (string, error) {
	list, sum := make([]string, len(acked)), 0
	for i, n := range acked {
		list[i] = strconv.Itoa(int(n))
		sum += int(n)
	}
	out, err := c.run("count", "-topic", topic, "-acked", strings.Join(list, ","))
	if err != nil {
		return "", err
	}
	var saw struct{ Records, Distinct, Lost int }
	if err := json.Unmarshal(out, &saw); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d of %d (%d twice)", saw.Lost, sum, saw.Records-saw.Distinct), nil
}

// hung stops all brokers for a minute under load, as they stand.
func hung(b *bench) error {
	c, err := findCluster()
	if err != nil {
		return err
	}
	topic, err := c.newTopic()
	if err != nil {
		return err
	}
	signal := func(name string) error {
		for _, pid := range c.pids {
			if err := exec.Command("kill", "-"+name, strconv.Itoa(pid)).Run(); err != nil {
				return fmt.Errorf("kill -%s %d: %w", name, pid, err)
			}
		}
		return nil
	}
	return b.with(b.millraceOn(&c, topic, ""), func(s *server) error {
		type outcome struct {
			r   result
			got []uint32
			err error
		}
		over := make(chan outcome, 1)
		go func() {
			r, got, err := paced(s.mqtt, 200, 20_000, 100, pace{time.Second, 80 * time.Second}, func() {}, func() {})
			over <- outcome{r, got, err}
		}()
		time.Sleep(6 * time.Second)
		calm, _ := s.memory()
		if err := signal("STOP"); err != nil {
			return err
		}
		defer func() { _ = signal("CONT") }()
		time.Sleep(time.Minute)
		hanging, _ := s.memory()
		if err := signal("CONT"); err != nil {
			return err
		}
		o := <-over
		if o.err != nil {
			return o.err
		}
		_, peak := s.memory()
		lost, err := c.counted(topic, o.got)
		if err != nil {
			return err
		}
		fmt.Println("| memory before / at the end of the hang / peak, MiB | acked in all | acked but not in the cluster |")
		fmt.Println("| --- | --- | --- |")
		fmt.Printf("| %d / %d / %d | %d | %s |\n", calm>>20, hanging>>20, peak>>20, o.r.count, lost)
		return nil
	})
}

// paced publishes at QoS 1 at a rate of all connections together, each message when it is due, at most a window of them unacknowledged. It
// says, besides, what each publisher was acknowledged; a connection that ends, ends with what it had.
func paced(addr string, pubs int, rate float64, size int, p pace, begin, end func()) (r result, acked []uint32, err error) {
	const window = 512
	kind := noise(1, size)
	var total atomic.Int64
	var stop, since atomic.Bool
	var all sync.WaitGroup
	var conns []net.Conn
	acked = make([]uint32, pubs)
	lats := make([]histogram, pubs)
	gap := time.Duration(float64(time.Second) * float64(pubs) / rate)
	for i := range pubs {
		c, err := dial(addr, fmt.Sprintf("pub-%d", i), true)
		if err != nil {
			return r, nil, err
		}
		defer c.Close()
		conns = append(conns, c)
		m := kind(fmt.Sprintf("bench/%d/data", i))
		due := make(chan time.Time, window)
		all.Go(func() {
			defer close(due)
			at := time.Now().Add(gap * time.Duration(i) / time.Duration(pubs))
			for seq := uint32(1); !stop.Load(); seq++ {
				time.Sleep(time.Until(at))
				due <- at
				if _, err := c.Write(m.append(nil, id(seq), 0, uint32(i), seq)); err != nil {
					return
				}
				at = at.Add(gap)
			}
		})
		all.Go(func() {
			var ack [4]byte
			in := bufio.NewReader(c)
			for seq := uint32(1); ; seq++ {
				at, ok := <-due
				if !ok {
					return
				}
				_ = c.SetReadDeadline(time.Now().Add(2 * time.Minute))
				if _, err := io.ReadFull(in, ack[:]); err != nil || id(seq) != binary.BigEndian.Uint16(ack[2:]) {
					c.Close()
					for range due {
					}
					return
				}
				acked[i] = seq
				total.Add(1)
				if since.Load() {
					lats[i].add(time.Since(at))
				}
			}
		})
	}
	r.count, r.elapsed = p.span(&total, func() { since.Store(true); begin() }, func() { since.Store(false); end() })
	stop.Store(true)
	all.Wait()
	for _, c := range conns {
		c.Close()
	}
	r.lat = &histogram{}
	for i := range lats {
		r.lat.merge(&lats[i])
	}
	return r, acked, nil
}
