package session

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// keep begins a delivery of QoS 2 of "m" on a topic to a client, who goes away without an answer, and lets time and retention pass.
func (s *scene) keep(name string, seconds int64) {
	s.t.Helper()
	s.connect(s.a, 1000)
	s.subscribe(s.a, packet.Filter{Filter: "#", QoS: 2})
	s.publish(name, "m", 2, func(m *Message) {
		m.Props = &Props{ContentType: "text", User: []packet.UserProperty{{Name: "n", Value: "v"}}}
	})
	s.want(len(s.a.conn.out) == 1, "nothing was sent")
	s.a.disconnect(Lost, nil) // before it came
	s.settle()
	s.later(seconds)
	for i, p := range s.parts {
		p.start, p.recs = p.next, nil
		s.model.trimmed(i, p.next)
	}
}

func longOpen(t *testing.T) *scene {
	return limited(t, func(o *Options) { o.CopyAfter = 10 * time.Second })
}

func TestCopyOutlivesRetention(t *testing.T) {
	for _, crash := range []bool{false, true} {
		s := longOpen(t)
		s.keep("a/1", 20)
		if crash {
			for _, x := range s.targets {
				x.compact()
			}
			s.crash()
			s.settle()
		}
		s.connect(s.a, 1000)
		s.expect(s.a, "a/1=m q2 #1 dup")
		s.want(s.model.copies > 0, "the model does not know of the copy")
		s.acks(s.a)
		s.want(s.counts[DropGap] == 0 && len(s.core.sessions[s.a.key].flight.copies) == 0, "%v", s.counts)
		s.later(100) // until a checkpoint covers it
		st := s.core.Stats()
		s.want(st.Inflight == 0, "%+v", st)
		outs := 0
		for _, x := range s.targets {
			x.compact()
			for _, r := range x.recs {
				if k, _ := decodeKey(r.Key); k.kind == kindOut {
					outs++
				}
			}
		}
		s.want(outs == 0, "%d copies are left in the log", outs)
	}
}

// The copy has all that the message had.
func TestCopyIsWhole(t *testing.T) {
	s := longOpen(t)
	s.keep("a/1", 20)
	s.connect(s.a, 1000)
	s.want(len(s.a.conn.out) == 1, "nothing was sent")
	o := s.a.conn.out[0]
	if p := o.msg.Props; p == nil || p.ContentType != "text" || len(p.User) != 1 || o.msg.Client != "someone" || o.msg.Offset >= retainedBase {
		t.Errorf("%+v, %+v", o.msg, p)
	}
}

// What is not open for long is not copied, and given up with its record, as everything else that waits.
func TestNoCopyOfWhatIsYoung(t *testing.T) {
	s := longOpen(t)
	s.keep("a/1", 5)
	s.connect(s.a, 1000)
	s.expect(s.a, "6 #1")
	s.want(s.counts[DropGap] == 1, "%v", s.counts)
}

// A copy that is refused is tried again; one whose delivery has ended meanwhile is not made.
func TestCopyRefused(t *testing.T) {
	s := longOpen(t)
	s.connect(s.a, 1000)
	s.subscribe(s.a, packet.Filter{Filter: "#", QoS: 2})
	s.publish("a/1", "m", 2)
	s.got(s.a)
	s.tick(11_000)
	s.want(len(s.reads) == 1, "%d reads", len(s.reads))
	s.readOne(0)
	var writes int
	for _, x := range s.targets {
		for _, w := range x.writes {
			for _, r := range w.recs {
				if k, _ := decodeKey(r.Key); k.kind == kindOut {
					s.core.Written(s.now, w.token, []Result{{Err: errState}})
					x.writes, writes = nil, writes+1
				}
			}
		}
	}
	s.want(writes == 1, "%d writes", writes)
	s.later(20)
	cp := s.core.sessions[s.a.key].flight.copyOf(1)
	s.want(cp != nil && cp.at >= 0, "it was not tried again: %+v", cp)

	s.publish("a/2", "n", 2)
	s.got(s.a)
	s.tick(11_000)
	s.want(len(s.reads) == 1, "%d reads", len(s.reads))
	for len(s.a.acks) > 0 {
		s.a.ack(0)
	}
	s.settle()
	s.acks(s.a)
	s.want(len(s.core.sessions[s.a.key].flight.copies) == 0 && len(s.core.copying) == 0, "%+v", s.core.sessions[s.a.key].flight.copies)
}
