package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rate is how many per second, minute or hour: 500/s, 30/m, 1000/h, and how many at once after a pause: 500/s burst 2000. Without a burst
// that is what a second brings, one at least. "none" lifts a limit that would else be inherited. The zero Rate says nothing.
type Rate struct {
	None  bool
	Count int64 // in Per seconds
	Per   int
	Burst int64
}

// Flood is a Rate of bytes: 1MiB/s, 64KB/s burst 1MB.
type Flood Rate

var periods = []struct {
	unit    string
	seconds int
}{{"s", 1}, {"m", 60}, {"h", 3600}}

func (r *Rate) UnmarshalText(b []byte) error {
	return r.parse(string(b), "500/s, 30/m, 1000/h, 500/s burst 2000, or none", func(s string) (int64, error) {
		return strconv.ParseInt(s, 10, 64)
	})
}

func (r Rate) MarshalText() ([]byte, error) {
	return r.text(func(n int64) string { return strconv.FormatInt(n, 10) }), nil
}

func (f *Flood) UnmarshalText(b []byte) error {
	return (*Rate)(f).parse(string(b), "1MiB/s, 64KB/s burst 1MB, or none", func(s string) (int64, error) {
		var z Size
		err := z.UnmarshalText([]byte(s))
		return int64(z), err
	})
}

func (f Flood) MarshalText() ([]byte, error) {
	return Rate(f).text(func(n int64) string {
		b, _ := Size(n).MarshalText()
		return string(b)
	}), nil
}

func (r *Rate) parse(s, example string, number func(string) (int64, error)) error {
	*r = Rate{}
	switch s {
	case "":
		return nil
	case "none":
		r.None = true
		return nil
	}
	rate, burst, bursts := strings.Cut(s, " burst ")
	count, unit, _ := strings.Cut(strings.TrimSpace(rate), "/")
	var err error
	for _, p := range periods {
		if p.unit == unit {
			r.Per = p.seconds
		}
	}
	if r.Count, err = number(count); err == nil && bursts {
		r.Burst, err = number(strings.TrimSpace(burst))
	}
	if err != nil || r.Per == 0 || r.Count <= 0 || bursts && r.Burst <= 0 || r.Count > math.MaxInt64/2 {
		*r = Rate{}
		return fmt.Errorf("%q is not a rate; write %s", clip(s), example)
	}
	return nil
}

func (r Rate) text(number func(int64) string) []byte {
	switch {
	case r.None:
		return []byte("none")
	case r.Per == 0:
		return nil
	}
	s := number(r.Count)
	for _, p := range periods {
		if p.seconds == r.Per {
			s += "/" + p.unit
		}
	}
	if r.Burst > 0 {
		s += " burst " + number(r.Burst)
	}
	return []byte(s)
}

// PerSecond is the rate: 0 says nothing, less is none.
func (r Rate) PerSecond() float64 {
	switch {
	case r.None:
		return -1
	case r.Per == 0:
		return 0
	}
	return float64(r.Count) / float64(r.Per)
}
