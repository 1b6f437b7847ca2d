package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/vfs"
)

var testTime atomic.Int64

func testNow() int64 { return 1_760_000_000_000 + testTime.Add(1) }

// newLog is a log in memory that does what it is told.
func newLog(t testing.TB) *eventlog.Log {
	t.Helper()
	l := eventlog.New(logtest.NewMemory(1, logtest.Hostility{}))
	t.Cleanup(func() { l.Close() })
	return l
}

// newEngine is the embedded log.
func newEngine(t testing.TB) *eventlog.Log {
	t.Helper()
	e, err := engine.Open(engine.Options{FS: vfs.NewMem(), WALFileBytes: 16 << 20, WALFiles: 2, ReserveBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	l := eventlog.New(e)
	t.Cleanup(func() { l.Close() })
	return l
}

func open(t testing.TB, l *eventlog.Log) *Registry {
	t.Helper()
	r, err := Open(t.Context(), Options{Log: l, Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// world is a registry that is served.
type world struct {
	t   testing.TB
	r   *Registry
	url string
}

func serve(t testing.TB, r *Registry, change ...func(*ServerOptions, *Door)) *world {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := ServerOptions{Registry: r}
	d := &Door{Name: "listeners.registry[0]", Listener: l, Chain: identity.NewChain(&identity.Counts{})}
	for _, f := range change {
		f(&o, d)
	}
	if len(change) == 0 {
		d.Chain.Add(identity.LinkAnonymous, identity.Everybody{})
	}
	s := NewServer(o)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(d) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(s.Close(ctx), <-ended); err != nil {
			t.Error(err)
		}
	})
	return &world{t: t, r: r, url: "http://" + l.Addr().String()}
}

// ask sends a request and returns status and body.
func (w *world) ask(method, path string, body any, header ...string) (int, string) {
	w.t.Helper()
	var in io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(body)
	default:
		b, err := json.Marshal(body)
		if err != nil {
			w.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, in)
	if err != nil {
		w.t.Fatal(err)
	}
	if in != nil {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

// want asks, and compares. want is all of the body, or, if it ends in …, its beginning.
func (w *world) want(method, path string, body any, status int, want string, header ...string) {
	w.t.Helper()
	code, got := w.ask(method, path, body, header...)
	prefix, cut := strings.CutSuffix(want, "…")
	if code != status || cut && !strings.HasPrefix(got, prefix) || !cut && got != want {
		w.t.Errorf("%s %s %v:\n got %d %s\nwant %d %s", method, path, body, code, got, status, want)
	}
}

// of is the body of a request with a schema.
func of(text string, more ...any) map[string]any {
	m := map[string]any{"schema": text}
	for i := 0; i+1 < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

const (
	intSchema    = `"int"`
	longSchema   = `"long"`
	stringSchema = `"string"`
)
