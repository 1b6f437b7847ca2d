package console

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func testServer(st Status) *Server {
	return New(Options{
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "metric 1\n") }),
		Status:  func() Status { return st },
		Doors:   func() []Door { return []Door{{Protocol: "MQTT", Address: "127.0.0.1:1883", Try: "<script>"}} },
		Hosts:   []string{"node.example"}, Logger: slog.New(slog.DiscardHandler),
	})
}

func get(s *Server, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:8080"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	s := testServer(Status{Ready: true, Version: "v1", Checks: []Check{{Name: "log", OK: true, Detail: "<b>"}}, Warnings: []string{"open & wide"}})
	for _, c := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/livez", 200, "ok"},
		{"GET", "/readyz", 200, `"ready": true`},
		{"GET", "/metrics", 200, "metric 1"},
		{"GET", "/", 200, "&lt;script&gt;"},
		{"GET", "/", 200, "open &amp; wide"},
		{"GET", "/style.css", 200, "system-ui"},
		{"HEAD", "/livez", 200, ""},
		{"GET", "/nothing", 404, ""},
		{"POST", "/livez", 405, ""},
		{"GET", "/../etc/passwd", 307, ""},
	} {
		w := get(s, c.method, c.path)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
		if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s %s: policy %q", c.method, c.path, csp)
		}
	}
	if w := get(testServer(Status{}), "GET", "/readyz"); w.Code != 503 {
		t.Errorf("not ready: %d", w.Code)
	}
}

func TestGuard(t *testing.T) {
	s := testServer(Status{Ready: true})
	for _, c := range []struct {
		header []string
		code   int
	}{
		{nil, 200},
		{[]string{"Host", "localhost:8080"}, 200},
		{[]string{"Host", "[::1]:8080"}, 200},
		{[]string{"Host", "[::1]"}, 200},
		{[]string{"Host", "NODE.example:8080"}, 200},
		{[]string{"Host", "evil.example"}, 421},
		{[]string{"Host", "127.0.0.1.evil.example:8080"}, 421},
		{[]string{"Host", ""}, 421},
		{[]string{"Origin", "http://127.0.0.1:8080"}, 200},
		{[]string{"Origin", "http://evil.example"}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", "http://127.0.0.1:8081"}, 403},
		{[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
	} {
		if w := get(s, "GET", "/metrics", c.header...); w.Code != c.code {
			t.Errorf("%v: %d, want %d", c.header, w.Code, c.code)
		}
	}
}

func TestServeAndClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := testServer(Status{Ready: true})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/livez")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	resp.Body.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestConnectionLimit: idle connections cannot use up the descriptors, and give way when they are closed.
func TestConnectionLimit(t *testing.T) {
	s := testServer(Status{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	dial := func() net.Conn {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return nc
	}
	answers := func(nc net.Conn) bool {
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(nc, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
		n, _ := nc.Read(make([]byte, 1))
		return n == 1
	}
	var held []net.Conn
	for range maxConnections {
		held = append(held, dial())
		if !answers(held[len(held)-1]) {
			t.Fatalf("connection %d is not served", len(held))
		}
	}
	if answers(dial()) {
		t.Fatal("one more is served")
	}
	held[0].Close()
	for end := time.Now().Add(10 * time.Second); !answers(dial()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a place that was given up is not taken")
		}
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
