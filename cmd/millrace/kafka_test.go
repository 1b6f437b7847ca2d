package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafka is a cluster in this process, for the commands that ask one.
type kafkaBench struct {
	t  *testing.T
	at string
	cl *kgo.Client
}

func newKafkaBench(t *testing.T) *kafkaBench {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.DefaultProduceTopic("orders"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &kafkaBench{t, k.ListenAddrs()[0], cl}
}

func (k *kafkaBench) call(in string, args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(k.t.Context(), append(args, "-b", k.at), env{In: strings.NewReader(in), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

// says runs a command that ends well, and looks for texts in what it prints.
func (k *kafkaBench) says(args []string, want ...string) string {
	k.t.Helper()
	code, out, errs := k.call("", args...)
	for _, w := range want {
		if code != exitOK || !strings.Contains(out, w) {
			k.t.Errorf("%q: %d\n%s%s\nwant %q", args, code, out, errs, w)
		}
	}
	return out
}

func TestTopicCommands(t *testing.T) {
	k := newKafkaBench(t)
	k.says([]string{"topic", "create", "a", "b", "-p", "3", "--set", "retention.ms=1000"}, "a: created", "b: created")
	k.says([]string{"topic", "list"}, "TOPIC", "a ", "orders  2")
	k.says([]string{"topic", "describe", "a"}, "3 partitions, 0 records", "PARTITION", "retention.ms", "1000")
	k.says([]string{"topic", "alter", "a", "--set", "retention.ms=2000", "--dry-run"}, "would be altered", "1000", "2000")
	k.says([]string{"topic", "describe", "a"}, "1000")
	k.says([]string{"topic", "alter", "a", "--set", "retention.ms=2000", "--partitions", "5"}, "a: altered")
	var d struct {
		Partitions []struct{ Partition, Leader int }
		Configs    []struct{ Name, Value string }
	}
	if err := json.Unmarshal([]byte(k.says([]string{"topic", "describe", "a", "-o", "json"}, "{")), &d); err != nil || len(d.Partitions) != 5 {
		t.Errorf("%+v %v", d, err)
	}
	for _, c := range []struct {
		args []string
		code int
		errs string
	}{
		{[]string{"topic", "create", "a"}, exitFailed, "TOPIC_ALREADY_EXISTS"},
		{[]string{"topic", "create", "a/b"}, exitUsage, "cannot be the name"},
		{[]string{"topic", "create", "c", "--set", "x"}, exitUsage, "NAME=VALUE"},
		{[]string{"topic", "describe", "nix\x1b[2J"}, exitFailed, `no such topic: "nix\x1b[2J"`},
		{[]string{"topic", "alter", "a"}, exitUsage, "nothing to alter"},
		{[]string{"topic", "alter", "a", "--set", "x=1", "--unset", "x"}, exitUsage, "exclude"},
		{[]string{"topic", "delete", "a"}, exitUsage, "--yes"},
		{[]string{"topic", "list", "-o", "xml"}, exitUsage, "text or json"},
	} {
		if code, out, errs := k.call("", c.args...); code != c.code || !strings.Contains(errs, c.errs) || out != "" {
			t.Errorf("%q: %d %s %s", c.args, code, out, errs)
		}
	}
	// One that fails does not hide the others.
	if code, out, errs := k.call("", "topic", "delete", "a", "nix", "b", "--yes"); code != exitFailed || !strings.Contains(out, "a: deleted\nb: deleted") || !strings.Contains(errs, `"nix"`) {
		t.Errorf("%d %s %s", code, out, errs)
	}
	var o, e bytes.Buffer
	if code := run(t.Context(), []string{"topic", "list", "-b", "127.0.0.1:1"}, env{Out: &o, Err: &e}); code != exitFailed || !strings.Contains(e.String(), "refused") || !strings.Contains(e.String(), "--brokers") {
		t.Errorf("no broker: %d %s", code, &e)
	}
	if code := run(t.Context(), []string{"topic", "list", "-b", "http://x"}, env{Out: &o, Err: &e}); code != exitUsage || !strings.Contains(e.String(), "--brokers http://x: write kafka://") {
		t.Errorf("no URL: %d %s", code, &e)
	}
}

func TestGroupCommands(t *testing.T) {
	k := newKafkaBench(t)
	k.says([]string{"group", "list"}, "there are no groups")
	for range 4 {
		if err := k.cl.ProduceSync(t.Context(), &kgo.Record{Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	hostile := "g\x1b[2J"
	o := kadm.Offsets{}
	o.AddOffset("orders", 0, 1, -1)
	if err := kadm.NewClient(k.cl).CommitAllOffsets(t.Context(), hostile, o); err != nil {
		t.Fatal(err)
	}
	if out := k.says([]string{"group", "list"}, `"g\x1b[2J"`, "Empty"); strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
	if out := k.says([]string{"group", "describe", hostile}, "lag: 3 records", "orders  0"); strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
	k.says([]string{"group", "reset", hostile, "--shift", "-1", "--dry-run"}, "would be reset; nothing was changed", "→", "-1")
	var g struct {
		Lag        int      `json:"lag"`
		LagSeconds *float64 `json:"lag_seconds"`
	}
	if err := json.Unmarshal([]byte(k.says([]string{"group", "describe", hostile, "-o", "json"}, "{")), &g); err != nil || g.Lag != 3 || g.LagSeconds == nil {
		t.Errorf("%+v %v", g, err)
	}
	k.says([]string{"group", "reset", hostile, "--to-latest"}, "was reset", "+3")
	k.says([]string{"group", "describe", hostile}, "lag: 0 records, 0")
	for _, c := range []struct {
		args []string
		code int
		errs string
	}{
		{[]string{"group", "reset", hostile}, exitUsage, "say where to"},
		{[]string{"group", "reset", hostile, "--to-latest", "--shift", "1"}, exitUsage, "to-latest"},
		{[]string{"group", "reset", hostile, "--to-time", "noon"}, exitUsage, "no time"},
		{[]string{"group", "reset", "nix", "--to-latest"}, exitFailed, "no such group"},
		{[]string{"group", "describe", "nix"}, exitFailed, "no such group"},
	} {
		if code, out, errs := k.call("", c.args...); code != c.code || !strings.Contains(errs, c.errs) || out != "" {
			t.Errorf("%q: %d %s %s", c.args, code, out, errs)
		}
	}
}

func TestProduceConsume(t *testing.T) {
	k := newKafkaBench(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"one": "whole\nfile", "lines": "l1\nl2\n", "big": strings.Repeat("x", 2000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	produce := func(in string, want int, args ...string) string {
		t.Helper()
		code, out, errs := k.call(in, append([]string{"produce", "-t", "orders", "-p", "0"}, args...)...)
		if code != want {
			t.Errorf("produce %q: %d %s", args, code, errs)
		}
		return out + errs
	}
	produce("a:1\n\nb:2", exitOK, "-K", ":", "-H", "h=1")
	produce("", exitOK, filepath.Join(dir, "one"), "-k", "key")
	produce("", exitOK, "-l", filepath.Join(dir, "lines"), "-z", "gzip")
	if out := produce("x;y;z", exitOK, "-D", ";", "-c", "2", "-T"); out != "x;y;" {
		t.Errorf("tee: %q", out)
	}
	_, grouped, said := k.call("", "consume", "-G", "readers", "-o", "beginning", "-e", "-f", `%t;`, "orders")
	if !strings.Contains(grouped, "orders;") || !strings.Contains(said, "% Group readers rebalanced") {
		t.Errorf("a group reads %q and says %q", grouped, said)
	}
	_, out, errs := k.call("", "consume", "-t", "orders", "-p", "0", "-e", "-f", `%k=%s %h|`)
	if out != "a=1 h=1|b=2 h=1|key=whole\nfile |=l1 |=l2 |=x |=y |" || !strings.Contains(errs, "Reached end of topic orders [0] at offset 7") {
		t.Errorf("%q %q", out, errs)
	}
	// What cannot be delivered is not passed over in silence.
	if out := produce("ok\n"+strings.Repeat("x", 3000)+"\nmore\n", exitFailed, "--max-bytes", "1024"); !strings.Contains(out, "larger than 1024") {
		t.Error(out)
	}
	produce("", exitFailed, filepath.Join(dir, "big"), "--max-bytes", "1024")
	produce("", exitFailed, filepath.Join(dir, "nix"))
	for _, c := range []struct {
		args []string
		code int
		errs string
	}{
		{[]string{"produce"}, exitUsage, "topic"},
		{[]string{"produce", "-t", "nix"}, exitFailed, "no such topic"},
		{[]string{"produce", "-t", "orders", "-z", "rar"}, exitUsage, "gzip"},
		{[]string{"produce", "-t", "orders", "-D", ""}, exitUsage, "-D"},
		{[]string{"produce", "-t", "orders", "-H", "=x"}, exitUsage, "-H"},
		{[]string{"consume", "-t", "orders", "-o", "stored"}, exitUsage, "-o"},
		{[]string{"consume", "-t", "orders", "-o", "1", "-o", "2"}, exitUsage, "one place"},
		{[]string{"consume", "-t", "orders", "-f", "%z"}, exitUsage, "format"},
		{[]string{"consume", "-t", "orders", "-p", "7"}, exitUsage, "partitions 0 to 1"},
		{[]string{"consume", "-t", "orders", "-J", "-f", "x"}, exitUsage, "exclude"},
		{[]string{"consume", "-t", "orders", "-s", "z"}, exitUsage, "-s"},
		{[]string{"consume"}, exitUsage, "-t TOPIC"},
		{[]string{"consume", "orders"}, exitUsage, "-t"},
		{[]string{"consume", "-G", "g"}, exitUsage, "name the topics"},
		{[]string{"consume", "-G", "g", "-t", "orders"}, exitUsage, "without -t"},
		{[]string{"consume", "-G", "g", "-o", "7", "orders"}, exitUsage, "group reset"},
		{[]string{"consume", "-t", "orders", "--server-assigns"}, exitUsage, "-G"},
	} {
		if code, out, errs := k.call("", c.args...); code != c.code || !strings.Contains(errs, c.errs) || out != "" {
			t.Errorf("%q: %d %s %s", c.args, code, out, errs)
		}
	}
}

// Who is interrupted has written what was read whole, and says so by the exit code if there is more.
func TestProduceInterrupted(t *testing.T) {
	k := newKafkaBench(t)
	for i, c := range []struct {
		rest string
		code int
		says string
	}{{"", exitOK, "all 2 records that were read are delivered"}, {"half a rec", exitFailed, "2 records were delivered; 10 bytes that were read are not sent"}} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			in, feed := io.Pipe()
			defer feed.Close()
			follow := start(t, nil, "consume", "-t", "orders", "-p", fmt.Sprint(i), "-b", k.at)
			p := startWith(t, in, nil, "produce", "-t", "orders", "-p", fmt.Sprint(i), "-b", k.at)
			if _, err := feed.Write([]byte("one\ntwo\n" + c.rest)); err != nil {
				t.Fatal(err)
			}
			follow.until("one\ntwo\n")
			p.cancel()
			if code := p.wait(); code != c.code || !strings.Contains(p.err.String(), c.says) {
				t.Errorf("%d %s", code, &p.err)
			}
			follow.cancel()
			if code := follow.wait(); code != exitOK || follow.out.String() != "one\ntwo\n" {
				t.Errorf("consume: %d %q %s", code, &follow.out, &follow.err)
			}
		})
	}
}
