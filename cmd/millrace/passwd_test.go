package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/identity"
)

func runPasswd(t *testing.T, in string, args ...string) (code int, out, err string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(context.Background(), append([]string{"passwd"}, args...), env{In: strings.NewReader(in), Out: &o, Err: &e})
	return code, o.String(), e.String()
}

func TestPasswd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	if code, out, err := runPasswd(t, "correct horse\n", file, "anna", "--stdin"); code != exitOK || !strings.Contains(out, "anna has a password") {
		t.Fatalf("%d %s %s", code, out, err)
	}
	if i, err := os.Stat(file); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", i.Mode(), err)
	}
	b, _ := os.ReadFile(file)
	os.WriteFile(file, append([]byte("# people\n"), b...), 0o600)
	code, token, err := runPasswd(t, "", file, "scraper", "--token")
	if token = strings.TrimSpace(token); code != exitOK || !strings.HasPrefix(token, "mr_") {
		t.Fatalf("%d %s %s", code, token, err)
	}
	passwords, e := identity.Load(func() ([]byte, error) { return os.ReadFile(file) })
	if e != nil {
		t.Fatal(e)
	}
	if who, err := passwords.CheckToken(token); err != nil || who.Name != "scraper" {
		t.Errorf("%+v %v", who, err)
	}
	if who, err := passwords.Check(t.Context(), "anna", "correct horse"); err != nil || who.Role != identity.Admin {
		t.Errorf("%+v %v", who, err)
	}
	_, out, _ := runPasswd(t, "", file, "--list", "-o", "json")
	var list []map[string]string
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 || list[0]["name"] != "anna" || list[1]["kind"] != "token" || len(list[0]) != 3 {
		t.Errorf("%s %v", out, err)
	}
	if _, out, _ := runPasswd(t, "", file, "--list"); !strings.Contains(out, "scraper") || strings.Contains(out, "$") {
		t.Errorf("%s", out)
	}
	if code, _, err := runPasswd(t, "", file, "anna", "--delete"); code != exitOK {
		t.Errorf("%d %s", code, err)
	}
	b, _ = os.ReadFile(file)
	if !strings.HasPrefix(string(b), "# people\nscraper:admin:$sha256$") || strings.Contains(string(b), "anna") || strings.Contains(string(b), token) {
		t.Errorf("%s", b)
	}
	if names, _ := filepath.Glob(file + "*"); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// What is wrong is named, and the file is as it was.
func TestPasswdRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	if code, _, err := runPasswd(t, "long enough\n", file, "anna", "--stdin"); code != exitOK {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(file)
	for _, c := range []struct {
		in   string
		args []string
		code int
		want string
	}{
		{"", []string{}, exitUsage, "such as: millrace passwd users anna"},
		{"", []string{"a", "b", "c"}, exitUsage, "3 arguments are too many"},
		{"", []string{file}, exitUsage, "whose password"},
		{"", []string{file, "a:b"}, exitUsage, "one of :"},
		{"", []string{file, "anna", "--token", "--delete"}, exitUsage, "exclude each other"},
		{"", []string{file, "anna", "--list"}, exitUsage, "takes no name"},
		{"", []string{file, "anna"}, exitFailed, "--stdin"},
		{"short\n", []string{file, "anna", "--stdin"}, exitFailed, "at least 8"},
		{"", []string{file, "anna", "--stdin"}, exitFailed, "at least 8"},
		{strings.Repeat("x", 5000), []string{file, "anna", "--stdin"}, exitFailed, "at most 1024"},
		{"long enough\n", []string{file, "anna", "--stdin", "--role", "king"}, exitFailed, "role"},
		{"", []string{file, "bob", "--delete"}, exitFailed, "not in the file"},
		{"", []string{filepath.Join(dir, "none"), "--list"}, exitFailed, "no such file"},
		{"long enough\n", []string{filepath.Join(dir, "no", "folder"), "anna", "--stdin"}, exitFailed, "folder"},
	} {
		code, _, err := runPasswd(t, c.in, c.args...)
		if code != c.code || !strings.Contains(err, c.want) {
			t.Errorf("%q: %d %s, want %d %s", c.args, code, err, c.code, c.want)
		}
	}
	if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
		t.Errorf("the file has changed: %s", after)
	}
	os.WriteFile(file+".new", nil, 0o600) // somebody else is at it
	if code, _, err := runPasswd(t, "", file, "bob", "--token"); code != exitFailed || !strings.Contains(err, "another millrace passwd") {
		t.Errorf("%d %s", code, err)
	}
	if _, err := os.Stat(file + ".new"); err != nil {
		t.Error("somebody else's file is removed")
	}
	os.Remove(file + ".new")
	os.WriteFile(file, []byte("damaged\n"), 0o600)
	if code, _, err := runPasswd(t, "", file, "bob", "--token"); code != exitFailed || !strings.Contains(err, "line 1") {
		t.Errorf("%d %s", code, err)
	}
	if b, _ := os.ReadFile(file); string(b) != "damaged\n" {
		t.Error("a damaged file is written over")
	}
}

// A link stays one: what it leads to is replaced.
func TestPasswdFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "users"), filepath.Join(dir, "link")
	if code, _, err := runPasswd(t, "", file, "a", "--token"); code != exitOK {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	if code, _, err := runPasswd(t, "", link, "b", "--token"); code != exitOK {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(file)
	if i, err := os.Lstat(link); err != nil || i.Mode()&os.ModeSymlink == 0 || !strings.Contains(string(b), "b:admin:") {
		t.Errorf("%v %v %s", i.Mode(), err, b)
	}
}
