package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestRates(t *testing.T) {
	for text, want := range map[string]struct {
		perSecond float64
		burst     int64
		again     string
	}{
		"500/s":            {500, 0, "500/s"},
		"30/m":             {0.5, 0, "30/m"},
		"7200/h":           {2, 0, "7200/h"},
		"5/s burst 100":    {5, 100, "5/s burst 100"},
		" 5/s burst  100 ": {5, 100, "5/s burst 100"},
		"none":             {-1, 0, "none"},
		"":                 {0, 0, ""},
	} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		again, err := r.MarshalText()
		if r.PerSecond() != want.perSecond || r.Burst != want.burst || string(again) != want.again || err != nil {
			t.Errorf("%q: %v a second, burst %d, %q", text, r.PerSecond(), r.Burst, again)
		}
	}
	for _, text := range []string{"500", "/s", "0/s", "-1/s", "5/d", "5/s burst", "5/s burst 0", "5 per second", "1e9/s", "5/s/s", "99999999999999999999/s"} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err == nil || r != (Rate{}) {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
	var f Flood
	if err := f.UnmarshalText([]byte("64KiB/s burst 1MiB")); err != nil || f.Count != 64<<10 || f.Burst != 1<<20 {
		t.Errorf("%+v, %v", f, err)
	}
	if again, _ := f.MarshalText(); string(again) != "64KiB/s burst 1MiB" {
		t.Errorf("%s", again)
	}
}

func TestLoadLimits(t *testing.T) {
	c, err := Parse(`
listeners: {mqtt: [{bind: 127.0.0.1:1883, lenient: true, limits: {inbound_bytes: 1MiB, rates: {connects: none}}}]}
limits: {rates: {connects: 500/s, connects_per_ip: 20/s burst 100, messages: 100/m, bytes: 1MiB/s}, flapping: {losses: 0, exempt: [site-7]}}
drain: {reference: "b.example:1883", rate: 0, wait: 10s, timeout: 2m}
`, "x")
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Listeners.MQTT[0]; !m.Lenient || m.Limits.InboundBytes != 1<<20 || !m.Limits.Rates.Connects.None || c.Limits.Rates.Bytes.Count != 1<<20 || c.Limits.Flapping.Losses != 0 || len(c.Limits.Flapping.Exempt) != 1 {
		t.Errorf("%+v, %+v", m, c.Limits)
	}
	again, err := Parse(string(c.YAML()), "again")
	if err != nil || !reflect.DeepEqual(again.Limits, c.Limits) || again.Drain != c.Drain {
		t.Errorf("written and read again: %v\n%s", err, c.YAML())
	}
	for text, want := range map[string]string{
		"limits: {rates: {connects: 500}}":                      "is not a rate",
		"limits: {flapping: {losses: 1}}":                       "no flapping",
		"limits: {flapping: {exempt: [a, a]}}":                  "named twice",
		"limits: {flapping: {window: 0}}":                       "less than a second",
		"limits: {inbound_bytes: 10}":                           "limits.inbound_bytes",
		"limits: {inbound_bytes: 1GiB}":                         "limits.total_inbound_bytes",
		"limits: {bans: 0}":                                     "limits.bans",
		"drain: {reference: \":1883\"}":                         "cannot be connected|client can connect",
		"drain: {wait: 1m}":                                     "drain.wait",
		"drain: {timeout: 0}":                                   "drain.timeout",
		"listeners: {mqtt: [{bind: 127.0.0.1:1, lenient: 3}]}":  "lenient",
		"listeners: {mqtt: [{limits: {inbound_bytes: 100B}}]}":  "inbound_bytes",
		"limits: {rates: {bytes: 10/s burst 1, packets: 10/s}}": "packets",
	} {
		_, err := Parse(text, "x")
		found := false
		for _, w := range strings.Split(want, "|") {
			found = found || err != nil && strings.Contains(err.Error(), w)
		}
		if !found {
			t.Errorf("%s: %v", text, err)
		}
	}
}
