package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The others have nothing to do with the storm: publishers at a steady rate, and one who receives all of it. They are a process of their own,
// so that what the storm costs the generator does not look like the server's latency.
const (
	othersFlag = "others" // with an address: be them
	otherPubs  = 20
	otherRate  = 1000 // messages a second, of all of them
)

// othersProcess is how the scenario holds them.
type othersProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// latencies is what the others saw since they were asked last.
type latencies struct{ p50, p99, worst time.Duration }

func (l latencies) String() string { return ms(l.p50) + " / " + ms(l.p99) + " / " + ms(l.worst) }

func startOthers(address string) (*othersProcess, error) {
	p := &othersProcess{cmd: exec.Command(os.Args[0], "-"+othersFlag, address)}
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the others: %w", err)
	}
	_, err = p.measured() // they are there
	return p, err
}

// measured asks what they saw since they were asked last.
func (p *othersProcess) measured() (l latencies, err error) {
	if _, err := io.WriteString(p.in, "?\n"); err != nil {
		return l, err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return l, fmt.Errorf("the others: %w", err)
	}
	_, err = fmt.Sscan(strings.TrimSpace(line), (*int64)(&l.p50), (*int64)(&l.p99), (*int64)(&l.worst))
	return l, err
}

func (p *othersProcess) end() {
	p.in.Close()
	_ = p.cmd.Wait()
}

// beOthers is that process: it answers each line on stdin, and ends with it.
func beOthers(address string) error {
	o := &others{address: address, stop: make(chan struct{})}
	sub, err := o.subscribe()
	if err != nil {
		return err
	}
	o.lat.Store(&histogram{})
	o.work.Go(func() { o.receive(sub) })
	for i := range otherPubs {
		o.work.Go(func() { o.publish(i) })
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		h := o.lat.Swap(&histogram{})
		fmt.Println(int64(h.quantile(0.5)), int64(h.quantile(0.99)), o.worst.Swap(0))
	}
	close(o.stop)
	o.work.Wait()
	return nil
}

type others struct {
	address string
	lat     atomic.Pointer[histogram]
	worst   atomic.Int64
	stop    chan struct{}
	work    sync.WaitGroup
}

func (o *others) ended() bool {
	select {
	case <-o.stop:
		return true
	default:
		return false
	}
}

func (o *others) subscribe() (net.Conn, error) {
	c, err := dial(o.address, "others-sub", true)
	if err != nil {
		return nil, err
	}
	return c, subscribe(c, everything, 1)
}

// receive notes latencies, and comes back every 50 ms where the server is gone.
func (o *others) receive(c net.Conn) {
	for !o.ended() {
		o.read(c)
		c.Close()
		for !o.ended() {
			var err error
			if c, err = o.subscribe(); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

func (o *others) read(c net.Conn) {
	in, buf := bufio.NewReaderSize(c, 64<<10), make([]byte, 64<<10)
	for !o.ended() {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		head, body, err := nextPacket(in, buf)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() && in.Buffered() == 0 {
			continue
		}
		if err != nil {
			return
		}
		if head>>4 != 3 {
			continue
		}
		at := 2 + int(binary.BigEndian.Uint16(body))
		ack := [4]byte{0x40, 2, body[at], body[at+1]}
		due := int64(binary.BigEndian.Uint64(body[at+2:]))
		took := time.Now().UnixNano() - due
		o.lat.Load().add(time.Duration(took))
		o.worst.Store(max(o.worst.Load(), took))
		if _, err := c.Write(ack[:]); err != nil {
			return
		}
	}
}

// publish sends at its pace while there is a server; what was due while there was none is not sent.
func (o *others) publish(i int) {
	m := newMessage(fmt.Sprintf("bench/%d/data", i), 1, 100)
	gap := time.Second * otherPubs / otherRate
	for seq := uint32(0); !o.ended(); {
		c, err := dial(o.address, fmt.Sprintf("others-%d", i), true)
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		go drain(c)
		for due := time.Now(); err == nil && !o.ended(); due = due.Add(gap) {
			time.Sleep(time.Until(due))
			seq++
			_, err = c.Write(m.append(nil, id(seq+1), due.UnixNano(), uint32(i), seq))
		}
		c.Close()
	}
}
