package main

import (
	"fmt"
	"time"
)

// besideProducer compares Millrace, fed by MQTT, with a plain producer of the same records.
func besideProducer(b *bench) error {
	c, err := findCluster()
	if err != nil {
		return err
	}
	if err := c.warmUp(b); err != nil {
		return err
	}
	fmt.Println("| value | who | peak /s | at | CPU s per 1 M: with the brokers (without) | p50 / p99 ms |")
	fmt.Println("| --- | --- | --- | --- | --- | --- |")
	for _, size := range []int{100, 1000} {
		plain, ours := func(rate float64) func() (loaded, error) {
			return func() (loaded, error) { return c.produced(b, size, rate) }
		}, func(rate float64) func() (loaded, error) {
			return func() (loaded, error) { return c.throughMillrace(b, size, rate) }
		}
		peaks, err := b.inTurn(plain(0), ours(0))
		if err != nil {
			return err
		}
		half := peaks[0].rate / 2
		rates := []float64{half}
		if peaks[1].rate < peaks[0].rate {
			rates = append(rates, peaks[1].rate/2)
		}
		for i, rate := range rates {
			steady, err := b.inTurn(plain(rate), ours(rate))
			if err != nil {
				return err
			}
			for i, who := range []string{"plain producer", "devices → Millrace"} {
				s := steady[i]
				fmt.Printf("| %d B | %s | %.1f k | %.1f k of %.1f k offered | %.1f (%.1f) | %s / %s |\n", size, who, peaks[i].rate/1e3, s.rate/1e3, rate/1e3, s.cpu, s.ours, ms(s.p50), ms(s.p99))
			}
			b.judge(size, []string{"the producer's", "Millrace's"}[i], rate, steady[0], steady[1])
		}
	}
	return nil
}

// judge compares one rate with its targets. A rate that is not reached is no comparison, and missed.
func (b *bench) judge(size int, whose string, rate float64, plain, ours loaded) {
	at := fmt.Sprintf("%d B at half of %s peak, %.1f k/s", size, whose, rate/1e3)
	reached, note := ours.rate > 0.97*rate, ""
	if !reached {
		note = fmt.Sprintf("; but %.1f k/s of them come through", ours.rate/1e3)
	}
	p50, p99 := ours.p50-plain.p50, ours.p99-plain.p99
	b.onCluster = append(b.onCluster,
		verdict{at + ": CPU of Millrace and brokers at most 1.25 times that of the producer and brokers", fmt.Sprintf("× %.2f%s", ours.cpu/plain.cpu, note), reached && ours.cpu <= 1.25*plain.cpu},
		verdict{at + ": at most 1 ms more at the median, 5 at p99", fmt.Sprintf("%s and %s ms%s", ms(p50), ms(p99), note), reached && p50 <= time.Millisecond && p99 <= 5*time.Millisecond})
}

// warmUp has the brokers' Java compile what the runs that are measured need.
func (c *cluster) warmUp(b *bench) error {
	warm := *b
	warm.pace = pace{time.Second, 8 * time.Second}
	_, err := c.produced(&warm, 100, 0)
	return err
}
