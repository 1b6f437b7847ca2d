package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consumeBytes is how much of values a topic has that is consumed; all of it is in the page cache.
const consumeBytes = 1 << 30

// consumed is what one run showed; of all the bytes of values in the topic.
type consumed struct {
	bytes   int64
	records int64
	elapsed time.Duration
	cpu     time.Duration
}

func (c consumed) perCPU() float64 {
	return float64(c.bytes) / 1e6 / max(c.cpu, 10*time.Millisecond).Seconds()
}
func (c consumed) perGB() float64     { return 1e3 / c.perCPU() }
func (c consumed) perSecond() float64 { return float64(c.bytes) / 1e6 / c.elapsed.Seconds() }

// consumption is who consumes, and how large the values are.
type consumption struct {
	who  string
	size int
}

func consumptions() []consumption {
	return []consumption{{"franz-go", 100}, {"franz-go", 1000}, {"Kafka's ConsumerPerformance", 1000}}
}

// consumeAll has a topic of 16 partitions consumed from its start to its end, several times, by each client, the servers in turn.
func consumeAll(b *bench) error {
	l, err := b.log()
	if err != nil {
		return err
	}
	l.found.consumed = map[consumption]map[string][]consumed{}
	for _, c := range consumptions() {
		l.found.consumed[c] = map[string][]consumed{}
	}
	for _, size := range []int{100, 1000} {
		for _, s := range l.kafkas() { // one after the other: the page cache has room for one
			err := s.withTopic(16, func(topic string) error {
				records, err := s.fill(topic, 16, size, consumeBytes)
				if err != nil {
					return err
				}
				if err := s.holds(topic, records); err != nil {
					return err
				}
				settle()
				return l.consumeOf(s, topic, size, records)
			})
			if err != nil {
				b.gaveUp(s.kind, fmt.Errorf("%d B: %w", size, err))
			}
		}
	}
	l.consumeTable()
	return nil
}

func (l *logBench) consumeOf(s *logServer, topic string, size int, records int64) error {
	for _, c := range consumptions() {
		if c.size != size {
			continue
		}
		read := s.consumeByFranz
		if c.who != "franz-go" {
			if _, missing := kafkaLib(); missing != nil {
				continue
			}
			read = s.consumeByJava
		}
		for range l.runs {
			from, begin := s.cpu(), time.Now()
			elapsed, err := read(topic, records)
			if err != nil {
				return fmt.Errorf("consume by %s: %w", c.who, err)
			}
			if elapsed == 0 {
				elapsed = time.Since(begin)
			}
			l.found.consumed[c][s.kind.name] = append(l.found.consumed[c][s.kind.name], consumed{records * int64(size), records, elapsed, s.cpu() - from})
		}
	}
	return nil
}

// consumeByFranz reads a topic from its start until it has so many records, and refuses more.
func (s *logServer) consumeByFranz(topic string, records int64) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(interrupted, 2*time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	var n int64
	for n < records {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			return 0, err
		}
		n += int64(f.NumRecords())
	}
	if n > records {
		return 0, fmt.Errorf("%d records were produced, %d came", records, n)
	}
	return 0, nil
}

func (l *logBench) consumeTable() {
	var names []string
	for _, s := range l.kafkas() {
		names = append(names, s.kind.name)
	}
	fmt.Println("MB of values per CPU second of the server, median (min–max) / CPU seconds per GB / MB per second:")
	fmt.Println()
	fmt.Println("| value, client | " + strings.Join(names, " | ") + " | of Kafka's |")
	fmt.Println("|" + strings.Repeat(" --- |", len(names)+2))
	for _, c := range consumptions() {
		row := fmt.Sprintf("| %d B, %s", c.size, c.who)
		for _, name := range names {
			runs := l.found.consumed[c][name]
			if len(runs) == 0 {
				row += " | –"
				continue
			}
			p := spreadOf(runs, consumed.perCPU)
			row += fmt.Sprintf(" | %.0f (%.0f–%.0f) / %.2f / %.0f", p.mid, p.low, p.high, spreadOf(runs, consumed.perGB).mid, spreadOf(runs, consumed.perSecond).mid)
		}
		fmt.Printf("%s | %s |\n", row, spreadOf(l.found.consumed[c][names[0]], consumed.perCPU).times(spreadOf(l.found.consumed[c][namedKafka], consumed.perCPU)))
	}
}
