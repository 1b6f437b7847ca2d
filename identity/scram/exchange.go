package scram

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

var (
	// ErrMalformed: the message is not of SCRAM.
	ErrMalformed = errors.New("not a message of SCRAM")
	// ErrProof: the client has not shown that it has the password.
	ErrProof = errors.New("the proof is wrong")
)

const (
	maxMessage = 4 << 10
	maxName    = 256 // bytes
	minNonce   = 8
	nonceBytes = 18
)

// Exchange is one login. Its methods are called in their order, each once.
type Exchange struct {
	mechanism Mechanism
	random    io.Reader
	verifier  *Verifier

	name   string
	header string // of GS2, which the last message repeats
	bare   string // the client's first message without it
	first  string // ours
	nonce  string
}

// NewExchange begins a login. random is a source of randomness; nil: the system's.
func NewExchange(m Mechanism, random io.Reader) *Exchange {
	if random == nil {
		random = rand.Reader
	}
	return &Exchange{mechanism: m, random: random}
}

// Name reads the client's first message, and says who wants in.
func (e *Exchange) Name(message []byte) (string, error) {
	s := string(message)
	if len(s) > maxMessage || !utf8.ValidString(s) {
		return "", malformed("too long, or not UTF-8")
	}
	binding, rest, _ := strings.Cut(s, ",")
	authorize, bare, ok := strings.Cut(rest, ",")
	switch {
	case !ok:
		return "", malformed("no GS2 header")
	case binding != "n" && binding != "y": // n: cannot bind to a channel; y: could, and thinks that we cannot, which is so
		return "", malformed("channel binding is not offered")
	}
	e.header, e.bare = s[:len(s)-len(bare)], bare
	fields := strings.Split(bare, ",")
	if len(fields) < 2 {
		return "", malformed("no name or no nonce")
	}
	name, isName := strings.CutPrefix(fields[0], "n=")
	nonce, isNonce := strings.CutPrefix(fields[1], "r=")
	if !isName || !isNonce || !isPrintable(nonce) || len(nonce) < minNonce {
		return "", malformed("no name or no nonce")
	}
	for _, extension := range fields[2:] {
		if extension == "tokenauth=true" {
			return "", malformed("delegation tokens are not known here")
		}
		if len(extension) < 2 || extension[0] == 'm' && extension[1] == '=' {
			return "", malformed("an extension that must be understood, and is not")
		}
	}
	var err error
	if e.name, err = unescape(name); err != nil {
		return "", err
	}
	if authorize != "" {
		as, err := unescape(strings.TrimPrefix(authorize, "a="))
		if err != nil || !strings.HasPrefix(authorize, "a=") || as != e.name {
			return "", malformed("nobody acts for somebody else here")
		}
	}
	e.nonce = nonce
	return e.name, nil
}

// Challenge is the answer to the first message, for somebody of whom v is kept.
func (e *Exchange) Challenge(v *Verifier) ([]byte, error) {
	b := make([]byte, nonceBytes)
	if _, err := io.ReadFull(e.random, b); err != nil {
		return nil, fmt.Errorf("make a nonce: %w", err)
	}
	e.verifier = v
	e.nonce += text64.EncodeToString(b)
	e.first = fmt.Sprintf("r=%s,s=%s,i=%d", e.nonce, wire64.EncodeToString(v.Salt), v.Iterations)
	return []byte(e.first), nil
}

// Prove checks the client's last message. The answer shows the client that we know its verifier; there is none for who does not pass.
func (e *Exchange) Prove(message []byte) ([]byte, error) {
	s := string(message)
	at := strings.LastIndex(s, ",p=")
	if len(s) > maxMessage || at < 0 {
		return nil, malformed("no proof")
	}
	without := s[:at]
	proof, err := wire64.DecodeString(s[at+len(",p="):])
	if err != nil || len(proof) != e.mechanism.Size() {
		return nil, malformed("no proof")
	}
	fields := strings.Split(without, ",")
	if len(fields) < 2 || fields[0] != "c="+wire64.EncodeToString([]byte(e.header)) {
		return nil, malformed("it is bound to another channel")
	}
	if !strings.HasPrefix(fields[1], "r=") || !strings.HasSuffix(fields[1], e.nonce) { // librdkafka 2.0 says its own part twice
		return nil, malformed("it answers something else")
	}
	signed := []byte(e.bare + "," + e.first + "," + without)
	m, v := e.mechanism, e.verifier
	clientKey := m.hmac(v.StoredKey, signed)
	subtle.XORBytes(clientKey, clientKey, proof)
	if subtle.ConstantTimeCompare(m.sum(clientKey), v.StoredKey) != 1 {
		return nil, ErrProof
	}
	return []byte("v=" + wire64.EncodeToString(m.hmac(v.ServerKey, signed))), nil
}

func malformed(text string) error { return fmt.Errorf("%w: %s", ErrMalformed, text) }

// isPrintable is what the RFC calls so: no comma, no blank.
func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == ',' {
			return false
		}
	}
	return s != ""
}

// unescape reads a name, in which =2C is a comma and =3D is =.
func unescape(s string) (string, error) {
	var b strings.Builder
	for s != "" {
		text, after, found := strings.Cut(s, "=")
		b.WriteString(text)
		if !found {
			break
		}
		switch {
		case strings.HasPrefix(after, "2C"):
			b.WriteByte(',')
		case strings.HasPrefix(after, "3D"):
			b.WriteByte('=')
		default:
			return "", malformed("the name is not escaped as it should be")
		}
		s = after[2:]
	}
	if b.Len() == 0 || b.Len() > maxName {
		return "", malformed("the name is empty, or too long")
	}
	return b.String(), nil
}
