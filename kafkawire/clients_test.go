package kafkawire

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog"
)

// foreign is a client of Kafka that is tried: a row of the table in docs/kafka-compatibility.md.
type foreign struct {
	name, version string
	pin           string // what fixes the version, in scripts/test-clients or a go.mod; none for what the system has
	codecs        string // each is produced and consumed
	groups        string // protocols of groups; every reader commits, leaves, and comes again to what it had not read
	transactions  string
	shown         string // by which test
	in            string // its folder in .tools
	tool          string // what else it needs
	run           func(*testing.T, foreign)
}

const (
	allCodecs      = "none gzip snappy lz4 zstd"
	inTransactions = "one aborted, one committed with offsets, read_committed"
)

var foreigners = []foreign{
	{name: "franz-go", version: "1.22.2", pin: "franz-go v1.22.2", codecs: allCodecs, groups: "classic, consumer, static members", transactions: inTransactions,
		shown: "TestFranzEveryCodec TestFranzGroup TestFranzServerSideBalancer TestFranzStaticMember TestFranzTransactions"},
	{name: "librdkafka (kcat of Debian)", version: "2.0.2 (1.7.1)", codecs: allCodecs, groups: "classic", transactions: "it has none", shown: "TestKcat TestKcatGroup"},
	{name: "librdkafka (confluent-kafka for Python)", version: "2.16.1", pin: "librdkafka=2.16.1", codecs: allCodecs, groups: "classic, consumer",
		transactions: inTransactions, in: "librdkafka-2.16.1", tool: "python3", run: script("librdkafka.py")},
	{name: "kafka-python", version: "3.0.12", pin: "kafkapython=3.0.12", codecs: allCodecs, groups: "classic",
		transactions: inTransactions, in: "kafkapython-3.0.12", tool: "python3", run: script("kafkapython.py")},
	{name: "kafkajs", version: "2.2.4", pin: "kafkajs=2.2.4", codecs: "none gzip snappy", groups: "classic",
		transactions: inTransactions, in: "kafkajs-2.2.4", tool: "node", run: script("kafkajs.js")},
	{name: "sarama", version: "1.61.1", pin: "IBM/sarama v1.61.1", codecs: allCodecs, groups: "classic", transactions: inTransactions, in: "kafkago/sarama", run: script("")},
	{name: "segmentio kafka-go", version: "0.4.51", pin: "segmentio/kafka-go v0.4.51", codecs: allCodecs, groups: "classic",
		transactions: "it cannot write in one", in: "kafkago/segmentio", run: script("")},
	{name: "Apache Kafka's Java client", version: "4.3.1", pin: "kafkajava=4.3.1", codecs: allCodecs, groups: "classic, consumer",
		transactions: inTransactions, in: "kafkajava-4.3.1", tool: "java", run: script("Clients")},
	{name: "Kafka Streams", version: "4.3.1", pin: "kafkajava=4.3.1", codecs: "none", groups: "classic",
		transactions: "word count, exactly once v2, over kill -9 of it and a restart of the node", in: "kafkajava-4.3.1", tool: "java", run: streams},
	{name: "Kafka Connect", version: "4.3.1", pin: "kafkajava=4.3.1", codecs: "none", groups: "classic",
		transactions: "none; file source and file sink, standalone, stopped and started", in: "kafkajava-4.3.1", tool: "java", run: connect},
}

func (f foreign) String() string {
	shown := f.shown
	if shown == "" {
		shown = "TestForeignClients"
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", f.name, f.version, f.codecs, f.groups, f.transactions, shown)
}

// The table of clients in the documentation is the table of the tests, and its versions are those that are fetched.
func TestDocumentedClients(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	_, text, _ := strings.Cut(read("../docs/kafka-compatibility.md"), "\n## Clients that are tried\n")
	text, _, _ = strings.Cut(text, "\n## ")
	documented := regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(text, -1)
	if len(documented) < 2 {
		t.Fatal("there is no table of clients")
	}
	var tried []string
	for _, f := range foreigners {
		tried = append(tried, f.String())
	}
	if documented = documented[2:]; !slices.Equal(documented, tried) {
		t.Errorf("docs/kafka-compatibility.md says\n%s\ntried are\n%s", strings.Join(documented, "\n"), strings.Join(tried, "\n"))
	}
	pins := read("../scripts/test-clients") + read("../go.mod") + read("testdata/clients/go/go.mod")
	poms := read("testdata/clients/java/pom.xml")
	for _, f := range foreigners {
		if f.pin != "" && (!strings.Contains(pins, f.pin) || !strings.HasSuffix(f.pin, f.version)) {
			t.Errorf("%s: %s is not what is fetched", f.name, f.version)
		}
		if strings.HasPrefix(f.pin, "kafkajava") && strings.Count(poms, "<version>"+f.version+"</version>") != 3 {
			t.Errorf("%s: pom.xml has other versions than %s", f.name, f.version)
		}
		if (f.run == nil) != (f.shown != "") {
			t.Errorf("%s: no test, or two", f.name)
		}
	}
}

// Clients of other people, each by its own program in testdata/clients. What is not there is skipped, loudly.
func TestForeignClients(t *testing.T) {
	for _, f := range foreigners {
		if f.run == nil {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			if _, err := os.Stat("../.tools/" + f.in); err != nil {
				t.Skipf("%s IS NOT HERE: scripts/test-clients fetches it", strings.ToUpper(f.name))
			}
			if _, err := exec.LookPath(f.tool); f.tool != "" && err != nil {
				t.Skipf("%s IS NOT INSTALLED: %s is not tested", strings.ToUpper(f.tool), f.name)
			}
			f.run(t, f)
		})
	}
}

// command is a client's program with the arguments; it inherits what finds its modules. Programs of Java are named by their class.
func (f foreign) command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	tools, err := filepath.Abs("../.tools/" + f.in)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	var cmd *exec.Cmd
	switch f.tool {
	case "":
		cmd = exec.CommandContext(ctx, tools, args...)
	case "java":
		classes := filepath.Join(tools, "*")
		if source := "testdata/clients/java/" + program + ".java"; program == filepath.Base(program) && fileIsThere(source) {
			classes = f.compile(t, tools, source) + string(os.PathListSeparator) + classes
		}
		options := []string{"-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classes, program}
		cmd = exec.CommandContext(ctx, f.tool, append(options, args...)...)
	default:
		cmd = exec.CommandContext(ctx, f.tool, append([]string{"testdata/clients/" + program}, args...)...)
		cmd.Env = append(os.Environ(), "PYTHONPATH="+tools, "PYTHONDONTWRITEBYTECODE=1", "NODE_PATH="+filepath.Join(tools, "node_modules"))
	}
	return cmd
}

func fileIsThere(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// compile compiles a program by the compiler among the jars, and returns the folder of its classes.
func (f foreign) compile(t *testing.T, lib, source string) string {
	t.Helper()
	jars, _ := filepath.Glob(filepath.Join(lib, "*.jar"))
	classes := t.TempDir()
	out, err := exec.CommandContext(t.Context(), f.tool, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(lib, "*"), "org.eclipse.jdt.internal.compiler.batch.Main",
		"-17", "-nowarn", "-cp", strings.Join(jars, string(os.PathListSeparator)), "-d", classes, source).CombinedOutput()
	if err != nil {
		t.Fatalf("compiling %s: %v\n%s", source, err, out)
	}
	return classes
}

// script runs a program that goes through what a client can do, telling what it reads, and compares that and what is in the log.
func script(program string) func(*testing.T, foreign) {
	return func(t *testing.T, f foreign) {
		n := start(t, Options{})
		n.topic("a", 2, nil)
		n.topic("a-out", 1, nil)
		cmd := f.command(t, program, n.addr, "a", strings.ReplaceAll(f.codecs, " ", ","))
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s\n%s", err, out, errs.String())
		}
		f.check(t, n, string(out))
	}
}

// check compares what a script has read with what it wrote.
func (f foreign) check(t *testing.T, n *node, out string) {
	t.Helper()
	read := map[string][]string{}
	for _, line := range lines(out) {
		word, rest, _ := strings.Cut(line, " ")
		read[word] = append(read[word], rest)
	}
	if got := strings.Join(read["version"], ""); got != f.version && !strings.HasSuffix(got, " "+f.version) {
		t.Errorf("this is version %q, not %s", got, f.version)
	}
	var written []string
	for _, codec := range strings.Fields(f.codecs) {
		for i := range 20 {
			written = append(written, fmt.Sprint(codec, "-", i))
		}
	}
	same := func(word string, want []string) {
		t.Helper()
		if got := read[word]; !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("%s: %d records, want %d: %q", word, len(got), len(want), got)
		}
	}
	same("read", written)
	same("again", []string{"again-0"})
	if strings.Contains(f.groups, "consumer") {
		same("consumer", append(written, "again-0"))
	}
	codecs, c := map[string]bool{}, n.dial()
	topic, _ := n.eng.TopicByName("a")
	total := int64(0)
	for p := range int32(2) {
		for _, b := range n.stored(topic, p) {
			codecs[b.Codec().String()] = true
		}
		total += max(0, committed(c, "a", "a", p))
	}
	if want := strings.Fields(f.codecs); len(codecs) != len(want) {
		t.Errorf("the log holds batches of %v, want %v", codecs, want)
	}
	if total != int64(len(written)+1) {
		t.Errorf("the group has committed %d of %d records", total, len(written)+1)
	}
	if f.transactions == inTransactions {
		same("committed", []string{"committed-0", "committed-1", "committed-2", "committed-3", "committed-4"})
		if at := committed(c, "a-moved", "a", 0); at != 7 {
			t.Errorf("the offset in the transaction is %d", at)
		}
		if out, _ := n.eng.TopicByName("a-out"); !slices.ContainsFunc(n.stored(out, 0), func(b eventlog.RawBatch) bool { return b.Attributes()&eventlog.AttrTransactional != 0 }) {
			t.Error("nothing was written in a transaction")
		}
	}
}

// Apache Kafka's own consumers go from one group protocol to the other and back, one at a time, with records flowing.
func TestForeignJavaMigrates(t *testing.T) {
	f := foreigners[slices.IndexFunc(foreigners, func(f foreign) bool { return strings.HasPrefix(f.name, "Apache Kafka's") })]
	if _, err := os.Stat("../.tools/" + f.in); err != nil {
		t.Skip("APACHE KAFKA'S JAVA CLIENT IS NOT HERE: scripts/test-clients fetches it")
	}
	if _, err := exec.LookPath(f.tool); err != nil {
		t.Skip("JAVA IS NOT INSTALLED: the change of the group protocol is not tested with it")
	}
	for _, assignor := range []string{"RangeAssignor", "CooperativeStickyAssignor"} {
		t.Run(assignor, func(t *testing.T) {
			n := start(t, Options{ConsumerHeartbeat: 300 * time.Millisecond})
			n.topic("t", 6, nil)
			var errs bytes.Buffer
			cmd := f.command(t, "Rolling", n.addr, "t", assignor)
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s\n%s", err, out, errs.String())
			}
			var said []string
			for _, line := range lines(string(out)) {
				if !strings.HasPrefix(line, "again ") {
					said = append(said, line)
				}
			}
			if want := []string{"type Consumer", "type Classic", "read 420"}; !slices.Equal(said, want) {
				t.Errorf("it says %q, want %q\n%s\n%s", said, want, out, errs.String())
			}
		})
	}
}

// until polls for what another process will do.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// streams counts words: each must be counted once, whatever is killed. With transactions that were not the end of it, or twice the same
// word, the counts of a word would not be 1, 2, 3, ….
func streams(t *testing.T, f foreign) {
	n := start(t, Options{})
	n.topic("lines", 2, nil)
	n.topic("counts", 1, nil)
	state := t.TempDir()
	var errs bytes.Buffer
	launch := func() (*exec.Cmd, io.Closer) {
		cmd := f.command(t, "WordCount", n.addr, "words", "lines", "counts", state)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, in
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.addr), kgo.ConsumeTopics("counts"), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	written, counted := 0, map[string]int{}
	write := func(count int) {
		t.Helper()
		for range count {
			r := &kgo.Record{Topic: "lines", Partition: 0, Key: fmt.Append(nil, written), Value: fmt.Appendf(nil, "all of-%d", written%3)}
			if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			written++
		}
	}
	read := func(want int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		for counted["all"] < want {
			fetches := cl.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatalf("%v of %d counted\n%s", counted, want, errs.String())
			}
			fetches.EachRecord(func(r *kgo.Record) {
				word := string(r.Key)
				if counted[word]++; string(r.Value) != fmt.Sprint(counted[word]) {
					t.Fatalf("%s is %s, the count before was %d", word, r.Value, counted[word]-1)
				}
			})
		}
	}
	cmd, _ := launch()
	write(100)
	read(50) // it is in the midst of it
	cmd.Process.Kill()
	cmd.Wait()
	write(50)
	cmd, in := launch()
	read(150)
	n.restart()
	write(50)
	read(200)
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	if counted["of-0"]+counted["of-1"]+counted["of-2"] != 200 {
		t.Fatalf("counted %v", counted)
	}
}

// connect has lines go from a file through a topic into a file, each once, over a stop and a start.
func connect(t *testing.T, f foreign) {
	n := start(t, Options{})
	n.topic("lines", 1, nil)
	dir := t.TempDir()
	file := func(name string, text ...string) string {
		path := filepath.Join(dir, name)
		if text != nil {
			if err := os.WriteFile(path, []byte(strings.Join(text, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	worker := file("worker.properties", "bootstrap.servers="+n.addr, "key.converter=org.apache.kafka.connect.storage.StringConverter",
		"value.converter=org.apache.kafka.connect.storage.StringConverter", "offset.storage.file.filename="+file("offsets"),
		"offset.flush.interval.ms=1000", "listeners=http://127.0.0.1:0", "plugin.discovery=only_scan", "plugin.path="+dir)
	source := file("source.properties", "name=source", "connector.class=FileStreamSource", "tasks.max=1", "file="+file("in"), "topic=lines")
	sink := file("sink.properties", "name=sink", "connector.class=FileStreamSink", "tasks.max=1", "file="+file("out"), "topics=lines")
	var want []string
	for round := range 2 {
		for i := range 50 {
			want = append(want, fmt.Sprint("line ", round, " ", i))
		}
		file("in", want...)
		cmd := f.command(t, "org.apache.kafka.connect.cli.ConnectStandalone", worker, source, sink)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &errs, &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		until(t, "all lines in the sink's file", func() bool {
			select {
			case err := <-ended:
				t.Fatalf("Connect has ended: %v\n%s", err, errs.String())
			default:
			}
			b, _ := os.ReadFile(file("out"))
			return bytes.Count(b, []byte("\n")) >= len(want)
		})
		cmd.Process.Signal(syscall.SIGTERM) // it commits, then ends by the signal
		<-ended
		if b, _ := os.ReadFile(file("out")); !slices.Equal(lines(string(b)), want) {
			t.Fatalf("the sink has\n%s\n%s", b, errs.String())
		}
	}
}

// What franz-go's transactional group does: what was read and what was made of it are committed together, or not at all.
func TestFranzTransactions(t *testing.T) {
	n := start(t, Options{})
	n.topic("a", 1, nil)
	n.topic("a-out", 1, nil)
	n.dial().produce("a", 0, "1", "2", "3")
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(n.addr), kgo.TransactionalID("tx"), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("a"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, way := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		if err := s.Begin(); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < 3; { // after the abort all of it again
			fetches := s.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatalf("read %d", got)
			}
			fetches.EachRecord(func(r *kgo.Record) {
				got++
				s.Produce(ctx, &kgo.Record{Topic: "a-out", Value: fmt.Appendf(nil, "%s, %v", r.Value, way)}, nil)
			})
		}
		if done, err := s.End(ctx, way); err != nil || done != bool(way) {
			t.Fatalf("the end of %v: %v %v", way, done, err)
		}
	}
	if at := committed(n.dial(), "g", "a", 0); at != 3 {
		t.Fatalf("committed %d", at)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(n.addr), kgo.ConsumeTopics("a-out"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var got []string
	for len(got) < 3 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("read %q", got)
		}
		fetches.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if want := []string{"1, true", "2, true", "3, true"}; !slices.Equal(got, want) {
		t.Fatalf("read %q", got)
	}
}
