package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/admission"
)

// visitor is who has sent a request.
type visitor struct {
	who     identity.Principal // nobody in particular, if there are no passwords
	session string             // its key; empty: there is none
}

// admit says who has sent a request, or why it is not answered: by token, by session, or because nobody has to say.
func (s *Server) admit(r *http.Request) (visitor, error) {
	if s.o.Passwords == nil {
		return visitor{}, nil
	}
	if auth := r.Header.Get("Authorization"); auth != "" {
		scheme, token, _ := strings.Cut(auth, " ")
		if strings.EqualFold(scheme, "Bearer") {
			if who, err := s.o.Passwords.CheckToken(strings.TrimSpace(token)); err == nil {
				return visitor{who: who}, nil
			}
		}
		return visitor{}, needLogin("the bearer token is not known")
	}
	for _, c := range r.CookiesNamed(cookieName(r)) {
		if v, ok := s.sessions.find(c.Value); ok && s.o.Passwords.Holds(v.who) {
			return v, nil
		}
	}
	return visitor{}, needLogin("log in, or send an Authorization header with a bearer token (`millrace passwd --token`)")
}

// administers says why somebody who may read may not change anything, or nil. Where nobody has to say who they are, nobody is an
// administrator: whatever runs on this machine, a page in a browser or a device's gateway, could be it.
func (s *Server) administers(v visitor) error {
	switch {
	case s.o.Passwords == nil:
		return problem(http.StatusForbidden, "only an administrator may do this, and the node knows none: make one with `millrace passwd FILE NAME`, "+
			"set listeners.http.password_file: FILE, and start the node again")
	case v.who.Role != identity.Admin:
		return problem(http.StatusForbidden, "only an administrator may do this: "+v.who.Name+" has the role "+v.who.Role+
			"; `millrace passwd FILE NAME --role admin` gives a name that role")
	}
	return nil
}

// welcome tells whether somebody who was let in still may stay.
func (s *Server) welcome(v visitor) bool {
	if s.o.Passwords == nil {
		return true
	}
	return s.o.Passwords.Holds(v.who) && (v.session == "" || s.sessions.lives(v.session))
}

func needLogin(detail string) *Problem {
	p := problem(http.StatusUnauthorized, detail)
	p.Login = true
	return p
}

// cookieName binds the cookie to this host and to TLS where there is TLS.
func cookieName(r *http.Request) string {
	if r.TLS != nil {
		return "__Host-millrace"
	}
	return "millrace"
}

const maxBody = 4 << 10 // bytes of a request's body

func (s *Server) login(r *http.Request) (answer, error) {
	if s.o.Passwords == nil {
		return answer{}, problem(http.StatusNotFound, "this node has no password file (listeners.http.password_file): everybody may read")
	}
	l, err := readLogin(r)
	if err != nil {
		return answer{}, err
	}
	from := admission.Client(r.RemoteAddr)
	if wait := s.guesses.take(from, l.Name); wait > 0 {
		return answer{}, tooMany("too many failed logins", wait)
	}
	who, err := s.o.Passwords.Check(r.Context(), l.Name, l.Password)
	switch {
	case errors.Is(err, identity.ErrBusy):
		s.guesses.back(from, l.Name)
		return answer{}, tooMany("too many logins at once", time.Second)
	case err != nil:
		s.o.Logger.Warn("a login failed", "from", from)
		return answer{}, needLogin("unknown name or wrong password")
	}
	s.guesses.back(from, l.Name)
	key, expires := s.sessions.begin(who)
	s.o.Logger.Info("a login", "name", who.Name, "from", from)
	return answer{
		body: LoggedIn{User: who.Name, Role: who.Role, Expires: millis(expires)},
		cookie: &http.Cookie{Name: cookieName(r), Value: key, Path: "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
			MaxAge: int(sessionLife.Seconds())},
	}, nil
}

func readLogin(r *http.Request) (l Login, err error) {
	if err := readBody(r, &l); err != nil {
		return l, err
	}
	if l.Name == "" || len(l.Name) > identity.MaxName || l.Password == "" {
		return l, problem(http.StatusBadRequest, `the body is {"name": …, "password": …}`)
	}
	return l, nil
}

// readBody reads a small JSON object, of which every field must be known.
func readBody(r *http.Request, into any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return problem(http.StatusUnsupportedMediaType, "the body is JSON: send Content-Type: application/json")
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return problem(http.StatusBadRequest, "the body cannot be read")
	case len(b) > maxBody:
		return problem(http.StatusRequestEntityTooLarge, "the body has more than 4096 bytes")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil || d.More() {
		return problem(http.StatusBadRequest, "the body is not one JSON object of the fields that /api/v1/openapi.json names")
	}
	return nil
}

// logout ends the session that the request has, if it has one.
func (s *Server) logout(r *http.Request) (answer, error) {
	for _, c := range r.CookiesNamed(cookieName(r)) {
		s.sessions.end(c.Value)
	}
	return answer{status: http.StatusNoContent,
		cookie: &http.Cookie{Name: cookieName(r), Path: "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode, MaxAge: -1}}, nil
}

func tooMany(detail string, wait time.Duration) *Problem {
	p := problem(http.StatusTooManyRequests, detail)
	p.retry = max(1, int((wait+time.Second-1)/time.Second))
	p.Detail += "; try again in " + strconv.Itoa(p.retry) + " s"
	return p
}

// guesses slows down who tries passwords: of one address, and of one name from all addresses. Logins from this machine are not held up for
// what others do to their name, so that nobody can lock out who sits at it.
type guesses struct {
	from buckets[netip.Addr]
	name buckets[string]
}

func (g *guesses) init(now func() time.Time) {
	g.from = buckets[netip.Addr]{now: now, burst: 5, every: 15 * time.Second}
	g.name = buckets[string]{now: now, burst: 50, every: 30 * time.Second}
}

// take counts an attempt before it is looked at, so that many at once are no way around it; back takes it back if it was no failure.
func (g *guesses) take(from netip.Addr, name string) time.Duration {
	if wait := g.from.take(from); wait > 0 {
		return wait
	}
	if from.IsLoopback() {
		return 0
	}
	wait := g.name.take(name)
	if wait > 0 {
		g.from.back(from)
	}
	return wait
}

func (g *guesses) back(from netip.Addr, name string) {
	g.from.back(from)
	if !from.IsLoopback() {
		g.name.back(name)
	}
}
