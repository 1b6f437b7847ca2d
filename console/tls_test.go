package console

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace-io/millrace/fleet"
)

// Everything works over TLS: answers, streams, the live channel; and who never ends the handshake is cut off.
func TestOverTLS(t *testing.T) {
	lender := httptest.NewTLSServer(nil) // of a certificate
	defer lender.Close()
	option, _ := locked(t)
	_, token := passwords()
	w := newWorld(t, option, func(o *Options) { o.TLS = &tls.Config{Certificates: lender.TLS.Certificates} })
	w.s.http.ReadHeaderTimeout = 200 * time.Millisecond
	address := w.listen()
	client := lender.Client()
	client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	get := func(path string) (status, major int, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.ProtoMajor, string(b)
	}
	if status, major, body := get("/api/v1/status"); status != 200 || major != 1 {
		t.Errorf("HTTP/%d %d %s", major, status, body)
	}
	w.write(0, "over TLS")
	if _, _, body := get("/api/v1/topics/telemetry/tail?from=start&limit=1"); !strings.Contains(body, "over TLS") {
		t.Errorf("%s", body)
	}
	ws, _, err := websocket.Dial(t.Context(), "wss://"+address+"/api/v1/live", &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{subprotocol}, //nolint:bodyclose // of a WebSocket there is none
		HTTPHeader: http.Header{"Authorization": {"Bearer " + token}, "Origin": {"https://" + address}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	b := &browser{t, ws}
	b.until("hello")
	b.say(`{"type":"clock","t0":1}`)
	b.until("clock")

	mute, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	mute.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(mute); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("a connection that says nothing stays")
	}
	w.s.Detach()
	if _, bye := b.until("bye"); bye["reason"] != reasonStop {
		t.Errorf("%v", bye)
	}
}

// What a page of 10,000 moving vehicles costs the node: the tick, its frame, and the bytes.
func BenchmarkPageOfTenThousand(b *testing.B) {
	w := newWorld(b)
	c := w.view.NewClient()
	defer c.Close()
	c.SetView(fleet.Box{West: -180, South: -85, East: 180, North: 85}, 3)
	bytes := 0
	for n := range b.N {
		b.StopTimer()
		w.pass(time.Second)
		for i := range 10_000 {
			w.hear(fmt.Sprintf("truck-%d", i), 60+float64(i%100)/500+float64(n%50)/5000, 24+float64(i/100)/200, n)
		}
		b.StartTimer()
		w.tick()
		frame, ok := c.Frame()
		if !ok {
			b.Fatal("no frame")
		}
		if n > 0 {
			bytes += len(frame)
		}
	}
	b.ReportMetric(float64(bytes)/float64(max(1, b.N-1)), "bytes/tick")
}
