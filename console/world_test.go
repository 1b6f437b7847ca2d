package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/fleet"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/vfs"
	mqtt "github.com/millrace-io/millrace/mqtt/session"
)

// world is a server with a log and a fleet behind it, and a clock that the test moves.
type world struct {
	t     testing.TB
	s     *Server
	o     Options
	log   *eventlog.Log
	view  *fleet.View
	topic eventlog.Topic
	said  *said
	mqtt  *fakeMQTT

	mu  sync.Mutex
	now time.Time
	at  int64 // offset of the fleet's next message
}

// said is what was logged.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

const annasPassword = "correct horse"

func newWorld(t testing.TB, change ...func(*Options)) *world {
	w := &world{t: t, now: time.UnixMilli(1_760_000_000_000), said: &said{}}
	e, err := engine.Open(engine.Options{FS: vfs.NewMem(), WALFileBytes: 1 << 20, WALFiles: 2, ReserveBytes: 1, Now: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	w.log = eventlog.New(e)
	t.Cleanup(func() { w.log.Close() })
	for _, name := range []string{"telemetry", "__millrace_sessions", "alarms"} {
		topic, err := w.log.Ensure(t.Context(), eventlog.TopicSpec{Name: name, Partitions: 2})
		if err != nil {
			t.Fatal(err)
		}
		if name == "telemetry" {
			w.topic = topic
		}
	}
	w.view, err = fleet.New(fleet.Options{
		Sources:   []fleet.Source{{Name: "telemetry", Kind: "simulated"}},
		Place:     func(topic, _ string) (int, string, bool) { return 0, strings.TrimPrefix(topic, "fleet/"), true },
		MaxTracks: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metric 1\n") }),
		Status: func() Status {
			return Status{Ready: true, Version: "v1", Checks: []Check{{Name: "log", OK: true, Detail: "embedded"}}, Warnings: []string{"a secret"},
				Doors: []Door{{Protocol: "MQTT", Address: "127.0.0.1:1883", Does: "watch", Try: "mosquitto_sub"}}}
		},
		Hosts: []string{"node.example"}, Logger: slog.New(slog.NewTextHandler(w.said, nil)), Now: w.clock, Streets: []byte(`{"type":"FeatureCollection"}`),
	}
	o.Backup = func(_ context.Context, since int64, out io.Writer) error {
		w.mqtt.did("backup since %d", since)
		_, err := io.WriteString(out, "archive")
		return err
	}
	for _, f := range change {
		f(&o)
	}
	w.o, w.s = o, New(o)
	w.attach()
	return w
}

func (w *world) attach() {
	n := int64(0)
	w.mqtt = newFakeMQTT()
	w.s.Attach(Parts{View: w.view, Log: w.log, MQTT: w.mqtt, Bridges: func(context.Context) ([]Bridge, error) {
		return []Bridge{{Name: "cloud", LastErrorAt: new(1.0), Dropped: map[string]uint64{"loop": 1}}}, nil
	}, Bytes: func(eventlog.Topic) (int64, bool) { return 4096, true },
		Pipeline: func() Pipeline {
			return Pipeline{Now: millis(w.clock()), Hub: w.s.Hub(), Stages: []Stage{{Name: "devices", Total: 7, Unaccounted: &n,
				Left: []Reason{{"no_route", "refused", 1}}, Joined: []Reason{{"wills", "other", 1}}, P50: new(1.5), P99: new(2.5)}}, Skew: Skew{P50: new(0.5), Max: new(1.0)}}
		}})
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// passwords is a password file with anna and a scraper, whose token it returns too.
var passwords = sync.OnceValues(func() (text, token string) {
	f, err := identity.Parse(nil)
	if err != nil {
		panic(err)
	}
	if err := f.SetPassword(nil, "anna", identity.Admin, annasPassword); err != nil {
		panic(err)
	}
	if token, err = f.SetToken(nil, "scraper", identity.Admin); err != nil {
		panic(err)
	}
	return string(f.Bytes()), token
})

// locked gives the node that password file; text is what stands in it from the next Reload on.
func locked(t testing.TB) (option func(*Options), text *string) {
	now, _ := passwords()
	p, err := identity.Load(func() ([]byte, error) { return []byte(now), nil })
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.Passwords = p }, &now
}

// hear lets the fleet have a message of a device.
func (w *world) hear(device string, lat, lon float64, seq int) {
	now := w.clock()
	payload := fmt.Sprintf(`{"lat":%f,"lon":%f,"speed":3.5,"heading":90,"tst":%d}`, lat, lon, now.UnixMilli()-20)
	w.view.Add(now, &mqtt.Batch{Base: w.at, Next: w.at + 1, Msgs: []mqtt.Message{
		{Offset: w.at, Time: now.UnixMilli(), Topic: "fleet/" + device, Payload: []byte(payload), Client: device}}})
	w.at++
}

// tick is a tick of the node.
func (w *world) tick() {
	w.view.Tick(w.clock())
	w.s.Tick()
}

// write appends records to a partition of the topic.
func (w *world) write(partition int32, values ...string) {
	w.t.Helper()
	var b eventlog.Builder
	for _, v := range values {
		b.Add(w.clock().UnixMilli(), []byte("key"), []byte(v), []eventlog.Header{{Key: "mqtt.topic", Value: []byte("fleet/x")}})
	}
	batch, _, err := b.Batch(eventlog.Part{Topic: w.topic.ID, Index: partition}, eventlog.None)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.log.AppendWait(w.t.Context(), batch); err != nil {
		w.t.Fatal(err)
	}
}

// get sends one request without a socket.
func (w *world) get(method, path string, header ...string) *httptest.ResponseRecorder {
	return w.send(httptest.NewRequest(method, "http://127.0.0.1:8080/", nil), path, header...)
}

func (w *world) send(r *http.Request, path string, header ...string) *httptest.ResponseRecorder {
	u, err := r.URL.Parse(path)
	if err != nil {
		w.t.Fatal(err)
	}
	r.URL, r.RequestURI, r.Host = u, path, "127.0.0.1:8080"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.s.http.Handler.ServeHTTP(rec, r)
	return rec
}

// listen serves on a port, and returns its address.
func (w *world) listen() string {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.s.Serve(l) }()
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := w.s.Close(ctx); err != nil {
			w.t.Error(err)
		}
		if err := <-served; err != nil {
			w.t.Error(err)
		}
	})
	return l.Addr().String()
}

func decode(t testing.TB, b []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return v
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came about that %s", what)
		}
	}
}
