package config

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
)

// Bridge joins this node with another MQTT broker. Package bridge gives it its meaning.
type Bridge struct {
	Name   string        `yaml:"name"`
	Remote BridgeRemote  `yaml:"remote"`
	Out    []BridgeTopic `yaml:"out"`
	In     []BridgeTopic `yaml:"in"`
	Both   []BridgeTopic `yaml:"both"` // as if written in out and in
	Buffer BridgeBuffer  `yaml:"buffer"`

	Window    int    `yaml:"window"`     // messages on their way at once; 0: 64, on 3.1.1 20
	OnRefusal string `yaml:"on_refusal"` // skip | retry; empty: skip
}

// BridgeRemote is the other broker.
type BridgeRemote struct {
	URL        string    `yaml:"url"` // mqtt://host:port, mqtts://host:port
	ClientID   string    `yaml:"client_id"`
	Username   string    `yaml:"username"`
	Password   Secret    `yaml:"password"`
	TLS        BridgeTLS `yaml:"tls"`
	Version    string    `yaml:"version"` // 5 | 3.1.1; empty: 5
	CleanStart bool      `yaml:"clean_start"`
	KeepAlive  Duration  `yaml:"keep_alive"`  // 0: 60s
	Private    *bool     `yaml:"private"`     // 3.1.1: say that this is a bridge; unset: yes
	StateTopic string    `yaml:"state_topic"` // empty: none
	RetryMin   Duration  `yaml:"retry_min"`   // 0: 1s
	RetryMax   Duration  `yaml:"retry_max"`   // 0: 30s
}

// BridgeTLS is what the connection to a remote is made with, beside what the system trusts.
type BridgeTLS struct {
	CA         File   `yaml:"ca"`
	Cert       File   `yaml:"cert"`
	Key        File   `yaml:"key"`
	ServerName string `yaml:"server_name"` // in its certificate; empty: the URL's host
	Insecure   bool   `yaml:"insecure"`    // whoever answers is believed
}

// BridgeTopic is a part of the topic tree that both sides share: local_prefix+filter here, remote_prefix+filter there.
type BridgeTopic struct {
	Filter       string `yaml:"filter"`
	LocalPrefix  string `yaml:"local_prefix"`
	RemotePrefix string `yaml:"remote_prefix"`
	QoS          *int   `yaml:"qos"`    // at most; unset: 1
	Retain       *bool  `yaml:"retain"` // out: the retain flag goes along; unset: yes
}

// BridgeBuffer bounds what waits in the log for a remote; zero: the log's retention does.
type BridgeBuffer struct {
	MaxAge   Duration `yaml:"max_age"`
	MaxBytes Size     `yaml:"max_bytes"` // of payloads
}

// Secret says where a secret is: file:PATH, whose first line it is, or env:NAME.
type Secret string

func (s *Secret) UnmarshalText(b []byte) error {
	text := string(b)
	name, isEnv := strings.CutPrefix(text, "env:")
	file, isFile := strings.CutPrefix(text, "file:")
	if text != "" && (!isEnv || name == "" || strings.ContainsAny(name, "=\x00 ")) && (!isFile || file == "") {
		return fmt.Errorf("a secret is never written here; write file:/path/of/the/secret or env:NAME")
	}
	*s = Secret(text)
	return nil
}

func (s Secret) MarshalText() ([]byte, error) { return []byte(s), nil }

// File is the path of the file that has the secret; "": it is in a variable, or there is none.
func (s Secret) File() string {
	file, is := strings.CutPrefix(string(s), "file:")
	if !is {
		return ""
	}
	return file
}

// Variable reads the secret's variable.
func (s Secret) Variable() (value string, err error) {
	name := strings.TrimPrefix(string(s), "env:")
	value, there := os.LookupEnv(name)
	if !there || value == "" {
		return "", fmt.Errorf("the variable %s is not set", name)
	}
	return value, nil
}

// Host is the remote's address, host:port, and whether it is spoken to over TLS.
func (r *BridgeRemote) Host() (address string, tls bool, err error) {
	u, err := url.Parse(r.URL)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return "", false, fmt.Errorf("%q is not the URL of a broker", clip(r.URL))
	}
	port := "1883"
	switch u.Scheme {
	case "mqtt", "tcp":
	case "mqtts", "ssl", "tls":
		tls, port = true, "8883"
	default:
		return "", false, fmt.Errorf("%q is not spoken to other brokers", clip(u.Scheme))
	}
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port), tls, nil
}

const maxBridges = 100

func (ck *checker) bridges() {
	if len(ck.c.Bridges) > maxBridges {
		ck.problem("bridges", fmt.Sprintf("more than %d bridges", maxBridges), "")
		return
	}
	names := map[string]string{}
	ids := map[string]string{}
	for i := range ck.c.Bridges {
		b := &ck.c.Bridges[i]
		at := fmt.Sprintf("bridges[%d]", i)
		switch other := names[b.Name]; {
		case b.Name == "":
			ck.problem(at+".name", "missing", "write a name; the bridge's place in the log is kept under it")
		case len(b.Name) > 100 || strings.ContainsAny(b.Name, "/+# \x00") || !printable(b.Name):
			ck.problem(at+".name", fmt.Sprintf("%q has a character that a topic level must not have, or is too long", clip(b.Name)), "write one such as cloud")
		case other != "":
			ck.problem(at+".name", fmt.Sprintf("%s is called %q too", other, clip(b.Name)), "choose another name")
		}
		names[b.Name] = at
		id := b.Remote.URL + " " + b.Remote.ClientID
		if other := ids[id]; other != "" && b.Remote.ClientID != "" {
			ck.problem(at+".remote.client_id", other+" has the same at the same remote, and they would drive each other out", "choose another")
		}
		ids[id] = at
		ck.bridge(at, b)
	}
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7F && r < 0xA0 || r == 0xFFFD })
}

func (ck *checker) bridge(at string, b *Bridge) {
	r := &b.Remote
	_, tls, err := r.Host()
	switch {
	case r.URL == "":
		ck.problem(at+".remote.url", "missing", "write mqtt://host:1883 or mqtts://host:8883")
	case err != nil:
		ck.problem(at+".remote.url", err.Error(), "write mqtt://host:1883 or mqtts://host:8883")
	case !tls && r.TLS != (BridgeTLS{}):
		ck.problem(at+".remote.tls", "the URL is one without TLS", "write mqtts://host:8883, or remove tls")
	case !tls && r.Password != "" && !Address(mustHost(r)).Loopback() && !ck.c.InsecureAllowAnonymous:
		ck.problem(at+".remote.password", "it would cross the network in the clear", "write mqtts://…, or accept it with insecure_allow_anonymous: true")
	}
	ck.pair(at+".remote.tls", r.TLS.Cert, r.TLS.Key)
	if r.Password != "" && r.Username == "" && r.Version == "3.1.1" {
		ck.problem(at+".remote.username", "missing: MQTT 3.1.1 sends no password without one", "write the user name")
	}
	if r.Version != "" {
		ck.oneOf(at+".remote.version", r.Version, "5", "3.1.1")
	}
	if len(r.ClientID) > 256 || !printable(r.ClientID) {
		ck.problem(at+".remote.client_id", "longer than 256 bytes, or with control characters", "write a shorter one")
	}
	if r.KeepAlive != 0 && (r.KeepAlive.Seconds() < 4 || r.KeepAlive.Seconds() > 65_535) {
		ck.problem(at+".remote.keep_alive", "not between 4s and 18h", "write a time span such as 60s")
	}
	for _, retry := range []struct {
		key string
		d   Duration
	}{{"retry_min", r.RetryMin}, {"retry_max", r.RetryMax}} {
		if retry.d < 0 || retry.d.Seconds() > 86_400 {
			ck.problem(at+".remote."+retry.key, "longer than a day", "write a time span such as 30s")
		}
	}
	if r.StateTopic != "" && strings.ContainsAny(r.StateTopic, "+#") {
		ck.problem(at+".remote.state_topic", "it has a wildcard", "write one topic")
	}
	if len(b.Out)+len(b.In)+len(b.Both) == 0 {
		ck.problem(at, "nothing goes over the bridge", "write filters in out, in or both")
	}
	for _, list := range []struct {
		key    string
		topics []BridgeTopic
	}{{"out", b.Out}, {"in", b.In}, {"both", b.Both}} {
		for i := range list.topics {
			ck.bridgeTopic(fmt.Sprintf("%s.%s[%d]", at, list.key, i), list.key, &list.topics[i])
		}
	}
	if b.Buffer.MaxAge < 0 && b.Buffer.MaxAge != Forever {
		ck.problem(at+".buffer.max_age", "negative", "write a time span such as 7d")
	}
	if b.Buffer.MaxBytes != 0 && b.Buffer.MaxBytes < 1024 {
		ck.problem(at+".buffer.max_bytes", "less than 1KiB", "write a size such as 1GiB")
	}
	ck.between(at+".window", int64(b.Window), 0, 1000)
	if b.OnRefusal != "" {
		ck.oneOf(at+".on_refusal", b.OnRefusal, "skip", "retry")
	}
}

func mustHost(r *BridgeRemote) string { a, _, _ := r.Host(); return a }

func (ck *checker) bridgeTopic(at, list string, t *BridgeTopic) {
	if t.QoS != nil {
		ck.between(at+".qos", int64(*t.QoS), 0, 2)
	}
	if list == "in" && t.Retain != nil {
		ck.problem(at+".retain", "what comes in keeps its retain flag", "remove it")
	}
}

// All lists the topics of a direction, out or in.
func (b *Bridge) All(out bool) []BridgeTopic {
	if out {
		return slices.Concat(b.Out, b.Both)
	}
	return slices.Concat(b.In, b.Both)
}
