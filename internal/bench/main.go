// Command bench measures Millrace beside other brokers, in one run on one machine: `make bench`, and `make bench-mqtt` for its MQTT part; `make bench-kafka` on a
// cluster of Apache Kafka, `make bench-log` its log beside Kafka's.
//
// Servers run one at a time in processes of their own, each run with a fresh folder, the kinds in turn, so that a change in the
// machine's speed meets all of them. CPU seconds are the server's own (user and system); what the generator costs is not in them. Every
// load numbers its messages, and what was lost, came twice or came late is in the tables. It prints tables in Markdown; it judges
// nothing, but for the log, whose targets it sets beside what was measured.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	runs := flag.Int("runs", 3, "runs of each kind; medians are printed")
	window := flag.Duration("window", 3500*time.Millisecond, "measured time of each run, after 1 s of warm-up")
	only := flag.String("only", "", "letters of the scenarios to run (default all), in this order: to go on after an interruption, name what is missing")
	kinds := flag.String("kinds", "", "brokers to measure, by name: millrace,mosquitto,mochi,nats (default all that are there)")
	bin := flag.String("millrace", "./millrace", "the binary to measure")
	beside := flag.String("beside", "", "further binaries of Millrace, with commas between them, measured in turn with the first")
	peers := flag.String("peers", ".bench/peers", "folder with the binaries mochi and nats-server")
	others := flag.String(othersFlag, "", "for a scenario's own use: be the clients of a broker at this address")
	cells := flag.String("cells", "", "scenario A: only cells whose name has this in it, such as \"100 B\" or \"1000 B, 64 → 16\"")
	unacked := flag.Int("unacked", 128, "scenario A: how many MiB all clients together have unacknowledged at most; with more, batches to many partitions are fuller")
	gb := flag.Float64("gb", 20, "scenario F: how many GB of values a server holds when it is killed")
	flag.Parse()
	if *others != "" {
		if err := beOthers(*others); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	b := &bench{runs: *runs, pace: pace{time.Second, *window}, kinds: *kinds}
	b.onLog = &logBench{bench: b, cells: *cells, unacked: *unacked << 20, gb: *gb, peersDir: *peers}
	context.AfterFunc(interrupted, func() {
		time.Sleep(time.Second) // the servers are killed meanwhile
		b.onLog.clean()
		os.Exit(130)
	})
	err := b.run(*bin, *beside, *peers, *only)
	b.onLog.end()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type bench struct {
	runs      int
	pace      pace
	bin       string
	kinds     string // names, or empty
	peers     []kind
	ours      []kind
	secure    *authority
	failed    bool // one of ours
	onLog     *logBench
	onCluster []verdict
}

// gaveUp notes that a load on a kind failed, and returns what its row says instead. The others go on.
func (b *bench) gaveUp(k kind, err error) string {
	fmt.Fprintf(os.Stderr, "%s: %v\n", k.name, err)
	b.failed = b.failed || slices.ContainsFunc(b.ours, func(o kind) bool { return o.name == k.name })
	return fmt.Sprintf("| %s | failed: %s |", k.name, strings.ReplaceAll(err.Error(), "\n", " "))
}

func (b *bench) run(bin, beside, peers, only string) (err error) {
	if b.bin, err = filepath.Abs(bin); err != nil { // servers run in folders of their own
		return err
	}
	b.ours = []kind{millrace("millrace", b.bin, "")}
	for path := range strings.SplitSeq(beside, ",") {
		if path == "" {
			continue
		}
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
		b.ours = append(b.ours, millrace("millrace, "+filepath.Base(path), path, ""))
	}
	var missing []string
	b.peers, missing = findPeers(peers)
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if b.secure, err = newAuthority(dir); err != nil {
		return err
	}
	fmt.Printf("%s, %d processors, %s, load %s, %s UTC\n", host(), runtime.NumCPU(), runtime.Version(), load(), time.Now().UTC().Format("2006-01-02 15:04"))
	if len(missing) > 0 && b.kinds == "" {
		fmt.Printf("Not there, and so not measured: %s.\n", strings.Join(missing, ", "))
	}
	for _, letter := range cmp.Or(only, letters()) {
		scenarios := append(scenarios[:len(scenarios):len(scenarios)], append(onCluster, onLog...)...)
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.letter == string(letter) })
		if i < 0 {
			return fmt.Errorf("there is no scenario %q; there are %s", string(letter), letters())
		}
		s, began := scenarios[i], time.Now()
		fmt.Printf("\n**%s. %s**\n\n", s.letter, s.title)
		if err := s.run(b); err != nil {
			return fmt.Errorf("scenario %s: %w", s.letter, err)
		}
		fmt.Fprintf(os.Stderr, "%s took %v, load %s\n", s.letter, time.Since(began).Round(time.Second), load())
	}
	targets(append(b.onLog.verdicts(), b.onCluster...))
	if b.failed {
		return errors.New("a run of millrace failed: see above")
	}
	return nil
}

func letters() (all string) {
	for _, s := range scenarios {
		all += s.letter
	}
	return all
}

// compared are the kinds that a scenario compares: the peers that are there but for those left out, and ours.
func (b *bench) compared(leftOut ...string) (kinds []kind) {
	for _, k := range b.peers {
		if !slices.Contains(leftOut, k.name) {
			kinds = append(kinds, k)
		}
	}
	return named(append(kinds, b.ours...), b.kinds)
}

// run is what one run of one kind showed.
type run struct {
	result
	cpu       time.Duration
	rss, peak int64
	syncP99   time.Duration // at most
	syncs     int64
}

func (r run) cpuPerMillion() float64 { return r.cpu.Seconds() / float64(r.count) * 1e6 }

type loader func(s *server, begin, end func()) (result, error)

// each runs a load on every kind in turn, several times, on fresh servers. What fails is in errs, by kind.
func (b *bench) each(kinds []kind, load loader) (all map[string][]run, errs map[string]string) {
	all, errs = map[string][]run{}, map[string]string{}
	for range b.runs {
		for _, k := range kinds {
			r, err := b.once(k, nil, load)
			if err != nil {
				errs[k.name] = b.gaveUp(k, err)
				continue
			}
			all[k.name] = append(all[k.name], r)
		}
	}
	return all, errs
}

// once runs a load on a fresh server.
func (b *bench) once(k kind, secure *authority, load loader) (r run, err error) {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return run{}, err
	}
	defer os.RemoveAll(dir)
	s, err := k.start(dir, secure)
	if err != nil {
		return run{}, err
	}
	defer s.stop()
	var from time.Duration
	var synced map[float64]float64
	r.result, err = load(s, func() { synced = s.syncs(); from = s.cpu() }, func() {
		r.cpu, r.rss = s.cpu()-from, s.rss()
		r.syncP99, r.syncs = syncQuantile(synced, s.syncs(), 0.99)
	})
	_, r.peak = s.memory()
	return r, err
}

func median[T float64 | int64 | time.Duration](runs []run, f func(run) T) (med, low, high T) {
	v := make([]T, 0, len(runs))
	for _, r := range runs {
		v = append(v, f(r))
	}
	slices.Sort(v)
	return v[len(v)/2], v[0], v[len(v)-1]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }

// table prints rate, CPU and latency per kind; of those that failed in every run, why.
func (b *bench) table(kinds []kind, all map[string][]run, errs map[string]string) {
	fmt.Println("| server | median /s (min–max) | server CPU s per 1 M (min–max) | p50 / p99 ms | lost / twice / out of order | RSS MiB | messages per fdatasync; its p99 |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- |")
	for _, k := range kinds {
		rs := all[k.name]
		if len(rs) == 0 {
			fmt.Println(errs[k.name])
			continue
		}
		rate, rl, rh := median(rs, run.rate)
		cpu, cl, ch := median(rs, run.cpuPerMillion)
		rss, _, _ := median(rs, func(r run) int64 { return r.rss })
		lat := "–"
		if rs[0].lat != nil {
			p50, _, _ := median(rs, func(r run) time.Duration { return r.lat.quantile(0.5) })
			p99, _, _ := median(rs, func(r run) time.Duration { return r.lat.quantile(0.99) })
			lat = ms(p50) + " / " + ms(p99)
		}
		var f faults
		for _, r := range rs {
			f.add(r.faults)
		}
		syncs := "–"
		if rs[0].syncs > 0 {
			each, _, _ := median(rs, func(r run) float64 { return float64(r.count) / float64(max(r.syncs, 1)) })
			p99, _, _ := median(rs, func(r run) time.Duration { return r.syncP99 })
			syncs = fmt.Sprintf("%.1f; ≤ %s ms", each, ms(p99))
		}
		fmt.Printf("| %s | %.0f k (%.0f–%.0f) | %.2f (%.2f–%.2f) | %s | %d / %d / %d | %d | %s |\n", k.name, rate/1e3, rl/1e3, rh/1e3, cpu, cl, ch,
			lat, f.lost, f.twice, f.late, rss>>20, syncs)
	}
	if last := all[kinds[len(kinds)-1].name]; len(last) > 0 && last[0].lateness != nil {
		fmt.Printf("\nThe generator wrote a message p50 %s, p99 %s ms after it was due (last run).\n",
			ms(last[len(last)-1].lateness.quantile(0.5)), ms(last[len(last)-1].lateness.quantile(0.99)))
	}
}

// host describes the machine a table was made on.
func host() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "model name") {
			return strings.TrimSpace(line[strings.IndexByte(line, ':')+1:])
		}
	}
	return "unknown CPU"
}

// load is how many processes wanted a processor, in the last minute.
func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return cmp.Or(first, "unknown")
}
