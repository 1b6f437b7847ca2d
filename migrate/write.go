package migrate

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/identity"
)

// The names of the files that a configuration of ours names, beside it.
const (
	policyFile    = "policy.yaml"
	passwordsFile = "passwords"
)

// carried are the listeners that Millrace will have. Without any, Mosquitto listens on loopback and lets everybody in.
func (m *mosquitto) carried() (list []*listener) {
	if len(m.listeners) == 0 {
		yes := true
		l := &listener{port: "1883", host: "127.0.0.1"}
		if m.all.anonymous == nil {
			l.own.anonymous = &yes
		}
		m.listeners = append(m.listeners, l)
	}
	for _, l := range m.listeners {
		if !l.closed {
			list = append(list, l)
		}
	}
	return list
}

// of is what says who gets in at a listener.
func (m *mosquitto) of(l *listener) *security {
	if m.perListener {
		return &l.own
	}
	s := m.all
	if s.anonymous == nil {
		s.anonymous = l.own.anonymous
	}
	return &s
}

// chain is a listener's auth.
func (m *mosquitto) chain(l *listener) (links []string) {
	s := m.of(l)
	switch {
	case l.require && l.identity:
		links = append(links, "cert")
	case s.passwords != "":
		links = append(links, "password")
	}
	if s.anonymous != nil && *s.anonymous && !(l.require && l.identity) {
		links = append(links, "anonymous")
	}
	return links
}

// text is YAML that is being written.
type text struct{ strings.Builder }

func (t *text) line(indent int, format string, args ...any) {
	t.WriteString(strings.Repeat("  ", indent))
	fmt.Fprintf(t, format, args...)
	t.WriteByte('\n')
}

// quoted is a YAML scalar that is a text, whatever is in it.
func quoted(s string) string { return strconv.Quote(s) }

func list(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = quoted(w)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// beside names a file that is written with the configuration.
func (m *mosquitto) beside(name string) string {
	return quoted("file:" + filepath.Join(m.folder, name))
}

func (m *mosquitto) write(r *Result) {
	for _, l := range m.carried() {
		if len(m.chain(l)) == 0 {
			l.closed = true
			m.add(l.at, Unsafe, "nobody could get in here: there is no password_file, and no allow_anonymous; the listener on %s is left out", l.bind())
		}
	}
	var t text
	t.line(0, "# Written by `millrace migrate import` from a Mosquitto broker's configuration; docs/from-mosquitto.md says what differs.")
	m.writeListeners(&t)
	m.writeAuth(&t, r)
	m.writePolicy(&t, r)
	m.writeBridges(&t, r)
	m.writeLimits(&t)
	t.line(0, "log: {data: %s}", quoted(filepath.Join(m.folder, "millrace-data")))
	r.Config = t.String()
}

func (m *mosquitto) writeListeners(t *text) {
	open := false
	t.line(0, "listeners:")
	for _, ws := range []bool{false, true} {
		name, first := "mqtt", true
		if ws {
			name = "ws"
		}
		for _, l := range m.carried() {
			if l.ws != ws {
				continue
			}
			if first {
				t.line(1, "%s:", name)
				first = false
			}
			open = m.writeListener(t, l) || open
		}
		if first && !ws {
			t.line(1, "mqtt: []")
		}
	}
	if open {
		t.line(0, "insecure_allow_anonymous: true # as allow_anonymous says: whoever reaches the machine may do everything that the policy lets anonymous do")
	}
}

// writeListener tells whether everybody who reaches the machine gets in.
func (m *mosquitto) writeListener(t *text, l *listener) (open bool) {
	t.line(2, "- bind: %s # %s", quoted(l.bind()), l.at)
	if l.ws {
		m.add(place{l.at.file, l.at.line, "protocol websockets"}, Changed, "Mosquitto takes a WebSocket at every path, this listener at /mqtt: pages that connect without a path want `path: /`")
	}
	var tls []string
	add := func(key, value string) {
		if value != "" {
			tls = append(tls, key+": "+quoted(value))
		}
	}
	add("cert", l.cert)
	add("key", l.key)
	if l.require {
		add("client_ca", l.ca)
		add("client_crl", l.crl)
		if l.identity {
			tls = append(tls, "identity_from: cn")
		}
	}
	add("min_version", l.version)
	if len(tls) > 0 {
		t.line(3, "tls: {%s}", strings.Join(tls, ", "))
	}
	chain := m.chain(l)
	t.line(3, "auth: %s", list(chain))
	var limits []string
	if l.limit > 0 {
		limits = append(limits, fmt.Sprint("connections: ", l.limit))
	}
	if len(limits) > 0 {
		t.line(3, "limits: {%s}", strings.Join(limits, ", "))
	}
	if slices.Contains(chain, "anonymous") && !l.loopback() {
		m.add(l.at, Unsafe, "everybody who reaches %s gets in (allow_anonymous): insecure_allow_anonymous is set, as the node would not start otherwise", l.bind())
		return true
	}
	return false
}

// writeAuth puts the password files of all listeners into one.
func (m *mosquitto) writeAuth(t *text, r *Result) {
	var out bytes.Buffer
	var seen []string
	names := map[string]string{}
	for _, l := range m.carried() {
		path := m.of(l).passwords
		if path == "" || slices.Contains(seen, path) || !slices.Contains(m.chain(l), "password") {
			continue
		}
		seen = append(seen, path)
		text, err := m.read(path)
		if err != nil {
			m.fail(fmt.Errorf("password_file of %s: %w", l.at, err))
			continue
		}
		m.passwords(path, text, &out, names)
	}
	if len(seen) == 0 {
		return
	}
	if len(seen) > 1 {
		m.add(place{file: seen[0], option: "password_file"}, Unsafe, "the listeners have different password files; there is one for all of them, so that who may log in at one may at each that asks for passwords")
	}
	r.Files = append(r.Files, File{Name: passwordsFile, Text: out.Bytes(), Secret: true})
	t.line(0, "auth: {passwords: %s} # each hash is replaced by a stronger one when its owner logs in", m.beside(passwordsFile))
}

func (m *mosquitto) passwords(path string, text []byte, out *bytes.Buffer, names map[string]string) {
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		if s := strings.TrimSpace(line); s == "" || s[0] == '#' {
			continue
		}
		name, _, _ := strings.Cut(line, ":")
		at := place{path, number, "password"}
		if _, err := identity.Parse([]byte(line)); err != nil {
			m.add(at, Unsafe, "the account %q is left out: its name or its hash is none that is known here", clip(name))
			continue
		}
		if where, twice := names[name]; twice {
			m.add(at, Unsafe, "the account %q is in %s already: this one is left out", clip(name), where)
			continue
		}
		names[name] = path
		out.WriteString(line + "\n")
	}
}

func (m *mosquitto) writePolicy(t *text, r *Result) {
	rules, there := m.policy()
	if !there {
		return
	}
	var p text
	p.line(0, "# Read again when it changes. docs/authorisation.md says what rules can be.")
	p.line(0, "default: deny")
	if len(rules) > 0 {
		p.line(0, "rules:")
	}
	for _, r := range rules {
		verb := "allow"
		if r.deny {
			verb = "deny"
		}
		p.line(1, "- {who: %s, %s: %s, topics: %s}", quoted(r.who), verb, r.right, list(r.topics))
	}
	r.Files = append(r.Files, File{Name: policyFile, Text: []byte(p.String())})
	t.line(0, "policy: {file: %s}", m.beside(policyFile))
}

func (m *mosquitto) writeLimits(t *text) {
	keys := make([]string, 0, len(m.limits))
	for k := range m.limits {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var out []string
	for _, k := range keys {
		out = append(out, k+": "+m.limits[k])
	}
	if len(out) > 0 {
		t.line(0, "limits: {%s}", strings.Join(out, ", "))
	}
	if m.level != "" {
		t.line(0, "logging: {level: %s}", m.level)
	}
}
