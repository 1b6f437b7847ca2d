package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/client"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// program finds a foreign program; its absence is a failure where all tools are promised (CI=true).
func program(t *testing.T, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", names[0])
	}
	t.Skipf("SKIPPED: %s is not installed", names[0])
	return ""
}

const aclOfMosquitto = `# anonymous clients
topic read public/#
topic write public/in

user admin
topic readwrite #

user alice
topic fleet/#
topic deny fleet/secret/#
topic read status/+/x

user bob
topic write fleet/bob/+

pattern write up/%u/data
pattern read down/%c/#
pattern read end/%c
`

// TestForeignMosquittoImport has a Mosquitto and the node that its configuration becomes answer the same questions: who gets in, who may publish what,
// who gets what.
func TestForeignMosquittoImport(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	passwd := program(t, "mosquitto_passwd")
	passwords, address := write("pw", ""), freePort(t)
	for _, name := range []string{"admin", "alice", "bob"} {
		if out, err := exec.Command(passwd, "-b", passwords, name, "of "+name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := os.Chmod(passwords, 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	conf := write("mosquitto.conf", fmt.Sprintf("listener %s 127.0.0.1\nallow_anonymous true\npassword_file %s\nacl_file %s\nlog_dest none\nuser root\n", port, passwords, write("acl", aclOfMosquitto)))

	mosquitto := exec.Command(program(t, "mosquitto", "/usr/sbin/mosquitto"), "-c", conf)
	if err := mosquitto.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { mosquitto.Process.Kill(); mosquitto.Wait() }()
	eventually(t, "Mosquitto listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	theirs := answers(t, address)
	mosquitto.Process.Kill()
	mosquitto.Wait()

	n := newNode(t, "")
	out := filepath.Join(dir, "new")
	if said, err := exec.Command(n.bin, "migrate", "import", conf, "--out", out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	n.mqtt, n.conf = "", filepath.Join(out, "millrace.yaml") // where Mosquitto was
	n.start()
	ours := answers(t, address)
	if !slices.Equal(ours, theirs) {
		for i := range ours {
			if ours[i] != theirs[i] {
				t.Errorf("Millrace: %s; Mosquitto: %s", ours[i], theirs[i])
			}
		}
	}
	eventually(t, "the passwords of all who have logged in are made stronger", func() bool {
		text, err := os.ReadFile(filepath.Join(out, "passwords"))
		return err == nil && !strings.Contains(string(text), "$7$") && strings.Count(string(text), "$argon2id$") == 3
	})
	yes := slices.ContainsFunc(ours, func(s string) bool {
		return strings.HasPrefix(s, "alice publishes") && strings.Contains(s, ": Success")
	})
	no := slices.ContainsFunc(ours, func(s string) bool {
		return strings.HasPrefix(s, "alice publishes") && strings.Contains(s, ": Not authorized")
	})
	if !yes || !no {
		t.Errorf("the questions ask nothing: %v", ours)
	}
}

// answers are what a broker lets whom do.
func answers(t *testing.T, address string) (list []string) {
	t.Helper()
	topics := []string{"public/a", "public/in", "fleet/1", "fleet/secret/2", "fleet/secret", "status/a/x", "status/a/b", "fleet/bob/t", "fleet/bob/t/u", "up/alice/data", "up/bob/data",
		"down/c-alice/x", "down/c-bob/x", "down/c-", "other"}
	connect := func(user, password string) (*client.Client, *packet.Connack, error) {
		o := client.Options{Dial: client.DialTCP(address), Connect: packet.Connect{Version: packet.V5, ClientID: "c-" + user, CleanStart: true, KeepAlive: 60}}
		if user != "anonymous" {
			o.Connect.Username, o.Connect.HasUser, o.Connect.Password, o.Connect.HasPass = user, true, []byte(password), true
		}
		c := client.New(o)
		ack, err := c.Connect(deadline(t, 30*time.Second))
		return c, ack, err
	}
	for _, x := range [][2]string{{"alice", "of bob"}, {"alice", ""}, {"nobody", "of nobody"}, {"admin", "of admin"}} {
		c, _, err := connect(x[0], x[1])
		list = append(list, fmt.Sprintf("%s with %q gets in: %v", x[0], x[1], err == nil))
		c.Drop()
	}
	admin, _, err := connect("admin", "of admin")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Drop()
	for _, user := range []string{"alice", "bob", "anonymous"} {
		c, _, err := connect(user, "of "+user)
		if err != nil {
			t.Fatalf("%s: %v", user, err)
		}
		for _, topic := range topics {
			list = append(list, fmt.Sprintf("%s publishes to %s: %v", user, topic, published(t, c, topic)))
		}
		end := "end/c-" + user
		for _, topic := range append(slices.Clone(topics), end) {
			if _, err := c.Subscribe(deadline(t, 30*time.Second), packet.Filter{Filter: topic, QoS: 1}); err != nil {
				t.Fatalf("%s subscribes to %s: %v", user, topic, err)
			}
		}
		for _, topic := range append(slices.Clone(topics), end) {
			if code := published(t, admin, topic); code.Failed() {
				t.Fatalf("admin publishes to %s: %v", topic, code)
			}
		}
		got := map[string]bool{}
		for !got[end] {
			p, err := c.Receive(deadline(t, 30*time.Second))
			if err != nil {
				t.Fatalf("%s: %v", user, err)
			}
			got[string(p.Topic)] = true
		}
		for _, topic := range topics {
			list = append(list, fmt.Sprintf("%s gets what is published to %s: %v", user, topic, got[topic]))
		}
		c.Drop()
	}
	return list
}

// published is the answer to a publish at QoS 1.
func published(t *testing.T, c *client.Client, topic string) packet.Code {
	t.Helper()
	codes := make(chan packet.Code, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Publish(ctx, &packet.Publish{Topic: []byte(topic), QoS: 1, Payload: []byte("x")}, func(code packet.Code) { codes <- code }); err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
	select {
	case code := <-codes:
		if !code.Failed() {
			return packet.Success // or that nobody subscribes
		}
		return code
	case <-ctx.Done():
		t.Fatalf("publish to %s: no answer", topic)
		return 0
	}
}
