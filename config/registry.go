package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Registry is a listener for clients of the schema registry.
type Registry struct {
	Bind  Address     `yaml:"bind"`
	TLS   ListenerTLS `yaml:"tls"`
	Auth  []string    `yaml:"auth"`  // links of the chain that says who is let in; see MQTT.Chain
	Hosts []string    `yaml:"hosts"` // names under which clients without an account reach it, beside addresses and localhost
}

// Admission is the listener's as that of devices: who is let in, and by what.
func (r *Registry) Admission() *MQTT { return &MQTT{Bind: r.Bind, TLS: r.TLS, Auth: r.Auth} }

// RouteSchema says what payloads a route takes, and what becomes of others.
type RouteSchema struct {
	Subject string        `yaml:"subject"`
	Version SchemaVersion `yaml:"version"`
	Check   string        `yaml:"check"`   // off | warn | dlq | reject
	Framing string        `yaml:"framing"` // none | confluent
	Message string        `yaml:"message"` // of a Protobuf schema; empty: the first one
}

// The values of a route's schema.check.
const (
	CheckOff    = "off"
	CheckWarn   = "warn"
	CheckDLQ    = "dlq"
	CheckReject = "reject"
)

// Checked tells whether payloads are looked at.
func (s *RouteSchema) Checked() bool { return s.Check != "" && s.Check != CheckOff }

// Framed tells whether payloads say by themselves of which schema they are.
func (s *RouteSchema) Framed() bool { return s.Framing == "confluent" }

// SchemaVersion is the number of a version; 0: the latest.
type SchemaVersion int

func (v *SchemaVersion) UnmarshalText(b []byte) error {
	if string(b) == "latest" {
		*v = 0
		return nil
	}
	n, err := strconv.ParseInt(string(b), 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a version; write its number, or latest", clip(string(b)))
	}
	*v = SchemaVersion(n)
	return nil
}

func (v SchemaVersion) MarshalText() ([]byte, error) {
	if v == 0 {
		return []byte("latest"), nil
	}
	return strconv.AppendInt(nil, int64(v), 10), nil
}

func (ck *checker) registry(path string, r *Registry, taken map[Address]string) {
	ck.bind(path+".bind", r.Bind, taken)
	ck.tls(path+".tls", &r.TLS)
	ck.tcpOnly(path+".bind", r.Bind)
	ck.admission(path, r.Bind, r.Admission())
	for i, h := range r.Hosts {
		if h == "" || strings.ContainsAny(h, ":/ *") {
			ck.problem(fmt.Sprintf("%s.hosts[%d]", path, i), fmt.Sprintf("%q is not a host name", clip(h)), "write a name without scheme and port, such as registry.example")
		}
	}
}

// schemasTopic is where the schema registry keeps all it knows.
const schemasTopic = "_schemas"

func (ck *checker) schema(path string, r *Route) {
	s := &r.Schema
	if r.Topic == schemasTopic {
		ck.problem(path+".topic", schemasTopic+" is the schema registry's topic", "choose another name")
	}
	if *s == (RouteSchema{}) {
		return
	}
	path += ".schema"
	if s.Subject == "" {
		ck.problem(path+".subject", "missing", "write the subject that the payloads are of, such as telemetry-value")
	}
	if len(s.Subject) > 1024 {
		ck.problem(path+".subject", "longer than 1024 bytes", "no subject has such a name")
	}
	if s.Check == "" {
		ck.problem(path+".check", "missing", "write what becomes of other payloads: warn, dlq or reject (or off)")
	} else {
		ck.oneOf(path+".check", s.Check, CheckOff, CheckWarn, CheckDLQ, CheckReject)
	}
	if s.Framing != "" {
		ck.oneOf(path+".framing", s.Framing, "none", "confluent")
	}
	if s.Framed() && s.Message != "" {
		ck.problem(path+".message", "with framing: confluent the payload says which message it is", "remove it")
	}
	if s.Check == CheckDLQ && r.Store != nil && !*r.Store {
		ck.problem(path+".check", "store: false keeps no records, so there are no dead letters", "write warn or reject")
	}
}
