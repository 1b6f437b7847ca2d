package session

// delivery states of a position that has a packet id.
type flightState uint8

const (
	ready     flightState = iota // may be published: QoS 1, and QoS 2 whose out/id is durable
	unsaved                      // QoS 2: its out/id is not in the log, and not being written
	saving                       // its out/id is being written
	releasing                    // PUBREC came, which is being written
	released                     // PUBREL may be sent
)

// flown is one delivery that is not complete.
type flown struct {
	offset    int64
	place     int32
	id        uint16
	qos       byte
	state     flightState
	published bool    // at least once, perhaps: another time it is a duplicate
	wire      bool    // on this connection, so it takes a place in the client's receive maximum
	settled   bool    // what became of it is counted
	since     uint32  // seconds since 1970 when it was begun
	lease     *member // whose position it is, if it is a group's: then by is nobody
	by        askers
	tally     *Tally
}

// unwritten tells whether nothing but the queue and its histories says that it is owed.
func (d *flown) unwritten() bool { return d.qos == 1 || d.state == unsaved || d.state == saving }

// flight is the deliveries that have a packet id, in the order in which they were first to be sent. They outlive connections.
// An id of QoS 2 stays taken after its delivery is done, until a checkpoint covers its position: a replay must not bring it back.
type flight struct {
	items  []flown
	head   int // of the items before it nothing is left
	done   []doneID
	copies []copied // of messages of QoS 2 that have been open for long
	id     uint16   // last given out
	free   int      // ids after it that are known to be free
}

// doneID is an id of QoS 2 whose delivery is done and whose record is still there.
type doneID struct {
	offset int64
	place  int32
	id     uint16
	by     askers
	cover  uint64 // the checkpoint that covers its position, once done
	shared bool   // a group has its position, and says when the id is free
}

func (f *flight) len() int { return len(f.items) - f.head }

// all are the deliveries in order. The slice is good until the next push or remove.
func (f *flight) all() []flown { return f.items[f.head:] }

// find returns the delivery of an id, nil if there is none. Acks mostly come in order, so it is found at once.
func (f *flight) find(id uint16) *flown {
	for i := f.head; i < len(f.items); i++ {
		if f.items[i].id == id {
			return &f.items[i]
		}
	}
	return nil
}

func (f *flight) push(d flown) *flown {
	if f.head > 0 && len(f.items) == cap(f.items) {
		n := copy(f.items, f.items[f.head:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, d)
	return &f.items[len(f.items)-1]
}

// insert puts a delivery before the i-th oldest.
func (f *flight) insert(i int, d flown) *flown {
	f.push(d)
	all := f.all()
	copy(all[i+1:], all[i:])
	all[i] = d
	return &all[i]
}

// remove takes a delivery out and returns which one it was, counted from the oldest.
func (f *flight) remove(d *flown) int {
	f.dropCopy(d.id)
	i := f.head
	for &f.items[i] != d {
		i++
	}
	at := i - f.head
	if at == 0 {
		f.head++
	} else {
		f.items = append(f.items[:i], f.items[i+1:]...)
	}
	if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
	return at
}

func (f *flight) isDone(id uint16) bool {
	for i := range f.done {
		if f.done[i].id == id {
			return true
		}
	}
	return false
}

// nextID gives out an id that is not taken; 0 if there is none. It looks at the taken ids only once per stretch of free ones.
func (f *flight) nextID() uint16 {
	for range 65535 {
		if f.free > 0 {
			f.free--
			f.id = after(f.id, 1)
			return f.id
		}
		if f.free = f.stretch(); f.free == 0 {
			f.id = after(f.id, 1) // taken
			if f.len()+len(f.done) >= 65535 {
				return 0
			}
		}
	}
	return 0
}

// hasID tells whether nextID has one.
func (f *flight) hasID() bool { return f.len()+len(f.done) < 65535 }

// stretch is how many ids after the last one are free.
func (f *flight) stretch() int {
	n := 65535
	for _, d := range f.all() {
		n = min(n, distance(f.id, d.id)-1)
	}
	for i := range f.done {
		n = min(n, distance(f.id, f.done[i].id)-1)
	}
	return n
}

// after is the n-th id after id; ids are 1 to 65535.
func after(id uint16, n int) uint16 { return uint16((int(id)+n-1)%65535) + 1 }

// distance is how far id is after from, 1 to 65535.
func distance(from, id uint16) int {
	d := int(id) - int(from)
	if d <= 0 {
		d += 65535
	}
	return d
}

// owns tells whether a position that the queue owes has an outbound QoS 2 id, open or done.
func (f *flight) owns(place int32, off int64) bool {
	for _, d := range f.all() {
		if d.qos == 2 && d.place == place && d.offset == off && d.by&byQueue != 0 {
			return true
		}
	}
	for i := range f.done {
		if d := &f.done[i]; d.place == place && d.offset == off && d.by&byQueue != 0 {
			return true
		}
	}
	return false
}
