package app

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// A device that says nothing is left alone by TCP for minutes.
func TestListenersSpareRadios(t *testing.T) {
	l, err := listenSparing("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		idle, err2 := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		if on != 1 || idle != 600 || err != nil || err2 != nil {
			t.Errorf("keep-alive %d after %d s: %v %v", on, idle, err, err2)
		}
	}); err != nil {
		t.Fatal(err)
	}
}
