package migrate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/policy"
)

// site is a folder with a Mosquitto's files.
type site map[string]string

func (s site) read(path string) ([]byte, error) {
	if text, ok := s[path]; ok {
		return []byte(text), nil
	}
	return nil, fmt.Errorf("%s: %w", path, os.ErrNotExist)
}

func (s site) list(dir string) (names []string, err error) {
	for path := range s {
		if filepath.Dir(path) == filepath.Clean(dir) {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	slices.Reverse(names) // in no order that helps
	return names, nil
}

// imported reads a site's mosquitto.conf, puts what comes of it into a folder, and checks it as the node would.
func imported(t *testing.T, s site) (*Result, *config.Config) {
	t.Helper()
	dir := t.TempDir()
	r, err := Import("mosquitto.conf", dir, s.read, s.list)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(r.Files, File{Name: "millrace.yaml", Text: []byte(r.Config)}) {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(config.Source{File: filepath.Join(dir, "millrace.yaml")})
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Config)
	}
	return r, c
}

func (r *Result) note(option string) *Note {
	for i := range r.Notes {
		if r.Notes[i].Option == option {
			return &r.Notes[i]
		}
	}
	return nil
}

func (r *Result) file(name string) string {
	for _, f := range r.Files {
		if f.Name == name {
			return string(f.Text)
		}
	}
	return ""
}

const hash = "$7$101$4qgqQFFOvnXcsgBP$Y+N5/8/BmZ1LYtrqPHjkgHB6jsdFTLYKBHsNWpLAPhFYqwjsPbpzlDlQbcPbJGKHcDjTE0KqSbEE+9+eLpvuTA=="

var whole = site{
	"mosquitto.conf": `# a site's broker
pid_file /run/mosquitto.pid
persistence true
max_inflight_messages 20
max_packet_size 65536
persistent_client_expiration 2w
max_keepalive 300
log_type all
password_file /etc/pw
acl_file /etc/acl
include_dir /etc/conf.d/
`,
	"/etc/conf.d/a.conf": `listener 1883 127.0.0.1
max_connections 500
`,
	"/etc/conf.d/README": "not read",
	"/etc/conf.d/b.conf": `listener 8883
cafile /etc/ca.pem
certfile /etc/cert.pem
keyfile /etc/key.pem
crlfile /etc/crl.pem
require_certificate true
use_identity_as_username true
tls_version tlsv1.3
listener 9001 ::1
protocol websockets
mount_point site/
listener 0 /run/mqtt.sock
`,
	"/etc/pw": "alice:" + hash + "\n# nobody\nbob:" + hash + "\nbad/name:" + hash + "\nbob:" + hash + "\n",
	"/etc/acl": `topic read $SYS/#
user alice
topic fleet/+/telemetry
topic write fleet/alice/cmd
topic deny fleet/secret/#
user bad/name
topic all/#
user
pattern write fleet/%u/telemetry
pattern read fleet/%c/cmd
`,
}

func TestAWholeConfiguration(t *testing.T) {
	r, c := imported(t, whole)
	l := c.Listeners
	if len(l.MQTT) != 3 || len(l.WS) != 1 {
		t.Fatalf("%+v", l)
	}
	if m := l.MQTT[0]; m.Bind != "127.0.0.1:1883" || m.Limits.Connections != 500 || !slices.Equal(m.Auth, []string{"password"}) {
		t.Errorf("%+v", m)
	}
	if m := l.MQTT[1]; m.Bind != ":8883" || m.TLS != (config.ListenerTLS{Cert: "/etc/cert.pem", Key: "/etc/key.pem", ClientCA: "/etc/ca.pem", ClientCRL: "/etc/crl.pem",
		IdentityFrom: "cn", MinVersion: "1.3"}) || !slices.Equal(m.Auth, []string{"cert"}) {
		t.Errorf("%+v", m)
	}
	if m := l.MQTT[2]; m.Bind != "unix:/run/mqtt.sock" {
		t.Errorf("%+v", m)
	}
	if w := l.WS[0]; w.Bind != "[::1]:9001" || w.URLPath() != "/mqtt" {
		t.Errorf("%+v", w)
	}
	if m := c.Limits; m.Inflight != 20 || m.PacketBytes != 65536 || m.SessionExpiry.Seconds() != 14*86400 || m.KeepAlive.Seconds() != 300 {
		t.Errorf("%+v", m)
	}
	if c.Logging.Level != "debug" || c.InsecureAllowAnonymous {
		t.Errorf("%+v %v", c.Logging, c.InsecureAllowAnonymous)
	}
	if got, want := r.file("passwords"), "alice:"+hash+"\nbob:"+hash+"\n"; got != want {
		t.Errorf("passwords:\n%s", got)
	}
	p, err := config.ParsePolicy(r.file("policy.yaml"), "policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Rule{
		{Who: "anonymous", Allow: "subscribe", Topics: []string{"$SYS/#"}},
		{Who: "alice", Allow: "all", Topics: []string{"fleet/+/telemetry"}},
		{Who: "alice", Allow: "publish", Topics: []string{"fleet/alice/cmd"}},
		{Who: "alice", Deny: "all", Topics: []string{"fleet/secret/#"}},
		{Who: "*", Allow: "publish", Topics: []string{"fleet/${account}/telemetry"}},
		{Who: "*", Allow: "subscribe", Topics: []string{"fleet/${client}/cmd"}},
	}
	if fmt.Sprint(p.Policy.Rules) != fmt.Sprint(want) || p.Policy.Default != "deny" {
		t.Errorf("got  %+v\nwant %+v", p.Policy.Rules, want)
	}
	for option, level := range map[string]Level{"pid_file": Moot, "persistence": Moot, "mount_point": Dropped, "acl_file": Changed, "password": Unsafe, "user": Dropped,
		"persistent_client_expiration": Changed} {
		if n := r.note(option); n == nil || n.Level != level || n.Where == "" || n.Text == "" {
			t.Errorf("%s: %+v", option, n)
		}
	}
	if r.Notes[0].Level != Unsafe {
		t.Errorf("what matters most is not first: %+v", r.Notes[0])
	}
}

func TestBridges(t *testing.T) {
	r, c := imported(t, site{"mosquitto.conf": `listener 1883 127.0.0.1
allow_anonymous true
connection cloud/eu
address broker.example:8884 other.example:1883
bridge_cafile /etc/cloud.pem
bridge_certfile /etc/c.pem
bridge_keyfile /etc/k.pem
remote_clientid site-7
remote_username site7
remote_password wonder
restart_timeout 5 60
keepalive_interval 30
try_private false
notifications false
bridge_outgoing_retain false
topic fleet/# out 1
topic cmd/# in 2 "" site7/
topic "" both 0 here/x there/x
start_type lazy
connection old
address 127.0.0.1
bridge_protocol_version mqttv50
topic #
connection none
address h
`})
	if len(c.Bridges) != 2 {
		t.Fatalf("%+v", c.Bridges)
	}
	b := c.Bridges[0]
	no, qos := false, []int{0, 1, 2}
	want := config.Bridge{Name: "cloud-eu", Remote: config.BridgeRemote{URL: "mqtts://broker.example:8884", ClientID: "site-7", Username: "site7", Password: b.Remote.Password, Version: "3.1.1",
		TLS: config.BridgeTLS{CA: "/etc/cloud.pem", Cert: "/etc/c.pem", Key: "/etc/k.pem"}, KeepAlive: b.Remote.KeepAlive, Private: &no, RetryMin: b.Remote.RetryMin, RetryMax: b.Remote.RetryMax},
		Out:  []config.BridgeTopic{{Filter: "fleet/#", QoS: &qos[1], Retain: &no}},
		In:   []config.BridgeTopic{{Filter: "cmd/#", RemotePrefix: "site7/", QoS: &qos[2]}},
		Both: []config.BridgeTopic{{LocalPrefix: "here/x", RemotePrefix: "there/x", QoS: &qos[0], Retain: &no}}}
	if !reflect.DeepEqual(b, want) {
		t.Errorf("got  %+v\nwant %+v", b, want)
	}
	if r.file("bridge-cloud-eu.password") != "wonder\n" || !strings.HasSuffix(string(b.Remote.Password), "/bridge-cloud-eu.password") || strings.Contains(r.Config, "wonder") {
		t.Errorf("%+v\n%s", r.Files, r.Config)
	}
	if b.Remote.RetryMin.Seconds() != 5 || b.Remote.RetryMax.Seconds() != 60 || b.Remote.KeepAlive.Seconds() != 30 {
		t.Errorf("%+v", b.Remote)
	}
	if b := c.Bridges[1]; b.Remote.URL != "mqtt://127.0.0.1" || b.Remote.Version != "5" || b.Remote.StateTopic != "$SYS/broker/connection/old/state" || len(b.Out) != 1 || b.Out[0].Filter != "#" {
		t.Errorf("%+v", b)
	}
	for option, level := range map[string]Level{"address": Dropped, "start_type": Changed, "connection": Dropped} {
		if n := r.note(option); n == nil || n.Level != level {
			t.Errorf("%s: %+v", option, n)
		}
	}
}

// Who gets in, as Mosquitto 2 has it.
func TestWhoGetsIn(t *testing.T) {
	for _, c := range []struct {
		conf   string
		binds  []string // with the chain of each
		unsafe []string
		open   bool
	}{
		{"", []string{"127.0.0.1:1883 [anonymous]"}, nil, false},
		{"persistence true", []string{"127.0.0.1:1883 [anonymous]"}, nil, false},
		{"allow_anonymous false\npassword_file pw", []string{"127.0.0.1:1883 [password]"}, nil, false},
		{"listener 1883\npassword_file pw", []string{":1883 [password]"}, nil, false},
		{"listener 1883\nallow_anonymous true", []string{":1883 [anonymous]"}, []string{"listener"}, true},
		{"listener 1883 localhost\nallow_anonymous true\npassword_file pw", []string{"localhost:1883 [password anonymous]"}, nil, false},
		{"port 1884\nallow_anonymous true", []string{":1884 [anonymous]"}, []string{"port"}, true},
		{"listener 1883\nallow_anonymous false", nil, []string{"listener"}, false},
		{"per_listener_settings true\nlistener 1883 127.0.0.1\nallow_anonymous true\nlistener 1884\npassword_file pw", []string{"127.0.0.1:1883 [anonymous]", ":1884 [password]"}, nil, false},
		{"per_listener_settings true\nlistener 1883\npassword_file pw\nlistener 1884\npassword_file other", []string{":1883 [password]", ":1884 [password]"}, []string{"password_file"}, false},
		{"listener 8883\ncertfile c\nkeyfile k\ncafile ca\nrequire_certificate true\npassword_file pw", []string{":8883 [password]"}, nil, false},
		{"listener 1883\nauth_plugin x.so", nil, []string{"auth_plugin", "listener"}, false},
		{"listener 8883\npsk_file p\npsk_hint h\nlistener 1883 127.0.0.1\npassword_file pw", []string{"127.0.0.1:1883 [password]"}, nil, false},
	} {
		r, got := imported(t, site{"mosquitto.conf": c.conf, "pw": "anna:" + hash + "\n", "other": "otto:" + hash + "\n"})
		var binds, unsafe []string
		for _, l := range got.Listeners.MQTT {
			binds = append(binds, fmt.Sprintf("%s %v", l.Bind, l.Auth))
		}
		for _, n := range r.Notes {
			if n.Level == Unsafe {
				unsafe = append(unsafe, n.Option)
			}
		}
		if !slices.Equal(binds, c.binds) || !slices.Equal(unsafe, c.unsafe) || got.InsecureAllowAnonymous != c.open {
			t.Errorf("%q: %v, unsafe %v, open %v; want %v, %v, %v", c.conf, binds, unsafe, got.InsecureAllowAnonymous, c.binds, c.unsafe, c.open)
		}
	}
}

// Every option that Mosquitto's manual knows is known here: nothing is told as unknown.
// What is a plain text in an ACL, and would be a variable or a pattern of accounts in a policy, is left out and said: it must neither grant
// anything else nor make a policy that no node starts with.
func TestAclsSayNothingThatTheyDoNotMean(t *testing.T) {
	for _, acl := range []string{"user a*b\ntopic x", "user a*\ntopic x", "user *\ntopic x", "user group:a\ntopic x", "user anonymous\ntopic x", "user a\ntopic x/%c",
		"user a\ntopic x/${client}", "user a\ntopic x/${user}/y", "user a\ntopic {client}/x", "pattern x/${client}", "pattern x/${clientid}/%c", "pattern {username}/%u",
		"user a\ntopic deny x/${account}", "pattern x/%c%u/y", "pattern %c"} {
		s := site{"mosquitto.conf": "listener 1883 127.0.0.1\nallow_anonymous true\nacl_file acl\n", "acl": acl + "\n"}
		r, err := Import("mosquitto.conf", "x", s.read, s.list)
		if err != nil {
			t.Fatal(err)
		}
		c, err := config.ParsePolicy(r.file(policyFile), policyFile)
		if err != nil {
			t.Fatal(err)
		}
		rs := policy.Rules{}
		for _, r := range c.Policy.Rules {
			rs.Rules = append(rs.Rules, policy.Rule{Who: r.Who, Deny: r.Deny != "", Topics: r.Topics, Rights: policy.Of(policy.Publish, policy.Subscribe)})
		}
		if _, err := policy.Compile(rs); err != nil {
			t.Errorf("%q: %v", acl, err)
		}
		if kept := strings.Contains(acl, "%") && !strings.Contains(acl, "{") && strings.HasPrefix(acl, "pattern"); kept != (len(rs.Rules) > 0) {
			t.Errorf("%q became %+v", acl, rs.Rules)
		}
		note := r.note(strings.Fields(acl[strings.LastIndex(acl, "\n")+1:])[0])
		if strings.Contains(acl, "deny") && (note == nil || note.Level != Unsafe) {
			t.Errorf("%q: %+v", acl, note)
		}
	}
}

func TestEveryOptionIsKnown(t *testing.T) {
	manual, err := os.ReadFile("testdata/options.txt")
	if err != nil {
		t.Fatal(err)
	}
	n, inBridge := 0, false
	for line := range strings.Lines(string(manual)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			inBridge = strings.Contains(line, "bridges")
			continue
		}
		conf := "listener 1883 127.0.0.1\n"
		if inBridge {
			conf = "connection c\n"
		}
		r, err := Import("mosquitto.conf", "x", site{"mosquitto.conf": conf + line, "f": ""}.read, site{}.list)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		for _, note := range r.Notes {
			if strings.HasPrefix(note.Text, "not known") {
				t.Errorf("%s is not known", line)
			}
		}
		n++
	}
	if n < 110 {
		t.Errorf("only %d options", n)
	}
	if r, err := Import("mosquitto.conf", "x", site{"mosquitto.conf": "max_flights 3"}.read, site{}.list); err != nil || r.note("max_flights") == nil || r.note("max_flights").Level != Dropped {
		t.Errorf("an option that there is not: %+v, %v", r, err)
	}
}

// What is wrong is told with its place, all at once, and nothing is guessed.
func TestWhatIsWrong(t *testing.T) {
	s := site{"mosquitto.conf": "allow_anonymous perhaps\nlistener none\nmax_keepalive ten\npersistent_client_expiration 3x\npassword_file nowhere\nacl_file acl\nconnection c\ntopic a sideways\n",
		"acl": "topic a\nusers b\n"}
	_, err := Import("mosquitto.conf", "x", s.read, s.list)
	for _, want := range []string{"mosquitto.conf:1: allow_anonymous", "mosquitto.conf:2:", "mosquitto.conf:3: max_keepalive", "mosquitto.conf:4:", "nowhere", "mosquitto.conf:8:", "acl:2:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	loop := site{"mosquitto.conf": "include_dir d", "d/a.conf": "include_dir d"}
	if _, err := Import("mosquitto.conf", "x", loop.read, loop.list); err == nil {
		t.Error("files that include themselves")
	}
	if _, err := Import("gone", "x", loop.read, loop.list); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Whatever is in the files, a configuration comes out, or an error: and what comes out can be read.
func FuzzImport(f *testing.F) {
	f.Add(whole["mosquitto.conf"]+whole["/etc/conf.d/b.conf"], whole["/etc/acl"], whole["/etc/pw"])
	f.Add("connection c\naddress h:1\ntopic # both 2 a/ b/\nremote_password \"x\n", "user *\ntopic +/#/x\npattern %c%u", "a:b:c:d")
	f.Add("listener 1883 \x00\nallow_anonymous true\nlistener 1 {a: b}", "user a: b, c\ntopic ]", "")
	f.Fuzz(func(t *testing.T, conf, acl, pw string) {
		s := site{"mosquitto.conf": "acl_file acl\npassword_file pw\n" + conf, "acl": acl, "pw": pw}
		r, err := Import("mosquitto.conf", "x", s.read, s.list)
		if err != nil {
			return
		}
		if p := r.file("policy.yaml"); p != "" {
			if _, err := config.ParsePolicy(p, "policy.yaml"); err != nil {
				t.Errorf("%v\n%s", err, p)
			}
		}
		_, err = config.Parse(r.Config, "millrace.yaml")
		var wrong config.Problems
		if err != nil && (!errors.As(err, &wrong) || slices.ContainsFunc(wrong, func(p config.Problem) bool {
			return strings.Contains(p.Text, "YAML") || strings.Contains(p.Text, "unknown")
		})) {
			t.Errorf("%v\n%s", err, r.Config)
		}
	})
}
