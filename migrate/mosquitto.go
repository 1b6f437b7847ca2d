package migrate

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// security is what says who gets in: of all listeners, or of one with per_listener_settings.
type security struct {
	anonymous *bool
	passwords string
	acl       string
	aclAt     place
	plugin    bool
}

// listener is one as Mosquitto has it.
type listener struct {
	at        place
	port      string
	host      string // or the path of a Unix socket
	ws        bool
	cert, key string
	ca, crl   string
	require   bool
	identity  bool
	version   string
	limit     int64
	own       security
	closed    bool // not carried over
}

// mosquitto is a configuration as it is read.
type mosquitto struct {
	notes
	all         security
	perListener bool
	listeners   []*listener
	plain       *listener // of port and bind_address, before any `listener`
	bridges     []*remote
	bridge      *remote // that the options now are of
	limits      map[string]string
	sys         string
	level       string
	read        Read
	folder      string // of what is written
	errs        []error
}

// Import reads mosquitto.conf, for a configuration that will be in folder with its files. Options that are wrong for Mosquitto too are errors, all of
// them at once; what could be read comes back beside them.
func Import(path, folder string, read Read, list List) (*Result, error) {
	options, err := scan(path, read, list)
	if err != nil {
		return nil, err
	}
	m := &mosquitto{folder: folder, limits: map[string]string{}, read: read}
	for i := range options {
		m.take(&options[i])
	}
	r := &Result{Asked: len(options)}
	m.write(r)
	r.Notes = m.sorted()
	return r, errors.Join(m.errs...)
}

func (m *mosquitto) fail(err error) {
	if err != nil {
		m.errs = append(m.errs, err)
	}
}

// here is the listener that an option is of.
func (m *mosquitto) here(at place) *listener {
	if n := len(m.listeners); n > 0 && m.listeners[n-1] != m.plain {
		return m.listeners[n-1]
	}
	if m.plain == nil {
		m.plain = &listener{at: at, port: "1883"}
		m.listeners = append(m.listeners, m.plain)
	}
	return m.plain
}

// safety is what an option about who gets in is of.
func (m *mosquitto) safety(at place) *security {
	if m.perListener {
		return &m.here(at).own
	}
	return &m.all
}

func (m *mosquitto) take(o *option) {
	switch {
	case o.name == "connection":
		m.newBridge(o)
	case o.name == "listener":
		m.bridge = nil
		m.newListener(o)
	case m.bridge != nil && m.ofBridge(o):
	case m.ofListener(o), m.ofSecurity(o), m.ofLimits(o), m.ofTheRest(o):
	default:
		m.add(o.at, Dropped, "not known: is it of a plugin, or of a later Mosquitto?")
	}
}

// newListener is `listener PORT [ADDRESS or path of a Unix socket]`.
func (m *mosquitto) newListener(o *option) {
	port, host, _ := strings.Cut(o.args, " ")
	l := &listener{at: o.at, port: port, host: strings.TrimSpace(host)}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 || n == 0 && l.host == "" {
		m.fail(fmt.Errorf("%s: %q is not a port", o.at, clip(port)))
	}
	m.listeners = append(m.listeners, l)
}

func (m *mosquitto) ofListener(o *option) bool {
	switch o.name {
	case "port":
		m.here(o.at).port = o.args
	case "bind_address":
		m.here(o.at).host = o.args
	case "protocol":
		switch o.args {
		case "mqtt":
		case "websockets":
			m.here(o.at).ws = true
		default:
			m.here(o.at).closed = true
			m.add(o.at, Dropped, "the listener speaks %q, which is not MQTT: it is left out", clip(o.args))
		}
	case "certfile":
		m.here(o.at).cert = o.args
	case "keyfile":
		m.here(o.at).key = o.args
	case "cafile":
		m.here(o.at).ca = o.args
	case "crlfile":
		m.here(o.at).crl = o.args
	case "require_certificate":
		m.flag(o, &m.here(o.at).require)
	case "use_identity_as_username":
		m.flag(o, &m.here(o.at).identity)
	case "tls_version":
		m.tlsVersion(o)
	case "max_connections":
		m.limit(o, &m.here(o.at).limit)
	case "use_subject_as_username":
		m.add(o.at, Dropped, "an account is a name in the certificate (a SAN, or the CN), not its whole subject; with use_identity_as_username it is the CN")
	case "use_username_as_clientid":
		m.add(o.at, Dropped, "clients choose their ids; the same id under two accounts is two sessions, so that nobody can take another's. `client_id: bound` on the listener ties ids to accounts")
	case "mount_point":
		m.add(o.at, Dropped, "topics are not renamed per listener: devices that relied on it need the prefix %q in their own topics", clip(o.args))
	case "capath":
		m.add(o.at, Dropped, "write the certificates of the folder into one file, and name that in tls.client_ca")
	case "ciphers", "ciphers_tls1.3":
		m.add(o.at, Moot, "the ciphers of TLS 1.2 and 1.3 that are known to be good are used, and no others")
	case "dhparamfile":
		m.add(o.at, Moot, "keys are exchanged over elliptic curves")
	case "tls_engine", "tls_engine_kpass_sha1", "tls_keyform":
		m.add(o.at, Dropped, "keys are read from files only")
	case "psk_file", "psk_hint":
		m.here(o.at).closed = true
		m.add(o.at, Dropped, "there are no pre-shared keys: the listener is left out; give its devices certificates or tokens")
	case "http_dir":
		m.add(o.at, Dropped, "no files are served")
	case "max_qos":
		m.add(o.at, Dropped, "every QoS is offered")
	case "max_topic_alias", "max_topic_alias_broker":
		m.add(o.at, Moot, "up to 32 topic aliases each way")
	case "socket_domain":
		m.add(o.at, Moot, "an address says whether it is IPv4 or IPv6")
	case "bind_interface":
		m.add(o.at, Dropped, "name the interface's address in the listener's bind")
	case "websockets_headers_size", "websockets_log_level":
		m.add(o.at, Moot, "headers of a WebSocket may have 8 KiB")
	case "websockets_origin":
		m.add(o.at, Dropped, "write it into origins of the listener")
	case "accept_protocol_versions", "enable_proxy_protocol", "proxy_protocol_v2_require_tls", "disable_client_cert_date_checks":
		m.add(o.at, Dropped, "see listeners in docs/configuration.md")
	default:
		return false
	}
	return true
}

func (m *mosquitto) flag(o *option, to *bool) {
	v, err := o.truth()
	m.fail(err)
	*to = v
}

func (m *mosquitto) limit(o *option, to *int64) {
	v, err := o.number()
	m.fail(err)
	*to = max(v, 0) // -1: none
}

func (m *mosquitto) tlsVersion(o *option) {
	switch o.args {
	case "tlsv1.3":
		m.here(o.at).version = "1.3"
	case "tlsv1.2":
		m.here(o.at).version = "1.2"
	default:
		m.add(o.at, Changed, "TLS 1.2 is the oldest that is spoken")
	}
}

func (m *mosquitto) ofSecurity(o *option) bool {
	switch o.name {
	case "per_listener_settings":
		m.flag(o, &m.perListener)
	case "allow_anonymous":
		v, err := o.truth()
		m.fail(err)
		m.safety(o.at).anonymous = &v
	case "password_file":
		m.safety(o.at).passwords = o.args
	case "acl_file":
		s := m.safety(o.at)
		s.acl, s.aclAt = o.args, o.at
	case "clientid_prefixes":
		m.add(o.at, Dropped, "client ids are not looked at by their beginning: give devices accounts, and write `client_id: bound` on the listener")
	case "plugin", "auth_plugin", "global_plugin", "plugin_use":
		m.safety(o.at).plugin = true
		m.add(o.at, Unsafe, "plugins of Mosquitto are not loaded: whoever it let in is let in no more. Where it asked a service, auth.hook asks one over HTTP; where it checked tokens, see auth.jwt")
	case "auth_plugin_deny_special_chars":
		m.add(o.at, Moot, "names with / + # are not accounts")
	case "allow_zero_length_clientid", "auto_id_prefix":
		m.add(o.at, Moot, "a client without an id is given one, which begins with auto-")
	default:
		if !strings.HasPrefix(o.name, "auth_opt_") && !strings.HasPrefix(o.name, "plugin_opt_") {
			return false
		}
		m.add(o.at, Dropped, "of a plugin")
	}
	return true
}

func (m *mosquitto) ofLimits(o *option) bool {
	switch o.name {
	case "max_inflight_messages":
		m.count(o, "inflight", 1, 32_768)
	case "max_packet_size", "message_size_limit":
		m.count(o, "packet_bytes", 1024, 7996<<10)
	case "max_keepalive":
		if n, err := o.number(); err != nil {
			m.fail(err)
		} else if n > 0 {
			m.limits["keep_alive"] = fmt.Sprint(n, "s")
		}
	case "persistent_client_expiration":
		m.expiration(o)
	case "max_queued_messages", "max_queued_bytes", "max_inflight_bytes":
		m.add(o.at, Changed, "what a session that is away has to get is a set of places in the log and costs a few bytes: it ends with the records' retention (log.retention, routes), not with a count")
	case "memory_limit":
		m.add(o.at, Dropped, "memory is bounded part by part (docs/limits.md), and nothing is dropped for it; limits.memory is what the process keeps to by collecting more often")
	case "queue_qos0_messages":
		m.add(o.at, Dropped, "messages of QoS 0 are not kept for clients that are away")
	default:
		return false
	}
	return true
}

func (m *mosquitto) count(o *option, key string, least, most int64) {
	n, err := o.number()
	m.fail(err)
	switch {
	case n == 0 && err == nil:
		m.add(o.at, Changed, "no limit: the default of limits.%s holds", key)
		return
	case n < least || n > most:
		m.add(o.at, Changed, "limits.%s is %d to %d", key, least, most)
		n = min(max(n, least), most)
	}
	m.limits[key] = fmt.Sprint(n)
}

// expiration reads a number of h, d, w, m or y.
func (m *mosquitto) expiration(o *option) {
	units := map[string]int64{"h": 1, "d": 24, "w": 7 * 24, "m": 30 * 24, "y": 365 * 24}
	if o.args == "" {
		m.fail(fmt.Errorf("%s: %s is a number and one of h, d, w, m, y", o.at, o.name))
		return
	}
	n, err := strconv.ParseInt(o.args[:len(o.args)-1], 10, 32)
	unit := units[o.args[len(o.args)-1:]]
	if err != nil || unit == 0 || n < 1 {
		m.fail(fmt.Errorf("%s: %s is a number and one of h, d, w, m, y, not %q", o.at, o.name, clip(o.args)))
		return
	}
	m.limits["session_expiry"] = fmt.Sprint(n*unit, "h")
	m.add(o.at, Changed, "what waits for a session is kept as long as its topic's records (log.retention, 7d): give routes whose messages must wait longer a retention of their own")
}

func (m *mosquitto) ofTheRest(o *option) bool {
	switch o.name {
	case "sys_interval":
		if n, err := o.number(); err != nil {
			m.fail(err)
		} else {
			m.sys = fmt.Sprint(n, "s")
		}
	case "log_type":
		if o.args == "all" || o.args == "debug" {
			m.level = "debug"
		} else {
			m.add(o.at, Moot, "logging.level says how much is logged")
		}
	case "log_dest", "log_facility", "log_timestamp", "log_timestamp_format", "connection_messages":
		m.add(o.at, Moot, "the log goes to standard error, with times: journald or the container's runtime keeps it")
	case "persistence", "persistence_file", "persistence_location", "autosave_interval", "autosave_on_changes":
		m.add(o.at, Moot, "everything is kept, always, in log.data; what an acknowledgement says is on the disk")
	case "user", "pid_file":
		m.add(o.at, Moot, "the service manager's business: deploy/millrace.service")
	case "retain_available", "retain_expiry_interval":
		m.add(o.at, Dropped, "retained messages are there; limits.retained bounds how many")
	case "check_retain_source":
		m.add(o.at, Changed, "a retained message stays if the right to publish it is taken away; who may receive it is decided at delivery")
	case "set_tcp_nodelay":
		m.add(o.at, Moot, "always")
	case "upgrade_outgoing_qos":
		m.add(o.at, Dropped, "a delivery's QoS is the lower one of the message's and the subscription's, as MQTT has it")
	case "allow_duplicate_messages", "max_queued_messages_per_client":
		m.add(o.at, Moot, "overlapping subscriptions of a client bring a message once")
	default:
		return false
	}
	return true
}

// bind is a listener's address.
func (l *listener) bind() string {
	switch {
	case l.port == "0" || strings.HasPrefix(l.host, "/"):
		return "unix:" + l.host
	case l.host == "":
		return ":" + l.port
	}
	return net.JoinHostPort(strings.Trim(l.host, "[]"), l.port)
}

// loopback tells whether only this machine reaches it.
func (l *listener) loopback() bool {
	ip := net.ParseIP(strings.Trim(l.host, "[]"))
	return strings.HasPrefix(l.host, "/") || l.host == "localhost" || ip != nil && ip.IsLoopback()
}
