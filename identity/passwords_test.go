package identity

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// cheap is a file with one of everything, at the least cost that a file may ask for.
func cheap(t testing.TB) (text, token string) {
	old := defaultArgon
	defaultArgon = argon{memory: minMemory, time: 1, threads: 1}
	defer func() { defaultArgon = old }()
	f, err := Parse([]byte("# who may read\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetPassword(nil, "anna", Admin, "correct horse"); err != nil {
		t.Fatal(err)
	}
	if token, err = f.SetToken(nil, "prometheus", Admin); err != nil {
		t.Fatal(err)
	}
	return string(f.Bytes()), token
}

func load(t testing.TB, text *string) *Passwords {
	p, err := Load(func() ([]byte, error) { return []byte(*text), nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCheck(t *testing.T) {
	text, token := cheap(t)
	p := load(t, &text)
	for _, c := range []struct {
		name, password string
		ok             bool
	}{
		{"anna", "correct horse", true},
		{"anna", "correct horse ", false},
		{"anna", "", false},
		{"Anna", "correct horse", false},
		{"nobody", "correct horse", false},
		{"", "", false},
		{"prometheus", token, false}, // a token is no password
		{"anna", strings.Repeat("x", MaxPassword+1), false},
		{strings.Repeat("x", MaxName+1), "correct horse", false},
	} {
		who, err := p.Check(t.Context(), c.name, c.password)
		if c.ok != (err == nil) || !c.ok && (!errors.Is(err, ErrRefused) || who != Principal{}) {
			t.Errorf("%q %q: %+v %v", c.name, c.password, who, err)
		}
		if c.ok && (who.Name != c.name || who.Role != Admin) {
			t.Errorf("%q is %+v", c.name, who)
		}
	}
	if who, err := p.CheckToken(token); err != nil || who.Name != "prometheus" || !p.Holds(who) {
		t.Errorf("%+v %v", who, err)
	}
	for _, bad := range []string{"", token[1:], token + "x", "correct horse", strings.Repeat("x", 1<<20)} {
		if _, err := p.CheckToken(bad); !errors.Is(err, ErrRefused) {
			t.Errorf("token %q: %v", bad[:min(len(bad), 50)], err)
		}
	}
}

// An empty file lets nobody in, in either way.
func TestNobody(t *testing.T) {
	text := "# nobody yet\n"
	p := load(t, &text)
	if _, err := p.Check(t.Context(), "anna", ""); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if _, err := p.CheckToken(""); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if p.Holds(Principal{}) {
		t.Error("the empty principal holds something")
	}
}

// A principal holds what it was let in with until the file says otherwise.
func TestHoldsAndReload(t *testing.T) {
	text, token := cheap(t)
	p := load(t, &text)
	anna, err := p.Check(t.Context(), "anna", "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	prom, err := p.CheckToken(token)
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := p.Reload(); changed || err != nil {
		t.Errorf("the same file: %v %v", changed, err)
	}
	good := text
	text = "nonsense"
	if _, err := p.Reload(); err == nil || !p.Holds(anna) || !p.Holds(prom) {
		t.Errorf("a wrong file was taken: %v", err)
	}
	f, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetPassword(nil, "anna", Admin, "another horse"); err != nil {
		t.Fatal(err)
	}
	text = string(f.Bytes())
	if changed, err := p.Reload(); !changed || err != nil {
		t.Fatalf("%v %v", changed, err)
	}
	if p.Holds(anna) || !p.Holds(prom) {
		t.Error("a session outlives its password, or dies with another's")
	}
	if !f.Delete("prometheus") || f.Delete("prometheus") {
		t.Error("not deleted once")
	}
	text = string(f.Bytes())
	if _, err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.CheckToken(token); p.Holds(prom) || err == nil {
		t.Error("a deleted token lives on")
	}
	if !strings.HasPrefix(text, "# who may read\n\nanna:admin:$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("comments or places are lost: %q", text)
	}
}

// A flood of logins costs no more than so many at once, and those that wait are few.
func TestBoundedWork(t *testing.T) {
	text, _ := cheap(t)
	p := load(t, &text)
	for range defaultWorking { // somebody is at it
		p.working <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	outcome := map[error]int{}
	for range 3 * defaultWaiting {
		wg.Go(func() {
			_, err := p.Check(ctx, "anna", "correct horse")
			if errors.Is(err, ErrBusy) {
				err = ErrBusy
				mu.Lock()
				if outcome[err]++; outcome[err] == 2*defaultWaiting {
					for range defaultWorking { // all the others wait: their turn
						<-p.working
					}
				}
				mu.Unlock()
				return
			}
			mu.Lock()
			outcome[err]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if outcome[nil] != defaultWaiting || outcome[ErrBusy] != 2*defaultWaiting {
		t.Errorf("%v", outcome)
	}
	if len(p.waiting) != 0 || len(p.working) != 0 {
		t.Error("a place was not given back")
	}
}

// A name that there is not is as costly to try as one that there is: nobody learns names from the time it takes. Work is compared, not
// the clock: what an unknown name is hashed with is what the known ones are.
func TestUnknownNamesCostTheSame(t *testing.T) {
	text, _ := cheap(t)
	f, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	a, b := f.find("anna").password, f.nobody()
	if a.memory != b.memory || a.time != b.time || a.threads != b.threads || len(a.hash) != len(b.hash) || len(a.salt) != len(b.salt) {
		t.Errorf("%+v and %+v", a, b)
	}
	if bytes.Equal(a.hash, b.hash) {
		t.Error("nobody has a password of somebody's")
	}
}

func TestBadLines(t *testing.T) {
	argon := "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	token := "$sha256$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	if _, err := Parse([]byte("a:admin:" + argon + "\r\nb:admin:" + token)); err != nil {
		t.Fatalf("right lines: %v", err)
	}
	for line, want := range map[string]string{
		"anna":                                    "name:role:hash",
		"anna:admin":                              "name:role:hash",
		"anna:s3cret:" + argon:                    "role",
		":admin:" + argon:                         "empty",
		"a b:admin:" + argon:                      "space",
		"a\x00:admin:" + argon:                    "control",
		"a\xff:admin:" + argon:                    "UTF-8",
		"a/b:admin:" + argon:                      "one of",
		" anna:admin:" + argon:                    "spaces around",
		"anna:admin:hunter2":                      "neither",
		"anna:admin:":                             "neither",
		"anna:admin:" + token + "A":               "43 characters",
		"anna:admin:$sha256$":                     "43 characters",
		"# x\nanna:admin:":                        "line 3",
		"q:admin:" + token + "\nq:admin:" + argon: "line 3: q stands twice",
		"q:admin:" + token + "\nr:admin:" + token: "r has the token of q",
		"anna:admin:" + strings.Replace(argon, "m=19456", "m=4294967295", 1): "possible",
		"anna:admin:" + strings.Replace(argon, "m=19456", "m=1", 1):          "possible",
		"anna:admin:" + strings.Replace(argon, "t=2", "t=0", 1):              "possible",
		"anna:admin:" + strings.Replace(argon, "t=2", "t=+2", 1):             "neither",
		"anna:admin:" + strings.Replace(argon, "p=1", "p=1,x=2", 1):          "neither",
		"anna:admin:" + strings.Replace(argon, "argon2id", "argon2i", 1):     "neither",
		"anna:admin:" + strings.Replace(argon, "v=19", "v=16", 1):            "neither",
		"anna:admin:" + argon[:len(argon)-30]:                                "bytes of base64",
		strings.Repeat("n", MaxName+1) + ":admin:" + argon:                   "at most",
	} {
		_, err := Parse([]byte("# one\n" + line))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "password file, line ") {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%q: the error repeats what may be a secret: %v", line, err)
		}
	}
	if _, err := Parse(bytes.Repeat([]byte("#\n"), maxFile)); err == nil {
		t.Error("a file without end is read")
	}
}

func TestNewPasswords(t *testing.T) {
	f, _ := Parse(nil)
	for _, bad := range [][3]string{{"anna", Admin, "short"}, {"anna", "king", "long enough"}, {"an:na", Admin, "long enough"},
		{"anna", Admin, strings.Repeat("x", MaxPassword+1)}, {"", Admin, "long enough"}} {
		if err := f.SetPassword(nil, bad[0], bad[1], bad[2]); err == nil {
			t.Errorf("%q is taken", bad[:2])
		}
	}
	if len(f.List()) != 0 || len(f.Bytes()) != 0 {
		t.Errorf("something was kept: %q", f.Bytes())
	}
	token, err := f.SetToken(nil, "t", Admin)
	if err != nil || !strings.HasPrefix(token, "mr_") || len(token) != 46 || bytes.Contains(f.Bytes(), []byte(token)) {
		t.Errorf("%q %v %q", token, err, f.Bytes())
	}
	again, _ := f.SetToken(nil, "t", Admin)
	p, err := Load(func() ([]byte, error) { return f.Bytes(), nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.CheckToken(token); err == nil || again == token {
		t.Error("a token that was replaced is taken")
	}
	if _, err := p.CheckToken(again); err != nil {
		t.Error(err)
	}
	// A source without randomness makes nothing.
	if _, err := f.SetToken(strings.NewReader("short"), "u", Admin); err == nil {
		t.Error("a token of nothing")
	}
	if err := f.SetPassword(strings.NewReader(""), "u", Admin, "long enough"); err == nil {
		t.Error("a salt of nothing")
	}
}

// What is parsed is written as it was, and parsed again the same; nothing panics.
func FuzzParse(f *testing.F) {
	text, _ := cheap(f)
	f.Add([]byte(text))
	f.Add([]byte(mosquitto(f)))
	f.Add([]byte("a:$6$AAAA$A\nb:viewer:$7$1$AAAA$"))
	f.Add([]byte("a:admin:$sha256$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n# x\r\n\n"))
	f.Add([]byte("a:admin:$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if err != nil {
			return
		}
		out := file.Bytes()
		again, err := Parse(out)
		if err != nil || !bytes.Equal(again.Bytes(), out) || !slices.EqualFunc(again.List(), file.List(), func(a, b Credential) bool { return a.principal() == b.principal() && a.Kind == b.Kind }) {
			t.Fatalf("%q became %q: %v", b, out, err)
		}
	})
}
