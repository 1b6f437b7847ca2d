package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/millrace-io/millrace/identity/scram"
)

// File is a password file, with its comments: one credential a line.
type File struct {
	lines  []line
	names  map[string]*Credential
	tokens map[[sha256.Size]byte]*Credential
	like   *argon // a password's hash of the file; nil: there is none
}

// line is one line of the file; cred is nil for a comment or an empty one.
type line struct {
	text string
	cred *Credential
}

// Credential is a name, what it may do, and how it is shown.
type Credential struct {
	Name string `json:"name"`
	Role string `json:"role"`
	Kind Kind   `json:"kind"`
	// SCRAM: with the password its owner can also log in by SCRAM, without sending it.
	SCRAM bool `json:"scram,omitempty"`

	text     string
	password *argon   // or
	foreign  *foreign // or
	token    [sha256.Size]byte
	scram    []*scram.Verifier // of the same password; none, or one of each mechanism
}

// Kind tells a person's password from a generated token.
type Kind string

const (
	Password  Kind = "password"
	Token     Kind = "token"
	Mosquitto Kind = "mosquitto" // a password whose hash is Mosquitto's, until its owner has logged in
)

const (
	// Admin is the role of those who may read and change everything over HTTP.
	Admin = "admin"
	// Viewer is the role of those who may read everything over HTTP, and change nothing.
	Viewer = "viewer"
	// Device is the role of those who are only somebody: it opens no door but MQTT's and Kafka's.
	Device = "device"
)

// Roles are those that there are.
var Roles = []string{Admin, Viewer, Device}

func (c *Credential) id() credentialID { return sha256.Sum256([]byte(c.text)) }

func (c *Credential) principal() Principal {
	return Principal{Name: c.Name, Role: c.Role, credential: c.id()}
}

// MaxName is the longest name, in bytes.
const MaxName = 128

// CheckName says whether a name can be a principal's: it must be of one meaning in a file, a log line and a topic.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("the name has %d bytes, at most %d are possible", len(name), MaxName)
	case !utf8.ValidString(name):
		return errors.New("the name is not UTF-8")
	case strings.ContainsAny(name, ":/+#$"):
		return errors.New("the name has one of : / + # $")
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }):
		return errors.New("the name has a space or a control character")
	}
	return CheckPrincipal(name)
}

// tokenMark begins the hash of a token, tokenPrefix a token itself.
const (
	tokenMark   = "$sha256$"
	tokenPrefix = "mr_"
)

// isToken tells whether a text has the form of a generated token.
func isToken(s string) bool {
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok {
		return false
	}
	b, err := base64.RawURLEncoding.DecodeString(rest)
	return err == nil && len(b) == tokenBytes
}

// tokenBytes is the randomness of a token.
const tokenBytes = 32

var base64Text = base64.RawStdEncoding.Strict()

// Parse reads a file. Every wrong line is an error with its number; a file with one is not read at all.
func Parse(b []byte) (*File, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("the password file has %d bytes, at most %d are read", len(b), maxFile)
	}
	f := &File{names: map[string]*Credential{}, tokens: map[[sha256.Size]byte]*Credential{}}
	var errs []error
	number := 0
	for text := range strings.Lines(string(b)) {
		number++
		text = strings.TrimRight(text, "\r\n")
		if t := strings.TrimSpace(text); t == "" || t[0] == '#' {
			f.lines = append(f.lines, line{text: text})
			continue
		}
		c, err := parseLine(text)
		if err == nil {
			err = f.add(c)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("password file, line %d: %w", number, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs[:min(len(errs), 10)]...)
	}
	return f, nil
}

// parseLine reads name:role:hash, or name:hash as Mosquitto writes it. It never repeats what stands in the line beyond its name, which may be a secret in the wrong place.
func parseLine(text string) (*Credential, error) {
	if text != strings.TrimSpace(text) {
		return nil, errors.New("spaces around it: a line is name:role:hash")
	}
	parts := strings.SplitN(text, ":", 3)
	if len(parts) == 2 && strings.HasPrefix(parts[1], "$") {
		parts = []string{parts[0], Device, parts[1]}
	}
	if len(parts) < 3 {
		return nil, errors.New("not of the form name:role:hash; make one with `millrace passwd`")
	}
	c := &Credential{Name: parts[0], Role: parts[1], text: text}
	if err := CheckName(c.Name); err != nil {
		return nil, err
	}
	if !slices.Contains(Roles, c.Role) {
		return nil, fmt.Errorf("%s: the role is not one of %s", c.Name, strings.Join(Roles, ", "))
	}
	hash := parts[2]
	if sum, ok := strings.CutPrefix(hash, tokenMark); ok {
		b, err := base64Text.DecodeString(sum)
		if err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("%s: what follows %s is not 43 characters of base64", c.Name, tokenMark)
		}
		c.Kind, c.token = Token, [sha256.Size]byte(b)
		return c, nil
	}
	var err error
	if isForeign(hash) {
		c.Kind = Mosquitto
		c.foreign, err = parseForeign(hash)
	} else {
		c.Kind = Password
		hash, verifiers, more := strings.Cut(hash, ":")
		if c.password, err = parseArgon(hash); err == nil && more {
			c.SCRAM = true
			err = c.parseSCRAM(verifiers)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return c, nil
}

// parseSCRAM reads what follows a password's hash.
func (c *Credential) parseSCRAM(verifiers string) error {
	for text := range strings.SplitSeq(verifiers, ":") {
		v, err := scram.Parse(text)
		if err != nil {
			return err
		}
		if c.verifier(v.Mechanism) != nil {
			return fmt.Errorf("%s stands twice", v.Mechanism)
		}
		c.scram = append(c.scram, v)
	}
	return nil
}

func (c *Credential) verifier(m scram.Mechanism) *scram.Verifier {
	for _, v := range c.scram {
		if v.Mechanism == m {
			return v
		}
	}
	return nil
}

func (f *File) add(c *Credential) error {
	if f.names[c.Name] != nil {
		return fmt.Errorf("%s stands twice", c.Name)
	}
	if c.Kind == Token {
		if other := f.tokens[c.token]; other != nil {
			return fmt.Errorf("%s has the token of %s", c.Name, other.Name)
		}
		f.tokens[c.token] = c
	}
	if f.like == nil {
		f.like = c.password
	}
	f.names[c.Name] = c
	f.lines = append(f.lines, line{text: c.text, cred: c})
	return nil
}

func (f *File) find(name string) *Credential { return f.names[name] }

// nobody is a password that nobody has, as costly to check as those of the file.
func (f *File) nobody() *argon {
	a := defaultArgon
	if f.like != nil {
		a = *f.like
		a.hash = make([]byte, len(a.hash))
		return &a
	}
	a.salt, a.hash = make([]byte, saltBytes), make([]byte, hashBytes)
	return &a
}

// List returns the credentials, in the order of the file.
func (f *File) List() []Credential {
	cs := []Credential{}
	for _, l := range f.lines {
		if l.cred != nil {
			cs = append(cs, *l.cred)
		}
	}
	return cs
}

// Bytes is the file as it is to be written.
func (f *File) Bytes() []byte {
	var b bytes.Buffer
	for _, l := range f.lines {
		b.WriteString(l.text)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// MinPassword is how short a new password may be, in characters.
const MinPassword = 8

// SetPassword gives a name a password, in place of what it had. random is a source of randomness.
func (f *File) SetPassword(random io.Reader, name, role, password string) error {
	hash, err := hashPassword(random, password)
	if err != nil {
		return err
	}
	return f.set(name, role, hash)
}

// SetSCRAM is SetPassword for a password that SCRAM can be spoken with, too.
func (f *File) SetSCRAM(random io.Reader, name, role, password string) error {
	text, err := hashPassword(random, password)
	if err != nil {
		return err
	}
	for _, m := range scram.Mechanisms {
		v, err := scram.New(random, m, password)
		if err != nil {
			return err
		}
		text += ":" + v.String()
	}
	return f.set(name, role, text)
}

// hashPassword is what is kept of a new password.
func hashPassword(random io.Reader, password string) (string, error) {
	switch n := utf8.RuneCountInString(password); {
	case n < MinPassword:
		return "", fmt.Errorf("the password has %d characters, at least %d are needed", n, MinPassword)
	case len(password) > MaxPassword:
		return "", fmt.Errorf("the password has %d bytes, at most %d are possible", len(password), MaxPassword)
	}
	hash, err := newArgon(random, password)
	if err != nil {
		return "", err
	}
	return hash.String(), nil
}

// SetToken gives a name a new token, in place of what it had, and returns it: the file has only its hash.
func (f *File) SetToken(random io.Reader, name, role string) (token string, err error) {
	if random == nil {
		random = rand.Reader
	}
	secret := make([]byte, tokenBytes)
	if _, err := io.ReadFull(random, secret); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(secret)
	sum := sha256.Sum256([]byte(token))
	return token, f.set(name, role, tokenMark+base64Text.EncodeToString(sum[:]))
}

// set puts a credential where the name stood, or at the end.
func (f *File) set(name, role, hash string) error {
	c, err := parseLine(name + ":" + role + ":" + hash)
	if err != nil {
		return err
	}
	old := f.names[name]
	if old == nil {
		return f.add(c)
	}
	delete(f.tokens, old.token)
	if c.Kind == Token {
		f.tokens[c.token] = c
	}
	f.names[name] = c
	f.lines[f.index(name)] = line{text: c.text, cred: c}
	return nil
}

func (f *File) index(name string) int {
	return slices.IndexFunc(f.lines, func(l line) bool { return l.cred != nil && l.cred.Name == name })
}

// Delete removes a name; false: it was not there.
func (f *File) Delete(name string) bool {
	c := f.names[name]
	if c == nil {
		return false
	}
	i := f.index(name)
	f.lines = slices.Delete(f.lines, i, i+1)
	delete(f.names, name)
	delete(f.tokens, c.token)
	return true
}
