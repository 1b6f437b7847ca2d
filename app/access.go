package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/millrace-io/millrace/identity"
)

// access is who may read over HTTP, and the certificate it is read under. Both are files, and are looked at again while the node runs.
type access struct {
	passwords *identity.Passwords // nil: everybody
	tls       *tls.Config         // nil: plain
	tellWrong sync.Mutex
	wrong     string // with the password file, said already
	open      bool   // others than its owner may read the password file
}

const maxPasswordFile = 1 << 20

// openAccess reads the files that the configuration names.
func (n *Node) openAccess(context.Context) error {
	h := &n.o.Config.Listeners.HTTP
	if h.Bind == "" {
		return nil
	}
	if h.PasswordFile != "" {
		p, err := identity.Load(func() ([]byte, error) { return readSmall(h.PasswordFile, maxPasswordFile) })
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("listeners.http.password_file: %w: make it with `millrace passwd %s NAME`", err, h.PasswordFile)
		}
		if err != nil {
			return fmt.Errorf("listeners.http.password_file (%s): %w", h.PasswordFile, err)
		}
		n.access.passwords = p
		if i, err := os.Stat(h.PasswordFile); err == nil && i.Mode().Perm()&0o077 != 0 {
			n.access.open = true
		}
	}
	if h.TLS.Cert != "" {
		c := &certificate{cert: h.TLS.Cert, key: h.TLS.Key, now: time.Now, warn: func(err error) {
			n.o.Logger.Error("the changed certificate of listeners.http.tls is not taken; the one before stays in use", "err", err)
		}}
		if err := c.load(); err != nil {
			return fmt.Errorf("listeners.http.tls: %w", err)
		}
		n.access.tls = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: c.get}
	}
	return nil
}

// reloadAccess takes over a changed password file. One that is wrong is not taken: who could read before still can, and nobody else.
func (n *Node) reloadAccess() {
	a := &n.access
	if a.passwords == nil {
		return
	}
	changed, err := a.passwords.Reload()
	now := ""
	if err != nil {
		now = err.Error()
	}
	a.tellWrong.Lock()
	said := a.wrong == now
	a.wrong = now
	a.tellWrong.Unlock()
	if err != nil && !said {
		n.o.Logger.Error("the password file cannot be read; what was read before stays in force", "err", err)
	}
	if changed {
		n.o.Logger.Info("the password file has changed, and is in force")
	}
}

// accessWarnings name what is weak about who may read.
func (n *Node) accessWarnings() (ws []string) {
	h, a := &n.o.Config.Listeners.HTTP, &n.access
	if h.Bind != "" && !h.Bind.Loopback() && h.PasswordFile != "" && h.TLS.Cert == "" {
		ws = append(ws, "listeners.http: passwords and tokens cross the network unencrypted: set listeners.http.tls, or put it behind something that does TLS")
	}
	if a.open {
		ws = append(ws, "listeners.http.password_file: others than its owner may read it: chmod 600")
	}
	a.tellWrong.Lock()
	defer a.tellWrong.Unlock()
	if a.wrong != "" {
		ws = append(ws, "listeners.http.password_file: the file as it is now is not in force: "+a.wrong)
	}
	return ws
}

// readSmall reads a file that must not be large.
func readSmall(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most+1))
}

// certificate is one that is read again when its files change.
type certificate struct {
	cert, key string
	now       func() time.Time
	warn      func(error)

	mu      sync.Mutex
	is      *tls.Certificate
	of      [2]fileMark
	refused [2]fileMark // that were looked at and are no pair
	looked  time.Time
}

// fileMark tells whether a file has changed.
type fileMark struct {
	at   time.Time
	size int64
}

// lookAgain is how long nobody looks whether the files have changed.
const lookAgain = 2 * time.Second

func (c *certificate) marks() (m [2]fileMark, err error) {
	for i, name := range []string{c.cert, c.key} {
		info, err := os.Stat(name)
		if err != nil {
			return m, err
		}
		m[i] = fileMark{info.ModTime(), info.Size()}
	}
	return m, nil
}

func (c *certificate) load() error {
	m, err := c.marks()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", c.cert, c.key, err)
	}
	if end := pair.Leaf.NotAfter; c.now().After(end) {
		return fmt.Errorf("%s: expired on %s", c.cert, end.UTC().Format(time.DateOnly))
	}
	c.is, c.of = &pair, m
	return nil
}

// get is tls.Config.GetCertificate. A pair that cannot be read, does not match or has expired is not taken in place of one that was good.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.looked) >= lookAgain {
		c.looked = now
		if m, err := c.marks(); err == nil && m != c.of && m != c.refused {
			if err := c.load(); err != nil {
				c.refused = m
				c.warn(err)
			}
		}
	}
	return c.is, nil
}
