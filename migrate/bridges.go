package migrate

import (
	"fmt"
	"strconv"
	"strings"
)

// remote is a bridge as Mosquitto has it.
type remote struct {
	at        place
	name      string
	addresses []string
	topics    []bridged

	clientID, user, password string
	clean                    bool
	keepAlive                string
	version                  string
	ca, cert, key            string
	insecure                 bool
	noNotices, localNotices  bool
	noTry                    bool
	retain                   bool
	retryMin, retryMax       int
}

// bridged is one `topic` of a bridge.
type bridged struct {
	at                     place
	filter, local, distant string
	direction              string // out, in, both
	qos                    int
}

func (m *mosquitto) newBridge(o *option) {
	m.bridge = &remote{at: o.at, name: o.args, retain: true, keepAlive: "60"}
	m.bridges = append(m.bridges, m.bridge)
}

// ofBridge takes an option of the bridge that is being read.
func (m *mosquitto) ofBridge(o *option) bool {
	b := m.bridge
	switch o.name {
	case "address", "addresses":
		b.addresses = strings.Fields(o.args)
		if len(b.addresses) > 1 {
			m.add(o.at, Dropped, "a bridge has one address: %s; make one bridge for each broker that is not a stand-in for the first", b.addresses[0])
		}
	case "topic":
		m.bridgeTopic(o)
	case "clientid", "remote_clientid":
		b.clientID = o.args
	case "username", "remote_username":
		b.user = o.args
	case "password", "remote_password":
		b.password = o.args
	case "cleansession":
		m.flag(o, &b.clean)
	case "keepalive_interval":
		n, err := o.number()
		m.fail(err)
		b.keepAlive = fmt.Sprint(n)
	case "bridge_protocol_version":
		b.version = map[string]string{"mqttv31": "3.1.1", "mqttv311": "3.1.1", "mqttv50": "5"}[o.args]
		if o.args == "mqttv31" {
			m.add(o.at, Changed, "a bridge speaks 3.1.1 or 5")
		}
	case "bridge_cafile":
		b.ca = o.args
	case "bridge_certfile":
		b.cert = o.args
	case "bridge_keyfile":
		b.key = o.args
	case "bridge_insecure":
		m.flag(o, &b.insecure)
	case "bridge_outgoing_retain":
		m.flag(o, &b.retain)
	case "notifications":
		v := true
		m.flag(o, &v)
		b.noNotices = !v
	case "notifications_local_only":
		m.flag(o, &b.localNotices)
	case "try_private":
		v := true
		m.flag(o, &v)
		b.noTry = !v
	case "restart_timeout":
		m.restart(o)
	case "start_type":
		if o.args != "automatic" {
			m.add(o.at, Changed, "a bridge is connected as long as the node runs")
		}
	case "idle_timeout", "threshold":
		m.add(o.at, Moot, "a bridge is connected as long as the node runs")
	case "round_robin":
		m.add(o.at, Dropped, "a bridge has one address")
	case "local_clientid", "local_username", "local_password", "local_cleansession":
		m.add(o.at, Moot, "a bridge reads the log, and is no client of its own node")
	case "notification_topic":
		m.add(o.at, Dropped, "the state is at $SYS/broker/connection/<name>/state")
	case "bridge_attempt_unsubscribe":
		m.add(o.at, Moot, "what a bridge no longer wants it unsubscribes from")
	case "bridge_capath":
		m.add(o.at, Dropped, "write the certificates of the folder into one file, and name that in tls.ca")
	case "bridge_tls_version", "bridge_alpn", "bridge_bind_address", "bridge_identity", "bridge_psk", "bridge_require_ocsp", "bridge_max_packet_size", "bridge_max_topic_alias",
		"bridge_reload_type", "bridge_tcp_keepalive", "bridge_tcp_user_timeout", "bridge_receive_maximum", "bridge_session_expiry_interval", "bridge_ciphers", "bridge_tls_use_os_certs":
		m.add(o.at, Dropped, "see docs/bridges.md for what a bridge can be told")
	default:
		return false
	}
	return true
}

// restart is `restart_timeout base cap`, or `restart_timeout constant`.
func (m *mosquitto) restart(o *option) {
	f := strings.Fields(o.args)
	for i, to := range []*int{&m.bridge.retryMin, &m.bridge.retryMax} {
		if len(f) == 0 || len(f) > 2 {
			m.fail(fmt.Errorf("%s: restart_timeout base cap, or restart_timeout constant", o.at))
			return
		}
		n, err := strconv.Atoi(f[min(i, len(f)-1)])
		if err != nil || n < 1 || n > 86_400 {
			m.fail(fmt.Errorf("%s: restart_timeout is in seconds, not %q", o.at, clip(o.args)))
			return
		}
		*to = n
	}
}

// bridgeTopic is `topic pattern [[[out | in | both] qos] local-prefix remote-prefix]`.
func (m *mosquitto) bridgeTopic(o *option) {
	f := strings.Fields(o.args)
	if len(f) == 0 || len(f) > 5 {
		m.fail(fmt.Errorf("%s: topic pattern [[[out | in | both] qos-level] local-prefix remote-prefix]", o.at))
		return
	}
	t := bridged{at: o.at, filter: empty(f[0]), direction: "out"}
	if len(f) > 1 {
		if t.direction = f[1]; t.direction != "out" && t.direction != "in" && t.direction != "both" {
			m.fail(fmt.Errorf("%s: %q is neither out, in nor both", o.at, clip(t.direction)))
			return
		}
	}
	if len(f) > 2 {
		n, err := strconv.Atoi(f[2])
		if err != nil || n < 0 || n > 2 {
			m.fail(fmt.Errorf("%s: %q is not a QoS", o.at, clip(f[2])))
			return
		}
		t.qos = n
	}
	if len(f) > 3 {
		t.local = empty(f[3])
	}
	if len(f) > 4 {
		t.distant = empty(f[4])
	}
	m.bridge.topics = append(m.bridge.topics, t)
}

// empty reads "" as nothing.
func empty(s string) string {
	if s == `""` {
		return ""
	}
	return s
}

func (m *mosquitto) writeBridges(t *text, r *Result) {
	names := map[string]bool{}
	for i, b := range m.bridges {
		if len(b.addresses) == 0 || len(b.topics) == 0 {
			m.add(b.at, Dropped, "the bridge %q has no address, or no topic: it is left out", clip(b.name))
			continue
		}
		name := bridgeName(b.name)
		for names[name] || name == "" {
			name += fmt.Sprint("bridge-", i+1)
		}
		if names[name] = true; name != b.name {
			m.add(b.at, Changed, "the bridge %q is called %q: its name is a level of topics", clip(b.name), name)
		}
		if len(names) == 1 {
			t.line(0, "bridges:")
		}
		m.writeBridge(t, r, b, name)
	}
}

// bridgeName is a name as a bridge may have it.
func bridgeName(s string) string {
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune("/+# \ufffd", r) || r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '-'
		}
		return r
	}, s)
	return s[:min(len(s), 100)]
}

func (m *mosquitto) writeBridge(t *text, r *Result, b *remote, name string) {
	t.line(1, "- name: %s # %s", quoted(name), b.at)
	t.line(2, "remote:")
	scheme := "mqtt"
	if b.ca != "" || b.cert != "" || b.insecure {
		scheme = "mqtts"
	}
	t.line(3, "url: %s", quoted(scheme+"://"+b.addresses[0]))
	add := func(key, value string) {
		if value != "" {
			t.line(3, "%s: %s", key, quoted(value))
		}
	}
	add("client_id", b.clientID)
	add("username", b.user)
	if b.password != "" {
		file := "bridge-" + name + ".password"
		r.Files = append(r.Files, File{Name: file, Text: []byte(b.password + "\n"), Secret: true})
		t.line(3, "password: %s", m.beside(file))
		if scheme == "mqtt" {
			m.add(b.at, Unsafe, "the password of the bridge %q would cross the network in the clear; the node does not start so: set bridge_cafile, or insecure_allow_anonymous", clip(b.name))
		}
	}
	var tls []string
	for _, x := range [][2]string{{"ca", b.ca}, {"cert", b.cert}, {"key", b.key}} {
		if x[1] != "" {
			tls = append(tls, x[0]+": "+quoted(x[1]))
		}
	}
	if b.insecure {
		tls = append(tls, "insecure: true")
		m.add(b.at, Unsafe, "the bridge %q believes whoever answers (bridge_insecure)", clip(b.name))
	}
	if len(tls) > 0 {
		t.line(3, "tls: {%s}", strings.Join(tls, ", "))
	}
	if b.version == "" {
		b.version = "3.1.1" // Mosquitto's default
	}
	t.line(3, "version: %s", quoted(b.version))
	t.line(3, "keep_alive: %ss", b.keepAlive)
	if b.clean {
		t.line(3, "clean_start: true")
	}
	if b.noTry {
		t.line(3, "private: false")
	}
	if b.retryMin > 0 {
		t.line(3, "retry_min: %ds", b.retryMin)
		t.line(3, "retry_max: %ds", max(b.retryMin, b.retryMax))
	}
	if !b.noNotices && !b.localNotices {
		t.line(3, "state_topic: %s", quoted("$SYS/broker/connection/"+name+"/state"))
	}
	for _, direction := range []string{"out", "in", "both"} {
		first := true
		for _, x := range b.topics {
			if x.direction != direction {
				continue
			}
			if first {
				t.line(2, "%s:", direction)
				first = false
			}
			fields := []string{"filter: " + quoted(x.filter), fmt.Sprint("qos: ", x.qos)}
			if x.local != "" {
				fields = append(fields, "local_prefix: "+quoted(x.local))
			}
			if x.distant != "" {
				fields = append(fields, "remote_prefix: "+quoted(x.distant))
			}
			if !b.retain && direction != "in" {
				fields = append(fields, "retain: false")
			}
			t.line(3, "- {%s}", strings.Join(fields, ", "))
		}
	}
}
