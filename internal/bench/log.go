package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// onLog are the loads on the log, beside Apache Kafka: `make bench-log`. Unlike the others' servers, these all run from the first of the
// loads to the last, since a Java process needs its warm-up; one at a time is loaded. They leave nothing to do for each other: what a load has
// written is deleted before the next begins, and what is left of it is synced.
var onLog = []scenario{
	{"A", "durable produce: keyed records as fast as the clients can, acks=all, idempotent (franz-go, 16 KiB batches, linger 5 ms)", produceAll},
	{"B", "durable produce by Kafka's own ProducerPerformance, with its defaults: one producer, no keys, 16 partitions", produceByTools},
	{"C", "acks=all, open loop: 20,000 records/s of 1 KB from 100 producers to 16 partitions; latency from when each was due", openLoops(false)},
	{"D", "end to end: the same with a consumer that follows (franz-go)", openLoops(true)},
	{"E", "consume from the page cache: one consumer, 16 partitions", consumeAll},
	{"F", "kill -9 and restart with 1,000 partitions, until Metadata and Fetch answer", restarts},
	{"G", "memory of an idle server with 1,000 partitions of five records each", idleMemory},
}

// logBench is what the loads on the log share: the servers, and what was found.
type logBench struct {
	*bench
	cells    string  // of the produce load, which to run; empty: all
	unacked  int     // bytes of all its clients
	gb       float64 // what a server holds that is killed
	peersDir string  // where NATS is

	dir     string // of the servers
	servers []*logServer
	found   findings

	openWarm bool // the servers know the open loop
}

// findings are by load and server.
type findings struct {
	produced       map[produceCell]map[string][]produced
	byTool         map[int]map[string][]produced // by size
	open, followed map[string][]openRun
	consumed       map[consumption]map[string][]consumed
	peak           map[string]int64 // after the produce load
	restarted      map[string]restarted
	idle           map[string][]int64
}

// logServer is one of the servers side by side.
type logServer struct {
	*server
	java bool
	nats bool
}

// log starts the servers, the first time.
func (b *bench) log() (*logBench, error) {
	l := b.onLog
	if l.servers != nil {
		return l, nil
	}
	if err := l.folder(); err != nil {
		return nil, err
	}
	ks, missing := logKinds(b)
	for _, k := range ks {
		dir, err := os.MkdirTemp(l.dir, "beside-")
		if err != nil {
			return nil, err
		}
		s, err := l.start(k, dir)
		if err != nil {
			return nil, err
		}
		l.servers = append(l.servers, s)
	}
	if len(missing) > 0 {
		fmt.Printf("Not there, and so not measured: %s.\n\n", strings.Join(missing, ", "))
	}
	return l, l.warmUp()
}

func (l *logBench) start(k logKind, dir string) (*logServer, error) {
	s, err := k.kind.start(dir, nil)
	if err != nil {
		return nil, err
	}
	n := &logServer{server: s, java: k.java, nats: k.nats}
	if strings.HasPrefix(k.name, "millrace") {
		err = s.ready()
	} else if k.java {
		err = n.answers()
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return n, nil
}

// folder makes the one that all is in, and says, the first time, what is measured.
func (l *logBench) folder() (err error) {
	if l.dir == "" {
		fmt.Printf("%s.\n\n", l.versions())
		l.dir, err = os.MkdirTemp("", "millrace-log-")
	}
	return err
}

// stopServers ends what runs side by side, and removes what it wrote.
func (l *logBench) stopServers() error {
	for _, s := range l.servers {
		s.kill() // what it has is not needed any more
		if err := os.RemoveAll(s.dir); err != nil {
			return err
		}
	}
	l.servers, l.openWarm = nil, false
	return l.folder()
}

// clean removes everything.
func (l *logBench) clean() {
	if l.dir != "" {
		os.RemoveAll(l.dir)
	}
}

// kafkas are those that speak Kafka's protocol.
func (l *logBench) kafkas() (all []*logServer) {
	for _, s := range l.servers {
		if !s.nats {
			all = append(all, s)
		}
	}
	return all
}

// warmUp loads each Java server until its compiler has had its time, and has it make the topic of its groups.
func (l *logBench) warmUp() error {
	for _, s := range l.servers {
		if !s.java {
			continue
		}
		for _, c := range []produceCell{{100, 1, 1}, {1000, 64, 16}} {
			if _, err := l.produce(s, c, pace{time.Second, 3 * time.Second}); err != nil {
				return fmt.Errorf("warm-up: %w", err)
			}
		}
		if err := s.warmConsumption(); err != nil {
			return fmt.Errorf("%s, warm-up: %w", s.kind.name, err)
		}
	}
	return nil
}

func (s *logServer) warmConsumption() error {
	return s.withTopic(16, func(topic string) error {
		records, err := s.fill(topic, 16, 1000, consumeBytes/4)
		if err != nil {
			return err
		}
		for range 3 {
			if _, err := s.consumeByFranz(topic, records); err != nil {
				return err
			}
		}
		_, err = s.consumeByJava(topic, records)
		return err
	})
}

// answers waits until a Kafka server has a controller and takes requests.
func (s *logServer) answers() error {
	return s.admin(func(ctx context.Context, a *kadm.Client) error {
		for {
			m, err := a.BrokerMetadata(ctx)
			if err == nil && len(m.Brokers) > 0 && m.Controller >= 0 {
				return nil
			}
			if ctx.Err() != nil {
				return fmt.Errorf("%s does not answer: %w", s.kind.name, cmp.Or(err, ctx.Err()))
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func (s *logServer) admin(f func(ctx context.Context, a *kadm.Client) error) error {
	ctx, cancel := context.WithTimeout(interrupted, time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka))
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(ctx, kadm.NewClient(cl))
}

// withTopic runs f with a topic of its own, deleted after it.
func (s *logServer) withTopic(partitions int, f func(topic string) error) error {
	topic := fmt.Sprintf("bench-%d", topics.Add(1))
	if err := s.makeTopic(topic, partitions); err != nil {
		return err
	}
	err := f(topic)
	return errors.Join(err, s.admin(func(ctx context.Context, a *kadm.Client) error {
		_, err := a.DeleteTopic(ctx, topic)
		return err
	}))
}

// stored is how many records a topic has by its offsets.
func (s *logServer) stored(topic string) (n int64, err error) {
	err = s.admin(func(ctx context.Context, a *kadm.Client) error {
		ends, err := a.ListEndOffsets(ctx, topic)
		if err != nil {
			return err
		}
		ends.Each(func(o kadm.ListedOffset) { err = errors.Join(err, o.Err); n += o.Offset })
		return err
	})
	return n, err
}

// end stops and removes everything.
func (l *logBench) end() {
	if l.dir == "" {
		return
	}
	if err := l.stopServers(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	l.clean()
}
