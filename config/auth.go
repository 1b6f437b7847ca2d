package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Auth says how clients can show who they are. Which of the ways a listener takes, and in what order, its own auth says.
type Auth struct {
	Passwords File `yaml:"passwords"` // of the links password and token
	JWT       JWT  `yaml:"jwt"`
	Hook      Hook `yaml:"hook"`
}

// JWT is the link jwt. Zero Keys: there is none.
type JWT struct {
	Keys          Location `yaml:"keys"` // a JSON Web Key Set
	CA            File     `yaml:"ca"`   // that the server of the keys is trusted by; empty: the system's
	Refresh       Duration `yaml:"refresh"`
	Issuer        string   `yaml:"issuer"`
	Audience      string   `yaml:"audience"`
	NameClaim     string   `yaml:"name_claim"`
	Algorithms    []string `yaml:"algorithms"` // empty: all
	MatchUsername bool     `yaml:"match_username"`
}

// Hook is the link hook. Zero URL: there is none.
type Hook struct {
	URL         Location `yaml:"url"`
	CA          File     `yaml:"ca"`
	Timeout     Duration `yaml:"timeout"`
	Concurrency int      `yaml:"concurrency"`
	Cache       Duration `yaml:"cache"`        // of those let in
	CacheDenied Duration `yaml:"cache_denied"` // of others
}

// The links of a listener's auth.
const (
	linkCertificate = "cert"
	linkPassword    = "password"
	linkToken       = "token"
	linkJWT         = "jwt"
	linkHook        = "hook"
	linkSCRAM       = "scram" // of Kafka clients
	linkAnonymous   = "anonymous"
)

var (
	links      = []string{linkCertificate, linkPassword, linkToken, linkJWT, linkHook, linkAnonymous}
	kafkaLinks = []string{linkCertificate, linkSCRAM, linkPassword, linkToken, linkJWT, linkHook, linkAnonymous}
)

// The values of a listener's client_id.
const (
	clientIDFree  = "free"
	clientIDBound = "bound"
)

// Chain are the links that a listener asks, in order. What is not set is what holds without it: certificates where there is an authority for
// them, and everybody where there is none.
func (m *MQTT) Chain() (chain []string) {
	if len(m.Auth) > 0 {
		return m.Auth
	}
	if m.TLS.ClientCA != "" {
		chain = append(chain, linkCertificate)
	}
	if m.Anonymous == nil && m.TLS.ClientCA == "" || m.Anonymous != nil && *m.Anonymous {
		chain = append(chain, linkAnonymous)
	}
	return chain
}

// Chain are the links of a listener for Kafka clients, as MQTT's are of theirs.
func (k *Kafka) Chain() []string {
	m := MQTT{Auth: k.Auth, TLS: k.TLS}
	return m.Chain()
}

// AllowAnonymous is MQTT's.
func (k *Kafka) AllowAnonymous() bool { return slices.Contains(k.Chain(), linkAnonymous) }

// CertificateOptional is MQTT's.
func (k *Kafka) CertificateOptional() bool {
	m := MQTT{Auth: k.Auth, TLS: k.TLS}
	return m.CertificateOptional()
}

// SecretsShown tells whether clients send something that whoever sees it can use. By SCRAM they do not.
func (k *Kafka) SecretsShown() bool {
	return slices.ContainsFunc(k.Chain(), func(l string) bool { return l != linkCertificate && l != linkSCRAM && l != linkAnonymous })
}

// Mechanism is that of SASL with which a name and password get in; "": there is none, or none is needed.
func (k *Kafka) Mechanism() string {
	switch chain := k.Chain(); {
	case k.AllowAnonymous():
	case slices.Contains(chain, linkSCRAM):
		return "SCRAM-SHA-512"
	case slices.ContainsFunc(chain, func(l string) bool { return l == linkPassword || l == linkToken || l == linkHook }):
		return "PLAIN"
	}
	return ""
}

// AllowAnonymous tells whether clients that show nothing are let in.
func (m *MQTT) AllowAnonymous() bool { return slices.Contains(m.Chain(), linkAnonymous) }

// CertificateOptional tells whether there is a way in without a certificate. Where auth does not mention certificates and there is an authority
// for them, every client needs one, and is whoever the chain says.
func (m *MQTT) CertificateOptional() bool {
	chain := m.Chain()
	return len(chain) > 1 && slices.Contains(chain, linkCertificate)
}

// SecretsShown tells whether clients show something that whoever sees it can use.
func (m *MQTT) SecretsShown() bool {
	return slices.ContainsFunc(m.Chain(), func(l string) bool { return l != linkCertificate && l != linkAnonymous })
}

// BoundClientIDs tells whether a client id must be its account's.
func (m *MQTT) BoundClientIDs() bool { return m.ClientID == clientIDBound }

// Location is where something is read from: a file, by its path with or without file: before it, or a server, by its URL.
type Location string

func (s *Location) UnmarshalText(b []byte) error {
	text := string(b)
	if strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://") {
		if err := checkURL(text); err != nil {
			return err
		}
		*s = Location(text)
		return nil
	}
	var f File
	if err := f.UnmarshalText(b); err != nil {
		return fmt.Errorf("%w, or https://…", err)
	}
	*s = Location(f)
	return nil
}

func (s Location) MarshalText() ([]byte, error) { return []byte(s), nil }

// Remote tells whether it is a server's.
func (s Location) Remote() bool {
	return strings.HasPrefix(string(s), "http://") || strings.HasPrefix(string(s), "https://")
}

// checkURL takes what everybody reads in the same way, and what nobody on the way can alter.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Hostname() == "" || strings.ContainsAny(text, " \\") {
		return fmt.Errorf("%q is not a URL", clip(text))
	}
	if u.User != nil {
		return errors.New("a URL with a name and a password: there are no secrets in a configuration")
	}
	if u.Fragment != "" {
		return fmt.Errorf("%q has a fragment, which is not sent", clip(text))
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err == nil && (ip.Unmap().IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast()) {
		return fmt.Errorf("%q is at an address at which no such server is", clip(text))
	}
	if u.Scheme == "http" && u.Hostname() != "localhost" && !(err == nil && ip.Unmap().IsLoopback()) {
		return fmt.Errorf("%q: whoever is between here and %s could say who gets in; write https:// (with ca, if its certificate is of an authority of yours)", clip(text), clip(u.Hostname()))
	}
	return nil
}

// auth checks the ways, and that each is taken somewhere: who sets one up expects to be asked for it.
func (ck *checker) auth() {
	a, used := &ck.c.Auth, map[string]bool{}
	for i := range ck.c.Listeners.Kafka {
		for _, l := range ck.c.Listeners.Kafka[i].Chain() {
			used[l] = true
		}
	}
	for _, list := range [][]MQTT{ck.c.Listeners.MQTT, ck.c.Listeners.WS} {
		for i := range list {
			for _, l := range list[i].Chain() {
				used[l] = true
			}
		}
	}
	for i := range ck.c.Listeners.Registry {
		for _, l := range ck.c.Listeners.Registry[i].Admission().Chain() {
			used[l] = true
		}
	}
	unused := func(path, link string) {
		ck.problem(path, "no listener asks for it", "write auth: ["+link+"] on a listener of listeners.mqtt, listeners.ws or listeners.kafka, or remove it")
	}
	if a.Passwords != "" && !used[linkPassword] && !used[linkToken] && !used[linkSCRAM] {
		unused("auth.passwords", linkPassword+", "+linkToken)
	}
	if a.JWT.Keys != "" && !used[linkJWT] {
		unused("auth.jwt", linkJWT)
	}
	if a.Hook.URL != "" && !used[linkHook] {
		unused("auth.hook", linkHook)
	}
	ck.jwt(&a.JWT)
	ck.hook(&a.Hook)
}

func (ck *checker) jwt(j *JWT) {
	if j.Keys == "" {
		if j.Issuer != "" || j.Audience != "" || j.CA != "" || len(j.Algorithms) > 0 || j.MatchUsername {
			ck.problem("auth.jwt.keys", "missing", "write file:keys.json or https://…, a JSON Web Key Set")
		}
		return
	}
	if j.Audience == "" {
		ck.problem("auth.jwt.audience", "missing: a token for any other service would be good here", "write the aud of the tokens that are for this node")
	}
	if j.NameClaim == "" {
		ck.problem("auth.jwt.name_claim", "missing", "write the claim that is the account, such as sub")
	}
	for i, alg := range j.Algorithms {
		ck.oneOf(fmt.Sprintf("auth.jwt.algorithms[%d]", i), alg, "ES256", "RS256", "EdDSA")
	}
	if j.CA != "" && !strings.HasPrefix(string(j.Keys), "https://") {
		ck.problem("auth.jwt.ca", "the keys are not read over TLS", "remove it")
	}
	if j.Refresh.Seconds() < 10 || j.Refresh.Seconds() > 86_400 {
		ck.problem("auth.jwt.refresh", "not between 10s and 1d", "write a time span such as 5m")
	}
}

func (ck *checker) hook(h *Hook) {
	if h.URL == "" {
		return
	}
	if !h.URL.Remote() {
		ck.problem("auth.hook.url", fmt.Sprintf("%q is not a URL", clip(string(h.URL))), "write one such as https://auth.example/mqtt")
	}
	if h.CA != "" && !strings.HasPrefix(string(h.URL), "https://") {
		ck.problem("auth.hook.ca", "the hook is not asked over TLS", "remove it")
	}
	if s := h.Timeout.Seconds(); s < 0.1 || s > 9 {
		ck.problem("auth.hook.timeout", "not between 100ms and 9s", "write a time span such as 5s: a client waits for 10s at most")
	}
	ck.between("auth.hook.concurrency", int64(h.Concurrency), 1, 1024)
	ck.cached("auth.hook.cache", h.Cache)
	ck.cached("auth.hook.cache_denied", h.CacheDenied)
}

func (ck *checker) cached(path string, d Duration) {
	if d < 0 || d.Seconds() > 86_400 {
		ck.problem(path, "longer than a day", "write a time span such as 1m, or 0 for none")
	}
}

// chain checks a listener's auth and client_id.
func (ck *checker) chain(path string, m *MQTT) {
	ck.links(path, m.Auth, &m.TLS, links)
	if len(m.Auth) > 0 && m.Anonymous != nil {
		ck.problem(path+".anonymous", "auth says who is let in", "remove anonymous, and write it at the end of auth if it is meant")
	}
	if m.ClientID != "" {
		ck.oneOf(path+".client_id", m.ClientID, clientIDFree, clientIDBound)
	}
	if m.ClientID == clientIDBound && slices.Equal(m.Chain(), []string{linkAnonymous}) {
		ck.problem(path+".client_id", "nobody has an account to bind a client id to", "list links in auth, or remove it")
	}
}

// links checks a listener's auth, of which only some links are possible.
func (ck *checker) links(path string, auth []string, t *ListenerTLS, possible []string) {
	if auth != nil && len(auth) == 0 {
		ck.problem(path+".auth", "nobody could come in", "list some of "+strings.Join(possible, ", ")+", or remove it")
	}
	for i, l := range auth {
		at := fmt.Sprintf("%s.auth[%d]", path, i)
		switch {
		case !slices.Contains(possible, l):
			ck.problem(at, fmt.Sprintf("%q is not one of %s", clip(l), strings.Join(possible, ", ")), didYouMean(l, possible))
		case slices.Contains(auth[:i], l):
			ck.problem(at, l+" stands twice", "remove one")
		default:
			ck.link(at, l, t)
		}
		if l == linkAnonymous && i != len(auth)-1 {
			ck.problem(at, "anonymous is for whom no other link knows", "write it last")
		}
	}
}

// link checks that what a link needs is there.
func (ck *checker) link(at, l string, t *ListenerTLS) {
	a := &ck.c.Auth
	switch {
	case l == linkCertificate && t.ClientCA == "":
		ck.problem(at, "clients are not asked for certificates", "name the authority of their certificates in tls.client_ca")
	case (l == linkPassword || l == linkToken) && a.Passwords == "":
		ck.problem(at, "there is no password file", "make one with `millrace passwd FILE NAME --role device` and name it in auth.passwords")
	case l == linkJWT && a.JWT.Keys == "":
		ck.problem(at, "there are no keys for tokens", "write auth: {jwt: {keys: file:keys.json, audience: …}}")
	case l == linkHook && a.Hook.URL == "":
		ck.problem(at, "there is no hook", "write auth: {hook: {url: https://…}}")
	}
}
