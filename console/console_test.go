package console

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/livez", 200, "ok"},
		{"GET", "/readyz", 200, `"ready": true`},
		{"GET", "/readyz", 200, "a secret"},
		{"GET", "/metrics", 200, "metric 1"},
		{"GET", "/map/streets.json", 200, "FeatureCollection"},
		{"HEAD", "/livez", 200, ""},
		{"HEAD", "/api/v1/status", 200, ""},
		{"GET", "/nothing", 404, ""},
		{"GET", "/api/v1/nothing", 404, "openapi.json"},
		{"GET", "/api/v2/status", 404, ""},
		{"POST", "/api/v1/status", 405, "this route answers GET"},
		{"GET", "/api/v1/login", 405, "POST"},
		{"HEAD", "/api/v1/topics/telemetry/tail", 405, ""},
		{"POST", "/", 405, ""},
		{"GET", "/../etc/passwd", 404, ""},
	} {
		r := w.get(c.method, c.path)
		if r.Code != c.code || !strings.Contains(r.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, r.Code, r.Body)
		}
		if csp := r.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s %s: policy %q", c.method, c.path, csp)
		}
		if r.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s %s: types are guessed", c.method, c.path)
		}
	}
	notReady := newWorld(t, func(o *Options) { o.Status = func() Status { return Status{} } })
	if r := notReady.get("GET", "/readyz"); r.Code != 503 {
		t.Errorf("not ready: %d", r.Code)
	}
	if r := newWorld(t, func(o *Options) { o.Streets = nil }).get("GET", "/map/streets.json"); r.Code != 204 {
		t.Errorf("no streets: %d", r.Code)
	}
}

// Every view of the web app has a link of its own, and it is the app.
func TestDeepLinks(t *testing.T) {
	w := newWorld(t)
	index := w.get("GET", "/").Body.String()
	if !strings.Contains(index, "<html") {
		t.Fatalf("no page: %q", index)
	}
	for _, path := range []string{"/map", "/map/60.1/24.9/12", "/devices", "/devices/truck%2F7", "/pipeline", "/topics/telemetry", "/devices/..%2f..%2fx"} {
		if r := w.get("GET", path); r.Code != 200 || r.Body.String() != index {
			t.Errorf("%s: %d", path, r.Code)
		}
	}
}

func TestStreets(t *testing.T) {
	w := newWorld(t)
	plain, small := w.get("GET", "/map/streets.json"), w.get("GET", "/map/streets.json", "Accept-Encoding", "br, gzip;q=0.5")
	if small.Header().Get("Content-Encoding") != "gzip" || plain.Header().Get("Content-Encoding") != "" {
		t.Error("compression is not as asked")
	}
	tag := small.Header().Get("ETag")
	if tag == "" || tag == plain.Header().Get("ETag") {
		t.Errorf("tags %q and %q", tag, plain.Header().Get("ETag"))
	}
	if r := w.get("GET", "/map/streets.json", "Accept-Encoding", "gzip", "If-None-Match", tag); r.Code != 304 || r.Body.Len() != 0 {
		t.Errorf("known: %d", r.Code)
	}
	if r := w.get("GET", "/map/streets.json", "Accept-Encoding", "gzip;q=0"); r.Header().Get("Content-Encoding") != "" {
		t.Error("gzip although it is refused")
	}
}

func TestGuard(t *testing.T) {
	w := newWorld(t)
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
		{[]string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{[]string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 200},
		{[]string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, 200},
		{[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
	} {
		for _, path := range []string{"/metrics", "/api/v1/status"} {
			if r := w.get("GET", path, c.header...); r.Code != c.code {
				t.Errorf("%s %v: %d, want %d", path, c.header, r.Code, c.code)
			}
		}
	}
	if r := w.get("POST", "/api/v1/logout", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"); r.Code != 403 {
		t.Errorf("a form of another site: %d", r.Code)
	}
}

// What is shown is there while the node runs, and only then.
func TestBeforeAndAfter(t *testing.T) {
	w := newWorld(t)
	w.s.Detach()
	for _, path := range []string{"/api/v1/pipeline", "/api/v1/devices", "/api/v1/devices/x", "/api/v1/topics", "/api/v1/topics/telemetry/tail", "/api/v1/live"} {
		if r := w.get("GET", path); r.Code != 503 || r.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %d", path, r.Code)
		}
	}
	if r := w.get("GET", "/api/v1/status"); r.Code != 200 {
		t.Errorf("status: %d", r.Code)
	}
	w.attach()
	if r := w.get("GET", "/api/v1/pipeline"); r.Code != 200 {
		t.Errorf("again: %d", r.Code)
	}
}

// Idle connections cannot use up the descriptors, and give way when they are closed. One address cannot take all of them.
func TestConnectionLimits(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxConnections = 6 })
	address := w.listen()
	dial := func() net.Conn {
		nc, err := net.Dial("tcp", address)
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
	for range 3 {
		held = append(held, dial())
		if !answers(held[len(held)-1]) {
			t.Fatalf("connection %d is not served", len(held))
		}
	}
	if answers(dial()) {
		t.Fatal("one more of the address is served")
	}
	held[0].Close()
	eventually(t, "a place that was given up is taken", func() bool { return answers(dial()) })
}

// Who sends a request byte by byte, or an endless one, is cut off; nobody waits for them.
func TestSlowAndLongRequests(t *testing.T) {
	w := newWorld(t)
	w.s.http.ReadHeaderTimeout, w.s.http.ReadTimeout = 50*time.Millisecond, 100*time.Millisecond
	address := w.listen()
	for name, request := range map[string]string{
		"half a header": "GET /livez HTTP/1.1\r\nHost: local",
		"half a body":   "POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"long headers":  "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"long path":     "GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		nc.SetDeadline(time.Now().Add(20 * time.Second))
		go io.WriteString(nc, request)
		b, err := io.ReadAll(nc) // until the server closes
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%s: the connection stays", name)
		}
		if strings.HasPrefix(string(b), "HTTP/1.1 200") {
			t.Errorf("%s: %s", name, b)
		}
		nc.Close()
	}
	resp, err := http.Get("http://" + address + "/livez")
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	resp.Body.Close()
}
