package session

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ReplayFrom is the user property of a SUBSCRIBE that asks for history; ReplayPrefix begins a filter that does, for clients that have no
// user properties: `$replay/-15m/fleet/+/telemetry`.
const (
	ReplayFrom   = "replay-from"
	ReplayPrefix = "$replay/"
)

// From says where history is to begin. One of its fields is set; none: with what is oldest.
type From struct {
	Time    int64         // milliseconds since 1970; 0: not by time
	Offset  int64         // in each partition; -1: not by one offset
	Offsets []NamedOffset // in these partitions, and no others
}

// NamedOffset is a place in the log by the name of its log topic.
type NamedOffset struct {
	Topic     string
	Partition int32
	Offset    int64
}

// PlainFilter is a filter without a replay prefix: what the subscription is to. from is what stands in the prefix; asks is false for
// other filters. A prefix that names no filter leaves "", which is none.
func PlainFilter(filter string) (plain, from string, asks bool) {
	rest, asks := strings.CutPrefix(filter, ReplayPrefix)
	if !asks {
		return filter, "", false
	}
	from, plain, _ = strings.Cut(rest, "/")
	return plain, from, true
}

// maxOffsets bounds a list of partitions.
const maxOffsets = 1024

// errFrom is what a text that is none is told.
var errFrom = errors.New("write earliest, a time such as 2026-05-01T12:00:00Z, a span such as -15m or -7d, offset:1234, or " +
	"offset:TOPIC:PARTITION:OFFSET,…")

// ParseFrom reads where history is to begin. now is in milliseconds since 1970.
func ParseFrom(text string, now int64) (From, error) {
	from := From{Offset: -1}
	list, offset := strings.CutPrefix(text, "offset:")
	switch {
	case text == "earliest":
		return from, nil
	case offset:
		return parseOffsets(list)
	case strings.HasPrefix(text, "-"):
		span, err := parseSpan(text[1:])
		if err != nil {
			return from, err
		}
		from.Time = max(now-span, 1)
		return from, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return from, fmt.Errorf("%.40q is no place to begin: %w", text, errFrom)
	}
	from.Time = max(t.UnixMilli(), 1)
	return from, nil
}

// parseSpan reads a length of time, in milliseconds: Go's, and days and weeks.
func parseSpan(text string) (int64, error) {
	bad := func(why string) (int64, error) {
		return 0, fmt.Errorf("-%.40q is no span: %s: %w", text, why, errFrom)
	}
	days := int64(0)
	rest := text
	for {
		i := strings.IndexAny(rest, "dw")
		if i < 0 {
			break
		}
		n, err := strconv.ParseUint(rest[:i], 10, 16)
		if err != nil {
			return bad("days and weeks are whole numbers, and come first")
		}
		if rest[i] == 'w' {
			n *= 7
		}
		days += int64(n)
		rest = rest[i+1:]
	}
	const day = 24 * 3600 * 1000
	if rest == "" && text != "" {
		return days * day, nil
	}
	span, err := time.ParseDuration(rest)
	switch {
	case err != nil:
		return bad("such are 90s, 15m, 1h30m, 7d")
	case span < 0:
		return bad("one sign is enough")
	}
	return days*day + span.Milliseconds(), nil
}

func parseOffsets(list string) (From, error) {
	if n, err := parseOffset(list); err == nil {
		return From{Offset: n}, nil
	}
	from := From{Offset: -1}
	for item := range strings.SplitSeq(list, ",") {
		parts := strings.Split(item, ":")
		if len(parts) != 3 || parts[0] == "" {
			return from, fmt.Errorf("%.80q is not TOPIC:PARTITION:OFFSET: %w", item, errFrom)
		}
		partition, err := strconv.ParseUint(parts[1], 10, 31)
		if err != nil {
			return from, fmt.Errorf("%.80q: %.20q is no partition: %w", item, parts[1], errFrom)
		}
		offset, err := parseOffset(parts[2])
		if err != nil {
			return from, fmt.Errorf("%.80q: %.20q is no offset: %w", item, parts[2], errFrom)
		}
		if len(from.Offsets) == maxOffsets {
			return from, fmt.Errorf("more than %d partitions", maxOffsets)
		}
		from.Offsets = append(from.Offsets, NamedOffset{parts[0], int32(partition), offset})
	}
	return from, nil
}

// parseOffset reads an offset; those beyond every log are past its end all the same.
func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	return int64(n), err
}
