package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// registered is a node with a schema registry that asks for names.
func registered(t *testing.T) (at, password string) {
	t.Helper()
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	e := expect(t, exitOK, "", "", "passwd", users, "anna", "--token", "--role", "device", "-o", "json")
	var made map[string]string
	if err := json.Unmarshal([]byte(e.out.String()), &made); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(made["token"]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "millrace.yaml")
	text := fmt.Sprintf("listeners: {mqtt: [], kafka: [], http: {bind: ''}, registry: [{bind: 127.0.0.1:0, auth: [token]}]}\nauth: {passwords: file:%s}\nlog: {data: %s}\n", users, filepath.Join(dir, "data"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	node := start(t, nil, "serve", "--config", file)
	t.Cleanup(func() {
		node.cancel()
		node.wait()
	})
	return node.until(`protocol="schema registry" address=(127\.0\.0\.1:\d+)`)[1], "file:" + secret
}

func TestSchemaCommands(t *testing.T) {
	at, secret := registered(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	anna := func(code int, out, err string, args ...string) *command {
		t.Helper()
		return expect(t, code, out, err, append(append([]string{"schema"}, args...), "--registry", at, "--token", secret)...)
	}
	first := write("first.avsc", `{"type":"record","name":"r","fields":[{"name":"a","type":"int"}]}`)
	second := write("second.avsc", `{"type":"record","name":"r","fields":[{"name":"a","type":"int"},{"name":"b","type":"int","default":1}]}`)
	broken := write("broken.avsc", `{"type":"record","name":"r","fields":[{"name":"a","type":"string"}]}`)
	money := write("money.proto", "syntax = \"proto3\";\nmessage Money { int64 cents = 1; }\n")
	order := write("order.proto", "syntax = \"proto3\";\nimport \"money.proto\";\nmessage Order { Money total = 1; }\n")

	anna(exitOK, "there are no subjects", "", "list")
	anna(exitOK, "it would be its first version", "", "check", "telemetry", first)
	anna(exitOK, "telemetry: registered, version 1, id 1", "", "register", "telemetry", first)
	anna(exitOK, "telemetry: there already, version 1, id 1", "", "register", "telemetry", first)
	anna(exitOK, "telemetry: compatible (BACKWARD)", "", "check", "telemetry", second)
	anna(exitOK, "version 2, id 2", "", "register", "telemetry", second)
	c := anna(exitFailed, "telemetry: not compatible with version 2 (BACKWARD)", "not compatible", "check", "telemetry", broken)
	if !strings.Contains(c.out.String(), "at /fields/0/type: ") || !strings.Contains(c.out.String(), "(TYPE_MISMATCH)") {
		t.Errorf("the difference: %s", &c.out)
	}
	anna(exitFailed, "", "incompatible", "register", "telemetry", broken)
	c = anna(exitFailed, "", "", "check", "telemetry", broken, "-o", "json", "--version", "1")
	var verdict struct {
		Compatible  bool
		With        int
		Differences []struct{ Kind, Path, Text string }
	}
	if err := json.Unmarshal([]byte(c.out.String()), &verdict); err != nil || verdict.Compatible || verdict.With != 1 || len(verdict.Differences) != 1 {
		t.Errorf("%v %s", err, &c.out)
	}

	anna(exitFailed, "", "money.proto", "register", "order", order)
	anna(exitOK, "registered, version 1", "", "register", "money", money)
	anna(exitFailed, "", `reference "money.proto"`, "register", "order", order, "--ref", "money.proto=nothing")
	anna(exitOK, "registered, version 1", "", "register", "order", order, "--ref", "money.proto=money")
	anna(exitOK, "refers to money.proto: money, version 1", "", "show", "order")
	anna(exitOK, "schemas that refer to it: ", "", "show", "money")
	anna(exitOK, "telemetry: version 1 of 1, 2, id 1, AVRO\ncompatibility: BACKWARD (the registry's)", "", "show", "telemetry", "--version", "1")
	anna(exitOK, "telemetry: version 2 of 1, 2", "", "show", "--id", "2")
	if c := anna(exitOK, "", "", "show", "money", "--bare"); c.out.String() != "syntax = \"proto3\";\nmessage Money { int64 cents = 1; }\n" {
		t.Errorf("%q", &c.out)
	}
	c = anna(exitOK, "", "", "list", "-o", "json")
	var list []struct {
		Subject, Type string
		Version       int
	}
	if err := json.Unmarshal([]byte(c.out.String()), &list); err != nil || len(list) != 3 || list[2].Subject != "telemetry" || list[2].Version != 2 || list[2].Type != "AVRO" {
		t.Errorf("%v %s", err, &c.out)
	}

	anna(exitOK, "BACKWARD (of all subjects that have none of their own)", "", "level")
	anna(exitOK, "telemetry: NONE", "", "level", "telemetry", "--set", "none")
	anna(exitOK, "registered, version 3", "", "register", "telemetry", broken)
	anna(exitOK, "telemetry: BACKWARD (the registry's)", "", "level", "telemetry", "--unset")

	anna(exitUsage, "", "softly: what was written with it can still be read: say --yes", "delete", "telemetry")
	anna(exitFailed, "", "money", "delete", "money", "--yes")
	anna(exitOK, "telemetry: deleted version 3, for good", "", "delete", "telemetry", "--version", "3", "--permanent", "--yes")
	anna(exitOK, "telemetry: deleted version 1, 2, softly", "", "delete", "telemetry", "--yes")
	anna(exitOK, "deleted", "", "list", "tele", "--deleted")
	anna(exitOK, "telemetry: deleted version 1, 2, for good", "", "delete", "telemetry", "--permanent", "--yes")
	anna(exitFailed, "", "not found", "show", "telemetry")
}

func TestSchemaUsage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "schema")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"its name does not say what it is", []string{"register", "s", file}},
		{"no such file", []string{"register", "s", file + ".avsc"}},
		{"write NAME=SUBJECT", []string{"check", "s", file, "-t", "JSON", "--ref", "x"}},
		{"a number from 1 on", []string{"show", "s", "--version", "0"}},
		{"which one", []string{"show"}},
		{"which one", []string{"show", "s", "--id", "1"}},
		{"exclude each other", []string{"show", "s", "--bare", "-o", "json"}},
		{"one of NONE, BACKWARD", []string{"level", "--set", "SOME"}},
		{"name a subject", []string{"level", "--unset"}},
		{"--user and --password go together", []string{"list", "--user", "anna"}},
		{"does not belong on a command line", []string{"list", "--user", "anna", "--password", "secret"}},
		{"do not belong into it", []string{"list", "--registry", "http://anna:secret@h:1"}},
		{"text or json", []string{"list", "-o", "xml"}},
	} {
		expect(t, exitUsage, "", c.want, append([]string{"schema"}, c.args...)...)
	}
	expect(t, exitFailed, "", "name another with --registry", "schema", "list", "--registry", "127.0.0.1:1")
	at, _ := registered(t)
	expect(t, exitFailed, "", "say who asks", "schema", "list", "--registry", at)
}
