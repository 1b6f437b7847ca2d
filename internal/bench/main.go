// Command bench measures Millrace beside Mosquitto, in one run on one machine: `make bench`.
//
// Servers run one at a time in processes of their own, each run with a fresh folder, the kinds in turn, so that a change in the
// machine's speed meets all of them. CPU seconds are the server's own (user and system). It prints tables in Markdown; it
// judges nothing.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	runs := flag.Int("runs", 3, "runs of each kind; medians are printed")
	window := flag.Duration("window", 3500*time.Millisecond, "measured time of each run, after 1 s of warm-up")
	only := flag.String("only", "", "letters of the scenarios to run (default all)")
	bin := flag.String("millrace", "./millrace", "the binary to measure")
	flag.Parse()
	mosq, err := exec.LookPath("mosquitto")
	if err != nil {
		if _, err := os.Stat("/usr/sbin/mosquitto"); err == nil {
			mosq = "/usr/sbin/mosquitto"
		}
	}
	path, err := filepath.Abs(*bin) // servers run in folders of their own
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	b := &bench{runs: *runs, pace: pace{time.Second, *window}, bin: path, mosquitto: mosq}
	fmt.Printf("%s, %d processors, %s\n", host(), runtime.NumCPU(), runtime.Version())
	if mosq == "" {
		fmt.Println("mosquitto is not installed: its rows are missing")
	}
	for _, s := range scenarios {
		if *only != "" && !strings.Contains(*only, s.letter) {
			continue
		}
		fmt.Printf("\n**%s. %s**\n\n", s.letter, s.title)
		if err := s.run(b); err != nil {
			fmt.Fprintf(os.Stderr, "scenario %s: %v\n", s.letter, err)
			os.Exit(1)
		}
	}
}

type bench struct {
	runs           int
	pace           pace
	bin, mosquitto string
}

// peers are the kinds that a scenario compares: Mosquitto, where there is one, and Millrace in the given forms.
func (b *bench) peers(forms ...kind) []kind {
	if len(forms) == 0 {
		forms = []kind{millrace("millrace", b.bin, "")}
	}
	if b.mosquitto == "" {
		return forms
	}
	return append([]kind{mosquitto(b.mosquitto)}, forms...)
}

// run is what one run of one kind showed.
type run struct {
	result
	cpu time.Duration
	rss int64
}

func (r run) cpuPerMillion() float64 { return r.cpu.Seconds() / float64(r.count) * 1e6 }

// each runs a load on every kind in turn, several times, on fresh servers.
func (b *bench) each(kinds []kind, load func(s *server, begin, end func()) (result, error)) (map[string][]run, error) {
	all := map[string][]run{}
	for range b.runs {
		for _, k := range kinds {
			r, err := b.once(k, load)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.name, err)
			}
			all[k.name] = append(all[k.name], r)
		}
	}
	return all, nil
}

func (b *bench) once(k kind, load func(s *server, begin, end func()) (result, error)) (run, error) {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return run{}, err
	}
	defer os.RemoveAll(dir)
	s, err := k.start(dir)
	if err != nil {
		return run{}, err
	}
	defer s.stop()
	var r run
	var from time.Duration
	r.result, err = load(s, func() { from = s.cpu() }, func() { r.cpu, r.rss = s.cpu()-from, s.rss() })
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

// table prints rate, CPU and latency per kind.
func (b *bench) table(kinds []kind, all map[string][]run) {
	fmt.Println("| server | median /s (min–max) | server CPU s per 1 M (min–max) | p50 / p99 ms | lost | RSS MiB |")
	fmt.Println("| --- | --- | --- | --- | --- | --- |")
	for _, k := range kinds {
		rs := all[k.name]
		rate, rl, rh := median(rs, run.rate)
		cpu, cl, ch := median(rs, run.cpuPerMillion)
		rss, _, _ := median(rs, func(r run) int64 { return r.rss })
		lat := "–"
		if rs[0].lat != nil {
			p50, _, _ := median(rs, func(r run) time.Duration { return r.lat.quantile(0.5) })
			p99, _, _ := median(rs, func(r run) time.Duration { return r.lat.quantile(0.99) })
			lat = ms(p50) + " / " + ms(p99)
		}
		var lost int64
		for _, r := range rs {
			lost += r.lost
		}
		fmt.Printf("| %s | %.0f k (%.0f–%.0f) | %.2f (%.2f–%.2f) | %s | %d | %d |\n", k.name, rate/1e3, rl/1e3, rh/1e3, cpu, cl, ch, lat, lost, rss>>20)
	}
}
