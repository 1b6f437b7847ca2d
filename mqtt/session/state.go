package session

import (
	"encoding/binary"
	"errors"
)

// The records of the sessions and retained topics, as docs/formats/sessions.md describes them. A key begins with the format's
// version and a kind. A value begins with the format's version; integers are varints, texts and bytes have their length before
// them. Bytes that are no record of ours decode to errState, never to a panic or an allocation larger than they are.
const stateVersion = 1

type kind byte

const (
	kindSession  kind = 's' // session key
	kindSub      kind = 'f' // session key, filter
	kindQueue    kind = 'q' // session key
	kindIn       kind = 'i' // session key, packet id
	kindOut      kind = 'o' // session key, packet id
	kindGroup    kind = 'g' // group key: tenant, share name, filter
	kindWill     kind = 'w' // session key
	kindBegin    kind = 'B' // of a checkpoint of a sessions partition
	kindDone     kind = 'D'
	kindRetained kind = 'r' // MQTT topic
	kindFrontier kind = 'F' // of a retained partition
)

var errState = errors.New("not a state record")

// Keys.

func appendKey(dst []byte, kd kind, k Key) []byte {
	dst = append(dst, stateVersion, byte(kd))
	dst = appendText(dst, k.Tenant)
	dst = appendText(dst, k.Principal)
	return appendText(dst, k.ClientID)
}

func sessionKey(kd kind, k Key) []byte { return appendKey(nil, kd, k) }

func subKey(k Key, filter string) []byte { return append(appendKey(nil, kindSub, k), filter...) }

func idKey(kd kind, k Key, id uint16) []byte {
	return binary.BigEndian.AppendUint16(appendKey(nil, kd, k), id)
}

func plainKey(kd kind) []byte { return []byte{stateVersion, byte(kd)} }

func retainedKey(topic string) []byte { return append(plainKey(kindRetained), topic...) }

// stateKey is a decoded key.
type stateKey struct {
	kind kind
	key  Key
	rest string // filter or topic
	id   uint16
}

func decodeKey(b []byte) (k stateKey, err error) {
	r := reader{b: b}
	if r.byte() != stateVersion {
		return k, errState
	}
	k.kind = kind(r.byte())
	switch k.kind {
	case kindBegin, kindDone, kindFrontier:
	case kindRetained:
		k.rest = string(r.rest())
	case kindSession, kindQueue, kindWill, kindSub, kindIn, kindOut, kindGroup:
		k.key = Key{r.text(), r.text(), r.text()}
		switch k.kind {
		case kindSub:
			k.rest = string(r.rest())
		case kindIn, kindOut:
			if id := r.rest(); len(id) == 2 {
				k.id = binary.BigEndian.Uint16(id)
			} else {
				r.bad = true
			}
		}
	default:
		return k, errState
	}
	return k, r.end()
}

// Values of the sessions topic.

// sessionValue is the session itself. It exists as long as the session does.
type sessionValue struct {
	inc     Incarnation
	expiry  uint32
	offline int64 // when the connection was lost, milliseconds; 0 while connected, or not known yet
}

func (v *sessionValue) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = appendInt(dst, uint64(v.inc))
	dst = appendInt(dst, uint64(v.expiry))
	return appendInt(dst, uint64(v.offline))
}

func (v *sessionValue) decode(b []byte) error {
	r := valueReader(b)
	v.inc, v.expiry, v.offline = Incarnation(r.int()), r.uint32(), int64(r.int())
	return r.end()
}

// subValue is one subscription. Its vector is where it starts; that of a shared one is its group's. While the retained messages it
// asked for have not all been queued, owed is the vector as of which it is owed them.
type subValue struct {
	inc   Incarnation
	opts  options
	start []Position
	owed  []Position
	owes  bool

	history *historyOf  // that it asked for, and does not have all of; nil: none
	group   Incarnation // of a shared subscription: its group's, else 0
}

const (
	flagQoS     = 0x03
	flagNoLocal = 0x04
	flagRAP     = 0x08
	flagOwed    = 0x10
	flagShared  = 0x20
	flagHistory = 0x40
)

func (v *subValue) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = appendInt(dst, uint64(v.inc))
	flags := v.opts.qos
	flags |= bit(v.opts.noLocal, flagNoLocal) | bit(v.opts.rap, flagRAP) | bit(v.owes, flagOwed) | bit(v.group != 0, flagShared)
	flags |= bit(v.history != nil, flagHistory)
	dst = append(dst, flags)
	dst = appendInt(dst, uint64(v.opts.id))
	dst = appendVector(dst, v.start)
	if v.owes {
		dst = appendVector(dst, v.owed)
	}
	if v.group != 0 {
		dst = appendInt(dst, uint64(v.group))
	}
	if v.history != nil {
		dst = v.history.append(dst)
	}
	return dst
}

func (v *subValue) decode(b []byte) error {
	r := valueReader(b)
	v.inc = Incarnation(r.int())
	flags := r.byte()
	v.opts = options{qos: flags & flagQoS, noLocal: flags&flagNoLocal != 0, rap: flags&flagRAP != 0, id: r.uint32()}
	v.start = r.vector()
	if v.owes = flags&flagOwed != 0; v.owes {
		v.owed = r.vector()
	}
	if flags&flagShared != 0 {
		v.group = Incarnation(r.int())
	}
	if flags&flagHistory != 0 {
		v.history = r.historyOf()
	}
	if v.opts.qos > 2 {
		r.bad = true
	}
	return r.end()
}

// queueValue is what a checkpoint knows of a session or a group: the positions below its frontier that are still owed, and a
// session's inbound QoS 2 ids that are not forgotten.
type queueValue struct {
	inc     Incarnation
	tag     uint64 // the checkpoint's number
	base    uint32 // last released use of every id that has no record and is not in inbound
	inbound []inboundValue
	sets    []setValue

	histories []historyValue
}

type inboundValue struct {
	id       uint16
	released uint32 // last released use
	seen     uint32 // every use up to this lies below the frontier
	stable   uint32 // highest use known to be in the log
}

type setValue struct {
	part   Part
	merged bool
	runs   []run
}

func (v *queueValue) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = appendInt(dst, uint64(v.inc))
	dst = appendInt(dst, v.tag)
	dst = appendInt(dst, uint64(v.base))
	dst = appendInt(dst, uint64(len(v.inbound)))
	for _, in := range v.inbound {
		dst = appendInt(dst, uint64(in.id))
		dst = appendInt(dst, uint64(in.released))
		dst = appendInt(dst, uint64(in.seen))
		dst = appendInt(dst, uint64(in.stable))
	}
	dst = appendSets(dst, v.sets)
	if len(v.histories) > 0 {
		dst = appendHistories(dst, v.histories)
	}
	return dst
}

func appendSets(dst []byte, sets []setValue) []byte {
	dst = appendInt(dst, uint64(len(sets)))
	for i := range sets {
		s := &sets[i]
		dst = appendPart(dst, s.part)
		dst = append(dst, bit(s.merged, 1))
		dst = appendInt(dst, uint64(len(s.runs)))
		end := int64(0)
		for _, n := range s.runs {
			dst = appendRun(dst, end, n)
			end = n.to
		}
	}
	return dst
}

func (v *queueValue) decode(b []byte) error {
	r := valueReader(b)
	v.inc, v.tag, v.base = Incarnation(r.int()), r.int(), r.uint32()
	n := r.count(4)
	v.inbound = make([]inboundValue, 0, n)
	for range n {
		v.inbound = append(v.inbound, inboundValue{r.uint16(), r.uint32(), r.uint32(), r.uint32()})
	}
	v.sets = r.sets()
	if !r.bad && len(r.b) > 0 {
		v.histories = r.histories()
	}
	return r.end()
}

func (r *reader) sets() []setValue {
	n := r.count(19)
	sets := make([]setValue, 0, n)
	for range n {
		s := setValue{part: r.part(), merged: r.byte() != 0}
		s.runs = r.runs()
		sets = append(sets, s)
	}
	return sets
}

// inValue is the last released use of an inbound packet id.
type inValue struct {
	inc  Incarnation
	used uint32
}

func (v *inValue) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = appendInt(dst, uint64(v.inc))
	return appendInt(dst, uint64(v.used))
}

func (v *inValue) decode(b []byte) error {
	r := valueReader(b)
	v.inc, v.used = Incarnation(r.int()), r.uint32()
	return r.end()
}

// outValue says which position an outbound QoS 2 packet id stands for, and whether its PUBREC has come. If the delivery has been open
// for long it has a copy of the message. A position that was a group's belongs to this session once the record is in the log, and
// to nobody else ever after.
type outValue struct {
	inc      Incarnation
	released bool
	pos      Position
	group    Incarnation // whose position it was; 0: the session's own
	msg      *Message    // to be written; decode leaves it nil
	copied   bool
	at       int64 // offset of the record, as restored

	past      bool // it is for these histories, and for the queue only if queued is set; else for the queue alone
	queued    bool
	histories []uint64
}

const (
	flagReleased = 0x01
	flagCopied   = 0x02
	flagLeased   = 0x04
	flagPast     = 0x08
)

func (v *outValue) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = appendInt(dst, uint64(v.inc))
	dst = append(dst, bit(v.released, flagReleased)|bit(v.msg != nil, flagCopied)|bit(v.group != 0, flagLeased)|bit(v.past, flagPast))
	dst = appendPart(dst, v.pos.Part)
	dst = appendInt(dst, uint64(v.pos.Offset))
	if v.group != 0 {
		dst = appendInt(dst, uint64(v.group))
	}
	if v.past {
		dst = appendAskers(dst, v)
	}
	if v.msg == nil {
		return dst
	}
	return appendMessage(appendText(dst, v.msg.Topic), v.msg)
}

func (v *outValue) decode(b []byte) error {
	r := valueReader(b)
	v.copied = r.out(v, &Message{})
	return r.end()
}

// out reads a value, and its copy of the message if there is one.
func (r *reader) out(v *outValue, m *Message) (copied bool) {
	v.inc = Incarnation(r.int())
	flags := r.byte()
	v.released = flags&flagReleased != 0
	v.pos = Position{r.part(), r.offset()}
	if flags&flagLeased != 0 {
		v.group = Incarnation(r.int())
	}
	if v.past = flags&flagPast != 0; v.past {
		r.askers(v)
	}
	if flags&flagCopied == 0 {
		return false
	}
	m.Topic = r.text()
	r.message(m)
	return true
}

// willValue is a will that may still have to fire. id is its own; the record of the fired will carries it.
type willValue struct {
	inc   Incarnation
	id    Incarnation
	delay uint32
	msg   Message
}

func (v *willValue) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = appendInt(dst, uint64(v.inc))
	dst = appendInt(dst, uint64(v.id))
	dst = appendInt(dst, uint64(v.delay))
	dst = appendText(dst, v.msg.Topic)
	return appendMessage(dst, &v.msg)
}

func (v *willValue) decode(b []byte) error {
	r := valueReader(b)
	v.inc, v.id, v.delay = Incarnation(r.int()), Incarnation(r.int()), r.uint32()
	v.msg.Topic = r.text()
	r.message(&v.msg)
	v.msg.Will, v.msg.Offset = v.id, -1
	return r.end()
}

// checkpointValue is a frontier and the number of its checkpoint (of the retained topic: 0).
type checkpointValue struct {
	number uint64
	at     []Position
}

func (v *checkpointValue) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = appendInt(dst, v.number)
	return appendVector(dst, v.at)
}

func (v *checkpointValue) decode(b []byte) error {
	r := valueReader(b)
	v.number, v.at = r.int(), r.vector()
	return r.end()
}

// Values of the retained topic.

// retainedValue is the retained message of a topic, or with msg.Clear the mark that it was removed, and the position it came
// from. The topic itself is in the key.
type retainedValue struct {
	source Position
	msg    Message
}

func (v *retainedValue) append(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = appendPart(dst, v.source.Part)
	dst = appendInt(dst, uint64(v.source.Offset))
	return appendMessage(dst, &v.msg)
}

func (v *retainedValue) decode(b []byte) error {
	r := valueReader(b)
	v.source = Position{r.part(), r.offset()}
	r.message(&v.msg)
	return r.end()
}

// StoredMessage decodes the message in a record of the retained or the sessions topic, for Store.Read: a retained one, or the copy of
// one that is being delivered at QoS 2. ok is false for the records that have none, and for bytes that are no record of ours. The
// message aliases rec.
func StoredMessage(offset int64, rec StateRecord) (m Message, ok bool) {
	k, err := decodeKey(rec.Key)
	switch {
	case err != nil || rec.Value == nil:
		return m, false
	case k.kind == kindRetained:
		var v retainedValue
		if v.decode(rec.Value) != nil || v.msg.Clear {
			return m, false
		}
		m = v.msg
		m.Topic = k.rest
	case k.kind == kindOut:
		r := valueReader(rec.Value)
		if !r.out(&outValue{}, &m) || r.end() != nil {
			return Message{}, false
		}
	default:
		return m, false
	}
	m.Offset = offset
	return m, true
}
