package config

import (
	"strings"
	"testing"
	"time"
)

func TestSys(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 10 * time.Second, "sys: {interval: 0}": 0, "sys: {interval: 0s}": 0, "sys: {interval: 1m}": time.Minute} {
		if c, err := Parse(text, "x"); err != nil || time.Duration(c.Sys.Interval) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"sys: {interval: 500ms}", "sys: {interval: 2h}", "sys: {interval: forever}", "sys: {intervall: 1s}"} {
		if _, err := Parse(text, "x"); err == nil || !strings.Contains(err.Error(), "interval") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
