package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Servers that hold many partitions, each in a folder of its own, one at a time.
const (
	manyPartitions = 1000
	restartLimit   = 3 * time.Minute
	idleTime       = 10 * time.Second
)

// restarted is what one server showed.
type restarted struct {
	took []time.Duration // first after all was written, then after some more
	idle int64           // resident bytes after that
}

// once and oftenOurs are how many fresh servers of a kind there are.
func once(logKind) int { return 1 }

func (l *logBench) oftenOurs(k logKind) int {
	if k.java {
		return 1
	}
	return l.runs
}

// alone stops the servers that run side by side and runs f with a fresh one of each kind, or several, one after the other.
func (l *logBench) alone(runs func(k logKind) int, f func(s *logServer) error) error {
	if err := l.stopServers(); err != nil {
		return err
	}
	ks, _ := logKinds(l.bench)
	for _, k := range ks {
		if k.nats || k.name == kafkaSynced {
			continue
		}
		one := func() error {
			dir, err := os.MkdirTemp(l.dir, "alone-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(dir)
			s, err := l.start(k, dir)
			if err != nil {
				return err
			}
			defer s.kill()
			return f(s)
		}
		for range runs(k) {
			if err := one(); err != nil {
				l.gaveUp(k.kind, err)
			}
			settle()
		}
	}
	return nil
}

// restarts fills many partitions, kills the server without warning, and measures how long it takes to serve again.
func restarts(b *bench) error {
	l := b.onLog
	if err := l.folder(); err != nil {
		return err
	}
	l.found.restarted = map[string]restarted{}
	fmt.Printf("| server | written | serving again after kill -9: first, then after %d MiB more each | RSS MiB, %v later |\n| --- | --- | --- | --- |\n", moreBytes>>20, idleTime)
	return l.alone(once, func(s *logServer) error {
		r, err := l.restart(s)
		if err != nil {
			fmt.Printf("| %s | failed: %v |\n", s.kind.name, err)
			return err
		}
		l.found.restarted[s.kind.name] = r
		took := ""
		for i, d := range r.took {
			took += []string{"", " / "}[min(i, 1)] + fmt.Sprintf("%.2f s", d.Seconds())
		}
		fmt.Printf("| %s | %.1f GB in %d partitions | %s | %d |\n", s.kind.name, l.gb, manyPartitions, took, r.idle>>20)
		return nil
	})
}

const moreBytes = 256 << 20

func (l *logBench) restart(s *logServer) (r restarted, err error) {
	const topic, size = "bench-restart", 1000
	if err := s.makeTopic(topic, manyPartitions); err != nil {
		return r, err
	}
	acked, err := s.fill(topic, manyPartitions, size, int64(l.gb*1e9))
	if err != nil {
		return r, err
	}
	kills := l.runs
	if s.java {
		kills = 1 // the first recovers everything, and is what is asked
	}
	for n := range kills {
		if n > 0 {
			more, err := s.fill(topic, manyPartitions, size, moreBytes)
			if err != nil {
				return r, err
			}
			acked += more
		}
		s.kill()
		began := time.Now()
		if err := s.spawn(); err != nil {
			return r, err
		}
		if err := s.serves(topic, began); err != nil {
			return r, err
		}
		r.took = append(r.took, time.Since(began))
		if err := s.holds(topic, acked); err != nil {
			return r, fmt.Errorf("after kill -9: %w", err)
		}
	}
	time.Sleep(idleTime)
	r.idle = s.rss()
	return r, nil
}

// serves waits until the server tells the leaders of all partitions and gives a record of one.
func (s *logServer) serves(topic string, began time.Time) error {
	for {
		err := s.servesNow(topic)
		if err == nil {
			return nil
		}
		if time.Since(began) > restartLimit {
			return fmt.Errorf("does not serve after %v: %w", restartLimit, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (s *logServer) servesNow(topic string) error {
	c, err := rawDial(s.kafka)
	if err != nil {
		return err
	}
	defer c.Close()
	m := kmsg.NewPtrMetadataRequest()
	m.Version = 7
	m.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
	got, err := c.ask(m)
	if err != nil {
		return err
	}
	meta := got.(*kmsg.MetadataResponse)
	if len(meta.Topics) != 1 || len(meta.Topics[0].Partitions) != manyPartitions {
		return errors.New("not all partitions are there")
	}
	for _, p := range meta.Topics[0].Partitions {
		if p.ErrorCode != 0 || p.Leader < 0 {
			return fmt.Errorf("partition %d: no leader, error %d", p.Partition, p.ErrorCode)
		}
	}
	f := kmsg.NewPtrFetchRequest()
	f.Version = 10
	f.ReplicaID, f.MaxWaitMillis, f.MinBytes, f.MaxBytes, f.SessionEpoch = -1, 100, 1, 1<<20, -1
	part := kmsg.NewFetchRequestTopicPartition()
	part.Partition, part.PartitionMaxBytes = rand.Int32N(manyPartitions), 1<<20
	f.Topics = []kmsg.FetchRequestTopic{{Topic: topic, Partitions: []kmsg.FetchRequestTopicPartition{part}}}
	if got, err = c.ask(f); err != nil {
		return err
	}
	answer := got.(*kmsg.FetchResponse)
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		return fmt.Errorf("fetch: %w, no partition", errors.Join(kerr.ErrorForCode(answer.ErrorCode)))
	}
	if p := answer.Topics[0].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
		return fmt.Errorf("fetch: error %d and %d bytes", p.ErrorCode, len(p.RecordBatches))
	}
	return nil
}

// idleMemory is what a server takes that has many partitions with a few records each, and nothing to do.
func idleMemory(b *bench) error {
	l := b.onLog
	if err := l.folder(); err != nil {
		return err
	}
	l.found.idle = map[string][]int64{}
	fmt.Printf("| server | RSS MiB before (min–max) | RSS MiB %v after the last record (min–max) |\n| --- | --- | --- |\n", idleTime)
	before := map[string][]int64{}
	var names []string
	err := l.alone(l.oftenOurs, func(s *logServer) error {
		name := s.kind.name
		if before[name] == nil {
			names = append(names, name)
		}
		before[name] = append(before[name], s.rss())
		if err := s.few("bench-idle"); err != nil {
			return err
		}
		time.Sleep(idleTime)
		l.found.idle[name] = append(l.found.idle[name], s.rss())
		return nil
	})
	if err != nil {
		return err
	}
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	for _, name := range names {
		was, is := spreadOf(before[name], mib), spreadOf(l.found.idle[name], mib)
		fmt.Printf("| %s | %.0f (%.0f–%.0f) | %.0f (%.0f–%.0f) |\n", name, was.mid, was.low, was.high, is.mid, is.low, is.high)
	}
	return nil
}

// few makes a topic with many partitions and writes five records to each, by an ordinary client.
func (s *logServer) few(topic string) error {
	if err := s.makeTopic(topic, manyPartitions); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(interrupted, time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	value := incompressible(100)
	var recs []*kgo.Record
	for i := range 5 * manyPartitions {
		recs = append(recs, &kgo.Record{Partition: int32(i % manyPartitions), Key: keys[i], Value: value})
	}
	if err := cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
		return err
	}
	return s.holds(topic, int64(len(recs)))
}

// peaks are the most resident bytes that each server has had so far.
func (l *logBench) peaks() map[string]int64 {
	all := map[string]int64{}
	for _, s := range l.servers {
		_, all[s.kind.name] = s.memory()
	}
	return all
}

// makeTopic makes a topic, and waits until all its partitions have leaders that know it.
func (s *logServer) makeTopic(topic string, partitions int) error {
	return s.admin(func(ctx context.Context, a *kadm.Client) error {
		if _, err := a.CreateTopic(ctx, int32(partitions), 1, nil, topic); err != nil {
			return fmt.Errorf("create topic %s with %d partitions: %w", topic, partitions, err)
		}
		for ctx.Err() == nil {
			// Metadata may name leaders that do not know it yet; who tells offsets knows.
			if ends, err := a.ListEndOffsets(ctx, topic); err == nil && ends.Error() == nil && len(ends[topic]) == partitions {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return fmt.Errorf("topic %s has no leaders: %w", topic, ctx.Err())
	})
}
