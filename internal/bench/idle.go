package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const idleConns = 15_000 // a process may hold 20,000 files on the machines this is measured on

// idle opens connections that say nothing, and looks at what the server's memory has grown by.
func idle(b *bench) error {
	fmt.Println("| server | transport | RSS KiB per connection | connects/s | server CPU µs per connect |")
	fmt.Println("| --- | --- | --- | --- | --- |")
	for _, secure := range []*authority{nil, b.secure} {
		for _, k := range b.compared(natsSynced) {
			row, err := b.idleRow(k, secure)
			if err != nil {
				row = b.gaveUp(k, err)
			}
			fmt.Println(row)
		}
	}
	return nil
}

func (b *bench) idleRow(k kind, secure *authority) (row string, err error) {
	name := "TCP"
	if secure != nil {
		name = "mutual TLS"
	}
	_, err = b.once(k, secure, func(s *server, _, _ func()) (result, error) {
		time.Sleep(time.Second)
		before, cpu, start := s.rss(), s.cpu(), time.Now()
		conns, err := connectAll(s.mqtt, secure)
		defer func() {
			for _, c := range conns {
				c.Close()
			}
		}()
		if err != nil {
			return result{}, err
		}
		took, used := time.Since(start), s.cpu()-cpu
		time.Sleep(12 * time.Second) // connections are idle, and memory that is not used goes back
		row = fmt.Sprintf("| %s | %s | %.2f | %.0f | %.0f |", k.name, name, float64(s.rss()-before)/1024/idleConns,
			idleConns/took.Seconds(), float64(used.Microseconds())/idleConns)
		return result{}, nil
	})
	return row, err
}

// connectAll connects idleConns clients, 64 at a time.
func connectAll(addr string, secure *authority) (conns []net.Conn, err error) {
	var wg sync.WaitGroup
	var failed atomic.Int64
	var first sync.Once
	conns = make([]net.Conn, idleConns)
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < idleConns; i += 64 {
				c, failure := dialOver(addr, fmt.Sprintf("idle-%d", i), secure)
				if failure != nil {
					failed.Add(1)
					first.Do(func() { err = failure })
					c, _ = net.Pipe()
				}
				conns[i] = c
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > 0 {
		return conns, fmt.Errorf("%d of %d connections failed (descriptors?), the first: %w", n, idleConns, err)
	}
	return conns, nil
}

// dialOver is dial, over mutual TLS if asked for.
func dialOver(addr, id string, secure *authority) (net.Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if secure != nil {
		c = tls.Client(c, secure.client)
	}
	return c, hello(c, id, true)
}
