package scram

import (
	"bytes"
	"crypto/pbkdf2"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// The example of RFC 7677.
func TestExampleOfTheRFC(t *testing.T) {
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	salted, _ := base64.StdEncoding.DecodeString("xKSVEDI6tPlSysH6mUQZOeeOp01r6B3fcJbodRPcYV0=")
	v, err := FromSalted(SHA256, salt, 4096, salted)
	if err != nil {
		t.Fatal(err)
	}
	e := NewExchange(SHA256, nil)
	if name, err := e.Name([]byte("n,,n=user,r=rOprNGfwEbeRWgbNEkqO")); name != "user" || err != nil {
		t.Fatal(name, err)
	}
	if _, err := e.Challenge(v); err != nil {
		t.Fatal(err)
	}
	const nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	e.nonce, e.first = nonce, "r="+nonce+",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" // the RFC's server drew this
	answer, err := e.Prove([]byte("c=biws,r=" + nonce + ",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="))
	if err != nil || string(answer) != "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("%s %v", answer, err)
	}
}

// client answers a challenge as one who has a password.
func client(t *testing.T, e *Exchange, first, challenge, password string) []byte {
	t.Helper()
	fields := strings.Split(challenge, ",")
	salt, err := base64.StdEncoding.DecodeString(fields[1][2:])
	if err != nil {
		t.Fatal(err)
	}
	m := e.mechanism
	salted := saltedPassword(t, m, password, salt, e.verifier.Iterations)
	without := "c=biws," + fields[0]
	key := m.hmac(salted, []byte("Client Key"))
	proof := m.hmac(m.sum(key), []byte(strings.TrimPrefix(first, "n,,")+","+challenge+","+without))
	for i := range proof {
		proof[i] ^= key[i]
	}
	return []byte(without + ",p=" + base64.StdEncoding.EncodeToString(proof))
}

func TestExchange(t *testing.T) {
	for _, m := range Mechanisms {
		v, err := New(nil, m, "correct horse")
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(v.String())
		if err != nil || again.String() != v.String() {
			t.Fatalf("%s: %v", v, err)
		}
		for password, want := range map[string]error{"correct horse": nil, "wrong horse": ErrProof} {
			const first = "n,,n=an=2Cna=3D,r=abcdefghijkl"
			e := NewExchange(m, nil)
			if name, err := e.Name([]byte(first)); name != "an,na=" || err != nil {
				t.Fatalf("%q %v", name, err)
			}
			challenge, err := e.Challenge(again)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Prove(client(t, e, first, string(challenge), password)); !errors.Is(err, want) {
				t.Errorf("%s with %q: %v", m, password, err)
			}
		}
	}
}

// Older librdkafka puts its own nonce before the whole one, and Kafka lets it.
func TestNonceOfOldLibrdkafka(t *testing.T) {
	v, err := New(nil, SHA256, "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	const first = "n,,n=anna,r=abcdefghijkl"
	for nonce, want := range map[string]error{"abcdefghijkl%": nil, "%": nil, "abcdefghijkl": ErrMalformed, "%x": ErrMalformed} {
		e := NewExchange(SHA256, nil)
		e.Name([]byte(first))
		challenge, _ := e.Challenge(v)
		last := client(t, e, first, strings.Replace(string(challenge), "r="+e.nonce, "r="+strings.Replace(nonce, "%", e.nonce, 1), 1), "correct horse")
		if _, err := e.Prove(last); want == nil && errors.Is(err, ErrMalformed) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", nonce, err)
		}
	}
}

// A verifier of nobody is passed by nobody, is the same each time, and tells names apart.
func TestNobody(t *testing.T) {
	a, b, c := Nobody([]byte("secret"), SHA256, "anna", 4096), Nobody([]byte("secret"), SHA256, "anna", 4096), Nobody([]byte("secret"), SHA256, "bert", 4096)
	if !bytes.Equal(a.Salt, b.Salt) || bytes.Equal(a.Salt, c.Salt) || a.check() != nil {
		t.Errorf("%v %v %v", a, b, c)
	}
	const first = "n,,n=anna,r=abcdefghijkl"
	for _, password := range []string{"", "secret", "anna"} {
		e := NewExchange(SHA256, nil)
		e.Name([]byte(first))
		challenge, _ := e.Challenge(a)
		if _, err := e.Prove(client(t, e, first, string(challenge), password)); !errors.Is(err, ErrProof) {
			t.Errorf("%q: %v", password, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, s := range []string{
		"", "n", "n,", "n,,", "n,,n=a", "n,,n=,r=abcdefgh", "n,,n=a,r=", "n,,n=a,r=short", "p=tls-unique,,n=a,r=abcdefgh", "n,a=b,n=a,r=abcdefgh",
		"n,,n=a=2D,r=abcdefgh", "n,,n=a,r=abcdefgh,m=x", "n,,n=a,r=abcdefgh,tokenauth=true", "n,,m=x,n=a,r=abcdefgh", "n,,n=a,r=abc\x00efgh", "n,,n=\xff,r=abcdefgh",
		"n,,n=" + strings.Repeat("a", 257) + ",r=abcdefgh", "n,,n=a,r=" + strings.Repeat("a", 5000),
	} {
		if name, err := NewExchange(SHA256, nil).Name([]byte(s)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.60q: %q %v", s, name, err)
		}
	}
	for _, s := range []string{"", "p=", "c=biws,r=x,p=AAAA", "c=biws,p=" + strings.Repeat("A", 43) + "="} {
		e := NewExchange(SHA256, nil)
		e.Name([]byte("n,,n=a,r=abcdefgh"))
		e.Challenge(Nobody(nil, SHA256, "a", 4096))
		if _, err := e.Prove([]byte(s)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "$scram-sha-256$i=4096$AAAA$$", "$scram-sha-1$i=4096$c2FsdHNhbHQ$a$b", "$SCRAM-SHA-256$i=4096$c2FsdHNhbHQ$a$b"} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%q is a verifier", s)
		}
	}
}

// Whatever comes, nobody gets in without the password.
func FuzzExchange(f *testing.F) {
	f.Add([]byte("n,,n=user,r=abcdefghijkl"), []byte("c=biws,r=x,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="))
	f.Add([]byte("y,a=user,n=user,r=abcdefghijkl,x=y"), []byte("c=eSxhPXVzZXIs,r=x,p="))
	v, err := FromSalted(SHA256, []byte("salt and salt"), 4096, make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, last []byte) {
		e := NewExchange(SHA256, bytes.NewReader(make([]byte, nonceBytes)))
		name, err := e.Name(first)
		if err != nil {
			return
		}
		if name == "" || len(name) > maxName {
			t.Errorf("the name %q", name)
		}
		if _, err := e.Challenge(v); err != nil {
			t.Fatal(err)
		}
		e.Prove(last) // it must not panic; what passes was made with the key
	})
}

func saltedPassword(t *testing.T, m Mechanism, password string, salt []byte, iterations int) []byte {
	t.Helper()
	key, err := pbkdf2.Key(m.hash(), password, salt, iterations, m.Size())
	if err != nil {
		t.Fatal(err)
	}
	return key
}
