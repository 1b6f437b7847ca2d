package config

import (
	"strings"
	"testing"
)

func TestListeners(t *testing.T) {
	c, err := Parse(`listeners:
  mqtt:
    - {bind: "unix:/run/millrace.sock", mode: "0660"}
    - bind: ":8883"
      tls: {cert: file:c.pem, key: k.pem, client_ca: ca.pem, client_crl: crl.pem, identity_from: cn, min_version: "1.3"}
      proxy_protocol: [10.0.0.0/8, 192.0.2.1]
      proxy_others: plain
      limits: {connections: 10, half_open: 5, half_open_per_ip: 3, handshake_timeout: 20s, packet_bytes: 64KiB, receive_maximum: 16, keep_alive: 5m}
  ws: [{}, {bind: "127.0.0.1:8084", path: /x, origins: ["https://app.example", "*"]}]
`, "f")
	if err != nil {
		t.Fatal(err)
	}
	readBack(t, c)
	l := c.Listeners
	if u := l.MQTT[0]; u.Bind.Unix() != "/run/millrace.sock" || u.Mode != 0o660 || !u.AllowAnonymous() || !u.Bind.Loopback() {
		t.Errorf("%+v", u)
	}
	if s := l.MQTT[1]; s.TLS.Cert != "c.pem" || s.AllowAnonymous() || len(s.ProxyProtocol) != 2 || s.Limits.PacketBytes != 65536 || s.Bind.Unix() != "" {
		t.Errorf("%+v", s)
	}
	if w := l.WS[0]; w.Address(true) != "127.0.0.1:8083" || w.URLPath() != "/mqtt" {
		t.Errorf("%+v", w)
	}
	if w := l.WS[1]; w.Address(true) != "127.0.0.1:8084" || w.URLPath() != "/x" {
		t.Errorf("%+v", w)
	}
}

func TestListenerProblems(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"mqtt: [{bind: ':8883', tls: {cert: c, key: k}}]", "ask for certificates with tls.client_ca"},
		{"mqtt: [{bind: ':8883', tls: {cert: c, key: k, client_ca: a}, anonymous: true}]", "clients need not authenticate"},
		{"mqtt: [{bind: '127.0.0.1:1883', proxy_protocol: [10.0.0.0/8]}]", "other machines come through the proxy"},
		{"mqtt: [{bind: 'unix:/s', proxy_protocol: [10.0.0.0/8]}]", "other machines come through the proxy"},
		{"mqtt: [{bind: '127.0.0.1:8883', tls: {cert: c, key: k, client_ca: a}, proxy_protocol: [10.0.0.0/8], anonymous: true}]", "clients need not authenticate"},
		{"ws: [{bind: ':8083'}]", "is reached from other machines"},
		{"mqtt: [{bind: '127.0.0.1:1883', anonymous: false}]", "nobody could come in"},
		{"mqtt: [{bind: '127.0.0.1:1883', tls: {cert: c}}]", "mqtt[0].tls.cert: a certificate needs its key"},
		{"mqtt: [{bind: '127.0.0.1:1883', tls: {client_ca: c}}]", "there is no certificate"},
		{"mqtt: [{bind: '127.0.0.1:1883', tls: {cert: c, key: k, client_crl: x}}]", "clients are not asked"},
		{"mqtt: [{bind: '127.0.0.1:1883', tls: {cert: c, key: k, client_ca: a, identity_from: dn}}]", `"dn" is not one of san, cn`},
		{"mqtt: [{bind: '127.0.0.1:1883', tls: {cert: c, key: k, min_version: '1.1'}}]", `"1.1" is not one of 1.2, 1.3`},
		{"mqtt: [{bind: '127.0.0.1:1883', tls: {cert: c, key: 'env:KEY'}}]", "is not the path of a file"},
		{"mqtt: [{bind: '127.0.0.1:1883', mode: '0660'}]", "only a Unix socket has permissions"},
		{"mqtt: [{bind: 'unix:/s', mode: '0999'}]", "are not permissions"},
		{"mqtt: [{bind: 'unix:'}]", "is not unix:/path"},
		{"mqtt: [{bind: 'unix:/s'}, {bind: 'unix:/s'}]", "is taken by"},
		{"mqtt: [{bind: '127.0.0.1:1883', proxy_protocol: [10.0.0.1/8]}]", "is not a network"},
		{"mqtt: [{bind: '127.0.0.1:1883', proxy_protocol: ['::ffff:10.0.0.0/90']}]", "IPv4 written as IPv6"},
		{"mqtt: [{bind: '127.0.0.1:1883', proxy_others: plain}]", "no proxy is expected"},
		{"mqtt: [{bind: '127.0.0.1:1883', path: /mqtt}]", "are for WebSocket"},
		{"ws: [{path: mqtt}]", "is not the path of a URL"},
		{"ws: [{origins: [app.example]}]", "is not an origin"},
		{"ws: [{}, {}]", "127.0.0.1:8083 is taken by listeners.ws[0].bind"},
		{"mqtt: [{bind: '127.0.0.1:1883', limits: {packet_bytes: 2MB}}]", "limits.packet_bytes: 2000000 is not between"},
		{"mqtt: [{bind: '127.0.0.1:1883', limits: {handshake_timeout: 1h}}]", "not between 1s and 2m"},
		{"kafka: [{bind: 'unix:/s'}]", "only MQTT is spoken"},
		{"kafka: [{bind: ':9093', tls: {cert: c, key: k}}]", "ask for certificates"},
		{"kafka: [{bind: ':9093', tls: {cert: c, key: k}, auth: [anonymous]}]", "is reached from other machines"},
		{"kafka: [{bind: ':9093', tls: {cert: c, key: k}, auth: [scram, anonymous]}]", "anonymous clients are let in"},
		{"kafka: [{bind: ':9093', auth: []}]", "nobody could come in"},
		{"kafka: [{bind: ':9093', auth: [cert]}]", "clients are not asked for certificates"},
		{"kafka: [{bind: ':9093', auth: [password]}]", "there is no password file"},
		{"kafka: [{bind: ':9093', auth: [scarm]}]", "did you mean scram?"},
		{"kafka: [{bind: ':9093', auth: [scram, scram]}]", "stands twice"},
		{"kafka: [{bind: ':9093', auth: [anonymous, scram]}]", "write it last"},
		{"kafka: [{bind: ':9093', auth: [scram], session: 1s}]", "not between 10s and 7d"},
		{"mqtt: [{bind: '127.0.0.1:1883', auth: [scram]}]", `"scram" is not one of cert, password`},
		{"kafka: [{bind: '127.0.0.1:9093', tls: {key: k}}]", "kafka[0].tls.key: a key needs its certificate"},
	} {
		if _, err := Parse("listeners: {"+c.text+"}", "f"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", c.text, err, c.want)
		}
	}
	if _, err := Parse("listeners: {mqtt: [{bind: ':8883', tls: {cert: c, key: k, client_ca: a}, proxy_protocol: [10.0.0.0/8]}]}", "f"); err != nil {
		t.Errorf("mutual TLS is authentication: %v", err)
	}
	if _, err := Parse("listeners: {kafka: [{bind: ':9093', tls: {cert: c, key: k, client_ca: a}}]}", "f"); err != nil {
		t.Errorf("and for Kafka: %v", err)
	}
	const several = `auth: {passwords: users}
listeners:
  kafka:
    - {bind: ":9093", tls: {cert: c, key: k, client_ca: a}, auth: [cert, scram, password], session: 1h}
    - {bind: ":9094", auth: [scram], advertise: log.example:9094}
    - {bind: "127.0.0.1:9092"}
`
	c, err := Parse(several, "f")
	if err != nil {
		t.Fatal(err)
	}
	readBack(t, c)
	for i, want := range []struct {
		optional, anonymous, shown bool
		mechanism                  string
	}{{true, false, true, "SCRAM-SHA-512"}, {false, false, false, "SCRAM-SHA-512"}, {false, true, false, ""}} {
		k := &c.Listeners.Kafka[i]
		if k.CertificateOptional() != want.optional || k.AllowAnonymous() != want.anonymous || k.SecretsShown() != want.shown || k.Mechanism() != want.mechanism {
			t.Errorf("listener %d: %+v", i, k)
		}
	}
}
