package bridge

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"

	"github.com/millrace-io/millrace/mqtt/session"
)

// books say how far a bridge has read each partition, and what is on its way to the remote. A position never passes a message that the
// remote has not taken; what it has taken beyond the position is known for QoS 2, so that it is not sent again after a crash.
type books struct {
	mu      sync.Mutex
	window  int
	pages   map[session.Part]*page
	flights int // of all pages, but early ones
	order   uint64
	ids     []uint16      // of QoS 2, free
	changed chan struct{} // closed and made anew when there is room again
}

// page is one partition.
type page struct {
	next    int64     // everything below has been looked at
	flights []*flight // by offset
}

// flight is one message on its way, or one beyond the position that is done.
type flight struct {
	page   *page
	offset int64
	time   int64 // of its record, milliseconds since 1970
	order  uint64
	id     uint16 // of QoS 2
	wireID uint16 // on the present client, once it is sent
	state  state
	told   bool // the client may release it
	early  bool // of an earlier process: not counted in the window, since reading may have to pass it first
}

type state byte

const (
	sent     state = iota // or about to be
	released              // QoS 2: PUBREC came
	done
)

// firstID begins the packet ids of QoS 2; see client.Options.OwnIDs. There are more than an earlier process and this one may have on
// their way together.
const firstID, maxWindow = 0xF000, 1000

func newBooks(window int) *books {
	b := &books{window: window, pages: map[session.Part]*page{}, changed: make(chan struct{})}
	for id := math.MaxUint16; id >= firstID; id-- {
		b.ids = append(b.ids, uint16(id))
	}
	return b
}

func (b *books) page(p session.Part) *page {
	pg := b.pages[p]
	if pg == nil {
		pg = &page{}
		b.pages[p] = pg
	}
	return pg
}

// position is where reading would have to begin again.
func (p *page) position() int64 {
	if mutant("bridge-ahead-of-ack") {
		return p.next
	}
	for _, f := range p.flights {
		if f.state != done {
			return min(f.offset, p.next)
		}
	}
	return p.next
}

// wait blocks until one more message may be on its way.
func (b *books) wait(ctx context.Context) error {
	b.mu.Lock()
	for b.flights >= b.window {
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		b.mu.Lock()
	}
	b.mu.Unlock()
	return nil
}

// full tells whether wait would block.
func (b *books) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flights >= b.window
}

// begin enters a message.
func (b *books) begin(part session.Part, offset, time int64) *flight {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.page(part)
	at, _ := b.find(p, offset)
	f := &flight{page: p, offset: offset, time: time, order: b.order}
	b.order++
	p.flights = slices.Insert(p.flights, at, f)
	b.flights++
	return f
}

// known tells whether a message is on its way already, or done, since before a restart.
func (b *books) known(part session.Part, offset int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, known := b.find(b.page(part), offset)
	return known
}

func (b *books) find(p *page, offset int64) (at int, known bool) {
	return slices.BinarySearchFunc(p.flights, offset, func(f *flight, o int64) int { return cmp.Compare(f.offset, o) })
}

// sent enters the packet id that a message has on the present client.
func (b *books) sent(f *flight, id uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.wireID = id
}

// assign gives a QoS 2 message its packet id. There is one for each flight.
func (b *books) assign(f *flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.id = b.ids[len(b.ids)-1]
	b.ids = b.ids[:len(b.ids)-1]
}

// receive enters that the remote has a QoS 2 message.
func (b *books) receive(f *flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.state == sent {
		f.state = released
	}
	f.told = false // if it has come again: the remote had lost its session
}

// finish enters that a message needs nothing more; false: that was known.
func (b *books) finish(f *flight) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.state == done {
		return false
	}
	f.state = done
	if f.id != 0 {
		b.ids = append(b.ids, f.id)
	}
	b.settle(f.page)
	return true
}

// read enters that a partition has been looked at below next.
func (b *books) read(part session.Part, next int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.page(part)
	p.next = max(p.next, next)
	b.settle(p)
}

// place is the next offset of a partition that has not been looked at.
func (b *books) place(part session.Part) (next int64, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[part]
	if p == nil {
		return 0, false
	}
	return p.next, true
}

// settle forgets the flights that the position has passed.
func (b *books) settle(p *page) {
	n := 0
	for n < len(p.flights) && p.flights[n].state == done && p.flights[n].offset < p.next {
		if !p.flights[n].early {
			b.flights--
		}
		n++
	}
	if n == 0 {
		return
	}
	p.flights = slices.Delete(p.flights, 0, n)
	close(b.changed)
	b.changed = make(chan struct{})
}

// drop forgets a partition that is no more.
func (b *books) drop(part session.Part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pages[part]
	if p == nil {
		return
	}
	p.next = math.MaxInt64
	b.settle(p) // those on their way go on, as flights of nothing
	delete(b.pages, part)
}

// vector is where to read on.
func (b *books) vector() session.Vector {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := session.Vector{}
	for part, p := range b.pages {
		v[part] = p.next
	}
	return v
}

// oldest is the message that has been on its way for longest, by the order of sending; nil: none is.
func (b *books) oldest() (f *flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pages {
		for _, g := range p.flights {
			if g.state != done && (f == nil || g.order < f.order) {
				f = g
			}
		}
	}
	return f
}

// waiting is how many messages are on their way, the time of the oldest record among them, and how many records lie between the
// positions and the ends of the log.
func (b *books) waiting(ends session.Vector) (inFlight int, oldest, behind int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for part, p := range b.pages {
		for _, f := range p.flights {
			if f.state == done {
				continue
			}
			inFlight++
			if oldest == 0 || f.time < oldest {
				oldest = f.time
			}
		}
		behind += max(0, ends[part]-p.position())
	}
	return inFlight, oldest, behind
}

// put enters a message of an earlier process.
func (b *books) put(part session.Part, f *flight) {
	p := b.pages[part]
	if p == nil { // its topic is no more: it only has to be released
		p = &page{next: math.MaxInt64}
	}
	f.page = p
	at, _ := b.find(p, f.offset)
	p.flights = slices.Insert(p.flights, at, f)
}

// snapshot is what is to be saved, and the QoS 2 messages that may be released once it is.
func (b *books) snapshot() (s saved, release []*flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.positions = session.Vector{}
	var all []*flight
	of := map[*flight]session.Part{}
	for part, p := range b.pages {
		s.positions[part] = p.position()
		for _, f := range p.flights {
			if f.id != 0 {
				all = append(all, f)
				of[f] = part
			}
			if f.state == released && !f.told {
				release = append(release, f)
			}
		}
	}
	slices.SortFunc(all, func(a, b *flight) int { return cmp.Compare(a.order, b.order) })
	for _, f := range all {
		s.flights = append(s.flights, savedFlight{of[f], f.offset, f.time, f.id, f.state})
	}
	return s, release
}

// tell marks messages whose PUBREL may leave.
func (b *books) tell(fs []*flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range fs {
		f.told = true
	}
}

// wire is the packet id of a message on the present client.
func (b *books) wire(f *flight) uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(f.wireID, f.id)
}
