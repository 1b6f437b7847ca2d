package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMigrateImport(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	acl := write("acl", "user anna\ntopic fleet/#\n")
	conf := write("mosquitto.conf", "listener 1883 127.0.0.1\nallow_anonymous true\nmount_point \x1b[31msite/\nacl_file "+acl+
		"\nconnection c\naddress 127.0.0.1:1884\nremote_username c\nremote_password wonder\ntopic # both 1\n")
	call := func(args ...string) (code int, out, errs string) {
		var o, e bytes.Buffer
		code = run(t.Context(), append([]string{"migrate", "import"}, args...), env{Out: &o, Err: &e})
		return code, o.String(), e.String()
	}
	out := filepath.Join(dir, "new")
	code, said, errs := call(conf, "--out", out)
	if code != exitOK || !strings.Contains(said, "Next: millrace serve --config "+filepath.Join(out, "millrace.yaml")) || !strings.Contains(said, "NOT CARRIED OVER") || strings.ContainsRune(said, 0x1b) {
		t.Errorf("%d %s %s", code, said, errs)
	}
	if text, err := os.ReadFile(filepath.Join(out, "policy.yaml")); err != nil || !strings.Contains(string(text), `who: "anna"`) {
		t.Errorf("%v %s", err, text)
	}
	if i, err := os.Stat(filepath.Join(out, "bridge-c.password")); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", i, err)
	}
	if code, said, _ := configCheck(t, filepath.Join(out, "millrace.yaml")); code != exitOK {
		t.Errorf("config check: %d %s", code, said)
	}
	if code, _, errs := call(conf, "--out", out); code != exitFailed || !strings.Contains(errs, "is there already") {
		t.Errorf("it was overwritten: %d %s", code, errs)
	}
	code, said, _ = call(conf, "--out", filepath.Join(dir, "json"), "-o", "json")
	var got struct {
		Files []string
		Notes []struct{ Where, Option, Level, Text string }
		Wrong string
	}
	if err := json.Unmarshal([]byte(said), &got); err != nil || code != exitOK || len(got.Files) != 2 || len(got.Notes) == 0 || got.Wrong != "" {
		t.Errorf("%d %v %s", code, err, said)
	}
	for name, args := range map[string][]string{"no file": nil, "two files": {"a", "b"}} {
		if code, _, _ := call(args...); code != exitUsage {
			t.Errorf("%s: %d", name, code)
		}
	}
	if code, _, errs := call(filepath.Join(dir, "gone")); code != exitFailed || !strings.Contains(errs, "gone") {
		t.Errorf("%d %s", code, errs)
	}
}

func configCheck(t *testing.T, file string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = run(t.Context(), []string{"config", "check", "--config", file}, env{Out: &o, Err: &e})
	return code, o.String(), e.String()
}
