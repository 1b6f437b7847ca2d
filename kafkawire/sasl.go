package kafkawire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/identity/scram"
)

// The mechanisms of SASL that are spoken.
const (
	mechanismPlain = "PLAIN"
	mechanismOAuth = "OAUTHBEARER"
)

// sasl is one login on its way. It is the reader's.
type sasl struct {
	c         *conn
	mechanism string
	bare      bool // the client wraps its messages in no requests: it made the handshake in version 0
	steps     int
	exchange  *scram.Exchange // of SCRAM
	grant     identity.Grant  // of SCRAM, once it is proven
	refused   bool            // OAUTHBEARER: the client has been told why, and has to say that it has heard
}

// maxSteps is more messages than any mechanism has.
const maxSteps = 4

// saslResults is what became of logins, for counters.
var saslResults = [...]string{"accepted", "refused", "busy", "failed"}

// errNobody is what a client is told that was not let in: nothing that tells a wrong password from a name that there is not.
var errNobody = errors.New("authentication failed")

// step takes in a message. done: the client is who it said, and so is the connection. An error that is errNobody is for the client,
// and others for nobody: the connection just ends.
func (a *sasl) step(message []byte) (answer []byte, done bool, err error) {
	if a.steps++; a.steps > maxSteps {
		return nil, false, a.nobody(errors.New("too many messages"))
	}
	if a.refused { // counted and said already
		return nil, false, errNobody
	}
	var grant identity.Grant
	switch a.mechanism {
	case mechanismPlain:
		grant, err = a.plain(message)
	case mechanismOAuth:
		answer, grant, err = a.oauth(message)
	default:
		answer, grant, err = a.scram(message)
	}
	switch {
	case err != nil:
		return nil, false, a.fail(err)
	case grant.Name == "":
		return answer, false, nil
	}
	if err := a.enter(grant); err != nil {
		return nil, false, a.fail(err)
	}
	return answer, true, nil
}

// fail counts what went wrong, and says of it to the client what it may know.
func (a *sasl) fail(err error) error {
	switch {
	case errors.Is(err, identity.ErrRefused), errors.Is(err, scram.ErrMalformed), errors.Is(err, scram.ErrProof), errors.Is(err, errMessage):
		return a.nobody(err)
	case errors.Is(err, identity.ErrBusy):
		a.count("busy")
	default:
		a.count("failed")
	}
	a.c.s.say(a.c, "kafka: a client was not let in, for nobody could judge it", a.mechanism, err)
	return ended(endedUnknown, "%w", err) // no answer: a client takes that for an outage and comes again
}

func (a *sasl) nobody(err error) error {
	a.count("refused")
	a.c.s.say(a.c, "kafka: a client was not let in", a.mechanism, err)
	return errNobody
}

func (a *sasl) count(result string) {
	i := slices.Index(mechanisms[:], a.mechanism)
	a.c.s.stats.logins[i][slices.Index(saslResults[:], result)].Add(1)
}

// mechanisms are all that are spoken.
var mechanisms = [...]string{string(scram.SHA512), string(scram.SHA256), mechanismOAuth, mechanismPlain}

// enter has the connection be the client's. Who has a session already must be who it was.
func (a *sasl) enter(g identity.Grant) error {
	c, now := a.c, a.c.s.Now()
	who := &principal{account: g.Name, mechanism: a.mechanism, until: g.Until, holds: g.Holds}
	if s := c.listener.Gate.Session; s > 0 {
		if end := now.Add(s); who.until.IsZero() || end.Before(who.until) {
			who.until = end
		}
	}
	if old := c.who.Load(); old != nil && c.settled && !mutant(mutantBecome) && (old.account != who.account || old.mechanism != "" && old.mechanism != who.mechanism) {
		return fmt.Errorf("%w: the connection is of %q by %s, and cannot become %q's by %s", errMessage, old.account, old.mechanism, who.account, who.mechanism)
	}
	if !who.until.IsZero() && !now.Before(who.until) {
		return fmt.Errorf("%w: what was shown is over", errMessage)
	}
	c.become(who)
	if who.holds != nil && !who.holds() { // once more, now that Recheck sees it
		return fmt.Errorf("%w: what was shown is in force no more", errMessage)
	}
	a.count("accepted")
	return nil
}

// errMessage: the client's message is not as it should be.
var errMessage = errors.New("refused")

// claim begins what is to be judged.
func (a *sasl) claim(name, password string) *identity.Claim {
	return &identity.Claim{ClientID: a.c.clientID, Username: name, Password: password, Peer: a.c.nc.RemoteAddr().String(), Listener: a.c.listener.Name}
}

func (a *sasl) judge(name, password string) (identity.Grant, error) {
	ctx, cancel := context.WithTimeout(a.c.ctx, authPatience)
	defer cancel()
	g, err := a.c.listener.Gate.Judge(ctx, a.claim(name, password), a.c.tls.Load())
	if errors.Is(err, identity.ErrNotMine) {
		err = identity.ErrRefused
	}
	return g, err
}

// plain is RFC 4616: who to act as, NUL, who it is, NUL, the password.
func (a *sasl) plain(message []byte) (identity.Grant, error) {
	name, password, err := parsePlain(message)
	if err != nil {
		return identity.Grant{}, err
	}
	return a.judge(name, password)
}

func parsePlain(message []byte) (name, password string, err error) {
	parts := bytes.Split(message, []byte{0})
	if len(message) > maxToken || len(parts) != 3 || !utf8.Valid(message) {
		return "", "", fmt.Errorf("%w: not a message of PLAIN", errMessage)
	}
	as, name, password := string(parts[0]), string(parts[1]), string(parts[2])
	if as != "" && as != name && !mutant(mutantActAs) {
		return "", "", fmt.Errorf("%w: nobody acts for somebody else here", errMessage)
	}
	if password == "" {
		return "", "", fmt.Errorf("%w: no password", errMessage)
	}
	return name, password, nil
}

// maxToken is the longest message of a login, in bytes.
const maxToken = 16 << 10

// oauth is RFC 7628. Who is refused is told why in JSON, says that it has heard, and is refused.
func (a *sasl) oauth(message []byte) (answer []byte, g identity.Grant, err error) {
	as, token, err := parseOAuth(message)
	if err != nil {
		return nil, g, err
	}
	g, err = a.judge(as, token)
	if err == nil && as != "" && as != g.Name {
		err = fmt.Errorf("%w: the authorization id is not the token's account", errMessage)
	}
	if errors.Is(err, identity.ErrRefused) || errors.Is(err, errMessage) {
		a.c.s.say(a.c, "kafka: a token is not accepted", a.mechanism, err)
		a.refused = true
		a.count("refused")
		return []byte(`{"status":"invalid_token"}`), identity.Grant{}, nil
	}
	return nil, g, err
}

// parseOAuth reads n,a=name,\x01auth=Bearer token\x01…\x01\x01. Extensions are not looked at.
func parseOAuth(message []byte) (as, token string, err error) {
	wrong := func(text string) (string, string, error) {
		return "", "", fmt.Errorf("%w: not a message of OAUTHBEARER: %s", errMessage, text)
	}
	if len(message) > maxToken || !utf8.Valid(message) {
		return wrong("too long, or not UTF-8")
	}
	header, rest, ok := strings.Cut(string(message), "\x01")
	if !ok || !strings.HasSuffix(rest, "\x01\x01") {
		return wrong("not delimited as it should be")
	}
	fields := strings.Split(header, ",")
	if len(fields) != 3 || fields[0] != "n" && fields[0] != "y" || fields[2] != "" {
		return wrong("no GS2 header")
	}
	if fields[1] != "" {
		if as, ok = strings.CutPrefix(fields[1], "a="); !ok {
			return wrong("no GS2 header")
		}
		as = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(as)
	}
	for pair := range strings.SplitSeq(strings.TrimSuffix(rest, "\x01\x01"), "\x01") {
		key, value, ok := strings.Cut(pair, "=")
		switch {
		case !ok:
			return wrong("a pair without =")
		case key != "auth":
		case token != "":
			return wrong("two tokens")
		case len(value) < 7 || !strings.EqualFold(value[:7], "bearer "):
			return wrong("no bearer token")
		default:
			token = strings.TrimSpace(value[7:])
		}
	}
	if token == "" {
		return wrong("no token")
	}
	return as, token, nil
}

// scram takes two messages of the client's.
func (a *sasl) scram(message []byte) (answer []byte, g identity.Grant, err error) {
	if a.exchange == nil {
		m := scram.Mechanism(a.mechanism)
		e := scram.NewExchange(m, nil)
		name, err := e.Name(message)
		if err != nil {
			return nil, g, err
		}
		var v *scram.Verifier
		v, a.grant = a.c.s.credentials.find(m, name)
		a.exchange = e
		answer, err = e.Challenge(v)
		return answer, g, err
	}
	if answer, err = a.exchange.Prove(message); err != nil && !mutant(mutantProof) {
		return nil, g, err
	}
	if proven := a.c.listener.Gate.Proven; proven != nil {
		g, err = proven(a.grant, a.c.nc.RemoteAddr().String())
		return answer, g, err
	}
	return answer, a.grant, nil
}

// lifetime is for how long a login is good, as a client is told; 0: for good.
func (c *conn) lifetime() int64 {
	who := c.who.Load()
	if who == nil || who.until.IsZero() {
		return 0
	}
	return max(who.until.Sub(c.s.Now()).Milliseconds(), 1)
}

// login answers a message of a login: response gets what the client is told. It returns how the connection goes on.
func (c *conn) login(message []byte, respond func(answer []byte, refused bool)) (end error) {
	answer, done, err := c.sasl.step(message)
	if done || err != nil {
		c.sasl = nil
	}
	if err != nil && !errors.Is(err, errNobody) {
		return err
	}
	respond(answer, err != nil)
	if err != nil {
		return errRefused
	}
	return nil
}

// errRefused ends the reading: what was answered is sent yet.
var errRefused = ended(endedRefused, "%w", errNobody)

// later is a reply that goes out after a while: whoever guesses passwords waits, with a connection of the few that an address may have.
func (c *conn) later(rep *reply) *reply {
	rep.later = true
	time.AfterFunc(failureDelay, func() { c.replies.settle(rep) })
	return rep
}

// bareAuthenticate is the row for messages of a login that stand in no request.
var bareAuthenticate = &api{key: int16(kmsg.SASLAuthenticate), name: "SASL", start: startBare}

func startBare(c *conn, r *request) (*reply, error) {
	defer r.release()
	rep := &reply{}
	end := c.login(r.body, func(answer []byte, refused bool) {
		if refused {
			c.later(rep) // and nothing: such clients have no word for it
			return
		}
		b := make([]byte, 4, 4+len(answer))
		b[0], b[1], b[2], b[3] = byte(len(answer)>>24), byte(len(answer)>>16), byte(len(answer)>>8), byte(len(answer))
		rep.frame.bufs = append(rep.frame.bufs, append(b, answer...))
	})
	return rep, end
}
