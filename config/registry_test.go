package config

import (
	"strings"
	"testing"
)

func TestRegistry(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"off", "", ""},
		{"on", "listeners: {registry: [{bind: 127.0.0.1:8081}]}", ""},
		{"reached", "listeners: {registry: [{bind: 0.0.0.0:8081}]}", "c.yaml:1: listeners.registry[0].bind: 0.0.0.0:8081 is reached from other machines, and there is no authentication"},
		{"with logins", "auth: {passwords: p}\nlisteners: {registry: [{bind: 0.0.0.0:8081, auth: [password, token]}]}", ""},
		{"no file", "listeners: {registry: [{bind: 0.0.0.0:8081, auth: [password]}]}", "listeners.registry[0].auth[0]: there is no password file"},
		{"taken", "listeners: {registry: [{bind: 127.0.0.1:8080}]}", "listeners.registry[0].bind: 127.0.0.1:8080 is taken by listeners.http.bind"},
		{"socket", "listeners: {registry: [{bind: unix:/tmp/x}]}", "only MQTT is spoken over Unix sockets"},
		{"host", "listeners: {registry: [{bind: 127.0.0.1:8081, hosts: [http://x]}]}", "listeners.registry[0].hosts[0]"},
		{"key", "listeners:\n  registry:\n    - {bind: 127.0.0.1:8081, host: x}", "c.yaml:3: "},
		{"route", "routes: [{mqtt: a, topic: t, schema: {subject: s, version: 3, check: dlq, framing: confluent}}]", ""},
		{"latest", "routes: [{mqtt: a, topic: t, schema: {subject: s, version: latest, check: off}}]", ""},
		{"no subject", "routes:\n  - mqtt: a\n    topic: t\n    schema: {check: warn}", "c.yaml:2: routes[0].schema.subject: missing"},
		{"no check", "routes: [{mqtt: a, topic: t, schema: {subject: s}}]", "routes[0].schema.check: missing"},
		{"check", "routes: [{mqtt: a, topic: t, schema: {subject: s, check: drop}}]", `"drop" is not one of off, warn, dlq, reject`},
		{"version", "routes: [{mqtt: a, topic: t, schema: {subject: s, version: newest, check: warn}}]", `"newest" is not a version`},
		{"framing", "routes: [{mqtt: a, topic: t, schema: {subject: s, check: warn, framing: some}}]", `"some" is not one of none, confluent`},
		{"message", "routes: [{mqtt: a, topic: t, schema: {subject: s, check: warn, framing: confluent, message: M}}]", "routes[0].schema.message"},
		{"no store", "routes: [{mqtt: a, store: false, schema: {subject: s, check: dlq}}]", "store: false keeps no records, so there are no dead letters"},
		{"topic", "routes: [{mqtt: a, topic: _schemas}]", "_schemas is the schema registry's topic"},
	} {
		_, err := Parse(c.text, "c.yaml")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
