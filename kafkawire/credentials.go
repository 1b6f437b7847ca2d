package kafkawire

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/identity/scram"
)

// scramTopic has the SCRAM credentials that clients have set; see docs/formats/scram.md.
const scramTopic = eventlog.InternalPrefix + "scram"

const maxCredentials = 100_000

// credentials are SCRAM credentials: those that clients with the right to do so have set, behind those of the password file. A
// name that stands in the file is the file's.
type credentials struct {
	book book
	file func(m scram.Mechanism, name string) (v *scram.Verifier, g identity.Grant, stands bool)

	changing sync.Mutex // one change at a time; held before mu

	mu     sync.RWMutex
	of     map[credential]*scram.Verifier
	names  map[int]int // how many have how many iterations
	secret []byte      // makes up verifiers for names that there are not
	kept   bool        // the secret is in the log
}

// credential is a record's key. Nobody: the record is the secret.
type credential struct {
	Name      string          `json:"name,omitempty"`
	Mechanism scram.Mechanism `json:"mechanism,omitempty"`
	Nobody    bool            `json:"nobody,omitempty"`
}

// keptCredential is a record's value.
type keptCredential struct {
	Verifier string    `json:"verifier,omitempty"`
	Secret   []byte    `json:"secret,omitempty"`
	Since    time.Time `json:"since"`
	By       string    `json:"by,omitempty"`
}

func newCredentials(ctx context.Context, o *Options) (*credentials, error) {
	c := &credentials{of: map[credential]*scram.Verifier{}, names: map[int]int{}, file: o.Verifier}
	if c.file == nil {
		c.file = func(scram.Mechanism, string) (*scram.Verifier, identity.Grant, bool) {
			return nil, identity.Grant{}, false
		}
	}
	c.book = book{log: o.Engine, name: scramTopic, now: o.Now, learn: c.learn}
	if err := c.book.open(ctx); err != nil {
		return nil, err
	}
	if c.secret == nil {
		c.secret = make([]byte, sha256.Size)
		if _, err := rand.Read(c.secret); err != nil {
			return nil, fmt.Errorf("make a secret: %w", err)
		}
	}
	return c, nil
}

func (c *credentials) learn(key, value []byte) error {
	var k credential
	var v keptCredential
	if err := json.Unmarshal(key, &k); err != nil {
		return fmt.Errorf("a credential's key: %w", err)
	}
	if value != nil {
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("a credential: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.Nobody {
		c.secret, c.kept = v.Secret, true
		return nil
	}
	if old := c.of[k]; old != nil {
		if c.names[old.Iterations]--; c.names[old.Iterations] == 0 {
			delete(c.names, old.Iterations)
		}
		delete(c.of, k)
	}
	if value == nil {
		return nil
	}
	verifier, err := scram.Parse(v.Verifier)
	if err != nil {
		return err
	}
	if verifier.Mechanism != k.Mechanism {
		return errors.New("a credential is of another mechanism than its key")
	}
	c.of[k] = verifier
	c.names[verifier.Iterations]++
	return nil
}

// keepSecret has names that there are not look the same after a restart, too.
func (c *credentials) keepSecret(ctx context.Context) error {
	c.changing.Lock()
	defer c.changing.Unlock()
	if c.kept {
		return nil
	}
	key, err := json.Marshal(credential{Nobody: true})
	if err != nil {
		return err
	}
	value, err := json.Marshal(keptCredential{Secret: c.secret, Since: c.book.now().UTC()})
	if err != nil {
		return err
	}
	return c.book.append(ctx, []entryOf{{key, value}})
}

// find returns what a login is to be checked against: of a name that there is not, what nobody can pass.
func (c *credentials) find(m scram.Mechanism, name string) (*scram.Verifier, identity.Grant) {
	v, g, stands := c.file(m, name)
	k := credential{Name: name, Mechanism: m}
	c.mu.RLock()
	defer c.mu.RUnlock()
	secret := c.secret
	if mutant(mutantNobody) {
		secret = []byte(rand.Text())
	}
	nobody := scram.Nobody(secret, m, name, c.usual(name)) // whether it is needed or not: time tells nothing, either
	if v != nil {
		return v, g
	}
	if v = c.of[k]; v != nil && !stands {
		return v, identity.Grant{Name: name, Holds: func() bool { return c.holds(k, v) }}
	}
	return nobody, identity.Grant{}
}

// holds tells whether a credential is still what it was.
func (c *credentials) holds(k credential, was *scram.Verifier) bool {
	if _, _, stands := c.file(k.Mechanism, k.Name); stands {
		return false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.of[k] == was || mutant(mutantCredential)
}

// usual is how many iterations a name would have that there is not: one of the counts that those have that there are.
func (c *credentials) usual(name string) int {
	counts := []int{scram.DefaultIterations}
	for n := range c.names {
		counts = append(counts, n)
	}
	slices.Sort(counts)
	counts = slices.Compact(counts)
	h := hmac.New(sha256.New, c.secret)
	h.Write([]byte(name))
	return counts[binary.BigEndian.Uint64(h.Sum(nil))%uint64(len(counts))]
}

// settable refuses names whose credentials are not to be set here.
func (c *credentials) settable(name string) *refusal {
	if err := identity.CheckPrincipal(name); err != nil {
		return refuse(kerr.UnacceptableCredential, err.Error())
	}
	if _, _, stands := c.file(scram.SHA256, name); stands {
		return refuse(kerr.UnacceptableCredential, "the name stands in the password file, which is changed with millrace passwd")
	}
	return nil
}

// change is one to be made: v nil takes the credential away.
type change struct {
	of credential
	v  *scram.Verifier
}

// set makes changes, all of one name.
func (c *credentials) set(ctx context.Context, by string, changes []change) *refusal {
	c.changing.Lock()
	defer c.changing.Unlock()
	var entries []entryOf
	for _, ch := range changes {
		c.mu.RLock()
		_, there := c.of[ch.of]
		full := !there && ch.v != nil && len(c.of) >= maxCredentials
		c.mu.RUnlock()
		switch {
		case !there && ch.v == nil:
			return refuse(kerr.ResourceNotFound, noCredential)
		case full:
			return refuse(kerr.PolicyViolation, fmt.Sprintf("there are %d credentials, which is all there may be", maxCredentials))
		}
		e, err := ch.entry(c.book.now(), by)
		if err != nil {
			return refused(err)
		}
		entries = append(entries, e)
	}
	return refused(c.book.append(ctx, entries))
}

const noCredential = "there is no such credential"

func (c *credentials) has(of credential) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.of[of] != nil
}

func (ch *change) entry(now time.Time, by string) (e entryOf, err error) {
	if e.key, err = json.Marshal(ch.of); err != nil || ch.v == nil {
		return e, err
	}
	e.value, err = json.Marshal(keptCredential{Verifier: ch.v.String(), Since: now.UTC(), By: by})
	return e, err
}

// list tells which credentials there are.
func (c *credentials) list() map[string][]*scram.Verifier {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := map[string][]*scram.Verifier{}
	for k, v := range c.of {
		out[k.Name] = append(out[k.Name], v)
	}
	for _, vs := range out {
		slices.SortFunc(vs, func(a, b *scram.Verifier) int { return cmp.Compare(a.Mechanism, b.Mechanism) })
	}
	return out
}
