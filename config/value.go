package config

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

// text is a value that is written as one scalar.
type text interface {
	UnmarshalText([]byte) error
	MarshalText() ([]byte, error)
}

// Duration is a time span: 90s, 15m, 12h, 7d, 2w, or sums of these (1d12h). Forever is "forever".
type Duration time.Duration

// Forever is a span without end.
const Forever = Duration(-1)

var spans = []struct {
	unit string
	of   time.Duration
}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}}

func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "forever" {
		*d = Forever
		return nil
	}
	if s == "0" {
		*d = 0
		return nil
	}
	var sum time.Duration
	for rest := s; ; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		letters := len(rest) - digits - len(strings.TrimLeft(rest[digits:], "wdhms"))
		unit := rest[digits : digits+letters]
		var of time.Duration
		for _, sp := range spans {
			if sp.unit == unit {
				of = sp.of
			}
		}
		if err != nil || of == 0 {
			return fmt.Errorf("%q is not a time span; write 90s, 15m, 12h, 7d, 2w, or forever", s)
		}
		if n > int64((math.MaxInt64-sum)/of) {
			return fmt.Errorf("%q is too long; write forever", s)
		}
		sum += time.Duration(n) * of
		if rest = rest[digits+letters:]; rest == "" {
			*d = Duration(sum)
			return nil
		}
	}
}

func (d Duration) MarshalText() ([]byte, error) {
	if d < 0 {
		return []byte("forever"), nil
	}
	if d == 0 {
		return []byte("0"), nil
	}
	var b []byte
	rest := time.Duration(d)
	for _, sp := range spans {
		if sp.unit == "w" {
			continue // 8d reads better than 1w1d
		}
		if n := rest / sp.of; n > 0 {
			b = append(strconv.AppendInt(b, int64(n), 10), sp.unit...)
			rest %= sp.of
		}
	}
	if len(b) == 0 {
		b = []byte("0")
	}
	return b, nil
}

// Size is a number of bytes: 1048576, 64KiB, 10MB, 1GiB.
type Size int64

var sizes = []struct {
	unit string
	of   int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1}}

func (z *Size) UnmarshalText(b []byte) error {
	s := string(b)
	digits := len(s) - len(strings.TrimLeft(s, "0123456789_"))
	n, err := strconv.ParseInt(strings.ReplaceAll(s[:digits], "_", ""), 10, 64)
	for _, u := range sizes {
		if err == nil && strings.TrimSpace(s[digits:]) == u.unit {
			if n > math.MaxInt64/u.of {
				return fmt.Errorf("%q is too large", s)
			}
			*z = Size(n * u.of)
			return nil
		}
	}
	return fmt.Errorf("%q is not a size; write bytes, or a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB", s)
}

func (z Size) MarshalText() ([]byte, error) {
	for i := 3; i >= 0; i-- {
		if u := sizes[i]; z != 0 && int64(z)%u.of == 0 {
			return fmt.Appendf(nil, "%d%s", int64(z)/u.of, u.unit), nil
		}
	}
	return strconv.AppendInt(nil, int64(z), 10), nil
}

// Share is an amount of disk space: a Size, or a percentage of what the data folder's volume can give it.
type Share struct {
	Percent int // 1 to 100; 0: Bytes says
	Bytes   Size
}

func (h *Share) UnmarshalText(b []byte) error {
	if num, ok := strings.CutSuffix(string(b), "%"); ok {
		n, err := strconv.Atoi(num)
		if err != nil || n < 1 || n > 100 {
			return fmt.Errorf("%q is not a percentage between 1%% and 100%%", b)
		}
		*h = Share{Percent: n}
		return nil
	}
	*h = Share{}
	if err := h.Bytes.UnmarshalText(b); err != nil {
		return fmt.Errorf("%w, or a percentage such as 80%%", err)
	}
	return nil
}

func (h Share) MarshalText() ([]byte, error) {
	if h.Percent > 0 {
		return fmt.Appendf(nil, "%d%%", h.Percent), nil
	}
	return h.Bytes.MarshalText()
}

// Address is host:port, or unix:/path; an empty host is every address of the machine. The empty Address is none.
type Address string

func (a *Address) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "" {
		*a = ""
		return nil
	}
	if path, is := strings.CutPrefix(s, "unix:"); is {
		if path == "" || len(path) > maxUnixPath || strings.ContainsRune(path, 0) {
			return fmt.Errorf("%q is not unix:/path, with a path of at most %d bytes", clip(s), maxUnixPath)
		}
		*a = Address(s)
		return nil
	}
	if _, err := strconv.Atoi(s); err == nil {
		return fmt.Errorf("%q is a port without a host; write 127.0.0.1:%s, or \":%s\" for every address", s, s, s)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q: port %q is not between 0 and 65535", s, port)
	} else if strings.ContainsAny(host, " /\\\x00") || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%q is not host:port", s)
	}
	*a = Address(s)
	return nil
}

func (a Address) MarshalText() ([]byte, error) { return []byte(a), nil }

// maxUnixPath leaves room for what is added to the path while the socket is made; systems allow 104 bytes or more.
const maxUnixPath = 90

// Unix is the path of a Unix socket; "": it is none.
func (a Address) Unix() string {
	path, _ := strings.CutPrefix(string(a), "unix:")
	if path == string(a) {
		return ""
	}
	return path
}

// Loopback tells whether only this machine reaches the address.
func (a Address) Loopback() bool {
	if a.Unix() != "" {
		return true
	}
	host, _, err := net.SplitHostPort(string(a))
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
