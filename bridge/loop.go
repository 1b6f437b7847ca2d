package bridge

import (
	"strings"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Loop guards. What came in over a bridge does not go out over the same one: its record names the bridge as its client. What goes on
// over further ones is marked on MQTT 5 with a user property for each log it has been in, and is not taken, or sent on, a second time.
// A device can call itself as a bridge's records do, and can set the property: whoever connects may be the bridge of another log. Only both
// together count as a bridge's record, so a name alone keeps nothing from going out; who sets our mark, whose name is random, keeps their own
// message from crossing bridges, and nobody else's. A loop they cannot make: what has our mark is not taken in.
// At the remote, No Local (3.1.1: a bridge's protocol level) keeps what a bridge has published from coming back.
const (
	viaProperty = "millrace-via"
	maxVia      = 16 // logs that a message passes at most
)

// ClientID is the client id that the records of a bridge have.
func ClientID(name string) string { return clientPrefix + name }

// clientPrefix begins it.
const clientPrefix = "bridge:"

// been tells how often a message has been in this log; too many logs are as if it had always been here.
func (s *Set) been(p *session.Props) (times int) {
	if p == nil {
		return 0
	}
	n := 0
	for i := range p.User {
		if u := &p.User[i]; u.Name == viaProperty {
			if n++; u.Value == s.self {
				times++
			}
		}
	}
	if n >= maxVia {
		return n
	}
	return times
}

// returned tells whether the message of a record has been in this log before. What a bridge took in has the mark of this time already.
func (s *Set) returned(m *session.Message) bool {
	times := s.been(m.Props)
	if s.tookIn(m) {
		times--
	}
	return times > 0
}

// tookIn tells whether the record is of a bridge: it has the name of one, and the mark of this log as the last.
func (s *Set) tookIn(m *session.Message) bool {
	return strings.HasPrefix(m.Client, clientPrefix) && m.Props != nil && s.last(m.Props.User)
}

// last tells whether the last mark is ours.
func (s *Set) last(user []packet.UserProperty) bool {
	for i := len(user) - 1; i >= 0; i-- {
		if user[i].Name == viaProperty {
			return user[i].Value == s.self
		}
	}
	return false
}

// marked adds our mark to the properties of a message that has none of this time.
func (s *Set) marked(user []packet.UserProperty) []packet.UserProperty {
	if s.last(user) {
		return user
	}
	return append(user, packet.UserProperty{Name: viaProperty, Value: s.self})
}
