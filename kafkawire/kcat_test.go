package kafkawire

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// kcat runs kcat (librdkafka) against the node. The test is skipped, loudly, where there is none.
func (n *node) kcat(stdin string, args ...string) string {
	n.t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		n.t.Skip("KCAT IS NOT INSTALLED: librdkafka is not tested here")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"-b", n.addr}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		n.t.Fatalf("kcat %v: %v\n%s", args, err, errs.String())
	}
	// What old versions say when a range of versions they look for is not there, see TestAPIVersions.
	if s := errs.String(); strings.Contains(s, "not support") || strings.Contains(s, "ERROR") {
		n.t.Fatalf("kcat %v complains:\n%s", args, s)
	}
	return out.String()
}

func TestKcat(t *testing.T) {
	n := start(t, Options{AutoCreate: true})
	n.topic("a", 1, nil)
	if out := n.kcat("", "-L"); !strings.Contains(out, `topic "a" with 1 partitions`) || strings.Contains(out, offsetsTopic) {
		t.Fatalf("list:\n%s", out)
	}
	var want []string
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		var lines []string
		for i := range 50 {
			lines = append(lines, fmt.Sprintf("%s-%d-%s", codec, i, strings.Repeat("x", 100)))
		}
		want = append(want, lines...)
		n.kcat(strings.Join(lines, "\n")+"\n", "-P", "-t", "a", "-p", "0", "-z", codec, "-X", "acks=all", "-X", "enable.idempotence=true")
	}
	codecs := map[string]bool{}
	topic, _ := n.eng.TopicByName("a")
	for _, b := range n.stored(topic, 0) {
		codecs[b.Codec().String()] = true
	}
	if len(codecs) != 5 {
		t.Fatalf("the log holds batches of %v: librdkafka did not compress all it was told to", codecs)
	}
	if got := lines(n.kcat("", "-C", "-t", "a", "-e", "-q")); !slices.Equal(got, want) {
		t.Fatalf("consumed %d of %d lines", len(got), len(want))
	}
	n.kcat("k:v\n", "-P", "-t", "made-by-kcat", "-K", ":")
	if got := lines(n.kcat("", "-C", "-t", "made-by-kcat", "-e", "-q", "-f", "%k=%s\n")); !slices.Equal(got, []string{"k=v"}) {
		t.Fatalf("consumed %q", got)
	}
	if got := lines(n.kcat("", "-Q", "-t", "a:0:-1")); !slices.Equal(got, []string{"a [0] offset 250"}) {
		t.Fatalf("offsets by time: %q", got)
	}
	if got := lines(n.kcat("", "-C", "-t", "a", "-o", "s@0", "-c", "1", "-q")); !slices.Equal(got, want[:1]) {
		t.Fatalf("from a time: %q", got)
	}
}

func TestKcatGroup(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 2, nil)
	group := []string{"-G", "g", "-q", "-X", "auto.offset.reset=earliest", "-X", "heartbeat.interval.ms=200"}
	n.kcat("1\n2\n3\n", "-P", "-t", "a", "-p", "0")
	if got := lines(n.kcat("", append(group, "-c", "3", "a")...)); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Fatalf("first: %q", got)
	}
	n.restart()
	n.kcat("4\n", "-P", "-t", "a", "-p", "0")
	if got := lines(n.kcat("", append(group, "-c", "1", "a")...)); !slices.Equal(got, []string{"4"}) {
		t.Fatalf("after a restart: %q", got)
	}
	if at := committed(n.dial(), "g", "a", 0); at != 4 {
		t.Fatalf("committed %d", at)
	}
}

func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }
