package verify

import (
	"fmt"
	"strings"

	"github.com/millrace-io/millrace/mqtt/topic"
	"github.com/millrace-io/millrace/sim"
)

// LedgerCheck compares a simulation's ledger with the log: what was acknowledged must be there as it was sent, what was refused must not.
type LedgerCheck struct {
	ledger  *sim.Ledger
	devices map[string][]mark // by sequence minus 1
	unknown []Stamp           // in the log and not in the ledger, the first ones
	strange uint64
}

// mark is one message of the ledger.
type mark struct {
	content uint64
	known   bool
	altered bool
	times   uint8 // in the log, up to 255
}

// NewLedgerCheck takes up a ledger, which must not grow any more.
func NewLedgerCheck(l *sim.Ledger) *LedgerCheck {
	c := &LedgerCheck{ledger: l, devices: map[string][]mark{}}
	l.Entries(func(e sim.Entry) bool {
		list := c.devices[e.Device]
		for uint64(len(list)) < e.Sequence {
			list = append(list, mark{})
		}
		list[e.Sequence-1] = mark{content: e.Content, known: true}
		c.devices[e.Device] = list
		return true
	})
	return c
}

// Saw enters a message that is in the log.
func (c *LedgerCheck) Saw(s Stamp) {
	list, ours := c.devices[s.Device]
	switch {
	case !ours:
	case s.Sequence == 0 || s.Sequence > uint64(len(list)) || !list[s.Sequence-1].known:
		if c.strange++; len(c.unknown) < maxListed {
			s.Device = strings.Clone(s.Device)
			c.unknown = append(c.unknown, s)
		}
	default:
		m := &list[s.Sequence-1]
		m.altered = m.altered || m.content != s.Content
		if m.times < 255 {
			m.times++
		}
	}
}

// Complete adds what the ledger says to the summary of a check that was made without it.
func (c *LedgerCheck) Complete(s *Summary, strict bool, find func(Finding)) {
	if s.Kinds == nil {
		s.Kinds = map[Kind]uint64{}
	}
	c.Finish(s.Routes, func(f Finding) {
		if s.count(&f, strict); s.Kinds[f.Kind] <= defaultShown {
			find(f)
		}
	})
	s.Complete, s.Text = s.Wrong == 0, s.words()
}

// Finish says what does not add up. routes tell which topics are not kept.
func (c *LedgerCheck) Finish(routes []Filter, find func(Finding)) {
	doubt, repeats, lost, first := uint64(0), uint64(0), uint64(0), ""
	c.ledger.Entries(func(e sim.Entry) bool {
		m := c.devices[e.Device][e.Sequence-1]
		f := Finding{Severity: Wrong, Minute: e.Sent.UnixMilli() / 60_000 * 60_000, Partition: -1, Offset: -1, Device: e.Device,
			Numbers: []Span{{e.Sequence, e.Sequence}}, Count: 1}
		who := fmt.Sprintf("%q number %d, sent to %q at QoS %d", e.Device, e.Sequence, e.Topic, e.QoS)
		switch {
		case m.altered:
			f.Kind, f.Text = LedgerBroken, who+", has another payload or topic in the log"
		case e.Refused && m.times > 0:
			f.Kind, f.Text = LedgerRefused, who+", was refused, and is in the log"
		case m.times > 1 && e.QoS != 1:
			f.Kind, f.Text = LedgerTwice, fmt.Sprintf("%s, is in the log %d times", who, m.times)
		case m.times > 0:
			if m.times > 1 {
				repeats += uint64(m.times) - 1
			}
			return true
		case e.Refused || !stored(routes, e.Topic):
			return true
		case e.Acked:
			f.Kind, f.Text = LedgerMissing, who+", was acknowledged, and is not in the log"
		case e.QoS == 0:
			if lost++; first == "" {
				first = who
			}
			return true
		default:
			doubt++
			return true
		}
		find(f)
		return true
	})
	if c.strange > 0 {
		f := Finding{Kind: LedgerUnknown, Severity: Wrong, Partition: -1, Offset: -1, Count: c.strange, Device: c.unknown[0].Device}
		f.Text = fmt.Sprintf("%d messages of the ledger's devices are in the log and were never sent, %q number %d first", c.strange,
			c.unknown[0].Device, c.unknown[0].Sequence)
		find(f)
	}
	if lost > 0 {
		find(Finding{Kind: QoS0Lost, Severity: Loss, Partition: -1, Offset: -1, Count: lost,
			Text: fmt.Sprintf("%d messages of the ledger were sent at QoS 0 and are not in the log, first %s", lost, first)})
	}
	if doubt > 0 {
		find(Finding{Kind: InDoubt, Severity: Note, Partition: -1, Offset: -1, Count: doubt,
			Text: fmt.Sprintf("%d messages of the ledger were neither acknowledged nor refused, and are not in the log: nobody promised them", doubt)})
	}
	for _, r := range c.ledger.Readers() {
		rep := r.Report()
		if err := rep.Err(); err != nil {
			find(Finding{Kind: LedgerReader, Severity: Wrong, Partition: -1, Offset: -1, Count: uint64(rep.Missing), Text: rep.String()})
		}
	}
}

// stored tells whether messages of an MQTT topic are kept.
func stored(routes []Filter, name string) bool {
	for _, r := range routes {
		if topic.Match(r.MQTT, name) {
			return r.Stored
		}
	}
	return true
}
