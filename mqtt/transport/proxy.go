package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The header by which a proxy says who the client is (PROXY protocol, versions 1 and 2). It is read to its last byte and not
// further: what follows belongs to TLS, or to MQTT.
const (
	v1Start = "PROXY "
	v1Least = len("PROXY UNKNOWN\r\n")
	v1Most  = 107
	v2Start = "\r\n\r\n\x00\r\nQUIT\n"
	v2Fixed = len(v2Start) + 4
	v2Most  = 4 << 10 // bytes after the fixed part: addresses, and what proxies add to them
)

// told is what a header says. No addresses: the connection is the proxy's own, or it does not know.
type told struct{ from, to netip.AddrPort }

// ReadProxy reads the header of a proxy, if this is one's connection, and refuses whoever may not be here. It waits.
func (c *Conn) ReadProxy() error {
	if len(c.o.Proxies) == 0 {
		return nil
	}
	if !c.o.Proxied(c.Conn.RemoteAddr()) {
		if c.o.PlainOthers {
			return nil
		}
		return &Error{"proxy_not_listed", fmt.Errorf("%v is not in one of the networks that proxy_protocol lists", c.Conn.RemoteAddr())}
	}
	t, err := readHeader(c.Conn)
	var op *net.OpError
	switch {
	case errors.As(err, &op):
		return &Error{"connection_lost", err}
	case errors.Is(err, io.EOF): // a proxy asking whether we are here
		return &Error{"connection_closed_by_client", err}
	case err != nil:
		return &Error{"proxy_header", err}
	}
	if t.from.IsValid() {
		c.remote, c.local = net.TCPAddrFromAddrPort(t.from), net.TCPAddrFromAddrPort(t.to)
	}
	return nil
}

// readHeader reads exactly one header.
func readHeader(r io.Reader) (t told, err error) {
	var first [v1Most]byte
	if _, err = io.ReadFull(r, first[:len(v2Start)]); err != nil {
		return t, err
	}
	switch {
	case string(first[:len(v2Start)]) == v2Start:
		return readV2(r)
	case string(first[:len(v1Start)]) == v1Start:
		return readV1(r, first[:])
	}
	return t, fmt.Errorf("a proxy begins with %q, not with a PROXY header", first[:len(v2Start)])
}

// readV1 reads the rest of a header in text, into line, which has its beginning.
func readV1(r io.Reader, line []byte) (t told, err error) {
	n := len(v2Start)
	for want := v1Least; ; want = n + 1 { // no header is shorter; from there on a byte at a time
		if want > v1Most {
			return t, fmt.Errorf("a PROXY header longer than %d bytes", v1Most)
		}
		m, err := io.ReadFull(r, line[n:want])
		if n += m; err != nil {
			return t, cutOff(err)
		}
		if line[n-1] == '\n' {
			break
		}
		if bytes.IndexByte(line[:n], '\n') >= 0 {
			return t, errors.New("a PROXY header with a line end within")
		}
	}
	text, ended := strings.CutSuffix(string(line[:n]), "\r\n")
	if !ended {
		return t, errors.New("a PROXY header that does not end in CR LF")
	}
	if text == "PROXY UNKNOWN" || strings.HasPrefix(text, "PROXY UNKNOWN ") {
		return t, nil
	}
	f := strings.Split(text, " ")
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return t, fmt.Errorf("not a PROXY header: %q", text)
	}
	if t.from, err = v1Address(f[2], f[4], f[1] == "TCP4"); err == nil {
		t.to, err = v1Address(f[3], f[5], f[1] == "TCP4")
	}
	if err != nil {
		return told{}, fmt.Errorf("PROXY header %q: %w", text, err)
	}
	return t, nil
}

func v1Address(host, port string, four bool) (a netip.AddrPort, err error) {
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Is4() != four || ip.Zone() != "" {
		return a, fmt.Errorf("%q is not an address of its kind", host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port {
		return a, fmt.Errorf("%q is not a port", port)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
}

// readV2 reads the rest of a binary header. What it holds beside addresses is skipped.
func readV2(r io.Reader) (t told, err error) {
	var fixed [4]byte
	if _, err = io.ReadFull(r, fixed[:]); err != nil {
		return t, cutOff(err)
	}
	command, family, size := fixed[0], fixed[1], int(binary.BigEndian.Uint16(fixed[2:]))
	if command>>4 != 2 || command&0x0F > 1 {
		return t, fmt.Errorf("a PROXY header with version and command %#x", command)
	}
	if size > v2Most {
		return t, fmt.Errorf("a PROXY header of %d bytes, at most %d are read", size, v2Most)
	}
	least, local := map[byte]int{0x11: 12, 0x21: 36}[family], command&0x0F == 0
	known := least > 0
	switch {
	case local: // the proxy's own
		least = 0
	case family == 0x00 || family == 0x31: // it does not know, or a Unix socket's: then there is no address that says more than ours
	case !known:
		return t, fmt.Errorf("a PROXY header for connections of the kind %#x", family)
	case size < least:
		return t, fmt.Errorf("a PROXY header of %d bytes, which its addresses do not fit in", size)
	}
	var a [36]byte
	if _, err = io.ReadFull(r, a[:least]); err != nil {
		return t, cutOff(err)
	}
	if _, err = io.CopyN(io.Discard, r, int64(size-least)); err != nil {
		return t, cutOff(err)
	}
	if local || !known {
		return t, nil
	}
	n := (least - 4) / 2
	from, _ := netip.AddrFromSlice(a[:n])
	to, _ := netip.AddrFromSlice(a[n : 2*n])
	t.from = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(a[2*n:]))
	t.to = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(a[2*n+2:]))
	return t, nil
}

// cutOff tells a header that ends too early from no header at all.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("a PROXY header that is cut off")
	}
	return err
}
