package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const policyConfig = `policy:
  groups:
    operators: [alice]
  rules:
    - {who: "truck-*", allow: publish, topics: ["fleet/${client}/telemetry"]}
    - {who: group:operators, allow: all, topics: ["fleet/#"]}
    - {who: "*", deny: all, topics: ["fleet/secret/#"]}
    - {who: etl, allow: all, log_topics: ["orders", "commands"], consumer_groups: ["etl-*"]}
    - {who: alice, allow: read, log_topics: ["*"]}
routes:
  - {mqtt: "fleet/{vehicle}/cmd", topic: commands, key: "{vehicle}", direction: both}
`

func TestPolicyCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.yaml")
	if err := os.WriteFile(file, []byte(policyConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(args ...string) (string, string, int) {
		c := start(t, nil, append([]string{"policy", "check", "--config", file}, args...)...)
		code := c.wait()
		return c.out.String(), c.err.String(), code
	}
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--as", "truck-7", "publish", "fleet/truck-7/telemetry"}, "allowed: " + file + ":5: {who: truck-*, allow: publish, topics: fleet/${client}/telemetry}\n", exitOK},
		{[]string{"--as", "truck-7", "--client", "other", "publish", "fleet/truck-7/telemetry"}, "denied: no rule allows it\n", exitFailed},
		{[]string{"--as", "truck-7", "--client", "a/b", "publish", "fleet/a/telemetry"}, "denied: no rule allows it: where one might", exitFailed},
		{[]string{"--as", "alice", "subscribe", "fleet/#"}, "allowed: " + file + ":6: {who: group:operators, allow: all, topics: fleet/#}\nwithheld from it: " + file + ":7: {who: *, deny: all, topics: fleet/secret/#}\n", exitOK},
		{[]string{"--as", "alice", "subscribe", "$share/g/fleet/+"}, "allowed: ", exitOK},
		{[]string{"--as", "alice", "subscribe", "$replay/-15m/fleet/+"}, "allowed: ", exitOK},
		{[]string{"--as", "alice", "receive", "fleet/secret/x"}, "denied: " + file + ":7", exitFailed},
		{[]string{"publish", "x"}, "denied: no rule", exitFailed},
		{[]string{"--as", "etl", "read", "orders"}, "allowed: " + file + ":8: {who: etl, allow: all, log_topics: orders}", exitOK},
		{[]string{"--as", "etl", "--of", "group", "read", "etl-1"}, "allowed: ", exitOK},
		{[]string{"--as", "etl", "--of", "cluster", "manage", "x"}, "denied: no rule allows it", exitFailed},
		{[]string{"--as", "etl", "write", "commands"}, "allowed: " + file + ":8: {who: etl, allow: all, log_topics: commands}; its records go on to MQTT", exitOK},
		{[]string{"--as", "alice", "read", "orders"}, "allowed: ", exitOK},
		{[]string{"--as", "alice", "read", "commands"}, "denied: " + file + ":7: {who: *, deny: all, topics: fleet/secret/#}, and MQTT's fleet/+/cmd is in the topic", exitFailed},
		{[]string{"--of", "thing", "read", "x"}, "", exitUsage},
		{[]string{"--as", "alice", "publish", "$SYS/x"}, "denied: clients may not publish", exitFailed},
		{[]string{"publish", "x/+"}, "", exitUsage},
		{[]string{"administer", "x"}, "", exitUsage},
	} {
		out, _, code := check(c.args...)
		if !strings.HasPrefix(out, c.want) || code != c.code {
			t.Errorf("%q: %d %s, want %d %s", c.args, code, out, c.code, c.want)
		}
	}
	out, _, code := check("--as", "alice", "subscribe", "fleet/#", "-o", "json")
	var j struct {
		Allowed  bool
		Groups   []string
		Rule     struct{ Where, Who, Effect, Action, Topic string }
		Withheld []struct{ Where string }
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil || code != exitOK || !j.Allowed || len(j.Groups) != 1 || j.Rule.Where != file+":6" || len(j.Withheld) != 1 {
		t.Errorf("%v %d %s", err, code, out)
	}
}

// `config check` names the line of a rule that is wrong, in a policy file too, and what is left open.
func TestConfigCheckPolicy(t *testing.T) {
	dir := t.TempDir()
	acl, file := filepath.Join(dir, "acl.yaml"), filepath.Join(dir, "m.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(args ...string) (string, int) {
		c := start(t, nil, append([]string{"config", "check", "--config", file}, args...)...)
		code := c.wait()
		return c.out.String() + c.err.String(), code
	}
	write(file, "policy: {file: "+acl+"}\n")
	if out, code := check(); code != exitUsage || !strings.Contains(out, "cannot be read") {
		t.Errorf("%d %s", code, out)
	}
	write(acl, "rules:\n  - {who: a, allow: all, topics: [x]}\n  - {who: a, allow: all, topics: ['t/%c']}\n")
	if out, code := check(); code != exitUsage || !strings.Contains(out, acl+":3: policy.rules[1].topics[0]: %c is not a variable here; write ${client}") {
		t.Errorf("%d %s", code, out)
	}
	write(acl, "rules:\n  - {who: a, allow: all, topics: [x]}\n")
	if out, code := check(); code != exitOK || out != "the configuration is right\n" {
		t.Errorf("%d %s", code, out)
	}
	write(file, "insecure_allow_anonymous: true\nlisteners: {mqtt: [{bind: ':1883'}]}\n")
	if out, code := check(); code != exitOK || !strings.Contains(out, "listeners.mqtt[0]: whoever is let in may publish and subscribe to everything") {
		t.Errorf("%d %s", code, out)
	}
	if out, code := check("-o", "json"); code != exitOK || !strings.Contains(out, `"warnings": [`) || !strings.Contains(out, "whoever is let in") {
		t.Errorf("%d %s", code, out)
	}
}
