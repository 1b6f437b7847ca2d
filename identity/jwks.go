package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// The algorithms of tokens. All are of public keys: whoever can check a token cannot make one.
const (
	ES256 = "ES256"
	RS256 = "RS256"
	EdDSA = "EdDSA"
)

// Algorithms are those that there are.
var Algorithms = []string{ES256, RS256, EdDSA}

// publicKey is one key of a set. It knows what it may be used for, whatever a token says.
type publicKey struct {
	kid string
	alg string
	sum [sha256.Size]byte // of the key itself
	key crypto.PublicKey  // *ecdsa.PublicKey on P-256, *rsa.PublicKey or ed25519.PublicKey, by alg
}

// keySet is a JSON Web Key Set (RFC 7517).
type keySet struct {
	keys    []*publicKey
	of      map[string][]*publicKey // by kid, unusable ones too
	useless []error                 // keys that could not be read, though of a kind that is of use
	blanks  []*publicKey            // these, without a key: a token that may be meant for one of them is not for another
}

// Bounds on a set: keys are few, and RSA's cost grows with the cube of their length.
const (
	maxKeySet          = 256 << 10
	maxKeys            = 64
	minRSA, maxRSA     = 2048, 8192 // bits
	maxKid             = 256
	maxRSAExponentBits = 31
)

var base64URL = base64.RawURLEncoding.Strict()

// jwk is a key as it is written. Names are looked at as they are: encoding/json alone would take KID for kid.
type jwk struct{ kty, crv, kid, alg, use, x, y, n, e string }

// parseKeySet reads a set. Keys of kinds that are of no use here are passed over, and so are, with a word, those that cannot be read or
// are too weak: one of them must not keep everybody out. Where a key that was passed over makes it doubtful which key a token is
// meant for, it is for none. An empty set is one of which nobody's token is good.
func parseKeySet(b []byte) (*keySet, error) {
	if len(b) > maxKeySet {
		return nil, fmt.Errorf("the key set has %d bytes, at most %d are read", len(b), maxKeySet)
	}
	var outer map[string]json.RawMessage
	if err := json.Unmarshal(b, &outer); err != nil {
		return nil, fmt.Errorf("the key set is not a JSON object: %w", err)
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(outer["keys"], &list); err != nil || list == nil {
		return nil, errors.New(`the key set has no list "keys"`)
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys, at most %d are read", len(list), maxKeys)
	}
	s := &keySet{of: map[string][]*publicKey{}}
	for i, m := range list {
		k, err := parseKey(m)
		switch {
		case err != nil:
			s.useless = append(s.useless, fmt.Errorf("key %d of the set: %w", i+1, err))
			s.blanks = append(s.blanks, k)
		case k != nil:
			s.keys = append(s.keys, k)
		}
		if k != nil {
			s.of[k.kid] = append(s.of[k.kid], k)
		}
	}
	switch {
	case len(s.keys) > 0 || len(list) == 0:
	case len(s.useless) > 0:
		return nil, fmt.Errorf("the key set has no key that can be used: %w", errors.Join(s.useless...))
	default:
		return nil, errors.New("the key set has no key for ES256 (P-256), RS256 or EdDSA (Ed25519)")
	}
	return s, nil
}

// parseKey reads a key; nil: it is of no use here. With an error the key says only what it would have been: its kid, and its algorithm if
// that is known.
func parseKey(m map[string]json.RawMessage) (*publicKey, error) {
	var w jwk
	var err error
	for name, to := range map[string]*string{"kty": &w.kty, "crv": &w.crv, "kid": &w.kid, "alg": &w.alg, "use": &w.use, "x": &w.x, "y": &w.y, "n": &w.n, "e": &w.e} {
		if raw, there := m[name]; there && json.Unmarshal(raw, to) != nil {
			err = fmt.Errorf("%s is not a text", name)
		}
	}
	k := &publicKey{kid: w.kid}
	var read func() (crypto.PublicKey, error)
	switch {
	case w.use != "" && w.use != "sig":
		return nil, nil
	case w.kty == "EC" && w.crv == "P-256":
		k.alg, read = ES256, func() (crypto.PublicKey, error) { return ecdsaKey(&w) }
	case w.kty == "RSA":
		k.alg, read = RS256, func() (crypto.PublicKey, error) { return rsaKey(&w) }
	case w.kty == "OKP" && w.crv == "Ed25519":
		k.alg, read = EdDSA, func() (crypto.PublicKey, error) { return ed25519Key(&w) }
	case err != nil:
		return k, err
	default:
		return nil, nil
	}
	if w.alg != "" && w.alg != k.alg && (w.alg != "Ed25519" || k.alg != EdDSA) {
		return nil, nil // RS512, PS256 and the like
	}
	if err == nil && len(w.kid) > maxKid {
		err = fmt.Errorf("kid has more than %d bytes", maxKid)
	}
	if err == nil {
		k.key, err = read()
	}
	if err != nil {
		k.key = nil
		return k, fmt.Errorf("%s key: %w", w.kty, err)
	}
	k.sum = sha256.Sum256([]byte(k.alg + "\x00" + w.kid + "\x00" + w.x + "\x00" + w.y + "\x00" + w.n + "\x00" + w.e))
	return k, nil
}

func ecdsaKey(w *jwk) (*ecdsa.PublicKey, error) {
	x, errX := base64URL.DecodeString(w.x)
	y, errY := base64URL.DecodeString(w.y)
	if errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
		return nil, errors.New("x and y are not 32 bytes of base64 each")
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
}

func rsaKey(w *jwk) (*rsa.PublicKey, error) {
	n, errN := base64URL.DecodeString(w.n)
	e, errE := base64URL.DecodeString(w.e)
	if errN != nil || errE != nil {
		return nil, errors.New("n and e are not base64")
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
	exponent := new(big.Int).SetBytes(e)
	if exponent.BitLen() > maxRSAExponentBits {
		return nil, errors.New("its exponent is too large")
	}
	k.E = int(exponent.Int64())
	if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA || k.N.Bit(0) == 0 || k.E < 3 || k.E%2 == 0 {
		return nil, fmt.Errorf("it is not of %d to %d bits with an odd modulus and exponent", minRSA, maxRSA)
	}
	return k, nil
}

func ed25519Key(w *jwk) (ed25519.PublicKey, error) {
	x, err := base64URL.DecodeString(w.x)
	if err != nil || len(x) != ed25519.PublicKeySize {
		return nil, errors.New("x is not 32 bytes of base64")
	}
	return x, nil
}

// verify tells whether a signature of the key's algorithm is right.
func (k *publicKey) verify(signed, signature []byte) bool {
	sum := sha256.Sum256(signed)
	switch key := k.key.(type) {
	case *ecdsa.PublicKey:
		if len(signature) != 64 {
			return false
		}
		return ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(key, signed, signature)
	}
	return false
}

// find returns the key for a token. One that names no key is for a set that has only one of its algorithm, and none that might be.
func (s *keySet) find(kid, alg string) *publicKey {
	list := s.keys
	if kid != "" {
		list = s.of[kid]
	} else if slices.ContainsFunc(s.blanks, func(k *publicKey) bool { return k.mayBe(alg) }) {
		return nil
	}
	var found *publicKey
	for _, k := range list {
		if !k.mayBe(alg) {
			continue
		}
		if found != nil || k.key == nil {
			return nil
		}
		found = k
	}
	return found
}

// mayBe tells whether a key is, or might have been, one of an algorithm.
func (k *publicKey) mayBe(alg string) bool { return k.alg == alg || k.alg == "" }

func (s *keySet) has(sum [sha256.Size]byte) bool {
	for _, k := range s.keys {
		if k.sum == sum {
			return true
		}
	}
	return false
}
