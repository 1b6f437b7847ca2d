package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var scenarios = []struct {
	letter, title string
	run           func(*bench) error
}{
	{"a", "QoS 0 fan-in: 50 publishers → 1 wildcard subscriber, at most 256 undelivered per publisher, 100 B", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return fanIn(s.mqtt, 50, 256, 100, 0, b.pace, begin, end)
		})
	}},
	{"b", "QoS 1 fan-in: 50 publishers → 1 QoS 1 subscriber, at most 64 undelivered per publisher, 100 B", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return fanIn(s.mqtt, 50, 64, 100, 1, b.pace, begin, end)
		})
	}},
	{"c", "QoS 1 publish: 100 publishers, 64 unacknowledged each, 100 B (PUBACKs; Millrace has each on disk, Mosquitto in memory)", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return closed(s.mqtt, 100, 64, noise(1, 100), b.pace, begin, end)
		})
	}},
	{"d", "QoS 0 fan-out: 1 publisher → 100 subscribers, at most 256 messages not delivered to all, 100 B (deliveries)", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return fanOut(s.mqtt, 100, 256, 100, b.pace, begin, end)
		})
	}},
	{"e", "QoS 2 publish: 100 publishers, 64 unfinished each, 100 B (PUBCOMPs; Millrace has each on disk, Mosquitto in memory)", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return closed(s.mqtt, 100, 64, noise(2, 100), b.pace, begin, end)
		})
	}},
	{"f", "open loop: 10,000 msg/s from 1,000 connections, QoS 1 → 1 subscriber; latency from when each was due", func(b *bench) error {
		return b.compare(func(s *server, begin, end func()) (result, error) {
			return openLoop(s.mqtt, 1000, 10_000, 100, b.pace, begin, end)
		}, millrace("millrace", b.bin, ""), millrace("millrace, 5 ms more per fdatasync", b.bin, "", "--test-datasync-delay", "5ms"))
	}},
	{"g", "10,000 idle connections", idle},
	{"p", "p99 across checkpoints: 10,000 msg/s over 1,000 partitions, a checkpoint every second", checkpoint},
	{"s", "disk: log bytes per 100 B message; 100 publishers, 64 unacknowledged each", disk},
	{"k", "Kafka: one idempotent producer, then one consumer, 16 partitions (MB/s of values, server CPU s per GB)", kafka},
}

func (b *bench) compare(load func(s *server, begin, end func()) (result, error), forms ...kind) error {
	kinds := b.peers(forms...)
	all, err := b.each(kinds, load)
	if err != nil {
		return err
	}
	b.table(kinds, all)
	return nil
}

func idle(b *bench) error {
	const conns = 10_000
	fmt.Println("| server | RSS KiB per connection | connects/s |")
	fmt.Println("| --- | --- | --- |")
	for _, k := range b.peers() {
		var connects float64
		var before int64
		r, err := b.once(k, func(s *server, begin, end func()) (result, error) {
			time.Sleep(time.Second)
			before = s.rss()
			start := time.Now()
			var wg sync.WaitGroup
			var failed atomic.Int64
			for w := range 64 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for i := w; i < conns; i += 64 {
						if _, err := dial(s.mqtt, fmt.Sprintf("idle-%d", i), true); err != nil { // closed with the process
							failed.Add(1)
						}
					}
				}()
			}
			wg.Wait()
			connects = conns / time.Since(start).Seconds()
			if n := failed.Load(); n > 0 {
				return result{}, fmt.Errorf("%d of %d connections failed (descriptors?)", n, conns)
			}
			time.Sleep(3 * time.Second)
			end()
			return result{}, nil
		})
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %.2f | %.0f |\n", k.name, float64(r.rss-before)/1024/conns, connects)
	}
	return nil
}

func checkpoint(b *bench) error {
	k := millrace("millrace, 1,000 partitions", b.bin, "routes:\n  - {mqtt: \"bench/{dev}/data\", topic: bench, key: \"{dev}\", partitions: 1000}\n",
		"--test-checkpoint-every", "1s")
	all, err := b.each([]kind{k}, func(s *server, begin, end func()) (result, error) {
		return openLoop(s.mqtt, 1000, 10_000, 100, b.pace, begin, end)
	})
	if err != nil {
		return err
	}
	b.table([]kind{k}, all)
	return nil
}

func disk(b *bench) error {
	fmt.Println("| payload | compression | segment bytes per message |")
	fmt.Println("| --- | --- | --- |")
	for _, load := range []struct {
		name, codec string
		kind        func(string) *message
	}{{"100 B", "none", noise(1, 100)}, {"16 B of numbers, 84 B of JSON", "zstd", reading}} {
		conf := "routes:\n  - {mqtt: \"bench/{dev}/data\", topic: bench, key: \"{dev}\", compression: " + load.codec + "}\n"
		var bytes float64
		_, err := b.once(millrace("millrace", b.bin, conf), func(s *server, begin, end func()) (result, error) {
			r, err := closed(s.mqtt, 100, 64, load.kind, pace{0, 3 * time.Second}, begin, end)
			if err != nil {
				return r, err
			}
			s.stop() // a clean stop writes everything behind the commits
			bytes = float64(s.disk(".log")) / float64(r.count)
			return r, nil
		})
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %s | %.0f |\n", load.name, load.codec, bytes)
	}
	return nil
}

func kafka(b *bench) error {
	fmt.Println("| record | produce MB/s | CPU s per GB | fetch MB/s | CPU s per GB |")
	fmt.Println("| --- | --- | --- | --- | --- |")
	for _, size := range []int{100, 1024} {
		var row string
		_, err := b.once(millrace("millrace", b.bin, ""), func(s *server, begin, end func()) (result, error) {
			var err error
			row, err = kafkaRow(s, size)
			return result{}, err
		})
		if err != nil {
			return err
		}
		fmt.Printf("| %d B | %s |\n", size, row)
	}
	return nil
}

func kafkaRow(s *server, size int) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	total := 512 << 20 / size
	if size < 512 {
		total /= 2
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("bench"),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(1<<16))
	if err != nil {
		return "", err
	}
	defer cl.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(rng.Uint32())
	}
	var failed atomic.Pointer[error]
	cpu, start := s.cpu(), time.Now()
	for range total {
		cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return "", err
	}
	if e := failed.Load(); e != nil {
		return "", *e
	}
	mb := float64(total) * float64(size) / 1e6
	produce := fmt.Sprintf("%.0f | %.2f", mb/time.Since(start).Seconds(), (s.cpu()-cpu).Seconds()/mb*1e3)

	con, err := kgo.NewClient(kgo.SeedBrokers(s.kafka), kgo.ConsumeTopics("bench"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return "", err
	}
	defer con.Close()
	cpu, start = s.cpu(), time.Now()
	for n := 0; n < total; {
		f := con.PollFetches(ctx)
		if err := f.Err(); err != nil {
			return "", err
		}
		n += f.NumRecords()
	}
	return produce + fmt.Sprintf(" | %.0f | %.2f", mb/time.Since(start).Seconds(), (s.cpu()-cpu).Seconds()/mb*1e3), nil
}

// host describes the machine a table was made on.
func host() string {
	model := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "model name") {
				model = strings.TrimSpace(line[strings.IndexByte(line, ':')+1:])
				break
			}
		}
	}
	return model
}
