package config

import (
	"strings"
	"testing"
)

func TestBridges(t *testing.T) {
	c, err := Parse(`
bridges:
- name: cloud
  remote: {url: "mqtts://broker.example", client_id: site-7, username: site-7, password: "env:CLOUD_PASSWORD", version: 3.1.1, keep_alive: 30s}
  out: [{filter: "fleet/#", remote_prefix: "site-7/", qos: 2, retain: false}]
  both: [{filter: "state/#"}]
  buffer: {max_age: 7d, max_bytes: 1GiB}
`, "test")
	if err != nil {
		t.Fatal(err)
	}
	b := &c.Bridges[0]
	if a, tls, err := b.Remote.Host(); a != "broker.example:8883" || !tls || err != nil {
		t.Errorf("%q, %v, %v", a, tls, err)
	}
	if len(b.All(true)) != 2 || len(b.All(false)) != 1 || *b.Out[0].QoS != 2 || b.Remote.Password.File() != "" {
		t.Errorf("%+v", b)
	}
	t.Setenv("CLOUD_PASSWORD", "x")
	if v, err := b.Remote.Password.Variable(); v != "x" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

func TestBadBridges(t *testing.T) {
	for text, want := range map[string]string{
		`[{name: a/b, remote: {url: mqtt://127.0.0.1}, out: [{filter: a}]}]`:                                                                               "must not have",
		`[{name: a, remote: {url: "http://h"}, out: [{filter: a}]}]`:                                                                                       "not spoken",
		`[{name: a, remote: {url: "mqtt://u:p@h"}, out: [{filter: a}]}]`:                                                                                   "not the URL",
		`[{name: a, remote: {url: "mqtt://h", username: u, password: "env:P"}, out: [{filter: a}]}]`:                                                       "in the clear",
		`[{name: a, remote: {url: "mqtt://h", tls: {insecure: true}}, out: [{filter: a}]}]`:                                                                "without TLS",
		`[{name: a, remote: {url: "mqtts://h", password: secret}, out: [{filter: a}]}]`:                                                                    "never written here",
		`[{name: a, remote: {url: "mqtts://h", password: "env:P", version: 3.1.1}, out: [{filter: a}]}]`:                                                   "user name",
		`[{name: a, remote: {url: "mqtts://h"}}]`:                                                                                                          "nothing goes over",
		`[{name: a, remote: {url: "mqtts://h"}, in: [{filter: a, retain: false}]}]`:                                                                        "keeps its retain flag",
		`[{name: a, remote: {url: "mqtts://h"}, in: [{filter: a, qos: 3}]}]`:                                                                               "not between 0 and 2",
		`[{name: a, remote: {url: "mqtts://h"}, in: [{filter: a}]}, {name: a, remote: {url: "mqtts://i"}, in: [{filter: a}]}]`:                             "is called",
		`[{name: a, remote: {url: "mqtts://h", client_id: x}, in: [{filter: a}]}, {name: b, remote: {url: "mqtts://h", client_id: x}, in: [{filter: a}]}]`: "drive each other out",
		`[{name: a, remote: {url: "mqtts://h"}, on_refusal: never, in: [{filter: a}]}]`:                                                                    "skip, retry",
	} {
		if _, err := Parse("bridges: "+text, "test"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v\nwant %q", text, err, want)
		}
	}
}
