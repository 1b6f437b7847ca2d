package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// runTool runs a program to its end, and returns what it writes to standard output.
func runTool(t *testing.T, in, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(deadline(t, 60*time.Second), program, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s%s", program, args, err, &out, &errs)
	}
	return out.String()
}

// TestForeignKcatSameBytes: `millrace consume` writes, byte for byte, what kcat writes for the same flags, and each reads what the other has written.
func TestForeignKcatSameBytes(t *testing.T) {
	kcat, err := exec.LookPath("kcat")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("kcat is not installed")
		}
		t.Skip("SKIPPED: kcat is not installed")
	}
	n := newNode(t, "")
	n.start()
	runTool(t, "", n.bin, "topic", "create", "t", "--partitions", "2", "-b", n.kafka)

	cl, err := kgo.NewClient(kgo.SeedBrokers(n.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	at := time.UnixMilli(1_777_000_000_000)
	h := func(k string, v []byte) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: v} }
	for i, r := range []*kgo.Record{
		{Key: []byte("k"), Value: []byte("plain")},
		{Value: []byte("no key")},
		{Key: []byte("tombstone")},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("q\"\\/\b\f\n\r\t\x01\x1f\x7f"), Value: []byte("ü€ 🚚 \u2028 <&>")},
		{Key: []byte("headers"), Value: []byte("v"), Headers: []kgo.RecordHeader{h("a", []byte("1")), h("b", nil), h("c", []byte{}), h("a", []byte("2"))}},
		{Key: []byte("long"), Value: bytes.Repeat([]byte("x"), 5000)},
		{Key: []byte("last"), Value: []byte("100%")},
	} {
		r.Topic, r.Timestamp = "t", at.Add(time.Duration(i)*time.Second)
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}

	start := fmt.Sprintf("s@%d", at.Add(3*time.Second).UnixMilli())
	for _, args := range [][]string{
		{},
		{"-K", ":"},
		{"-K", `\t`, "-D", `\x7c\n`},
		{"-Z", "-K", ": "},
		{"-f", `%t [%p] at %o: key %k(%K) %s(%S) %T %h %%\n`},
		{"-Z", "-f", `%k=%s\x2c\t\r\\ %h\n`},
		{"-f", `%R%s`},
		{"-f", `a\x41\065\q%p\`},
		{"-J"},
		{"-J", "-D", `\n\n`},
		{"-o", "beginning", "-c", "3"},
		{"-o", "2", "-f", `%o\n`},
		{"-o", "-3", "-f", `%o\n`},
		{"-o", "-1", "-J"},
		{"-o", "end"},
		{"-o", start, "-f", `%o %T\n`},
		{"-o", fmt.Sprintf("s@%d", at.Add(time.Hour).UnixMilli()), "-f", `%o\n`},
		{"-o", fmt.Sprintf("e@%d", at.Add(5*time.Second).UnixMilli()), "-f", `%o %T\n`},
		{"-o", start, "-o", fmt.Sprintf("e@%d", at.Add(5*time.Second).UnixMilli()), "-f", `%o %T\n`},
	} {
		args = append([]string{"-t", "t", "-p", "0", "-e", "-q", "-b", n.kafka}, args...)
		theirs := runTool(t, "", kcat, append([]string{"-C"}, args...)...)
		ours := runTool(t, "", n.bin, append([]string{"consume"}, args...)...)
		if ours != theirs {
			t.Errorf("%q\nmillrace %q\nkcat     %q", args, ours, theirs)
		}
	}

	// Each produces the same records of the same input.
	for i, args := range [][]string{
		{"-p", "1"},
		{"-p", "1", "-K", ":"},
		{"-p", "1", "-K", ":", "-Z", "-H", "a=1", "-H", "b", "-H", "c="},
		{"-p", "1", "-K", "::", "-D", ";", "-k", "fixed", "-z", "zstd"},
		{"-p", "1", "-c", "2", "-z", "lz4"},
	} {
		input := "a:1\n\n:2\nb:\nnone\nc::3;d::4:5;\ntail"
		read := func() string {
			return runTool(t, "", kcat, "-C", "-t", "t", "-p", "1", "-o", "beginning", "-e", "-q", "-b", n.kafka, "-f", `%K %S %k %s %h|`)
		}
		before := read()
		runTool(t, input, kcat, append([]string{"-P", "-t", "t", "-b", n.kafka, "-X", "acks=all"}, args...)...)
		between := read()
		runTool(t, input, n.bin, append([]string{"produce", "-t", "t", "-b", n.kafka}, args...)...)
		theirs, ours := strings.TrimPrefix(between, before), strings.TrimPrefix(read(), between)
		if ours != theirs || ours == "" {
			t.Errorf("%d, %q\nmillrace %q\nkcat     %q", i, args, ours, theirs)
		}
	}

	// A group that kcat has left is described, and put back.
	runTool(t, "", kcat, "-b", n.kafka, "-q", "-G", "shop", "-X", "auto.offset.reset=earliest", "-c", "5", "t")
	if out := runTool(t, "", n.bin, "group", "reset", "shop", "--to-offset", "1", "-t", "t:0", "-b", n.kafka); !strings.Contains(out, "→") {
		t.Errorf("reset: %s", out)
	}
	offsets, err := kadm.NewClient(cl).FetchOffsets(t.Context(), "shop")
	if o, ok := offsets.Lookup("t", 0); err != nil || !ok || o.At != 1 {
		t.Errorf("the group is at %v, %v", o.At, err)
	}
	var got []string
	for line := range strings.Lines(runTool(t, "", kcat, "-b", n.kafka, "-q", "-G", "shop", "-e", "-f", `%p %o\n`, "t")) {
		if o, ok := strings.CutPrefix(line, "0 "); ok {
			got = append(got, strings.TrimSpace(o))
		}
	}
	if !slices.Equal(got, []string{"1", "2", "3", "4", "5", "6", "7"}) {
		t.Errorf("kcat goes on with %q of partition 0", got)
	}
}
