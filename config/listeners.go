package config

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Listeners are the doors. An empty list (or bind, for HTTP) closes one.
type Listeners struct {
	MQTT  []MQTT  `yaml:"mqtt"`
	WS    []MQTT  `yaml:"ws"`
	Kafka []Kafka `yaml:"kafka"`
	HTTP  HTTP    `yaml:"http"`

	Registry []Registry `yaml:"registry"` // of schemas
}

// MQTT is a listener for devices, over TCP or, in listeners.ws, over WebSocket.
type MQTT struct {
	Bind          Address        `yaml:"bind"`
	Mode          Mode           `yaml:"mode"` // of a Unix socket
	TLS           ListenerTLS    `yaml:"tls"`
	ProxyProtocol []Network      `yaml:"proxy_protocol"` // whose connections begin with a PROXY header
	ProxyOthers   string         `yaml:"proxy_others"`   // refuse | plain
	Auth          []string       `yaml:"auth"`           // links of the chain that says who is let in; see Chain
	Anonymous     *bool          `yaml:"anonymous"`      // clients that show no certificate, without auth; unset: where none is asked for
	ClientID      string         `yaml:"client_id"`      // free | bound: to the account
	Limits        ListenerLimits `yaml:"limits"`
	Lenient       bool           `yaml:"lenient"` // clients of 5.0 may exceed receive_maximum
	Path          string         `yaml:"path"`    // WebSocket: of the URL; empty: /mqtt
	Origins       []string       `yaml:"origins"` // WebSocket: whose pages may connect
}

// ListenerTLS is what a listener's TLS is made of; the zero one is none. A file that changes is read again.
type ListenerTLS struct {
	Cert         File   `yaml:"cert"`
	Key          File   `yaml:"key"`
	ClientCA     File   `yaml:"client_ca"`
	ClientCRL    File   `yaml:"client_crl"`
	IdentityFrom string `yaml:"identity_from"` // san | cn
	MinVersion   string `yaml:"min_version"`   // 1.2 | 1.3
}

// Any tells whether there is TLS at all.
func (t *ListenerTLS) Any() bool { return *t != ListenerTLS{} }

// ListenerLimits are one listener's; 0: the node's.
type ListenerLimits struct {
	Connections      int      `yaml:"connections"` // of this listener; 0: no bound of its own
	HalfOpen         int      `yaml:"half_open"`
	HalfOpenPerIP    int      `yaml:"half_open_per_ip"`
	HandshakeTimeout Duration `yaml:"handshake_timeout"`
	PacketBytes      Size     `yaml:"packet_bytes"`
	ReceiveMaximum   int      `yaml:"receive_maximum"`
	KeepAlive        Duration `yaml:"keep_alive"`
	InboundBytes     Size     `yaml:"inbound_bytes"`  // of all its clients; 0: no bound of its own
	OutboundBytes    Size     `yaml:"outbound_bytes"` // of all its subscribers; 0: no bound of its own
	Rates            Rates    `yaml:"rates"`
}

// Kafka is a listener for Kafka clients.
type Kafka struct {
	Bind      Address     `yaml:"bind"`
	Advertise Address     `yaml:"advertise"` // what clients are told to connect to; empty: what they connected to
	TLS       ListenerTLS `yaml:"tls"`
	Auth      []string    `yaml:"auth"`    // links of the chain that says who is let in; see Chain
	Session   Duration    `yaml:"session"` // after which clients authenticate again; 0: when what they showed ends
}

// HTTP serves the console, its API, health and metrics.
type HTTP struct {
	Bind         Address  `yaml:"bind"`
	Hosts        []string `yaml:"hosts"`         // names under which clients reach it, beside addresses and localhost
	PasswordFile File     `yaml:"password_file"` // who may read; empty: everybody who reaches it
	TLS          TLS      `yaml:"tls"`
}

// TLS names the files of a certificate (with those that lead to a known authority) and its key. A file that changes is read again.
type TLS struct {
	Cert File `yaml:"cert"`
	Key  File `yaml:"key"`
}

// Where a listener for MQTT over WebSocket is, unless it says.
const (
	defaultWSBind = Address("127.0.0.1:8083")
	defaultWSPath = "/mqtt"
)

// Address is where the listener listens; ws: it is one of listeners.ws.
func (m *MQTT) Address(ws bool) Address {
	if ws && m.Bind == "" {
		return defaultWSBind
	}
	return m.Bind
}

// URLPath is where WebSocket is.
func (m *MQTT) URLPath() string {
	if m.Path == "" {
		return defaultWSPath
	}
	return m.Path
}

// File names a file by its path, which may have file: before it.
type File string

func (f *File) UnmarshalText(b []byte) error {
	s := strings.TrimPrefix(string(b), "file:")
	if strings.HasPrefix(s, "env:") || strings.HasPrefix(s, "credential:") || strings.Contains(s, "-----BEGIN") {
		return fmt.Errorf("%q is not the path of a file; write file:/path/of/the.pem", clip(s))
	}
	*f = File(s)
	return nil
}

func (f File) MarshalText() ([]byte, error) { return []byte(f), nil }

// Mode is the permissions of a Unix socket, in octal; 0: 0600.
type Mode fs.FileMode

func (m *Mode) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(b), "0o"), 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return fmt.Errorf("%q are not permissions; write them in octal, such as \"0660\"", clip(string(b)))
	}
	*m = Mode(n)
	return nil
}

func (m Mode) MarshalText() ([]byte, error) {
	if m == 0 {
		return nil, nil
	}
	return fmt.Appendf(nil, "%04o", uint32(m)), nil
}

// Network is a range of addresses: 10.0.0.0/8, or a single one.
type Network netip.Prefix

func (n *Network) UnmarshalText(b []byte) error {
	if a, err := netip.ParseAddr(string(b)); err == nil && a.Zone() == "" {
		a = a.Unmap() // addresses are compared as IPv4
		*n = Network(netip.PrefixFrom(a, a.BitLen()))
		return nil
	}
	p, err := netip.ParsePrefix(string(b))
	if err == nil && p.Addr().Is4In6() { // addresses are compared as IPv4
		return fmt.Errorf("%q is IPv4 written as IPv6; write it as 10.0.0.0/8", clip(string(b)))
	}
	if err != nil || p.Masked() != p {
		return fmt.Errorf("%q is not a network; write one such as 10.0.0.0/8", clip(string(b)))
	}
	*n = Network(p)
	return nil
}

func (n Network) MarshalText() ([]byte, error) { return netip.Prefix(n).MarshalText() }

func (ck *checker) listeners() {
	l := &ck.c.Listeners
	taken := map[Address]string{}
	for i := range l.MQTT {
		ck.mqtt(fmt.Sprintf("listeners.mqtt[%d]", i), &l.MQTT[i], false, taken)
	}
	for i := range l.WS {
		ck.mqtt(fmt.Sprintf("listeners.ws[%d]", i), &l.WS[i], true, taken)
	}
	for i, k := range l.Kafka {
		ck.kafka(fmt.Sprintf("listeners.kafka[%d]", i), &k, taken)
	}
	if l.HTTP.Bind != "" {
		ck.bind("listeners.http.bind", l.HTTP.Bind, taken)
		if l.HTTP.PasswordFile == "" {
			ck.reached("listeners.http.bind", l.HTTP.Bind, "make a password file with `millrace passwd FILE NAME` and name it in listeners.http.password_file, ")
		}
		ck.tcpOnly("listeners.http.bind", l.HTTP.Bind)
	}
	ck.pair("listeners.http.tls", l.HTTP.TLS.Cert, l.HTTP.TLS.Key)
	for i := range l.Registry {
		ck.registry(fmt.Sprintf("listeners.registry[%d]", i), &l.Registry[i], taken)
	}
}

func (ck *checker) kafka(path string, k *Kafka, taken map[Address]string) {
	ck.bind(path+".bind", k.Bind, taken)
	ck.tls(path+".tls", &k.TLS)
	ck.links(path, k.Auth, &k.TLS, kafkaLinks)
	switch {
	case !k.AllowAnonymous():
	case len(k.Auth) > 1 && !k.Bind.Loopback() && !ck.c.InsecureAllowAnonymous:
		ck.problem(path+".auth", fmt.Sprintf("%s is reached from other machines, and anonymous clients are let in", k.Bind),
			"remove anonymous from auth, or let everybody in with insecure_allow_anonymous: true")
	default:
		ck.reached(path+".bind", k.Bind, askKafkaClients)
	}
	ck.tcpOnly(path+".bind", k.Bind)
	if host, port, _ := net.SplitHostPort(string(k.Advertise)); k.Advertise != "" && (host == "" || port == "0") {
		ck.problem(path+".advertise", fmt.Sprintf("%q is not an address that a client can connect to", k.Advertise), "write host:port")
	}
	if k.Session != 0 && (k.Session.Seconds() < 10 || k.Session.Seconds() > 7*86_400) {
		ck.problem(path+".session", "not between 10s and 7d", "write a time span such as 1h, or remove it")
	}
}

// pair checks that a certificate and its key are both there, or neither.
func (ck *checker) pair(path string, cert, key File) {
	switch {
	case cert != "" && key == "":
		ck.problem(path+".cert", "a certificate needs its key", "write {cert: FILE, key: FILE}")
	case cert == "" && key != "":
		ck.problem(path+".key", "a key needs its certificate", "write {cert: FILE, key: FILE}")
	}
}

// bind checks that an address is there and free.
func (ck *checker) bind(path string, a Address, taken map[Address]string) {
	if a == "" {
		ck.problem(path, "missing", "write the address to listen on, such as 127.0.0.1:1883")
		return
	}
	if other, there := taken[a]; there && !strings.HasSuffix(string(a), ":0") {
		ck.problem(path, fmt.Sprintf("%s is taken by %s", a, other), "choose another port")
	}
	taken[a] = path
}

// reached refuses an address that other machines reach, where nobody is asked who they are; guard is how they could be.
func (ck *checker) reached(path string, a Address, guard string) {
	if a == "" || a.Loopback() || ck.c.InsecureAllowAnonymous {
		return
	}
	_, port, _ := net.SplitHostPort(string(a))
	ck.problem(path, fmt.Sprintf("%s is reached from other machines, and there is no authentication", a),
		fmt.Sprintf("bind 127.0.0.1:%s, %sor let everybody in with --insecure-allow-anonymous (insecure_allow_anonymous: true)", port, guard))
}

func (ck *checker) tcpOnly(path string, a Address) {
	if a.Unix() != "" {
		ck.problem(path, "only MQTT is spoken over Unix sockets", "write host:port")
	}
}

func (ck *checker) mqtt(path string, m *MQTT, ws bool, taken map[Address]string) {
	a := m.Address(ws)
	ck.bind(path+".bind", a, taken)
	ck.tls(path+".tls", &m.TLS)
	ck.admission(path, a, m)
	if m.Mode != 0 && a.Unix() == "" {
		ck.problem(path+".mode", "only a Unix socket has permissions", "remove it, or bind unix:/path/of/the.sock")
	}
	if m.ProxyOthers != "" {
		ck.oneOf(path+".proxy_others", m.ProxyOthers, "refuse", "plain")
		if len(m.ProxyProtocol) == 0 {
			ck.problem(path+".proxy_others", "no proxy is expected here", "list the proxies' networks in proxy_protocol, or remove it")
		}
	}
	if !ws && (m.Path != "" || len(m.Origins) > 0) {
		ck.problem(path, "path and origins are for WebSocket", "move the listener to listeners.ws, or remove them")
	}
	if m.Path != "" && (m.Path[0] != '/' || strings.ContainsAny(m.Path, "?# \x00%")) {
		ck.problem(path+".path", fmt.Sprintf("%q is not the path of a URL", clip(m.Path)), "write one such as /mqtt")
	}
	for i, o := range m.Origins {
		if !validOrigin(o) {
			ck.problem(fmt.Sprintf("%s.origins[%d]", path, i), fmt.Sprintf("%q is not an origin", clip(o)), "write one such as https://app.example, or \"*\" for every page there is")
		}
	}
	ck.listenerLimits(path+".limits", &m.Limits)
}

const (
	askKafkaClients = "ask for certificates with tls.client_ca, or for passwords, tokens or JWTs with auth (docs/kafka-security.md), "
	askForAnything  = "ask for certificates with tls.client_ca, or for passwords, tokens or JWTs with auth (docs/authentication.md), "
)

// admission checks that there is a way in, and none too many.
func (ck *checker) admission(path string, a Address, m *MQTT) {
	ck.chain(path, m)
	if m.Anonymous != nil && len(m.Chain()) == 0 {
		ck.problem(path+".anonymous", "nobody could come in: there is no authentication", "name the authority of the clients' certificates in tls.client_ca, list other ways in auth, or remove it")
	}
	if !m.AllowAnonymous() || ck.c.InsecureAllowAnonymous || a == "" {
		return
	}
	others := !a.Loopback() || len(m.ProxyProtocol) > 0
	switch {
	case others && len(m.Auth) > 1:
		ck.problem(path+".auth", fmt.Sprintf("%s is reached from other machines, and anonymous clients are let in", a),
			"remove anonymous from auth, or let everybody in with insecure_allow_anonymous: true")
	case others && m.TLS.ClientCA != "" && len(m.Auth) == 0:
		ck.problem(path+".anonymous", fmt.Sprintf("%s is reached from other machines, and clients need not authenticate", a),
			"remove anonymous, or let everybody in with insecure_allow_anonymous: true")
	case !a.Loopback():
		ck.reached(path+".bind", a, askForAnything)
	case others:
		ck.problem(path+".proxy_protocol", "other machines come through the proxy, and there is no authentication",
			askForAnything+"or let everybody in with --insecure-allow-anonymous (insecure_allow_anonymous: true)")
	}
}

func (ck *checker) tls(path string, t *ListenerTLS) {
	if !t.Any() {
		return
	}
	if ck.pair(path, t.Cert, t.Key); t.Cert == "" && t.Key == "" {
		ck.problem(path, "there is no certificate", "write {cert: FILE, key: FILE}")
	}
	if t.ClientCA == "" && (t.ClientCRL != "" || t.IdentityFrom != "") {
		ck.problem(path, "clients are not asked for certificates", "name their authority in client_ca, or remove client_crl and identity_from")
	}
	if t.IdentityFrom != "" {
		ck.oneOf(path+".identity_from", t.IdentityFrom, "san", "cn")
	}
	if t.MinVersion != "" {
		ck.oneOf(path+".min_version", t.MinVersion, "1.2", "1.3")
	}
}

func (ck *checker) listenerLimits(path string, l *ListenerLimits) {
	ck.between(path+".connections", int64(l.Connections), 0, 10_000_000)
	ck.between(path+".half_open", int64(l.HalfOpen), 0, 10_000_000)
	ck.between(path+".half_open_per_ip", int64(l.HalfOpenPerIP), 0, 1_000_000)
	if l.PacketBytes != 0 {
		ck.between(path+".packet_bytes", int64(l.PacketBytes), 1024, int64(ck.c.Limits.PacketBytes))
	}
	ck.between(path+".receive_maximum", int64(l.ReceiveMaximum), 0, 65_535)
	ck.keepAlive(path+".keep_alive", l.KeepAlive)
	ck.handshakeTimeout(path+".handshake_timeout", l.HandshakeTimeout)
	ck.budget(path+".inbound_bytes", l.InboundBytes, 0)
	ck.budget(path+".outbound_bytes", l.OutboundBytes, 0)
}

func (ck *checker) keepAlive(path string, d Duration) {
	if d < 0 || d.Seconds() > 65_535 {
		ck.problem(path, "longer than MQTT can say", "write at most 18h, or 0 for what the client asks")
	}
}

func (ck *checker) handshakeTimeout(path string, d Duration) {
	if d != 0 && (d.Seconds() < 1 || d.Seconds() > 120) {
		ck.problem(path, "not between 1s and 2m", "write a time span such as 10s")
	}
}

// validOrigin tells whether a text is what browsers send as Origin, or "*".
func validOrigin(s string) bool {
	u, err := url.Parse(s)
	return s == "*" || err == nil && u.Scheme != "" && u.Host != "" && s == u.Scheme+"://"+u.Host && !strings.ContainsAny(s, " \r\n\t")
}
