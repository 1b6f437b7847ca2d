package transport

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func v2(command, family byte, body string) string {
	return v2Start + string([]byte{command, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(body)))) + body
}

const (
	four = "\x0a\x00\x00\x01\x7f\x00\x00\x01\x30\x39\x07\x5b"
	six  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x30\x39\x07\x5b"
)

var headers = []struct{ name, text, from, to string }{
	{"v1, IPv4", "PROXY TCP4 10.0.0.1 127.0.0.1 12345 1883\r\n", "10.0.0.1:12345", "127.0.0.1:1883"},
	{"v1, the shortest", "PROXY TCP4 1.1.1.1 2.2.2.2 0 0\r\n", "1.1.1.1:0", "2.2.2.2:0"},
	{"v1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 12345 1883\r\n", "[2001:db8::1]:12345", "[2001:db8::2]:1883"},
	{"v1, the longest", "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535 " + strings.Repeat("x", 47) + "\r\n", "", ""},
	{"v1, unknown", "PROXY UNKNOWN\r\n", "", ""},
	{"v2, IPv4", v2(0x21, 0x11, four), "10.0.0.1:12345", "127.0.0.1:1883"},
	{"v2, IPv6", v2(0x21, 0x21, six), "[2001:db8::1]:12345", "[2001:db8::2]:1883"},
	{"v2, with more", v2(0x21, 0x11, four+"\x03\x00\x04abcd\xee\xff\xffbroken"), "10.0.0.1:12345", "127.0.0.1:1883"},
	{"v2, the largest", v2(0x21, 0x11, four+strings.Repeat("x", v2Most-12)), "10.0.0.1:12345", "127.0.0.1:1883"},
	{"v2, LOCAL", v2(0x20, 0x00, ""), "", ""},
	{"v2, LOCAL with addresses", v2(0x20, 0x11, four), "", ""},
	{"v2, unspecified", v2(0x21, 0x00, "anything"), "", ""},
	{"v2, Unix", v2(0x21, 0x31, strings.Repeat("\x00", 216)), "", ""},
}

func addrText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func TestProxyHeaders(t *testing.T) {
	for _, h := range headers {
		for _, rest := range []string{"", "\x10\x0d the rest"} {
			r := strings.NewReader(h.text + rest)
			got, err := readHeader(r)
			if err != nil || addrText(got.from) != h.from || addrText(got.to) != h.to {
				t.Errorf("%s: %v %v %v", h.name, got.from, got.to, err)
			}
			if left, _ := io.ReadAll(r); string(left) != rest {
				t.Errorf("%s: left %q of %q", h.name, left, rest)
			}
		}
	}
}

func TestProxyHeadersRefused(t *testing.T) {
	for name, text := range map[string]string{
		"MQTT":                     "\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a",
		"TLS":                      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00\x00",
		"HTTP":                     "GET /mqtt HTTP/1.1\r\n\r\n",
		"lower case":               "proxy tcp4 10.0.0.1 127.0.0.1 1 1\r\n",
		"v1, too long":             "PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n",
		"v1, never ends":           "PROXY " + strings.Repeat("x", 5000),
		"v1, no CR":                "PROXY TCP4 10.0.0.1 127.0.0.1 1 1\n",
		"v1, line end within":      "PROXY \nTCP4 10.0.0.1 127.0.0.1 1 1\r\n",
		"v1, cut off":              "PROXY TCP4 10.0.0.1",
		"v1, port too large":       "PROXY TCP4 10.0.0.1 127.0.0.1 65536 1\r\n",
		"v1, port with sign":       "PROXY TCP4 10.0.0.1 127.0.0.1 +1 1\r\n",
		"v1, leading zero":         "PROXY TCP4 10.0.0.1 127.0.0.1 01 1\r\n",
		"v1, wrong family":         "PROXY TCP4 2001:db8::1 2001:db8::2 1 1\r\n",
		"v1, zone":                 "PROXY TCP6 fe80::1%eth0 fe80::2 1 1\r\n",
		"v1, double space":         "PROXY TCP4  10.0.0.1 127.0.0.1 1 1\r\n",
		"v1, UDP":                  "PROXY UDP4 10.0.0.1 127.0.0.1 1 1\r\n",
		"v1, UNKNOWNX":             "PROXY UNKNOWNX\r\n",
		"v2, version 1":            v2(0x11, 0x11, four),
		"v2, unknown command":      v2(0x22, 0x11, four),
		"v2, UDP":                  v2(0x21, 0x12, four),
		"v2, unknown family":       v2(0x21, 0x41, four),
		"v2, addresses cut short":  v2(0x21, 0x11, four[:11]),
		"v2, IPv6 in IPv4's space": v2(0x21, 0x21, four),
		"v2, cut off":              v2(0x21, 0x11, four)[:20],
		"v2, more cut off":         v2(0x21, 0x11, four+"more")[:30],
		"v2, too large":            v2(0x21, 0x11, four+strings.Repeat("x", v2Most)),
	} {
		if got, err := readHeader(strings.NewReader(text)); err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

func TestProxied(t *testing.T) {
	o := &Options{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}}
	for address, want := range map[string]bool{
		"10.1.2.3:1": true, "11.1.2.3:1": false, "[::ffff:10.1.2.3]:1": true, "[2001:db8::1]:1": true, "[2001:db9::1]:1": false, "127.0.0.1:1": false,
	} {
		if got := o.Proxied(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if !o.Proxied(&net.UnixAddr{}) || (&Options{}).Proxied(&net.UnixAddr{}) {
		t.Error("who opens a Unix socket is a proxy where proxies are expected, and only there")
	}
}

// countingReader notes how far it was read.
type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

// FuzzProxyHeader: no bytes crash the parser or make it read on without end, and what follows a header is not touched.
func FuzzProxyHeader(f *testing.F) {
	for _, h := range headers {
		f.Add([]byte(h.text))
	}
	f.Add([]byte("PROXY TCP4 10.0.0.1 127.0.0.1 65536 1\r\n"))
	f.Add([]byte(v2(0x21, 0x12, four)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &countingReader{r: bytes.NewReader(b)}
		got, err := readHeader(c)
		if c.n > v2Fixed+v2Most {
			t.Fatalf("%d bytes read", c.n)
		}
		if err != nil {
			return
		}
		c2 := &countingReader{r: io.MultiReader(bytes.NewReader(b[:c.n]), strings.NewReader("more"))}
		again, err := readHeader(c2)
		if err != nil || again != got || c2.n != c.n {
			t.Fatalf("%q alone: %v %v %d", b[:c.n], again, err, c2.n)
		}
		if got.from.IsValid() != got.to.IsValid() {
			t.Fatalf("half an answer: %+v", got)
		}
	})
}
