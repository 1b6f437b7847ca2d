package kafkatool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog/kafka"
)

// bench is a cluster in this process, a way into it, and a client beside.
type bench struct {
	t  *testing.T
	k  *kfake.Cluster
	c  *Cluster
	cl *kgo.Client
}

func newBench(t *testing.T, o ...kfake.Opt) *bench {
	t.Helper()
	k, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(2), kfake.SeedTopics(2, "t")}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	c, err := Open(t.Context(), kafka.Options{Seeds: k.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	b := &bench{t: t, k: k, c: c}
	b.cl = b.client()
	return b
}

func (b *bench) client(o ...kgo.Opt) *kgo.Client {
	b.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic("t"), kgo.MetadataMinAge(10 * time.Millisecond)}, o...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(cl.Close)
	return cl
}

// at is the time of the record with an offset.
func at(i int) time.Time { return time.UnixMilli(1_777_000_000_000 + int64(i)*1000) }

// fill writes n records to a partition, a second apart, each in a batch of its own.
func (b *bench) fill(partition int32, n int) {
	b.t.Helper()
	for i := range n {
		r := &kgo.Record{Partition: partition, Value: fmt.Appendf(nil, "%d-%d", partition, i), Timestamp: at(i)}
		if err := b.cl.ProduceSync(b.t.Context(), r).FirstErr(); err != nil {
			b.t.Fatal(err)
		}
	}
}

// read consumes to the end, and returns values and notes.
func (b *bench) read(r Reading) (values []string, notes string, err error) {
	var said strings.Builder
	if r.Topic == "" {
		r.Topic = "t"
	}
	r.Emit = func(k Record) error { values = append(values, string(k.Value)); return nil }
	r.Idle = func() error { return nil }
	r.Note = func(f string, a ...any) { fmt.Fprintf(&said, f+"\n", a...) }
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	err = b.c.Consume(ctx, r)
	if ctx.Err() != nil {
		b.t.Fatalf("reading %+v does not end", r)
	}
	return values, said.String(), err
}

func (b *bench) reads(r Reading, want ...string) {
	b.t.Helper()
	got, _, err := b.read(r)
	if r.Partition < 0 {
		slices.Sort(got)
	}
	if err != nil || !slices.Equal(got, want) {
		b.t.Errorf("%+v\ngot  %q %v\nwant %q", r.From, got, err, want)
	}
}

func TestConsume(t *testing.T) {
	b := newBench(t)
	b.fill(0, 5)
	b.fill(1, 2)
	all := []string{"0-0", "0-1", "0-2", "0-3", "0-4", "1-0", "1-1"}
	b.reads(Reading{Partition: -1, ToEnd: true}, all...)
	b.reads(Reading{Partition: 0, ToEnd: true}, all[:5]...)
	b.reads(Reading{Partition: -1, Count: 7}, all...)
	b.reads(Reading{Partition: 0, Count: 2}, all[:2]...)
	b.reads(Reading{Partition: -1, ToEnd: true, From: Place{Kind: Latest}})
	b.reads(Reading{Partition: -1, ToEnd: true, From: Place{Tail, 3}}, "0-2", "0-3", "0-4", "1-0", "1-1")
	b.reads(Reading{Partition: 0, ToEnd: true, From: Place{At, 3}}, "0-3", "0-4")
	b.reads(Reading{Partition: -1, ToEnd: true, From: Place{Since, at(1).UnixMilli() - 1}}, "0-1", "0-2", "0-3", "0-4", "1-1")
	b.reads(Reading{Partition: 0, ToEnd: true, From: Place{Since, at(9).UnixMilli()}})
	b.reads(Reading{Partition: 0, Until: at(3).UnixMilli()}, "0-0", "0-1", "0-2")
	b.reads(Reading{Partition: -1, ToEnd: true, Until: at(1).UnixMilli()}, "0-0", "1-0")

	if _, notes, err := b.read(Reading{Partition: 0, ToEnd: true, From: Place{At, 99}}); err != nil || !strings.Contains(notes, "t [0] has no offset 99: it ends at 5") {
		t.Errorf("beyond the end: %q, %v", notes, err)
	}
	if _, _, err := b.read(Reading{Topic: "nix", Partition: -1}); !errors.Is(err, ErrNoTopic) {
		t.Errorf("no topic: %v", err)
	}
	if _, _, err := b.read(Reading{Partition: 2}); !errors.Is(err, ErrAsked) {
		t.Errorf("no partition: %v", err)
	}
	full := errors.New("full")
	err := b.c.Consume(t.Context(), Reading{Topic: "t", Partition: -1, Emit: func(Record) error { return full }, Idle: func() error { return nil }})
	if !errors.Is(err, full) {
		t.Errorf("a sink that fails: %v", err)
	}
}

// A reader that follows gets what comes, wherever the partition's leader goes meanwhile, once, and ends when it is told to.
func TestConsumeFollows(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	values, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- b.c.Consume(ctx, Reading{Topic: "t", Partition: -1, Emit: func(k Record) error { values <- string(k.Value); return nil }, Idle: func() error { return nil },
			Note: func(string, ...any) {}})
	}()
	for i := range 6 {
		if err := b.k.MoveTopicPartition("t", 0, int32(i%2)); err != nil {
			t.Fatal(err)
		}
		r := &kgo.Record{Value: fmt.Append(nil, i)}
		if err := b.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		select {
		case v := <-values:
			if v != fmt.Sprint(i) {
				t.Fatalf("got %q, want %d", v, i)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("record %d does not come", i)
		}
	}
	cancel()
	select {
	case err := <-done:
		if err != nil || len(values) > 0 {
			t.Errorf("ended with %v, %d too many", err, len(values))
		}
	case <-time.After(30 * time.Second):
		t.Error("it does not end")
	}
}

// What does not pass is not waited for for ever, and what passes is, however long it was well before.
func TestConsumePatience(t *testing.T) {
	b := newBench(t)
	b.fill(0, 3)
	b.c.patience = 200 * time.Millisecond
	var failing atomic.Bool
	b.k.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.k.KeepControl()
		if !failing.Load() {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		resp.ErrorCode = kerr.NotLeaderForPartition.Code
		return resp, nil, true
	})
	failing.Store(true)
	if _, _, err := b.read(Reading{Partition: 0, ToEnd: true}); !errors.Is(err, kerr.NotLeaderForPartition) {
		t.Errorf("a leader that never is one: %v", err)
	}
	failing.Store(false)
	b.c.patience = time.Second
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n, done := make(chan int64, 10), make(chan error, 1)
	go func() {
		done <- b.c.Consume(ctx, Reading{Topic: "t", Partition: 0, Emit: func(k Record) error { n <- k.Offset; return nil }, Idle: func() error { return nil }, Note: t.Logf})
	}()
	for range 3 {
		<-n
	}
	time.Sleep(b.c.patience * 5 / 4) // well for longer than its patience
	failing.Store(true)
	time.Sleep(b.c.patience / 20) // and then not, for less
	failing.Store(false)
	b.fill(0, 1)
	select {
	case at := <-n:
		if at != 3 {
			t.Errorf("got offset %d", at)
		}
	case err := <-done:
		t.Errorf("it gave up: %v", err)
	case <-time.After(30 * time.Second):
		t.Error("nothing comes")
	}
}

// What transactions have not committed is not seen, and does not keep -e from ending.
func TestConsumeTransactions(t *testing.T) {
	b := newBench(t)
	tx := b.client(kgo.TransactionalID("x"))
	write := func(value string, how kgo.TransactionEndTry) {
		t.Helper()
		if err := tx.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := tx.ProduceSync(t.Context(), &kgo.Record{Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := tx.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
	write("aborted", kgo.TryAbort)
	write("committed", kgo.TryCommit)
	write("aborted at the end", kgo.TryAbort)
	b.reads(Reading{Partition: 0, ToEnd: true}, "committed")
	b.reads(Reading{Partition: 0, ToEnd: true, Uncommitted: true}, "aborted", "committed", "aborted at the end")
	if err := tx.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := tx.ProduceSync(t.Context(), &kgo.Record{Value: []byte("open")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	b.reads(Reading{Partition: 0, ToEnd: true}, "committed")
	b.reads(Reading{Partition: 0, ToEnd: true, Uncommitted: true, From: Place{Tail, 1}}, "open")
}

// Much that is packed small is unpacked in parts, and comes whole.
func TestConsumeUnpacks(t *testing.T) {
	b := newBench(t)
	packed := b.client(kgo.ProducerBatchCompression(kgo.GzipCompression()), kgo.ProducerBatchMaxBytes(4<<20))
	value := make([]byte, 3<<20)
	for i := range 10 {
		value[0] = byte(i)
		if err := packed.ProduceSync(t.Context(), &kgo.Record{Value: slices.Clone(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := b.c.topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	cu, h := &cursor{topic: "t", id: d.ID}, how{bytes: 1 << 20, partBytes: 1 << 20}
	answer, err := b.c.fetch(t.Context(), d.Partitions[0].Leader, []*cursor{cu}, h)
	if err != nil {
		t.Fatal(err)
	}
	if g := cu.take(answer, h); g.err != nil || len(g.records) != 3 || g.next != 3 {
		t.Errorf("%d records at a time, next %d, %v", len(g.records), g.next, g.err)
	}
	got, _, err := b.read(Reading{Partition: 0, ToEnd: true})
	if err != nil || len(got) != 10 || len(got[9]) != len(value) || got[9][0] != 9 {
		t.Errorf("%d records, %v", len(got), err)
	}
}

// Records that go while they are read are missed aloud.
func TestConsumeDeleted(t *testing.T) {
	b := newBench(t)
	b.fill(0, 6)
	truncate := func() {
		o := kadm.Offsets{}
		o.AddOffset("t", 0, 4, -1)
		if _, err := b.c.adm.DeleteRecords(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	d, err := b.c.topic(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	cu := &cursor{topic: "t", id: d.ID, next: 1}
	truncate()
	h := how{bytes: 1 << 20, partBytes: 1 << 20}
	rd := &reader{ctx: t.Context(), c: b.c, r: Reading{Topic: "t", ToEnd: true}}
	answer, err := b.c.fetch(t.Context(), d.Partitions[0].Leader, []*cursor{cu}, h)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := rd.advance(t.Context(), cu, cu.take(answer, h))
	if err != nil || cu.next != 4 || !strings.Contains(ch.note, "1 to 3 were deleted") {
		t.Errorf("at %d: %q, %v", cu.next, ch.note, err)
	}
	cu.next = 99
	answer, err = b.c.fetch(t.Context(), d.Partitions[0].Leader, []*cursor{cu}, h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rd.advance(t.Context(), cu, cu.take(answer, h)); err == nil || passing(err) {
		t.Errorf("a log that has become shorter: %v", err)
	}
	b.reads(Reading{Partition: 0, ToEnd: true}, "0-4", "0-5")
	if _, notes, _ := b.read(Reading{Partition: 0, ToEnd: true, From: Place{At, 2}}); !strings.Contains(notes, "it begins at 4") {
		t.Errorf("before the start: %q", notes)
	}
}

func TestOpenUnreachable(t *testing.T) {
	began := time.Now()
	_, err := Open(t.Context(), kafka.Options{Seeds: []string{"127.0.0.1:1"}})
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "refused") || time.Since(began) > 20*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func TestProduce(t *testing.T) {
	b := newBench(t)
	give := func(ms ...Message) func(context.Context) (Message, error) {
		return func(context.Context) (Message, error) {
			if len(ms) == 0 {
				return Message{}, io.EOF
			}
			m := ms[0]
			ms = ms[1:]
			return m, nil
		}
	}
	var notes bytes.Buffer
	w := Writing{Topic: "t", Partition: 1, Codec: "gzip", MaxBytes: 4096, Confirm: 10 * time.Second, Note: func(f string, a ...any) { fmt.Fprintf(&notes, f+"\n", a...) }}
	done, err := b.c.Produce(t.Context(), w, give(Message{nil, []byte("a")}, Message{[]byte("k"), nil}))
	if err != nil || done != (Written{Delivered: 2}) {
		t.Errorf("%+v %v", done, err)
	}
	b.reads(Reading{Partition: 1, ToEnd: true}, "a", "")

	// One that is refused does not keep others from being delivered, and is told.
	big := bytes.Repeat([]byte{1, 2, 3, 5, 7, 11, 13}, 2000)
	for i := range big {
		big[i] = byte(i * i >> 3)
	}
	w.Codec = "none"
	done, err = b.c.Produce(t.Context(), w, give(Message{nil, big}, Message{nil, []byte("b")}))
	if err != nil || done != (Written{1, 1}) || !strings.Contains(notes.String(), "message 1 was not delivered") {
		t.Errorf("%+v %v %q", done, err, notes.String())
	}
	// An input that fails is an error; what it gave before is delivered.
	broken := errors.New("broken pipe")
	n := 0
	done, err = b.c.Produce(t.Context(), w, func(context.Context) (Message, error) {
		if n++; n > 3 {
			return Message{}, broken
		}
		return Message{Value: []byte("c")}, nil
	})
	if !errors.Is(err, broken) || done.Delivered != 3 {
		t.Errorf("%+v %v", done, err)
	}
	for _, bad := range []Writing{{Topic: "nix", Codec: "none", Partition: -1, MaxBytes: 4096}, {Topic: "t", Codec: "rar", Partition: -1, MaxBytes: 4096}, {Topic: "t", Codec: "none", Partition: 2, MaxBytes: 4096}} {
		if _, err := b.c.Produce(t.Context(), bad, give()); !errors.Is(err, ErrAsked) && !errors.Is(err, ErrNoTopic) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
