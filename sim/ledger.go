package sim

import (
	"fmt"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Ledger remembers every message that was sent, which of them the server took, and what each reader got, and tells what does
// not add up. It is safe for concurrent use and holds about 40 bytes per message and 1 more per reader.
//
// A message is known by its stamp (ReadStamp). One without a stamp is known by its topic and payload: among equal ones the
// first that the reader has not got, so that a duplicate of a message that was sent more than once passes for the next one.
type Ledger struct {
	mu       sync.Mutex
	streams  []stream
	streamOf map[stream]int32
	devices  map[string][]int32 // by sequence minus 1: index in messages plus 1
	messages []message
	readers  []*Reader
	contents map[uint64]int32 // first message of a content plus 1; nil until a reader needs it
	next     []int32          // by message: the next one of the same content plus 1
	tail     map[uint64]int32 // last message of a content plus 1
	journal  *journal         // nil: in memory only
	now      func() time.Time
}

// stream is what keeps its order: the messages of one device on one topic.
type stream struct{ device, topic string }

type message struct {
	hash     uint64
	sequence uint32
	second   uint32 // since 1970, when it was entered
	stream   int32
	qos      byte
	state    byte // sent, acked or refused
}

const (
	sent = iota
	acked
	refused
)

// Reader is one subscriber's side of the ledger.
type Reader struct {
	l          *Ledger
	id         int
	name       string
	filter     string
	qos        byte
	from       int              // messages sent before the reader began are not owed to it
	to         int              // nor those sent after it ended; -1: it has not
	seen       []uint8          // by message: how often, up to 255
	highest    []uint32         // by stream: highest sequence seen
	cursor     map[uint64]int32 // by content: the next message of it not seen, plus 1
	duplicates int              // came again
	twice      int              // of these, at QoS 2
	disorder   []disorder
	phantoms   int
	altered    int
	examples   []string
}

// disorder is a message got for the first time after a later one. Whether that is wrong shows when the subscription is known to
// stand (Begin), which may be after the message came.
type disorder struct{ ref, after uint32 }

const maxExamples = 10

// NewLedger makes a ledger in memory.
func NewLedger() *Ledger {
	return &Ledger{streamOf: map[stream]int32{}, devices: map[string][]int32{}, now: time.Now}
}

// OpenLedger makes a ledger that is kept in a file, and takes up what the file has. An unfinished write at the end of the file
// is cut off.
func OpenLedger(f File) (*Ledger, error) {
	l := NewLedger()
	j := &journal{file: f}
	if err := j.open(l); err != nil {
		return nil, fmt.Errorf("sim: load ledger: %w", err)
	}
	l.journal = j
	return l, nil
}

// ReadLedger reads what a ledger's file has, and leaves it as it is: another process may be writing it. What the ledger is told
// afterwards is kept in memory only.
func ReadLedger(f File) (*Ledger, error) {
	l := NewLedger()
	size, err := f.Size()
	if err == nil {
		err = (&journal{file: f}).load(l, size)
	}
	if err != nil {
		return nil, fmt.Errorf("sim: read ledger: %w", err)
	}
	return l, nil
}

// Flush writes what the file does not have yet. A ledger in memory has nothing to flush.
func (l *Ledger) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.journal == nil {
		return nil
	}
	return l.journal.flush()
}

// Last is the highest sequence of a device so far, 0 before its first message.
func (l *Ledger) Last(device string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.devices[device]))
}

// Sent enters a message, before it is sent. Sequences of a device begin at 1 and follow each other. ref is the message's name
// for Acked.
func (l *Ledger) Sent(device string, sequence uint64, p *packet.Publish) (ref int) {
	hash := contentHash(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	if last := len(l.devices[device]); sequence != uint64(last)+1 {
		panic(fmt.Sprintf("sim: ledger: %q sends %d after %d", device, sequence, last))
	}
	s := stream{device, string(p.Topic)}
	id, ok := l.streamOf[s]
	if !ok {
		id = int32(len(l.streams))
		l.addStream(s)
		l.journal.stream(s)
	}
	m := message{hash: hash, sequence: uint32(sequence), second: uint32(l.now().Unix()), stream: id, qos: p.QoS}
	l.addMessage(m)
	l.journal.message(m)
	return len(l.messages) - 1
}

// Acked enters the server's answer to a QoS 1 or 2 message.
func (l *Ledger) Acked(ref int, code packet.Code) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := byte(acked)
	if code.Failed() {
		state = refused
	}
	l.messages[ref].state = state
	l.journal.state(ref, state)
}

// Reader makes a reader that is owed every message sent from now on whose topic the filter matches, or returns the one that has
// the name already. qos is what its subscription was granted: at 0 nothing can be missing.
func (l *Ledger) Reader(name, filter string, qos byte) *Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.readers {
		if r.name == name {
			return r
		}
	}
	r := l.addReader(name, filter, qos)
	l.journal.reader(r)
	return r
}

// All lets the reader be owed every message, those sent before it was made too: it reads the log from its start.
func (r *Reader) All() *Reader {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.from, r.to = 0, -1
	r.l.journal.mark(recordAll, r)
	return r
}

// Begin lets the reader be owed only what is sent from now on: its subscription came about later than the reader.
func (r *Reader) Begin() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.begin()
	r.l.journal.mark(recordBegin, r)
}

// End says that the reader reads no more: what is sent from now on is not owed to it, until it begins again.
func (r *Reader) End() {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.to = len(r.l.messages)
	r.l.journal.mark(recordEnd, r)
}

// Got enters a message that the reader was given.
func (r *Reader) Got(p *packet.Publish) {
	hash := contentHash(p)
	stamp, stamped := ReadStamp(p)
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	var ref int
	if stamped {
		ref = l.find(stamp.Device, stamp.Sequence)
	} else {
		ref = r.byContent(hash)
	}
	switch {
	case ref < 0:
		what := fmt.Sprintf("phantom: %q of %q %d, %d bytes", p.Topic, stamp.Device, stamp.Sequence, len(p.Payload))
		r.phantom(what)
		l.journal.phantom(r, what)
	case l.messages[ref].hash != hash:
		r.alter(ref)
		l.journal.got(recordAltered, r, ref)
	default:
		r.got(ref)
		l.journal.got(recordGot, r, ref)
	}
}

// find returns the message with a stamp, -1 if there is none.
func (l *Ledger) find(device string, sequence uint64) int {
	bySequence := l.devices[device]
	if sequence == 0 || sequence > uint64(len(bySequence)) {
		return -1
	}
	return int(bySequence[sequence-1]) - 1
}

// byContent returns the first message of a content that the reader has not got; the last one if it has got all; -1 if there is
// none.
func (r *Reader) byContent(hash uint64) int {
	l := r.l
	if l.contents == nil {
		l.contents, l.tail = map[uint64]int32{}, map[uint64]int32{}
		for i := range l.messages {
			l.link(i)
		}
	}
	at := r.cursor[hash]
	if at == 0 {
		at = l.contents[hash]
	}
	for at > 0 && r.count(int(at-1)) > 0 && l.next[at-1] > 0 {
		at = l.next[at-1]
	}
	if at > 0 {
		r.cursor[hash] = at
	}
	return int(at) - 1
}

// link puts a message behind the others of its content.
func (l *Ledger) link(i int) {
	for len(l.next) <= i {
		l.next = append(l.next, 0)
	}
	hash, ref := l.messages[i].hash, int32(i+1)
	if last := l.tail[hash]; last > 0 {
		l.next[last-1] = ref
	} else {
		l.contents[hash] = ref
	}
	l.tail[hash] = ref
}

// The steps below change the ledger in memory: both the calls above and the journal, when it is loaded, take them.

func (l *Ledger) addStream(s stream) {
	l.streamOf[s] = int32(len(l.streams))
	l.streams = append(l.streams, s)
}

func (l *Ledger) addMessage(m message) {
	l.messages = append(l.messages, m)
	device := l.streams[m.stream].device
	bySequence := l.devices[device]
	for len(bySequence) < int(m.sequence) {
		bySequence = append(bySequence, 0)
	}
	bySequence[m.sequence-1] = int32(len(l.messages))
	l.devices[device] = bySequence
	if l.contents != nil {
		l.link(len(l.messages) - 1)
	}
}

func (l *Ledger) addReader(name, filter string, qos byte) *Reader {
	r := &Reader{l: l, id: len(l.readers), name: name, filter: filter, qos: qos, cursor: map[uint64]int32{}}
	r.begin()
	l.readers = append(l.readers, r)
	return r
}

func (r *Reader) begin() { r.from, r.to = len(r.l.messages), -1 }

func (r *Reader) count(ref int) uint8 {
	if ref < len(r.seen) {
		return r.seen[ref]
	}
	return 0
}

func (r *Reader) got(ref int) {
	m := &r.l.messages[ref]
	for len(r.seen) <= ref {
		r.seen = append(r.seen, 0)
	}
	for len(r.highest) <= int(m.stream) {
		r.highest = append(r.highest, 0)
	}
	if r.seen[ref] < 255 {
		r.seen[ref]++
	}
	if r.seen[ref] > 1 {
		r.duplicates++
		if min(m.qos, r.qos) == 2 {
			r.twice++
			r.example("twice at QoS 2: %s", r.l.describe(ref))
		}
		return
	}
	if ref >= r.from && m.sequence < r.highest[m.stream] {
		r.disorder = append(r.disorder, disorder{uint32(ref), r.highest[m.stream]})
	}
	r.highest[m.stream] = max(r.highest[m.stream], m.sequence)
}

func (r *Reader) alter(ref int) {
	r.altered++
	r.example("altered: %s", r.l.describe(ref))
}

func (r *Reader) phantom(what string) {
	r.phantoms++
	r.example("%s", what)
}

func (r *Reader) example(format string, args ...any) {
	if len(r.examples) < maxExamples {
		r.examples = append(r.examples, fmt.Sprintf(format, args...))
	}
}

func (l *Ledger) describe(ref int) string {
	m := &l.messages[ref]
	return fmt.Sprintf("%q %d on %q", l.streams[m.stream].device, m.sequence, l.streams[m.stream].topic)
}
