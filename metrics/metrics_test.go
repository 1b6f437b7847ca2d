package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestExposition(t *testing.T) {
	r := New("1.2.3")
	n := 0.0
	var h Histogram
	h.RecordN(300*time.Microsecond, 3)
	h.Record(time.Second)
	h.Record(2 * time.Hour)
	r.Collect(func(s *Samples) {
		n++
		s.Counter("messages", "Messages.", n, "dir", "in", "qos", "1")
		s.Gauge("sessions", "Sessions.", 3)
		Counters(s, "dropped", "Dropped.", "reason", map[string]int64{"expired": 2, "a \"quoted\"\nreason": 1})
		s.Histogram("fsync_seconds", "Time.", map[float64]uint64{0.001: 4, 0.01: 5}, 6, 0.5)
		s.Durations("latency_seconds", "Time.", &h, "from", "a", "to", "b")
		s.Durations("latency_seconds", "Time.", &Histogram{}, "from", "b", "to", "c")
	})
	scrape := func() string {
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if w.Code != 200 {
			t.Fatalf("%d: %s", w.Code, w.Body)
		}
		return w.Body.String()
	}
	scrape()
	text := scrape()
	for _, want := range []string{
		`millrace_messages_total{dir="in",qos="1"} 2`, "millrace_sessions 3", `millrace_dropped_total{reason="expired"} 2`,
		`millrace_dropped_total{reason="a \"quoted\"\nreason"} 1`, `millrace_fsync_seconds_bucket{le="0.01"} 5`, "millrace_fsync_seconds_count 6",
		`millrace_latency_seconds_bucket{from="a",to="b",le="0.00025"} 0`, `millrace_latency_seconds_bucket{from="a",to="b",le="0.0005"} 3`,
		`millrace_latency_seconds_bucket{from="a",to="b",le="1"} 4`, `millrace_latency_seconds_bucket{from="a",to="b",le="3600"} 4`,
		`millrace_latency_seconds_bucket{from="a",to="b",le="+Inf"} 5`, `millrace_latency_seconds_count{from="a",to="b"} 5`,
		`millrace_latency_seconds_sum{from="a",to="b"} 7201.0009`, `millrace_latency_seconds_count{from="b",to="c"} 0`,
		`millrace_build_info{go="go`, `version="1.2.3"`, "go_goroutines", "# TYPE millrace_messages_total counter",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestBadMetricFailsTheScrape(t *testing.T) {
	r := New("x")
	r.Collect(func(s *Samples) { s.Gauge("bad", "Bad.", 1, "label", "\xff") })
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 500 {
		t.Errorf("%d", w.Code)
	}
}
