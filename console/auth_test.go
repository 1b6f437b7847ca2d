package console

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace-io/millrace/identity"
)

// login sends a login from an address, and returns the answer.
func (w *world) login(from, name, password string, header ...string) *httptest.ResponseRecorder {
	b, _ := json.Marshal(Login{Name: name, Password: password})
	r := httptest.NewRequest("POST", "http://127.0.0.1:8080/", bytes.NewReader(b))
	r.RemoteAddr = from + ":4711"
	return w.send(r, "/api/v1/login", append([]string{"Content-Type", "application/json"}, header...)...)
}

func cookieOf(r *httptest.ResponseRecorder) string {
	for _, c := range r.Result().Cookies() {
		return c.Name + "=" + c.Value
	}
	return ""
}

// Every route, asked by everybody: nobody in particular, with a wrong and with a right token, with a wrong and with a right cookie, on a node
// with and without a password file.
func TestAccessMatrix(t *testing.T) {
	option, _ := locked(t)
	_, token := passwords()
	const open, closed = 200, 401
	type route struct {
		path      string
		anonymous int // on a node with a password file
		good      int // for who may
	}
	routes := []route{{"/livez", open, 200}, {"/readyz", open, 200}, {"/metrics", closed, 200}, {"/", open, 200}, {"/devices/x", open, 200},
		{"/map/streets.json", closed, 200}, {"/api/v1/nothing", 404, 404}}
	special := map[string]route{
		"/api/v1/login": {"", 405, 405}, "/api/v1/logout": {"", 405, 405}, "/api/v1/openapi.json": {"", open, 200}, "/api/v1/live": {"", closed, 426},
		"/api/v1/devices/{id}": {"/api/v1/devices/nobody", closed, 404}, "/api/v1/topics/{name}/tail": {"/api/v1/topics/none/tail", closed, 404},
		verifyPath: {verifyPath, closed, 200}, "/api/v1/mqtt/clients/{id}": {"/api/v1/mqtt/clients/nobody", closed, 404},
		"/api/v1/mqtt/subscriptions": {"/api/v1/mqtt/subscriptions?topic=x", closed, 200}, "/api/v1/mqtt/topics": {"/api/v1/mqtt/topics?interval=0s", closed, 200},
	}
	verify := func(o *Options) { o.Verify = noFindings }
	for _, e := range endpoints { // a new route is in the matrix by itself, and closed
		if e.admin { // see TestAdministrators
			continue
		}
		r := route{e.path, closed, 200}
		if s, ok := special[e.path]; ok {
			r.anonymous, r.good = s.anonymous, s.good
			if s.path != "" {
				r.path = s.path
			}
		}
		routes = append(routes, r)
	}
	private, public := newWorld(t, option, verify), newWorld(t, verify)
	good := private.login("127.0.0.1", "anna", annasPassword)
	cookie := cookieOf(good)
	if good.Code != 200 || cookie == "" {
		t.Fatalf("%d %s", good.Code, good.Body)
	}
	for _, r := range routes {
		for _, c := range []struct {
			name   string
			w      *world
			header []string
			want   int
		}{
			{"no passwords", public, nil, r.good},
			{"no passwords, some token", public, []string{"Authorization", "Bearer x"}, r.good},
			{"anonymous", private, nil, r.anonymous},
			{"bad token", private, []string{"Authorization", "Bearer mr_wrong"}, r.anonymous},
			{"bad token, good cookie", private, []string{"Authorization", "Bearer mr_wrong", "Cookie", cookie}, r.anonymous},
			{"password as token", private, []string{"Authorization", "Bearer " + annasPassword}, r.anonymous},
			{"basic", private, []string{"Authorization", "Basic YW5uYTpjb3JyZWN0IGhvcnNl"}, r.anonymous},
			{"bad cookie", private, []string{"Cookie", "millrace=x"}, r.anonymous},
			{"cookie of TLS", private, []string{"Cookie", "__Host-" + cookie}, r.anonymous},
			{"good token", private, []string{"Authorization", "bearer " + token}, r.good},
			{"good cookie", private, []string{"Cookie", "millrace=planted; " + cookie}, r.good},
		} {
			a := c.w.get("GET", r.path, c.header...)
			if a.Code != c.want {
				t.Errorf("%s, %s: %d, want %d", r.path, c.name, a.Code, c.want)
			}
			if a.Code == 401 {
				p := decode(t, a.Body.Bytes())
				if p["login"] != true || p["status"] != 401.0 || a.Header().Get("WWW-Authenticate") == "" || a.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s, %s: %v", r.path, c.name, p)
				}
			}
		}
	}
	if a := private.get("GET", "/readyz"); strings.Contains(a.Body.String(), "secret") || strings.Contains(a.Body.String(), "v1") {
		t.Errorf("anonymous /readyz tells details: %s", a.Body)
	}
	if a := private.get("GET", "/readyz", "Authorization", "Bearer "+token); !strings.Contains(a.Body.String(), "secret") {
		t.Errorf("/readyz with a token: %s", a.Body)
	}
}

func TestLogin(t *testing.T) {
	option, text := locked(t)
	w := newWorld(t, option)
	unknown, wrong := w.login("127.0.0.1", "bob", annasPassword), w.login("127.0.0.1", "anna", "wrong")
	if unknown.Code != 401 || unknown.Body.String() != wrong.Body.String() || len(unknown.Result().Cookies()) != 0 {
		t.Errorf("a name can be told from none: %s %s", unknown.Body, wrong.Body)
	}
	a := w.login("127.0.0.1", "anna", annasPassword)
	c := a.Result().Cookies()
	if a.Code != 200 || len(c) != 1 || !c[0].HttpOnly || c[0].Secure || c[0].SameSite != http.SameSiteStrictMode || c[0].Path != "/" || c[0].Name != "millrace" || len(c[0].Value) < 40 {
		t.Fatalf("%d %+v", a.Code, c)
	}
	body := decode(t, a.Body.Bytes())
	if body["user"] != "anna" || body["role"] != "admin" || body["expires"] != millis(w.clock().Add(sessionLife)) {
		t.Errorf("%v", body)
	}
	cookie := cookieOf(a)
	if st := decode(t, w.get("GET", "/api/v1/status", "Cookie", cookie).Body.Bytes()); st["user"] != "anna" || st["login"] != true {
		t.Errorf("%v", st)
	}
	// Each day somebody looks: it holds, but not for ever.
	days := 0
	for ; w.get("GET", "/api/v1/status", "Cookie", cookie).Code == 200; days++ {
		w.pass(10 * time.Hour)
	}
	if days != 17 { // a week of them
		t.Errorf("the session ended after %d times ten hours", days)
	}
	second := cookieOf(w.login("127.0.0.1", "anna", annasPassword))
	w.pass(sessionIdle)
	if w.get("GET", "/api/v1/status", "Cookie", second).Code != 401 {
		t.Error("an unused session holds")
	}
	third, fourth := cookieOf(w.login("127.0.0.1", "anna", annasPassword)), cookieOf(w.login("127.0.0.1", "anna", annasPassword))
	if a := w.get("POST", "/api/v1/logout", "Cookie", third); a.Code != 204 || a.Result().Cookies()[0].MaxAge >= 0 {
		t.Errorf("%d", a.Code)
	}
	if w.get("GET", "/api/v1/status", "Cookie", third).Code != 401 || w.get("GET", "/api/v1/status", "Cookie", fourth).Code != 200 {
		t.Error("logout ended the wrong session, or none")
	}
	// A password that is taken away takes its sessions with it.
	*text = strings.ReplaceAll(*text, "anna:", "berta:")
	if _, err := w.o.Passwords.Reload(); err != nil {
		t.Fatal(err)
	}
	if w.get("GET", "/api/v1/status", "Cookie", fourth).Code != 401 {
		t.Error("a session outlives its password")
	}
	if strings.Contains(w.said.String(), annasPassword) || strings.Contains(w.said.String(), fourth[len("millrace="):]) {
		t.Error("a secret is logged")
	}
	if a := newWorld(t).login("127.0.0.1", "anna", annasPassword); a.Code != 404 {
		t.Errorf("where there is nothing to log in to: %d", a.Code)
	}
}

// Over TLS the cookie is bound to it.
func TestLoginOverTLS(t *testing.T) {
	option, _ := locked(t)
	w := newWorld(t, option)
	r := httptest.NewRequest("POST", "https://127.0.0.1:8080/", strings.NewReader(`{"name":"anna","password":"`+annasPassword+`"}`))
	r.TLS = &tls.ConnectionState{}
	a := w.send(r, "/api/v1/login", "Content-Type", "application/json")
	if c := a.Result().Cookies(); a.Code != 200 || len(c) != 1 || !c[0].Secure || c[0].Name != "__Host-millrace" || c[0].Domain != "" {
		t.Errorf("%d %+v", a.Code, c)
	}
	if a.Header().Get("Strict-Transport-Security") != "" {
		t.Error("HSTS is of all ports of a name, and the others are not ours")
	}
}

func TestBadLogins(t *testing.T) {
	option, _ := locked(t)
	w := newWorld(t, option)
	for _, c := range []struct {
		body, kind string
		code       int
	}{
		{"{", "application/json", 400},
		{"[]", "application/json", 400},
		{`{"name":"anna"}`, "application/json; charset=utf-8", 400},
		{`{"name":7,"password":"x"}`, "application/json", 400},
		{`{"name":"` + strings.Repeat("n", 200) + `","password":"x"}`, "application/json", 400},
		{`{"name":"anna","password":"` + strings.Repeat("x", 5000) + `"}`, "application/json", 413},
		{"name=anna&password=x", "application/x-www-form-urlencoded", 415},
		{`{"name":"anna","password":"x"}`, "text/plain", 415},
		{`{"name":"anna","password":"x"}`, "", 415},
		{`{"name":"a\r\nSet-Cookie: x=y","password":"x"}`, "application/json", 401},
	} {
		a := w.send(httptest.NewRequest("POST", "/", strings.NewReader(c.body)), "/api/v1/login", "Content-Type", c.kind)
		if a.Code != c.code || a.Header().Get("Set-Cookie") != "" {
			t.Errorf("%.40s: %d %s", c.body, a.Code, a.Body)
		}
	}
	if strings.Contains(w.said.String(), "x=y") {
		t.Errorf("a name nobody has is logged: %s", w.said)
	}
}

// Who guesses is slowed down: an address after five, and many addresses at one name too; but not who knows the password and sits at the machine.
func TestGuessing(t *testing.T) {
	option, _ := locked(t)
	w := newWorld(t, option)
	for i := range 5 {
		if a := w.login("192.0.2.1", "bob", "guess"); a.Code != 401 {
			t.Fatalf("guess %d: %d", i, a.Code)
		}
	}
	for _, from := range []string{"192.0.2.1"} {
		a := w.login(from, "anna", annasPassword)
		if a.Code != 429 || a.Header().Get("Retry-After") != "15" {
			t.Errorf("locked out: %d %v", a.Code, a.Header())
		}
	}
	if a := w.login("192.0.2.2", "anna", annasPassword); a.Code != 200 {
		t.Errorf("another address: %d", a.Code)
	}
	w.pass(15 * time.Second)
	if a := w.login("192.0.2.1", "anna", annasPassword); a.Code != 200 {
		t.Errorf("after a while: %d", a.Code)
	}
	w.pass(time.Hour)
	for i := range 20 { // who gets it right is never slowed down
		if a := w.login("192.0.2.9", "anna", annasPassword); a.Code != 200 {
			t.Fatalf("login %d: %d", i, a.Code)
		}
	}
}

func TestGuessingOfManyAddresses(t *testing.T) {
	now := time.UnixMilli(0)
	var g guesses
	g.init(func() time.Time { return now })
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}) }
	i := 0
	for ; g.take(address(i), "anna") == 0; i++ {
	}
	if i != 50 {
		t.Errorf("%d guesses at one name", i)
	}
	if g.take(address(1000), "berta") != 0 || g.take(netip.MustParseAddr("127.0.0.1"), "anna") != 0 {
		t.Error("others are locked out")
	}
	// Without end of addresses there is an end of memory, and of guesses.
	taken := 0
	for i := range 20_000 {
		if g.from.take(address(2000+i)) == 0 {
			taken++
		}
	}
	if len(g.from.full) > maxBuckets || taken > maxBuckets+5 {
		t.Errorf("%d buckets, %d guesses", len(g.from.full), taken)
	}
	now = now.Add(time.Hour)
	if g.from.take(address(60_000)) != 0 || len(g.from.full) > 1 {
		t.Errorf("%d buckets are kept", len(g.from.full))
	}
}

func TestSessionsAreBounded(t *testing.T) {
	w := newWorld(t)
	first, _ := w.s.sessions.begin(identity.Principal{})
	w.pass(time.Second)
	second, _ := w.s.sessions.begin(identity.Principal{})
	for range maxSessions {
		w.pass(time.Second)
		w.s.sessions.begin(identity.Principal{})
		w.s.sessions.find(second)
	}
	if _, ok := w.s.sessions.find(first); ok || len(w.s.sessions.of) > maxSessions {
		t.Errorf("%d sessions", len(w.s.sessions.of))
	}
	if _, ok := w.s.sessions.find(second); !ok {
		t.Error("one in use was forgotten")
	}
}

// A page and a tail end when the login does.
func TestStreamsEndWithTheLogin(t *testing.T) {
	option, text := locked(t)
	w := newWorld(t, option)
	_, token := passwords()
	address := w.listen()
	if _, status, err := w.open(address); err == nil || status != 401 {
		t.Errorf("a page of nobody: %v", err)
	}
	b := w.browse(address, "Authorization", "Bearer "+token)
	b.until("hello")
	tail := w.follow(address, "/api/v1/topics/telemetry/tail", "Authorization", "Bearer "+token)
	*text = "# nobody\n"
	if _, err := w.o.Passwords.Reload(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for t.Context().Err() == nil {
			w.s.Tick()
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, bye := b.until("bye"); bye["reason"] != reasonLogin {
		t.Errorf("%v", bye)
	}
	if code := b.ended(); code != websocket.StatusGoingAway {
		t.Errorf("%v", code)
	}
	if e := tail.until("end"); !strings.Contains(e.data, reasonLogin) {
		t.Errorf("%+v", e)
	}
}

func TestProblemSaysNothingOfOurs(t *testing.T) {
	w := newWorld(t)
	rec := httptest.NewRecorder()
	w.s.fail(rec, httptest.NewRequest("GET", "/x", nil), fmt.Errorf("open /var/lib/secret"))
	if rec.Code != 500 || strings.Contains(rec.Body.String(), "secret") || !strings.Contains(w.said.String(), "secret") {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
}
