package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/identity"
)

// fakeMQTT is a broker with what a test gives it, that notes what it is told to do.
type fakeMQTT struct {
	clients []Client
	topics  []TopicCount
	steps   int // added to every topic's counts at each look

	mu     sync.Mutex
	acts   []string
	events chan []TraceEvent
}

func newFakeMQTT() *fakeMQTT {
	return &fakeMQTT{
		clients: []Client{{ID: "truck-1", Principal: "anna", Connected: true, Since: new(1.0), LastSeen: new(2.0), Lag: new(3.0), Queued: 5, Expires: new(9.0)},
			{ID: "shared", Principal: "anna"}, {ID: "shared", Principal: "bob"}},
		topics: []TopicCount{{Topic: "a/1", Messages: 10, Bytes: 100, Last: 5}},
		events: make(chan []TraceEvent, 100),
	}
}

func (f *fakeMQTT) did(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acts = append(f.acts, fmt.Sprintf(format, args...))
}

// taken is what it was told to do since the last call.
func (f *fakeMQTT) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	acts := f.acts
	f.acts = nil
	return acts
}

func (f *fakeMQTT) Clients(_ context.Context, want func(string, string, bool) bool, visit func(*Client)) error {
	for _, c := range f.clients {
		if want(c.ID, c.Principal, c.Connected) {
			visit(&c)
		}
	}
	return nil
}

func (f *fakeMQTT) Named(_ context.Context, id string) (names []string, err error) {
	for _, c := range f.clients {
		if c.ID == id {
			names = append(names, c.Principal)
		}
	}
	return names, nil
}

func (f *fakeMQTT) Client(_ context.Context, id, principal string) (ClientDetail, error) {
	for _, c := range f.clients {
		if c.ID == id && c.Principal == principal {
			return ClientDetail{Client: c, Exists: true, List: []Subscription{{Filter: "a/#"}}, Events: []Event{{Kind: "connected"}}}, nil
		}
	}
	return ClientDetail{}, errNoClient
}

func (f *fakeMQTT) Kick(_ context.Context, id, principal, reason string) error {
	f.did("kick %s %s %s", id, principal, reason)
	return nil
}

func (f *fakeMQTT) EndSession(_ context.Context, id, principal string) (int64, error) {
	f.did("end %s %s", id, principal)
	return 7, nil
}

func (f *fakeMQTT) ValidFilter(filter string) bool { return !strings.Contains(filter, "#/") }

func (f *fakeMQTT) Match(filter, topic string) bool {
	return filter == "#" || strings.HasPrefix(topic, strings.TrimSuffix(filter, "#"))
}

func (f *fakeMQTT) Subscribers(_ context.Context, topic string, n int) (Subscribers, error) {
	return Subscribers{Topic: topic, Total: 3, Subscribers: []Subscriber{{ID: "truck-1", Filters: []string{"a"}}}}, nil
}

func (f *fakeMQTT) Topics(_ context.Context, visit func(*TopicCount)) (TopicCount, float64, error) {
	for i := range f.topics {
		t := f.topics[i]
		visit(&t)
		f.topics[i].Messages += int64(f.steps)
		f.topics[i].Bytes += int64(10 * f.steps)
	}
	return TopicCount{Messages: 3}, 1, nil
}

func (f *fakeMQTT) Retained(_ context.Context, filter, after string, n int) ([]RetainedMessage, string, bool, error) {
	list := []RetainedMessage{{Topic: "a", Expires: new(1.0)}, {Topic: "b"}}
	if after == "a" {
		list = list[1:]
	}
	return list[:min(n, len(list))], list[min(n, len(list))-1].Topic, n < len(list), nil
}

func (f *fakeMQTT) Groups(context.Context, int) (SharedGroups, error) {
	return SharedGroups{Groups: []SharedGroup{{Name: "g", Members: []GroupMember{{ID: "a"}}}}, Total: 1}, nil
}

func (f *fakeMQTT) Bans() []Ban {
	return []Ban{{Client: "x", Principal: "y", Network: "z", Until: new(1.0)}}
}

func (f *fakeMQTT) Ban(b Ban) error {
	f.did("ban %s%s%s until %v by %s for %s", b.Client, b.Principal, b.Network, b.Until != nil, b.By, b.Reason)
	return nil
}

func (f *fakeMQTT) Unban(b Ban) error {
	f.did("unban %s%s%s", b.Client, b.Principal, b.Network)
	return nil
}

func (f *fakeMQTT) Drain(server string, rate int) error {
	f.did("drain %s %d", server, rate)
	return nil
}

func (f *fakeMQTT) Drained() Drain { return Drain{Active: true, Since: new(1.0)} }

func (f *fakeMQTT) Admit() error {
	f.did("admit")
	return nil
}

func (f *fakeMQTT) Trace(ctx context.Context, q TraceQuery, emit func([]TraceEvent) error) error {
	f.did("trace %+v", q)
	if err := emit(nil); err != nil {
		return err
	}
	for {
		select {
		case events := <-f.events:
			if err := emit(events); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

var wholeTraceEvent = TraceEvent{At: 1, Client: "a", Principal: "b", Direction: "in", Packet: "PUBLISH", Topic: "t", Filters: []string{"f"}, QoS: 1, Retain: true, Dup: true,
	ID: 1, Size: 1, Reason: "r", Payload: new("x"), Base64: new("x"), Dropped: 1, End: "x"}

// staff is a password file with an administrator, a viewer and a device.
func staff(t *testing.T) (option func(*Options), text *string, admin, viewer, device string) {
	f, err := identity.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens := map[string]string{}
	for _, role := range []string{identity.Admin, identity.Viewer, identity.Device} {
		if tokens[role], err = f.SetToken(nil, role, role); err != nil {
			t.Fatal(err)
		}
	}
	now := string(f.Bytes())
	p, err := identity.Open(identity.Options{Read: func() ([]byte, error) { return []byte(now), nil }, Roles: []string{identity.Admin, identity.Viewer}})
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.Passwords = p }, &now, tokens[identity.Admin], tokens[identity.Viewer], tokens[identity.Device]
}

// ask sends a request with a body, as a whole.
func (w *world) ask(method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:8080/", strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(method, "http://127.0.0.1:8080/", nil)
	}
	return w.send(r, path, header...)
}

// works is a request that each endpoint for administrators answers.
var works = map[string]struct{ path, body string }{
	"POST /api/v1/mqtt/clients/{id}/kick":      {"/api/v1/mqtt/clients/truck-1/kick", ""},
	"DELETE /api/v1/mqtt/clients/{id}/session": {"/api/v1/mqtt/clients/truck-1/session", ""},
	"POST /api/v1/mqtt/bans":                   {"/api/v1/mqtt/bans", `{"client":"x"}`},
	"DELETE /api/v1/mqtt/bans":                 {"/api/v1/mqtt/bans?client=x", ""},
	"POST /api/v1/mqtt/drain":                  {"/api/v1/mqtt/drain", ""},
	"DELETE /api/v1/mqtt/drain":                {"/api/v1/mqtt/drain", ""},
	"GET /api/v1/mqtt/trace":                   {"/api/v1/mqtt/trace?client=a&duration=1ms", ""},
	"GET /api/v1/log/backup":                   {"/api/v1/log/backup?since=5", ""},
}

// Nothing changes anything for anybody but an administrator, wherever the request comes from. The table is the API's own: what is added to it
// is held against this by itself.
func TestAdministrators(t *testing.T) {
	option, text, admin, viewer, device := staff(t)
	private, public := newWorld(t, option), newWorld(t)
	n := 0
	for _, e := range endpoints {
		name := e.method + " " + e.path
		if e.method != http.MethodGet && !e.admin && !e.open {
			t.Errorf("%s changes something, and is for everybody", name)
		}
		if e.open && e.method != http.MethodGet && e.path != "/api/v1/login" && e.path != "/api/v1/logout" {
			t.Errorf("%s is open", name)
		}
		if (e.act != nil) != (e.admin && e.method != http.MethodGet) {
			t.Errorf("%s: what acts is an administrator's, and no GET", name)
		}
		if !e.admin {
			continue
		}
		n++
		good, known := works[name]
		if !known {
			t.Errorf("%s: say how it is asked", name)
			continue
		}
		json := []string{"Content-Type", "application/json"}
		bearer := func(token string, more ...string) []string {
			return slices.Concat(json, []string{"Authorization", "Bearer " + token}, more)
		}
		for _, c := range []struct {
			who    string
			w      *world
			header []string
			want   int
		}{
			{"anybody, without a password file", public, json, 403},
			{"some token, without a password file", public, bearer("x"), 403},
			{"nobody", private, json, 401},
			{"a wrong token", private, bearer("mr_wrong"), 401},
			{"a device", private, bearer(device), 401},
			{"a viewer", private, bearer(viewer), 403},
			{"another origin", private, bearer(admin, "Origin", "https://evil.example"), 403},
			{"no origin", private, bearer(admin, "Origin", "null"), 403},
			{"another site", private, bearer(admin, "Sec-Fetch-Site", "cross-site"), 403},
			{"another port", private, bearer(admin, "Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "navigate", "Origin", "http://127.0.0.1:9999"), 403},
			{"another name", private, bearer(admin, "Host", "evil.example"), 421},
		} {
			a := c.w.ask(e.method, good.path, good.body, c.header...)
			if a.Code != c.want {
				t.Errorf("%s, %s: %d, want %d: %s", name, c.who, a.Code, c.want, a.Body)
			}
			if acts := c.w.mqtt.taken(); len(acts) > 0 {
				t.Errorf("%s, %s: it was done: %q", name, c.who, acts)
			}
			if c.w == public && !strings.Contains(a.Body.String(), "listeners.http.password_file") {
				t.Errorf("%s: nobody is told what to do: %s", name, a.Body)
			}
		}
		a := private.ask(e.method, good.path, good.body, bearer(admin)...)
		if acts := private.mqtt.taken(); a.Code >= 300 || len(acts) != 1 {
			t.Errorf("%s, an administrator: %d %s, %q", name, a.Code, a.Body, acts)
		}
	}
	if n != len(works) {
		t.Errorf("%d endpoints are for administrators, %d are tried", n, len(works))
	}
	// A person who logs in is one too, and is one no more when the file says so.
	anna, _ := identity.Parse([]byte(*text))
	if err := anna.SetPassword(nil, "anna", identity.Admin, annasPassword); err != nil {
		t.Fatal(err)
	}
	*text = string(anna.Bytes())
	private.o.Passwords.Reload()
	cookie := cookieOf(private.login("127.0.0.1", "anna", annasPassword))
	kick := func(header ...string) int {
		return private.ask("POST", "/api/v1/mqtt/clients/truck-1/kick", "", append(header, "Cookie", cookie)...).Code
	}
	if code := kick("Origin", "http://127.0.0.1:8080"); code != 200 {
		t.Errorf("a page of our own: %d", code)
	}
	if code := kick("Origin", "http://evil.example"); code != 403 {
		t.Errorf("a page of another origin: %d", code)
	}
	*text = strings.Replace(*text, "anna:admin:", "anna:viewer:", 1)
	private.o.Passwords.Reload()
	if code := kick(); code != 401 && code != 403 {
		t.Errorf("who is an administrator no more: %d", code)
	}
	if !strings.Contains(private.said.String(), "an administrator's request") || !strings.Contains(private.said.String(), "name=anna") {
		t.Error("what was done is not in the log")
	}
}

func TestClientList(t *testing.T) {
	w := newWorld(t)
	w.mqtt.clients = nil
	for i := range 2500 {
		w.mqtt.clients = append(w.mqtt.clients, Client{ID: fmt.Sprintf("truck-%04d", (i*7919)%2500), Principal: []string{"anna", "bob"}[i%2], Connected: i%5 > 0,
			Queued: int64(i % 10), Waiting: i % 3 * 200 << 10, Behind: i%100 == 0, Lag: new(float64(i % 50)), Since: new(float64(i))})
	}
	w.mqtt.clients = append(w.mqtt.clients, Client{ID: "truck-0000", Principal: "zoe"})
	walk := func(query string) (seen []Client, total float64) {
		t.Helper()
		for cursor := ""; ; {
			a := w.get("GET", "/api/v1/mqtt/clients?"+query+"&cursor="+url.QueryEscape(cursor))
			var page Clients
			if err := json.Unmarshal(a.Body.Bytes(), &page); err != nil || a.Code != 200 {
				t.Fatalf("%s: %d %s", query, a.Code, a.Body)
			}
			seen, total = append(seen, page.Clients...), float64(page.Total)
			if cursor = page.Next; cursor == "" {
				return seen, total
			}
		}
	}
	all, total := walk("limit=300")
	if len(all) != 2501 || total != 2501 || !slices.IsSortedFunc(all, func(a, b Client) int { return strings.Compare(a.ID+"\x00"+a.Principal, b.ID+"\x00"+b.Principal) }) {
		t.Errorf("%d of %v", len(all), total)
	}
	byQueue, _ := walk("sort=queued&limit=101")
	if len(byQueue) != 2501 || !slices.IsSortedFunc(byQueue, func(a, b Client) int { return int(b.Queued - a.Queued) }) {
		t.Errorf("%d by queue", len(byQueue))
	}
	once := map[string]bool{}
	for _, c := range byQueue {
		once[c.ID+c.Principal] = true
	}
	if len(once) != 2501 {
		t.Errorf("%d different ones by queue", len(once))
	}
	for query, want := range map[string]int{"client=truck-0000": 2, "client=truck-1*": 1000, "client=*99": 25, "client=tr*k-*7*7": 43, "principal=zoe": 1, "connected=false": 501,
		"connected=true&principal=a*": 1000, "client=nobody": 0, "client=*": 2501} {
		if list, total := walk(query + "&limit=1000"); len(list) != want || total != float64(want) {
			t.Errorf("%s: %d, want %d", query, len(list), want)
		}
	}
	var slow Clients
	a := w.get("GET", "/api/v1/mqtt/slow?limit=5")
	if err := json.Unmarshal(a.Body.Bytes(), &slow); err != nil || len(slow.Clients) != 5 || *slow.Clients[0].Lag != 49 {
		t.Errorf("%s", a.Body)
	}
	for _, c := range slow.Clients {
		if !c.Connected || !c.Behind && c.Waiting < slowBytes {
			t.Errorf("%+v is not slow", c)
		}
	}
	for _, bad := range []string{"clients?sort=x", "clients?connected=maybe", "clients?cursor=x", "clients?sort=queued&cursor=" + cursor{Sort: "id"}.String(), "clients?limit=0",
		"clients?client=" + strings.Repeat("a*", 600), "clients?principal=" + strings.Repeat("*", 1025),
		"clients?q=x", "slow?sort=id", "slow?cursor=x", "topics?interval=1h", "topics?interval=x", "topics?sort=x", "topics?filter=%23/x", "subscriptions", "subscriptions?topic=a/%2B",
		"retained?limit=x", "groups?limit=x"} {
		if a := w.get("GET", "/api/v1/mqtt/"+bad); a.Code != 400 {
			t.Errorf("%s: %d %s", bad, a.Code, a.Body)
		}
	}
}

// A page is the first of all there is, however they come.
func TestBest(t *testing.T) {
	order := func(a, b *int) int { return *a - *b }
	for n := 1; n < 40; n += 7 {
		p := best[int]{n: n, order: order}
		for i := range 1000 {
			p.add(new((i * 617) % 1000))
		}
		list, more := p.done()
		if len(list) != n || !more || list[0] != 0 || list[n-1] != n-1 || p.total != 1000 {
			t.Errorf("%d: %v", n, list)
		}
	}
	p := best[int]{n: 5, order: order, after: new(3)}
	for i := range 6 {
		p.add(&i)
	}
	if list, more := p.done(); more || !slices.Equal(list, []int{4, 5}) {
		t.Errorf("%v", list)
	}
}

func TestWild(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "x", true}, {"x", "x", true}, {"x", "xy", false}, {"*", "", true}, {"a*", "a", true}, {"a*b", "ab", true}, {"a*b", "a", false}, {"ab*ba", "aba", false},
		{"*a*", "bab", true}, {"a*b*c", "axbxc", true}, {"a*b*c", "acb", false}, {"**", "x", true}, {"*x*x", "x", false},
	} {
		if got := wild(c.pattern, c.text); got != c.want {
			t.Errorf("%q %q: %v", c.pattern, c.text, got)
		}
	}
}

// Which session is meant is asked when it is not clear, never guessed.
func TestWhose(t *testing.T) {
	option, _, admin, _, _ := staff(t)
	w := newWorld(t, option)
	kick := func(path, body string) *httptest.ResponseRecorder {
		return w.ask("POST", "/api/v1/mqtt/clients/"+path, body, "Authorization", "Bearer "+admin, "Content-Type", "application/json")
	}
	if a := kick("shared/kick", ""); a.Code != 409 || !strings.Contains(a.Body.String(), `\"anna\", \"bob\"`) || len(w.mqtt.taken()) > 0 {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if a := kick("shared/kick?principal=bob", `{"reason":"not_authorized"}`); a.Code != 200 || !slices.Equal(w.mqtt.taken(), []string{"kick shared bob not_authorized"}) {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	for _, id := range []string{".", "..", "/", "-", "a//b", "a/../b", "%", "?", "#", "x/kick", "é", "a b"} { // whatever a device calls itself, it can be kicked
		w.mqtt.clients = []Client{{ID: id, Principal: "p"}}
		if a := kick("-/kick?client="+url.QueryEscape(id), ""); a.Code != 200 || !slices.Equal(w.mqtt.taken(), []string{"kick " + id + " p administrative_action"}) {
			t.Errorf("%s: %d %s", id, a.Code, a.Body)
		}
	}
	if a := kick("x/kick?client=y", ""); a.Code != 400 {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	if a := kick("nobody/kick", ""); a.Code != 404 {
		t.Errorf("%d %s", a.Code, a.Body)
	}
	for _, body := range []string{`{`, `{"reson":"x"}`, `[]`, `{}{}`, strings.Repeat(" ", 5000)} {
		if a := kick("truck-1/kick", body); a.Code < 400 || len(w.mqtt.taken()) > 0 {
			t.Errorf("%.20q: %d %s", body, a.Code, a.Body)
		}
	}
}

func TestBanRequests(t *testing.T) {
	option, _, admin, _, _ := staff(t)
	w := newWorld(t, option)
	for body, want := range map[string]string{
		`{"client":"a"}`: "ban a until false by admin for ", `{"principal":"p","for":"1h","reason":"noisy"}`: "ban p until true by admin for noisy",
		`{"network":"192.0.2.7/24"}`: "ban 192.0.2.0/24 until false by admin for ", `{"network":"2001:db8::1"}`: "ban 2001:db8::1/128 until false by admin for ",
		`{"network":"::ffff:192.0.2.7/120"}`: "ban 192.0.2.0/24 until false by admin for ",
		`{"network":"::ffff:192.0.2.7/90"}`:  "", `{}`: "", `{"client":"a","principal":"b"}`: "", `{"network":"x"}`: "", `{"network":"1.2.3.4/33"}`: "", `{"client":"a","for":"-1h"}`: "", `{"client":"a","for":"soon"}`: "",
		`{"client":"a","reason":"` + strings.Repeat("x", 300) + `"}`: "",
	} {
		a := w.ask("POST", "/api/v1/mqtt/bans", body, "Authorization", "Bearer "+admin, "Content-Type", "application/json")
		got := strings.Join(w.mqtt.taken(), ";")
		if got != want || (a.Code == 200) != (want != "") {
			t.Errorf("%.60s: %d %q", body, a.Code, got)
		}
	}
	if a := w.ask("DELETE", "/api/v1/mqtt/bans?network=192.0.2.9/24", "", "Authorization", "Bearer "+admin); a.Code != 204 || !slices.Equal(w.mqtt.taken(), []string{"unban 192.0.2.0/24"}) {
		t.Errorf("%d %s", a.Code, a.Body)
	}
}

func TestTopicRates(t *testing.T) {
	w := newWorld(t)
	w.mqtt.topics = []TopicCount{{Topic: "a/1", Messages: 10, Bytes: 100, Last: 5}, {Topic: "a/2", Messages: 20, Bytes: 10, Last: 6}, {Topic: "b", Messages: 99}}
	w.mqtt.steps = 4
	a := w.get("GET", "/api/v1/mqtt/topics?filter=a/%23&interval=20ms&limit=1")
	var m TopicMetrics
	if err := json.Unmarshal(a.Body.Bytes(), &m); err != nil || a.Code != 200 {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	if m.Total != 2 || len(m.Topics) != 1 || m.Topics[0].Topic != "a/2" || m.Topics[0].Rate == nil || *m.Topics[0].Rate != 200 || m.Matched.Messages != 38 || m.Matched.Last != 6 || m.Others.Messages != 3 {
		t.Errorf("%s", a.Body)
	}
	if a := decode(t, w.get("GET", "/api/v1/mqtt/topics?interval=0s&sort=bytes").Body.Bytes()); a["topics"].([]any)[0].(map[string]any)["messages_per_second"] != nil {
		t.Errorf("%v", a)
	}
}

// A trace is lines as they come, in which nothing that a device sends can look like another line, and ends when its login does.
func TestTraceStream(t *testing.T) {
	option, text, admin, _, _ := staff(t)
	w := newWorld(t, option)
	address := w.listen()
	r, _ := http.NewRequest("GET", "http://"+address+"/api/v1/mqtt/trace?client=a&payload=9", nil)
	r.Header.Set("Authorization", "Bearer "+admin)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	lines := bufio.NewScanner(a.Body)
	next := func() (e TraceEvent) {
		t.Helper()
		if !lines.Scan() {
			t.Fatal("it ends")
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || bytes.ContainsAny(lines.Bytes(), "\x1b\x00") {
			t.Fatalf("%q %v", lines.Bytes(), err)
		}
		return e
	}
	hostile := "x\n{\"end\":\"no\"}\x1b[31m\x00"
	w.mqtt.events <- []TraceEvent{{Packet: "PUBLISH", Topic: hostile, Client: hostile}, {Packet: "CLOSED"}}
	if e := next(); e.Topic != hostile || e.Client != hostile {
		t.Errorf("%+v", e)
	}
	if e := next(); e.Packet != "CLOSED" {
		t.Errorf("%+v", e)
	}
	*text = ""
	w.o.Passwords.Reload()
	w.mqtt.events <- []TraceEvent{{Packet: "PUBLISH"}}
	if e := next(); e.End != reasonLogin {
		t.Errorf("%+v", e)
	}
	if lines.Scan() {
		t.Errorf("after the end: %s", lines.Bytes())
	}
	for _, bad := range []string{"", "client=a&filter=b", "client=a&payload=-1", "client=a&payload=65537", "client=a&duration=2h", "client=a&duration=x"} {
		w := newWorld(t, func(o *Options) {
			f, _ := identity.Parse(nil)
			token, _ := f.SetToken(nil, "x", identity.Admin)
			o.Passwords, _ = identity.Load(func() ([]byte, error) { return f.Bytes(), nil })
			admin = token
		})
		if a := w.get("GET", "/api/v1/mqtt/trace?"+bad, "Authorization", "Bearer "+admin); a.Code != 400 || len(w.mqtt.taken()) > 0 {
			t.Errorf("%s: %d %s", bad, a.Code, a.Body)
		}
	}
	short := time.Now()
	w = newWorld(t, func(o *Options) {
		f, _ := identity.Parse(nil)
		token, _ := f.SetToken(nil, "x", identity.Admin)
		o.Passwords, _ = identity.Load(func() ([]byte, error) { return f.Bytes(), nil })
		admin = token
	})
	if a := w.get("GET", "/api/v1/mqtt/trace?filter=a&duration=10ms", "Authorization", "Bearer "+admin); !strings.Contains(a.Body.String(), "the time is over") || time.Since(short) > 10*time.Second {
		t.Errorf("%d %s", a.Code, a.Body)
	}
}
