package app

import (
	"context"
	"encoding/binary"
	"net"
	"sync"

	"github.com/millrace-io/millrace/sim"
)

// memoryDoors are the listeners of one life: pipes, or sockets on loopback. Whoever comes before they are open, or after they
// are cut, is turned away.
type memoryDoors struct {
	tcp bool

	mu     sync.Mutex
	ready  bool
	gone   bool
	pipes  []*pipeDoor // in the order of listening
	addr   map[doorKind]string
	inside []net.Conn // the clients' ends
}

func newMemoryDoors(tcp bool) *memoryDoors {
	return &memoryDoors{tcp: tcp, addr: map[doorKind]string{}}
}

func (d *memoryDoors) listen(network, address string) (net.Listener, error) {
	if d.tcp {
		return net.Listen(network, address)
	}
	p := &pipeDoor{conns: make(chan net.Conn), shut: make(chan struct{})}
	d.pipes = append(d.pipes, p)
	return p, nil
}

// open lets clients come.
func (d *memoryDoors) open(n *Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready = true
	for _, kind := range []doorKind{doorMQTT, doorKafka} {
		d.addr[kind] = n.Address(string(kind))
	}
}

// dial returns a client's way in.
func (d *memoryDoors) dial(kind doorKind) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (nc net.Conn, err error) {
		d.mu.Lock()
		ready, gone := d.ready, d.gone
		d.mu.Unlock()
		switch {
		case !ready || gone:
			return nil, net.ErrClosed
		case d.tcp:
			nc, err = sim.DialTCP(d.addr[kind])(ctx)
		case kind == doorMQTT:
			nc, err = d.pipes[0].dial(ctx)
		default:
			nc, err = d.pipes[1].dial(ctx)
		}
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.inside = append(d.inside, nc)
		if d.gone {
			nc.Close()
		}
		return nc, nil
	}
}

// cut ends all connections, without a word.
func (d *memoryDoors) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	for _, nc := range d.inside {
		if tcp, ok := nc.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		nc.Close()
	}
}

// pipeDoor is a listener whose connections are pipes.
type pipeDoor struct {
	conns chan net.Conn
	shut  chan struct{}
	once  sync.Once
}

func (p *pipeDoor) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.shut:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipeDoor) Accept() (net.Conn, error) {
	select {
	case nc := <-p.conns:
		return nc, nil
	case <-p.shut:
		return nil, net.ErrClosed
	}
}

func (p *pipeDoor) Close() error   { p.once.Do(func() { close(p.shut) }); return nil }
func (p *pipeDoor) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe:1" }

// stamped is a payload with a stamp (see package sim) and so many bytes more.
func stamped(s sim.Stamp, more int) []byte {
	b := append([]byte(nil), "\xf1mr1"...)
	b = binary.BigEndian.AppendUint64(b, s.Sequence)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = append(append(b, byte(len(s.Device))), s.Device...)
	for i := range more {
		b = append(b, byte(uint64(i)*s.Sequence))
	}
	return b
}
