// Package metrics has the histogram of durations that all parts use, with a view of the last minute, and exposes what the parts count
// in Prometheus's format. The parts keep their own counters: they are asked at each scrape.
//
// No metric has a label per client, topic or key: the number of series is bounded by the program, not by its users.
// The package starts no goroutines and keeps nothing on disk.
package metrics

import (
	"fmt"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Prefix begins the name of every metric but Go's and the process's own.
const Prefix = "millrace_"

// Registry holds what a node exposes.
type Registry struct{ reg *prometheus.Registry }

// New returns a registry with what the Go runtime and the system say of the process, and the build.
func New(version string) *Registry {
	r := &Registry{reg: prometheus.NewRegistry()}
	r.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.Collect(func(s *Samples) {
		s.Gauge("build_info", "Always 1; the labels say which build this is.", 1, "version", version, "go", runtime.Version())
	})
	return r
}

// Collect has f called at each scrape. f must be safe for concurrent use.
func (r *Registry) Collect(f func(*Samples)) { r.reg.MustRegister(collector(f)) }

// Handler serves the metrics over HTTP.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: 4})
}

// collector is an unchecked prometheus.Collector: what it gives is known only when it is asked.
type collector func(*Samples)

func (c collector) Describe(chan<- *prometheus.Desc)     {}
func (c collector) Collect(out chan<- prometheus.Metric) { c(&Samples{out: out}) }

// Samples takes the values of one scrape. Labels are pairs of name and value.
type Samples struct{ out chan<- prometheus.Metric }

// Counter is a total since the start of the process.
func (s *Samples) Counter(name, help string, value float64, labels ...string) {
	s.send(prometheus.CounterValue, name+"_total", help, value, labels)
}

// Gauge is a value of now.
func (s *Samples) Gauge(name, help string, value float64, labels ...string) {
	s.send(prometheus.GaugeValue, name, help, value, labels)
}

// Counters is one counter for each entry of a map, under a label.
func Counters[N int64 | uint64](s *Samples, name, help, label string, by map[string]N) {
	for k, v := range by {
		s.Counter(name, help, float64(v), label, k)
	}
}

// Histogram has the cumulative counts of its buckets by upper bound, the count of all, and their sum.
func (s *Samples) Histogram(name, help string, buckets map[float64]uint64, count uint64, sum float64, labels ...string) {
	names, values := pairs(name, labels)
	m, err := prometheus.NewConstHistogram(prometheus.NewDesc(Prefix+name, help, names, nil), count, sum, buckets, values...)
	s.give(m, err)
}

// bounds are the upper bounds of the buckets of all durations, so that they can be added up and compared: from a commit on a fast disk
// to a device that was out of reach for hours.
var bounds = []time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, time.Hour,
}

// Durations is all that a histogram has recorded, in seconds, in buckets that are the same for all.
func (s *Samples) Durations(name, help string, h *Histogram, labels ...string) {
	all, buckets := h.Snapshot(), make(map[float64]uint64, len(bounds))
	for _, b := range bounds {
		buckets[b.Seconds()] = all.upTo(b)
	}
	s.Histogram(name, help, buckets, all.Count(), all.Seconds(), labels...)
}

func (s *Samples) send(kind prometheus.ValueType, name, help string, value float64, labels []string) {
	names, values := pairs(name, labels)
	m, err := prometheus.NewConstMetric(prometheus.NewDesc(Prefix+name, help, names, nil), kind, value, values...)
	s.give(m, err)
}

// pairs takes labels apart.
func pairs(name string, labels []string) (names, values []string) {
	if len(labels)%2 != 0 {
		panic(fmt.Sprintf("metric %s: %d label words", name, len(labels))) // a constant of the program
	}
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	return names, values
}

func (s *Samples) give(m prometheus.Metric, err error) {
	if err != nil {
		m = prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
	s.out <- m
}
