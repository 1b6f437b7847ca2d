package main

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The open loop: so many records a second of all producers together, each sent when it is due, in a request of its own.
const (
	openRate       = 20_000
	openProducers  = 100
	openSize       = 1000
	openPartitions = 16
	openUnderWay   = 1 << 14 // of one producer; more than that are not sent, and the run fails
)

// diskProbe is what a probe of the disk has seen.
type diskProbe struct {
	p50, p99 time.Duration
	n        uint64
}

// probeDisk appends 16 KiB to a file and syncs it, again and again, on the disk of the servers' data.
func probeDisk(dir string, span time.Duration) (diskProbe, error) {
	f, err := os.Create(filepath.Join(dir, "probe"))
	if err != nil {
		return diskProbe{}, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer f.Close()
	block := incompressible(16 << 10)
	h := &histogram{}
	for begin := time.Now(); time.Since(begin) < span; {
		if _, err := f.Write(block); err != nil {
			return diskProbe{}, err
		}
		at := time.Now()
		if err := fdatasync(f); err != nil {
			return diskProbe{}, err
		}
		h.add(time.Since(at))
	}
	return diskProbe{h.quantile(0.5), h.quantile(0.99), h.n}, nil
}

// openRun is what one run of the open loop showed.
type openRun struct {
	result
	end2end *histogram // from when a record was due until a consumer had it
	cpu     time.Duration
	disk    diskProbe     // just before
	syncP99 time.Duration // Millrace's own, at most; of the window
}

// openProducer is one of the producers; the pacer writes, a goroutine of its own reads.
type openProducer struct {
	c      *rawConn
	id     int64
	epoch  int16
	next   []int32 // sequence numbers, by partition
	frames [][]byte
	batch  int // where it begins in a frame
	due    chan time.Time
}

func newOpenProducer(s *logServer, topic string, id int64, epoch int16) (*openProducer, error) {
	c, err := rawDial(s.kafka)
	if err != nil {
		return nil, err
	}
	p := &openProducer{c: c, id: id, epoch: epoch, next: make([]int32, openPartitions), due: make(chan time.Time, openUnderWay)}
	value := incompressible(openSize)
	for partition := range int32(openPartitions) {
		frame, at := produceRequest(topic, []int32{partition}, rawBatch(keys[:1], value, time.Now()))
		p.frames, p.batch = append(p.frames, frame), at
	}
	return p, nil
}

// send writes a record with when it was due, in nanoseconds since base, as the last eight bytes of its value.
func (p *openProducer) send(partition int, due time.Time, base time.Time) error {
	frame := p.frames[partition]
	batch := frame[p.batch:]
	numbered(batch, p.id, p.epoch, p.next[partition])
	p.next[partition]++
	binary.BigEndian.PutUint64(batch[len(batch)-9:], uint64(due.Sub(base)))
	sealed(batch)
	select {
	case p.due <- due:
	default:
		return fmt.Errorf("%d records of a producer wait for their acknowledgements", openUnderWay)
	}
	_, err := p.c.Write(frame)
	return err
}

// open runs the open loop once: with a consumer that follows, or without.
func (l *logBench) open(s *logServer, follow bool) (r openRun, err error) {
	err = s.withTopic(openPartitions, func(topic string) error {
		settle()
		if r.disk, err = probeDisk(l.dir, 1500*time.Millisecond); err != nil {
			return err
		}
		r, err = l.openOn(s, topic, follow, r)
		return err
	})
	if err != nil {
		err = fmt.Errorf("%s, %d records/s: %w", s.kind.name, openRate, err)
	}
	return r, err
}

func (l *logBench) openOn(s *logServer, topic string, follow bool, r openRun) (openRun, error) {
	ids, err := s.producerIDs(openProducers)
	if err != nil {
		return r, err
	}
	ps := make([]*openProducer, openProducers)
	for i, id := range ids {
		if ps[i], err = newOpenProducer(s, topic, id.ProducerID, id.ProducerEpoch); err != nil {
			return r, err
		}
		defer ps[i].c.Close()
	}
	r.lat, r.lateness, r.end2end = &histogram{}, &histogram{}, &histogram{}
	var acked, got atomic.Int64
	var since, stop atomic.Bool
	base := time.Now()
	errs := make(chan error, openProducers+2)
	for _, p := range ps {
		go func() { errs <- p.answers(&acked, &since, r.lat) }()
	}
	if follow {
		ctx, cancel := context.WithCancel(interrupted)
		defer cancel()
		cl, err := kgo.NewClient(kgo.SeedBrokers(s.kafka), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return r, err
		}
		defer cl.Close()
		go func() { errs <- following(ctx, cl, base, &got, &since, r.end2end) }()
	}
	sent := int64(0)
	paced := make(chan error, 1)
	go func() {
		var err error
		sent, err = pacer(ps, base, &since, &stop, r.lateness)
		for _, p := range ps {
			close(p.due)
		}
		paced <- err
	}()
	var from time.Duration
	var synced map[float64]float64
	r.count, r.elapsed = pace{2 * time.Second, l.pace.window}.span(&acked, func() { synced = s.syncs(); from = s.cpu(); since.Store(true) }, func() {
		since.Store(false)
		r.cpu = s.cpu() - from
		r.syncP99, _ = syncQuantile(synced, s.syncs(), 0.99)
	})
	stop.Store(true)
	err = <-paced
	for range ps {
		err = cmp.Or(err, <-errs)
	}
	if follow {
		await(&got, sent)
	}
	if err == nil && (acked.Load() != sent || follow && got.Load() != sent) {
		err = fmt.Errorf("of %d records %d were acknowledged, and %d consumed", sent, acked.Load(), got.Load())
	}
	return r, errors.Join(err, s.holds(topic, sent))
}

// pacer sends each record when it is due, with a thread of its own, to a partition at random as keys would.
func pacer(ps []*openProducer, base time.Time, since, stop *atomic.Bool, lateness *histogram) (sent int64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const gap = time.Second / openRate
	due := time.Now()
	for random := uint32(1); !stop.Load(); {
		now := time.Now()
		if now.Before(due) {
			nap(due.Sub(now))
			continue
		}
		random = random*1664525 + 1013904223
		if err := ps[int(sent)%len(ps)].send(int(random>>16)%openPartitions, due, base); err != nil {
			return sent, err
		}
		if since.Load() {
			lateness.add(now.Sub(due))
		}
		sent++
		due = due.Add(gap)
	}
	return sent, nil
}

// answers reads acknowledgements until all that was sent is acknowledged.
func (p *openProducer) answers(acked *atomic.Int64, since *atomic.Bool, lat *histogram) error {
	for due := range p.due {
		b, err := p.c.answer()
		if err == nil {
			err = produceAnswer(b)
		}
		if err != nil {
			for range p.due {
			}
			return err
		}
		if acked.Add(1); since.Load() {
			lat.add(time.Since(due))
		}
	}
	return nil
}

// following consumes until ctx ends.
func following(ctx context.Context, cl *kgo.Client, base time.Time, got *atomic.Int64, since *atomic.Bool, lat *histogram) error {
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("consume: %w", err)
		}
		now := time.Since(base)
		fetches.EachRecord(func(r *kgo.Record) {
			got.Add(1)
			if since.Load() {
				lat.add(now - time.Duration(binary.BigEndian.Uint64(r.Value[len(r.Value)-8:])))
			}
		})
	}
	return nil
}

// openLoops runs the open loop on all servers in turn, several times, and prints what they showed.
func openLoops(follow bool) func(b *bench) error {
	return func(b *bench) error {
		l, err := b.log()
		if err != nil {
			return err
		}
		runs := l.openRuns(follow)
		if follow {
			l.found.followed = runs
		} else {
			l.found.open = runs
		}
		l.openTable(runs, follow)
		return nil
	}
}

// openRuns has what succeeded; a server that cannot keep up may not. The first run of a Java server is its warm-up: requests are other ones than before.
func (l *logBench) openRuns(follow bool) map[string][]openRun {
	runs := map[string][]openRun{}
	for _, s := range l.kafkas() {
		if s.java && !l.openWarm {
			if _, err := l.open(s, true); err != nil {
				l.gaveUp(s.kind, err)
			}
		}
	}
	l.openWarm = true
	for range l.runs {
		for _, s := range l.kafkas() {
			r, err := l.open(s, follow)
			if err != nil {
				l.gaveUp(s.kind, err)
				continue
			}
			runs[s.kind.name] = append(runs[s.kind.name], r)
		}
	}
	return runs
}

// openTable prints what the runs showed.
func (l *logBench) openTable(runs map[string][]openRun, follow bool) {
	what := "acknowledged p50 ms | p99 ms"
	if follow {
		what = "consumed p50 ms | p99 ms | " + what
	}
	fmt.Println("| server | records/s | " + what + " | records per CPU second of the server, thousands | the disk's fdatasync before: p50 / p99 ms | its own p99 | sent late p50 / p99 ms |")
	columns := 8
	if follow {
		columns += 2
	}
	fmt.Println("|" + strings.Repeat(" --- |", columns))
	for _, s := range l.kafkas() {
		rs := runs[s.kind.name]
		if len(rs) == 0 {
			fmt.Printf("| %s | failed: see above |\n", s.kind.name)
			continue
		}
		at := func(f func(openRun) time.Duration) string { return spreadOf(rs, inMS(f)).fine() }
		row := fmt.Sprintf("| %s | %.0f", s.kind.name, spreadOf(rs, func(r openRun) float64 { return r.rate() }).mid)
		if follow {
			row += " | " + at(func(r openRun) time.Duration { return r.end2end.quantile(0.5) }) + " | " + at(func(r openRun) time.Duration { return r.end2end.quantile(0.99) })
		}
		own := "–"
		if rs[0].syncP99 > 0 {
			own = "≤ " + at(func(r openRun) time.Duration { return r.syncP99 })
		}
		fmt.Printf("%s | %s | %s | %s | %s / %s | %s | %s / %s |\n", row, at(func(r openRun) time.Duration { return r.lat.quantile(0.5) }), at(ackP99),
			spreadOf(rs, func(r openRun) float64 { return float64(r.count) / max(r.cpu.Seconds(), 0.01) }).thousands(),
			at(func(r openRun) time.Duration { return r.disk.p50 }), at(diskP99), own,
			at(func(r openRun) time.Duration { return r.lateness.quantile(0.5) }), at(func(r openRun) time.Duration { return r.lateness.quantile(0.99) }))
	}
}

func ackP99(r openRun) time.Duration  { return r.lat.quantile(0.99) }
func diskP99(r openRun) time.Duration { return r.disk.p99 }

func inMS(f func(openRun) time.Duration) func(openRun) float64 {
	return func(r openRun) float64 { return float64(f(r).Microseconds()) / 1000 }
}
