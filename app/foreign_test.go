package app

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tool finds a foreign client; its absence is a failure where all tools are promised (CI=true).
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("SKIPPED: %s is not installed", name)
	}
	return path
}

// client runs a foreign client against one node.
type client struct {
	t          *testing.T
	host, port string
	kafka      string
}

func clientsOf(t *testing.T, n *Node) client {
	t.Helper()
	host, port, err := net.SplitHostPort(n.Address("MQTT"))
	if err != nil {
		t.Fatal(err)
	}
	return client{t: t, host: host, port: port, kafka: n.Address("Kafka")}
}

// pub publishes with mosquitto_pub.
func (c client) pub(args ...string) {
	c.t.Helper()
	c.run("", tool(c.t, "mosquitto_pub"), append([]string{"-h", c.host, "-p", c.port}, args...)...)
}

// kcat runs kcat to its end and returns what it prints.
func (c client) kcat(in string, args ...string) string {
	c.t.Helper()
	return c.run(in, tool(c.t, "kcat"), append([]string{"-b", c.kafka, "-q"}, args...)...)
}

func (c client) run(in, program string, args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errs
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("%s %q: %v\n%s%s", program, args, err, &out, &errs)
	}
	return out.String()
}

// subscriber is a mosquitto_sub that runs.
type subscriber struct {
	t   *testing.T
	cmd *exec.Cmd
	out logBuffer
	end sync.Once
}

// sub starts mosquitto_sub and waits until its subscription stands.
func (c client) sub(args ...string) *subscriber {
	c.t.Helper()
	s := &subscriber{t: c.t}
	args = append([]string{"-oL", tool(c.t, "mosquitto_sub"), "-h", c.host, "-p", c.port, "-d", "-F", "got %t|%q|%r|%p"}, args...)
	s.cmd = exec.Command(tool(c.t, "stdbuf"), args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(s.stop)
	eventually(c.t, fmt.Sprintf("mosquitto_sub %q has subscribed", args), func() bool {
		return strings.Contains(s.out.String(), "Subscribed (mid")
	})
	return s
}

// stop ends it as a network failure would.
func (s *subscriber) stop() {
	s.end.Do(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait() // it was killed
	})
}

// messages are what it got so far, as topic|qos|retained|payload.
func (s *subscriber) messages() (ms []string) {
	for line := range strings.Lines(s.out.String()) {
		if m, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "got "); ok {
			ms = append(ms, m)
		}
	}
	return ms
}

func (s *subscriber) expect(want ...string) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); len(s.messages()) < len(want); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			break
		}
	}
	if got := s.messages(); !slices.Equal(got, want) {
		s.t.Fatalf("got  %q\nwant %q\n%s", got, want, s.out.String())
	}
}

var versions = []string{"mqttv311", "mqttv5"}

func TestForeignMosquitto(t *testing.T) {
	n := boot(t, testConfig(t, ""))
	c := clientsOf(t, n)
	for _, v := range versions {
		for pub := range 3 {
			for sub := range 3 {
				name := fmt.Sprintf("%s/%d/%d", v, pub, sub)
				s := c.sub("-V", v, "-q", fmt.Sprint(sub), "-t", name, "-C", "20")
				lines, want := "", []string(nil)
				for i := range 20 {
					lines += fmt.Sprintf("message %d\n", i)
					want = append(want, fmt.Sprintf("%s|%d|0|message %d", name, min(pub, sub), i))
				}
				c.run(lines, tool(t, "mosquitto_pub"), "-h", c.host, "-p", c.port, "-V", v, "-q", fmt.Sprint(pub), "-t", name, "-l")
				s.expect(want...)
				s.stop()
			}
		}
	}
}

func TestForeignRetainedAndWill(t *testing.T) {
	n := boot(t, testConfig(t, ""))
	c := clientsOf(t, n)
	for _, v := range versions {
		c.pub("-V", v, "-q", "1", "-r", "-t", v+"/state", "-m", "old")
		c.pub("-V", v, "-q", "1", "-r", "-t", v+"/state", "-m", "new")
		s := c.sub("-V", v, "-q", "1", "-t", v+"/#")
		s.expect(v + "/state|1|1|new")
		c.pub("-V", v, "-q", "1", "-r", "-t", v+"/state", "-n")
		s.expect(v+"/state|1|1|new", v+"/state|1|0|")
		s.stop()

		s = c.sub("-V", v, "-q", "1", "-t", v+"/#")
		mortal := c.sub("-V", v, "-q", "1", "-t", "nothing", "-i", "mortal-"+v, "--will-topic", v+"/died", "--will-payload", "too young", "--will-qos", "1", "--will-retain")
		mortal.stop()
		s.expect(v + "/died|1|0|too young")
		late := c.sub("-V", v, "-q", "1", "-t", v+"/#")
		late.expect(v + "/died|1|1|too young")
	}
}

// A session outlives its connection, and the node.
func TestForeignPersistentSession(t *testing.T) {
	conf := testConfig(t, "")
	n := boot(t, conf)
	c := clientsOf(t, n)
	session := func(v string, q int) []string {
		args := []string{"-V", v, "-q", fmt.Sprint(q), "-i", fmt.Sprintf("keeper-%s-%d", v, q), "-c", "-t", v + "/keep"}
		if v == "mqttv5" {
			args = append(args, "-x", "3600")
		}
		return args
	}
	want := map[string][]string{}
	for _, v := range versions {
		for q := 1; q <= 2; q++ {
			c.sub(session(v, q)...).stop()
			for i := range 6 {
				want[fmt.Sprint(v, q)] = append(want[fmt.Sprint(v, q)], fmt.Sprintf("%s/keep|%d|0|for later %d", v, q, i))
			}
		}
		for i := range 3 {
			c.pub("-V", v, "-q", "2", "-t", v+"/keep", "-m", fmt.Sprintf("for later %d", i))
		}
	}
	halt(t, n)
	n = boot(t, conf)
	c = clientsOf(t, n)
	for _, v := range versions {
		for i := 3; i < 6; i++ {
			c.pub("-V", v, "-q", "2", "-t", v+"/keep", "-m", fmt.Sprintf("for later %d", i))
		}
		for q := 1; q <= 2; q++ {
			c.sub(session(v, q)...).expect(want[fmt.Sprint(v, q)]...)
		}
	}
}

const fleetRoutes = `
routes:
  - {mqtt: "fleet/{vehicle}/telemetry", topic: telemetry, key: "{vehicle}", compression: zstd, partitions: 3}
  - {mqtt: "fleet/{vehicle}/cmd", topic: commands, key: "{vehicle}", direction: both, partitions: 3}
  - {mqtt: "live/#", store: false}
`

func TestForeignKcat(t *testing.T) {
	n := boot(t, testConfig(t, fleetRoutes))
	c := clientsOf(t, n)

	// List.
	if out := c.kcat("", "-L"); !strings.Contains(out, `topic "telemetry" with 3 partitions`) || !strings.Contains(out, `topic "mqtt" with 8 partitions`) ||
		strings.Contains(out, "__millrace") {
		t.Errorf("list: %s", out)
	}
	// Consume what devices published, with its contract.
	c.pub("-V", "mqttv5", "-q", "1", "-t", "fleet/truck-7/telemetry", "-m", "21.5", "-i", "device-7", "-D", "publish", "user-property", "unit", "C",
		"-D", "publish", "content-type", "text/plain")
	out := c.kcat("", "-C", "-t", "telemetry", "-e", "-f", `%k|%s|%h\n`)
	for _, want := range []string{"truck-7|21.5|mqtt.topic=fleet/truck-7/telemetry", "mqtt.qos=1", "mqtt.client=device-7", "mqtt.content-type=text/plain", "unit=C"} {
		if !strings.Contains(out, want) {
			t.Errorf("consume: %q has no %q", out, want)
		}
	}
	// Produce to a topic of Kafka's own, and read it back in a group, twice: offsets are kept.
	lines := "a:1\nb:2\nc:3\n"
	c.kcat(lines, "-P", "-t", "orders", "-K", ":")
	group := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, tool(t, "kcat"), "-b", c.kafka, "-q", "-e", "-X", "auto.offset.reset=earliest", "-G", "shop", "-f", `%k:%s\n`, "orders").Output()
		if err != nil {
			t.Fatalf("group: %v", err)
		}
		return string(out)
	}
	sorted := func(s string) string {
		ls := strings.SplitAfter(s, "\n")
		slices.Sort(ls)
		return strings.Join(ls, "")
	}
	if out := group(); sorted(out) != lines {
		t.Errorf("group: %q", out)
	}
	c.kcat("d:4\n", "-P", "-t", "orders", "-K", ":")
	if out := group(); out != "d:4\n" {
		t.Errorf("group, again: %q", out)
	}
}

// A record that kcat produces reaches the devices, through the route that runs both ways.
func TestForeignCommands(t *testing.T) {
	n := boot(t, testConfig(t, fleetRoutes))
	c := clientsOf(t, n)
	for _, v := range versions {
		truck := c.sub("-V", v, "-q", "2", "-t", "fleet/truck-7/cmd")
		all := c.sub("-V", v, "-q", "1", "-t", "fleet/+/cmd")
		c.kcat("truck-7:stop\ntruck-8:go\n", "-P", "-t", "commands", "-K", ":", "-p", "0", "-H", "by=dispatcher", "-H", "mqtt.topic=fleet/forged/cmd")
		truck.expect("fleet/truck-7/cmd|2|0|stop")
		all.expect("fleet/truck-7/cmd|1|0|stop", "fleet/truck-8/cmd|1|0|go")
		truck.stop()
		all.stop()
	}
	// What cannot be rendered is dead-lettered, with its reason.
	c.kcat("a/b:lost\n", "-P", "-t", "commands", "-K", ":")
	eventually(t, "the dead letter is written", func() bool { return n.store.Stats().DeadLetters["written"] == 1 })
	if out := c.kcat("", "-C", "-t", "commands.dlq", "-e", "-f", `%k|%s|%h\n`); !strings.Contains(out, "a/b|lost|") || !strings.Contains(out, "mr-dlq-reason=") {
		t.Errorf("dead letter: %q", out)
	}
	// The route's partitions cannot change: it would break the order of keys.
	if out, err := exec.Command(tool(t, "kcat"), "-b", c.kafka, "-L", "-t", "commands").CombinedOutput(); err != nil || !strings.Contains(string(out), "with 3 partitions") {
		t.Errorf("%s %v", out, err)
	}
}

// Messages of a `store: false` route reach who is there, and nobody else.
func TestForeignLive(t *testing.T) {
	n := boot(t, testConfig(t, fleetRoutes))
	c := clientsOf(t, n)
	s := c.sub("-V", "mqttv5", "-q", "2", "-t", "live/#")
	c.pub("-V", "mqttv5", "-q", "1", "-t", "live/speed", "-m", "80")
	s.expect("live/speed|0|0|80")
	if st := n.store.Stats(); st.Appended != 0 || st.Unlogged != 1 {
		t.Errorf("%+v", st)
	}
	if st := n.broker.Stats(); st.Unreceipted != 1 {
		t.Errorf("unreceipted %d", st.Unreceipted)
	}
}
