package web

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// mock is a node as the page sees it: a synthetic fleet behind the API and the live channel (docs/live.md). It shares no code with the
// node, so that the page is tested against the protocol and not against an implementation of it.
type mock struct {
	http *httptest.Server

	mu       sync.Mutex
	vehicles []vehicle
	now      time.Time
	ticks    int64
	clients  map[*client]bool
	rand     *rand.Rand
	streets  []byte
	frozen   bool   // vehicles stand still
	down     bool   // answers 503
	key      string // of a login
	login    bool   // answers 401 until somebody logs in
	lose     int    // so many frames are not sent, though counted
	seen     uint32 // the last frame that a page says it drew
	offsets  int    // clock offsets that pages told
	keys     int    // times that a page asked for all rows
	warnings []string
	lost     int64 // messages that the pipeline does not account for
}

type vehicle struct {
	id       string
	source   int
	lat, lon float64
	heading  float64
	speed    float64 // m/s
	stale    bool
	messages uint64
	row      row // as last told
}

// row is what a frame says of a vehicle.
type row struct {
	lat, lon int32
	heading  byte
	speed    uint16
	state    byte
}

func (v *vehicle) encode() row {
	r := row{int32(math.Round(v.lat * 1e6)), int32(math.Round(v.lon * 1e6)), byte(math.Round(v.heading / 360 * 256)), uint16(v.speed * 100), byte(v.source)}
	if v.stale {
		r.state |= 1 << 5
	}
	return r
}

func (r row) cell() uint32 {
	lat, lon := float64(r.lat)/1e6, float64(r.lon)/1e6
	s := math.Sin(lat * math.Pi / 180)
	x := min(511, max(0, int((lon/360+0.5)*512)))
	y := min(511, max(0, int((0.5-math.Log((1+s)/(1-s))/(4*math.Pi))*512)))
	return uint32(y<<9 | x)
}

// client is one page.
type client struct {
	box   [4]float64
	ready bool // it has said what it shows
	anew  bool
	seq   uint32
	told  map[uint32]row
	held  map[uint32]bool // cells of which it has everything
	watch string
	texts chan []byte
	send  chan []byte // frames; a slow page misses whole ones
	end   context.CancelFunc
}

func (c *client) sees(r row) bool {
	// Whole cells: those that the view touches.
	cell := r.cell()
	x, y := float64(cell&511), float64(cell>>9)
	west, east := (x/512-0.5)*360, ((x+1)/512-0.5)*360
	lat := func(y float64) float64 { return math.Atan(math.Sinh((0.5-y/512)*2*math.Pi)) * 180 / math.Pi }
	inside := west <= c.box[2] && east >= c.box[0]
	if c.box[0] > c.box[2] {
		inside = west <= c.box[2] || east >= c.box[0]
	}
	return inside && lat(y+1) <= c.box[3] && lat(y) >= c.box[1]
}

// newMock starts a node with n vehicles, nine of ten in Amsterdam, the others in Helsinki.
func newMock(n int) *mock {
	m := &mock{now: time.Now(), clients: map[*client]bool{}, rand: rand.New(rand.NewPCG(1, 2)), warnings: []string{}, key: "in"}
	for i := range n {
		v := vehicle{id: fmt.Sprintf("van-%05d", i), lat: 52.30 + 0.10*m.rand.Float64(), lon: 4.85 + 0.12*m.rand.Float64(),
			heading: 360 * m.rand.Float64(), speed: 4 + 14*m.rand.Float64(), source: 1}
		if i%10 == 9 {
			v.id, v.source = fmt.Sprintf("bus/%04d", i), 0
			v.lat, v.lon = 60.16+0.08*m.rand.Float64(), 24.80+0.25*m.rand.Float64()
		}
		v.stale = i%50 == 7
		v.row = v.encode()
		m.vehicles = append(m.vehicles, v)
	}
	if n > 12 { // a device chooses its name
		m.vehicles[3].id = "<img src=x onerror=\"document.title='owned'\">\u202egnp.exe" + strings.Repeat("w", 300)
		m.vehicles[12].id = "=HYPERLINK(\"x\")"
	}
	mux := http.NewServeMux()
	mux.Handle("/", Handler())
	mux.HandleFunc("GET /map/streets.json", m.serveStreets)
	mux.HandleFunc("GET /api/v1/live", m.live)
	for path, f := range map[string]func(*http.Request) any{
		"GET /api/v1/status": m.status, "GET /api/v1/pipeline": func(*http.Request) any { return m.pipeline() },
		"GET /api/v1/devices": m.devices, "GET /api/v1/devices/{id}": m.device, "GET /api/v1/topics": m.topics,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.refused(w, r) {
				return
			}
			body := f(r)
			if body == nil {
				problem(w, http.StatusNotFound, "there is no such device", false)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(body)
		})
	}
	mux.HandleFunc("GET /api/v1/topics/{name}/tail", m.tail)
	mux.HandleFunc("POST /api/v1/login", m.logIn)
	m.http = httptest.NewServer(mux)
	return m
}

func problem(w http.ResponseWriter, code int, detail string, login bool) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"title": http.StatusText(code), "status": code, "detail": detail, "login": login})
}

// refused answers who is not logged in; the caller holds mu.
func (m *mock) refused(w http.ResponseWriter, r *http.Request) bool {
	if m.down {
		problem(w, http.StatusServiceUnavailable, "the node stops", false)
		return true
	}
	if c, err := r.Cookie("millrace"); m.login && (err != nil || c.Value != m.key) {
		problem(w, http.StatusUnauthorized, "log in first", true)
		return true
	}
	return false
}

func (m *mock) logIn(w http.ResponseWriter, r *http.Request) {
	var in struct{ Name, Password string }
	if json.NewDecoder(r.Body).Decode(&in) != nil || in.Name != "admin" || in.Password != "correct horse" {
		problem(w, http.StatusUnauthorized, "the name or the password is wrong", false)
		return
	}
	m.mu.Lock()
	key := m.key
	m.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: "millrace", Value: key, Path: "/", HttpOnly: true})
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"user": "admin", "role": "admin", "expires": ms(time.Now().Add(time.Hour))})
}

func (m *mock) serveStreets(w http.ResponseWriter, _ *http.Request) {
	if m.streets == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/geo+json")
	w.Write(m.streets)
}

func (m *mock) close() {
	m.hangUp()
	m.http.CloseClientConnections()
	m.http.Close()
}

// hangUp ends all connections of pages.
func (m *mock) hangUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.clients {
		c.end()
	}
}

// run ticks every interval until ctx ends.
func (m *mock) run(ctx context.Context, interval time.Duration) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			m.tick()
		}
	}
}

// tick moves the fleet by a second and tells the pages.
func (m *mock) tick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = time.Now()
	m.ticks++
	for i := range m.vehicles {
		m.vehicles[i].step(m.rand, m.frozen)
	}
	for c := range m.clients {
		c.text(m.pipeline(), "pipeline")
		if d := m.detail(c.watch); d != nil {
			c.text(d, "device")
		}
		if !c.ready {
			continue
		}
		f := m.frame(c)
		if m.lose > 0 {
			m.lose--
			continue
		}
		select {
		case c.send <- f:
		default:
			c.anew = true // it is slow: it misses this one
			c.seq--
		}
	}
}

func (c *client) text(body any, kind string) {
	b, _ := json.Marshal(body)
	var fields map[string]any
	json.Unmarshal(b, &fields)
	fields["type"] = kind
	b, _ = json.Marshal(fields)
	select {
	case c.texts <- b:
	default:
	}
}

func (v *vehicle) step(r *rand.Rand, frozen bool) {
	if v.stale || frozen {
		return
	}
	v.messages++
	v.heading = math.Mod(v.heading+12*r.Float64()-6+360, 360)
	a := v.heading * math.Pi / 180
	v.lat += v.speed * math.Cos(a) / 111320
	v.lon += v.speed * math.Sin(a) / 111320 / math.Cos(v.lat*math.Pi/180)
	centre := [2]float64{52.36, 4.91}
	if v.source == 0 {
		centre = [2]float64{60.20, 24.93}
	}
	if math.Abs(v.lat-centre[0]) > 0.07 || math.Abs(v.lon-centre[1]) > 0.14 { // turn back
		v.heading = math.Mod(math.Atan2((centre[1]-v.lon)*0.6, centre[0]-v.lat)*180/math.Pi+360, 360)
	}
}

// section is what a frame says of one cell.
type section struct {
	whole              bool
	keys, deltas, left []byte
	n, last            [3]uint32 // of keys, deltas, left
}

func (s *section) key(slot uint32, r row) {
	s.keys = binary.LittleEndian.AppendUint32(s.keys, slot)
	s.keys = binary.LittleEndian.AppendUint32(s.keys, uint32(r.lat))
	s.keys = binary.LittleEndian.AppendUint32(s.keys, uint32(r.lon))
	s.keys = binary.LittleEndian.AppendUint16(s.keys, r.speed)
	s.keys = append(s.keys, r.heading, r.state)
	s.n[0]++
}

func (s *section) delta(slot uint32, was, now row) {
	s.deltas = binary.AppendUvarint(s.deltas, uint64(slot-s.last[1]))
	s.deltas = binary.AppendVarint(s.deltas, int64(now.lat-was.lat))
	s.deltas = binary.AppendVarint(s.deltas, int64(now.lon-was.lon))
	s.deltas = append(s.deltas, now.heading)
	s.last[1], s.n[1] = slot, s.n[1]+1
}

func (s *section) leave(slot uint32) {
	s.left = binary.AppendUvarint(s.left, uint64(slot-s.last[2]))
	s.last[2], s.n[2] = slot, s.n[2]+1
}

// frame encodes what changed for a page; the caller holds mu.
func (m *mock) frame(c *client) []byte {
	sections := map[uint32]*section{}
	at := func(cell uint32) *section {
		if sections[cell] == nil {
			sections[cell] = &section{}
		}
		return sections[cell]
	}
	flags := byte(0)
	if c.anew {
		flags, c.anew = 1, false
		clear(c.told)
		clear(c.held)
	}
	shown := map[uint32]bool{}
	for i := range m.vehicles {
		v := &m.vehicles[i]
		v.row = v.encode()
		shown[v.row.cell()] = c.sees(v.row)
	}
	for slot, was := range c.told { // cells that went out of view go whole
		cell := was.cell()
		if c.sees(was) {
			shown[cell] = true
		} else {
			at(cell).whole = true
			delete(c.told, slot)
			delete(c.held, cell)
		}
	}
	for i := range m.vehicles {
		slot, now := uint32(i), m.vehicles[i].row
		was, known := c.told[slot]
		if known && was.cell() != now.cell() {
			at(was.cell()).leave(slot)
			delete(c.told, slot)
			known = false
		}
		cell := now.cell()
		switch {
		case !shown[cell] || known && was == now:
			continue
		case known && was.state == now.state:
			at(cell).delta(slot, was, now)
		default:
			at(cell).whole = at(cell).whole || !c.held[cell]
			at(cell).key(slot, now)
		}
		c.told[slot] = now
	}
	for cell, yes := range shown {
		if yes {
			c.held[cell] = true
		}
	}
	c.seq++
	f := binary.LittleEndian.AppendUint16([]byte{1, flags}, uint16(len(sections)))
	f = binary.LittleEndian.AppendUint32(f, c.seq)
	for _, t := range []float64{ms(m.now), ms(m.now) - 3, ms(m.now) - 20} {
		f = binary.LittleEndian.AppendUint64(f, math.Float64bits(t))
	}
	for _, cell := range slices.Sorted(maps.Keys(sections)) {
		s := sections[cell]
		if s.whole {
			cell |= 1 << 31
		}
		f = binary.LittleEndian.AppendUint32(f, cell)
		for _, n := range s.n {
			f = binary.LittleEndian.AppendUint32(f, n)
		}
		f = append(append(append(f, s.keys...), s.deltas...), s.left...)
	}
	return f
}

func ms(t time.Time) float64 { return float64(t.UnixMicro()) / 1000 }

func (m *mock) live(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	refused := m.refused(w, r)
	m.mu.Unlock()
	if refused {
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"millrace.live.v1"}})
	if err != nil {
		return
	}
	ctx, end := context.WithCancel(context.Background())
	c := &client{anew: true, told: map[uint32]row{}, held: map[uint32]bool{}, texts: make(chan []byte, 64), send: make(chan []byte, 2), end: end}
	defer func() {
		end()
		m.mu.Lock()
		delete(m.clients, c)
		m.mu.Unlock()
		conn.CloseNow()
	}()
	m.mu.Lock()
	m.clients[c] = true
	m.mu.Unlock()
	c.text(map[string]any{"version": "mock", "now": ms(time.Now()), "tick": 1000, "sources": []map[string]any{
		{"id": 0, "name": "positions", "kind": "recorded", "attribution": "© Helsinki Region Transport"},
		{"id": 1, "name": "deliveries", "kind": "simulated"}}}, "hello")
	go func() {
		defer end()
		for {
			_, b, err := conn.Read(ctx)
			if err != nil {
				return
			}
			m.hear(c, b)
		}
	}()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case b := <-c.texts:
			err = conn.Write(ctx, websocket.MessageText, b)
		case b := <-c.send:
			err = conn.Write(ctx, websocket.MessageBinary, b)
		}
		if err != nil {
			return
		}
	}
}

func (m *mock) hear(c *client, b []byte) {
	var in struct {
		Type   string
		Bbox   [4]float64
		Seq    uint32
		T0     float64
		Device string
	}
	if len(b) > 4096 || json.Unmarshal(b, &in) != nil {
		c.end()
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch in.Type {
	case "view":
		c.box, c.ready = in.Bbox, true
	case "seen":
		m.seen = in.Seq
	case "clock":
		c.text(map[string]any{"t0": in.T0, "t1": ms(time.Now())}, "clock")
	case "offset":
		m.offsets++
	case "key":
		c.anew = true
		m.keys++
	case "watch":
		c.watch = in.Device
	default:
		c.end()
	}
}

func (m *mock) status(*http.Request) any {
	return map[string]any{"ready": true, "version": "mock", "now": ms(time.Now()), "started": ms(time.Now()) - 60000,
		"checks": []map[string]any{{"name": "running", "ok": true, "detail": ""}, {"name": "log", "ok": true, "detail": "embedded"}}, "warnings": m.warnings,
		"doors": []map[string]any{
			{"protocol": "MQTT", "address": "127.0.0.1:1883", "does": "watch what the vehicles send", "try": "mosquitto_sub -p 1883 -t 'fleet/#' -v"},
			{"protocol": "Kafka", "address": "127.0.0.1:9092", "does": "read the same as records", "try": "kcat -b 127.0.0.1:9092 -C -t positions"},
			{"protocol": "MQTT", "address": "127.0.0.1:1883", "does": "publish your own", "try": "mosquitto_pub -p 1883 -q 1 -t fleet/me/telemetry -m '{\"lat\":52.37,\"lon\":4.9}'"}},
		"user": map[bool]string{true: "admin"}[m.login], "login": m.login}
}

func (m *mock) pipeline() any {
	n := int64(len(m.vehicles))
	stage := func(name string, late float64, unaccounted any, left ...any) map[string]any {
		return map[string]any{"name": name, "total": n * m.ticks, "rate": float64(n) * (1 + 0.05*math.Sin(float64(m.ticks)/5)), "samples": n * 60,
			"p50_ms": late, "p99_ms": late * 4, "joined": []any{}, "left": append([]any{}, left...), "unaccounted": unaccounted}
	}
	devices := stage("devices", 0, nil)
	devices["p50_ms"], devices["p99_ms"] = nil, nil
	browser := stage("browser", 640, nil)
	browser["rate"], browser["total"] = 1.0, m.ticks
	return map[string]any{"now": ms(m.now), "started": ms(m.now) - 60000,
		"stages": []any{devices, stage("broker", 0.4, 0, map[string]any{"reason": "qos0_overload", "kind": "dropped", "count": 0}),
			stage("log", 1.8, m.lost), stage("console", 420, 0, map[string]any{"reason": "waiting", "kind": "in_flight", "count": n / 2}), browser},
		"clock_skew": map[string]any{"devices": n, "p50_ms": 2.5, "max_ms": 120.0},
		"hub":        map[string]any{"pages": len(m.clients), "frames": m.ticks, "coalesced": 0, "bytes": 1 << 20}}
}

func (m *mock) entry(i int) map[string]any {
	v := &m.vehicles[i]
	last := ms(m.now) - 3
	if v.stale {
		last -= 90_000
	}
	return map[string]any{"id": v.id, "slot": i, "source": v.source, "lat": v.lat, "lon": v.lon, "speed": v.speed, "heading": v.heading, "last_seen": last,
		"sent": last - 20, "latency_ms": 20.0, "clock_skew_ms": 1.5, "messages": v.messages, "stale": v.stale, "topic": "fleet/" + v.id}
}

func (m *mock) devices(r *http.Request) any {
	q := r.URL.Query()
	var slots []int
	if s := q.Get("slots"); s != "" {
		for part := range strings.SplitSeq(s, ",") {
			n, _ := strconv.Atoi(part)
			slots = append(slots, n)
		}
	}
	found := []int{}
	for i := range m.vehicles {
		if strings.Contains(strings.ToLower(m.vehicles[i].id), strings.ToLower(q.Get("q"))) && (slots == nil || slices.Contains(slots, i)) {
			found = append(found, i)
		}
	}
	slices.SortFunc(found, func(a, b int) int {
		v, w := &m.vehicles[a], &m.vehicles[b]
		byID := strings.Compare(v.id, w.id)
		switch q.Get("sort") {
		case "last_seen":
			return cmp.Or(cmp.Compare(w.messages, v.messages), byID)
		}
		return byID
	})
	limit, _ := strconv.Atoi(cmp.Or(q.Get("limit"), "100"))
	from, _ := strconv.Atoi(q.Get("cursor"))
	to := min(len(found), from+limit)
	list := []any{}
	for _, i := range found[from:to] {
		list = append(list, m.entry(i))
	}
	next := ""
	if to < len(found) {
		next = strconv.Itoa(to)
	}
	return map[string]any{"devices": list, "total": len(found), "next": next}
}

func (m *mock) device(r *http.Request) any { return m.detail(r.PathValue("id")) }

func (m *mock) detail(id string) any {
	for i := range m.vehicles {
		if v := &m.vehicles[i]; id != "" && v.id == id {
			d := m.entry(i)
			d["sequence"], d["missing"], d["repeated"], d["reordered"] = v.messages, 2, 1, 0
			track := []any{}
			a := v.heading * math.Pi / 180
			for k := 60; k > 0; k-- {
				s := float64(k) * v.speed
				track = append(track, map[string]any{"at": ms(m.now) - float64(k)*1000, "lat": v.lat - s*math.Cos(a)/111320, "lon": v.lon - s*math.Sin(a)/111320/0.6})
			}
			d["track"] = track
			return d
		}
	}
	return nil
}

func (m *mock) topics(*http.Request) any {
	return map[string]any{"topics": []any{
		map[string]any{"name": "deliveries", "partitions": 3, "records": 900 * m.ticks, "bytes": 90000 * m.ticks, "first": ms(m.now) - 60000, "last": ms(m.now)},
		map[string]any{"name": "positions", "partitions": 3, "records": 100 * m.ticks, "bytes": nil, "first": nil, "last": nil}}, "next": ""}
}

func (m *mock) tail(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := 0; r.Context().Err() == nil; i++ {
		fmt.Fprintf(w, "data: {\"partition\":0,\"offset\":%d,\"time\":%d,\"key\":\"van-%05d\",\"headers\":{},\"size\":40,\"value\":\"{\\\"lat\\\":52.37}\","+
			"\"base64\":null,\"truncated\":false}\n\n", i, time.Now().UnixMilli(), i%1000)
		w.(http.Flusher).Flush()
		time.Sleep(200 * time.Millisecond)
	}
}
