// Package scram is the server's side of SCRAM (RFC 5802, RFC 7677) as Kafka clients speak it: what is kept of a password so
// that somebody can be asked for it, and the exchange in which they show that they have it without sending it.
//
// It is pure: randomness is an argument, there are no goroutines and nothing on disk. It will never hold a password, bind to a
// TLS channel, or tell an exchange with a name that there is from one with a name that there is not.
package scram

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
)

// Mechanism is the name of one, as SASL has it.
type Mechanism string

// The mechanisms.
const (
	SHA256 Mechanism = "SCRAM-SHA-256"
	SHA512 Mechanism = "SCRAM-SHA-512"
)

// Mechanisms are all there are, the stronger one first.
var Mechanisms = []Mechanism{SHA512, SHA256}

func (m Mechanism) hash() func() hash.Hash {
	if m == SHA512 {
		return sha512.New
	}
	return sha256.New
}

// Size is how many bytes a key of the mechanism has.
func (m Mechanism) Size() int { return m.hash()().Size() }

func (m Mechanism) hmac(key []byte, text ...[]byte) []byte {
	h := hmac.New(m.hash(), key)
	for _, t := range text {
		h.Write(t)
	}
	return h.Sum(nil)
}

func (m Mechanism) sum(b []byte) []byte {
	h := m.hash()()
	h.Write(b)
	return h.Sum(nil)
}

// Verifier is what is kept of a password. Whoever has it can try passwords on it, and can pose as the server; nobody can log in
// with it.
type Verifier struct {
	Mechanism  Mechanism
	Iterations int
	Salt       []byte
	StoredKey  []byte
	ServerKey  []byte
}

// Bounds of Iterations, as Kafka has them, and what a new verifier has.
const (
	MinIterations     = 4096
	MaxIterations     = 16384
	DefaultIterations = MaxIterations
)

const (
	saltBytes        = 16
	minSalt, maxSalt = 8, 64
)

// New makes a verifier of a password. random is a source of randomness; nil: the system's.
func New(random io.Reader, m Mechanism, password string) (*Verifier, error) {
	if random == nil {
		random = rand.Reader
	}
	salt := make([]byte, saltBytes)
	if _, err := io.ReadFull(random, salt); err != nil {
		return nil, fmt.Errorf("make a salt: %w", err)
	}
	salted, err := pbkdf2.Key(m.hash(), password, salt, DefaultIterations, m.Size())
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	return FromSalted(m, salt, DefaultIterations, salted)
}

// FromSalted makes a verifier of a password that somebody else has salted already.
func FromSalted(m Mechanism, salt []byte, iterations int, salted []byte) (*Verifier, error) {
	v := &Verifier{Mechanism: m, Iterations: iterations, Salt: salt,
		StoredKey: m.sum(m.hmac(salted, []byte("Client Key"))), ServerKey: m.hmac(salted, []byte("Server Key"))}
	if len(salted) != m.Size() {
		return nil, fmt.Errorf("a salted password of %s has %d bytes, not %d", m, m.Size(), len(salted))
	}
	return v, v.check()
}

func (v *Verifier) check() error {
	switch {
	case v.Mechanism != SHA256 && v.Mechanism != SHA512:
		return fmt.Errorf("%q is not SCRAM-SHA-256 or SCRAM-SHA-512", string(v.Mechanism))
	case v.Iterations < MinIterations || v.Iterations > MaxIterations:
		return fmt.Errorf("%d iterations: between %d and %d are possible", v.Iterations, MinIterations, MaxIterations)
	case len(v.Salt) < minSalt || len(v.Salt) > maxSalt:
		return fmt.Errorf("the salt has %d bytes, %d to %d are possible", len(v.Salt), minSalt, maxSalt)
	case len(v.StoredKey) != v.Mechanism.Size() || len(v.ServerKey) != v.Mechanism.Size():
		return errors.New("a key is not as long as the mechanism's hash")
	}
	return nil
}

var (
	text64 = base64.RawStdEncoding.Strict()
	wire64 = base64.StdEncoding.Strict() // with padding, as the RFC has it
)

// String is how a verifier is written down: $scram-sha-256$i=16384$salt$stored key$server key.
func (v *Verifier) String() string {
	return fmt.Sprintf("$%s$i=%d$%s$%s$%s", strings.ToLower(string(v.Mechanism)), v.Iterations,
		text64.EncodeToString(v.Salt), text64.EncodeToString(v.StoredKey), text64.EncodeToString(v.ServerKey))
}

var errText = errors.New("a SCRAM verifier is $scram-sha-256$i=…$salt$stored key$server key (or sha-512), with base64")

// Parse reads what String wrote.
func Parse(s string) (*Verifier, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || strings.ToLower(parts[1]) != parts[1] {
		return nil, errText
	}
	v := &Verifier{Mechanism: Mechanism(strings.ToUpper(parts[1]))}
	digits, ok := strings.CutPrefix(parts[2], "i=")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || strconv.Itoa(n) != digits {
		return nil, errText
	}
	v.Iterations = n
	for i, field := range []*[]byte{&v.Salt, &v.StoredKey, &v.ServerKey} {
		if *field, err = text64.DecodeString(parts[3+i]); err != nil {
			return nil, errText
		}
	}
	return v, v.check()
}

// Nobody is a verifier that no password passes. For a name and a secret it is always the same, so whoever asks twice for a name that there is
// not sees what they would see of one that there is.
func Nobody(secret []byte, m Mechanism, name string, iterations int) *Verifier {
	mark := m.hmac(secret, []byte(m), []byte{0}, []byte(name))
	return &Verifier{Mechanism: m, Iterations: iterations, Salt: mark[:saltBytes], StoredKey: make([]byte, m.Size()), ServerKey: m.hmac(secret, mark)}
}
