package sim

import (
	"fmt"
	"hash/crc32"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/topic"
)

// Entry is one message as the ledger has it.
type Entry struct {
	Device, Topic string
	Sequence      uint64 // of the device's messages, from 1
	QoS           byte
	Sent          time.Time // when it was entered, to the second
	Acked         bool      // QoS 1 and 2: the server has taken it
	Refused       bool      // or refused it; if neither, it is in doubt
	Content       uint64    // ContentHash of its topic and payload
}

// Entries calls yield for every message, in the order in which they were entered, until it returns false. yield must not call the
// ledger.
func (l *Ledger) Entries(yield func(Entry) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.messages {
		m := &l.messages[i]
		s := &l.streams[m.stream]
		if !yield(Entry{s.device, s.topic, uint64(m.sequence), m.qos, time.Unix(int64(m.second), 0), m.state == acked, m.state == refused, m.hash}) {
			return
		}
	}
}

// Readers are those that the ledger has, in the order in which they were made.
func (l *Ledger) Readers() []*Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Reader(nil), l.readers...)
}

// Name is the reader's name, and what it is subscribed to.
func (r *Reader) Name() (name, filter string, qos byte) { return r.name, r.filter, r.qos }

// Report is what a reader got against what it was owed.
type Report struct {
	Reader     string
	Sent       int // since the reader began, on topics that its filter matches
	Acked      int // of these
	Refused    int
	InDoubt    int // QoS 1 and 2, sent and not answered
	Received   int // messages got, each counted once
	Missing    int // acked and not got
	Duplicates int // got again; legal at QoS 1
	Twice      int // of these, at QoS 2
	Reordered  int // sent since the reader began, and got for the first time after a later one of the same device and topic
	Phantoms   int // never sent
	Altered    int // not as it was sent
	Unwanted   int // refused and got all the same
	Examples   []string
}

// Report compares. It can be asked for at any time; messages that are still on their way count as missing.
func (r *Reader) Report() Report {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	rep := Report{Reader: r.name, Duplicates: r.duplicates, Twice: r.twice, Phantoms: r.phantoms,
		Altered: r.altered, Examples: append([]string(nil), r.examples...)}
	// What was sent before the subscription stood is not owed, but may come, and late: of 27, 37 and, resent, 27 in the log, one
	// who subscribes after the first is rightly given 37 and 27.
	for _, d := range r.disorder {
		if int(d.ref) >= r.from { // what came after the end had an order all the same
			rep.Reordered++
			if len(rep.Examples) < maxExamples {
				rep.Examples = append(rep.Examples, fmt.Sprintf("out of order: %s after %d", l.describe(int(d.ref)), d.after))
			}
		}
	}
	wanted := make([]bool, len(l.streams))
	for i, s := range l.streams {
		wanted[i] = topic.Match(r.filter, s.topic)
	}
	for ref := range l.messages {
		m, got := &l.messages[ref], r.count(ref) > 0
		if got {
			rep.Received++
		}
		if ref < r.from || r.to >= 0 && ref >= r.to || !wanted[m.stream] {
			continue
		}
		rep.Sent++
		switch m.state {
		case acked:
			rep.Acked++
			if !got && min(m.qos, r.qos) > 0 {
				rep.Missing++
				if len(rep.Examples) < maxExamples {
					rep.Examples = append(rep.Examples, "missing: "+l.describe(ref))
				}
			}
		case refused:
			rep.Refused++
			if got {
				rep.Unwanted++
			}
		default:
			if m.qos > 0 {
				rep.InDoubt++
			}
		}
	}
	return rep
}

// Err is nil if nothing is wrong: duplicates at QoS 1, and messages in doubt, are not.
func (r *Report) Err() error {
	if r.Missing+r.Twice+r.Reordered+r.Phantoms+r.Altered+r.Unwanted == 0 {
		return nil
	}
	return fmt.Errorf("sim: %s", r)
}

func (r *Report) String() string {
	s := fmt.Sprintf("reader %q: sent %d, acked %d, refused %d, in doubt %d, received %d; missing %d, duplicates %d (at QoS 2: %d), "+
		"reordered %d, phantoms %d, altered %d, refused but delivered %d", r.Reader, r.Sent, r.Acked, r.Refused, r.InDoubt, r.Received,
		r.Missing, r.Duplicates, r.Twice, r.Reordered, r.Phantoms, r.Altered, r.Unwanted)
	for _, e := range r.Examples {
		s += "\n  " + e
	}
	return s
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ContentHash is of topic and payload. Nobody attacks it: two checksums that the processor computes do.
func ContentHash(topic, payload []byte) uint64 {
	a := crc32.Update(uint32(len(topic)), castagnoli, topic)
	b := crc32.Update(uint32(len(topic)), crc32.IEEETable, topic)
	return uint64(crc32.Update(a, castagnoli, payload))<<32 | uint64(crc32.Update(b, crc32.IEEETable, payload))
}

func contentHash(p *packet.Publish) uint64 { return ContentHash(p.Topic, p.Payload) }
