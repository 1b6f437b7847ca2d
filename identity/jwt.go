package identity

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"
)

// JWTOptions say which tokens are good. Keys and Audience are required.
type JWTOptions struct {
	Keys       *Keys
	Audience   string
	Issuer     string   // "": whoever has a key
	NameClaim  string   // whose value is the account; default sub
	Algorithms []string // of the tokens; default all of Algorithms
	// MatchUsername refuses a token that comes with a user name other than its account's. Otherwise the user name is not looked at.
	MatchUsername bool
	Now           func() time.Time // default time.Now
}

// ByJWT is the link for JSON Web Tokens (RFC 7519) in the password's place, signed by one of a set of public keys. It is our own because little of it is
// signatures, which are the standard library's: the key set, the choice of the key by its kind rather than by the token's word, and the
// claims are what is to be right.
type ByJWT struct{ o JWTOptions }

// NewJWT returns the link.
func NewJWT(o JWTOptions) *ByJWT {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NameClaim == "" {
		o.NameClaim = "sub"
	}
	if len(o.Algorithms) == 0 {
		o.Algorithms = Algorithms
	}
	return &ByJWT{o}
}

// maxJWT is the longest token, in bytes.
const maxJWT = 8 << 10

// clockSkew is how far the issuer's clock may be ahead of ours.
const clockSkew = time.Minute

// token is a JWT, taken apart and not believed yet.
type token struct {
	header, claims    map[string]json.RawMessage
	signed, signature []byte
}

// isJWT tells whether a text looks like a signed token: a JSON object and two more parts, in base64.
func isJWT(s string) bool {
	return strings.HasPrefix(s, "eyJ") && strings.Count(s, ".") == 2
}

var errNoToken = refusal("it is not a signed JSON Web Token")

func parseJWT(s string) (*token, error) {
	parts := strings.Split(s, ".")
	if len(s) > maxJWT || len(parts) != 3 || strings.ContainsAny(s, "\r\n") { // which the base64 decoder would pass over
		return nil, errNoToken
	}
	var b [3][]byte
	for i, p := range parts {
		var err error
		if b[i], err = base64URL.DecodeString(p); err != nil {
			return nil, errNoToken
		}
	}
	t := &token{signed: []byte(s[:len(s)-len(parts[2])-1]), signature: b[2]}
	if json.Unmarshal(b[0], &t.header) != nil || json.Unmarshal(b[1], &t.claims) != nil || t.header == nil || t.claims == nil {
		return nil, errNoToken
	}
	return t, nil
}

// text is a value that must be a text; "": it is not there.
func text(m map[string]json.RawMessage, name string) (s string, err error) {
	if raw, there := m[name]; there && (json.Unmarshal(raw, &s) != nil || s == "") {
		return "", refusal("the token's " + name + " is not a text")
	}
	return s, nil
}

// date is a claim that is a time, in seconds since 1970.
func (t *token) date(name string) (at time.Time, there bool, err error) {
	raw, there := t.claims[name]
	if !there {
		return at, false, nil
	}
	var s float64
	if json.Unmarshal(raw, &s) != nil || math.IsNaN(s) || s < 1 || s > 1<<40 {
		return at, false, refusal("the token's " + name + " is not a time")
	}
	whole, part := math.Modf(s)
	return time.Unix(int64(whole), int64(part*1e9)), true, nil
}

// Judge implements Link.
func (l *ByJWT) Judge(ctx context.Context, c *Claim) (Grant, error) {
	if !isJWT(c.Password) {
		return Grant{}, ErrNotMine
	}
	t, err := parseJWT(c.Password)
	if err != nil {
		return Grant{}, err
	}
	key, err := l.signer(ctx, t)
	if err != nil {
		return Grant{}, err
	}
	g, err := l.accept(t)
	if err != nil {
		return Grant{}, err
	}
	if l.o.MatchUsername && c.Username != "" && c.Username != g.Name {
		return Grant{}, refusal("the user name is not the token's")
	}
	keys, sum := l.o.Keys, key.sum
	g.Holds = func() bool { return keys.holds(sum) }
	return g, nil
}

// signer finds out who has signed a token.
func (l *ByJWT) signer(ctx context.Context, t *token) (*publicKey, error) {
	alg, err := text(t.header, "alg")
	if err != nil || !slices.Contains(l.o.Algorithms, alg) {
		return nil, refusal("the token's algorithm is not accepted")
	}
	if _, critical := t.header["crit"]; critical {
		return nil, refusal("the token has a header that must be understood, and is not")
	}
	kid, err := text(t.header, "kid")
	if err != nil {
		return nil, err
	}
	key, err := l.o.Keys.find(ctx, kid, alg)
	switch {
	case errors.Is(err, errNoKey):
		return nil, refusal("the token is signed with a key that is not in the set")
	case err != nil:
		return nil, err
	case !key.verify(t.signed, t.signature):
		return nil, refusal("the token's signature is wrong")
	}
	return key, nil
}

// accept looks at the claims of a token that is signed as it should be.
func (l *ByJWT) accept(t *token) (g Grant, err error) {
	now := l.o.Now()
	expires, there, err := t.date("exp")
	if err == nil && !there {
		err = refusal("the token has no exp: it would be good for ever")
	}
	if err == nil && !now.Before(expires) {
		err = refusal("the token has expired")
	}
	if err != nil {
		return g, err
	}
	for _, name := range []string{"nbf", "iat"} {
		from, there, err := t.date(name)
		if err == nil && there && now.Add(clockSkew).Before(from) {
			err = refusal("the token is not good yet")
		}
		if err != nil {
			return g, err
		}
	}
	if err := l.meant(t); err != nil {
		return g, err
	}
	name, err := text(t.claims, l.o.NameClaim)
	if err == nil && name == "" {
		err = refusal("the token has no " + l.o.NameClaim)
	}
	return Grant{Name: name, Until: expires}, err
}

// meant tells whether a token is of the issuer, and for us.
func (l *ByJWT) meant(t *token) error {
	if l.o.Issuer != "" {
		if iss, err := text(t.claims, "iss"); err != nil || iss != l.o.Issuer {
			return refusal("the token is of another issuer")
		}
	}
	var one string
	var several []string
	if raw := t.claims["aud"]; json.Unmarshal(raw, &one) != nil {
		if json.Unmarshal(raw, &several) != nil {
			return refusal("the token has no aud")
		}
	}
	if l.o.Audience == "" || one != l.o.Audience && !slices.Contains(several, l.o.Audience) {
		return refusal("the token is for another audience")
	}
	return nil
}
