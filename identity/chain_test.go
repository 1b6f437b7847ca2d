package identity

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/metrics"
)

// says is a link with one answer, and counts how often it was asked.
type says struct {
	g     Grant
	err   error
	asked int
}

func (s *says) Judge(context.Context, *Claim) (Grant, error) {
	s.asked++
	return s.g, s.err
}

func chainOf(links ...*says) (*Chain, *Counts) {
	counts := &Counts{}
	c := NewChain(counts)
	for i, l := range links {
		c.Add(string(rune('a'+i)), l)
	}
	return c, counts
}

// The first yes or no decides; what cannot say ends the matter; nobody's claim is refused.
func TestChain(t *testing.T) {
	yes, no, notMine, down := says{g: Grant{Name: "u"}}, says{err: ErrRefused}, says{err: ErrNotMine}, says{err: errors.New("the service is down")}
	for _, c := range []struct {
		name  string
		links []says
		want  error // nil: let in; down.err: neither let in nor refused
		asked int
		count string // link and result
	}{
		{"a yes", []says{yes, no}, nil, 1, "a accepted"},
		{"a no", []says{no, yes}, ErrRefused, 1, "a refused"},
		{"not mine", []says{notMine, yes}, nil, 2, "b accepted"},
		{"nobody's", []says{notMine, notMine}, ErrRefused, 2, "none refused"},
		{"an empty chain", nil, ErrRefused, 0, "none refused"},
		{"down, then yes", []says{down, yes}, down.err, 1, "a failed"},
		{"not mine, then down, then yes", []says{notMine, down, yes}, down.err, 2, "b failed"},
		{"busy, then yes", []says{{err: ErrBusy}, yes}, ErrBusy, 1, "a busy"},
		{"busy since time was up", []says{{err: errors.Join(ErrBusy, context.DeadlineExceeded)}, yes}, ErrBusy, 1, "a busy"},
		{"time was up", []says{{err: context.DeadlineExceeded}, yes}, context.DeadlineExceeded, 1, "a failed"},
		{"a yes with an error", []says{{g: Grant{Name: "u"}, err: ErrRefused}, yes}, ErrRefused, 1, "a refused"},
		{"a yes to nobody", []says{{}, yes}, ErrRefused, 1, "a refused"},
		{"a yes to anonymous", []says{{g: Grant{Name: Anonymous}}, yes}, ErrRefused, 1, "a refused"},
		{"a yes to a topic", []says{{g: Grant{Name: "a/b"}}, yes}, ErrRefused, 1, "a refused"},
	} {
		var links []*says
		for i := range c.links {
			l := c.links[i]
			links = append(links, &l)
		}
		chain, counts := chainOf(links...)
		g, err := chain.Judge(t.Context(), &Claim{})
		asked := 0
		for _, l := range links {
			asked += l.asked
		}
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) || (err == nil) != (g.Name == "u") || asked != c.asked {
			t.Errorf("%s: %+v %v, %d links asked", c.name, g, err, asked)
		}
		if c.want != nil && c.want != ErrRefused && errors.Is(err, ErrRefused) {
			t.Errorf("%s: taken for a refusal: %v", c.name, err)
		}
		if got := counted(counts); got != c.count {
			t.Errorf("%s: counted %q, want %q", c.name, got, c.count)
		}
	}
}

// counted is what Counts has, without zeros.
func counted(c *Counts) string {
	var s []string
	c.Each(func(link string, by map[string]int64, took *metrics.Histogram) {
		n := int64(0)
		for _, r := range slices.Sorted(maps.Keys(by)) {
			if n += by[r]; by[r] > 0 {
				s = append(s, link+" "+r)
			}
		}
		if took.Count() != uint64(n) {
			s = append(s, "times do not add up")
		}
	})
	slices.Sort(s)
	return strings.Join(s, ", ")
}

func TestCheckPrincipal(t *testing.T) {
	for _, good := range []string{"a", "truck-7", "ops@fleet.example", "urn:dev:mac:0024be", "Żuraw 7", strings.Repeat("x", MaxPrincipal), "$SYS"} {
		if err := CheckPrincipal(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "anonymous", "a/b", "/", "+", "a#", "a\x00", "a\n", "a\x1b[2J", "a\u0085", "a\u200b", "a\u202e", "a\xff", "a\ufeff", "\ufffd", strings.Repeat("x", MaxPrincipal+1)} {
		if CheckPrincipal(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestCertificateAndAnonymous(t *testing.T) {
	until := time.Unix(2e9, 0)
	shown := Certificate{Name: "truck-7", Until: until}
	for _, c := range []struct {
		name      string
		claim     Claim
		cert, any string // the account; "": not mine
	}{
		{"nothing", Claim{ClientID: "c"}, "", Anonymous},
		{"a certificate", Claim{Certificate: shown}, "truck-7", ""},
		{"a certificate and a user name", Claim{Certificate: shown, Username: "u"}, "truck-7", ""},
		{"a user name", Claim{Username: "u"}, "", ""},
		{"a password", Claim{Password: "p"}, "", ""},
	} {
		g, err := ByCertificate{}.Judge(t.Context(), &c.claim)
		if g.Name != c.cert || (err == nil) != (c.cert != "") || err != nil && !errors.Is(err, ErrNotMine) || err == nil && g.Until != until {
			t.Errorf("%s, cert: %+v %v", c.name, g, err)
		}
		if g, err = (ByNothing{}).Judge(t.Context(), &c.claim); g.Name != c.any || (err == nil) != (c.any != "") || err != nil && !errors.Is(err, ErrNotMine) {
			t.Errorf("%s, anonymous: %+v %v", c.name, g, err)
		}
		if g, err = (Everybody{}).Judge(t.Context(), &c.claim); g.Name != Anonymous || err != nil {
			t.Errorf("%s, everybody: %+v %v", c.name, g, err)
		}
	}
}

func TestPasswordAndTokenLinks(t *testing.T) {
	cheaply(t)
	text, token := cheap(t)
	p := load(t, &text)
	jwt := "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"
	other := tokenPrefix + strings.Repeat("A", 43)
	for _, c := range []struct {
		username, password string
		byPassword         error
		byToken            error
	}{
		{"anna", "correct horse", nil, ErrNotMine},
		{"anna", "wrong", ErrRefused, ErrNotMine},
		{"anna", "", ErrNotMine, ErrNotMine},
		{"", "correct horse", ErrNotMine, ErrNotMine},
		{"", "", ErrNotMine, ErrNotMine},
		{"nobody", "correct horse", ErrNotMine, ErrNotMine}, // another link may know
		{"prometheus", token, ErrNotMine, nil},
		{"", token, ErrNotMine, nil},
		{"anna", token, ErrNotMine, ErrRefused},
		{"nobody", token, ErrNotMine, ErrRefused},
		{"prometheus", other, ErrNotMine, ErrRefused},
		{"", other, ErrNotMine, ErrRefused},
		{"prometheus", token[:40], ErrNotMine, ErrNotMine}, // a name without a password
		{"anna", "mr_smith", ErrRefused, ErrNotMine},       // somebody's password may begin so
		{"anna", jwt, ErrNotMine, ErrNotMine},
	} {
		for name, l := range map[string]struct {
			link Link
			want error
		}{"password": {p.ByPassword(), c.byPassword}, "token": {p.ByToken(), c.byToken}} {
			g, err := l.link.Judge(t.Context(), &Claim{Username: c.username, Password: c.password})
			if (l.want == nil) != (err == nil) || !errors.Is(err, l.want) {
				t.Errorf("%s: %q %q: %v, want %v", name, c.username, c.password, err, l.want)
			}
			if err == nil && (g.Name == "" || g.Holds == nil || !g.Holds()) {
				t.Errorf("%s: %q: %+v", name, c.username, g)
			}
		}
	}
}

// What a grant depends on is taken away, or replaced, or stays while others change.
func TestGrantsHold(t *testing.T) {
	cheaply(t)
	text, token := cheap(t)
	p := load(t, &text)
	anna, err := p.ByPassword().Judge(t.Context(), &Claim{Username: "anna", Password: "correct horse"})
	if err != nil {
		t.Fatal(err)
	}
	prom, err := p.ByToken().Judge(t.Context(), &Claim{Password: token})
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*File) error) {
		t.Helper()
		f, err := Parse([]byte(text))
		if err == nil {
			err = change(f)
		}
		if err != nil {
			t.Fatal(err)
		}
		text = string(f.Bytes())
		if _, err := p.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	edit(func(f *File) error { _, err := f.SetToken(nil, "another", Device); return err })
	if !anna.Holds() || !prom.Holds() {
		t.Error("others' changes end grants")
	}
	edit(func(f *File) error { _, err := f.SetToken(nil, "prometheus", Admin); return err })
	if !anna.Holds() || prom.Holds() {
		t.Error("a token that was replaced holds, or a password does not")
	}
	edit(func(f *File) error { f.Delete("anna"); return nil })
	if anna.Holds() {
		t.Error("a password that was deleted holds")
	}
}

// Roles other than those that a door lets in are as good as not there, and cost the same.
func TestRoles(t *testing.T) {
	cheaply(t)
	f, _ := Parse(nil)
	token, err := f.SetToken(nil, "truck-7", Device)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetPassword(nil, "driver", Device, "long enough"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		roles []string
		in    bool
	}{{nil, true}, {[]string{Device}, true}, {[]string{Admin}, false}} {
		p, err := Open(Options{Read: func() ([]byte, error) { return f.Bytes(), nil }, Roles: c.roles})
		if err != nil {
			t.Fatal(err)
		}
		hashed := 0
		p.hashed = func(*argon) { hashed++ }
		_, byToken := p.CheckToken(token)
		_, byPassword := p.Check(t.Context(), "driver", "long enough")
		if (byToken == nil) != c.in || (byPassword == nil) != c.in || hashed != 1 {
			t.Errorf("%v: %v, %v, hashed %d times", c.roles, byToken, byPassword, hashed)
		}
	}
}
