package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// issuer makes tokens, and the set of the keys that they are checked with.
type issuer struct {
	t   testing.TB
	ec  *ecdsa.PrivateKey
	rsa *rsa.PrivateKey
	ed  ed25519.PrivateKey
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	r, err2 := rsa.GenerateKey(rand.Reader, minRSA)
	_, ed, err3 := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return &issuer{t, ec, r, ed}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// keys are the issuer's as a set, with the kids of the algorithms' names.
func (i *issuer) keys() []map[string]any {
	point, err := i.ec.PublicKey.Bytes()
	if err != nil {
		i.t.Fatal(err)
	}
	return []map[string]any{
		{"kty": "EC", "crv": "P-256", "kid": ES256, "use": "sig", "alg": "ES256", "x": b64(point[1:33]), "y": b64(point[33:])},
		{"kty": "RSA", "kid": RS256, "n": b64(i.rsa.N.Bytes()), "e": b64(big.NewInt(int64(i.rsa.E)).Bytes())},
		{"kty": "OKP", "crv": "Ed25519", "kid": EdDSA, "alg": "EdDSA", "x": b64(i.ed.Public().(ed25519.PublicKey))},
		{"kty": "oct", "kid": "HS256", "k": b64([]byte("secret"))}, // of no use here
		{"kty": "EC", "crv": "P-384", "kid": "other", "x": "AA", "y": "AA"},
		{"kty": "RSA", "kid": "enc", "use": "enc", "n": "AA", "e": "AA"},
	}
}

func set(keys ...map[string]any) []byte {
	b, _ := json.Marshal(map[string]any{"keys": keys})
	return b
}

func (i *issuer) sign(alg string, signed []byte) (sig []byte) {
	i.t.Helper()
	var err error
	switch alg {
	case ES256, "ES512":
		sum := sha256.Sum256(signed)
		r, s, e := ecdsa.Sign(rand.Reader, i.ec, sum[:])
		err, sig = e, append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	case RS256:
		sum := sha256.Sum256(signed)
		sig, err = rsa.SignPKCS1v15(rand.Reader, i.rsa, crypto.SHA256, sum[:])
	case "PS256":
		sum := sha256.Sum256(signed)
		sig, err = rsa.SignPSS(rand.Reader, i.rsa, crypto.SHA256, sum[:], nil)
	case "RS512":
		sum := sha512.Sum512(signed)
		sig, err = rsa.SignPKCS1v15(rand.Reader, i.rsa, crypto.SHA512, sum[:])
	case EdDSA:
		sig = ed25519.Sign(i.ed, signed)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	return sig
}

// token makes one: header and claims over the usual ones, nil removes.
func (i *issuer) token(alg string, header, claims map[string]any) string {
	h := map[string]any{"alg": alg, "kid": alg, "typ": "JWT"}
	c := map[string]any{"iss": "https://id.example", "aud": "millrace", "sub": "truck-7", "exp": noon.Add(time.Hour).Unix()}
	for to, from := range map[*map[string]any]map[string]any{&h: header, &c: claims} {
		maps.Copy(*to, from)
		maps.DeleteFunc(*to, func(_ string, v any) bool { return v == nil })
	}
	hb, _ := json.Marshal(h)
	cb, _ := json.Marshal(c)
	signed := b64(hb) + "." + b64(cb)
	return signed + "." + b64(i.sign(alg, []byte(signed)))
}

var noon = time.Unix(1_800_000_000, 0)

func keysOf(t testing.TB, b []byte) *Keys {
	t.Helper()
	k := NewKeys(KeysOptions{Read: func(context.Context) ([]byte, error) { return b, nil }, Every: time.Hour, Least: time.Hour, Now: func() time.Time { return noon }})
	if _, err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.answer() // as if it had been asked for just now
	return k
}

func (i *issuer) link(change func(*JWTOptions)) *ByJWT {
	o := JWTOptions{Keys: keysOf(i.t, set(i.keys()...)), Audience: "millrace", Issuer: "https://id.example", Now: func() time.Time { return noon }}
	if change != nil {
		change(&o)
	}
	return NewJWT(o)
}

func judge(t testing.TB, l Link, username, password string) (Grant, error) {
	t.Helper()
	return l.Judge(t.Context(), &Claim{Username: username, Password: password})
}

func TestJWT(t *testing.T) {
	i := newIssuer(t)
	l := i.link(nil)
	for _, alg := range Algorithms {
		g, err := judge(t, l, "whatever", i.token(alg, nil, nil))
		if err != nil || g.Name != "truck-7" || g.Until != noon.Add(time.Hour) || !g.Holds() {
			t.Errorf("%s: %+v %v", alg, g, err)
		}
	}
	good := i.token(ES256, nil, nil)
	parts := strings.Split(good, ".")
	foreign := newIssuer(t)
	type m = map[string]any
	for _, c := range []struct{ name, token, want string }{
		{"another audience", i.token(ES256, nil, m{"aud": "other"}), "another audience"},
		{"audiences without ours", i.token(ES256, nil, m{"aud": []string{"a", "b"}}), "another audience"},
		{"no audience", i.token(ES256, nil, m{"aud": nil}), "no aud"},
		{"an empty audience", i.token(ES256, nil, m{"aud": ""}), "another audience"},
		{"an audience of another kind", i.token(ES256, nil, m{"aud": m{"millrace": 1}}), "no aud"},
		{"another issuer", i.token(ES256, nil, m{"iss": "https://evil.example"}), "another issuer"},
		{"no issuer", i.token(ES256, nil, m{"iss": nil}), "another issuer"},
		{"no exp", i.token(ES256, nil, m{"exp": nil}), "for ever"},
		{"exp of now", i.token(ES256, nil, m{"exp": noon.Unix()}), "expired"},
		{"exp of long ago", i.token(ES256, nil, m{"exp": 1}), "expired"},
		{"exp of 0", i.token(ES256, nil, m{"exp": 0}), "not a time"},
		{"exp below 0", i.token(ES256, nil, m{"exp": -1e300}), "not a time"},
		{"exp at the end of time", i.token(ES256, nil, m{"exp": 1e300}), "not a time"},
		{"exp in words", i.token(ES256, nil, m{"exp": "tomorrow"}), "not a time"},
		{"EXP for exp", i.token(ES256, nil, m{"exp": nil, "EXP": noon.Add(time.Hour).Unix()}), "for ever"},
		{"nbf of tomorrow", i.token(ES256, nil, m{"nbf": noon.Add(24 * time.Hour).Unix()}), "not good yet"},
		{"iat of tomorrow", i.token(ES256, nil, m{"iat": noon.Add(24 * time.Hour).Unix()}), "not good yet"},
		{"no sub", i.token(ES256, nil, m{"sub": nil}), "no sub"},
		{"sub of another kind", i.token(ES256, nil, m{"sub": 7}), "not a text"},
		{"an empty sub", i.token(ES256, nil, m{"sub": ""}), "not a text"},
		{"Sub for sub", i.token(ES256, nil, m{"sub": nil, "Sub": "root"}), "no sub"},
		{"crit", i.token(ES256, m{"crit": []string{"exp"}}, nil), "must be understood"},
		{"alg none", b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", "algorithm"},
		{"alg None", b64([]byte(`{"alg":"None"}`)) + "." + parts[1] + "." + parts[2], "algorithm"},
		{"HS256 with a public key", i.token("HS256", nil, nil), "algorithm"},
		{"ES512", i.token("ES512", m{"kid": ES256}, nil), "algorithm"},
		{"PS256", i.token("PS256", m{"kid": RS256}, nil), "algorithm"},
		{"RS512", i.token("RS512", m{"kid": RS256}, nil), "algorithm"},
		{"RS256, signed with PSS", i.token("PS256", m{"alg": RS256, "kid": RS256}, nil), "signature"},
		{"no alg", i.token(ES256, m{"alg": nil}, nil), "algorithm"},
		{"alg of another kind", i.token(ES256, m{"alg": []string{ES256}}, nil), "algorithm"},
		{"a key of another algorithm", i.token(ES256, m{"kid": RS256}, nil), "not in the set"},
		{"a key for encryption", i.token(RS256, m{"kid": "enc"}, nil), "not in the set"},
		{"an unknown key", i.token(ES256, m{"kid": "x"}, nil), "not in the set"},
		{"kid of another kind", i.token(ES256, m{"kid": 1}, nil), "not a text"},
		{"another's signature", foreign.token(ES256, nil, nil), "signature"},
		{"another's RSA signature", foreign.token(RS256, nil, nil), "signature"},
		{"another's Ed25519 signature", foreign.token(EdDSA, nil, nil), "signature"},
		{"a key in the header", foreign.token(ES256, m{"jwk": foreign.keys()[0]}, nil), "signature"},
		{"other claims", parts[0] + "." + strings.Split(i.token(ES256, nil, m{"sub": "root"}), ".")[1] + "." + parts[2], "signature"},
		{"no signature", parts[0] + "." + parts[1] + ".", "signature"},
		{"half a signature", parts[0] + "." + parts[1] + "." + parts[2][:40], "signature"},
		{"zeros for a signature", parts[0] + "." + parts[1] + "." + b64(make([]byte, 64)), "signature"},
		{"padded base64", good + "=", "not a signed"},
		{"loose base64", parts[0] + "." + parts[1] + "." + parts[2][:85] + "_", "not a signed"},
		{"a new line", good + "\n", "not a signed"},
		{"no JSON", "eyJub3BlIg.eyJub3BlIg.AAAA", "not a signed"},
		{"null", b64([]byte("null")) + "x.y.z", ""},
		{"claims that are null", parts[0] + "." + b64([]byte("null")) + "." + parts[2], "not a signed"},
		{"claims that are a list", parts[0] + "." + b64([]byte("[]")) + "." + parts[2], "not a signed"},
		{"a long one", i.token(ES256, nil, m{"x": strings.Repeat("x", maxJWT)}), "not a signed"},
	} {
		g, err := judge(t, l, "", c.token)
		want := ErrRefused
		if c.want == "" {
			want = ErrNotMine
		}
		if !errors.Is(err, want) || c.want != "" && !strings.Contains(err.Error(), c.want) || g.Name != "" {
			t.Errorf("%s: %+v %v, want %q", c.name, g, err, c.want)
		}
	}
	for _, c := range []struct {
		name   string
		link   *ByJWT
		token  string
		user   string
		accept string // the account; "": refused
	}{
		{"one of several audiences", l, i.token(ES256, nil, m{"aud": []string{"other", "millrace"}}), "", "truck-7"},
		{"an issuer's clock ahead", l, i.token(ES256, nil, m{"nbf": noon.Add(50 * time.Second).Unix(), "iat": noon.Add(50 * time.Second).Unix()}), "", "truck-7"},
		{"exp with a fraction", l, i.token(ES256, nil, m{"exp": float64(noon.Unix()) + 0.5}), "", "truck-7"},
		{"no kid, one key of the algorithm", l, i.token(EdDSA, m{"kid": nil}, nil), "", "truck-7"},
		{"any issuer", i.link(func(o *JWTOptions) { o.Issuer = "" }), i.token(ES256, nil, m{"iss": "x"}), "", "truck-7"},
		{"a claim of one's own", i.link(func(o *JWTOptions) { o.NameClaim = "device" }), i.token(ES256, nil, m{"device": "d1"}), "", "d1"},
		{"fewer algorithms", i.link(func(o *JWTOptions) { o.Algorithms = []string{EdDSA} }), i.token(ES256, nil, nil), "", ""},
		{"no audience configured", i.link(func(o *JWTOptions) { o.Audience = "" }), i.token(ES256, nil, m{"aud": ""}), "", ""},
		{"the user name matches", i.link(func(o *JWTOptions) { o.MatchUsername = true }), good, "truck-7", "truck-7"},
		{"no user name", i.link(func(o *JWTOptions) { o.MatchUsername = true }), good, "", "truck-7"},
		{"another user name", i.link(func(o *JWTOptions) { o.MatchUsername = true }), good, "truck-8", ""},
	} {
		g, err := judge(t, c.link, c.user, c.token)
		if g.Name != c.accept || (err == nil) != (c.accept != "") || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %+v %v", c.name, g, err)
		}
	}
	for _, s := range []string{"", "correct horse", "a.b.c", "eyJ", "eyJ.eyJ", tokenPrefix + strings.Repeat("A", 43)} {
		if _, err := judge(t, l, "u", s); !errors.Is(err, ErrNotMine) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// The examples of RFC 7515 (A.3) and RFC 8037 (A.4), which others have signed.
func TestSignaturesOfOthers(t *testing.T) {
	for _, c := range []struct{ key, jws string }{
		{`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`,
			"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"},
		{`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
			"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"},
	} {
		s, err := parseKeySet([]byte(`{"keys":[` + c.key + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(c.jws, ".")
		sig, _ := base64URL.DecodeString(parts[2])
		signed := parts[0] + "." + parts[1]
		if !s.keys[0].verify([]byte(signed), sig) || s.keys[0].verify([]byte(signed+"x"), sig) {
			t.Errorf("%s", c.key)
		}
	}
}

func TestBadKeySets(t *testing.T) {
	i := newIssuer(t)
	k := i.keys()
	with := func(n int, change map[string]any) []byte {
		m := maps.Clone(k[n])
		maps.Copy(m, change)
		return set(m)
	}
	type m = map[string]any
	many := make([]map[string]any, maxKeys+1)
	for n := range many {
		many[n] = k[0]
	}
	for _, c := range []struct {
		name, want string
		set        []byte
	}{
		{"nothing", "not a JSON object", nil},
		{"HTML", "not a JSON object", []byte("<html>")},
		{"a list", "not a JSON object", []byte("[]")},
		{"no keys", "no list", []byte("{}")},
		{"keys of null", "no list", []byte(`{"keys":null}`)},
		{"Keys for keys", "no list", []byte(`{"Keys":[]}`)},
		{"keys of numbers", "no list", []byte(`{"keys":[1]}`)},
		{"more than there may be", "at most", set(many...)},
		{"a large one", "at most", append(set(k...), make([]byte, maxKeySet)...)},
		{"only keys of no use", "no key for", set(k[3])},
		{"a point that is not on the curve", "EC key", with(0, m{"x": b64(make([]byte, 32))})},
		{"a short coordinate", "32 bytes", with(0, m{"x": "AAAA"})},
		{"an odd kind of coordinate", "not a text", with(0, m{"x": 5})},
		{"a short RSA key", "bits", with(1, m{"n": b64(make([]byte, 16))})},
		{"an even modulus", "bits", with(1, m{"n": b64(append(i.rsa.N.Bytes()[:255], 2))})},
		{"a long RSA key", "bits", with(1, m{"n": b64(append([]byte{1}, make([]byte, 2048)...))})},
		{"an exponent of one", "exponent", with(1, m{"e": "AQ"})},
		{"an even exponent", "exponent", with(1, m{"e": "Ag"})},
		{"a large exponent", "exponent", with(1, m{"e": b64(i.rsa.N.Bytes())})},
		{"no base64", "base64", with(1, m{"n": "!"})},
		{"a short Ed25519 key", "32 bytes", with(2, m{"x": "AAAA"})},
		{"a long kid", "kid", with(0, m{"kid": strings.Repeat("k", 1000)})},
	} {
		if _, err := parseKeySet(c.set); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if s, err := parseKeySet([]byte(`{"keys":[]}`)); err != nil || s.find("", ES256) != nil {
		t.Errorf("a set that was emptied lets nobody in, and is a set: %v", err)
	}
	s, err := parseKeySet(set(k[0], k[0], k[1]))
	if err != nil || s.find("", ES256) != nil || s.find(ES256, ES256) != nil || s.find("", RS256) == nil {
		t.Errorf("two keys of one name or none: %v", err)
	}
}

// A key that cannot be used does not take the others with it; and with it gone, no token is good that was not before: one that may be meant
// for it is for no other key.
func TestUnusableKeysArePassedOver(t *testing.T) {
	i := newIssuer(t)
	k := i.keys()
	type m = map[string]any
	with := func(n int, change m) m {
		c := maps.Clone(k[n])
		maps.Copy(c, change)
		return c
	}
	weak := b64(append([]byte{0x81}, make([]byte, 127)...)) // RSA of 1,024 bits
	for _, c := range []struct {
		name    string
		bad     m
		useless int
		barred  string // algorithm of which a token without a kid is for nobody now
	}{
		{"a short RSA key", with(1, m{"kid": "old", "n": weak}), 1, RS256},
		{"a point that is not on the curve", with(0, m{"kid": "old", "x": b64(make([]byte, 32))}), 1, ES256},
		{"a kid that is a number", with(0, m{"kid": 7}), 1, ES256},
		{"a long kid", with(0, m{"kid": strings.Repeat("k", 1000)}), 1, ES256},
		{"a kty that is a number", with(0, m{"kid": "old", "kty": 7}), 1, ES256},
		{"a short Ed25519 key", with(2, m{"kid": "old", "x": "AAAA"}), 1, EdDSA},
		{"a kind that nobody knows", m{"kty": "AKP", "kid": "new", "alg": "ML-DSA-44"}, 0, ""},
		{"a curve of no use", with(0, m{"kid": "old", "crv": "P-521"}), 0, ""},
		{"a weak key of another algorithm", with(1, m{"kid": "old", "alg": "RS512", "n": weak}), 0, ""},
		{"a weak key for encryption", with(1, m{"kid": "old", "use": "enc", "n": weak}), 0, ""},
	} {
		for _, order := range [][]map[string]any{{c.bad, k[0], k[1], k[2]}, {k[0], k[1], k[2], c.bad}} {
			s, err := parseKeySet(set(order...))
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if len(s.keys) != 3 || len(s.useless) != c.useless {
				t.Errorf("%s: %d keys, %v", c.name, len(s.keys), s.useless)
			}
			for _, alg := range Algorithms {
				if s.find(alg, alg) == nil { // the kid of the issuer's keys
					t.Errorf("%s: no %s", c.name, alg)
				}
				if found := s.find("", alg); (found == nil) != (alg == c.barred || c.name == "a kty that is a number") {
					t.Errorf("%s: a token of %s that names no key is for %v", c.name, alg, found)
				}
				if s.find("old", alg) != nil || s.find("new", alg) != nil {
					t.Errorf("%s: it is found", c.name)
				}
			}
		}
	}
	same := with(1, m{"n": weak}) // of the same kid as a good one
	if s, err := parseKeySet(set(same, k[1])); err != nil || s.find(RS256, RS256) != nil {
		t.Errorf("two keys of one name: %v", err)
	}
	if _, err := parseKeySet(set(same)); err == nil || !strings.Contains(err.Error(), "bits") {
		t.Errorf("none that can be used: %v", err)
	}
}

// server is a key set that changes, is down, or hangs.
type server struct {
	keys  atomic.Pointer[[]byte]
	down  atomic.Bool
	reads atomic.Int64
}

func (s *server) set(b []byte) { s.keys.Store(&b) }

func (s *server) read(context.Context) ([]byte, error) {
	s.reads.Add(1)
	time.Sleep(time.Second)
	if s.down.Load() {
		return nil, errors.New("the server is down")
	}
	return *s.keys.Load(), nil
}

// Keys rotate: a token of a key that has just come is good at once, one of a key that has gone is not, and whoever it let in does not hold.
func TestKeysRotate(t *testing.T) {
	old, fresh := newIssuer(t), newIssuer(t)
	synctest.Test(t, func(t *testing.T) {
		old.t, fresh.t = t, t
		var s server
		s.set(set(old.keys()...))
		k := NewKeys(KeysOptions{Read: s.read, Every: 5 * time.Minute, Least: 10 * time.Second})
		if _, err := k.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var changes atomic.Int64
		go k.Run(ctx, func(changed bool, _ error) {
			if changed {
				changes.Add(1)
			}
		})
		defer func() { stop(); synctest.Wait() }()
		l := NewJWT(JWTOptions{Keys: k, Audience: "millrace", Now: func() time.Time { return noon }})
		by := func(i *issuer, kid string) string { return i.token(ES256, map[string]any{"kid": kid}, nil) }
		g, err := judge(t, l, "", by(old, ES256))
		if err != nil || !g.Holds() {
			t.Fatal(err)
		}
		next := fresh.keys()[0]
		next["kid"] = "next"
		s.set(set(next))
		began := time.Now()
		if _, err := judge(t, l, "", by(fresh, "next")); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("a key that has just come: %v after %v", err, time.Since(began))
		}
		synctest.Wait()
		if g.Holds() || changes.Load() != 1 {
			t.Errorf("a key that has gone lets in: %d changes", changes.Load())
		}
		// Unknown keys ask for the set once in ten seconds, however many of them come, and do not wait in vain.
		before := s.reads.Load()
		began = time.Now()
		for n := range 1000 {
			if _, err := judge(t, l, "", by(old, fmt.Sprint(n))); !errors.Is(err, ErrRefused) {
				t.Fatal(err)
			}
		}
		if n := s.reads.Load() - before; n > 1 || time.Since(began) > 2*time.Second {
			t.Errorf("a thousand unknown keys: %d reads, %v", n, time.Since(began))
		}
		// While the server is down the last good set is in force; what may be in a newer one is neither good nor refused.
		s.down.Store(true)
		time.Sleep(6 * time.Minute)
		if _, err := judge(t, l, "", by(fresh, "next")); err != nil || k.Fault() == nil {
			t.Errorf("with the server down: %v, fault %v", err, k.Fault())
		}
		if _, err := judge(t, l, "", by(old, "x")); err == nil || errors.Is(err, ErrRefused) {
			t.Errorf("an unknown key with the server down: %v", err)
		}
		s.down.Store(false)
		time.Sleep(time.Minute) // it is tried again soon
		if k.Fault() != nil {
			t.Error(k.Fault())
		}
		s.set([]byte(`{"keys":[]}`))
		time.Sleep(6 * time.Minute)
		if _, err := judge(t, l, "", by(fresh, "next")); !errors.Is(err, ErrRefused) {
			t.Errorf("with a set that was emptied: %v", err)
		}
	})
}

// Without keys nobody gets in, and nobody waits for longer than their time.
func TestNoKeys(t *testing.T) {
	i := newIssuer(t)
	synctest.Test(t, func(t *testing.T) {
		i.t = t
		var s server
		s.down.Store(true)
		k := NewKeys(KeysOptions{Read: s.read, Every: time.Minute, Least: 10 * time.Second})
		l := NewJWT(JWTOptions{Keys: k, Audience: "millrace", Now: func() time.Time { return noon }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Judge(ctx, &Claim{Password: i.token(ES256, nil, nil)}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrRefused) {
			t.Errorf("with nobody who reads keys: %v", err)
		}
		if _, err := k.Refresh(t.Context()); err == nil {
			t.Error("no error")
		}
		run, stop := context.WithCancel(t.Context())
		go k.Run(run, func(bool, error) {})
		defer func() { stop(); synctest.Wait() }()
		if _, err := judge(t, l, "", i.token(ES256, nil, nil)); err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrNotMine) {
			t.Errorf("with the server down: %v", err)
		}
		s.set(set(i.keys()...))
		s.down.Store(false)
		time.Sleep(15 * time.Second)
		if _, err := judge(t, l, "", i.token(ES256, nil, nil)); err != nil {
			t.Errorf("with the server back: %v", err)
		}
	})
}

// Nothing panics, and what is let in is what the issuer has signed.
func FuzzJWT(f *testing.F) {
	i := newIssuer(f)
	l := i.link(nil)
	good := map[string]bool{}
	for _, alg := range Algorithms {
		tok := i.token(alg, nil, nil)
		good[tok] = true
		f.Add(tok)
	}
	f.Add(i.token(ES256, map[string]any{"crit": []string{"b64"}}, nil))
	f.Add(i.token(ES256, map[string]any{"kid": nil}, map[string]any{"aud": []int{1}}))
	f.Add(b64([]byte(`{"alg":"none"}`)) + "." + b64([]byte(`{"exp":1e400,"aud":{}}`)) + ".")
	f.Add("eyJ..")
	f.Fuzz(func(t *testing.T, s string) {
		g, err := l.Judge(context.Background(), &Claim{Password: s})
		if err == nil && !good[s] {
			t.Fatalf("%q is let in as %+v", s, g)
		}
		if err != nil && (g.Name != "" || g.Holds != nil) {
			t.Fatalf("%q: %+v with %v", s, g, err)
		}
	})
}

// Nothing panics, and every key that is taken can be used.
func FuzzKeySet(f *testing.F) {
	i := newIssuer(f)
	f.Add(set(i.keys()...))
	for _, k := range i.keys() {
		f.Add(set(k))
	}
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"","y":null}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseKeySet(b)
		if err != nil {
			return
		}
		if len(s.keys) > maxKeys {
			t.Fatalf("%d keys", len(s.keys))
		}
		for _, k := range s.keys {
			if k.verify([]byte("signed"), make([]byte, 64)) || !s.has(k.sum) {
				t.Fatalf("%+v", k)
			}
		}
	})
}
