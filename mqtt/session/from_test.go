package session

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseFrom(t *testing.T) {
	const now = 1_800_000_000_000
	at := func(ms int64) From { return From{Time: ms, Offset: -1} }
	day := int64(24 * time.Hour / time.Millisecond)
	for text, want := range map[string]From{
		"earliest":                         {Offset: -1},
		"-15m":                             at(now - 15*60_000),
		"-7d":                              at(now - 7*day),
		"-1w2d3h":                          at(now - 9*day - 3*3_600_000),
		"-1h30m":                           at(now - 5_400_000),
		"-1500ms":                          at(now - 1500),
		"-0s":                              at(now),
		"-60000d":                          at(1),
		"2026-05-01T12:00:00Z":             at(1_777_636_800_000),
		"2026-05-01T14:00:00.25+02:00":     at(1_777_636_800_250),
		"1901-01-01T00:00:00Z":             at(1),
		"offset:0":                         {},
		"offset:12345":                     {Offset: 12345},
		"offset:telemetry:3:7":             {Offset: -1, Offsets: []NamedOffset{{"telemetry", 3, 7}}},
		"offset:a.b-c_d:0:0,telemetry:1:2": {Offset: -1, Offsets: []NamedOffset{{"a.b-c_d", 0, 0}, {"telemetry", 1, 2}}},
	} {
		got, err := ParseFrom(text, now)
		if err != nil || got.Time != want.Time || got.Offset != want.Offset || !slices.Equal(got.Offsets, want.Offsets) {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "latest", "15m", "--15m", "-", "-15", "-m", "-1.5d", "-99999999d", "-1h2d", "yesterday", "2026-05-01", "2026-05-01 12:00:00", "offset:", "offset:-1", "offset:x",
		"offset:9223372036854775807", "offset:a:1", "offset:a:1:2:3", "offset::1:2", "offset:a:-1:2", "offset:a:4294967296:2", "offset:a:1:2,", "Earliest",
		"offset:" + strings.Repeat("a:0:0,", 1024) + "a:0:0", "-" + strings.Repeat("9", 400) + "d", strings.Repeat("x", 70_000),
	} {
		if from, err := ParseFrom(text, now); err == nil || len(err.Error()) > 500 {
			t.Errorf("%.60q: %+v, %v", text, from, err)
		}
	}
}

func FuzzParseFrom(f *testing.F) {
	for _, s := range []string{"earliest", "-15m", "-1w2d3h", "2026-05-01T12:00:00Z", "offset:1", "offset:a:1:2,b:3:4", "-", "offset:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		from, err := ParseFrom(text, 1_800_000_000_000)
		if err != nil {
			return
		}
		if from.Time < 0 || from.Time > 0 && from.Offset >= 0 || len(from.Offsets) > maxOffsets || from.Offset < -1 {
			t.Errorf("%q: %+v", text, from)
		}
	})
}

func TestPlainFilter(t *testing.T) {
	for filter, want := range map[string][2]string{
		"a/b":                      {"a/b", ""},
		"$replay/-15m/fleet/+/t":   {"fleet/+/t", "-15m"},
		"$replay/earliest/#":       {"#", "earliest"},
		"$replay/earliest//a":      {"/a", "earliest"},
		"$replay/earliest":         {"", "earliest"},
		"$replay/":                 {"", ""},
		"$replays/x/a":             {"$replays/x/a", ""},
		"$replay/offset:a:1:2/a/b": {"a/b", "offset:a:1:2"},
	} {
		plain, from, asks := PlainFilter(filter)
		if plain != want[0] || from != want[1] || asks != strings.HasPrefix(filter, "$replay/") {
			t.Errorf("%s: %q %q %v", filter, plain, from, asks)
		}
	}
}
