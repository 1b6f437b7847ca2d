package main

import (
	"fmt"
	"math"
	"time"
)

// verdict is a target, and what was measured; met without a measurement is neither true nor false.
type verdict struct {
	target, measured string
	met              bool
}

// targets prints which of the targets that were measured are met.
func targets(vs []verdict) {
	if len(vs) == 0 {
		return
	}
	fmt.Printf("\n**Targets**\n\n| target | measured | |\n| --- | --- | --- |\n")
	for _, v := range vs {
		fmt.Printf("| %s | %s | %s |\n", v.target, v.measured, map[bool]string{true: "met", false: "**missed**"}[v.met])
	}
}

func (l *logBench) verdicts() (all []verdict) {
	add := func(v verdict, measured bool) {
		if measured {
			all = append(all, v)
		}
	}
	ours := l.ours[0].name
	add(l.found.produceRatio(ours, namedKafka, 2, "without its fsync"))
	add(l.found.produceRatio(ours, kafkaSynced, 5, "with it"))
	add(l.found.flat(ours))
	add(l.found.acknowledged(ours))
	add(l.found.consumedRatio(ours))
	add(l.found.endToEnd(ours))
	if r, ok := l.found.restarted[ours]; ok {
		worst := time.Duration(0)
		for _, d := range r.took {
			worst = max(worst, d)
		}
		add(verdict{fmt.Sprintf("restart after `kill -9` with %.0f GB in 1,000 partitions: serving in < 3 s", l.gb), fmt.Sprintf("%.2f s at worst", worst.Seconds()), worst < 3*time.Second}, true)
	}
	if rss := l.found.idle[ours]; len(rss) > 0 {
		mb := spreadOf(rss, inMB).mid
		add(verdict{"idle memory with 1,000 partitions < 150 MB", fmt.Sprintf("%.0f MB", mb), mb < 150}, true)
	}
	if peak := l.found.peak[ours]; peak > 0 {
		add(verdict{"the server's whole footprint under the produce load < 512 MB", fmt.Sprintf("%.0f MB at most", inMB(peak)), inMB(peak) < 512}, true)
	}
	return all
}

func inMB(bytes int64) float64 { return float64(bytes) / 1e6 }

// produceRatio compares records per CPU second, cell by cell and with Kafka's own tool; the target is of each.
func (f *findings) produceRatio(ours, theirs string, least float64, how string) (v verdict, measured bool) {
	worst, where, met, n := math.Inf(1), "", 0, 0
	look := func(what string, of map[string][]produced) {
		a, b := spreadOf(of[ours], produced.perCPU), spreadOf(of[theirs], produced.perCPU)
		if a.mid == 0 || b.mid == 0 {
			return
		}
		n++
		if a.mid/b.mid >= least {
			met++
		}
		if a.mid/b.mid < worst {
			worst, where = a.mid/b.mid, what
		}
	}
	for c, of := range f.produced {
		look(c.String(), of)
	}
	for size, of := range f.byTool {
		look(fmt.Sprintf("%d B, ProducerPerformance", size), of)
	}
	return verdict{fmt.Sprintf("durable produce: ≥ %.0f× Kafka's records per server CPU second %s", least, how),
		fmt.Sprintf("in %d of %d; least × %.2f (%s)", met, n, worst, where), met == n}, n > 0
}

// flat looks at how records per CPU second change with the number of partitions.
func (f *findings) flat(ours string) (v verdict, measured bool) {
	type load struct{ size, producers int }
	low, high := map[load]float64{}, map[load]float64{}
	counts := map[load]int{}
	for c, of := range f.produced {
		mid := spreadOf(of[ours], produced.perCPU).mid
		if mid == 0 {
			continue
		}
		k := load{c.size, c.producers}
		if counts[k]++; counts[k] == 1 {
			low[k], high[k] = mid, mid
		}
		low[k], high[k] = min(low[k], mid), max(high[k], mid)
	}
	worst, where := 1.0, load{}
	for k, n := range counts {
		if n == 3 && low[k]/high[k] <= worst {
			worst, where = low[k]/high[k], k
		}
	}
	return verdict{"flat (within 20 %) from 1 to 256 partitions", fmt.Sprintf("least to most %.0f %% apart (%d B, %d producers)", 100*(1-worst), where.size, where.producers), worst >= 0.8}, where.size > 0
}

// acknowledged compares p99 with the disk's own just before, run by run.
func (f *findings) acknowledged(ours string) (v verdict, measured bool) {
	rs := f.open[ours]
	if len(rs) == 0 {
		return v, false
	}
	p99, disk, own := spreadOf(rs, inMS(ackP99)).mid, spreadOf(rs, inMS(diskP99)).mid, spreadOf(rs, inMS(func(r openRun) time.Duration { return r.syncP99 })).mid
	return verdict{"acks=all p99 at 20,000 records/s of 1 KB from 100 producers ≤ 3× the disk's own fdatasync p99",
		fmt.Sprintf("%.2f ms, × %.1f of the %.2f ms of a probe before; its own fdatasyncs' p99 during it ≤ %.2f ms", p99, p99/disk, disk, own), p99 <= 3*disk}, true
}

func (f *findings) consumedRatio(ours string) (v verdict, measured bool) {
	worst, where := math.Inf(1), consumption{}
	for c, of := range f.consumed {
		a, b := spreadOf(of[ours], consumed.perCPU), spreadOf(of[namedKafka], consumed.perCPU)
		if a.mid > 0 && b.mid > 0 && a.mid/b.mid < worst {
			worst, where = a.mid/b.mid, c
		}
	}
	return verdict{"consume from page cache: ≥ 1.5× Kafka's MB per server CPU second", fmt.Sprintf("× %.2f at the least (%d B, %s)", worst, where.size, where.who), worst >= 1.5}, where.size > 0
}

func (f *findings) endToEnd(ours string) (v verdict, measured bool) {
	rs := f.followed[ours]
	if len(rs) == 0 {
		return v, false
	}
	p99, disk := spreadOf(rs, inMS(func(r openRun) time.Duration { return r.end2end.quantile(0.99) })).mid, spreadOf(rs, inMS(diskP99)).mid
	return verdict{"end to end p99 at that load < 10 ms + two fdatasync", fmt.Sprintf("%.2f ms; 10 ms + 2 × %.2f ms", p99, disk), p99 < 10+2*disk}, true
}
