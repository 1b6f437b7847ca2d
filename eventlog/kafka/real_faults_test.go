package kafka

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
)

// realRig is a rig on a real cluster.
func realRig(t testing.TB, config map[string]string) (*rig, *realCluster) {
	t.Helper()
	c := newReal(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	d := c.open(t)
	r := &rig{TB: t, Ledger: logtest.NewLedger(), d: d.Driver, ctx: ctx}
	var err error
	if r.topic, err = d.CreateTopic(ctx, eventlog.TopicSpec{Name: "t", Partitions: 3, Config: config}); err != nil {
		t.Fatal(err)
	}
	return r, c
}

// brokers is the switch of a cluster whose brokers the test may kill.
type brokers struct {
	t   testing.TB
	r   *rig
	cmd string
}

func killable(t testing.TB, r *rig) *brokers {
	t.Helper()
	cmd := os.Getenv("MILLRACE_KAFKA_CONTROL")
	if cmd == "" {
		t.Skip("MILLRACE_KAFKA_CONTROL is not set: no brokers to kill (set it to the absolute path of scripts/kafka)")
	}
	b := &brokers{t, r, cmd}
	t.Cleanup(b.whole)
	return b
}

func (b *brokers) do(args ...string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, b.cmd, args...).CombinedOutput(); err != nil {
		b.t.Fatalf("%s %v: %v\n%s", b.cmd, args, err, out)
	}
}

// whole brings every broker back, with every replica in sync.
func (b *brokers) whole() {
	b.t.Helper()
	b.do("up")
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(os.Getenv("MILLRACE_KAFKA"), ",")...))
	if err != nil {
		b.t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		m, err := adm.Metadata(context.Background())
		behind := err != nil
		for _, topic := range m.Topics {
			for _, p := range topic.Partitions {
				behind = behind || len(p.ISR) < len(p.Replicas)
			}
		}
		if !behind {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the replicas are not in sync: %v", err)
		}
	}
}

// durable waits until so many more records are durable.
func (r *rig) durable(n int) {
	r.Helper()
	for want := r.fates(logtest.Durable) + n; r.fates(logtest.Durable) < want; time.Sleep(5 * time.Millisecond) {
		if r.ctx.Err() != nil {
			r.Fatalf("%d records are durable, want %d", r.fates(logtest.Durable), want)
		}
	}
}

// load appends to all partitions, the last through a writer, as long as there is room, until stop is called.
func (r *rig) load(w eventlog.Writer) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			default:
			}
			if r.Outstanding() > 300 {
				time.Sleep(time.Millisecond)
				continue
			}
			p := int32(i % 3)
			if p == 2 {
				r.Append(w, r.part(2), "w", 1+i%2, 200)
			} else {
				r.Append(r.d, r.part(p), "s", 1+i%3, 200)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	return func() { close(end); <-ended }
}

// TestRealKafkaBrokersKilled: a broker that dies under load costs nothing and repeats nothing. With two dead nothing is
// acknowledged, nothing is refused, and all goes on by itself when they are back. A tail sees the same as a reader.
func TestRealKafkaBrokersKilled(t *testing.T) {
	r, _ := realRig(t, nil)
	b := killable(t, r)
	w, err := r.d.Claim(r.ctx, r.part(2))
	if err != nil {
		t.Fatal(err)
	}
	tail, err := r.d.Tail(r.zero())
	if err != nil {
		t.Fatal(err)
	}
	stop := r.load(w)
	r.durable(300)
	leader := r.d.topics.cached(r.topic.ID).leader(2) // the writer's
	b.do("kill", fmt.Sprint(leader))
	r.durable(300)
	b.do("kill", fmt.Sprint(leader%3+1))
	time.Sleep(500 * time.Millisecond) // what two brokers had when they died may still be answered
	was := r.fates(logtest.Durable)
	time.Sleep(2 * time.Second)
	if now := r.fates(logtest.Durable); now > was {
		t.Errorf("%d records were acknowledged by one broker of three", now-was)
	}
	b.whole()
	r.durable(300)
	stop()
	r.wantAll()
	follow(t, r, tail, r.zero())
	tail.Close()
}

// TestRealKafkaBrokerHangs: a broker that hangs, its connections open, is waited for in vain only so long; what it was sent is
// then given to another, and is there once.
func TestRealKafkaBrokerHangs(t *testing.T) {
	r, _ := realRig(t, nil)
	b := killable(t, r)
	w, err := r.d.Claim(r.ctx, r.part(2))
	if err != nil {
		t.Fatal(err)
	}
	stop := r.load(w)
	r.durable(300)
	leader := fmt.Sprint(r.d.topics.cached(r.topic.ID).leader(2))
	began := time.Now()
	b.do("pause", leader)
	t.Cleanup(func() { b.do("resume", leader) })
	went := func(i int32) int { return len(r.With(r.part(i), logtest.Durable)) }
	was := [3]int{went(0), went(1), went(2)}
	for i := range int32(3) {
		for went(i) < was[i]+200 {
			if r.ctx.Err() != nil {
				t.Fatalf("partition %d does not go on", i)
			}
			if refused := r.With(r.part(i), logtest.Refused); len(refused) > 0 {
				t.Fatalf("partition %d: %q is refused: %v", i, refused[0].Value, refused[0].Err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	t.Logf("all partitions go on %v after broker %s hangs", time.Since(began).Round(time.Millisecond), leader)
	b.do("resume", leader)
	b.whole()
	r.durable(100)
	stop()
	r.wantAll()
}

// TestRealKafkaOpenTransaction: what a stranger has not committed yet holds back what lies behind it, and is itself never seen
// if it is aborted.
func TestRealKafkaOpenTransaction(t *testing.T) {
	r, c := realRig(t, nil)
	p := r.part(0)
	tail, err := r.d.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	for _, commit := range []bool{false, true} {
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.seeds...), kgo.TransactionalID("stranger-"+randomName()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		before := mustEnd(t, r, p)
		value := logtest.AbortedValue
		if commit {
			value = "stranger"
		}
		rec := &kgo.Record{Topic: c.prefix + "t", Partition: 0, Value: []byte(value)}
		if err := cl.ProduceSync(r.ctx, rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
		sent := r.Append(r.d, p, "s", 3, 0)
		r.wait()
		if sent[0].Fate != logtest.Durable {
			t.Fatalf("behind an open transaction an append is %v: %v", sent[0].Fate, sent[0].Err)
		}
		time.Sleep(300 * time.Millisecond)
		if end := mustEnd(t, r, p); end > before {
			t.Errorf("the end went from %d to %d past an open transaction", before, end)
		}
		events, err := tail.Poll(nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Next > rec.Offset {
				t.Errorf("the tail is at %d, past an open transaction at %d", e.Next, rec.Offset)
			}
		}
		if err := cl.EndTransaction(r.ctx, kgo.TransactionEndTry(commit)); err != nil {
			t.Fatal(err)
		}
		for mustEnd(t, r, p) <= sent[2].Offset {
			if r.ctx.Err() != nil {
				t.Fatal("what lies behind the transaction does not become stable")
			}
		}
		if commit {
			break
		}
	}
	got, _, err := r.CheckLog(r.ctx, r.d, p)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(got, func(s logtest.Seen) bool { return s.Value == "stranger" }) {
		t.Errorf("what the stranger committed is not there: %v", got)
	}
	tail.Close()
}

// TestRealKafkaCompacted: where the log was compacted offsets jump, and reading and following it miss nothing that is left.
func TestRealKafkaCompacted(t *testing.T) {
	r, _ := realRig(t, map[string]string{"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01",
		"min.compaction.lag.ms": "0", "max.compaction.lag.ms": "200", "delete.retention.ms": "0"})
	p := r.part(0)
	latest := map[string]string{}
	now := time.Now().UnixMilli()
	put := func(i int) {
		var bl eventlog.Builder
		for k := range 5 {
			key, value := fmt.Sprintf("k%d", (i+k)%7), fmt.Sprintf("%d/%d", i, k)
			bl.Add(now+int64(i*1000), []byte(key), []byte(value), nil)
			latest[key] = value
		}
		b, _, err := bl.Batch(p, eventlog.None)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan eventlog.Outcome, 1)
		r.d.Append(b, func(o eventlog.Outcome) { done <- o })
		if o := <-done; o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	read := func() (found map[string]string, records int) {
		found = map[string]string{}
		end := mustEnd(t, r, p)
		for at := int64(0); at < end; {
			batches, next, err := r.d.Read(r.ctx, eventlog.Position{Part: p, Offset: at}, 1<<20)
			if err != nil || next <= at {
				t.Fatalf("read at %d of %d: next %d, %v", at, end, next, err)
			}
			for _, b := range batches {
				if err := b.Each(func(rec *eventlog.Record) error {
					if rec.Offset >= at {
						found[string(rec.Key)] = string(rec.Value)
						records++
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			at = next
		}
		return found, records
	}
	n := 0
	for ; n < 20; n++ {
		put(n)
	}
	for ; ; n++ { // a segment rolls when something is appended after its time
		time.Sleep(150 * time.Millisecond)
		put(n)
		found, records := read()
		if !maps.Equal(found, latest) {
			t.Fatalf("read %v, want %v", found, latest)
		}
		if records < 5*n/2 {
			break
		}
		if r.ctx.Err() != nil {
			t.Fatalf("%d records are there of %d: nothing is compacted", records, 5*n)
		}
	}
	tail, err := r.d.Tail(eventlog.Vector{p: 0})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	found := map[string]string{}
	for next, end := int64(0), mustEnd(t, r, p); next < end; {
		events, err := tail.Poll(nil, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Kind != eventlog.Records || e.Next <= next {
				t.Fatalf("at %d: %+v", next, e)
			}
			next = e.Next
			if err := e.Batch.Each(func(rec *eventlog.Record) error {
				found[string(rec.Key)] = string(rec.Value)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		if len(events) == 0 {
			select {
			case <-tail.Wake():
			case <-r.ctx.Done():
				t.Fatalf("the tail stands at %d of %d", next, end)
			}
		}
	}
	if !maps.Equal(found, latest) {
		t.Errorf("the tail saw %v, want %v", found, latest)
	}
}
