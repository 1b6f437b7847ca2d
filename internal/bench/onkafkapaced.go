package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// paced publishes at QoS 1 at a rate of all connections together, each message when it is due, at most a window of them unacknowledged. What
// a connection is late with goes in one write: the generator shares the processors with what is measured. The first message of each is
// acknowledged before the clock starts, as the plain producer's is: whatever is new is found by then. It
// says, besides, what each publisher was acknowledged; a connection that ends, ends with what it had.
func paced(addr string, pubs int, rate float64, size int, p pace, begin, end func()) (r result, acked []uint32, err error) {
	const window, burst = 512, 16 << 10
	kind := noise(1, size)
	var total atomic.Int64
	var stop, since atomic.Bool
	var all sync.WaitGroup
	var conns []net.Conn
	var messages []*message
	acked = make([]uint32, pubs)
	lats := make([]histogram, pubs)
	gap := time.Duration(float64(time.Second) * float64(pubs) / rate)
	for i := range pubs {
		c, err := dial(addr, fmt.Sprintf("pub-%d", i), true)
		if err != nil {
			return r, nil, err
		}
		defer c.Close()
		conns = append(conns, c)
		m := kind(fmt.Sprintf("bench/%d/data", i))
		if err := acknowledged(c, m.append(nil, id(1), 0, uint32(i), 1)); err != nil {
			return r, nil, fmt.Errorf("publisher %d, its first message: %w", i, err)
		}
		acked[i] = 1
		messages = append(messages, m)
	}
	for i, c := range conns {
		m, due := messages[i], make(chan time.Time, window)
		all.Go(func() {
			defer close(due)
			at := time.Now().Add(gap * time.Duration(i) / time.Duration(pubs))
			for seq, buf := uint32(2), []byte(nil); !stop.Load(); buf = buf[:0] {
				time.Sleep(time.Until(at))
				for now := time.Now(); !at.After(now) && len(buf) < burst && (len(buf) == 0 || len(due) < window); seq++ {
					due <- at
					buf = m.append(buf, id(seq), 0, uint32(i), seq)
					at = at.Add(gap)
				}
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		})
		all.Go(func() {
			var ack [4]byte
			in := bufio.NewReader(c)
			for seq := uint32(2); ; seq++ {
				at, ok := <-due
				if !ok {
					return
				}
				_ = c.SetReadDeadline(time.Now().Add(2 * time.Minute))
				if _, err := io.ReadFull(in, ack[:]); err != nil || id(seq) != binary.BigEndian.Uint16(ack[2:]) {
					c.Close()
					for range due {
					}
					return
				}
				acked[i] = seq
				total.Add(1)
				if since.Load() {
					lats[i].add(time.Since(at))
				}
			}
		})
	}
	r.count, r.elapsed = p.span(&total, func() { begin(); since.Store(true) }, func() { since.Store(false); end() })
	stop.Store(true)
	all.Wait()
	for _, c := range conns {
		c.Close()
	}
	r.lat = &histogram{}
	for i := range lats {
		r.lat.merge(&lats[i])
	}
	return r, acked, nil
}

// acknowledged sends one PUBLISH, and waits for its PUBACK.
func acknowledged(c net.Conn, publish []byte) error {
	if _, err := c.Write(publish); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(readTime))
	var ack [4]byte
	_, err := io.ReadFull(c, ack[:])
	return err
}
