package group

import (
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A group changes its protocol with members in it, so that consumers can be moved from one to the other a process at a time, as in
// Kafka with group.consumer.migration.policy=bidirectional.
//
// The first member of the consumer protocol makes a consumer group of a classic one (upgrade), whose members stay as hosted ones;
// when the last one leaves and classic members stay, it is a classic group again (downgrade). Either is one output: a crash finds
// one group or the other, as long as the caller writes an output whole. What members have goes with them, so that nobody is given what another holds.

// upgrade is the group as one of the consumer protocol, and appends the records that make it one. A member is believed to have what
// it was assigned and, if that is nobody's by the last assignment, what it said that it had when it joined: it may not have heard
// of that assignment yet. Whether it has more than it does is settled when it joins again, which all do: a member joins, so the epoch
// is past theirs.
func (g *Group) upgrade() (*consumer, *fault) {
	if g.stored {
		g.out.Records = append(g.out.Records, Record{Key: metadataKey(g.name)})
	}
	if len(g.members) == 0 {
		return newConsumer(), nil
	}
	refuse := func(why string) (*consumer, *fault) {
		return nil, &fault{kerr.GroupIDNotFound, "Cannot upgrade classic group " + g.name + " to consumer group because " + why + "."}
	}
	if g.protocolType != embeddedType {
		return refuse("the group does not use the consumer embedded protocol")
	}
	u := upgrading{g: g, taken: map[part]bool{}}
	if custom, err := u.read(); err != nil {
		return refuse("the embedded consumer protocol is malformed")
	} else if custom {
		return refuse("an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor before re-attempting the upgrade")
	}
	records := u.records()
	g.out.Records = append(g.out.Records, records...)
	next := New(g.name, g.cfg) // what replay will make of it
	next.now = g.now
	for _, r := range records {
		if err := next.Replay(r); err != nil {
			panic("group: cannot replay its own record: " + err.Error())
		}
	}
	return next.consumer, nil
}

// upgrading is a classic group's members as members of the other protocol.
type upgrading struct {
	g       *Group
	members []*consumerMember
	said    []embedded
	taken   map[part]bool
}

// read understands the members. custom says that an assignor of their own told them more than partitions, which would be lost.
func (u *upgrading) read() (custom bool, err error) {
	g := u.g
	for _, id := range g.order {
		m := g.members[id]
		if m.fresh { // it has nothing yet, and perhaps no id: it joins what is there when it comes again
			continue
		}
		if len(m.protocols) == 0 { // of a record that is not ours
			return false, fmt.Errorf("member %s speaks no protocol", m.id)
		}
		metadata := m.protocols[0].Metadata
		if g.protocol != nil && m.metadata(*g.protocol) != nil {
			metadata = m.metadata(*g.protocol)
		}
		said, err := readEmbedded(metadata)
		if err != nil {
			return false, err
		}
		assigned, userData, err := readAssignment(m.assignment)
		if err != nil || userData {
			return userData, err
		}
		cm := &consumerMember{
			id: m.id, instance: m.instance, rack: said.rack, clientID: m.clientID, host: m.host, rebal: m.rebal,
			epoch: g.generation, previous: g.generation, state: stable, assigned: held{}, classic: &hosted{m.session, m.protocols},
		}
		cm.subscribe(said.topics, "")
		u.take(cm, assigned)
		u.members, u.said = append(u.members, cm), append(u.said, said)
	}
	for i, cm := range u.members {
		u.take(cm, u.said[i].owned)
	}
	return false, nil
}

// take gives a member what nobody has yet.
func (u *upgrading) take(m *consumerMember, named []kmsg.ConsumerMemberAssignmentTopic) {
	if mutant(mutantUpgradeBare) {
		return
	}
	for _, t := range byID(u.g.cfg.Topics, named) {
		for _, i := range t.Partitions {
			if p := (part{t.TopicID, i}); i >= 0 && !u.taken[p] {
				u.taken[p] = true
				m.assigned.put(p, m.epoch)
			}
		}
	}
}

func (u *upgrading) records() (out []Record) {
	name, generation := u.g.name, u.g.generation
	for _, m := range u.members {
		out = append(out, memberRecord(name, m))
	}
	out = append(out, epochRecord(name, generation, 0))
	for _, m := range u.members {
		out = append(out, targetRecord(name, m.id, m.assigned.partitions()))
	}
	out = append(out, targetEpochRecord(name, generation))
	for _, m := range u.members {
		out = append(out, currentRecord(name, m))
	}
	return out
}

// onlyClassic says that the group has members, and none of them speaks the consumer protocol.
func (c *consumer) onlyClassic() bool { return c.classics > 0 && c.classics == len(c.members) }

// downgrade makes a classic group of one that has only classic members left. Who has come to the last target is in its generation
// and hears that it is to join; the others hear that theirs is past.
func (g *Group) downgrade() {
	c := g.consumer
	if c == nil || !c.onlyClassic() || len(g.out.Records) > 0 || mutant(mutantNoDowngrade) { // what is to be written first brings us here again
		return
	}
	classic := New(g.name, g.cfg)
	classic.now, classic.protocolType, classic.generation = g.now, embeddedType, c.targetEpoch
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		m := c.members[id]
		said, _ := readEmbedded(m.classic.protocols[0].Metadata)
		classic.add(&member{
			id: id, instance: m.instance, clientID: m.clientID, host: m.host, session: m.classic.session, rebal: m.rebal,
			protocols: m.classic.protocols, assignment: embeddedAssignment(m.holds(), g.cfg.Topics, said.version),
		})
	}
	if classic.protocol = classic.selectProtocol(); classic.protocol == nil {
		return // its records are not ours: it stays as it is
	}
	classic.leader = "" // nobody leads it yet: whoever replays that lets the members join, see beginClassic
	for _, id := range classic.order {
		g.buryMember(id)
	}
	g.buryConsumer()
	g.out.Records = append(g.out.Records, classic.metadataRecord(nil))
}

// beginClassic makes the members join that a group has as it comes out of the consumer protocol: what the last member of that
// protocol had is nobody's.
func (g *Group) beginClassic() {
	if g.unled = false; mutant(mutantNobodyJoins) {
		return
	}
	for _, m := range g.members {
		g.alive(m)
	}
	g.prepareRebalance()
}

// holds is what the member has, and what it must give up until it has.
func (m *consumerMember) holds() held {
	all := held{}
	for _, h := range []held{m.assigned, m.revoke} {
		for topic, parts := range h {
			for i, since := range parts {
				all.put(part{topic, i}, since)
			}
		}
	}
	return all
}
