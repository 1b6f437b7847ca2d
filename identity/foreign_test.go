package identity

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// mosquitto is a file that mosquitto_passwd 2.0 has made: PBKDF2 with 101 and with 1000 iterations, and SHA-512. Version 2.1 writes argon2id besides.
func mosquitto(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/mosquitto.passwd")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// cheaply has hashes made at the least cost, for the time of a test.
func cheaply(t *testing.T) {
	old := defaultArgon
	defaultArgon = argon{memory: minMemory, time: 1, threads: 1}
	t.Cleanup(func() { defaultArgon = old })
}

var mosquittoPasswords = map[string]string{"anna": "correct horse", "bert": "battery staple", "carl": "staple gun"}

func TestMosquittoFile(t *testing.T) {
	cheaply(t)
	text := mosquitto(t)
	argon, err := newArgon(nil, "by argon")
	if err != nil {
		t.Fatal(err)
	}
	text += "dora:" + argon.String() + "\n"
	p := load(t, &text)
	if p.Foreign() != 3 {
		t.Errorf("%d foreign hashes", p.Foreign())
	}
	for name, password := range mosquittoPasswords {
		if who, err := p.Check(t.Context(), name, password); err != nil || who.Name != name || who.Role != Device {
			t.Errorf("%s: %+v %v", name, who, err)
		}
		for _, wrong := range []string{"", password + "x", password[1:], mosquittoPasswords["anna"] + "\x00"} {
			if _, err := p.Check(t.Context(), name, wrong); !errors.Is(err, ErrRefused) {
				t.Errorf("%s with %q: %v", name, wrong, err)
			}
		}
	}
	if who, err := p.Check(t.Context(), "dora", "by argon"); err != nil || who.Role != Device {
		t.Errorf("%+v %v", who, err)
	}
}

func TestBadForeignLines(t *testing.T) {
	good := strings.SplitN(mosquitto(t), "\n", 2)[0]
	if _, err := Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	salt, hash := strings.Split(good, "$")[3], strings.Split(good, "$")[4]
	for _, bad := range []string{
		"anna:$7$101$" + salt, "anna:$7$101$" + salt + "$", "anna:$7$101$$" + hash, "anna:$7$0$" + salt + "$" + hash, "anna:$7$-1$" + salt + "$" + hash,
		"anna:$7$101$" + salt + "$" + hash[:80], "anna:$7$999999999$" + salt + "$" + hash, "anna:$7$0101$" + salt + "$" + hash, "anna:$7$" + salt + "$" + hash,
		"anna:$6$" + salt + "$" + hash + "$", "anna:$6$101$" + salt + "$" + hash, "anna:$5$" + salt + "$" + hash, "anna:plain text", "anna:", "anna",
		"an/na:$6$" + salt + "$" + hash, "anonymous:$6$" + salt + "$" + hash,
	} {
		if _, err := Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// disk is a password file that can be changed behind one's back, and that can fail.
type disk struct {
	text string
	fail error
}

func (d *disk) options() Options {
	return Options{Read: func() ([]byte, error) { return []byte(d.text), nil }, Save: func(edit func([]byte) ([]byte, error)) error {
		b, err := edit([]byte(d.text))
		if err == nil {
			err = d.fail
		}
		if err == nil {
			d.text = string(b)
		}
		return err
	}}
}

// A login makes a Mosquitto hash argon2id; who is connected stays, and the password stays good, before, while and after the file is saved.
func TestUpgrade(t *testing.T) {
	cheaply(t)
	d := &disk{text: "# fleet\n" + mosquitto(t)}
	p, err := Open(d.options())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := p.Upgrade(); n != 0 || err != nil {
		t.Errorf("nothing to do: %d %v", n, err)
	}
	p.Check(t.Context(), "carl", "wrong") // no occasion
	who := map[string]Principal{}
	for _, name := range []string{"anna", "bert"} {
		if who[name], err = p.Check(t.Context(), name, mosquittoPasswords[name]); err != nil {
			t.Fatal(err)
		}
	}
	d.fail = errors.New("the disk is full")
	if n, err := p.Upgrade(); n != 0 || !errors.Is(err, d.fail) {
		t.Errorf("%d %v", n, err)
	}
	if !p.Holds(who["anna"]) || p.Foreign() != 3 {
		t.Error("a failed save has changed something")
	}
	d.fail = nil
	before := strings.Split(d.text, "\n")
	if n, err := p.Upgrade(); n != 2 || err != nil || p.Foreign() != 1 {
		t.Fatalf("%d %v, %d left", n, err, p.Foreign())
	}
	after := strings.Split(d.text, "\n")
	for i, prefix := range []string{before[0], "anna:device:$argon2id$", "bert:device:$argon2id$", before[3]} {
		if !strings.HasPrefix(after[i], prefix) {
			t.Errorf("line %d is %s", i+1, after[i])
		}
	}
	for name, principal := range who {
		if !p.Holds(principal) {
			t.Errorf("%s, who is connected, has lost it", name)
		}
		again, err := p.Check(t.Context(), name, mosquittoPasswords[name])
		if err != nil || !p.Holds(again) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Check(t.Context(), name, "wrong"); !errors.Is(err, ErrRefused) {
			t.Errorf("%s with a wrong password: %v", name, err)
		}
	}
	// A new password ends both.
	f, _ := Parse([]byte(d.text))
	if err := f.SetPassword(nil, "anna", Device, "another horse"); err != nil {
		t.Fatal(err)
	}
	d.text = string(f.Bytes())
	if _, err := p.Reload(); err != nil || p.Holds(who["anna"]) || !p.Holds(who["bert"]) {
		t.Errorf("%v; the old password holds, or another's does not", err)
	}
	if len(p.heirs) != 1 {
		t.Errorf("%d heirs are remembered, want bert's", len(p.heirs))
	}
}

// A password that was changed while its old hash waited to be replaced stays changed.
func TestUpgradeDoesNotUndo(t *testing.T) {
	cheaply(t)
	d := &disk{text: mosquitto(t)}
	p, err := Open(d.options())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Check(t.Context(), "anna", mosquittoPasswords["anna"]); err != nil {
		t.Fatal(err)
	}
	f, _ := Parse([]byte(d.text))
	if err := f.SetPassword(nil, "anna", Device, "another horse"); err != nil {
		t.Fatal(err)
	}
	d.text = string(f.Bytes()) // not read by p yet
	if n, err := p.Upgrade(); n != 0 || err != nil || d.text != string(f.Bytes()) {
		t.Errorf("%d %v", n, err)
	}
	if _, err := p.Check(t.Context(), "anna", "another horse"); err != nil {
		t.Error(err)
	}
	if _, err := p.Check(t.Context(), "anna", mosquittoPasswords["anna"]); !errors.Is(err, ErrRefused) {
		t.Errorf("the old password: %v", err)
	}
	if len(p.upgrades) != 0 {
		t.Error("what came to nothing is kept")
	}
	// Nor is a broken file written over.
	if _, err := p.Check(t.Context(), "bert", mosquittoPasswords["bert"]); err != nil {
		t.Fatal(err)
	}
	d.text = "half a fi"
	if n, err := p.Upgrade(); n != 0 || err == nil || d.text != "half a fi" {
		t.Errorf("%d %v", n, err)
	}
}

// Whoever tries a password makes us hash argon2id once, be the name known, unknown, of an old hash, or a token's. Counted, not timed.
func TestConstantWork(t *testing.T) {
	cheaply(t)
	text, _ := cheap(t)
	d := &disk{text: text + strings.Replace(mosquitto(t), "anna", "alma", 1)}
	for _, save := range []bool{true, false} {
		o := d.options()
		if !save {
			o.Save = nil
		}
		p, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range [][2]string{{"anna", "correct horse"}, {"anna", "wrong"}, {"nobody", "x"}, {"prometheus", "x"}, {"alma", "correct horse"}, {"alma", "wrong"},
			{"bert", "battery staple"}, {"bert", "x"}, {"", "x"}, {"a/b", "x"}} {
			var hashed []*argon
			p.hashed = func(a *argon) { hashed = append(hashed, a) }
			p.Check(t.Context(), c[0], c[1])
			if len(hashed) != 1 {
				t.Errorf("%q: hashed %d times", c, len(hashed))
			} else if a, want := hashed[0], p.file.like; c[1] != "correct horse" && c[1] != "battery staple" && (a.memory != want.memory || a.time != want.time || a.threads != want.threads) {
				t.Errorf("%q: at the cost of %v", c, a)
			}
		}
	}
}

// What was right is known again without hashing, for its time and as long as its line stands.
func TestRemembered(t *testing.T) {
	cheaply(t)
	text, _ := cheap(t)
	now := time.Unix(1000, 0)
	hashed := 0
	p, err := Open(Options{Read: func() ([]byte, error) { return []byte(text), nil }, Remember: time.Minute, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	p.hashed = func(*argon) { hashed++ }
	check := func(name, password string, right bool, hashes int) {
		t.Helper()
		hashed = 0
		if _, err := p.Check(t.Context(), name, password); (err == nil) != right || hashed != hashes {
			t.Errorf("%s %s: %v, hashed %d times, want %d", name, password, err, hashed, hashes)
		}
	}
	check("anna", "correct horse", true, 1)
	check("anna", "correct horse", true, 0)
	check("anna", "correct horsf", false, 1)
	check("anna", "correct horsf", false, 1) // a wrong one is not remembered
	check("ann", "acorrect horse", false, 1)
	now = now.Add(time.Minute)
	check("anna", "correct horse", true, 1)
	for range defaultWorking { // and then there is no need to wait for those who guess
		p.working <- struct{}{}
	}
	check("anna", "correct horse", true, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Check(ctx, "anna", "wrong"); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	for range defaultWorking {
		<-p.working
	}
	f, _ := Parse([]byte(text))
	if err := f.SetPassword(nil, "anna", Admin, "another horse"); err != nil {
		t.Fatal(err)
	}
	text = string(f.Bytes())
	if _, err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	check("anna", "correct horse", false, 1)
}

func TestMemo(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMemo[int](func() time.Time { return now }, time.Minute, 100)
	if m.hash("a", "bc") == m.hash("ab", "c") || m.hash("a") == m.hash("a", "") || m.hash("x") == newMemo[int](nil, 0, 0).hash("x") {
		t.Error("keys are not kept apart")
	}
	for i := range 10_000 {
		m.put(m.hash(string(rune(i))), i, time.Time{})
		if len(m.of) > 100 {
			t.Fatalf("%d are remembered", len(m.of))
		}
	}
	k := m.hash("k")
	m.put(k, 7, now.Add(time.Second))
	if v, ok := m.get(k); !ok || v != 7 {
		t.Error("not remembered")
	}
	now = now.Add(time.Second)
	if _, ok := m.get(k); ok {
		t.Error("remembered beyond its limit")
	}
	m.put(k, 8, now.Add(time.Hour))
	now = now.Add(time.Minute)
	if _, ok := m.get(k); ok {
		t.Error("remembered for longer than the memo's life")
	}
	none := newMemo[int](func() time.Time { return now }, 0, 100)
	none.put(k, 1, time.Time{})
	if len(none.of) != 0 {
		t.Error("a memo without a life remembers")
	}
}
