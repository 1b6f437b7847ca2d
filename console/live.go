package console

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace-io/millrace/fleet"
)

const (
	subprotocol   = "millrace.live.v1"
	maxMessage    = 4 << 10 // bytes of a message of a page
	maxMessages   = 20      // of these in a second
	maxWatch      = 1 << 10 // bytes of a watched device's name
	seenEvery     = 500 * time.Millisecond
	tickMillis    = 1000
	holdsEvery    = 5 // ticks after which a page's login is looked at again
	closingLasts  = time.Second
	reasonStop    = "the node stops"
	reasonLogin   = "the login has ended"
	reasonMessage = "a message that the channel does not know, or too many, or too long"
)

// page is one browser page. Its reader is the request's goroutine, its writer another; the two share what is behind mu.
type page struct {
	s      *Server
	parts  *attached
	v      visitor
	ws     *websocket.Conn
	client *fleet.Client
	wake   chan struct{}
	ticks  atomic.Int32 // that the writer has not seen

	mu     sync.Mutex
	clocks []float64 // t0 of clock questions to be answered
	watch  string
	offset float64 // node clock minus page clock, ms
	seenAt time.Time
}

// maxClocks questions may wait for an answer: a page that asks and does not read hears of the last ones only.
const maxClocks = 8

func (p *page) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// live is the channel of docs/live.md.
func (s *Server) live(w http.ResponseWriter, r *http.Request, v visitor) error {
	parts, err := s.ready()
	if err != nil {
		return err
	}
	if r.Header.Get("Sec-WebSocket-Key") == "" {
		w.Header().Set("Upgrade", "websocket")
		return problem(http.StatusUpgradeRequired, "this is a WebSocket; docs/live.md describes it")
	}
	p := &page{s: s, parts: parts, v: v, wake: make(chan struct{}, 1)}
	if !s.hub.enter(p) {
		return tooMany("too many pages look on", 10*time.Second)
	}
	defer s.hub.leave(p)
	streaming(w, r)
	if p.ws, err = websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}}); err != nil {
		return nil // Accept has answered
	}
	if p.ws.Subprotocol() != subprotocol {
		p.close(websocket.StatusPolicyViolation, "the subprotocol is "+subprotocol)
		return nil
	}
	p.ws.SetReadLimit(-1) // read bounds it
	p.client = parts.View.NewClient()
	defer p.client.Close()
	// Not the request's context: that ends with the parts, and then somebody has to say goodbye.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	defer context.AfterFunc(parts.ctx, func() { time.AfterFunc(closingLasts, cancel) })() // also if the page takes nothing
	written := make(chan struct{})
	go func() {
		defer close(written)
		p.close(p.write(ctx))
	}()
	p.close(p.read(ctx))
	cancel()
	<-written
	return nil
}

// close ends the channel, and does not wait long for a page that does not answer.
func (p *page) close(code websocket.StatusCode, reason string) {
	t := time.AfterFunc(closingLasts, func() { p.ws.CloseNow() }) //nolint:errcheck // it is over either way
	defer t.Stop()
	p.ws.Close(code, reason) //nolint:errcheck // it is over either way
}

// write gives the page what is new, whenever there is room for it.
func (p *page) write(ctx context.Context) (websocket.StatusCode, string) {
	if !p.text(ctx, p.hello()) {
		return websocket.StatusGoingAway, ""
	}
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return websocket.StatusGoingAway, ""
		case <-p.parts.ctx.Done():
			return p.bye(ctx, reasonStop)
		case <-p.wake:
		}
		if n%holdsEvery == 0 && !p.s.welcome(p.v) {
			return p.bye(ctx, reasonLogin)
		}
		if !p.answerClocks(ctx) || p.ticks.Swap(0) > 0 && !p.tick(ctx) {
			return websocket.StatusGoingAway, ""
		}
	}
}

// tick sends what a tick has brought.
func (p *page) tick(ctx context.Context) bool {
	if frame, ok := p.client.Frame(); ok {
		if !p.send(ctx, websocket.MessageBinary, frame) {
			return false
		}
		p.s.hub.frames.Add(1)
	}
	if strip := p.s.hub.strip.Load(); strip != nil && !p.send(ctx, websocket.MessageText, *strip) {
		return false
	}
	p.mu.Lock()
	watch := p.watch
	p.mu.Unlock()
	if watch == "" {
		return true
	}
	d, ok := p.parts.View.Device(watch)
	if !ok {
		return true
	}
	e, err := event("device", detailBody(&d))
	return err != nil || p.send(ctx, websocket.MessageText, e)
}

func (p *page) answerClocks(ctx context.Context) bool {
	p.mu.Lock()
	asked := p.clocks
	p.clocks = nil
	p.mu.Unlock()
	for _, t0 := range asked {
		if !p.text(ctx, map[string]any{"type": "clock", "t0": t0, "t1": millis(p.s.o.Now())}) {
			return false
		}
	}
	return true
}

func (p *page) hello() any {
	type source struct {
		ID   int    `json:"id"`
		Name string `json:"name"`
		Kind string `json:"kind"`

		Label  string `json:"label,omitempty"`
		Credit string `json:"attribution,omitempty"`
	}
	sources := []source{}
	for i, s := range p.parts.View.Sources() {
		sources = append(sources, source{i, s.Name, s.Kind, s.Label, s.Credit})
	}
	return map[string]any{"type": "hello", "version": p.s.o.Status().Version, "now": millis(p.s.o.Now()), "tick": tickMillis, "sources": sources}
}

func (p *page) bye(ctx context.Context, reason string) (websocket.StatusCode, string) {
	ctx, cancel := context.WithTimeout(ctx, closingLasts)
	defer cancel()
	p.text(ctx, map[string]any{"type": "bye", "reason": reason})
	return websocket.StatusGoingAway, reason
}

func (p *page) text(ctx context.Context, body any) bool {
	b, err := json.Marshal(body)
	return err == nil && p.send(ctx, websocket.MessageText, b)
}

// send waits for the page to take a message; false: it did not (connection.Write says how long it may take).
func (p *page) send(ctx context.Context, kind websocket.MessageType, b []byte) bool {
	if p.ws.Write(ctx, kind, b) != nil {
		return false
	}
	p.s.hub.bytes.Add(int64(len(b)))
	return true
}

// message is what a page may say; which fields mean something depends on the type.
type message struct {
	Type   string      `json:"type"`
	Box    *[4]float64 `json:"bbox"`
	Zoom   float64     `json:"zoom"`
	Seq    uint32      `json:"seq"`
	At     float64     `json:"at"`
	T0     float64     `json:"t0"`
	MS     float64     `json:"ms"`
	Device string      `json:"device"`
}

// read takes what the page says, until it goes or says something wrong.
func (p *page) read(ctx context.Context) (websocket.StatusCode, string) {
	tokens, last := float64(maxMessages), p.s.o.Now()
	for {
		kind, body, err := p.ws.Reader(ctx)
		if err != nil {
			return websocket.StatusGoingAway, ""
		}
		b, err := io.ReadAll(io.LimitReader(body, maxMessage+1))
		if err != nil {
			return websocket.StatusGoingAway, ""
		}
		now := p.s.o.Now()
		tokens = min(maxMessages, tokens+now.Sub(last).Seconds()*maxMessages) - 1
		last = now
		var m message
		if len(b) > maxMessage || kind != websocket.MessageText || tokens < 0 || json.Unmarshal(b, &m) != nil || p.heed(&m) != nil {
			return websocket.StatusPolicyViolation, reasonMessage
		}
	}
}

var errMessage = errors.New(reasonMessage)

// maxMillis is beyond any clock: the year 2100 or so.
const maxMillis = 1 << 42

// heed acts on a message of the page.
func (p *page) heed(m *message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch m.Type {
	case "view":
		if m.Box == nil || !p.client.SetView(fleet.Box{West: m.Box[0], South: m.Box[1], East: m.Box[2], North: m.Box[3]}, m.Zoom) {
			return errMessage
		}
	case "seen":
		now := p.s.o.Now()
		if math.Abs(m.At) > maxMillis || now.Sub(p.seenAt) < seenEvery {
			return nil // a page's clock may be anywhere, but then it tells nothing
		}
		p.seenAt = now
		p.client.Seen(m.Seq, time.UnixMicro(int64((m.At+p.offset)*1000)))
	case "clock":
		if len(p.clocks) == maxClocks {
			p.clocks = p.clocks[1:]
		}
		p.clocks = append(p.clocks, m.T0)
		p.poke()
	case "offset":
		if math.Abs(m.MS) > maxMillis {
			return errMessage
		}
		p.offset = m.MS
	case "key":
		p.client.NeedKey()
	case "watch":
		if len(m.Device) > maxWatch {
			return errMessage
		}
		p.watch = m.Device
	default:
		return errMessage
	}
	return nil
}
