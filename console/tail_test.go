package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// stream is a client of a tail.
type stream struct {
	t    testing.TB
	resp *http.Response
	in   *bufio.Scanner
}

// sse is one event; a comment has the name ":".
type sse struct{ name, id, data string }

func (w *world) follow(address, path string, header ...string) *stream {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	w.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+address+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		w.t.Fatalf("%s: %d %v", path, resp.StatusCode, resp.Header)
	}
	s := &stream{w.t, resp, bufio.NewScanner(resp.Body)}
	s.in.Buffer(nil, 1<<20)
	return s
}

// next returns the next event, false at the end.
func (s *stream) next() (e sse, ok bool) {
	for s.in.Scan() {
		line := s.in.Text()
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case line == "":
			if e != (sse{}) {
				return e, true
			}
		case strings.HasPrefix(line, ":"):
			e.name = ":"
		case name == "event":
			e.name = value
		case name == "id":
			e.id = value
		case name == "data":
			if e.data != "" {
				s.t.Errorf("two lines of data: %s", line)
			}
			e.data = value
		case name == "retry":
		default:
			s.t.Errorf("no line of an event stream: %q", line)
		}
	}
	return e, false
}

func (s *stream) until(name string) sse {
	s.t.Helper()
	for {
		e, ok := s.next()
		if !ok {
			s.t.Fatalf("the stream ended before %q: %v", name, s.in.Err())
		}
		if e.name == name {
			return e
		}
	}
}

// record returns the next record.
func (s *stream) record() (r Record, id string) {
	s.t.Helper()
	e := s.until("")
	if err := json.Unmarshal([]byte(e.data), &r); err != nil {
		s.t.Fatalf("%v: %s", err, e.data)
	}
	return r, e.id
}

// A tail begins at the end, gives what comes, and goes on where it was left.
func TestTail(t *testing.T) {
	w := newWorld(t)
	address := w.listen()
	w.write(0, "before")
	s := w.follow(address, "/api/v1/topics/telemetry/tail")
	s.until(":") // it stands
	w.write(0, `{"a":1}`)
	r, id := s.record()
	if r.Partition != 0 || r.Offset != 1 || r.Key != "key" || r.Value == nil || *r.Value != `{"a":1}` || r.Size != 7 || r.Truncated || r.Time != w.clock().UnixMilli() ||
		r.Headers["mqtt.topic"] != "fleet/x" || id != "0:2,1:0" {
		t.Errorf("%+v %q", r, id)
	}
	s.resp.Body.Close()
	w.write(1, "b")
	w.write(0, "c")
	s = w.follow(address, "/api/v1/topics/telemetry/tail", "Last-Event-ID", id)
	got := map[string]bool{}
	for range 2 {
		r, _ := s.record()
		got[*r.Value] = true
	}
	if !got["b"] || !got["c"] {
		t.Errorf("after coming back: %v", got)
	}
	only := w.follow(address, "/api/v1/topics/telemetry/tail?from=start&partition=1")
	if r, id := only.record(); *r.Value != "b" || id != "1:1" {
		t.Errorf("%+v %q", r, id)
	}
	limited := w.follow(address, "/api/v1/topics/telemetry/tail?from=start&limit=2")
	limited.record()
	limited.record()
	if e := limited.until("end"); !strings.Contains(e.data, "limit") {
		t.Errorf("%+v", e)
	}
	if _, more := limited.next(); more {
		t.Error("it goes on")
	}
	old := fmt.Sprint(w.clock().UnixMilli())
	w.pass(time.Hour)
	w.write(0, "later")
	since := w.follow(address, "/api/v1/topics/telemetry/tail?from="+fmt.Sprint(w.clock().UnixMilli()))
	if r, _ := since.record(); *r.Value != "later" {
		t.Errorf("%+v", r)
	}
	if r, _ := w.follow(address, "/api/v1/topics/telemetry/tail?from="+old).record(); *r.Value == "later" {
		t.Errorf("%+v", r)
	}
	w.s.Detach()
	since.until("end")
	eventually(t, "no tail is left", func() bool { return w.s.tails.Load() == 0 })
}

// A burst is given as far as the rate goes and counted beyond it; history is given whole, at the rate.
func TestTailRate(t *testing.T) {
	w := newWorld(t)
	address := w.listen()
	s := w.follow(address, "/api/v1/topics/telemetry/tail?rate=10")
	s.until(":")
	values := make([]string, 1000)
	for i := range values {
		values[i] = fmt.Sprint(i)
	}
	w.write(0, values[:500]...)
	w.write(0, values[500:]...)
	given, skipped := int64(0), int64(0)
	for given+skipped < 1000 {
		switch e, ok := s.next(); {
		case !ok:
			t.Fatal("the stream ended")
		case e.name == "":
			given++
		case e.name == "skipped":
			var k Skipped
			if err := json.Unmarshal([]byte(e.data), &k); err != nil || k.Count == 0 {
				t.Fatalf("%+v %v", e, err)
			}
			skipped += k.Count
		}
	}
	if given+skipped != 1000 || given < 10 || given > 40 {
		t.Errorf("%d given, %d skipped", given, skipped)
	}
	history := w.follow(address, "/api/v1/topics/telemetry/tail?from=start&rate=1000&limit=1000")
	for i := range 1000 {
		if r, _ := history.record(); r.Offset != int64(i) {
			t.Fatalf("record %d is %d", i, r.Offset)
		}
	}
}

// What devices send cannot forge events, and what is long or no text is shown as what it is.
func TestTailOfHostileRecords(t *testing.T) {
	long := strings.Repeat("ä", 1000)
	for _, c := range []struct {
		value     string
		text      string
		truncated bool
		binary    bool
	}{
		{"a\n\ndata: forged\n\nevent: end\n", "a\n\ndata: forged\n\nevent: end\n", false, false},
		{"</script>\u2028", "</script>\u2028", false, false},
		{long, long[:1024], true, false},
		{"x" + long, ("x" + long)[:1023], true, false},
		{"\xff\xfe", "", false, true},
		{"a\x00b", "", false, true},
		{strings.Repeat("\xff", 5000), "", true, true},
		{"", "", false, false},
		{"a\xc3", "", false, true}, // half a character, and nothing follows
	} {
		r := recordBody(0, &eventlog.Record{Value: []byte(c.value)})
		if r.Truncated != c.truncated || r.Size != len(c.value) || (r.Base64 != nil) != c.binary || (r.Value != nil) == c.binary {
			t.Errorf("%.20q: %+v", c.value, r)
		}
		if r.Value != nil && *r.Value != c.text {
			t.Errorf("%.20q: %q", c.value, *r.Value)
		}
		b, err := json.Marshal(r)
		if err != nil || strings.ContainsAny(string(b), "\n\r") || len(b) > 4096 {
			t.Errorf("%.20q: %s %v", c.value, b, err)
		}
	}
	if r := recordBody(0, &eventlog.Record{}); r.Value != nil || r.Base64 != nil {
		t.Errorf("a tombstone: %+v", r)
	}
	many := eventlog.Record{Key: []byte(strings.Repeat("k\n", 1000))}
	for i := range 1000 {
		many.Headers = append(many.Headers, eventlog.Header{Key: fmt.Sprint(i, "\n"), Value: make([]byte, 1000)})
	}
	if r := recordBody(0, &many); len(r.Headers) != maxHeaders || len(r.Key) > 300 {
		t.Errorf("%d headers, key of %d bytes", len(r.Headers), len(r.Key))
	}
}

func TestTailRefuses(t *testing.T) {
	w := newWorld(t)
	for path, code := range map[string]int{
		"/api/v1/topics/none/tail":                          404,
		"/api/v1/topics/__millrace_sessions/tail":           404,
		"/api/v1/topics/..%2f..%2fetc/tail":                 404,
		"/api/v1/topics/a%00b/tail":                         404,
		"/api/v1/topics/telemetry/tail?rate=0":              400,
		"/api/v1/topics/telemetry/tail?rate=1e9":            400,
		"/api/v1/topics/telemetry/tail?limit=-1":            400,
		"/api/v1/topics/telemetry/tail?limit=1000000":       400,
		"/api/v1/topics/telemetry/tail?partition=2":         400,
		"/api/v1/topics/telemetry/tail?partition=x":         400,
		"/api/v1/topics/telemetry/tail?from=yesterday":      400,
		"/api/v1/topics/telemetry/tail?from=-1":             400,
		"/api/v1/topics/telemetry/tail?form=start":          400,
		"/api/v1/topics/telemetry/tail?from=end&from=start": 400,
		"/api/v1/topics/telemetry/tail?%zz":                 400,
	} {
		if a := w.get("GET", path); a.Code != code {
			t.Errorf("%s: %d %s", path, a.Code, a.Body)
		}
	}
	for _, id := range []string{"x", "0", "0:x", "9:1", "0:-1", strings.Repeat("0:1,", 2000), "0:1\r\nx"} {
		if a := w.get("GET", "/api/v1/topics/telemetry/tail", "Last-Event-ID", id); a.Code != 400 {
			t.Errorf("id %.20q: %d", id, a.Code)
		}
	}
	if w.s.tails.Load() != 0 {
		t.Error("a tail was begun")
	}
	w.s.tails.Store(maxTails)
	if a := w.get("GET", "/api/v1/topics/telemetry/tail"); a.Code != 429 || w.s.tails.Load() != maxTails {
		t.Errorf("too many: %d", a.Code)
	}
}
