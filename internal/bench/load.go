package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// result is what one run of a load saw.
type result struct {
	count    int64 // acknowledged or delivered inside the window
	elapsed  time.Duration
	lat      *histogram
	lateness *histogram // of the generator itself, where messages are due at a time
	faults
}

func (r result) rate() float64 { return float64(r.count) / r.elapsed.Seconds() }

// pace says when a load runs: warm-up, then the measured window.
type pace struct{ warm, window time.Duration }

// span calls begin and end around the window and counts what total counts meanwhile.
func (p pace) span(total *atomic.Int64, begin, end func()) (n int64, elapsed time.Duration) {
	time.Sleep(p.warm)
	begin()
	from, start := total.Load(), time.Now()
	time.Sleep(p.window)
	n, elapsed = total.Load()-from, time.Since(start)
	end()
	return n, elapsed
}

const (
	graceTime = 8 * time.Second  // for what is under way at the end
	readTime  = 10 * time.Second // for an answer
)

// await waits until total has come to want, or grace is over.
func await(total *atomic.Int64, want int64) {
	for deadline := time.Now().Add(graceTime); total.Load() < want && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
}

// closed publishes at QoS 1 or 2 with pubs connections, window not finished each, nobody subscribed. It counts PUBACKs or PUBCOMPs.
func closed(addr string, clean bool, pubs, window int, kind func(topic string) *message, p pace, begin, end func()) (result, error) {
	var acked atomic.Int64
	var stop atomic.Bool
	var r result
	ps, err := dialPublishers(addr, clean, pubs, window, 0, kind)
	if err != nil {
		return r, err
	}
	defer ps.close()
	errs := ps.start(&acked, &stop)
	r.count, r.elapsed = p.span(&acked, begin, end)
	stop.Store(true)
	for range pubs {
		if err := <-errs; err != nil {
			return r, err
		}
	}
	for _, x := range ps {
		r.add(x.faults)
	}
	return r, nil
}

// fixed publishes exactly each messages with every one of pubs connections and returns when all are acknowledged.
func fixed(addr string, pubs, window int, each uint32, kind func(topic string) *message) (publishers, error) {
	var acked atomic.Int64
	var stop atomic.Bool
	ps, err := dialPublishers(addr, true, pubs, window, each, kind)
	if err != nil {
		return nil, err
	}
	defer ps.close()
	errs := ps.start(&acked, &stop)
	for range pubs {
		if err := <-errs; err != nil {
			return ps, err
		}
	}
	return ps, nil
}

// publisher is one connection that publishes at QoS 1 or 2, some messages unfinished at any time.
type publisher struct {
	c      net.Conn
	m      *message
	number uint32
	window int
	limit  uint32        // 0: until it is stopped
	sent   uint32        // sequence number of the last
	acked  atomic.Uint32 // acknowledged: acks come in order, and are counted as faults where they do not
	faults
}

type publishers []*publisher

func dialPublishers(addr string, clean bool, n, window int, limit uint32, kind func(topic string) *message) (ps publishers, err error) {
	for i := range n {
		c, err := dial(addr, fmt.Sprintf("pub-%d", i), clean)
		if err != nil {
			ps.close()
			return nil, err
		}
		ps = append(ps, &publisher{c: c, m: kind(fmt.Sprintf("bench/%d/data", i)), number: uint32(i), window: window, limit: limit})
	}
	return ps, nil
}

func (ps publishers) start(acked *atomic.Int64, stop *atomic.Bool) chan error {
	errs := make(chan error, len(ps))
	for _, p := range ps {
		go func() { errs <- p.run(acked, stop) }()
	}
	return errs
}

func (ps publishers) close() {
	for _, p := range ps {
		p.c.Close()
	}
}

// id is the packet identifier of a sequence number.
func id(seq uint32) uint16 { return uint16((seq-1)%65535) + 1 }

func (p *publisher) run(total *atomic.Int64, stop *atomic.Bool) error {
	buf := make([]byte, 0, p.window*len(p.m.bytes))
	acks := make([]byte, 8*p.window)
	inflight, rest := 0, 0
	var firsts, lasts uint32 // PUBRECs, and what ends a message
	for {
		over := stop.Load() || p.limit > 0 && p.sent == p.limit
		if over && inflight == 0 {
			return nil
		}
		for ; inflight < p.window && !over; inflight++ {
			p.sent++
			buf = p.m.append(buf, id(p.sent), 0, p.number, p.sent)
			over = p.sent == p.limit
		}
		if len(buf) > 0 {
			if _, err := p.c.Write(buf); err != nil {
				return err
			}
		}
		buf = buf[:0]
		_ = p.c.SetReadDeadline(time.Now().Add(readTime))
		n, err := p.c.Read(acks[rest:])
		if err != nil {
			return fmt.Errorf("publisher %d, %d messages unfinished: %w", p.number, inflight, err)
		}
		n += rest
		done := 0
		for i := 0; i+4 <= n; i += 4 {
			count := &lasts
			if acks[i] == 0x50 { // PUBREC: PUBREL
				count = &firsts
				buf = append(buf, 0x62, 2, acks[i+2], acks[i+3])
			} else {
				done++
			}
			*count++
			if id(*count) != binary.BigEndian.Uint16(acks[i+2:]) {
				p.late++
			}
		}
		inflight -= done
		p.acked.Add(uint32(done))
		total.Add(int64(done))
		rest = n % 4
		copy(acks, acks[n-rest:n])
	}
}

// subscriber receives, acknowledges, and keeps a ledger per publisher.
type subscriber struct {
	c     net.Conn
	saw   []ledger    // by publisher
	among *sync.Mutex // saw is shared with others; nil: it is not
	total *atomic.Int64
	since atomic.Bool // latency counts
	lat   *histogram
	got   func(pub uint32) // may be nil
	over  chan struct{}    // closed when nothing is received any more
}

func newSubscriber(addr, id string, clean bool, pubs int, total *atomic.Int64) (*subscriber, error) {
	c, err := dial(addr, id, clean)
	if err != nil {
		return nil, err
	}
	return &subscriber{c: c, saw: make([]ledger, pubs), total: total, lat: &histogram{}, over: make(chan struct{})}, nil
}

// end closes the connection; after it the ledgers can be read.
func (s *subscriber) end() {
	s.c.Close()
	<-s.over
}

// faults adds up the ledgers, once it has ended.
func (s *subscriber) faults(sent func(pub int) uint32) (f faults) {
	for i := range s.saw {
		f.count(&s.saw[i], sent(i))
	}
	return f
}

// run reads PUBLISHes and acknowledges those of QoS 1, one write for what one read brought.
func (s *subscriber) run() {
	defer close(s.over)
	r := bufio.NewReaderSize(s.c, 256<<10)
	buf := make([]byte, 256<<10)
	var acks []byte
	for {
		head, body, err := nextPacket(r, buf)
		if err != nil {
			return
		}
		if head>>4 != 3 {
			continue
		}
		at := 2 + int(binary.BigEndian.Uint16(body))
		if head&6 != 0 {
			acks = append(acks, 0x40, 2, body[at], body[at+1])
			at += 2
		}
		if len(body)-at >= headerStamp {
			s.note(body[at:])
		}
		if len(acks) > 0 && r.Buffered() == 0 {
			if _, err := s.c.Write(acks); err != nil {
				return
			}
			acks = acks[:0]
		}
	}
}

func (s *subscriber) note(stamp []byte) {
	due, pub, seq := int64(binary.BigEndian.Uint64(stamp)), binary.BigEndian.Uint32(stamp[8:]), binary.BigEndian.Uint32(stamp[12:])
	if s.among != nil {
		s.among.Lock()
	}
	if int(pub) < len(s.saw) {
		s.saw[pub].saw(seq)
	}
	if s.among != nil {
		s.among.Unlock()
	}
	if s.since.Load() {
		s.lat.add(time.Duration(time.Now().UnixNano() - due))
	}
	s.total.Add(1)
	if s.got != nil {
		s.got(pub)
	}
}

func drain(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}
