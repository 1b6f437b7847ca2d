package main

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// shared has pubs publishers at QoS 1, at most window messages of each undelivered, and members that share a subscription: each message is for
// one of them. Order is promised to no group of several, and so not looked at.
func shared(addr string, pubs, members, window, size int, p pace, begin, end func()) (result, error) {
	var total atomic.Int64
	var one sync.Mutex
	saw := make([]ledger, pubs) // of all members together
	got, wake := make([]atomic.Uint32, pubs), make([]pulse, pubs)
	for i := range wake {
		wake[i] = make(pulse, 1)
	}
	lat := &histogram{}
	group := make([]*subscriber, members)
	for i := range group {
		s, err := newSubscriber(addr, fmt.Sprintf("member-%d", i), true, pubs, &total)
		if err != nil {
			return result{}, err
		}
		defer s.c.Close()
		if err := subscribe(s.c, "$share/group/"+everything, 1); err != nil {
			return result{}, err
		}
		s.saw, s.among, s.lat = saw, &one, lat
		s.got = func(pub uint32) {
			got[pub].Add(1)
			wake[pub].beat()
		}
		group[i] = s
		go s.run()
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	sent := make([]uint32, pubs)
	for i := range pubs {
		c, err := dial(addr, fmt.Sprintf("pub-%d", i), true)
		if err != nil {
			return result{}, err
		}
		defer c.Close()
		go drain(c)
		wg.Go(func() {
			m := newMessage(fmt.Sprintf("bench/%d/data", i), 1, size)
			sent[i] = windowed(c, m, uint32(i), uint32(window), 32<<10, got[i].Load, wake[i], &stop)
		})
	}
	measure := func(on bool) {
		for _, s := range group {
			s.since.Store(on)
		}
	}
	r := result{lat: lat}
	r.count, r.elapsed = p.span(&total, func() { begin(); measure(true) }, func() { end(); measure(false) })
	stop.Store(true)
	wg.Wait()
	var want int64
	for _, n := range sent {
		want += int64(n)
	}
	await(&total, want)
	for _, s := range group {
		s.end()
	}
	r.faults = group[0].faults(func(i int) uint32 { return sent[i] })
	r.late = 0
	return r, nil
}
