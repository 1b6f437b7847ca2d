package transport

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const goodRequest = "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1:8083\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\n"

// upgraded sends a request in pieces, and returns the answer's status and header, and what Open said.
func upgraded(t *testing.T, w *WebSocket, request string, piece int) (status int, h http.Header, c *Conn, here net.Conn, err error) {
	t.Helper()
	var there net.Conn
	here, there = net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	deadline := time.Now().Add(20 * time.Second)
	here.SetDeadline(deadline)
	there.SetDeadline(deadline)
	c = New(there, &Options{WebSocket: w})
	opened := make(chan error, 1)
	go func() {
		opened <- c.Open(nil)
		if c.ws == nil {
			there.Close()
		}
	}()
	go func() {
		for rest := request; rest != ""; {
			n := min(piece, len(rest))
			if _, err := here.Write([]byte(rest[:n])); err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	r, err := http.ReadResponse(bufio.NewReader(here), nil)
	if err != nil {
		t.Fatalf("no answer to %q: %v", request, err)
	}
	defer r.Body.Close()
	return r.StatusCode, r.Header, c, here, <-opened
}

func TestUpgrade(t *testing.T) {
	for _, piece := range []int{1, 50, 10_000} {
		status, h, _, _, err := upgraded(t, &WebSocket{Path: "/mqtt"}, goodRequest, piece)
		if err != nil || status != 101 || h.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
			h.Get("Sec-WebSocket-Protocol") != "mqtt" || h.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("%d %v %v", status, h, err)
		}
	}
}

func TestUpgradeRefused(t *testing.T) {
	for name, c := range map[string]struct {
		from, to string
		status   int
	}{
		"another path":     {"/mqtt HTTP", "/other HTTP", 404},
		"a plain request":  {"Upgrade: websocket\r\n", "", 426},
		"POST":             {"GET", "POST", 426},
		"HTTP 1.0":         {"HTTP/1.1", "HTTP/1.0", 426},
		"a body":           {"Host:", "Content-Length: 3\r\nHost:", 426},
		"chunks":           {"Host:", "Transfer-Encoding: chunked\r\nHost:", 426},
		"version 8":        {"Version: 13", "Version: 8", 426},
		"no version":       {"Sec-WebSocket-Version: 13\r\n", "", 426},
		"short key":        {"dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSA=", 400},
		"no key":           {"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400},
		"two keys":         {"Sec-WebSocket-Version", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version", 400},
		"no subprotocol":   {"Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", "", 400},
		"another":          {"mqttv3.1, mqtt", "mqttv3.1", 400},
		"a foreign page":   {"Host:", "Origin: https://evil.example\r\nHost:", 403},
		"a file":           {"Host:", "Origin: null\r\nHost:", 403},
		"two origins":      {"Host:", "Origin: http://127.0.0.1\r\nOrigin: http://evil.example\r\nHost:", 403},
		"a rebound name":   {"Host: 127.0.0.1:8083", "Origin: http://evil.example\r\nHost: evil.example:8083", 403},
		"an extension":     {"Host:", "Origin: chrome-extension://127.0.0.1\r\nHost:", 403},
		"too long":         {"Host:", "X: " + strings.Repeat("x", maxRequest) + "\r\nHost:", 400},
		"no HTTP, as MQTT": {goodRequest, "\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a\r\n\r\n", 400},
	} {
		status, _, ws, _, err := upgraded(t, &WebSocket{Path: "/mqtt"}, strings.Replace(goodRequest, c.from, c.to, 1), 1000)
		if status != c.status || err == nil || ws.ws != nil {
			t.Errorf("%s: %d, want %d; %v", name, status, c.status, err)
		}
	}
}

func TestUpgradeOrigins(t *testing.T) {
	for _, c := range []struct {
		origins      []string
		origin, host string
		ok           bool
	}{
		{nil, "http://127.0.0.1:8080", "127.0.0.1:8083", true},
		{nil, "http://localhost:3000", "localhost:8083", true},
		{nil, "http://[::1]:8080", "[::1]:8083", true},
		{nil, "http://localhost", "127.0.0.1:8083", false},
		{nil, "https://app.example", "broker.example", false},
		{[]string{"https://app.example"}, "https://app.example", "broker.example", true},
		{[]string{"https://app.example"}, "https://APP.example", "broker.example", true},
		{[]string{"https://app.example"}, "http://app.example", "broker.example", false},
		{[]string{"https://app.example"}, "https://app.example.evil.example", "broker.example", false},
		{[]string{"*"}, "https://evil.example", "broker.example", true},
		{[]string{"*"}, "null", "broker.example", true},
	} {
		request := strings.Replace(goodRequest, "Host: 127.0.0.1:8083", "Origin: "+c.origin+"\r\nHost: "+c.host, 1)
		if status, _, _, _, _ := upgraded(t, &WebSocket{Path: "/mqtt", Origins: c.origins}, request, 1000); (status == 101) != c.ok {
			t.Errorf("%+v: %d", c, status)
		}
	}
	for s, want := range map[string]bool{"*": true, "https://app.example": true, "https://app.example:8443": true, "app.example": false,
		"https://app.example/": false, "https://u@app.example": false, "": false, "https://app.example x": false} {
		if ValidOrigin(s) != want {
			t.Errorf("ValidOrigin(%q)", s)
		}
	}
}

// FuzzUpgrade: no request crashes the server, or is granted without what the protocol wants.
func FuzzUpgrade(f *testing.F) {
	f.Add([]byte(goodRequest))
	f.Add([]byte(strings.Replace(goodRequest, "Host:", "Origin: http://evil.example\r\nHost:", 1)))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(b))))
		if err != nil {
			return
		}
		w := &WebSocket{Path: "/mqtt"}
		if key, refused := w.accept(r); refused == nil {
			if len(key) != 28 || r.Method != "GET" || !strings.Contains(strings.ToLower(strings.Join(r.Header.Values("Upgrade"), ",")), "websocket") {
				t.Fatalf("granted: %q", b)
			}
		}
	})
}

// What a client sends behind its request, before the answer, is not lost.
func TestUpgradeEarlyFrames(t *testing.T) {
	status, _, c, here, err := upgraded(t, &WebSocket{Path: "/mqtt"}, goodRequest+string(clientFrame(bin, "early")), 100_000)
	if err != nil || status != 101 {
		t.Fatal(status, err)
	}
	go here.Write(clientFrame(bin, " and late"))
	got := ""
	for b := make([]byte, 100); len(got) < len("early and late"); {
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got += string(b[:n])
	}
	if got != "early and late" {
		t.Errorf("%q", got)
	}
}
