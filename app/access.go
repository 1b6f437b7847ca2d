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

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/certs"
)

// access is who may read over HTTP. It is a file, and is looked at again while the node runs.
type access struct {
	passwords *identity.Passwords // nil: everybody
	tellWrong sync.Mutex
	wrong     string // with the password file, said already
	open      bool   // others than its owner may read the password file
}

const maxPasswordFile = 1 << 20

// openAccess reads the password file that the configuration names.
func (n *Node) openAccess(context.Context) error {
	h := &n.o.Config.Listeners.HTTP
	if h.Bind == "" {
		return nil
	}
	if file := string(h.PasswordFile); file != "" {
		p, err := identity.Open(identity.Options{Read: func() ([]byte, error) { return readSmall(file, maxPasswordFile) },
			Roles: []string{identity.Admin, identity.Viewer}})
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("listeners.http.password_file: %w: make it with `millrace passwd %s NAME`", err, file)
		}
		if err != nil {
			return fmt.Errorf("listeners.http.password_file (%s): %w", file, err)
		}
		n.access.passwords = p
		if i, err := os.Stat(file); err == nil && i.Mode().Perm()&0o077 != 0 {
			n.access.open = true
		}
	}
	return nil
}

// tlsOfHTTP is how the HTTP server's connections are encrypted; nil: not at all. Each connection gets what the files say when it begins.
func (n *Node) tlsOfHTTP() *tls.Config {
	for _, d := range n.doorsOf(doorHTTP) {
		if d.certs != nil {
			return httpsOf(d.certs)
		}
	}
	return nil
}

// httpsOf has each connection get what the files say when it begins.
func httpsOf(c *certs.Source) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.Config(), nil }}
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
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return b, err
}
