package broker_test

import (
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/transport"
)

// TestIdleConnection measures what a connection costs that has a session and says nothing. The clients are bare descriptors, so
// that they cost this process nothing.
func TestIdleConnection(t *testing.T) {
	asIs := func(b []byte) []byte { return b }
	t.Run("tcp", func(t *testing.T) { testIdle(t, way{reach: reach()}, nil, asIs, 5<<10) })
	ws := way{options: transport.Options{WebSocket: &transport.WebSocket{Path: "/mqtt"}}}
	t.Run("ws", func(t *testing.T) {
		testIdle(t, ws, []byte(upgradeRequest), func(b []byte) []byte { return wsFrame(0x82, b) }, 8<<10)
	})
}

func testIdle(t *testing.T, w way, first []byte, frame func([]byte) []byte, most int) {
	n := w.over(t, func(o *broker.Options) { o.Limits.HalfOpenPerIP, o.Limits.ParkAfter = 1<<20, time.Second })
	connect, err := (&packet.Connect{Version: packet.V311, CleanStart: true, KeepAlive: 600, ClientID: "idle-000000"}).Append(nil, packet.V311)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.ResolveTCPAddr("tcp", n.addr)
	if err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	conns := tier.N(20_000)
	if conns > 8000 { // two descriptors each; 20,000 are what some machines give
		conns = 8000
	}
	var was, is runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&was)
	var fds []int
	for i := range conns {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, fd)
		if err := unix.Connect(fd, to); err != nil {
			t.Fatal(err)
		}
		copy(connect[len(connect)-6:], []byte{byte('0' + i/100000%10), byte('0' + i/10000%10), byte('0' + i/1000%10), byte('0' + i/100%10), byte('0' + i/10%10), byte('0' + i%10)})
		if _, err := unix.Write(fd, append(first[:len(first):len(first)], frame(connect)...)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the sessions", func() bool { return n.b.Stats().Connects == int64(conns) })
	n.b.Stats()
	for _, fd := range fds { // idle clients ping
		if _, err := unix.Write(fd, frame([]byte{0xC0, 0})); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the pings", func() bool { return n.b.Stats().ReceivedIn == int64(conns*(len(connect)+2)) })
	if first == nil { // plain sockets are parked
		n.allParked(conns)
		eventually(t, "no reader is left", func() bool { return readersNow(t) == 0 })
	}
	for range 4 { // stacks shrink by half at each
		runtime.GC()
	}
	runtime.ReadMemStats(&is)
	stack, objects := int(is.StackInuse-was.StackInuse)/conns, int(is.HeapAlloc-was.HeapAlloc)/conns
	t.Logf("%d idle connections: %d bytes of stack and %d of heap each, session included", conns, stack, objects)
	if per := stack + objects; per > most {
		t.Errorf("an idle connection costs %d bytes", per)
	}
}
