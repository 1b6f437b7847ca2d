package main

import (
	"strings"
	"testing"
	"time"
)

// What misses a target is called missed, by the cell that misses it.
func TestLogTargets(t *testing.T) {
	run := func(records int64) []produced {
		return []produced{{records: records, size: 100, elapsed: time.Second, cpu: time.Second}}
	}
	l := &logBench{bench: &bench{ours: []kind{{name: "millrace"}}}, gb: 20}
	l.found.produced = map[produceCell]map[string][]produced{
		{100, 1, 1}:   {"millrace": run(1000), namedKafka: run(400), kafkaSynced: run(100)},
		{100, 1, 16}:  {"millrace": run(900), namedKafka: run(500), kafkaSynced: run(100)},
		{100, 1, 256}: {"millrace": run(850), namedKafka: run(400), kafkaSynced: run(100)},
	}
	l.found.restarted = map[string]restarted{"millrace": {took: []time.Duration{time.Second, 4 * time.Second}}}
	l.found.peak = map[string]int64{"millrace": 500e6}
	for i, want := range []struct {
		says string
		met  bool
	}{{"in 2 of 3; least × 1.80 (100 B, 1 → 16)", false}, {"in 3 of 3; least × 8.50", true}, {"15 % apart (100 B, 1 producers)", true}, {"4.00 s", false}, {"500 MB", true}} {
		vs := l.verdicts()
		if len(vs) != 5 {
			t.Fatalf("%d verdicts: %+v", len(vs), vs)
		}
		if v := vs[i]; v.met != want.met || !strings.Contains(v.measured, want.says) {
			t.Errorf("%+v, want %+v", v, want)
		}
	}
}
