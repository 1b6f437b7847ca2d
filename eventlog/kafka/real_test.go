package kafka

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
)

// realCluster is a cluster of Apache Kafka that somebody started (scripts/kafka up), as one test uses it: its topics begin
// with a prefix of the test's own and are deleted at its end; its drivers reach the brokers through a tap.
type realCluster struct {
	seeds  []string
	prefix string
	tap    *tap
}

func newReal(t testing.TB) *realCluster {
	t.Helper()
	seeds := os.Getenv("MILLRACE_KAFKA")
	if seeds == "" {
		t.Skip("MILLRACE_KAFKA is not set: no Kafka cluster to test on (make kafka-up starts one; MILLRACE_KAFKA=$(scripts/kafka bootstrap))")
	}
	c := &realCluster{seeds: strings.Split(seeds, ","), prefix: "test-" + randomName()[:8] + "-", tap: newTap()}
	t.Cleanup(func() { c.sweep(t) })
	return c
}

// sweep deletes the test's topics.
func (c *realCluster) sweep(t testing.TB) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.seeds...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	adm := kadm.NewClient(cl)
	all, err := adm.ListTopicsWithInternal(ctx)
	if err != nil {
		t.Errorf("list the topics left over: %v", err)
		return
	}
	for _, name := range all.Names() {
		if strings.Contains(name, c.prefix) {
			if _, err := adm.DeleteTopic(ctx, name); err != nil {
				t.Errorf("delete %q: %v", name, err)
			}
		}
	}
}

func (c *realCluster) open(t testing.TB) *scoped {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d, err := Open(ctx, Options{
		Linger: 10 * time.Millisecond, Client: []kgo.Opt{kgo.SeedBrokers(c.seeds...), kgo.Dialer(c.tap.dial)}, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: logLevel()})),
		RoomBytes: 1 << 20, Backoff: 5 * time.Millisecond, Grace: 300 * time.Millisecond, CloseWait: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return &scoped{Driver: d, prefix: c.prefix}
}

func logLevel() slog.Level {
	if os.Getenv("MILLRACE_KAFKA_LOG") != "" {
		return slog.LevelDebug
	}
	return slog.LevelError
}

// scoped is a driver that sees the topics of one test only, under names without the prefix.
type scoped struct {
	*Driver
	prefix string
}

func (s *scoped) full(name string) string {
	if rest, ok := strings.CutPrefix(name, eventlog.InternalPrefix); ok {
		return eventlog.InternalPrefix + s.prefix + rest
	}
	if strings.Trim(name, ".") == "" { // names that are refused, which a prefix would make good
		return name
	}
	return s.prefix + name
}

// CreateTopic keeps records for ever, unless told otherwise: those of the suite are from 1970.
func (s *scoped) CreateTopic(ctx context.Context, spec eventlog.TopicSpec) (eventlog.Topic, error) {
	spec.Name = s.full(spec.Name)
	if _, ok := spec.Config["retention.ms"]; !ok {
		config := map[string]string{"retention.ms": "-1"}
		maps.Copy(config, spec.Config)
		spec.Config = config
	}
	t, err := s.Driver.CreateTopic(ctx, spec)
	return s.short(t), err
}

func (s *scoped) short(t eventlog.Topic) eventlog.Topic {
	t.Name = strings.Replace(t.Name, s.prefix, "", 1)
	if t.Config["retention.ms"] == "-1" {
		delete(t.Config, "retention.ms")
	}
	return t
}

func (s *scoped) Topics(ctx context.Context) ([]eventlog.Topic, error) {
	all, err := s.Driver.Topics(ctx)
	var own []eventlog.Topic
	for _, t := range all {
		if strings.Contains(t.Name, s.prefix) {
			own = append(own, s.short(t))
		}
	}
	return own, err
}

func (s *scoped) ConfigureTopic(ctx context.Context, name string, set map[string]*string) error {
	return s.Driver.ConfigureTopic(ctx, s.full(name), set)
}

func (s *scoped) DeleteTopic(ctx context.Context, name string) error {
	return s.Driver.DeleteTopic(ctx, s.full(name))
}

// tap stands between a driver and the brokers: it can hold Produce requests back, and take the answers of some away, with
// the connection they came on, after the brokers have done what they were asked.
type tap struct {
	mu      sync.Mutex
	stalled chan struct{} // closed when produce requests may pass; nil: they may
	lose    int           // answers to produce requests
}

func newTap() *tap { return &tap{} }

func (t *tap) dial(ctx context.Context, network, host string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	return &tapped{Conn: c, tap: t, closed: make(chan struct{})}, nil
}

func (t *tap) stall() (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pass := make(chan struct{})
	t.stalled = pass
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.stalled = nil
		close(pass)
	})
}

func (t *tap) loseAnswers(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lose += n
}

type tapped struct {
	net.Conn
	tap    *tap
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex
	lose bool // the next answer
}

// Write sees whole requests: a length, then the request's key. The client writes each in one call.
func (c *tapped) Write(p []byte) (int, error) {
	if len(p) < 6 || binary.BigEndian.Uint16(p[4:]) != keyProduce {
		return c.Conn.Write(p)
	}
	c.tap.mu.Lock()
	stalled, lose := c.tap.stalled, c.tap.lose > 0
	if lose {
		c.tap.lose--
	}
	c.tap.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	if lose {
		c.mu.Lock()
		c.lose = true
		c.mu.Unlock()
	}
	return c.Conn.Write(p)
}

func (c *tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lose && err == nil {
		c.Conn.Close()
		return 0, io.EOF
	}
	return n, err
}

func (c *tapped) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// foreign appends records in a transaction of a client that is not ours.
func (c *realCluster) foreign(t testing.TB, d *Driver, p eventlog.Part, recs []eventlog.Record, commit bool) {
	t.Helper()
	foreignOn(t, c.seeds, d, p, recs, commit)
}

// TestRealKafka runs the suite of every driver on a cluster of Apache Kafka.
func TestRealKafka(t *testing.T) {
	newReal(t) // or skip once, loudly
	logtest.Run(t, func(t testing.TB) *logtest.Env {
		c := newReal(t)
		d := c.open(t)
		again := func(t testing.TB) eventlog.Driver { return c.open(t) }
		last := d
		return &logtest.Env{
			Driver: d, Reopen: again, Peer: again, RoomBytes: 1 << 20,
			Crash: func(t testing.TB) eventlog.Driver {
				last.cl.Close()
				last.tx.Close()
				t.Cleanup(last.cancel) // or its Close would wait for answers that never come
				last = c.open(t)
				return last
			},
			Stall: func(testing.TB) func() { return c.tap.stall() },
			Foreign: func(t testing.TB, p eventlog.Part, recs []eventlog.Record, commit bool) {
				c.foreign(t, d.Driver, p, recs, commit)
			},
			LoseAnswers: func(_ testing.TB, n int) { c.tap.loseAnswers(n) },
		}
	}, nil)
}

// A doctor finds nothing to say against a cluster that is well, but for one without an authorizer that it asks nobody who they are.
func TestRealKafkaDoctor(t *testing.T) {
	c := newReal(t)
	d := c.open(t)
	if _, err := d.CreateTopic(t.Context(), eventlog.TopicSpec{Name: "well", Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	r, err := Examine(t.Context(), Checkup{Options: Options{Seeds: c.seeds}, Probe: true, Topics: []Wanted{{Name: c.prefix + "well", Partitions: 2}, {Name: ProducersTopic, Compact: true, Internal: true}}})
	if err != nil {
		t.Fatal(err)
	}
	said := r.said()
	if os.Getenv("MILLRACE_KAFKA_SECURE") == "" && len(said) == 1 && strings.Contains(said[0], "no authorizer") {
		said = nil
	}
	if r.Brokers != 3 || r.Topics != 2 || len(said) != 0 {
		t.Errorf("%d brokers, %d topics: %v", r.Brokers, r.Topics, said)
	}
}
