package console

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"

	"github.com/millrace-io/millrace/identity"
)

// sessions are the logins that hold. They are forgotten when the node restarts. A key is known to its browser only: the table has its hash.
type sessions struct {
	now func() time.Time
	mu  sync.Mutex
	of  map[[sha256.Size]byte]*session
}

type session struct {
	who   identity.Principal
	began time.Time
	used  time.Time
}

const (
	sessionLife = 7 * 24 * time.Hour // at most
	sessionIdle = 12 * time.Hour     // without a request
	maxSessions = 1000               // only who has a password can begin one; then the one not used for longest ends
)

func (ss *sessions) init(now func() time.Time) {
	ss.now, ss.of = now, map[[sha256.Size]byte]*session{}
}

// begin makes a session and returns its key.
func (ss *sessions) begin(who identity.Principal) (key string, expires time.Time) {
	secret := make([]byte, 32)
	rand.Read(secret)
	key = base64.RawURLEncoding.EncodeToString(secret)
	ss.mu.Lock()
	defer ss.mu.Unlock()
	now := ss.now()
	if len(ss.of) >= maxSessions {
		ss.makeRoom(now)
	}
	ss.of[sha256.Sum256([]byte(key))] = &session{who: who, began: now, used: now}
	return key, now.Add(sessionLife)
}

// makeRoom forgets what has expired and, if that is nothing, the session not used for longest.
func (ss *sessions) makeRoom(now time.Time) {
	var oldest [sha256.Size]byte
	var used time.Time
	for k, s := range ss.of {
		if !s.lives(now) {
			delete(ss.of, k)
		} else if used.IsZero() || s.used.Before(used) {
			oldest, used = k, s.used
		}
	}
	if len(ss.of) >= maxSessions {
		delete(ss.of, oldest)
	}
}

func (s *session) lives(now time.Time) bool {
	return now.Sub(s.began) < sessionLife && now.Sub(s.used) < sessionIdle
}

// find returns whose session a key is of, and counts as its use.
func (ss *sessions) find(key string) (visitor, bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	k, now := sha256.Sum256([]byte(key)), ss.now()
	s := ss.of[k]
	if s == nil {
		return visitor{}, false
	}
	if !s.lives(now) {
		delete(ss.of, k)
		return visitor{}, false
	}
	s.used = now
	return visitor{who: s.who, session: key}, true
}

// lives tells whether a session has not ended. A page that looks on keeps it in use.
func (ss *sessions) lives(key string) bool {
	_, ok := ss.find(key)
	return ok
}

func (ss *sessions) end(key string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.of, sha256.Sum256([]byte(key)))
}
