package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

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

// throughBridge runs something on Mosquitto with a bridge to a topic of its own.
func (c *cluster) throughBridge(b *bench, path string, f func(s *server, bridge **exec.Cmd, topic string) error) error {
	topic, err := c.newTopic()
	if err != nil {
		return err
	}
	return b.with(mosquitto(path), func(s *server) error {
		bridge, err := c.bridged(s.mqtt, topic)
		if err != nil {
			return err
		}
		defer func() { end(bridge) }()
		return f(s, &bridge, topic)
	})
}

// bridgeRates are what the devices send together, messages per second.
var bridgeRates = []float64{5000, 10_000, 20_000}

// besideBridge compares Millrace with Mosquitto and a bridge, at rates that both take; then kills a process of either under such a load.
func besideBridge(b *bench) error {
	c, err := findCluster()
	if err != nil {
		return err
	}
	path := mosquittoPath()
	if path == "" {
		return errors.New("mosquitto is not there")
	}
	fmt.Println("| devices → cluster by | come to the cluster | messages per CPU second of what stands between | p50 / p99 ms of the acknowledgement |")
	fmt.Println("| --- | --- | --- | --- |")
	for _, rate := range bridgeRates {
		steady, err := b.inTurn(func() (loaded, error) { return c.throughMillrace(b, 100, rate) }, func() (l loaded, err error) {
			err = c.throughBridge(b, path, func(s *server, bridge **exec.Cmd, topic string) error {
				l, err = c.published(b, s.mqtt, topic, 100, rate, s.cmd.Process.Pid, (*bridge).Process.Pid)
				return err
			})
			return l, err
		})
		if err != nil {
			return err
		}
		for i, who := range []string{"Millrace", "Mosquitto and a bridge (paho, franz-go with its linger of 10 ms, manual ack); Mosquitto acknowledges what Kafka does not have yet"} {
			l := steady[i]
			fmt.Printf("| %s | %.1f k/s of %.0f k/s | %.0f | %s / %s |\n", who, l.rate/1e3, rate/1e3, 1e6/l.ours, ms(l.p50), ms(l.p99))
		}
		ratio := steady[1].ours / steady[0].ours
		b.onCluster = append(b.onCluster, verdict{fmt.Sprintf("at %.0f k/s offered, at least three times the messages per CPU second of Mosquitto and a bridge", rate/1e3), fmt.Sprintf("× %.2f", ratio), ratio >= 3})
	}
	fmt.Println("\n| kill -9 under 5,000 msg/s, of | acknowledged, in all | not in the cluster | there twice |")
	fmt.Println("| --- | --- | --- | --- |")
	for _, v := range c.victims(b, path) {
		var sum survived
		for range b.runs {
			s, err := v.kill()
			if err != nil {
				return fmt.Errorf("kill -9 of %s: %w", v.name, err)
			}
			sum.Acked, sum.Lost, sum.Twice = sum.Acked+s.Acked, sum.Lost+s.Lost, sum.Twice+s.Twice
		}
		fmt.Printf("| %s, %d times | %d | %d | %d |\n", v.name, b.runs, sum.Acked, sum.Lost, sum.Twice)
		if v.ours {
			b.onCluster = append(b.onCluster, verdict{"what Millrace acknowledged is in the cluster after kill -9 of it", fmt.Sprintf("%d of %d are not", sum.Lost, sum.Acked), sum.Lost == 0 && sum.Acked > 0})
		}
	}
	return nil
}

// victim is a process that is killed and started again under a load.
type victim struct {
	name string
	ours bool
	kill func() (survived, error)
}

func (c *cluster) victims(b *bench, path string) []victim {
	const rate = 5000
	return []victim{
		{"Millrace", true, func() (out survived, err error) {
			topic, err := c.newTopic()
			if err != nil {
				return out, err
			}
			err = b.with(b.millraceOn(c, topic, ""), func(s *server) error {
				out, err = c.killing(s, topic, rate, func() error { s.kill(); return errors.Join(s.spawn(), s.ready()) })
				return err
			})
			return out, err
		}},
		{"Mosquitto", false, func() (out survived, err error) {
			err = c.throughBridge(b, path, func(s *server, _ **exec.Cmd, topic string) error {
				out, err = c.killing(s, topic, rate, func() error { s.kill(); return s.spawn() })
				return err
			})
			return out, err
		}},
		{"the bridge", false, func() (out survived, err error) {
			err = c.throughBridge(b, path, func(s *server, bridge **exec.Cmd, topic string) error {
				out, err = c.killing(s, topic, rate, func() error {
					end(*bridge)
					next, err := c.bridged(s.mqtt, topic)
					if err == nil {
						*bridge = next
					}
					return err
				})
				return err
			})
			return out, err
		}},
	}
}

// survived says what became of the messages that were acknowledged to devices.
type survived struct{ Acked, Lost, Twice int }

// killing has devices publish, kills something under them, and says what of all that was acknowledged is in the cluster: at once, or within
// ten seconds, since what is queued comes late.
func (c *cluster) killing(s *server, topic string, rate float64, kill func() error) (out survived, err error) {
	before, under := make(chan []uint32, 1), make(chan struct{})
	go func() {
		_, got, _ := paced(s.mqtt, 50, rate, 100, pace{2 * time.Second, 3 * time.Second}, func() { close(under) }, func() {})
		before <- got
	}()
	<-under
	time.Sleep(time.Second)
	if err := kill(); err != nil {
		return out, err
	}
	got := <-before
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Second) {
		if out, err = c.counted(topic, got); err != nil || out.Lost == 0 || time.Now().After(deadline) {
			return out, err
		}
	}
}

// counted reads a topic whole, and says what of what each publisher was acknowledged is in it.
func (c *cluster) counted(topic string, acked []uint32) (out survived, err error) {
	list := make([]string, len(acked))
	for i, n := range acked {
		list[i] = strconv.Itoa(int(n))
		out.Acked += int(n)
	}
	said, err := c.run("count", "-topic", topic, "-acked", strings.Join(list, ","))
	if err != nil {
		return out, err
	}
	var saw struct{ Records, Distinct, Lost int }
	if err := json.Unmarshal(said, &saw); err != nil {
		return out, err
	}
	out.Lost, out.Twice = saw.Lost, saw.Records-saw.Distinct
	return out, nil
}
