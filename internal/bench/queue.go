package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	queuedEach = 2_000
	queuedPubs = 50
	away       = "away"
)

// leave makes a persistent session with a subscription, and leaves it.
func leave(addr string) error {
	c, err := dial(addr, away, false)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := subscribe(c, everything, 1); err != nil {
		return err
	}
	_, err = c.Write([]byte{0xE0, 0}) // DISCONNECT
	return err
}

// comeBack returns to the session and receives until want messages are there, or nothing has come for quiet. took is until the last one.
func comeBack(addr string, pubs int, want int64, quiet time.Duration) (s *subscriber, took time.Duration, err error) {
	var total atomic.Int64
	start := time.Now()
	if s, err = newSubscriber(addr, away, false, pubs, &total); err != nil {
		return nil, 0, err
	}
	go s.run()
	last := start
	for seen := int64(0); total.Load() < want && time.Since(last) < quiet; time.Sleep(time.Millisecond) {
		if n := total.Load(); n > seen {
			seen, last = n, time.Now()
		}
	}
	if total.Load() >= want {
		last = time.Now()
	}
	s.end()
	return s, last.Sub(start), nil
}

// queued lets messages queue for a session that is away, and drains them.
func queued(b *bench) error {
	fmt.Println("| server | acks/s while queueing | came back | lost / twice / out of order | drain s, from connect to the last (min–max) |")
	fmt.Println("| --- | --- | --- | --- | --- |")
	const all = queuedEach * queuedPubs
	for _, k := range b.compared(natsSynced) {
		var runs []run
		var rates []run
		var f faults
		var row string
		for range b.runs {
			r, err := b.once(k, nil, func(s *server, _, _ func()) (result, error) {
				if err := leave(s.mqtt); err != nil {
					return result{}, err
				}
				start := time.Now()
				ps, err := fixed(s.mqtt, queuedPubs, 64, queuedEach, noise(1, 100))
				if err != nil {
					return result{}, err
				}
				rates = append(rates, run{result: result{count: all, elapsed: time.Since(start)}})
				time.Sleep(time.Second)
				sub, took, err := comeBack(s.mqtt, queuedPubs, all, 5*time.Second)
				if err != nil {
					return result{}, err
				}
				r := result{count: sub.total.Load(), elapsed: took}
				r.faults = sub.faults(func(i int) uint32 { return ps[i].sent })
				return r, nil
			})
			if err != nil {
				row = b.gaveUp(k, err)
				continue
			}
			runs = append(runs, r)
			f.add(r.faults)
		}
		if len(runs) == 0 {
			fmt.Println(row)
			continue
		}
		rate, _, _ := median(rates, run.rate)
		back, _, _ := median(runs, func(r run) int64 { return r.count })
		took, low, high := median(runs, func(r run) time.Duration { return r.elapsed })
		fmt.Printf("| %s | %.0f k | %d | %d / %d / %d | %.2f (%.2f–%.2f) |\n", k.name, rate/1e3, back, f.lost, f.twice, f.late,
			took.Seconds(), low.Seconds(), high.Seconds())
	}
	return nil
}

const killAfter = time.Second

// killed kills a server under load and looks, after a restart, for what it had acknowledged.
func killed(b *bench) error {
	fmt.Println("| server | acks/s before | acknowledged | of them lost | twice / out of order |")
	fmt.Println("| --- | --- | --- | --- | --- |")
	for _, k := range b.compared(natsSynced) {
		_, err := b.once(k, nil, func(s *server, _, _ func()) (result, error) {
			row, err := killedRow(s)
			fmt.Print(row)
			return result{}, err
		})
		if err != nil {
			fmt.Println(b.gaveUp(k, err))
		}
	}
	return nil
}

func killedRow(s *server) (row string, err error) {
	if err := leave(s.mqtt); err != nil {
		return "", err
	}
	const pubs = 100
	ps, err := dialPublishers(s.mqtt, true, pubs, 64, 0, noise(1, 100))
	if err != nil {
		return "", err
	}
	defer ps.close()
	var acked atomic.Int64
	var stop atomic.Bool
	errs := ps.start(&acked, &stop)
	start := time.Now()
	time.Sleep(killAfter)
	took := time.Since(start)
	s.kill()
	for range ps {
		if err := <-errs; err == nil {
			return "", errors.New("a publisher did not notice that the server is gone")
		}
	}
	n := acked.Load()
	if err := s.spawn(); err != nil {
		return "", err
	}
	var most int64
	for _, p := range ps {
		most += int64(p.sent) // what was sent and not acknowledged may come, too
	}
	sub, _, err := comeBack(s.mqtt, pubs, most, 5*time.Second)
	if err != nil {
		return fmt.Sprintf("| %s | %.0f k | %d | the session cannot be resumed: %v | |\n", s.kind.name, float64(n)/took.Seconds()/1e3, n, err), nil
	}
	f := sub.faults(func(i int) uint32 { return ps[i].acked.Load() })
	return fmt.Sprintf("| %s | %.0f k | %d | %d | %d / %d |\n", s.kind.name, float64(n)/took.Seconds()/1e3, n, f.lost, f.twice, f.late), nil
}

const (
	stuckMessages = 1_000_000
	stuckPubs     = 50
	stuckTime     = 15 * time.Second // slower servers are sent less
)

// stuck publishes with and without a subscriber that never reads, and compares the most memory that the server ever had.
func stuck(b *bench) error {
	fmt.Println("| server | published | peak RSS MiB without it | with it | what it costs MiB |")
	fmt.Println("| --- | --- | --- | --- | --- |")
	for _, k := range b.compared(natsSynced) {
		var peaks [2]int64
		var published int64
		var held error
		var row string
		for i := range peaks {
			r, err := b.once(k, nil, func(s *server, _, _ func()) (result, error) {
				if i == 1 {
					c, err := dial(s.mqtt, "stuck", true)
					if err != nil {
						return result{}, err
					}
					defer c.Close()
					if err := subscribe(c, everything, 1); err != nil {
						return result{}, err
					}
				}
				published, held = upTo(s.mqtt, stuckMessages, stuckTime)
				return result{}, nil
			})
			if err != nil {
				row = b.gaveUp(k, err)
				break
			}
			peaks[i] = r.peak
		}
		if row != "" {
			fmt.Println(row)
			continue
		}
		also := "" // held is an error of the network that says no more
		if held != nil {
			also = ", then no acknowledgement in " + readTime.String()
		}
		fmt.Printf("| %s | %d%s | %d | %d | %d |\n", k.name, published, also, peaks[0]>>20, peaks[1]>>20, (peaks[1]-peaks[0])>>20)
	}
	return nil
}

// upTo publishes n messages, or what a time is enough for. It returns how many were acknowledged, and an error if that came to a stop.
func upTo(addr string, n uint32, within time.Duration) (int64, error) {
	ps, err := dialPublishers(addr, true, stuckPubs, 64, n/stuckPubs, noise(1, 100))
	if err != nil {
		return 0, err
	}
	defer ps.close()
	var acked atomic.Int64
	var stop atomic.Bool
	timer := time.AfterFunc(within, func() { stop.Store(true) })
	defer timer.Stop()
	errs := ps.start(&acked, &stop)
	for range ps {
		if err := <-errs; err != nil {
			return acked.Load(), err
		}
	}
	return acked.Load(), nil
}
