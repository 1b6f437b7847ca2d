package identity

import "github.com/millrace-io/millrace/identity/scram"

// Verifier is what the password file has for a SCRAM login: of a name in it, its verifier and the grant for who passes it. stands tells that
// the name is in the file, with whatever credential: then nothing that is kept elsewhere counts for it.
func (p *Passwords) Verifier(m scram.Mechanism, name string) (v *scram.Verifier, g Grant, stands bool) {
	p.mu.RLock()
	c := p.file.names[name]
	v, stands = nil, c != nil
	if c = p.admitted(c); c != nil {
		v = c.verifier(m)
	}
	p.mu.RUnlock()
	if v == nil {
		return nil, Grant{}, stands
	}
	return v, p.grant(c.principal()), true
}
