package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// onLog are the loads on the log, beside Apache Kafka: `make bench-log`. Unlike the others' servers, these all run from the first of the
// loads to the last, since a Java process needs its warm-up; one at a time is loaded. They leave nothing to do for each other: what a load has
// written is deleted before the next begins, and what is left of it is synced.
var onLog = []scenario{
	{"A", "durable produce: keyed records as fast as the clients can, acks=all, idempotent (franz-go, 16 KiB batches, linger 5 ms)", produceAll},
}

// logBench is what the loads on the log share: the servers, and what was found.
type logBench struct {
	*bench
	dir     string
	cells   string // of the produce load, which to run; empty: all
	servers []*logServer
	missing []string
	found   findings
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
	var err error
	if l.dir, err = os.MkdirTemp("", "millrace-log-"); err != nil {
		return nil, err
	}
	ks, missing := logKinds(b)
	l.missing = missing
	for i, k := range ks {
		dir := filepath.Join(l.dir, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
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

// stop ends what runs, and removes what it wrote.
func (l *logBench) stop() {
	for _, s := range l.servers {
		s.stop()
	}
	l.clean()
}

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

// warmUp loads each Java server until its compiler has had its time.
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
	}
	return nil
}

// settle waits until the disk has what was written, so that the next load does not pay for it.
func settle() { syscall.Sync() }

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

// with runs f with a topic of its own, deleted after it.
func (s *logServer) withTopic(partitions int, f func(topic string) error) error {
	topic := fmt.Sprintf("bench-%d", topics.Add(1))
	err := s.admin(func(ctx context.Context, a *kadm.Client) error {
		if _, err := a.CreateTopic(ctx, int32(partitions), 1, nil, topic); err != nil {
			return fmt.Errorf("create topic %s with %d partitions: %w", topic, partitions, err)
		}
		for ctx.Err() == nil { // until all have leaders
			m, err := a.Metadata(ctx, topic)
			if err == nil && len(m.Topics[topic].Partitions) == partitions &&
				!slices.ContainsFunc(m.Topics[topic].Partitions.Sorted(), func(p kadm.PartitionDetail) bool { return p.Err != nil || p.Leader < 0 }) {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return fmt.Errorf("topic %s has no leaders: %w", topic, ctx.Err())
	})
	if err != nil {
		return err
	}
	err = f(topic)
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
