package session

import (
	"testing"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// TestAnchorIsNoCheckpoint has a checkpoint begun and never done, and then a restart that finds a new partition and writes where it
// begins. What that checkpoint has written of a publisher is as of its own frontier still, not as of the one that is written then: a message
// of QoS 2 between the two is no duplicate, and comes to who subscribes to it.
func TestAnchorIsNoCheckpoint(t *testing.T) {
	s := newScene(t)
	publisher := s.clients[3]
	s.want(s.core.shard(publisher.key) != s.core.shard(s.a.key), "both are in one partition")
	s.connect(s.a, 1000)
	s.subscribe(s.a, packet.Filter{Filter: "a/1", QoS: 2})
	s.core.Checkpoint(s.now)
	s.settle()
	s.a.disconnect(Lost, nil)
	s.connect(publisher, 1000)
	p := &simPub{msg: Message{Offset: -1, Topic: "a/1", Payload: []byte("once"), QoS: 2, Client: publisher.key.ClientID}}
	s.model.pub(p)
	publisher.sent[1], publisher.order = p, []uint16{1}
	publisher.publish2(1, p)
	s.settle()
	s.core.Checkpoint(s.now)
	lane := s.targets[0]
	for range 2 { // what is begun, and the queues
		s.want(len(lane.writes) > 0, "nothing is written")
		s.writeOne(lane)
	}
	s.stopWriting()
	s.parts = append(s.parts, &simPart{part: Part{Topic: [16]byte{9}}})
	s.model.watching = false // it counts the partitions
	s.crash()
	s.settle()
	s.stopWriting()
	s.crash()
	s.settle()
	s.connect(s.a, 1000)
	s.expect(s.a, "a/1=once q2 #1")
}

// stopWriting loses what is outstanding.
func (s *scene) stopWriting() {
	for _, t := range s.targets {
		t.writes = nil
	}
}
