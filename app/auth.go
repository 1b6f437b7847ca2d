package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
)

// auth is who gets in over MQTT and Kafka: a chain for each listener, of links that are shared between them.
type auth struct {
	links     map[string]identity.Link
	chains    map[string]*identity.Chain // of MQTT, by listener
	counts    identity.Counts            // of MQTT's chains
	kafka     identity.Counts
	passwords *identity.Passwords // nil: no listener asks for any
	keys      *identity.Keys      // of JWTs; nil: as above
	said      sparing

	looking sync.Mutex // at the password file

	mu     sync.Mutex
	faults map[string]string // that hold, by what has them
}

const (
	lookAtAuth       = 5 * time.Second  // files
	rememberPassword = 10 * time.Minute // so that a fleet that reconnects is not hashed anew
	waitForHashing   = 256              // clients: four seconds' worth
	maxDevicesFile   = 16 << 20
	keysDeadline     = 10 * time.Second
	keysLeast        = 10 * time.Second // between two fetches that unknown keys ask for
)

// openAuth makes the listeners' chains.
func (n *Node) openAuth(ctx context.Context) error {
	a, c := &n.auth, &n.o.Config.Auth
	a.chains, a.faults = map[string]*identity.Chain{}, map[string]string{}
	links := map[string]identity.Link{identity.LinkCertificate: identity.ByCertificate{}}
	if c.Passwords != "" {
		if err := n.openPasswords(string(c.Passwords)); err != nil {
			return err
		}
		links[identity.LinkPassword], links[identity.LinkToken] = a.passwords.ByPassword(), a.passwords.ByToken()
	}
	if c.JWT.Keys != "" {
		if err := n.openKeys(ctx, &c.JWT); err != nil {
			return err
		}
		links[identity.LinkJWT] = identity.NewJWT(identity.JWTOptions{Keys: a.keys, Audience: c.JWT.Audience, Issuer: c.JWT.Issuer, NameClaim: c.JWT.NameClaim,
			Algorithms: c.JWT.Algorithms, MatchUsername: c.JWT.MatchUsername, Now: n.o.Now})
	}
	if c.Hook.URL != "" {
		link, err := n.openHook(&c.Hook)
		if err != nil {
			return err
		}
		links[identity.LinkHook] = link
	}
	a.links = links
	for _, d := range n.devicesDoors() {
		links[identity.LinkAnonymous] = identity.Everybody{}
		if d.mqtt.SecretsShown() {
			links[identity.LinkAnonymous] = identity.ByNothing{}
		}
		chain := identity.NewChain(&a.counts)
		for _, name := range d.mqtt.Chain() {
			chain.Add(name, links[name])
		}
		a.chains[d.path] = chain
	}
	n.registryChains(links)
	return nil
}

func (n *Node) openPasswords(file string) error {
	p, err := identity.Open(identity.Options{
		Read:    func() ([]byte, error) { return readSmall(file, maxDevicesFile) },
		Working: max(2, runtime.GOMAXPROCS(0)/2), Waiting: waitForHashing, Remember: rememberPassword, Now: n.o.Now,
		Save: func(edit func([]byte) ([]byte, error)) error { return vfs.Replace(file, edit) },
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("auth.passwords: %w: make it with `millrace passwd %s NAME --token --role device`", err, file)
	}
	if err != nil {
		return fmt.Errorf("auth.passwords (%s): %w", file, err)
	}
	if i, err := os.Stat(file); err == nil && i.Mode().Perm()&0o077 != 0 {
		n.auth.fault("auth.passwords", "others than its owner may read it: chmod 600")
	}
	n.auth.passwords = p
	return nil
}

// openKeys begins with the keys of a file, or not at all; those of a server may come later, and until then nobody gets in with a token.
func (n *Node) openKeys(ctx context.Context, j *config.JWT) error {
	o := identity.KeysOptions{Every: lookAtAuth, Least: time.Second, Now: n.o.Now,
		Read: func(context.Context) ([]byte, error) { return readSmall(string(j.Keys), maxKeySet) }}
	if j.Keys.Remote() {
		client, err := newOutward(string(j.CA), sameHost)
		if err != nil {
			return fmt.Errorf("auth.jwt.ca: %w", err)
		}
		o.Every, o.Least = time.Duration(j.Refresh), keysLeast
		o.Read = func(ctx context.Context) ([]byte, error) {
			return client.get(ctx, string(j.Keys), keysDeadline, maxKeySet)
		}
	}
	n.auth.keys = identity.NewKeys(o)
	_, err := n.auth.keys.Refresh(ctx)
	if err != nil && !j.Keys.Remote() {
		return fmt.Errorf("auth.jwt.keys (%s): %w", j.Keys, err)
	}
	n.keysRead(err)
	return nil
}

const maxKeySet = 256 << 10

func (n *Node) openHook(h *config.Hook) (identity.Link, error) {
	client, err := newOutward(string(h.CA), noRedirect)
	if err != nil {
		return nil, fmt.Errorf("auth.hook.ca: %w", err)
	}
	client.keepUpTo(h.Concurrency)
	return identity.NewHook(identity.HookOptions{
		Post: func(ctx context.Context, q []byte) ([]byte, error) {
			return client.post(ctx, string(h.URL), q, maxHookAnswer)
		},
		Timeout: time.Duration(h.Timeout), Concurrency: h.Concurrency, Allowed: time.Duration(h.Cache), Denied: time.Duration(h.CacheDenied), Now: n.o.Now,
	}), nil
}

const maxHookAnswer = 64 << 10

// authenticate is the broker's question: who a CONNECT is from.
func (n *Node) authenticate(ctx context.Context, p *packet.Connect, info broker.ConnInfo) (broker.Principal, packet.Code) {
	claim := identity.Claim{ClientID: p.ClientID, Username: p.Username, Password: string(p.Password), Peer: info.Remote.String(), Listener: info.Listener}
	if info.Identity != "" {
		claim.Certificate.Name = info.Identity
		if info.TLS != nil && len(info.TLS.PeerCertificates) > 0 {
			claim.Certificate.Until = info.TLS.PeerCertificates[0].NotAfter
		}
	}
	chain := n.auth.chains[info.Listener]
	if chain == nil {
		return broker.Principal{}, packet.NotAuthorized
	}
	g, err := chain.Judge(ctx, &claim)
	if err == nil {
		return broker.Principal{Name: g.Name, Until: g.Until, Holds: g.Holds}, packet.Success
	}
	code := packet.ServerUnavailable
	switch {
	case errors.Is(err, identity.ErrBusy):
		code = packet.ServerBusy
	case errors.Is(err, identity.ErrRefused) && (claim.Username != "" || claim.Password != ""):
		code = packet.BadUsernameOrPassword
	case errors.Is(err, identity.ErrRefused):
		code = packet.NotAuthorized
	}
	if skipped, say := n.auth.said.ask(info.Listener + code.String()); say {
		n.o.Logger.Warn("a client was not let in", "listener", info.Listener, "peer", claim.Peer, "client", claim.ClientID, "code", code.String(), "err", err,
			"skipped_like_it", skipped)
	}
	return broker.Principal{}, code
}

// followAuth looks at what decides who gets in, while the node runs. When it has changed, clients are looked at again.
func (n *Node) followAuth(context.Context) error {
	if n.auth.keys != nil {
		ctx, cancel := context.WithCancel(context.Background())
		n.running.Go(func() { <-n.quit; cancel() })
		n.running.Go(func() {
			n.auth.keys.Run(ctx, func(changed bool, err error) {
				n.keysRead(err)
				if changed {
					n.o.Logger.Info("the keys of tokens have changed, and are in force")
					n.recheck()
				}
			})
		})
	}
	if n.auth.passwords != nil {
		n.running.Go(func() {
			look := time.NewTicker(lookAtAuth)
			defer look.Stop()
			for {
				select {
				case <-look.C:
					n.reloadPasswords()
				case <-n.quit:
					n.reloadPasswords() // for what the last seconds' logins have made anew
					return
				}
			}
		})
	}
	return nil
}

// reloadAuth looks at the files now.
func (n *Node) reloadAuth() {
	if n.auth.keys != nil {
		n.auth.keys.Hurry()
	}
	if n.auth.passwords != nil {
		n.reloadPasswords()
	}
}

// reloadPasswords takes over a changed password file, and saves the hashes that logins have made anew.
func (n *Node) reloadPasswords() {
	n.auth.looking.Lock()
	defer n.auth.looking.Unlock()
	changed, err := n.auth.passwords.Reload()
	n.note("auth.passwords (reading)", err, "the password file is not taken over; what was read before stays in force")
	if changed {
		n.o.Logger.Info("the password file has changed, and is in force", "file", string(n.o.Config.Auth.Passwords))
	}
	if n.upgradePasswords() || changed {
		n.recheck()
	}
}

func (n *Node) upgradePasswords() bool {
	count, err := n.auth.passwords.Upgrade()
	n.note("auth.passwords (saving)", err, "passwords that were to be hashed anew cannot be saved")
	if count > 0 {
		n.o.Logger.Info("passwords have been hashed anew", "count", count, "left_as_they_were", n.auth.passwords.Foreign())
	}
	return count > 0
}

func (n *Node) keysRead(err error) {
	n.note("auth.jwt.keys", err, "the keys of tokens cannot be read; those that were read before stay in force")
	n.note("auth.jwt.keys (some)", errors.Join(n.auth.keys.Useless()...), "some keys of tokens cannot be used; who has a token of theirs does not get in")
}

// note remembers what is wrong with something, and says so when that changes.
func (n *Node) note(what string, err error, text string) {
	if err == nil {
		n.auth.fault(what, "")
	} else if n.auth.fault(what, err.Error()) {
		n.o.Logger.Error(text, "err", err)
	}
}

// fault is true if it is news.
func (a *auth) fault(what, why string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.faults[what] == why {
		return false
	}
	if a.faults[what] = why; why == "" {
		delete(a.faults, what)
	}
	return true
}

// authWarnings name what is weak about who gets in, and what is not as its files say.
func (n *Node) authWarnings() (ws []string) {
	n.auth.mu.Lock()
	for what, why := range n.auth.faults {
		ws = append(ws, what+": "+why)
	}
	n.auth.mu.Unlock()
	slices.Sort(ws)
	for _, d := range n.devicesDoors() {
		m := d.mqtt
		if a := m.Address(d.kind == doorWS); m.TLS.Cert == "" && !a.Loopback() && m.SecretsShown() {
			ws = append(ws, d.path+": passwords and tokens cross the network unencrypted: set tls, or put it behind something that does TLS")
		}
	}
	for _, d := range n.doorsOf(doorKafka) {
		if k := d.kafka; k.TLS.Cert == "" && !k.Bind.Loopback() && k.SecretsShown() {
			ws = append(ws, d.path+": passwords and tokens cross the network unencrypted: set tls, or take scram only")
		}
	}
	return ws
}

func (n *Node) collectAuth(s *metrics.Samples) {
	n.auth.counts.Each(func(link string, byResult map[string]int64, took *metrics.Histogram) {
		for _, r := range identity.Results {
			s.Counter("mqtt_auth", "CONNECTs judged, by the link of the chain that has decided; failed: it could not say, and nobody was let in.", float64(byResult[r]), "method", link, "result", r)
		}
		s.Durations("mqtt_auth_seconds", "Time of a link's judgement.", took, "method", link)
	})
	if k := n.auth.keys; k != nil {
		s.Gauge("auth_unusable_keys", "Keys in the set for tokens that cannot be used, and are passed over.", float64(len(k.Useless())))
	}
	if p := n.auth.passwords; p != nil {
		s.Gauge("auth_foreign_hashes", "Passwords whose hashes are still another program's.", float64(p.Foreign()))
	}
}

// sparing lets one line of a kind through in ten seconds. Kinds are few, and ours.
type sparing struct {
	mu   sync.Mutex
	last map[string]*spared
}

type spared struct {
	at      time.Time
	skipped int
}

const sayEvery = 10 * time.Second

func (s *sparing) ask(kind string) (skipped int, say bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]*spared{}
	}
	l := s.last[kind]
	if l != nil && time.Since(l.at) < sayEvery {
		l.skipped++
		return 0, false
	}
	if l != nil {
		skipped = l.skipped
	}
	s.last[kind] = &spared{at: time.Now()}
	return skipped, true
}
