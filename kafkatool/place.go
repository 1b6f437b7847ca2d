package kafkatool

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// Place is where in a partition to begin, or to put a group.
type Place struct {
	Kind  Kind
	Value int64 // offset, records or milliseconds
}

// Kind says what a Place counts from.
type Kind int

const (
	Earliest Kind = iota // the first record that is there
	Latest               // after the last one
	At                   // an offset
	Tail                 // so many before the end
	Since                // the first record of a time or later
	Shift                // so many from where a group is
)

// ParseTime reads milliseconds since 1970, RFC 3339, or a duration back from now: 90m, -90m.
func ParseTime(s string, now time.Time) (int64, error) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms >= 0 {
		return ms, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return millis(t), nil
	}
	text := s
	days := 0.0
	if d, rest, ok := strings.Cut(strings.TrimPrefix(s, "-"), "d"); ok {
		if n, err := strconv.ParseFloat(d, 64); err == nil && n >= 0 && n < 1e5 {
			days, text = n, rest
			if rest == "" {
				text = "0s"
			}
		}
	}
	if d, err := time.ParseDuration(text); err == nil {
		return millis(now.Add(-d.Abs() - time.Duration(days*24*float64(time.Hour)))), nil
	}
	return 0, fmt.Errorf("%w: %q is no time: write 2026-05-01T06:00:00Z, 1777615200000 (milliseconds) or 90m (ago)", ErrAsked, s)
}

// ParseOffset reads kcat's -o.
func ParseOffset(s string, now time.Time) (Place, error) {
	switch s {
	case "beginning", "earliest":
		return Place{Kind: Earliest}, nil
	case "end", "latest":
		return Place{Kind: Latest}, nil
	}
	if at, ok := strings.CutPrefix(s, "s@"); ok {
		ms, err := ParseTime(at, now)
		return Place{Since, ms}, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil || n == math.MinInt64:
		return Place{}, fmt.Errorf("%w: -o %q: write beginning, end, an offset, -N for the last N, s@TIME or e@TIME", ErrAsked, s)
	case n < 0:
		return Place{Tail, -n}, nil
	}
	return Place{At, n}, nil
}

// span is a partition's first offset and the one after its last.
type span struct {
	start, end int64
	since      int64 // the first offset of a time, if one was asked for; the end, if there is none
}

// spans are those of topics' partitions. With stable, an end is where what is committed ends.
func (c *Cluster) spans(ctx context.Context, stable bool, topics ...string) (map[string]map[int32]span, error) {
	starts, err := c.adm.ListStartOffsets(ctx, topics...)
	if err == nil {
		err = listed(starts)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the first offsets: %w", tidy(err))
	}
	list := c.adm.ListEndOffsets
	if stable {
		list = c.adm.ListCommittedOffsets
	}
	ends, err := list(ctx, topics...)
	if err == nil {
		err = listed(ends)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the last offsets: %w", tidy(err))
	}
	all := map[string]map[int32]span{}
	for topic, ps := range starts {
		all[topic] = map[int32]span{}
		for p, o := range ps {
			e, ok := ends[topic][p]
			if !ok {
				return nil, fmt.Errorf("ask for the last offset of %q [%d]: %w", topic, p, errNoAnswer)
			}
			all[topic][p] = span{start: o.Offset, end: max(o.Offset, e.Offset)}
		}
	}
	return all, nil
}

// listed finds the first thing wrong with an answer about offsets.
func listed(l kadm.ListedOffsets) (err error) {
	for _, topic := range slices.Sorted(maps.Keys(l)) {
		for _, p := range slices.Sorted(maps.Keys(l[topic])) {
			if o := l[topic][p]; o.Err != nil && err == nil {
				err = fmt.Errorf("%q [%d]: %w", topic, p, o.Err)
			}
		}
	}
	return err
}

// since finds the first offsets of a time or later.
func (c *Cluster) since(ctx context.Context, ms int64, all map[string]map[int32]span) error {
	l, err := c.adm.ListOffsetsAfterMilli(ctx, ms, slices.Sorted(maps.Keys(all))...)
	if err == nil {
		err = listed(l)
	}
	if err != nil {
		return fmt.Errorf("ask for the offsets of a time: %w", tidy(err))
	}
	for topic, ps := range all {
		for p, s := range ps {
			o, ok := l[topic][p]
			if !ok || o.Offset < 0 {
				return fmt.Errorf("ask for the offset of a time in %q [%d]: %w", topic, p, errNoAnswer)
			}
			s.since = o.Offset
			ps[p] = s
		}
	}
	return nil
}

// settle puts an offset between a partition's start and end, and says so if it was elsewhere.
func (s span) settle(at int64) (int64, string) {
	switch {
	case at < s.start:
		return s.start, fmt.Sprintf("it begins at %d", s.start)
	case at > s.end:
		return s.end, fmt.Sprintf("it ends at %d", s.end)
	}
	return at, ""
}
