package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Keys are the public keys that tokens are signed with, as a file or a server has them. The last good set stays in force while a newer one
// cannot be had. Its methods are safe for concurrent use.
type Keys struct {
	o    KeysOptions
	cur  atomic.Pointer[keySet] // nil: none has been read yet
	want chan struct{}          // somebody has asked for newer ones

	mu       sync.Mutex
	seen     [sha256.Size]byte
	fault    error
	asked    chan struct{} // closed when what somebody has asked for has been tried
	earliest time.Time     // of the next that a token may ask for
}

// KeysOptions are what Keys are made of. All but Now are required.
type KeysOptions struct {
	Read  func(context.Context) ([]byte, error) // it heeds its context, and takes no longer than is good
	Every time.Duration                         // the set is read again
	Least time.Duration                         // between two readings that unknown keys ask for, and after one that has failed
	Now   func() time.Time                      // default time.Now
}

// NewKeys returns keys of which none is read yet: Refresh and Run do that.
func NewKeys(o KeysOptions) *Keys {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Keys{o: o, want: make(chan struct{}, 1)}
}

// Refresh reads the set. changed: it is another one, and in force. It is not to be called by two at once.
func (k *Keys) Refresh(ctx context.Context) (changed bool, err error) {
	b, err := k.o.Read(ctx)
	var set *keySet
	if err == nil {
		set, err = parseKeySet(b)
	}
	sum := sha256.Sum256(b)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault = err; err != nil {
		return false, fmt.Errorf("read the keys of tokens: %w", err)
	}
	if k.cur.Load() != nil && sum == k.seen {
		return false, nil
	}
	k.seen = sum
	k.cur.Store(set)
	return true, nil
}

// Run refreshes now and then, and when a token names a key that is not known, until ctx ends. It tells whoever it is made for of each outcome.
func (k *Keys) Run(ctx context.Context, outcome func(changed bool, err error)) {
	wait := k.o.Every
	if k.Fault() != nil {
		wait = k.o.Least
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-k.want:
		}
		changed, err := k.Refresh(ctx)
		k.answer()
		outcome(changed, err)
		if wait = k.o.Every; err != nil {
			wait = min(k.o.Least, k.o.Every)
		}
		timer.Reset(wait)
	}
}

// answer tells those who have asked that it has been tried.
func (k *Keys) answer() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.earliest = k.o.Now().Add(k.o.Least)
	if k.asked != nil {
		close(k.asked)
		k.asked = nil
	}
}

// ask has Run refresh, and returns what is closed then; nil: it has just done so.
func (k *Keys) ask() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asked != nil {
		return k.asked
	}
	if k.o.Now().Before(k.earliest) {
		return nil
	}
	k.asked = make(chan struct{})
	k.Hurry()
	return k.asked
}

// Hurry has Run refresh now.
func (k *Keys) Hurry() {
	select {
	case k.want <- struct{}{}:
	default:
	}
}

// Fault is why the set that is there could not be read the last time; nil: it could.
func (k *Keys) Fault() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fault
}

// Useless tells which keys of the set in force are passed over because they cannot be used, one line each.
func (k *Keys) Useless() []error {
	if s := k.cur.Load(); s != nil {
		return s.useless
	}
	return nil
}

// errNoKey: the set was read, and has no such key.
var errNoKey = errors.New("no such key")

// find returns the key for a token, if need be after asking for a newer set, which ctx does not wait for longer than it lasts.
func (k *Keys) find(ctx context.Context, kid, alg string) (*publicKey, error) {
	for again := false; ; again = true {
		if s := k.cur.Load(); s != nil {
			if key := s.find(kid, alg); key != nil {
				return key, nil
			}
		}
		if !again {
			if asked := k.ask(); asked != nil {
				select {
				case <-asked:
					continue
				case <-ctx.Done():
					return nil, fmt.Errorf("wait for newer keys: %w", ctx.Err())
				}
			}
		}
		if err := k.Fault(); err != nil { // it may have the key
			return nil, fmt.Errorf("no newer keys can be read: %w", err)
		}
		if k.cur.Load() == nil {
			return nil, errors.New("no keys have been read yet")
		}
		return nil, errNoKey
	}
}

// holds tells whether a key is still in the set.
func (k *Keys) holds(sum [sha256.Size]byte) bool {
	s := k.cur.Load()
	return s != nil && s.has(sum)
}
