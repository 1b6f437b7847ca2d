package main

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/app"
	"github.com/millrace-io/millrace/sim"
	"github.com/millrace-io/millrace/sim/city"
)

// memory is how the fleets of an earlier demo were, from the end of the log: the log is the truth, also after kill -9.
type memory struct {
	messages  int
	sequences map[string]uint64
	payloads  map[string][]byte // of vans
}

// remember reads the end of the log, further back as long as vans are missing, but not without end: what was not heard for long begins
// anew.
func remember(ctx context.Context, n *app.Node, vans int) (m memory, err error) {
	const most = 1 << 17
	for count, before := int64(1<<12), -1; count <= most; count *= 4 {
		m = memory{sequences: map[string]uint64{}, payloads: map[string][]byte{}}
		if err = n.Past(ctx, count, m.add); err != nil {
			return m, err
		}
		if len(m.payloads) >= vans || m.messages == before {
			break // all are found, or all is read
		}
		before = m.messages
	}
	return m, nil
}

func (m *memory) add(p *app.Past) {
	m.messages++
	if p.Property(sim.PropDevice) != p.Client {
		return
	}
	sequence, err := strconv.ParseUint(p.Property(sim.PropSequence), 10, 64)
	if err != nil || sequence < m.sequences[p.Client] {
		return
	}
	m.sequences[p.Client] = sequence
	if strings.HasPrefix(p.Topic, "city/") {
		m.payloads[p.Client] = append(m.payloads[p.Client][:0], p.Payload...)
	}
}

// last is the last sequence of a device.
func (m *memory) last(device string) uint64 { return m.sequences[device] }

// state is how a van was.
func (m *memory) state(van string) (was city.State, ok bool) {
	payload, ok := m.payloads[van]
	var p struct{ Lat, Lon, Heading, Odometer, Battery float64 }
	if !ok || json.Unmarshal(payload, &p) != nil {
		return was, false
	}
	return city.State{Lat: p.Lat, Lon: p.Lon, Heading: p.Heading, Odometer: p.Odometer, Battery: p.Battery}, true
}
