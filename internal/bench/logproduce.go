package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// produceCell is one shape of the load: bytes of a value, clients, and partitions of the topic.
type produceCell struct{ size, producers, partitions int }

func (c produceCell) String() string {
	return fmt.Sprintf("%d B, %d → %d", c.size, c.producers, c.partitions)
}

// produceCells are those of the load.
func produceCells() (all []produceCell) {
	for _, size := range []int{100, 1000} {
		for _, producers := range []int{1, 64} {
			for _, partitions := range []int{1, 16, 256} {
				all = append(all, produceCell{size, producers, partitions})
			}
		}
	}
	return all
}

// produced is what one run of a cell showed; the window's, and of the server.
type produced struct {
	records int64
	size    int
	elapsed time.Duration
	cpu     time.Duration
	batch   float64 // records of a batch, on average over the whole run; 0: not known
}

func (p produced) rate() float64 { return float64(p.records) / p.elapsed.Seconds() }
func (p produced) perCPU() float64 {
	return float64(p.records) / max(p.cpu, 10*time.Millisecond).Seconds()
}
func (p produced) perMillion() float64 { return 1e6 / p.perCPU() }
func (p produced) perGB() float64      { return 1e9 / float64(p.size) / p.perCPU() }

// The clients have the defaults of Apache's producer where they matter to a server: batches of 16 KiB, which wait 5 ms for more. What a client
// has not had acknowledged is bounded by buffer, so that there is always a batch to send and the end of a run does not take minutes.
const (
	batchBytes = 16 << 10
	linger     = 5 * time.Millisecond
	deviceKeys = 10_000
)

// buffer is four batches of each partition for a client, with a bound for all clients.
func (c produceCell) buffer(all int) int {
	return max(256<<10, min(4*batchBytes*c.partitions, all/c.producers))
}

// batches counts what clients send.
type batches struct{ sent, records atomic.Int64 }

// OnProduceBatchWritten is a hook of the client.
func (b *batches) OnProduceBatchWritten(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.ProduceBatchMetrics) {
	b.sent.Add(1)
	b.records.Add(int64(m.NumRecords))
}

func producer(address, topic string, buffer int, b *batches) (*kgo.Client, error) {
	return kgo.NewClient(kgo.WithHooks(b), kgo.SeedBrokers(address), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(batchBytes), kgo.ProducerLinger(linger),
		kgo.MaxBufferedRecords(1<<24), kgo.MaxBufferedBytes(buffer))
}

// keys of as many devices.
var keys = func() [][]byte {
	all := make([][]byte, deviceKeys)
	for i := range all {
		all[i] = fmt.Appendf(nil, "device-%05d", i)
	}
	return all
}()

// incompressible is a value of that many bytes.
func incompressible(size int) []byte {
	rng, value := rand.New(rand.NewPCG(1, 2)), make([]byte, size)
	for i := range value {
		value[i] = byte(rng.Uint32())
	}
	return value
}

// produce runs a cell once on a topic of its own, and refuses a run whose acknowledged records are not all in the log.
func (l *logBench) produce(s *logServer, c produceCell, at pace) (p produced, err error) {
	err = s.withTopic(c.partitions, func(topic string) error {
		settle()
		var from time.Duration
		p.size = c.size
		var b batches
		count, elapsed, acked, err := produceLoad(s.kafka, topic, c, c.buffer(l.unacked), at, &b, func() { from = s.cpu() }, func() { p.cpu = s.cpu() - from })
		if err != nil {
			return err
		}
		p.records, p.elapsed, p.batch = count, elapsed, float64(b.records.Load())/float64(max(b.sent.Load(), 1))
		return s.holds(topic, acked)
	})
	if err != nil {
		err = fmt.Errorf("%s, %v: %w", s.kind.name, c, err)
	}
	return p, err
}

// holds says whether the offsets of a topic are as many as the records that were acknowledged.
func (s *logServer) holds(topic string, acked int64) error {
	n, err := s.stored(topic)
	if err == nil && n != acked {
		err = fmt.Errorf("%d records were acknowledged, the log has %d", acked, n)
	}
	return err
}

// produceLoad has the clients of a cell produce until the window is over, and counts what was acknowledged in it, and in all.
func produceLoad(address, topic string, c produceCell, buffer int, at pace, b *batches, begin, end func()) (count int64, elapsed time.Duration, acked int64, err error) {
	var clients []*kgo.Client
	defer func() {
		for _, cl := range clients {
			cl.Close()
		}
	}()
	for range c.producers {
		cl, err := producer(address, topic, buffer, b)
		if err != nil {
			return 0, 0, 0, err
		}
		clients = append(clients, cl)
	}
	var total atomic.Int64
	var failed atomic.Pointer[error]
	ctx, cancel := context.WithTimeout(interrupted, at.warm+at.window+2*time.Minute)
	defer cancel()
	var stop atomic.Bool
	var all sync.WaitGroup
	value := incompressible(c.size)
	for i, cl := range clients {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			answered := func(_ *kgo.Record, err error) {
				if err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				total.Add(1)
			}
			for !stop.Load() && failed.Load() == nil {
				cl.Produce(ctx, &kgo.Record{Key: keys[rng.IntN(len(keys))], Value: value}, answered)
			}
		})
	}
	count, elapsed = at.span(&total, begin, end)
	stop.Store(true)
	all.Wait()
	for _, cl := range clients {
		err = cmp.Or(err, cl.Flush(ctx))
	}
	if e := failed.Load(); e != nil {
		err = *e
	}
	return count, elapsed, total.Load(), err
}

// produceAll runs all cells, several times, the servers in turn.
func produceAll(b *bench) error {
	l, err := b.log()
	if err != nil {
		return err
	}
	l.found.produced = map[produceCell]map[string][]produced{}
	for _, c := range produceCells() {
		if !strings.Contains(c.String(), l.cells) {
			continue
		}
		of, began := map[string][]produced{}, time.Now()
		l.found.produced[c] = of
		for range b.runs {
			for _, s := range l.servers {
				run := l.produce
				if s.nats {
					run = l.publish
				}
				p, err := run(s, c, b.pace)
				if err != nil {
					b.gaveUp(s.kind, err)
					continue
				}
				of[s.kind.name] = append(of[s.kind.name], p)
			}
		}
		fmt.Fprintf(os.Stderr, "A: %v took %v\n", c, time.Since(began).Round(time.Second))
	}
	l.found.peak = l.peaks()
	l.produceTables()
	return nil
}

// spread is a median with the least and the most.
type spread struct{ mid, low, high float64 }

func spreadOf[T any](runs []T, f func(T) float64) spread {
	if len(runs) == 0 {
		return spread{}
	}
	v := make([]float64, 0, len(runs))
	for _, r := range runs {
		v = append(v, f(r))
	}
	slices.Sort(v)
	return spread{v[len(v)/2], v[0], v[len(v)-1]}
}

// times prints a ratio of medians; a dash where one is missing.
func (s spread) times(o spread) string {
	if s.mid == 0 || o.mid == 0 {
		return "–"
	}
	return fmt.Sprintf("× %.2f", s.mid/o.mid)
}

// thousands prints a spread of counts.
func (s spread) thousands() string {
	if s.mid == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f (%.0f–%.0f)", s.mid/1e3, s.low/1e3, s.high/1e3)
}

func (l *logBench) produceTables() {
	names := make([]string, 0, len(l.servers))
	for _, s := range l.servers {
		names = append(names, s.kind.name)
	}
	fmt.Println("Thousands of records per CPU second of the server, median (min–max); by how much ours are more:")
	fmt.Println()
	fmt.Println("| value, producers → partitions | " + strings.Join(names, " | ") + " | of Kafka's | of Kafka's with fsync |")
	fmt.Println("|" + strings.Repeat(" --- |", len(names)+3))
	cells := slices.DeleteFunc(produceCells(), func(c produceCell) bool { return l.found.produced[c] == nil })
	for _, c := range cells {
		row := "| " + c.String()
		of := func(name string) spread { return spreadOf(l.found.produced[c][name], produced.perCPU) }
		for _, name := range names {
			row += " | " + of(name).thousands()
		}
		ours := of(names[0])
		fmt.Printf("%s | %s | %s |\n", row, ours.times(of(namedKafka)), ours.times(of(kafkaSynced)))
	}
	fmt.Println()
	fmt.Println("The same: thousands of records per second / CPU seconds of the server per million records / per GB of values / records of a batch:")
	fmt.Println()
	fmt.Println("| value, producers → partitions | " + strings.Join(names, " | ") + " |")
	fmt.Println("|" + strings.Repeat(" --- |", len(names)+1))
	for _, c := range cells {
		row := "| " + c.String()
		for _, name := range names {
			runs := l.found.produced[c][name]
			if spreadOf(runs, produced.perCPU).mid == 0 {
				row += " | –"
				continue
			}
			row += fmt.Sprintf(" | %.0f / %.2f / %.2f", spreadOf(runs, produced.rate).mid/1e3, spreadOf(runs, produced.perMillion).mid, spreadOf(runs, produced.perGB).mid)
			if batch := spreadOf(runs, func(p produced) float64 { return p.batch }).mid; batch > 0 {
				row += fmt.Sprintf(" / %.0f", batch)
			}
		}
		fmt.Println(row + " |")
	}
}

// fine prints a spread of milliseconds.
func (s spread) fine() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", s.mid, s.low, s.high) }
