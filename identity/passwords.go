// Package identity says who somebody is: a chain of links, each of which judges one kind of claim (a certificate, a password, a token, a JWT,
// whatever a hook says), and the password file of people, programs and devices.
//
// It reads and writes no files and sends nothing over a network (who makes a part of it passes functions that do), starts no goroutines,
// and knows neither HTTP nor MQTT. What checking costs is bounded here: passwords that are hashed at once, questions to a hook, what is remembered. It
// will never keep a password or a token, tell a client which half of a pair was wrong, or take an error for a yes. The file's format is in
// docs/formats/passwords.md.
package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

var (
	// ErrRefused: no such name, or not its password, or no such token. Which one is nobody's business.
	ErrRefused = errors.New("unknown name, or wrong password or token")
	// ErrBusy: so many are being checked that this one was not looked at.
	ErrBusy = errors.New("too many logins at once")
)

// Principal is somebody of the password file who has shown who they are.
type Principal struct {
	Name string
	Role string

	credential credentialID
}

// credentialID tells credentials apart: it is the hash of the file's line.
type credentialID [sha256.Size]byte

// Options are what Passwords are made of. Only Read is required.
type Options struct {
	Read  func() ([]byte, error) // the file; called again by Reload
	Roles []string               // that are let in; empty: all. Others are as good as not there
	// Working is how many passwords are hashed at once, each in 30 ms of a processor and 19 MiB; default 2. Waiting is how many are hashed or wait to
	// be; default 16, beyond which there is ErrBusy.
	Working, Waiting int
	// Remember is for how long a password that was right is known again without hashing, unless its line changes; 0: not at all.
	Remember time.Duration
	Now      func() time.Time // default time.Now
	// Save replaces the file by what edit makes of it, as a whole, for Upgrade; nil: hashes stay what they are.
	Save func(edit func([]byte) ([]byte, error)) error
}

// Passwords answers who has which password or token. It is safe for concurrent use.
type Passwords struct {
	o       Options
	working chan struct{} // a place for each password that is hashed at once
	waiting chan struct{} // a place for each that is hashed or waits to be
	right   *memo[credentialID]
	hashed  func(*argon) // counts hashing, for tests

	mu       sync.RWMutex
	file     *File
	text     string
	upgrades map[string]upgrade            // that are not saved yet, by name
	heirs    map[credentialID]credentialID // of credentials that Upgrade has replaced: the same password still
}

const (
	defaultWorking = 2
	defaultWaiting = 16 // half a second of waiting at most
	maxRemembered  = 100_000
)

// maxFile is the most that a password file may have, in bytes: some 200,000 tokens.
const maxFile = 16 << 20

// Load reads a password file.
func Load(read func() ([]byte, error)) (*Passwords, error) { return Open(Options{Read: read}) }

// Open reads a password file.
func Open(o Options) (*Passwords, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Working == 0 {
		o.Working = defaultWorking
	}
	if o.Waiting == 0 {
		o.Waiting = defaultWaiting
	}
	p := &Passwords{o: o, working: make(chan struct{}, o.Working), waiting: make(chan struct{}, o.Waiting),
		right: newMemo[credentialID](o.Now, o.Remember, maxRemembered), upgrades: map[string]upgrade{}, heirs: map[credentialID]credentialID{}}
	if _, err := p.Reload(); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload reads the file again. Of a file that cannot be read or is wrong nothing is taken: what was loaded before stays in force.
func (p *Passwords) Reload() (changed bool, err error) {
	b, err := p.o.Read()
	if err != nil {
		return false, fmt.Errorf("read the password file: %w", err)
	}
	p.mu.RLock()
	same := p.file != nil && p.text == string(b)
	p.mu.RUnlock()
	if same {
		return false, nil
	}
	f, err := Parse(b)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.file, p.text = f, string(b)
	p.prune()
	return true, nil
}

// find returns a name's credential, if its role is let in.
func (p *Passwords) find(name string) *Credential {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.admitted(p.file.names[name])
}

func (p *Passwords) admitted(c *Credential) *Credential {
	if c == nil || len(p.o.Roles) > 0 && !slices.Contains(p.o.Roles, c.Role) {
		return nil
	}
	return c
}

// nobody is a password that nobody has; see File.nobody.
func (p *Passwords) nobody() *argon {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.file.nobody()
}

// MaxPassword is the longest password, in bytes.
const MaxPassword = 1024

// Check finds out whether a name has a password. It takes as long for a name that there is not. ctx ends the waiting for a turn.
func (p *Passwords) Check(ctx context.Context, name, password string) (Principal, error) {
	who, err := p.check(ctx, name, password)
	if errors.Is(err, errUnknown) {
		err = ErrRefused
	}
	return who, err
}

// errUnknown says that there is no password of that name.
var errUnknown = errors.New("no such name")

func (p *Passwords) check(ctx context.Context, name, password string) (Principal, error) {
	if len(password) > MaxPassword || len(name) > MaxName {
		return Principal{}, errUnknown
	}
	known := p.right.hash(name, password)
	if id, ok := p.right.get(known); ok {
		if c := p.find(name); c != nil && c.id() == id {
			return c.principal(), nil
		}
	}
	done, err := p.takeTurn(ctx)
	if err != nil {
		return Principal{}, err
	}
	defer done()
	c := p.find(name)
	if err := p.compare(c, password); err != nil {
		return Principal{}, err
	}
	p.right.put(known, c.id(), time.Time{})
	return c.principal(), nil
}

// compare hashes the password once with argon2id, whatever c is: what it takes does not tell who is in the file, nor since when.
func (p *Passwords) compare(c *Credential, password string) error {
	switch {
	case c == nil || c.password == nil && c.foreign == nil:
		p.matches(p.nobody(), password)
		return errUnknown
	case c.foreign == nil:
		if !p.matches(c.password, password) {
			return ErrRefused
		}
	case !c.foreign.matches(password):
		p.matches(p.nobody(), password)
		return ErrRefused
	default:
		return p.prepareUpgrade(c, password)
	}
	return nil
}

func (p *Passwords) matches(a *argon, password string) bool {
	if p.hashed != nil {
		p.hashed(a)
	}
	return a.matches(password)
}

// takeTurn waits until a password may be hashed; done says that it has been.
func (p *Passwords) takeTurn(ctx context.Context) (done func(), err error) {
	select {
	case p.waiting <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	select {
	case p.working <- struct{}{}:
		return func() { <-p.working; <-p.waiting }, nil
	case <-ctx.Done():
		<-p.waiting
		return nil, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
}

// CheckToken finds out whose token it is. It is cheap: tokens are random and long, so nobody guesses them.
func (p *Passwords) CheckToken(token string) (Principal, error) {
	if len(token) > MaxPassword {
		return Principal{}, ErrRefused
	}
	sum := sha256.Sum256([]byte(token))
	p.mu.RLock()
	defer p.mu.RUnlock()
	c := p.admitted(p.file.tokens[sum])
	if c == nil {
		return Principal{}, ErrRefused
	}
	return c.principal(), nil
}

// Holds tells whether what a principal was let in with is still in force: the same name, role and password or token.
func (p *Passwords) Holds(who Principal) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	c := p.admitted(p.file.names[who.Name])
	if c == nil || c.Role != who.Role {
		return false
	}
	id := c.id()
	return id == who.credential || p.heirs[who.credential] == id
}

// ByPassword is the link for user names with passwords. A name that is not in the file is for the links behind it.
func (p *Passwords) ByPassword() Link { return byPassword{p} }

// ByToken is the link for generated tokens in the password's place, with their own name as the user name or with none.
func (p *Passwords) ByToken() Link { return byToken{p} }

type (
	byPassword struct{ p *Passwords }
	byToken    struct{ p *Passwords }
)

// Judge implements Link.
func (l byPassword) Judge(ctx context.Context, c *Claim) (Grant, error) {
	if c.Username == "" || c.Password == "" || isToken(c.Password) || isJWT(c.Password) {
		return Grant{}, ErrNotMine
	}
	who, err := l.p.check(ctx, c.Username, c.Password)
	if errors.Is(err, errUnknown) {
		return Grant{}, ErrNotMine
	}
	return l.p.grant(who), err
}

// Judge implements Link.
func (l byToken) Judge(_ context.Context, c *Claim) (Grant, error) {
	if !isToken(c.Password) {
		return Grant{}, ErrNotMine
	}
	who, err := l.p.CheckToken(c.Password)
	if err == nil && c.Username != "" && c.Username != who.Name {
		err = refusal("the user name is not the token's")
	}
	if err != nil {
		return Grant{}, err
	}
	return l.p.grant(who), nil
}

func (p *Passwords) grant(who Principal) Grant {
	return Grant{Name: who.Name, Holds: func() bool { return p.Holds(who) }}
}
