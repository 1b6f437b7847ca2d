package broker

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// shareAbove is the size from which a payload is referred to rather than copied into a connection's queue: below it, copying
// is cheaper than one more piece for writev.
const shareAbove = 1024

// maxAnswers bounds, in bytes, our answers (not deliveries) that a client does not take. Beyond it the client is not read. It is
// larger than the acks of 65,535 publishes, so that a client that first writes and then reads cannot lock itself out.
const maxAnswers = 512 << 10

// outbound is what waits to be written to one connection. There is no writer goroutine: who makes it non-empty schedules a flush.
// Guarded by conn.mu.
type outbound struct {
	q         *outQueue // nil: nothing waits
	bytes     int       // waiting or being written
	answers   int       // of them, not deliveries
	scheduled bool      // a flush is due or under way, and will see whatever is added
	full      bool      // Deliver has said that there is no room; Core.Writable is owed
	shut      bool      // the write side is closed, nothing is written any more
}

// outQueue is a run of packets: bytes of its own, and between them payloads it shares with other queues. Idle connections have none.
// Its bytes begin small and go on in chunks: a buffer that grows with a slow client would be copied over and over.
type outQueue struct {
	own     []byte
	shared  []piece
	full    []*chunk // before own, laid out already
	size    int      // not known to be written
	answers int      // of it
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
	q.size, q.answers, q.err, q.lags = 0, 0, nil, q.lags[:0]
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

// writeBytes is about how much one write takes. What is written counts as room again, before all of a long queue is.
const writeBytes = 256 << 10

// writeNow writes what the socket takes at once, about writeBytes at most. It always ends the RawConn.Write: waiting is not a
// flusher's business.
func (q *outQueue) writeNow(fd uintptr) bool {
	n := 0
	for size := 0; n < len(q.left) && size < writeBytes; n++ {
		size += len(q.left[n])
	}
	if q.layer != nil {
		q.done, q.again, q.err = q.layer.TryWrite(fd, q.left[:n])
	} else {
		q.done, q.again, q.err = transport.WriteSocket(fd, q.left[:n])
	}
	q.wrote(q.done)
	return true
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
	own, err := p.Append(q.own, c.version)
	if err == nil && c.maxPacket > 0 && len(own)-before > int(c.maxPacket) {
		own, err = withoutReason(p).Append(q.own[:before], c.version)
		if err == nil && len(own)-before > int(c.maxPacket) {
			err = packet.ErrTooLarge
		}
	}
	if err != nil {
		c.b.samples.warn("cannot answer a client", "type", p.Type(), "error", err)
		c.closing, c.why = true, "answer_too_large"
		c.wakeReader()
		c.nc.SetReadDeadline(longAgo)
		return
	}
	q.own = own
	c.queued(q, len(own)-before)
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

// answerAck queues a PUBACK or PUBREC that reports success.
func (c *conn) answerAck(kind packet.Type, id uint16) {
	q := c.queue()
	q.own = binary.BigEndian.AppendUint16(append(q.own, byte(kind)<<4, 2), id)
	c.queued(q, 4)
}

func (c *conn) queued(q *outQueue, n int) {
	q.size += n
	q.answers += n
	c.out.bytes += n
	c.out.answers += n
}

// schedule tells whether the caller must hand c to the flushers after it has released c.mu.
func (c *conn) schedule() bool {
	if c.out.scheduled || c.out.shut || c.out.q == nil && !c.closing {
		return false
	}
	c.out.scheduled = true
	return true
}

// take is the flush's next run of packets; nil: there are no more, and the flush is over.
func (c *conn) take() *outQueue {
	c.mu.Lock()
	q := c.out.q
	c.out.q = nil
	if q != nil {
		c.mu.Unlock()
		q.pieces()
		return q
	}
	c.out.scheduled = false
	last := c.closing && !c.out.shut
	c.out.shut = c.out.shut || last
	c.mu.Unlock()
	if last {
		c.closeWrite()
	}
	return nil
}

// written is the end of a queue that the socket has taken.
func (c *conn) written(q *outQueue) {
	c.b.written(q)
	c.taken(q)
}

// taken is the end of q: it is written, or given up.
func (c *conn) taken(q *outQueue) {
	c.credit(q, q.size)
	q.free()
}

// credit notes that n more bytes of q are written, and wakes who waited for room. Which of them were answers is not known:
// deliveries are taken to go first.
func (c *conn) credit(q *outQueue, n int) {
	answers := max(0, n-(q.size-q.answers))
	q.size -= n
	q.answers -= answers
	c.b.stats.bytesOut.Add(int64(n))
	c.b.stats.outWait.Add(int64(answers - n))
	c.mu.Lock()
	c.out.bytes -= n
	c.out.answers -= answers
	writable := c.out.full && c.out.bytes <= c.b.o.Limits.OutboundBytes/2 && !c.closing
	if writable {
		c.out.full = false
	}
	c.wakeReader()
	c.mu.Unlock()
	if writable {
		c.owner.post(func(now int64) { c.owner.core.Writable(now, c) })
	}
}

// flush writes until nothing is left, on a flusher; a client that does not keep up gets a goroutine until it does.
func (c *conn) flush() {
	for q := c.take(); q != nil; q = c.take() {
		if c.raw == nil {
			go c.flushSlowly(q)
			return
		}
		for q.layer = c.layer; q.more(); {
			if err := c.raw.Write(q.try); err != nil {
				q.err = err
			}
			if q.err != nil {
				c.writeFailed(q)
				return
			}
			if len(q.left) > 0 {
				c.credit(q, q.done)
			}
			if q.again {
				c.b.stats.stall.Add(1)
				go c.flushSlowly(q)
				return
			}
		}
		c.written(q)
	}
}

// flushSlowly does the same with writes that wait, each for at most the write timeout.
func (c *conn) flushSlowly(q *outQueue) {
	for ; q != nil; q = c.take() {
		for q.layer = c.layer; q.more(); {
			c.nc.SetWriteDeadline(time.Now().Add(c.b.o.Limits.WriteTimeout))
			n, err := c.writeSome(q)
			q.wrote(n)
			if err != nil {
				c.writeFailed(q)
				return
			}
			c.credit(q, n)
		}
		c.nc.SetWriteDeadline(time.Time{})
		c.written(q)
	}
}

// more tells whether there is something to write.
func (q *outQueue) more() bool { return len(q.left) > 0 || q.layer != nil && q.layer.Pending() }

// writeSome writes a part of q, and waits until the socket has taken it.
func (c *conn) writeSome(q *outQueue) (n int, err error) {
	if q.layer != nil {
		return q.layer.WriteSome(q.left)
	}
	b := q.left[0]
	return c.nc.Write(b[:min(len(b), chunkBytes)])
}

// flushLayer has written what the transport itself has to say.
func (c *conn) flushLayer() {
	c.mu.Lock()
	if !c.closing {
		c.queue()
	}
	flush := c.schedule()
	c.mu.Unlock()
	if flush {
		c.b.flushers.push(c)
	}
}

// writeFailed gives the connection up. Whatever is queued goes with it: at QoS 1 and 2 it is in the log.
func (c *conn) writeFailed(q *outQueue) {
	c.taken(q)
	c.mu.Lock()
	c.out.shut = true
	c.drop()
	c.mu.Unlock()
	c.cut("write_failed")
}

// drop empties the queue. Under c.mu.
func (c *conn) drop() {
	if q := c.out.q; q != nil {
		c.out.q = nil
		c.out.bytes -= q.size
		c.out.answers -= q.answers
		c.b.stats.outWait.Add(int64(q.answers - q.size))
		q.free()
	}
}

// flushers write for all connections. None of them ever waits for a client.
type flushers struct {
	mu     sync.Mutex
	wake   sync.Cond
	ready  []*conn // from head on
	head   int
	idle   int  // flushers that wait
	waking bool // one of them has been called, and will look at ready
	closed bool
}

func (f *flushers) start(n int, wg *sync.WaitGroup) {
	for range n {
		wg.Go(f.run)
	}
}

func (f *flushers) push(cs ...*conn) {
	f.mu.Lock()
	f.ready = append(f.ready, cs...)
	f.call()
	f.mu.Unlock()
}

// call wakes one flusher, who calls the next if there is more than it takes: a wake-up costs about as much as a write. Under f.mu.
func (f *flushers) call() {
	if f.idle > 0 && !f.waking {
		f.waking = true
		f.wake.Signal()
	}
}

func (f *flushers) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.wake.Broadcast()
}

// A flusher takes half of what waits, so that the others write too, but at least flushFew connections and at most flushRun.
const (
	flushFew = 4
	flushRun = 32
)

func (f *flushers) run() {
	var mine [flushRun]*conn
	for {
		n := f.next(&mine)
		if n == 0 {
			return
		}
		for i := range n {
			mine[i].flush()
			mine[i] = nil
		}
	}
}

// next waits for connections that have something to write; 0: closed.
func (f *flushers) next(mine *[flushRun]*conn) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.head == len(f.ready) && !f.closed {
		f.idle++
		f.wake.Wait()
		f.idle--
		f.waking = false
	}
	waiting := f.ready[f.head:]
	n := copy(mine[:], waiting[:max((len(waiting)+1)/2, min(len(waiting), flushFew))])
	clear(waiting[:n])
	if f.head += n; f.head == len(f.ready) {
		f.ready, f.head = f.ready[:0], 0
	} else {
		f.call()
	}
	return n
}
