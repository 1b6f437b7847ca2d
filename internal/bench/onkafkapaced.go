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

// paced publishes at QoS 1 at a rate of all connections together, each message when it is due, at most a window of them unacknowledged. It
// says, besides, what each publisher was acknowledged; a connection that ends, ends with what it had.
func paced(addr string, pubs int, rate float64, size int, p pace, begin, end func()) (r result, acked []uint32, err error) {
	const window = 512
	kind := noise(1, size)
	var total atomic.Int64
	var stop, since atomic.Bool
	var all sync.WaitGroup
	var conns []net.Conn
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
		due := make(chan time.Time, window)
		all.Go(func() {
			defer close(due)
			at := time.Now().Add(gap * time.Duration(i) / time.Duration(pubs))
			for seq := uint32(1); !stop.Load(); seq++ {
				time.Sleep(time.Until(at))
				due <- at
				if _, err := c.Write(m.append(nil, id(seq), 0, uint32(i), seq)); err != nil {
					return
				}
				at = at.Add(gap)
			}
		})
		all.Go(func() {
			var ack [4]byte
			in := bufio.NewReader(c)
			for seq := uint32(1); ; seq++ {
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
	r.count, r.elapsed = p.span(&total, func() { since.Store(true); begin() }, func() { since.Store(false); end() })
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
