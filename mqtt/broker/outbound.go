package broker

import (
	"sync"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// shareAbove is the size from which a payload is referred to rather than copied into a connection's queue: below it, copying
// is cheaper than one more piece for writev.
const shareAbove = 1024

// maxAnswers bounds, in bytes, our answers (not deliveries) that a client does not take. Beyond it the client is not read. It is
// larger than the acks of 65,535 publishes, so that a client that first writes and then reads cannot lock itself out.
const maxAnswers = 512 << 10

// fewAnswers are those that a connection may have waiting in any case. What all have beyond it is counted, and where that is too much, more than a
// few are too many (see conn.behind): a client that only writes must read a little now and then, while somebody abuses that.
const fewAnswers = 16 << 10

// answering counts n more bytes of answers that wait, or fewer. Under c.mu.
func (c *conn) answering(n int) {
	before := max(c.out.answers-fewAnswers, 0)
	c.out.answers += n
	if beyond := max(c.out.answers-fewAnswers, 0) - before; beyond != 0 {
		c.b.stats.answers.Add(int64(beyond))
	}
}

func (b *Broker) tooManyAnswers() bool { return b.stats.answers.Load() > b.o.Limits.AnswersTotal }

// outbound is what waits to be written to one connection. There is no writer goroutine: who makes it non-empty schedules a flush.
// Guarded by conn.mu.
type outbound struct {
	q         *outQueue // nil: nothing waits
	bytes     int       // waiting or being written
	answers   int       // of them, not deliveries
	scheduled bool      // a flush is due or under way, and will see whatever is added
	full      bool      // Deliver has said that there is no room; Core.Writable is owed
	shut      bool      // the write side is closed, nothing is written any more
	written   int64     // bytes
	delivered int64     // messages
}

// outQueue is a run of packets: bytes of its own, and between them payloads it shares with other queues. Idle connections have none.
// Its bytes begin small and go on in chunks: a buffer that grows with a slow client would be copied over and over.
type outQueue struct {
	own     []byte
	shared  []piece
	full    []*chunk // before own, laid out already
	size    int      // not known to be written
	answers int      // of it
	packets int      // in all, written already or not
	lags    []lag    // of its deliveries

	// of the flush
	layer *transport.Conn // that it goes through; nil: the socket
	iov   [][]byte
	left  [][]byte // of iov, not written yet
	done  int      // by the last write
	again bool     // it found the socket full
	err   error
	try   func(fd uintptr) bool
}

// piece is a shared payload that follows own[:at].
type piece struct {
	at int
	b  []byte
}

var outQueues = sync.Pool{New: func() any {
	q := &outQueue{}
	q.try = q.writeNow
	return q
}}

const (
	chunkBytes = 64 << 10
	smallOwn   = 2 << 10 // what is less goes without a chunk; with less left in a chunk the next one begins
)

type chunk [chunkBytes]byte

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// room sees to it that small packets need not make the buffer grow.
func (q *outQueue) room() {
	switch {
	case len(q.own) < smallOwn, cap(q.own)-len(q.own) >= smallOwn:
		return
	case cap(q.own) < chunkBytes:
		q.own = append(chunks.Get().(*chunk)[:0], q.own...)
		return
	}
	q.layOut()
	if cap(q.own) == chunkBytes {
		q.full = append(q.full, (*chunk)(q.own[:chunkBytes]))
	}
	q.own = chunks.Get().(*chunk)[:0]
}

func (q *outQueue) free() {
	for i, c := range q.full {
		chunks.Put(c)
		q.full[i] = nil
	}
	clear(q.shared)
	clear(q.iov)
	if cap(q.own) > chunkBytes || cap(q.iov) > 1024 {
		return
	}
	q.own, q.full, q.shared, q.iov, q.left = q.own[:0], q.full[:0], q.shared[:0], q.iov[:0], nil
	q.layer = nil
	q.size, q.answers, q.packets, q.err, q.lags = 0, 0, 0, nil, q.lags[:0]
	outQueues.Put(q)
}

// pieces ends the run: it lays out what to write.
func (q *outQueue) pieces() {
	q.layOut()
	q.left = q.iov
}

// layOut adds own, and what is shared between it, to what is to be written.
func (q *outQueue) layOut() {
	from := 0
	for _, p := range q.shared {
		if p.at > from {
			q.iov = append(q.iov, q.own[from:p.at])
		}
		q.iov = append(q.iov, p.b)
		from = p.at
	}
	if len(q.own) > from {
		q.iov = append(q.iov, q.own[from:])
	}
	clear(q.shared)
	q.shared = q.shared[:0]
}

// wrote drops n written bytes from what is to write.
func (q *outQueue) wrote(n int) {
	for n > 0 && n >= len(q.left[0]) {
		n -= len(q.left[0])
		q.left = q.left[1:]
	}
	if n > 0 {
		q.left[0] = q.left[0][n:]
	}
}

// queue is where the next bytes go. Under c.mu.
func (c *conn) queue() *outQueue {
	if c.out.q == nil {
		c.out.q = outQueues.Get().(*outQueue)
	}
	c.out.q.room()
	return c.out.q
}

// answer queues a packet that is not a delivery. Reasons are left out where the client does not want them [MQTT-3.1.2-29], or
// where the packet would be larger than it takes; one that is too large even then ends the connection [MQTT-3.1.2-24].
// Under c.mu.
func (c *conn) answer(p packet.Packet) {
	if c.closing {
		return
	}
	if c.quiet && p.Type() != packet.CONNACK && p.Type() != packet.DISCONNECT {
		p = withoutReason(p)
	}
	q := c.queue()
	before := len(q.own)
	own, err := c.encode(q.own, p)
	if err != nil {
		c.b.samples.warn("cannot answer a client", "type", p.Type(), "error", err)
		c.closing, c.why = true, "answer_too_large"
		c.rouse()
		c.nc.SetReadDeadline(longAgo)
		return
	}
	q.own = own
	c.queued(q, len(own)-before)
	if list := c.b.traces.now.Load(); list != nil {
		c.traceOut(*list, p)
	}
}

// encode appends an answer that the client takes. Under c.mu, which a panic must not leave locked.
func (c *conn) encode(dst []byte, p packet.Packet) (own []byte, err error) {
	err = guard(func() (err error) {
		own, err = p.Append(dst, c.version)
		if err == nil && c.maxPacket > 0 && len(own)-len(dst) > int(c.maxPacket) {
			own, err = withoutReason(p).Append(dst, c.version)
			if err == nil && len(own)-len(dst) > int(c.maxPacket) {
				err = packet.ErrTooLarge
			}
		}
		return err
	})
	return own, err
}

// withoutReason is p without what only explains it.
func withoutReason(p packet.Packet) packet.Packet {
	strip := func(x packet.Properties) packet.Properties {
		x.Has &^= packet.PReasonString
		x.ReasonString, x.User = "", nil
		return x
	}
	switch p := p.(type) {
	case *packet.Connack:
		return &packet.Connack{SessionPresent: p.SessionPresent, Code: p.Code, Props: strip(p.Props)}
	case *packet.Ack:
		return &packet.Ack{Kind: p.Kind, PacketID: p.PacketID, Code: p.Code, Props: strip(p.Props)}
	case *packet.Suback:
		return &packet.Suback{Kind: p.Kind, PacketID: p.PacketID, Codes: p.Codes, Props: strip(p.Props)}
	case *packet.Disconnect:
		return &packet.Disconnect{Code: p.Code, Props: strip(p.Props)}
	}
	return p
}

// acksAtOnce is how many fit into what room makes sure of.
const acksAtOnce = smallOwn / 4

// answerAcks queues PUBACKs and PUBRECs that report success, up to the first receipt that does not, and says how many. Under c.mu.
func (c *conn) answerAcks(receipts []receipt) (n int) {
	q := c.queue()
	own := q.own
	for n < min(len(receipts), acksAtOnce) && receipts[n].refused == nil {
		r := &receipts[n]
		own = append(own, byte(r.kind)<<4, 2, byte(r.id>>8), byte(r.id))
		n++
	}
	q.own = own
	c.queued(q, 4*n)
	q.packets += n - 1
	if list := c.b.traces.now.Load(); list != nil {
		for i := range receipts[:n] {
			c.traceOut(*list, &packet.Ack{Kind: receipts[i].kind, PacketID: receipts[i].id})
		}
	}
	return n
}

func (c *conn) queued(q *outQueue, n int) {
	q.size += n
	q.answers += n
	q.packets++
	c.out.bytes += n
	c.answering(n)
}

// schedule tells whether the caller must hand c to the flushers after it has released c.mu.
func (c *conn) schedule() bool {
	if c.out.scheduled || c.out.shut || c.out.q == nil && !c.closing {
		return false
	}
	c.out.scheduled = true
	return true
}
