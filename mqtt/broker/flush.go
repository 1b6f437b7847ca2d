package broker

import (
	"runtime/debug"
	"sync"
	"time"

	"github.com/millrace-io/millrace/mqtt/transport"
)

// take is the flush's next run of packets; nil: there are no more, and the flush is over.
func (c *conn) take() *outQueue {
	c.mu.Lock()
	q := c.out.q
	c.out.q = nil
	if q != nil {
		c.mu.Unlock()
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
	c.b.stats.packetsOut.Add(int64(q.packets))
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
	c.waitsLess(n - answers)
	c.mu.Lock()
	c.out.bytes -= n
	c.out.written += int64(n)
	c.answering(-answers)
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

// waitsLess notes that n bytes of deliveries wait no more.
func (c *conn) waitsLess(n int) {
	c.b.stats.outWait.Add(int64(-n))
	if c.lis.limits.OutboundOfOne > 0 {
		c.lis.outWait.Add(int64(-n))
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

// flush writes until nothing is left, on a flusher; a client that does not keep up gets a goroutine until it does.
func (c *conn) flush() {
	var q *outQueue
	defer func() {
		if r := recover(); r != nil {
			c.flushPanicked(q, r)
		}
	}()
	for q = c.take(); q != nil; q = c.take() {
		q.pieces()
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
	defer func() {
		if r := recover(); r != nil {
			c.flushPanicked(q, r)
		}
	}()
	for ; q != nil; q = c.nextPieces() {
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
func (q *outQueue) more() bool { return len(q.left) > 0 || q.layer != nil && q.layer.Owes() }

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

func (c *conn) nextPieces() *outQueue {
	q := c.take()
	if q != nil {
		q.pieces()
	}
	return q
}

// flushPanicked gives the connection up in the middle of a flush.
func (c *conn) flushPanicked(q *outQueue, r any) {
	c.b.notePanic("flush", &panicked{r, debug.Stack()})
	if q != nil {
		c.waitsLess(q.size - q.answers)
	}
	c.mu.Lock()
	c.out.shut = true
	c.drop()
	c.mu.Unlock()
	c.cut("panic")
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
		c.answering(-q.answers)
		c.waitsLess(q.size - q.answers)
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
