package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// member is an MQTT connection of a test, packet by packet.
type member struct {
	t   *testing.T
	nc  net.Conn
	dec packet.Decoder
	in  []byte
}

// knock sends a CONNECT over nc, of version 5 unless it says otherwise, and returns the answer.
func knock(t *testing.T, nc net.Conn, p packet.Connect) (*member, *packet.Connack) {
	t.Helper()
	m := ring(t, nc, p)
	return m, m.answer()
}

// ring sends a CONNECT and does not wait.
func ring(t *testing.T, nc net.Conn, p packet.Connect) *member {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	if p.Version == 0 {
		p.Version = packet.V5
	}
	p.HasUser, p.HasPass = p.HasUser || p.Username != "", len(p.Password) > 0
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	b, err := p.Append(nil, p.Version)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, nc: nc}
	m.dec.Version = p.Version
	m.write(b)
	return m
}

func (m *member) answer() *packet.Connack {
	m.t.Helper()
	ack, _ := m.next().(*packet.Connack)
	if ack == nil {
		m.t.Fatal("the node ends the connection without CONNACK")
	}
	return ack
}

func (m *member) write(b []byte) {
	m.t.Helper()
	if _, err := m.nc.Write(b); err != nil {
		m.t.Fatal(err)
	}
}

// next is the next packet; nil: the connection is over.
func (m *member) next() packet.Packet {
	m.t.Helper()
	for {
		p, n, _, err := m.dec.Next(m.in)
		if err != nil {
			m.t.Fatal(err)
		}
		if n > 0 {
			m.in = m.in[n:]
			return p
		}
		more := make([]byte, 1000)
		k, err := m.nc.Read(more)
		if m.in = append(m.in, more[:k]...); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				m.t.Fatal("the node says nothing")
			}
			return nil
		}
	}
}

// stays checks that the connection lives.
func (m *member) stays(what string) {
	m.t.Helper()
	m.write([]byte{0xC0, 0})
	if p := m.next(); p == nil || p.Type() != packet.PINGRESP {
		m.t.Errorf("%s: got %v, want a PINGRESP", what, p)
	}
}

// goes checks that the node ends the connection, and says why.
func (m *member) goes(what string) {
	m.t.Helper()
	if d, _ := m.next().(*packet.Disconnect); d == nil || d.Code != packet.NotAuthorized {
		m.t.Errorf("%s: got %v, want a DISCONNECT with 0x87", what, d)
	}
}

// porch is a node with listeners that ask, and what they ask for.
type porch struct {
	*testing.T
	dir string
	n   *Node
}

func (p *porch) file(name string) string { return filepath.Join(p.dir, name) }

func (p *porch) write(name string, b []byte) {
	p.Helper()
	if err := os.WriteFile(p.file(name), b, 0o600); err != nil {
		p.Fatal(err)
	}
}

// edit changes the password file.
func (p *porch) edit(change func(f *identity.File) error) {
	p.Helper()
	b, err := os.ReadFile(p.file("users"))
	if err != nil && !os.IsNotExist(err) {
		p.Fatal(err)
	}
	f, err := identity.Parse(b)
	if err == nil {
		err = change(f)
	}
	if err != nil {
		p.Fatal(err)
	}
	p.write("users", f.Bytes())
}

func (p *porch) token(name string) (token string) {
	p.Helper()
	p.edit(func(f *identity.File) (err error) { token, err = f.SetToken(nil, name, identity.Device); return err })
	return token
}

// open starts a node with one listener for each chain.
func (p *porch) open(auth config.Auth, chains ...[]string) {
	p.Helper()
	c := testConfig(p.T, "")
	defaults := config.Default().Auth
	if auth.JWT.NameClaim == "" {
		auth.JWT.NameClaim, auth.JWT.Refresh = defaults.JWT.NameClaim, defaults.JWT.Refresh
	}
	if auth.Hook.Concurrency == 0 {
		auth.Hook.Timeout, auth.Hook.Concurrency = config.Duration(time.Second), 4
	}
	c.Auth, c.Listeners.MQTT = auth, nil
	for _, chain := range chains {
		c.Listeners.MQTT = append(c.Listeners.MQTT, config.MQTT{Bind: "127.0.0.1:0", Auth: chain})
	}
	p.n = boot(p.T, c)
}

func newPorch(t *testing.T) *porch { return &porch{T: t, dir: t.TempDir()} }

func (p *porch) passwords() config.Auth { return config.Auth{Passwords: config.File(p.file("users"))} }

// knock connects to a listener by its place.
func (p *porch) knock(listener int, c packet.Connect) (*member, *packet.Connack) {
	p.Helper()
	nc, err := net.Dial("tcp", p.n.addressAt(fmt.Sprintf("listeners.mqtt[%d]", listener)))
	if err != nil {
		p.Fatal(err)
	}
	return knock(p.T, nc, c)
}

// enter is knock by somebody who is let in.
func (p *porch) enter(listener int, c packet.Connect) (m *member, present bool) {
	p.Helper()
	m, ack := p.knock(listener, c)
	if ack.Code != packet.Success {
		p.Fatalf("%s is answered %v", c.Username, ack.Code)
	}
	return m, ack.SessionPresent
}

func (p *porch) answers(listener int, c packet.Connect, want packet.Code) {
	p.Helper()
	if _, ack := p.knock(listener, c); ack.Code != want {
		p.Errorf("%q with %q at listener %d is answered %v, want %v", c.Username, c.Password, listener, ack.Code, want)
	}
}

// signer makes JWTs.
type signer struct {
	key *ecdsa.PrivateKey
	kid string
}

func newSigner(t *testing.T, kid string) *signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{k, kid}
}

func keySet(signers ...*signer) []byte {
	keys := []any{}
	for _, s := range signers {
		point, _ := s.key.PublicKey.Bytes()
		keys = append(keys, map[string]string{"kty": "EC", "crv": "P-256", "kid": s.kid, "x": b64(point[1:33]), "y": b64(point[33:])})
	}
	b, _ := json.Marshal(map[string]any{"keys": keys})
	return b
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (s *signer) token(sub string, until time.Time) []byte {
	signed := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":%q}`, s.kid)) + "." + b64(fmt.Appendf(nil, `{"aud":"millrace","sub":%q,"exp":%d}`, sub, until.Unix()))
	sum := sha256.Sum256([]byte(signed))
	r, t, _ := ecdsa.Sign(rand.Reader, s.key, sum[:])
	return []byte(signed + "." + b64(append(r.FillBytes(make([]byte, 32)), t.FillBytes(make([]byte, 32))...)))
}

func fromFile(p *porch) config.JWT {
	return config.JWT{Keys: config.Location(p.file("keys.json")), Audience: "millrace"}
}

// Every way in, in chains: who is let in, and how who is not is answered.
func TestAuthChains(t *testing.T) {
	p := newPorch(t)
	b, err := os.ReadFile("../identity/testdata/mosquitto.passwd")
	if err != nil {
		t.Fatal(err)
	}
	p.write("users", b)
	token := p.token("truck-7")
	s := newSigner(t, "k1")
	p.write("keys.json", keySet(s))
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Username, Password, Listener string }
		if json.NewDecoder(r.Body).Decode(&q) != nil || r.Method != "POST" || !strings.HasPrefix(q.Listener, "listeners.mqtt[") {
			w.WriteHeader(500)
			return
		}
		switch {
		case q.Username == "hooked" && q.Password == "yes":
			io.WriteString(w, `{"result":"allow","principal":"by-hook"}`)
		case q.Username == "hooked":
			io.WriteString(w, `{"result":"deny"}`)
		default:
			io.WriteString(w, `{"result":"ignore"}`)
		}
	}))
	defer hook.Close()
	auth := p.passwords()
	auth.JWT = fromFile(p)
	auth.Hook.URL = config.Location(hook.URL)
	p.open(auth, []string{"token", "jwt", "password", "hook"}, []string{"token", "anonymous"}, []string{"hook", "password"})
	asking := p.n
	jwt := s.token("by-jwt", time.Now().Add(time.Hour))
	as := func(user, password string) packet.Connect {
		return packet.Connect{CleanStart: true, ClientID: "c", Username: user, Password: []byte(password)}
	}
	const ok, bad, refused = packet.Success, packet.BadUsernameOrPassword, packet.NotAuthorized
	for _, c := range []struct {
		connect packet.Connect
		want    [3]packet.Code // by listener
	}{
		{as("truck-7", token), [3]packet.Code{ok, ok, bad}},
		{as("", token), [3]packet.Code{ok, ok, bad}},
		{as("anna", token), [3]packet.Code{bad, bad, bad}},
		{as("anna", "correct horse"), [3]packet.Code{ok, bad, ok}},
		{as("anna", "wrong"), [3]packet.Code{bad, bad, bad}},
		{as("anna", ""), [3]packet.Code{bad, bad, bad}},
		{as("bert", "battery staple"), [3]packet.Code{ok, bad, ok}},
		{as("by-jwt", string(jwt)), [3]packet.Code{ok, bad, bad}},
		{as("", string(jwt)), [3]packet.Code{ok, bad, bad}},
		{as("", string(jwt[:len(jwt)-1])), [3]packet.Code{bad, bad, bad}},
		{as("hooked", "yes"), [3]packet.Code{ok, bad, ok}},
		{as("hooked", "no"), [3]packet.Code{bad, bad, bad}},
		{as("nobody", "x"), [3]packet.Code{bad, bad, bad}},
		{as("", ""), [3]packet.Code{refused, ok, refused}},
	} {
		for l, want := range c.want {
			p.answers(l, c.connect, want)
		}
	}
	p.open(config.Auth{}, nil, []string{"anonymous"}) // nobody is asked: what is shown is not looked at
	p.answers(0, as("anna", "wrong"), ok)
	p.answers(1, as("anna", "wrong"), ok)
	p.n = asking
	old := as("anna", "wrong")
	old.Version = packet.V311
	if _, ack := p.knock(0, old); ack.Code.ReturnCode() != 4 {
		t.Errorf("3.1.1: %v", ack.Code)
	}
	_, text := fetch(t, p.n, "/metrics")
	for _, want := range []string{`millrace_mqtt_auth_total{method="password",result="accepted"}`, `millrace_mqtt_auth_total{method="hook",result="refused"}`,
		`millrace_mqtt_auth_total{method="none",result="refused"}`, `millrace_mqtt_auth_total{method="jwt",result="failed"} 0`,
		`millrace_mqtt_auth_seconds_count{method="token"}`} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics does not say %s", want)
		}
	}
	eventually(t, "those that were turned away are counted", func() bool { return p.n.broker.Stats().Turned["bad_user_name_or_password"] > 20 })
}

// An account is who somebody is, not what they show: two accounts with one client id are two sessions, at once, and one account keeps its
// session whatever it shows.
func TestAccountsAndSessions(t *testing.T) {
	p := newPorch(t)
	token := p.token("truck-7")
	p.edit(func(f *identity.File) error { return f.SetPassword(nil, "anna", identity.Device, "correct horse") })
	s := newSigner(t, "k1")
	p.write("keys.json", keySet(s))
	auth := p.passwords()
	auth.JWT = fromFile(p)
	p.open(auth, []string{"token", "jwt", "password"})
	as := func(user string, password []byte) packet.Connect {
		c := packet.Connect{ClientID: "c", Username: user, Password: password}
		c.Props.Has, c.Props.SessionExpiry = packet.PSessionExpiry, 1000
		return c
	}
	until := time.Now().Add(time.Hour)
	anna, present := p.enter(0, as("anna", []byte("correct horse")))
	if present {
		t.Error("anna has a session already")
	}
	truck, present := p.enter(0, as("truck-7", []byte(token)))
	if present {
		t.Error("truck-7 has anna's session")
	}
	other, present := p.enter(0, as("", s.token("truck-8", until)))
	if present {
		t.Error("truck-8 has another's session")
	}
	anna.stays("anna, when others come with her client id")
	truck.stays("truck-7, when another comes with its client id")
	other.stays("truck-8")
	again, present := p.enter(0, as("", s.token("truck-7", until))) // the same account by other means
	if d, _ := truck.next().(*packet.Disconnect); !present || d == nil || d.Code != packet.SessionTakenOver {
		t.Errorf("truck-7 by a JWT: session present %v, and its other connection gets %v", present, d)
	}
	again.nc.Close()
	fresh := p.token("truck-7")
	p.n.Reload()
	p.answers(0, as("truck-7", []byte(token)), packet.BadUsernameOrPassword)
	if _, present = p.enter(0, as("truck-7", []byte(fresh))); !present {
		t.Error("a new token has cost the session")
	}
	p.edit(func(f *identity.File) error { return f.SetPassword(nil, "anna", identity.Device, "another horse") })
	p.n.Reload()
	anna.goes("anna, whose password was changed")
	if _, present = p.enter(0, as("anna", []byte("another horse"))); !present {
		t.Error("a new password has cost the session")
	}
}

// Over WebSocket it is the same, with the longest name that an account can have, and none longer.
func TestAuthOverWebSocket(t *testing.T) {
	p := newPorch(t)
	s := newSigner(t, "k1")
	p.write("keys.json", keySet(s))
	c := testConfig(t, "")
	c.Auth.JWT = config.Default().Auth.JWT
	c.Auth.JWT.Keys, c.Auth.JWT.Audience = config.Location(p.file("keys.json")), "millrace"
	c.Listeners.WS = []config.MQTT{{Bind: "127.0.0.1:0", Auth: []string{"jwt"}}}
	n := boot(t, c)
	for _, v := range []struct {
		length  int
		want    packet.Code
		present bool
	}{{identity.MaxPrincipal, packet.Success, false}, {identity.MaxPrincipal, packet.Success, true}, {identity.MaxPrincipal + 1, packet.BadUsernameOrPassword, false}} {
		ws, _, err := websocket.Dial(t.Context(), "ws://"+n.addressAt("listeners.ws[0]")+"/mqtt", &websocket.DialOptions{Subprotocols: []string{"mqtt"}}) //nolint:bodyclose // a WebSocket has none
		if err != nil {
			t.Fatal(err)
		}
		hello := packet.Connect{ClientID: strings.Repeat("c", 200), Password: s.token(strings.Repeat("x", v.length), time.Now().Add(time.Hour))}
		hello.Props.Has, hello.Props.SessionExpiry = packet.PSessionExpiry, 1000
		if _, ack := knock(t, websocket.NetConn(t.Context(), ws, websocket.MessageBinary), hello); ack.Code != v.want || ack.SessionPresent != v.present {
			t.Errorf("an account of %d bytes: %v, session present %v", v.length, ack.Code, ack.SessionPresent)
		}
	}
}

// What is taken away ends the connections that it has let in, and no others.
func TestCredentialsTakenAway(t *testing.T) {
	p := newPorch(t)
	lost, kept := p.token("lost"), p.token("kept")
	first, second := newSigner(t, "k1"), newSigner(t, "k2")
	p.write("keys.json", keySet(first, second))
	auth := p.passwords()
	auth.JWT = fromFile(p)
	p.open(auth, []string{"token", "jwt"})
	as := func(id string, password []byte) *member {
		t.Helper()
		m, _ := p.enter(0, packet.Connect{ClientID: id, CleanStart: true, Password: password})
		return m
	}
	until := time.Now().Add(time.Hour)
	gone, stays, byFirst, bySecond := as("a", []byte(lost)), as("b", []byte(kept)), as("c", first.token("x", until)), as("d", second.token("x", until))
	p.edit(func(f *identity.File) error { f.Delete("lost"); return nil })
	p.n.Reload()
	gone.goes("a token that was deleted")
	stays.stays("a token that was not")
	p.write("keys.json", keySet(second))
	p.n.Reload()
	byFirst.goes("a token of a key that has gone")
	bySecond.stays("a token of a key that is there")
	p.answers(0, packet.Connect{ClientID: "c", Password: first.token("x", until)}, packet.BadUsernameOrPassword)

	// A file that is broken changes nothing but what /readyz says.
	p.write("users", []byte("half a fi"))
	p.write("keys.json", []byte("{"))
	p.n.Reload()
	eventually(t, "the broken files are complained of", func() bool {
		_, s := fetch(t, p.n, "/readyz")
		return strings.Contains(s, "auth.passwords") && strings.Contains(s, "line 1") && strings.Contains(s, "auth.jwt.keys")
	})
	stays.stays("a token of the file before")
	bySecond.stays("a key of the set before")
	p.answers(0, packet.Connect{ClientID: "e", Password: []byte(kept)}, packet.Success)
	p.answers(0, packet.Connect{ClientID: "f", Password: second.token("x", until)}, packet.Success)
	// A token of a key that is not known may be of the set that cannot be read.
	p.answers(0, packet.Connect{ClientID: "g", Password: first.token("x", until)}, packet.ServerUnavailable)
	// And one that ends, ends.
	p.write("keys.json", keySet(second))
	short, _ := p.enter(0, packet.Connect{ClientID: "h", Password: second.token("x", time.Now().Add(3*time.Second))})
	began := time.Now()
	short.goes("a token that expires")
	if d := time.Since(began); d < time.Second || d > 10*time.Second {
		t.Errorf("after %v", d)
	}
	bySecond.stays("one that does not")
}

// Nobody gets in while what decides is down, slow, elsewhere or talks nonsense.
func TestAuthFailsClosed(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"result":"allow"}`) }))
	defer elsewhere.Close()
	var how atomic.Value
	how.Store("fine")
	hang := make(chan struct{})
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch how.Load() {
		case "fine":
			io.WriteString(w, `{"result":"allow"}`)
		case "nonsense":
			io.WriteString(w, `<html>allow</html>`)
		case "endless":
			w.Write([]byte(`{"result":"allow"}` + strings.Repeat(" ", maxHookAnswer)))
		case "error":
			w.WriteHeader(500)
			io.WriteString(w, `{"result":"allow"}`)
		case "forbidden":
			w.WriteHeader(403)
		case "redirect":
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case "hanging":
			<-hang
		}
	}))
	defer hook.Close()
	p := newPorch(t)
	token := p.token("truck-7")
	auth := p.passwords()
	auth.Hook.URL = config.Location(hook.URL)
	p.open(auth, []string{"token", "hook"}, []string{"hook", "token"})
	n := 0
	asked := packet.Connect{CleanStart: true, ClientID: "c", Username: "u", Password: []byte("p")}
	p.answers(0, asked, packet.Success)
	for _, state := range []string{"nonsense", "endless", "error", "forbidden", "redirect", "hanging"} {
		how.Store(state)
		n++
		asked.ClientID = fmt.Sprint("c", n)
		p.answers(0, asked, packet.ServerUnavailable)
		// A link that cannot say is not passed over, although the next one would say yes.
		p.answers(1, packet.Connect{CleanStart: true, ClientID: "t", Username: "truck-7", Password: []byte(token)}, packet.ServerUnavailable)
	}
	close(hang)
	hook.Close()
	p.answers(0, asked, packet.ServerUnavailable)
	if _, s := fetch(t, p.n, "/metrics"); !strings.Contains(s, `millrace_mqtt_auth_total{method="hook",result="failed"} 13`) {
		t.Error("the failures are not counted")
	}
}

// A hook that is slow holds up those that it is asked about, so many at once, and nobody else.
func TestSlowHook(t *testing.T) {
	hang := make(chan struct{})
	var asked atomic.Int64
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		<-hang
		io.WriteString(w, `{"result":"allow"}`)
	}))
	defer hook.Close()
	p := newPorch(t)
	token := p.token("truck-7")
	auth := p.passwords()
	auth.Hook = config.Hook{URL: config.Location(hook.URL), Timeout: config.Duration(9 * time.Second), Concurrency: 2}
	p.open(auth, []string{"token", "hook"})
	var waiting []*member
	for i := range 6 {
		nc, err := net.Dial("tcp", p.n.Address("MQTT"))
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, ring(t, nc, packet.Connect{CleanStart: true, ClientID: fmt.Sprint("c", i), Username: "u"}))
	}
	eventually(t, "the hook is asked", func() bool { return asked.Load() == 2 })
	m, _ := p.enter(0, packet.Connect{CleanStart: true, ClientID: "t", Username: "truck-7", Password: []byte(token)})
	m.stays("a client that has nothing to do with the hook")
	if n := asked.Load(); n != 2 {
		t.Errorf("the hook was asked %d times", n)
	}
	close(hang)
	for _, w := range waiting {
		if ack := w.answer(); ack.Code != packet.Success {
			t.Errorf("answered %v", ack.Code)
		}
	}
}

// Keys from a server: over TLS that is checked, from that host and no other, no more than is good.
func TestOutward(t *testing.T) {
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "elsewhere") }))
	defer elsewhere.Close()
	hang := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/here":
			io.WriteString(w, "here")
		case "/moved":
			http.Redirect(w, r, "/here", http.StatusFound)
		case "/round":
			http.Redirect(w, r, "/round", http.StatusFound)
		case "/elsewhere":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		case "/plain":
			http.Redirect(w, r, "http://"+r.Host+"/here", http.StatusFound)
		case "/endless":
			w.Write(make([]byte, 101))
		case "/hanging":
			<-hang
		default:
			w.WriteHeader(503)
		}
	}))
	defer server.Close()
	defer close(hang)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	os.WriteFile(ca, append(pemOf(server.Certificate()), pemOf(elsewhere.Certificate())...), 0o600)
	follows, err := newOutward(ca, sameHost)
	if err != nil {
		t.Fatal(err)
	}
	stays, err := newOutward(ca, noRedirect)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := newOutward("", sameHost)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    *outward
		path string
		ok   bool
	}{
		{follows, "/here", true}, {follows, "/moved", true}, {follows, "/round", false}, {follows, "/elsewhere", false}, {follows, "/plain", false},
		{follows, "/endless", false}, {follows, "/down", false}, {follows, "/hanging", false},
		{stays, "/here", true}, {stays, "/moved", false}, {stranger, "/here", false},
	} {
		began := time.Now()
		b, err := c.o.get(t.Context(), server.URL+c.path, 500*time.Millisecond, 100)
		if (err == nil) != c.ok || c.ok && string(b) != "here" || time.Since(began) > 10*time.Second {
			t.Errorf("%s: %q %v", c.path, b, err)
		}
	}
	if b, err := stays.post(t.Context(), server.URL+"/here", []byte("{}"), 100); err != nil || string(b) != "here" {
		t.Errorf("%q %v", b, err)
	}
	for _, bad := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "empty")} {
		os.WriteFile(filepath.Join(dir, "empty"), []byte("nothing"), 0o600)
		if _, err := newOutward(bad, sameHost); err == nil {
			t.Errorf("%s is taken for authorities", bad)
		}
	}
}

// A node starts without its keys, and lets nobody in with a token; when they have come, they stay in force while the server is down.
func TestKeysFromServer(t *testing.T) {
	s := newSigner(t, "k1")
	var up atomic.Bool
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(503)
		}
		w.Write(keySet(s))
	}))
	defer server.Close()
	p := newPorch(t)
	p.write("ca.pem", pemOf(server.Certificate()))
	hello := packet.Connect{CleanStart: true, ClientID: "c", Password: s.token("x", time.Now().Add(time.Hour))}
	p.open(config.Auth{JWT: config.JWT{Keys: config.Location(server.URL), Audience: "millrace", CA: config.File(p.file("ca.pem"))}}, []string{"jwt"})
	if _, said := fetch(t, p.n, "/readyz"); !strings.Contains(said, "auth.jwt.keys") {
		t.Errorf("/readyz says %s", said)
	}
	p.answers(0, hello, packet.ServerUnavailable)
	up.Store(true)
	p.n.Reload()
	eventually(t, "the keys have come", func() bool { return p.n.auth.keys.Fault() == nil })
	p.answers(0, hello, packet.Success)
	up.Store(false)
	p.n.Reload()
	eventually(t, "the server's failure is known", func() bool { return p.n.auth.keys.Fault() != nil })
	p.answers(0, hello, packet.Success)
}

// What is named and is not there is found at the start.
func TestAuthFilesWrong(t *testing.T) {
	p := newPorch(t)
	c := testConfig(t, "")
	c.Listeners.MQTT[0].Auth = []string{"password"}
	c.Auth.Passwords = config.File(p.file("users"))
	if why := startError(t, c); !strings.Contains(why, "millrace passwd") || !strings.Contains(why, "--role device") {
		t.Errorf("%s", why)
	}
	p.write("users", []byte("anna:plain"))
	if why := startError(t, c); !strings.Contains(why, "auth.passwords") || !strings.Contains(why, "line 1") || strings.Contains(why, "plain") {
		t.Errorf("%s", why)
	}
	c.Auth.Passwords = ""
	c.Listeners.MQTT[0].Auth = []string{"jwt"}
	c.Auth.JWT = config.Default().Auth.JWT
	c.Auth.JWT.Keys, c.Auth.JWT.Audience = config.Location(p.file("keys.json")), "a"
	if why := startError(t, c); !strings.Contains(why, "auth.jwt.keys") || !strings.Contains(why, "no such file") {
		t.Errorf("%s", why)
	}
	p.write("keys.json", []byte(`{"keys":[{"kty":"oct","k":"AA"}]}`))
	if why := startError(t, c); !strings.Contains(why, "no key for ES256") {
		t.Errorf("%s", why)
	}
}

// A Mosquitto password is saved anew after its first use, without a connection being lost for it.
func TestMosquittoPasswordsUpgraded(t *testing.T) {
	p := newPorch(t)
	b, err := os.ReadFile("../identity/testdata/mosquitto.passwd")
	if err != nil {
		t.Fatal(err)
	}
	p.write("users", b)
	p.open(p.passwords(), []string{"password"})
	anna := packet.Connect{ClientID: "c", CleanStart: true, Username: "anna", Password: []byte("correct horse")}
	m, _ := p.enter(0, anna)
	p.n.Reload()
	after, err := os.ReadFile(p.file("users"))
	if err != nil || !strings.HasPrefix(string(after), "anna:device:$argon2id$") || !strings.HasSuffix(string(after), strings.SplitN(string(b), "\n", 2)[1]) {
		t.Errorf("%v %s", err, after)
	}
	m.stays("anna, while her password is hashed anew")
	p.answers(0, anna, packet.Success)
	anna.Password = []byte("wrong")
	p.answers(0, anna, packet.BadUsernameOrPassword)
	if _, s := fetch(t, p.n, "/metrics"); !strings.Contains(s, "millrace_auth_foreign_hashes 2") {
		t.Error("/metrics does not say how many are left")
	}
	// Where it cannot be saved, who has the password gets in all the same, and operators are told.
	p.write("users.new", nil)
	p.answers(0, packet.Connect{ClientID: "d", CleanStart: true, Username: "bert", Password: []byte("battery staple")}, packet.Success)
	p.n.Reload()
	if _, s := fetch(t, p.n, "/readyz"); !strings.Contains(s, "auth.passwords (saving)") {
		t.Errorf("/readyz says %s", s)
	}
	os.Remove(p.file("users.new"))
	p.n.Reload()
	if _, s := fetch(t, p.n, "/readyz"); strings.Contains(s, "saving") {
		t.Errorf("/readyz says %s", s)
	}
}

// Certificates and passwords at one door: who shows a certificate is whom it names, who shows none may have a password; a renewed certificate
// keeps the session, and a revoked one has no way in, with a ticket neither.
func TestCertificatesInChains(t *testing.T) {
	k := newKeys(t)
	p := newPorch(t)
	token := p.token("truck-9")
	c := testConfig(t, "")
	c.Auth.Passwords = config.File(p.file("users"))
	either, both := k.listener(true), k.listener(true)
	either.Auth, both.Auth, both.ClientID = []string{"cert", "token"}, []string{"token"}, "bound"
	c.Listeners.MQTT = []config.MQTT{either, both}
	p.n = boot(t, c)
	dial := func(listener int, t2 *tls.Config) (net.Conn, error) {
		nc, err := tls.Dial("tcp", p.n.addressAt(fmt.Sprintf("listeners.mqtt[%d]", listener)), t2)
		if err != nil {
			return nil, err
		}
		return nc, nil
	}
	enter := func(listener int, t2 *tls.Config, c packet.Connect, want packet.Code) (*member, bool) {
		t.Helper()
		nc, err := dial(listener, t2)
		if err != nil {
			t.Fatal(err)
		}
		m, ack := knock(t, nc, c)
		if ack.Code != want {
			t.Errorf("listener %d: %v, want %v", listener, ack.Code, want)
		}
		return m, ack.SessionPresent
	}
	lasting := packet.Connect{ClientID: "c"}
	lasting.Props.Has, lasting.Props.SessionExpiry = packet.PSessionExpiry, 1000
	old, renewed := k.ca.Client("truck-7"), k.ca.Client("truck-7")
	enter(0, k.client(&old), lasting, packet.Success)
	if _, present := enter(0, k.client(&renewed), lasting, packet.Success); !present {
		t.Error("a renewed certificate has cost the session")
	}
	with := lasting
	with.Username, with.Password = "truck-9", []byte(token)
	if _, present := enter(0, k.client(nil), with, packet.Success); present {
		t.Error("another account has its session")
	}
	if _, present := enter(0, k.client(&renewed), with, packet.Success); !present {
		t.Error("who shows a certificate is whom it names, whatever else is shown")
	}
	enter(0, k.client(nil), lasting, packet.NotAuthorized)
	// The second door wants a certificate of everybody, and believes the token; client ids are the account's.
	if nc, err := dial(1, k.client(nil)); err == nil {
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the second door lets in who shows no certificate")
		}
	}
	with.ClientID = "truck-9"
	enter(1, k.client(&old), with, packet.Success)
	with.ClientID = "truck-7"
	enter(1, k.client(&old), with, packet.ClientIDNotValid)
	enter(1, k.client(&old), lasting, packet.NotAuthorized)

	// A ticket of before the revocation is no way around it.
	resuming := k.client(&renewed)
	resuming.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	var last *member
	for i := range 2 {
		last, _ = enter(0, resuming, lasting, packet.Success)
		last.stays("a client with a certificate") // and the ticket has come
		if resumed := last.nc.(*tls.Conn).ConnectionState().DidResume; resumed != (i == 1) {
			t.Errorf("connection %d: resumed %v", i, resumed)
		}
	}
	k.write("crl.pem", k.ca.CRL(renewed.Leaf))
	p.n.Reload()
	last.goes("a client whose certificate was revoked")
	before := p.n.broker.Stats().Turned["client_certificate_revoked"]
	if nc, err := dial(0, resuming); err == nil {
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a revoked client with a ticket is let in: %v", err)
		}
	}
	eventually(t, "the refusal is counted", func() bool { return p.n.broker.Stats().Turned["client_certificate_revoked"] > before })
	enter(0, k.client(&old), lasting, packet.Success)
}

func pemOf(c *x509.Certificate) []byte {
	return fmt.Appendf(nil, "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n", base64.StdEncoding.EncodeToString(c.Raw))
}

// Secrets that cross a network in the clear are warned of.
func TestAuthWarnings(t *testing.T) {
	for text, want := range map[string]bool{
		"auth: {passwords: u}\nlisteners: {mqtt: [{bind: ':1883', auth: [token]}]}":                         true,
		"auth: {passwords: u}\nlisteners: {ws: [{bind: ':1883', auth: [token]}]}":                           true,
		"auth: {passwords: u}\nlisteners: {mqtt: [{bind: '127.0.0.1:1883', auth: [token]}]}":                false,
		"auth: {passwords: u}\nlisteners: {mqtt: [{bind: ':1883', tls: {cert: c, key: k}, auth: [token]}]}": false,
		"auth: {passwords: u}\nlisteners: {mqtt: [{bind: 'unix:/s', auth: [token]}]}":                       false,
		"listeners: {mqtt: [{bind: ':1883', tls: {cert: c, key: k, client_ca: a}}]}":                        false,
	} {
		c, err := config.Parse(text, "f")
		if err != nil {
			t.Fatal(err)
		}
		n := &Node{o: Options{Config: c}}
		for i := range c.Listeners.MQTT {
			n.doors = append(n.doors, door{kind: doorMQTT, path: "m", mqtt: &c.Listeners.MQTT[i]})
		}
		for i := range c.Listeners.WS {
			n.doors = append(n.doors, door{kind: doorWS, path: "w", mqtt: &c.Listeners.WS[i]})
		}
		if ws := n.authWarnings(); (len(ws) > 0) != want {
			t.Errorf("%s: %q", text, ws)
		}
	}
}

// TestForeignMosquittoAuth runs mosquitto_pub with passwords, tokens and JWTs, over TCP and a Unix socket.
func TestForeignMosquittoAuth(t *testing.T) {
	pub := tool(t, "mosquitto_pub")
	p := newPorch(t)
	if out, err := command(t, tool(t, "mosquitto_passwd"), "-c", "-b", p.file("users"), "anna", "correct horse"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	token := p.token("truck-7")
	s := newSigner(t, "k1")
	p.write("keys.json", keySet(s))
	c := testConfig(t, "")
	c.Auth.Passwords, c.Auth.JWT = config.File(p.file("users")), config.Default().Auth.JWT
	c.Auth.JWT.Keys, c.Auth.JWT.Audience = config.Location(p.file("keys.json")), "millrace"
	chain := []string{"token", "jwt", "password"}
	c.Listeners.MQTT = []config.MQTT{{Bind: "127.0.0.1:0", Auth: chain}, {Bind: config.Address("unix:" + p.file("s")), Auth: chain}}
	n := boot(t, c)
	host, port, _ := net.SplitHostPort(n.Address("MQTT"))
	for _, way := range [][]string{{"-h", host, "-p", port}, {"--unix", p.file("s")}} {
		for _, v := range []string{"mqttv311", "mqttv5"} {
			for _, w := range []struct {
				user, password string
				in             bool
			}{
				{"anna", "correct horse", true}, {"anna", "wrong", false}, {"truck-7", token, true}, {"truck-8", token, false},
				{"x", string(s.token("truck-9", time.Now().Add(time.Hour))), true}, {"x", string(s.token("truck-9", time.Now().Add(-time.Hour))), false},
			} {
				args := append([]string{pub, "-V", v, "-u", w.user, "-P", w.password, "-t", "x", "-m", "y", "-q", "1"}, way...)
				if out, err := command(t, args...); (err == nil) != w.in {
					t.Errorf("%q: %v %s", args, err, out)
				}
			}
			if out, err := command(t, append([]string{pub, "-V", v, "-t", "x", "-m", "y", "-q", "1"}, way...)...); err == nil {
				t.Errorf("anonymous: %s", out)
			}
		}
	}
}
