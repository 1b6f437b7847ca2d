package session

import (
	"slices"
	"sync"
)

// Inbound is the receiver's side of QoS 2 for one session (MQTT 5.0, 4.3.3 method A): which packet ids are open, and the last
// released use of each. The connection's reader and the core both use it, so it locks; it outlives connections and is handed
// to the next one on take-over, outstanding appends included.
//
// The n-th use of an id ends with its release. A message's record carries the use it belongs to, so after a crash an id is open
// iff the log has a record of a use that no release covers, and a second record of one use is a duplicate. An id that is
// at rest and whose records lie below a checkpoint's frontier is forgotten; base is then at least the last released use of all
// forgotten ids, so that no use of an id ever comes twice.
//
// Uses of one id may lie in several partitions, which the tail shows in any order: ahead holds those shown beyond a gap.
type Inbound struct {
	mu   sync.Mutex
	inc  Incarnation // 0: the session is not persistent, its records carry no triple
	base uint32
	ids  map[uint16]*inboundID
	open int // ids pending or open
}

type inboundID struct {
	released uint32 // last released use
	stable   uint32 // highest use known to be in the log
	pending  bool   // an append of use released+1 is outstanding
	stored   bool   // there is a record of its release
	seen     uint32 // every use up to this the tail has shown
	ahead    []uint32
	prior    uint32 // seen, when the checkpoint mark was begun
	mark     uint64 // the last checkpoint begun when the tail last showed a use
	forget   uint64 // the checkpoint that covers it, once done
}

func (e *inboundID) open() bool { return e.stable > e.released }

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

func newInbound(inc Incarnation) *Inbound { return &Inbound{inc: inc} }

// get returns the entry of an id, made if it is not there.
func (in *Inbound) get(id uint16) *inboundID {
	e := in.ids[id]
	if e == nil {
		if in.ids == nil {
			in.ids = map[uint16]*inboundID{}
		}
		e = &inboundID{released: in.base, stable: in.base, seen: in.base, prior: in.base}
		in.ids[id] = e
	}
	return e
}

// Begin tells what to do with a PUBLISH of QoS 2.
func (in *Inbound) Begin(id uint16) (Triple, State) {
	in.mu.Lock()
	defer in.mu.Unlock()
	e := in.get(id)
	switch {
	case e.open():
		return Triple{}, Open
	case e.pending:
		return Triple{}, Pending
	}
	e.pending, e.forget = true, 0
	in.open++
	if in.inc == 0 {
		return Triple{}, Fresh
	}
	return Triple{in.inc, id, e.released + 1}, Fresh
}

// Stable says that the record of an id is durable: the id is Open, PUBREC may go.
func (in *Inbound) Stable(id uint16, t Triple) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if e := in.ids[id]; e != nil && e.pending && in.current(e, t) {
		e.pending = false
		e.stable = e.released + 1
	}
}

// Refused says that the append was refused: the id is free again, PUBREC carries the failure.
func (in *Inbound) Refused(id uint16, t Triple) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if e := in.ids[id]; e != nil && e.pending && in.current(e, t) {
		e.pending = false
		in.open--
		if in.inc == 0 {
			delete(in.ids, id)
		}
	}
}

func (in *Inbound) current(e *inboundID, t Triple) bool {
	return in.inc == 0 || t.Incarnation == in.inc && t.Use == e.released+1
}

// Outstanding is the number of ids not yet released, for the receive maximum.
func (in *Inbound) Outstanding() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.open
}

// releasing returns the use that a PUBREL releases, if the id is open.
func (in *Inbound) releasing(id uint16) (use uint32, ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if e := in.ids[id]; e != nil && e.open() {
		return e.stable, true
	}
	return 0, false
}

// release closes an id: the release of this use is durable (or the session is not persistent).
func (in *Inbound) release(id uint16, use uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	e := in.ids[id]
	if e == nil || use <= e.released {
		return
	}
	e.released, e.stored = use, true
	in.open--
	if in.inc == 0 {
		delete(in.ids, id)
	}
}

// maxAhead bounds ahead. A use can stay away for good: a message that was dead-lettered is never shown.
const maxAhead = 8

// saw says that the tail has come to a record with a triple of this session, after the checkpoint last was begun. It is false
// for a duplicate: another record of a use that was shown already. In a replay an id without an entry has not been released
// since, so its record opens it.
func (in *Inbound) saw(t Triple, last uint64, replay bool) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	e := in.ids[t.PacketID]
	if e == nil {
		if t.Use <= in.base { // forgotten: whoever used it was answered long ago
			return false
		}
		e = in.get(t.PacketID)
		if replay {
			e.released, e.stable, e.seen = t.Use-1, t.Use-1, t.Use-1
		}
	}
	if e.shown(t.Use) {
		return false
	}
	if e.mark != last {
		e.mark, e.prior = last, e.seen
	}
	e.show(t.Use)
	if e.pending || t.Use <= e.stable { // pending: Stable is still to come
		return true
	}
	if !e.open() {
		in.open++
	}
	e.stable = t.Use
	return true
}

func (e *inboundID) shown(use uint32) bool { return use <= e.seen || slices.Contains(e.ahead, use) }

// show notes a use that was not shown before.
func (e *inboundID) show(use uint32) {
	if len(e.ahead) == maxAhead {
		e.seen, e.ahead = max(use, slices.Max(e.ahead)), nil
		return
	}
	e.ahead = append(e.ahead, use)
	for i := slices.Index(e.ahead, e.seen+1); i >= 0; i = slices.Index(e.ahead, e.seen+1) {
		e.ahead = slices.Delete(e.ahead, i, i+1)
		e.seen++
	}
	if len(e.ahead) == 0 {
		e.ahead = nil
	}
}

// checkpoint returns what a checkpoint writes, as of its frontier: the ids that are not forgotten, and the base, raised so that
// it covers those that may be forgotten once the checkpoint is done. The raised base is in force at once: an id first used
// between this write and the crash that keeps it must not repeat a use.
func (in *Inbound) checkpoint(number uint64) (base uint32, list []inboundValue) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for id, e := range in.ids {
		v := inboundValue{id: id, released: e.released, seen: e.seen, stable: e.stable}
		if use := e.released + 1; e.pending && e.shown(use) { // it is in the log, below the frontier perhaps; Stable is still to come
			v.stable = use
		}
		e.forget = 0
		if e.mark == number { // shown since the checkpoint was begun: above the frontier
			v.seen = e.prior
		} else if !e.pending && !e.open() && e.seen == e.released {
			e.forget = number
			in.base = max(in.base, e.released)
		}
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b inboundValue) int { return int(a.id) - int(b.id) })
	return in.base, list
}

// covered drops the ids that a finished checkpoint covers and that were not used since. It returns those whose release has a
// record, to be removed.
func (in *Inbound) covered(number uint64) (stored []uint16) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for id, e := range in.ids {
		if e.forget != number || e.pending || e.open() || e.released > in.base {
			continue
		}
		if e.stored {
			stored = append(stored, id)
		}
		delete(in.ids, id)
	}
	slices.Sort(stored)
	return stored
}

// restore sets an id to what the log says of it. v.seen counts only if it is as of the frontier that the replay begins at.
// After the replay settle follows.
func (in *Inbound) restore(v inboundValue, stored, exact bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	e := in.get(v.id)
	e.released, e.stable, e.stored, e.seen = v.released, max(v.stable, v.released), stored, 0
	if exact {
		e.seen = v.seen
	}
	if e.open() {
		in.open++
	}
}

// settle ends a replay: a use that the replay did not show lies below the frontier.
func (in *Inbound) settle() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, e := range in.ids {
		e.seen, e.ahead = max(e.seen, e.stable), nil
	}
}

// stored returns the ids whose release has a record.
func (in *Inbound) stored() (ids []uint16) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for id, e := range in.ids {
		if e.stored {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
