package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets of about 3 %.
type histogram struct {
	mu     sync.Mutex
	counts [64 * 32]uint64
	n      uint64
}

func (h *histogram) add(d time.Duration) {
	v := uint64(max(d, 1))
	e := bits.Len64(v)
	i := e * 32
	if e > 5 {
		i += int(v>>(e-6)) & 31
	}
	h.mu.Lock()
	h.counts[i]++
	h.n++
	h.mu.Unlock()
}

func (h *histogram) quantile(q float64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := uint64(q * float64(h.n))
	for i, seen := 0, uint64(0); i < len(h.counts); i++ {
		if seen += h.counts[i]; seen > want {
			e := i / 32
			if e <= 5 {
				return time.Duration(1) << e
			}
			return time.Duration(32+i%32) << (e - 6)
		}
	}
	return 0
}

// result is what one run of a load saw.
type result struct {
	count   int64 // acknowledged or delivered inside the window
	elapsed time.Duration
	lat     *histogram
	lost    int64 // sent and never seen, at the end
}

func (r result) rate() float64 { return float64(r.count) / r.elapsed.Seconds() }

// pace says when a load runs: warm-up, then the measured window.
type pace struct{ warm, window time.Duration }

// closed publishes at QoS 1 or 2 with pubs connections, window not finished each, nobody subscribed. It counts PUBACKs or PUBCOMPs.
func closed(addr string, pubs, window int, kind func(topic string) *message, p pace, begin, end func()) (result, error) {
	var acked atomic.Int64
	var stop atomic.Bool
	errs := make(chan error, pubs)
	for i := range pubs {
		c, err := dial(addr, fmt.Sprintf("pub-%d", i), true)
		if err != nil {
			return result{}, err
		}
		defer c.Close()
		go func() {
			m := kind(fmt.Sprintf("bench/%d/data", i))
			errs <- publishLoop(c, m, uint32(i), window, &acked, &stop)
		}()
	}
	time.Sleep(p.warm)
	begin()
	from, start := acked.Load(), time.Now()
	time.Sleep(p.window)
	n, elapsed := acked.Load()-from, time.Since(start)
	end()
	stop.Store(true)
	for range pubs {
		if err := <-errs; err != nil {
			return result{}, err
		}
	}
	return result{count: n, elapsed: elapsed}, nil
}

func publishLoop(c net.Conn, m *message, pub uint32, window int, acked *atomic.Int64, stop *atomic.Bool) error {
	buf := make([]byte, 0, window*len(m.bytes))
	acks := make([]byte, 8*window)
	var id uint16
	var seq uint32
	inflight, rest := 0, 0
	for {
		if stop.Load() && inflight == 0 {
			return nil
		}
		for ; inflight < window && !stop.Load(); inflight++ {
			if id++; id == 0 {
				id = 1
			}
			seq++
			buf = m.append(buf, id, 0, pub, seq)
		}
		if len(buf) > 0 {
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
		buf = buf[:0]
		n, err := c.Read(acks[rest:])
		if err != nil {
			return err
		}
		n += rest
		done := 0
		for i := 0; i+4 <= n; i += 4 {
			if acks[i] == 0x50 { // PUBREC: PUBREL
				buf = append(buf, 0x62, 2, acks[i+2], acks[i+3])
			} else {
				done++
			}
		}
		inflight -= done
		acked.Add(int64(done))
		rest = n % 4
		copy(acks, acks[n-rest:n])
	}
}

// fanOut publishes at QoS 0 with one connection to subs subscribers, at most window messages not delivered to all.
func fanOut(addr string, subs, window, size int, p pace, begin, end func()) (result, error) {
	lat := &histogram{}
	var total atomic.Int64
	var measuring atomic.Bool
	wake := make(chan struct{}, 1)
	for i := range subs {
		sub, err := dial(addr, fmt.Sprintf("sub-%d", i), true)
		if err != nil {
			return result{}, err
		}
		defer sub.Close()
		if err := subscribe(sub, "bench/#", 0); err != nil {
			return result{}, err
		}
		go receive(sub, func(_, _ uint32, due int64) {
			if total.Add(1)%int64(subs) == 0 {
				select {
				case wake <- struct{}{}:
				default:
				}
			}
			if measuring.Load() {
				lat.add(time.Duration(time.Now().UnixNano() - due))
			}
		})
	}
	c, err := dial(addr, "pub", true)
	if err != nil {
		return result{}, err
	}
	defer c.Close()
	var stop atomic.Bool
	sent := make(chan int64)
	go func() {
		m := newMessage("bench/0/data", 0, size)
		var n int64
		var buf []byte
		for !stop.Load() {
			buf = buf[:0]
			now := time.Now().UnixNano()
			for got := total.Load() / int64(subs); n-got < int64(window) && len(buf) < 8<<10; {
				n++
				buf = m.append(buf, 0, now, 0, uint32(n))
			}
			if len(buf) == 0 {
				select {
				case <-wake:
				case <-time.After(time.Second):
				}
				continue
			}
			if _, err := c.Write(buf); err != nil {
				break
			}
		}
		sent <- n
	}()
	time.Sleep(p.warm)
	begin()
	measuring.Store(true)
	from, start := total.Load(), time.Now()
	time.Sleep(p.window)
	n, elapsed := total.Load()-from, time.Since(start)
	measuring.Store(false)
	end()
	stop.Store(true)
	want := <-sent * int64(subs)
	for deadline := time.Now().Add(8 * time.Second); total.Load() < want && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	return result{count: n, elapsed: elapsed, lat: lat, lost: want - total.Load()}, nil
}

// fanIn publishes with pubs connections to one wildcard subscriber, at most window messages of a publisher undelivered.
func fanIn(addr string, pubs, window, size int, qos byte, p pace, begin, end func()) (result, error) {
	sub, err := dial(addr, "sub", true)
	if err != nil {
		return result{}, err
	}
	defer sub.Close()
	if err := subscribe(sub, "bench/#", qos); err != nil {
		return result{}, err
	}
	var stop atomic.Bool
	var total atomic.Int64
	got := make([]atomic.Int64, pubs)
	wake := make([]chan struct{}, pubs)
	for i := range wake {
		wake[i] = make(chan struct{}, 1)
	}
	lat := &histogram{}
	var measuring atomic.Bool
	go receive(sub, func(pub, _ uint32, due int64) {
		total.Add(1)
		got[pub].Add(1)
		select {
		case wake[pub] <- struct{}{}:
		default:
		}
		if measuring.Load() {
			lat.add(time.Duration(time.Now().UnixNano() - due))
		}
	})
	sent := make([]int64, pubs)
	var wg sync.WaitGroup
	for i := range pubs {
		c, err := dial(addr, fmt.Sprintf("pub-%d", i), true)
		if err != nil {
			return result{}, err
		}
		defer c.Close()
		if qos > 0 {
			go drain(c)
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			m := newMessage(fmt.Sprintf("bench/%d/data", i), qos, size)
			var buf []byte
			for !stop.Load() {
				buf = buf[:0]
				now := time.Now().UnixNano()
				for n := got[i].Load(); sent[i]-n < int64(window) && len(buf) < 32<<10; {
					sent[i]++
					buf = m.append(buf, uint16(sent[i]%65535)+1, now, uint32(i), uint32(sent[i]))
				}
				if len(buf) == 0 {
					select {
					case <-wake[i]:
					case <-time.After(time.Second):
					}
					continue
				}
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		}()
	}
	time.Sleep(p.warm)
	begin()
	measuring.Store(true)
	from, start := total.Load(), time.Now()
	time.Sleep(p.window)
	n, elapsed := total.Load()-from, time.Since(start)
	measuring.Store(false)
	end()
	stop.Store(true)
	wg.Wait()
	var want int64
	for _, s := range sent {
		want += s
	}
	for deadline := time.Now().Add(8 * time.Second); total.Load() < want && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	return result{count: n, elapsed: elapsed, lat: lat, lost: want - total.Load()}, nil
}

// openLoop publishes at a fixed rate from conns connections to one subscriber, QoS 1; latency counts from when a message was due.
func openLoop(addr string, conns, rate, size int, p pace, begin, end func()) (result, error) {
	sub, err := dial(addr, "sub", true)
	if err != nil {
		return result{}, err
	}
	defer sub.Close()
	if err := subscribe(sub, "bench/#", 1); err != nil {
		return result{}, err
	}
	lat := &histogram{}
	var total atomic.Int64
	var measuring atomic.Bool
	go receive(sub, func(_, _ uint32, due int64) {
		total.Add(1)
		if measuring.Load() {
			lat.add(time.Duration(time.Now().UnixNano() - due))
		}
	})
	cs := make([]net.Conn, conns)
	ms := make([]*message, conns)
	for i := range cs {
		if cs[i], err = dial(addr, fmt.Sprintf("dev-%d", i), true); err != nil {
			return result{}, err
		}
		defer cs[i].Close()
		ms[i] = newMessage(fmt.Sprintf("bench/%d/data", i), 1, size)
		go drain(cs[i])
	}
	gap := time.Second / time.Duration(rate)
	start := time.Now()
	var from int64
	var sent int64
	var buf []byte
	stopAt := start.Add(p.warm + p.window)
	begun := false
	for due := start; due.Before(stopAt); due = due.Add(gap) {
		if !begun && due.Sub(start) >= p.warm {
			begun = true
			begin()
			from = total.Load()
			measuring.Store(true)
		}
		if d := time.Until(due); d > 0 {
			time.Sleep(d)
		}
		i := int(sent) % conns
		sent++
		buf = ms[i].append(buf[:0], uint16(sent/int64(conns))%65535+1, due.UnixNano(), uint32(i), uint32(sent))
		if _, err := cs[i].Write(buf); err != nil {
			return result{}, err
		}
	}
	n := total.Load() - from
	end()
	for deadline := time.Now().Add(8 * time.Second); total.Load() < sent && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	measuring.Store(false)
	return result{count: n, elapsed: p.window, lat: lat, lost: sent - total.Load()}, nil
}

func drain(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// receive reads PUBLISHes and acknowledges those of QoS 1, one write for what one read brought.
func receive(c net.Conn, got func(pub, seq uint32, due int64)) {
	r := bufio.NewReaderSize(c, 256<<10)
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
			got(binary.BigEndian.Uint32(body[at+8:]), binary.BigEndian.Uint32(body[at+12:]), int64(binary.BigEndian.Uint64(body[at:])))
		}
		if len(acks) > 0 && r.Buffered() == 0 {
			if _, err := c.Write(acks); err != nil {
				return
			}
			acks = acks[:0]
		}
	}
}
