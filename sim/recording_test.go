package sim

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/mqtt/topic"
)

type line struct {
	TS             time.Time
	Topic, Payload string
}

func recordedLines(t *testing.T) (lines []line) {
	z, err := gzip.NewReader(bytes.NewReader(hfp))
	if err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(z); s.Scan(); {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	return lines
}

// Every recorded message is played, exactly, in the order of its vehicle, with no gap longer than the longest.
func TestRecordingIsExact(t *testing.T) {
	vehicles, err := embedded()
	if err != nil || len(vehicles) != 7 {
		t.Fatalf("%d vehicles, %v", len(vehicles), err)
	}
	played := map[string][]string{}
	for i, v := range vehicles {
		if i > 0 && len(v.events) > len(vehicles[i-1].events) {
			t.Error("not the busiest first")
		}
		for j := range v.events {
			top, payload := v.events[j].render(nil, nil, v, "", time.Time{})
			played[v.id] = append(played[v.id], string(top)+" "+string(payload))
			if j > 0 {
				if gap := v.events[j].at - v.events[j-1].at; gap < 0 || gap > longestGap {
					t.Errorf("%s: a gap of %v", v.id, gap)
				}
			}
		}
	}
	lines := recordedLines(t)
	if len(lines) != 1999 {
		t.Fatalf("%d lines", len(lines))
	}
	for _, l := range lines {
		if err := topic.ValidateName([]byte(l.Topic)); err != nil {
			t.Errorf("%q: %v", l.Topic, err)
		}
		levels := strings.Split(l.Topic, "/")
		id := levels[7] + "/" + levels[8]
		if len(played[id]) == 0 || played[id][0] != l.Topic+" "+l.Payload {
			t.Fatalf("%s does not play %s", id, l.Topic)
		}
		played[id] = played[id][1:]
	}
}

// A clone is another vehicle in topic and payload, and else the same.
func TestClones(t *testing.T) {
	vehicles, err := embedded()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for clone := 1; clone <= 120; clone++ {
		for _, v := range vehicles {
			number := cloneNumber(v.number, clone)
			if key := strings.TrimSuffix(v.id, v.number) + number; seen[key] {
				t.Fatalf("two clones are %s", key)
			} else {
				seen[key] = true
			}
			e := &v.events[len(v.events)/2]
			top, payload := e.render(nil, nil, v, number, time.Time{})
			if want := strings.Replace(e.topic, "/"+v.number, "/"+number, 1); string(top) != want {
				t.Fatalf("%q, want %q", top, want)
			}
			old, now := fmt.Sprintf(`"veh":%s,`, strings.TrimLeft(v.number, "0")), fmt.Sprintf(`"veh":%s,`, number)
			if want := strings.Replace(e.payload, old, now, 1); string(payload) != want || want == e.payload {
				t.Fatalf("%s\n%s", payload, want)
			}
		}
	}
}

// Shifted to now all times move alike, and the payload stays JSON.
func TestTimesToNow(t *testing.T) {
	vehicles, err := embedded()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2031, 5, 6, 7, 8, 9, 123e6, time.UTC)
	for _, v := range vehicles {
		for i := range v.events {
			e := &v.events[i]
			_, payload := e.render(nil, nil, v, "", now)
			var before, after map[string]map[string]any
			if json.Unmarshal([]byte(e.payload), &before) != nil || json.Unmarshal(payload, &after) != nil {
				t.Fatalf("%s\n%s", e.payload, payload)
			}
			for kind, was := range before {
				for name, old := range was {
					is := after[kind][name]
					if name != "tst" && name != "tsi" && name != "ttarr" && name != "ttdep" || old == nil {
						if fmt.Sprint(old) != fmt.Sprint(is) {
							t.Fatalf("%s changed from %v to %v", name, old, is)
						}
						continue
					}
					shift := now.Sub(e.received)
					var moved time.Duration
					if name == "tsi" {
						moved = time.Duration((is.(float64) - old.(float64)) * float64(time.Second))
					} else {
						a, _ := time.Parse(time.RFC3339, old.(string))
						b, err := time.Parse(time.RFC3339, is.(string))
						if err != nil {
							t.Fatal(err)
						}
						moved = b.Sub(a)
					}
					if d := moved - shift; d < -time.Second || d > time.Second {
						t.Fatalf("%s moved by %v, not %v", name, moved, shift)
					}
				}
			}
		}
	}
}
