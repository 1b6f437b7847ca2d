// Package identity says who somebody is: today, by a password file of people and of the tokens of programs and devices.
//
// It reads and writes no files (whoever loads a Passwords passes a function that reads), starts no goroutines, and knows neither HTTP nor
// MQTT. Hashing a person's password costs time and memory, so it is bounded here, for all listeners together. It will never keep a password
// or a token, nor say which half of a pair was wrong. The file's format is in docs/formats/passwords.md.
package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
)

var (
	// ErrRefused: no such name, or not its password, or no such token. Which one is nobody's business.
	ErrRefused = errors.New("unknown name, or wrong password or token")
	// ErrBusy: so many passwords are being checked that this one was not looked at.
	ErrBusy = errors.New("too many logins at once")
)

// Principal is somebody who has shown who they are.
type Principal struct {
	Name string
	Role string

	credential [sha256.Size]byte // of the line that it was shown with
}

// Passwords answers who has which password or token. It is safe for concurrent use.
type Passwords struct {
	read    func() ([]byte, error)
	working chan struct{} // a place for each password that is hashed at once
	waiting chan struct{} // a place for each that is hashed or waits to be

	mu   sync.RWMutex
	file *File
	text string
}

const (
	maxWorking = 2  // 19 MiB and 30 ms of a processor each
	maxWaiting = 16 // beyond, ErrBusy: half a second of waiting at most
)

// maxFile is the most that a password file may have, in bytes: some 8,000 lines.
const maxFile = 1 << 20

// Load reads a password file. read is called again by Reload.
func Load(read func() ([]byte, error)) (*Passwords, error) {
	p := &Passwords{read: read, working: make(chan struct{}, maxWorking), waiting: make(chan struct{}, maxWaiting)}
	if _, err := p.Reload(); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload reads the file again. Of a file that cannot be read or is wrong nothing is taken: what was loaded before stays in force.
func (p *Passwords) Reload() (changed bool, err error) {
	b, err := p.read()
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
	return true, nil
}

func (p *Passwords) current() *File {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.file
}

// MaxPassword is the longest password, in bytes.
const MaxPassword = 1024

// Check finds out whether a name has a password. It takes as long for a name that there is not. ctx ends the waiting for a turn.
func (p *Passwords) Check(ctx context.Context, name, password string) (Principal, error) {
	if len(password) > MaxPassword || len(name) > MaxName {
		return Principal{}, ErrRefused
	}
	select {
	case p.waiting <- struct{}{}:
		defer func() { <-p.waiting }()
	default:
		return Principal{}, ErrBusy
	}
	select {
	case p.working <- struct{}{}:
		defer func() { <-p.working }()
	case <-ctx.Done():
		return Principal{}, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	f := p.current()
	c := f.find(name)
	if c == nil || c.password == nil {
		f.nobody().matches(password)
		return Principal{}, ErrRefused
	}
	if !c.password.matches(password) {
		return Principal{}, ErrRefused
	}
	return c.principal(), nil
}

// CheckToken finds out whose token it is. It is cheap: tokens are random and long, so nobody guesses them.
func (p *Passwords) CheckToken(token string) (Principal, error) {
	if len(token) > MaxPassword {
		return Principal{}, ErrRefused
	}
	c := p.current().tokens[sha256.Sum256([]byte(token))]
	if c == nil {
		return Principal{}, ErrRefused
	}
	return c.principal(), nil
}

// Holds tells whether what a principal was let in with is still in force: the same name, role and password or token.
func (p *Passwords) Holds(who Principal) bool {
	c := p.current().find(who.Name)
	return c != nil && c.principal() == who
}
