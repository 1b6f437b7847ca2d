package broker

import (
	"strings"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// outAliases are the topic aliases towards one client: which topics have one, first come. They end with the connection. The
// owner's; nil for a client that takes none.
type outAliases struct {
	max uint16
	of  map[string]uint16
}

// naming is how a delivery names its topic.
type naming uint8

const (
	byTopic   naming = iota
	withAlias        // the topic, and the alias that stands for it from now on
	byAlias
)

// An alias takes three bytes; it is not worth that for topics shorter than that, nor to remember longer ones.
const (
	minAliased = 4
	maxAliased = 512
)

// newOutAliases is for a client that takes max aliases; limit is ours.
func newOutAliases(max, limit uint16) *outAliases {
	if max == 0 {
		return nil
	}
	return &outAliases{max: min(max, limit)}
}

// name tells how a delivery is to name a topic.
func (a *outAliases) name(topic string) (alias uint16, how naming) {
	if a == nil || len(topic) < minAliased || len(topic) > maxAliased {
		return 0, byTopic
	}
	if alias, ok := a.of[topic]; ok {
		return alias, byAlias
	}
	if len(a.of) < int(a.max) {
		return uint16(len(a.of) + 1), withAlias
	}
	return 0, byTopic
}

// queued notes that a packet which sets an alias is on its way: those after it may use it.
func (a *outAliases) queued(topic string, alias uint16) {
	if a.of == nil {
		a.of = map[string]uint16{}
	}
	a.of[strings.Clone(topic)] = alias
}

// aliasPlace is where the alias of an encoded PUBLISH stands. Only a payload format can come before it.
func aliasPlace(b []byte, p *packet.Publish) int {
	skip := func(i int) int { // a variable byte integer
		for b[i] >= 0x80 {
			i++
		}
		return i + 1
	}
	i := skip(1) + 2 + len(p.Topic)
	if p.QoS > 0 {
		i += 2
	}
	i = skip(i)
	if p.Props.Has&packet.PPayloadFormat != 0 {
		i += 2
	}
	return i + 1
}
