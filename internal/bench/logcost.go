package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func checkpoint(b *bench) error {
	k := millrace("millrace, 1,000 partitions", b.bin, "routes:\n  - {mqtt: \"bench/{dev}/data\", topic: bench, key: \"{dev}\", partitions: 1000}\n",
		"--test-checkpoint-every", "1s")
	all, errs := b.each([]kind{k}, func(s *server, begin, end func()) (result, error) {
		return openLoop(s.mqtt, 1000, 10_000, 100, b.pace, begin, end)
	})
	b.table([]kind{k}, all, errs)
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
		_, err := b.once(millrace("millrace", b.bin, conf), nil, func(s *server, begin, end func()) (result, error) {
			r, err := closed(s.mqtt, true, 100, 64, load.kind, pace{0, 3 * time.Second}, begin, end)
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
		_, err := b.once(millrace("millrace", b.bin, ""), nil, func(s *server, begin, end func()) (result, error) {
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
