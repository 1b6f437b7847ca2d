package identity

import (
	"errors"
	"fmt"
	"strings"
)

// upgrade is a new hash of a password whose old one was another program's.
type upgrade struct {
	was  credentialID
	hash *argon
}

// prepareUpgrade makes the hash that takes the place of a foreign one that has just been passed. It is saved by Upgrade, with others.
func (p *Passwords) prepareUpgrade(c *Credential, password string) error {
	if p.o.Save == nil {
		p.matches(p.nobody(), password)
		return nil
	}
	hash, err := newArgon(nil, password)
	if err != nil {
		return fmt.Errorf("make a new hash: %w", err)
	}
	if p.hashed != nil {
		p.hashed(hash)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.file.names[c.Name]; now != nil && now.id() == c.id() {
		p.upgrades[c.Name] = upgrade{c.id(), hash}
	}
	return nil
}

// errNothing ends an edit that would change nothing.
var errNothing = errors.New("nothing to change")

// Upgrade saves what logins have made of foreign hashes since the last time, and says of how many. Who is connected stays: it is the same password.
// After an error it is tried again with the next call.
func (p *Passwords) Upgrade() (n int, err error) {
	p.mu.RLock()
	due := make(map[string]upgrade, len(p.upgrades))
	for name, u := range p.upgrades {
		due[name] = u
	}
	p.mu.RUnlock()
	if len(due) == 0 {
		return 0, nil
	}
	heirs := map[credentialID]credentialID{}
	err = p.o.Save(func(b []byte) ([]byte, error) {
		f, err := Parse(b)
		if err != nil {
			return nil, err
		}
		clear(heirs)
		if err := f.replace(due, heirs); err != nil {
			return nil, err
		}
		if len(heirs) == 0 {
			return nil, errNothing
		}
		p.inherit(heirs) // before anybody can read the new file
		return f.Bytes(), nil
	})
	if err != nil && !errors.Is(err, errNothing) {
		return 0, fmt.Errorf("save upgraded passwords: %w", err)
	}
	p.mu.Lock()
	for name, u := range due {
		if p.upgrades[name] == u {
			delete(p.upgrades, name)
		}
	}
	p.mu.Unlock()
	_, err = p.Reload()
	return len(heirs), err
}

// replace puts the upgraded hashes in the place of those that they were made of, where those still stand.
func (f *File) replace(due map[string]upgrade, heirs map[credentialID]credentialID) error {
	for i, l := range f.lines {
		if l.cred == nil {
			continue
		}
		u, there := due[l.cred.Name]
		if !there || l.cred.id() != u.was {
			continue
		}
		c, err := parseLine(strings.Join([]string{l.cred.Name, l.cred.Role, u.hash.String()}, ":"))
		if err != nil {
			return err
		}
		f.names[c.Name], f.lines[i] = c, line{text: c.text, cred: c}
		heirs[u.was] = c.id()
	}
	return nil
}

func (p *Passwords) inherit(heirs map[credentialID]credentialID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for old, heir := range heirs {
		p.heirs[old] = heir
	}
}

// prune forgets what a new file has overtaken: upgrades of hashes that are gone, and heirs that have gone themselves. Under p.mu.
func (p *Passwords) prune() {
	for name, u := range p.upgrades {
		if c := p.file.names[name]; c == nil || c.id() != u.was {
			delete(p.upgrades, name)
		}
	}
	if len(p.heirs) == 0 {
		return
	}
	live := map[credentialID]bool{}
	for _, c := range p.file.names {
		live[c.id()] = true
	}
	for old, heir := range p.heirs {
		if !live[heir] && !live[old] {
			delete(p.heirs, old)
		}
	}
}

// Foreign counts the passwords whose hashes are still another program's.
func (p *Passwords) Foreign() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	n := 0
	for _, c := range p.file.names {
		if c.foreign != nil {
			n++
		}
	}
	return n
}
