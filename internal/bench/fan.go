package main

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// pulse wakes a publisher; one token.
type pulse chan struct{}

func (p pulse) beat() {
	select {
	case p <- struct{}{}:
	default:
	}
}

// windowed publishes as fast as the window of what is not delivered lets it, until it is stopped; it returns how many it sent.
func windowed(c net.Conn, m *message, number, window uint32, atOnce int, delivered func() uint32, wake pulse, stop *atomic.Bool) (sent uint32) {
	var buf []byte
	for !stop.Load() {
		buf = buf[:0]
		now := time.Now().UnixNano()
		for got := delivered(); sent-got < window && len(buf) < atOnce; {
			sent++
			buf = m.append(buf, id(sent), now, number, sent)
		}
		if len(buf) == 0 {
			select {
			case <-wake:
			case <-time.After(time.Second):
			}
			continue
		}
		if _, err := c.Write(buf); err != nil {
			return sent
		}
	}
	return sent
}

// fanOut publishes at QoS 0 with one connection to subs subscribers, at most window messages not delivered to all. It counts deliveries.
func fanOut(addr string, subs, window, size int, p pace, begin, end func()) (result, error) {
	lat := &histogram{}
	var total atomic.Int64
	wake := make(pulse, 1)
	all := make([]*subscriber, subs)
	for i := range all {
		s, err := newSubscriber(addr, fmt.Sprintf("sub-%d", i), true, 1, &total)
		if err != nil {
			return result{}, err
		}
		defer s.c.Close()
		if err := subscribe(s.c, everything, 0); err != nil {
			return result{}, err
		}
		s.lat = lat
		s.got = func(uint32) {
			if total.Load()%int64(subs) == 0 {
				wake.beat()
			}
		}
		all[i] = s
		go s.run()
	}
	c, err := dial(addr, "pub", true)
	if err != nil {
		return result{}, err
	}
	defer c.Close()
	var stop atomic.Bool
	sent := make(chan uint32)
	go func() {
		delivered := func() uint32 { return uint32(total.Load() / int64(subs)) }
		sent <- windowed(c, newMessage("bench/0/data", 0, size), 0, uint32(window), 8<<10, delivered, wake, &stop)
	}()
	measure := func(on bool) {
		for _, s := range all {
			s.since.Store(on)
		}
	}
	r := result{lat: lat}
	r.count, r.elapsed = p.span(&total, func() { begin(); measure(true) }, func() { end(); measure(false) })
	stop.Store(true)
	n := <-sent
	await(&total, int64(n)*int64(subs))
	for _, s := range all {
		s.end()
		r.add(s.faults(func(int) uint32 { return n }))
	}
	return r, nil
}

// fanIn publishes with pubs connections to one wildcard subscriber, at most window messages of a publisher undelivered.
func fanIn(addr string, pubs, window, size int, qos byte, p pace, begin, end func()) (result, error) {
	var total atomic.Int64
	sub, err := newSubscriber(addr, "sub", true, pubs, &total)
	if err != nil {
		return result{}, err
	}
	defer sub.c.Close()
	if err := subscribe(sub.c, everything, qos); err != nil {
		return result{}, err
	}
	got, wake := make([]atomic.Uint32, pubs), make([]pulse, pubs)
	for i := range wake {
		wake[i] = make(pulse, 1)
	}
	sub.got = func(pub uint32) {
		got[pub].Add(1)
		wake[pub].beat()
	}
	go sub.run()
	var stop atomic.Bool
	var wg sync.WaitGroup
	sent := make([]uint32, pubs)
	for i := range pubs {
		c, err := dial(addr, fmt.Sprintf("pub-%d", i), true)
		if err != nil {
			return result{}, err
		}
		defer c.Close()
		if qos > 0 {
			go drain(c)
		}
		wg.Go(func() {
			m := newMessage(fmt.Sprintf("bench/%d/data", i), qos, size)
			sent[i] = windowed(c, m, uint32(i), uint32(window), 32<<10, got[i].Load, wake[i], &stop)
		})
	}
	r := result{lat: sub.lat}
	r.count, r.elapsed = p.span(&total, func() { begin(); sub.since.Store(true) }, func() { end(); sub.since.Store(false) })
	stop.Store(true)
	wg.Wait()
	var want int64
	for _, n := range sent {
		want += int64(n)
	}
	await(&total, want)
	sub.end()
	r.faults = sub.faults(func(i int) uint32 { return sent[i] })
	return r, nil
}

// openLoop publishes at a fixed rate from conns connections to one subscriber, QoS 1; latency counts from when a message was due.
func openLoop(addr string, conns, rate, size int, p pace, begin, end func()) (result, error) {
	var total atomic.Int64
	sub, err := newSubscriber(addr, "sub", true, conns, &total)
	if err != nil {
		return result{}, err
	}
	defer sub.c.Close()
	if err := subscribe(sub.c, everything, 1); err != nil {
		return result{}, err
	}
	go sub.run()
	cs, ms := make([]net.Conn, conns), make([]*message, conns)
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
	var from, sent int64
	var buf []byte
	stopAt := start.Add(p.warm + p.window)
	begun, late := false, &histogram{}
	for due := start; due.Before(stopAt); due = due.Add(gap) {
		if !begun && due.Sub(start) >= p.warm {
			begun = true
			begin()
			from = total.Load()
			sub.since.Store(true)
		}
		if d := time.Until(due); d > 0 {
			time.Sleep(d)
		}
		i, seq := int(sent)%conns, uint32(sent/int64(conns))+1
		sent++
		buf = ms[i].append(buf[:0], id(seq), due.UnixNano(), uint32(i), seq)
		late.add(time.Since(due))
		if _, err := cs[i].Write(buf); err != nil {
			return result{}, err
		}
	}
	r := result{lat: sub.lat, lateness: late, count: total.Load() - from, elapsed: p.window}
	end()
	await(&total, sent)
	sub.since.Store(false)
	sub.end()
	r.faults = sub.faults(func(i int) uint32 {
		n := uint32(sent / int64(conns))
		if int64(i) < sent%int64(conns) {
			n++
		}
		return n
	})
	return r, nil
}
