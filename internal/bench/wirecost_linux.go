package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// trafficOf asks the kernel.
func trafficOf(c net.Conn) (t traffic, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return t, err
	}
	var info *unix.TCPInfo
	var failed error
	if err := raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil {
		return t, err
	}
	if failed != nil {
		return t, failed
	}
	return traffic{int64(info.Bytes_acked + info.Bytes_received), int64(info.Segs_in) + int64(info.Segs_out)}, nil
}
