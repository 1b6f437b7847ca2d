package console

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// browser is a page's end of the live channel.
type browser struct {
	t  testing.TB
	ws *websocket.Conn
}

// open opens the channel; status is that of an answer that refuses it.
func (w *world) open(address string, header ...string) (b *browser, status int, err error) {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, "ws://"+address+"/api/v1/live", &websocket.DialOptions{Subprotocols: []string{subprotocol}, HTTPHeader: h})
	if resp != nil {
		status = resp.StatusCode
		if resp.Body != nil {
			resp.Body.Close()
		}
	}
	if err != nil {
		return nil, status, err
	}
	ws.SetReadLimit(-1)
	w.t.Cleanup(func() { ws.CloseNow() })
	return &browser{w.t, ws}, status, nil
}

func (w *world) browse(address string, header ...string) *browser {
	w.t.Helper()
	b, _, err := w.open(address, header...)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (b *browser) say(text string) {
	b.t.Helper()
	if err := b.ws.Write(b.t.Context(), websocket.MessageText, []byte(text)); err != nil {
		b.t.Fatal(err)
	}
}

// next returns the next message: a frame, or a text as what it says.
func (b *browser) next() (frame []byte, text map[string]any, err error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer cancel()
	kind, m, err := b.ws.Read(ctx)
	if err != nil || kind == websocket.MessageBinary {
		return m, nil, err
	}
	return nil, decode(b.t, m), nil
}

// until returns the next text of a type, or (of "frame") the next frame.
func (b *browser) until(kind string) ([]byte, map[string]any) {
	b.t.Helper()
	for {
		frame, text, err := b.next()
		if err != nil {
			b.t.Fatalf("waiting for %s: %v", kind, err)
		}
		if kind == "frame" && frame != nil || text != nil && text["type"] == kind {
			return frame, text
		}
	}
}

// ended returns with what the node has closed the channel.
func (b *browser) ended() websocket.StatusCode {
	for {
		if _, _, err := b.next(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// frameHead is the head of a frame, and its first section's.
type frameHead struct {
	flags            byte
	sections         uint16
	seq, cell        uint32
	keys, delta      uint32
	at, newest, sent float64
	lat, lon         int32 // of the first key row
}

func readFrame(t testing.TB, b []byte) (h frameHead) {
	t.Helper()
	if len(b) < 32 || b[0] != 1 {
		t.Fatalf("no frame: %x", b)
	}
	le := binary.LittleEndian
	h.flags, h.sections, h.seq = b[1], le.Uint16(b[2:]), le.Uint32(b[4:])
	h.at, h.newest, h.sent = math.Float64frombits(le.Uint64(b[8:])), math.Float64frombits(le.Uint64(b[16:])), math.Float64frombits(le.Uint64(b[24:]))
	if h.sections > 0 {
		s := b[32:]
		h.cell, h.keys, h.delta = le.Uint32(s), le.Uint32(s[4:]), le.Uint32(s[8:])
		if h.keys > 0 {
			h.lat, h.lon = int32(le.Uint32(s[16+4:])), int32(le.Uint32(s[16+8:]))
		}
	}
	return h
}

const helsinki = `{"type":"view","bbox":[24,60,25.5,60.5],"zoom":11}`

// What docs/live.md says, from hello to bye.
func TestLive(t *testing.T) {
	w := newWorld(t)
	b := w.browse(w.listen())
	if _, hello := b.until("hello"); hello["version"] != "v1" || hello["tick"] != 1000.0 || hello["now"] != millis(w.clock()) ||
		fmt.Sprint(hello["sources"]) != "[map[id:0 kind:simulated name:telemetry]]" {
		t.Errorf("%v", hello)
	}
	b.say(`{"type":"clock","t0":1759999999000.5}`)
	if _, c := b.until("clock"); c["t0"] != 1759999999000.5 || c["t1"] != millis(w.clock()) {
		t.Errorf("%v", c)
	}
	b.say(helsinki)
	b.say(`{"type":"watch","device":"truck-7"}`)
	b.say(`{"type":"clock","t0":1}`)
	b.until("clock") // what was said before is heeded
	w.hear("truck-7", 60.17, 24.94, 1)
	w.hear("far away", -33, 151, 1)
	w.tick()
	frame, _ := b.until("frame")
	h := readFrame(t, frame)
	if h.flags != 1 || h.sections != 1 || h.seq != 1 || h.keys != 1 || h.delta != 0 || h.lat != 60_170_000 || h.lon != 24_940_000 || h.newest != millis(w.clock()) {
		t.Errorf("%+v", h)
	}
	_, strip := b.until("pipeline")
	if strip["stages"] == nil || strip["now"] != millis(w.clock()) {
		t.Errorf("%v", strip)
	}
	if _, d := b.until("device"); d["id"] != "truck-7" || d["lat"] != 60.17 || d["track"] == nil {
		t.Errorf("%v", d)
	}
	b.say(`{"type":"seen","seq":1,"at":` + fmt.Sprint(int64(millis(w.clock()))+5) + `}`)
	b.say(`{"type":"watch","device":""}`)
	b.say(`{"type":"clock","t0":2}`)
	b.until("clock")
	browser := w.view.Stages()[3].Histogram
	if browser.Count() == 0 {
		t.Error("nothing was drawn")
	}
	n := browser.Count()
	w.pass(time.Second)
	w.hear("truck-7", 60.18, 24.94, 2)
	w.tick()
	frame, _ = b.until("frame")
	if h := readFrame(t, frame); h.flags != 0 || h.seq != 2 || h.delta != 1 || h.keys != 0 {
		t.Errorf("%+v", h)
	}
	// A hostile page's word is bounded: an impossible time, a frame that never was, one seen twice.
	for _, lie := range []string{`"seq":2,"at":1e300`, `"seq":2,"at":-5`, `"seq":77,"at":1760000001000`, `"seq":1,"at":1760000001000`} {
		w.pass(time.Second)
		b.say(`{"type":"seen",` + lie + `}`)
	}
	b.say(`{"type":"key"}`)
	b.say(`{"type":"clock","t0":3}`)
	b.until("clock")
	if browser.Count() != n {
		t.Error("a lie is believed")
	}
	w.tick()
	frame, _ = b.until("frame")
	if h := readFrame(t, frame); h.flags != 1 || h.seq != 3 || h.keys != 1 {
		t.Errorf("after asking for key rows: %+v", h)
	}
	eventually(t, "what is written is counted", func() bool { // after it is written
		hub := w.s.Hub()
		return hub.Pages == 1 && hub.Frames == 3 && hub.Bytes > 0
	})
	w.s.Detach()
	if _, bye := b.until("bye"); bye["reason"] != reasonStop {
		t.Errorf("%v", bye)
	}
	if code := b.ended(); code != websocket.StatusGoingAway {
		t.Errorf("closed with %v", code)
	}
	eventually(t, "the page is gone", func() bool { return w.s.Hub().Pages == 0 && w.view.Totals().Clients == 0 })
}

// Whatever else a page says closes the channel.
func TestLiveRefuses(t *testing.T) {
	w := newWorld(t)
	address := w.listen()
	for name, say := range map[string]func(*browser){
		"no JSON":       func(b *browser) { b.say("{") },
		"no type":       func(b *browser) { b.say(`{"device":"x"}`) },
		"unknown":       func(b *browser) { b.say(`{"type":"drop table"}`) },
		"no box":        func(b *browser) { b.say(`{"type":"view","zoom":3}`) },
		"a bad box":     func(b *browser) { b.say(`{"type":"view","bbox":[0,99,1,98],"zoom":3}`) },
		"three corners": func(b *browser) { b.say(`{"type":"view","bbox":[0,1,"x",2]}`) },
		"too long":      func(b *browser) { b.say(`{"type":"watch","device":"` + strings.Repeat("x", 4096) + `"}`) },
		"a long name":   func(b *browser) { b.say(`{"type":"watch","device":"` + strings.Repeat("x", 1025) + `"}`) },
		"bytes":         func(b *browser) { b.ws.Write(t.Context(), websocket.MessageBinary, []byte(helsinki)) },
		"a mad clock":   func(b *browser) { b.say(`{"type":"offset","ms":1e200}`) },
		"too often": func(b *browser) {
			for range 21 {
				b.say(`{"type":"key"}`)
			}
		},
	} {
		b := w.browse(address)
		b.until("hello")
		say(b)
		if code := b.ended(); code != websocket.StatusPolicyViolation {
			t.Errorf("%s: closed with %v", name, code)
		}
	}
	if _, status, err := w.open(address, "Origin", "http://evil.example"); err == nil || status != 403 {
		t.Errorf("a page of another origin: %v", err)
	}
	if r := w.get("GET", "/api/v1/live"); r.Code != http.StatusUpgradeRequired {
		t.Errorf("no WebSocket: %d", r.Code)
	}
	ws, _, err := websocket.Dial(t.Context(), "ws://"+address+"/api/v1/live", nil) //nolint:bodyclose // of a WebSocket there is none
	if err != nil {
		t.Fatal(err)
	}
	if code := (&browser{t, ws}).ended(); code != websocket.StatusPolicyViolation {
		t.Errorf("without the subprotocol: %v", code)
	}
	eventually(t, "all pages are gone", func() bool { return w.s.Hub().Pages == 0 })
}

func TestLivePagesAreBounded(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxConnections = 4 * maxPages })
	address := w.listen()
	for range maxPages {
		w.browse(address).until("hello")
	}
	if _, status, err := w.open(address); err == nil || status != 429 {
		t.Errorf("one more: %v", err)
	}
}

// slow is a page that reads next to nothing: its end of the connection takes what its small buffer holds.
func slow(t testing.TB, address string) net.Conn {
	nc, err := (&net.Dialer{Control: smallBuffer}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	io.WriteString(nc, "GET /api/v1/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Protocol: "+subprotocol+"\r\n\r\n")
	view := []byte(`{"type":"view","bbox":[-180,-90,180,90],"zoom":1}`)
	masked := append([]byte{0x81, 0x80 | byte(len(view)), 0, 0, 0, 0}, view...)
	nc.Write(masked)
	return nc
}

// Three pages that read 1 KB a second or nothing change nothing for a fourth: it has every frame. They cost their frame at hand; what they
// miss is counted and they begin anew.
func TestSlowPages(t *testing.T) {
	w := newWorld(t)
	address := w.listen()
	const vehicles = 3000
	for i := range vehicles {
		w.hear(fmt.Sprintf("truck-%d", i), 60+float64(i%100)/1000, 24+float64(i/100)/100, 1)
	}
	for range 3 {
		nc := slow(t, address)
		go func() {
			b := make([]byte, 1024)
			for {
				if _, err := nc.Read(b); err != nil {
					return
				}
				select {
				case <-t.Context().Done():
					return
				case <-time.After(time.Second):
				}
			}
		}()
	}
	quick := w.browse(address)
	quick.say(`{"type":"view","bbox":[-180,-90,180,90],"zoom":1}`)
	quick.say(`{"type":"clock","t0":1}`)
	quick.until("clock")
	eventually(t, "four pages look on", func() bool { return w.s.Hub().Pages == 4 })

	const ticks = 60
	var before, after runtime.MemStats
	var seq uint32
	for n := range ticks {
		w.pass(time.Second)
		for i := range vehicles {
			w.hear(fmt.Sprintf("truck-%d", i), 60+float64(i%100)/1000+float64(n)/10_000, 24+float64(i/100)/100, n)
		}
		w.tick()
		frame, _ := quick.until("frame")
		h := readFrame(t, frame)
		if h.seq != seq+1 || n > 0 && h.flags != 0 {
			t.Fatalf("tick %d: the quick page has %+v after frame %d", n, h, seq)
		}
		seq = h.seq
		if n == 20 {
			runtime.GC()
			runtime.ReadMemStats(&before)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("memory has grown by %d KB", grown>>10)
	}
	if hub := w.s.Hub(); hub.Coalesced < 3*(ticks/2) || hub.Frames > ticks+3*20 {
		t.Errorf("the slow pages were not left behind: %+v", hub)
	}
}

// A page that takes nothing at all is let go of when its time is over, whoever waits for what.
func TestDeadPage(t *testing.T) {
	nc, peer := net.Pipe()
	defer peer.Close()
	c := &connection{Conn: nc}
	c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)) // sooner than stall
	_, err := c.Write(make([]byte, 100))
	if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
		t.Errorf("%v", err)
	}
}

// Who takes a little now and then is not cut off however long it lasts, and what is given to it is whole.
func TestSlowIsNotDead(t *testing.T) {
	nc, peer := net.Pipe()
	c := &connection{Conn: nc}
	go func() {
		c.Write(make([]byte, 5*piece+1))
		c.Close()
	}()
	b, err := io.ReadAll(peer)
	if err != nil || len(b) != 5*piece+1 {
		t.Errorf("%d %v", len(b), err)
	}
}

func TestEvent(t *testing.T) {
	for want, body := range map[string]any{`{"type":"x","a":1}`: map[string]int{"a": 1}, `{"type":"x"}`: struct{}{}} {
		e, err := event("x", body)
		if err != nil || string(e) != want || !json.Valid(e) {
			t.Errorf("%s %v", e, err)
		}
	}
}
