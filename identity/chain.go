package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Claim is what somebody shows who wants in. An empty field is one that was not shown.
type Claim struct {
	ClientID    string
	Username    string
	Password    string
	Certificate Certificate
	Peer        string // address, with the port if there is one
	Listener    string
}

// Certificate is what a TLS handshake has verified: the name that the certificate gives its holder, and when it ends.
type Certificate struct {
	Name  string
	Until time.Time // zero: it does not end
}

// Grant is the outcome of a judgement in favour.
type Grant struct {
	Name  string    // of the account, however its owner has shown to be it
	Until time.Time // when it ends; zero: it does not
	// Holds tells, whenever it is asked, whether what was shown is still in force; nil: it is until Until.
	Holds func() bool
}

// Link judges claims of one kind. It is safe for concurrent use, and heeds ctx where it waits.
type Link interface {
	// Judge returns a Grant: yes; ErrRefused: no; ErrNotMine: somebody else may know; any other error: it cannot say, so nobody gets in.
	Judge(ctx context.Context, c *Claim) (Grant, error)
}

// ErrNotMine is a link's answer to a claim that is not of its kind.
var ErrNotMine = errors.New("not for this link")

// The links that a chain may have, by name.
const (
	LinkCertificate = "cert"
	LinkPassword    = "password"
	LinkToken       = "token"
	LinkJWT         = "jwt"
	LinkSCRAM       = "scram" // of Kafka clients only: it judges no Claim, for there is no password in one
	LinkHook        = "hook"
	LinkAnonymous   = "anonymous"
)

// noLink is what counters call claims that no link knew.
const noLink = "none"

// Anonymous is the account of those who show nothing. Nobody else has it.
const Anonymous = "anonymous"

// MaxPrincipal is the longest name of an account, in bytes.
const MaxPrincipal = 256

// CheckPrincipal says whether a name can be an account's. It stands in rules for topics, in log lines and in keys of sessions, so it must not be able to
// be more than one level of a topic, nor look like another name.
func CheckPrincipal(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > MaxPrincipal:
		return fmt.Errorf("the name has %d bytes, at most %d are possible", len(name), MaxPrincipal)
	case !utf8.ValidString(name):
		return errors.New("the name is not UTF-8")
	case name == Anonymous:
		return errors.New("the name anonymous is for those who show nothing")
	case strings.ContainsAny(name, "/+#"):
		return errors.New("the name has one of / + #")
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }):
		return errors.New("the name has a control character")
	}
	return nil
}

// refusal is ErrRefused with a reason that is for the log, never for who was refused.
type refusal string

func (r refusal) Error() string        { return string(r) }
func (r refusal) Is(target error) bool { return target == ErrRefused }

// Chain asks link after link; the first that says yes or no decides. It is shut: who is not let in by a link stays out, and a link that
// cannot say ends the judgement.
type Chain struct {
	links  []namedLink
	counts *Counts
}

type namedLink struct {
	name  string
	link  Link
	count *linkCount
}

// NewChain returns a chain without links, which lets nobody in.
func NewChain(counts *Counts) *Chain { return &Chain{counts: counts} }

// Add appends a link. It is not for a chain that is in use.
func (c *Chain) Add(name string, l Link) {
	c.links = append(c.links, namedLink{name, l, c.counts.of(name)})
}

// Judge judges a claim. An error that is not ErrRefused says that it could not be judged.
func (c *Chain) Judge(ctx context.Context, claim *Claim) (Grant, error) {
	for _, l := range c.links {
		began := time.Now()
		g, err := l.link.Judge(ctx, claim)
		if err == nil {
			err = l.approve(&g)
		}
		if errors.Is(err, ErrNotMine) {
			continue
		}
		l.count.add(err, time.Since(began))
		if err != nil {
			return Grant{}, fmt.Errorf("%s: %w", l.name, err)
		}
		return g, nil
	}
	c.counts.of(noLink).add(ErrRefused, 0)
	return Grant{}, refusal("nothing was shown that a link of the listener's auth knows")
}

// approve checks what a link has granted.
func (l *namedLink) approve(g *Grant) error {
	if l.name == LinkAnonymous {
		return nil
	}
	if err := CheckPrincipal(g.Name); err != nil {
		return refusal(fmt.Sprintf("%.80q cannot be an account: %v", g.Name, err))
	}
	return nil
}

// ByCertificate lets in whoever has shown a certificate, as whom it names. The handshake has verified it.
type ByCertificate struct{}

// Judge implements Link.
func (ByCertificate) Judge(_ context.Context, c *Claim) (Grant, error) {
	if c.Certificate.Name == "" {
		return Grant{}, ErrNotMine
	}
	return Grant{Name: c.Certificate.Name, Until: c.Certificate.Until}, nil
}

// Everybody lets everybody in as anonymous, whatever they show. It is for chains that ask for no name and no password.
type Everybody struct{}

// Judge implements Link.
func (Everybody) Judge(context.Context, *Claim) (Grant, error) { return Grant{Name: Anonymous}, nil }

// ByNothing lets in who shows nothing. Who shows something that no other link knew is not anonymous, but wrong.
type ByNothing struct{}

// Judge implements Link.
func (ByNothing) Judge(_ context.Context, c *Claim) (Grant, error) {
	if c.Username != "" || c.Password != "" || c.Certificate.Name != "" {
		return Grant{}, ErrNotMine
	}
	return Grant{Name: Anonymous}, nil
}
