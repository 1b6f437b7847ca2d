package config

import (
	"slices"
	"strings"
	"testing"
)

const everyLink = `auth:
  passwords: file:users
  jwt: {keys: "https://id.example/keys", audience: millrace, issuer: "https://id.example", name_claim: device, algorithms: [ES256], match_username: true, refresh: 1m, ca: ca.pem}
  hook: {url: "http://127.0.0.1:9000/mqtt", timeout: 500ms, concurrency: 4, cache: 0, cache_denied: 1s}
listeners:
  mqtt:
    - {bind: ":8883", tls: {cert: c, key: k, client_ca: a}, auth: [cert, token, jwt, password, hook], client_id: bound}
    - {bind: ":8884", tls: {cert: c, key: k, client_ca: a}, auth: [password]}
    - {bind: "127.0.0.1:1883", auth: [password, anonymous]}
    - {bind: "127.0.0.1:1884", tls: {cert: c, key: k, client_ca: a}, anonymous: true}
`

func TestAuth(t *testing.T) {
	c, err := Parse(everyLink, "f")
	if err != nil {
		t.Fatal(err)
	}
	readBack(t, c)
	if c.Auth.Passwords != "users" || !c.Auth.JWT.Keys.Remote() || c.Auth.Hook.Cache != 0 || c.Auth.Hook.Concurrency != 4 {
		t.Errorf("%+v", c.Auth)
	}
	for i, want := range []struct {
		chain               string
		anonymous, optional bool
	}{
		{"cert token jwt password hook", false, true},
		{"password", false, false}, // and everybody needs a certificate
		{"password anonymous", true, false},
		{"cert anonymous", true, true},
	} {
		m := &c.Listeners.MQTT[i]
		if got := strings.Join(m.Chain(), " "); got != want.chain || m.AllowAnonymous() != want.anonymous || m.CertificateOptional() != want.optional {
			t.Errorf("listener %d: %s, anonymous %v, optional %v", i, got, m.AllowAnonymous(), m.CertificateOptional())
		}
	}
	if !c.Listeners.MQTT[0].BoundClientIDs() || c.Listeners.MQTT[1].BoundClientIDs() {
		t.Error("client_id")
	}
	if d := Default(); !slices.Equal(d.Listeners.MQTT[0].Chain(), []string{"anonymous"}) {
		t.Errorf("a node that was told nothing: %v", d.Listeners.MQTT[0].Chain())
	}
}

func TestAuthProblems(t *testing.T) {
	const local = "listeners: {mqtt: [{bind: '127.0.0.1:1883', auth: [%]}]}\n"
	with := func(chain, auth string) string { return strings.Replace(local, "%", chain, 1) + auth }
	for _, c := range []struct{ text, want string }{
		{with("pasword", "auth: {passwords: u}"), "did you mean password?"},
		{with("password", ""), "there is no password file; make one with `millrace passwd FILE NAME --role device`"},
		{with("token", ""), "there is no password file"},
		{with("cert", ""), "clients are not asked for certificates"},
		{with("jwt", ""), "there are no keys for tokens"},
		{with("hook", ""), "there is no hook"},
		{with("jwt", "auth: {jwt: {keys: k}}"), "auth.jwt.audience: missing"},
		{with("jwt", "auth: {jwt: {audience: a}}"), "auth.jwt.keys: missing"},
		{with("jwt", "auth: {jwt: {keys: k, audience: a, algorithms: [HS256]}}"), `"HS256" is not one of ES256, RS256, EdDSA`},
		{with("jwt", "auth: {jwt: {keys: k, audience: a, algorithms: [none]}}"), `"none" is not one of`},
		{with("jwt", "auth: {jwt: {keys: k, audience: a, ca: b}}"), "not read over TLS"},
		{with("jwt", "auth: {jwt: {keys: k, audience: a, refresh: 1s}}"), "not between 10s and 1d"},
		{with("jwt", "auth: {jwt: {keys: k, audience: a, name_claim: ''}}"), "auth.jwt.name_claim: missing"},
		{with("jwt", "auth: {jwt: {keys: 'http://id.example/k', audience: a}}"), "write https://"},
		{with("jwt", "auth: {jwt: {keys: 'https://a:b@id.example/k', audience: a}}"), "there are no secrets"},
		{with("jwt", "auth: {jwt: {keys: 'https://169.254.169.254/k', audience: a}}"), "no such server"},
		{with("jwt", "auth: {jwt: {keys: 'https:///k', audience: a}}"), "is not a URL"},
		{with("jwt", "auth: {jwt: {keys: 'env:KEYS', audience: a}}"), "is not the path of a file"},
		{with("hook", "auth: {hook: {url: 'http://auth.example/'}}"), "write https://"},
		{with("hook", "auth: {hook: {url: /a/file}}"), "is not a URL"},
		{with("hook", "auth: {hook: {url: 'http://localhost:1/', ca: a}}"), "not asked over TLS"},
		{with("hook", "auth: {hook: {url: 'https://a.example/', timeout: 20s}}"), "not between 100ms and 9s"},
		{with("hook", "auth: {hook: {url: 'https://a.example/', concurrency: 0}}"), "is not between 1 and 1024"},
		{with("hook", "auth: {hook: {url: 'https://a.example/', cache: 2d}}"), "longer than a day"},
		{with("", ""), "nobody could come in; list some of cert"},
		{with("password, password", "auth: {passwords: u}"), "password stands twice"},
		{with("anonymous, password", "auth: {passwords: u}"), "write it last"},
		{"auth: {passwords: u}", "auth.passwords: no listener asks for it; write auth: [password, token]"},
		{"auth: {jwt: {keys: k, audience: a}}", "auth.jwt: no listener asks for it"},
		{"auth: {hook: {url: 'https://a.example/'}}", "auth.hook: no listener asks for it"},
		{"auth: {passwords: u}\nlisteners: {mqtt: [{bind: '127.0.0.1:1', auth: [password], anonymous: true}]}", "auth says who is let in"},
		{"auth: {passwords: u}\nlisteners: {mqtt: [{bind: ':1883', auth: [password, anonymous]}]}", "anonymous clients are let in; remove anonymous from auth"},
		{"auth: {passwords: u}\nlisteners: {mqtt: [{bind: '127.0.0.1:1', proxy_protocol: [10.0.0.0/8], auth: [password, anonymous]}]}", "anonymous clients are let in"},
		{"listeners: {mqtt: [{bind: ':1883', auth: [anonymous]}]}", "is reached from other machines, and there is no authentication"},
		{"listeners: {mqtt: [{bind: '127.0.0.1:1', client_id: mine}]}", `"mine" is not one of free, bound`},
		{"listeners: {mqtt: [{bind: '127.0.0.1:1', client_id: bound}]}", "nobody has an account"},
	} {
		if _, err := Parse(c.text, "f"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", c.text, err, c.want)
		}
	}
	for _, good := range []string{
		"auth: {passwords: u}\nlisteners: {mqtt: [{bind: ':1883', auth: [password, token]}]}", // reached from everywhere, and everybody is asked
		"auth: {passwords: u}\nlisteners: {ws: [{bind: ':8083', proxy_protocol: [10.0.0.0/8], auth: [token]}]}",
		"insecure_allow_anonymous: true\nauth: {passwords: u}\nlisteners: {mqtt: [{bind: ':1883', auth: [password, anonymous]}]}",
		with("hook", "auth: {hook: {url: 'http://[::1]:1/'}}"),
	} {
		if _, err := Parse(good, "f"); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}
