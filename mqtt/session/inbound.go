package session

import "sync"

// Inbound is the receiver's side of QoS 2 for one session (MQTT 5.0, 4.3.3 method A): which packet ids are open, and the last
// released use of each. The connection's reader and the core both use it, so it locks; it outlives connections and is handed
// to the next one on take-over, outstanding appends included.
type Inbound struct {
	mu  sync.Mutex
	inc Incarnation // 0: the session is not persistent, its records carry no triple
}

// State is what Begin found.
type State uint8

const (
	// Fresh: the id was free. Append the message, with the triple in the record if it is not zero.
	Fresh State = iota
	// Pending: a copy is being appended; its PUBREC comes by itself.
	Pending
	// Open: the message is stable and not released. Answer PUBREC at once, append nothing.
	Open
)

// Begin tells what to do with a PUBLISH of QoS 2.
func (in *Inbound) Begin(id uint16) (Triple, State) { return Triple{}, Fresh }

// Stable says that the record of an id is durable: the id is Open, PUBREC may go.
func (in *Inbound) Stable(id uint16, t Triple) {}

// Refused says that the append was refused: the id is free again, PUBREC carries the failure.
func (in *Inbound) Refused(id uint16, t Triple) {}

// Outstanding is the number of ids not yet released, for the receive maximum.
func (in *Inbound) Outstanding() int { return 0 }
