package config

import (
	"strings"
	"testing"
	"time"
)

func TestGroups(t *testing.T) {
	c, err := Load(Source{Environ: []string{"MILLRACE_LOG_GROUPS_SESSION=20s"}})
	if err != nil || c.Log.Groups.Session != Duration(20*time.Second) || c.Log.Groups.Heartbeat != Duration(5*time.Second) {
		t.Fatalf("%+v, %v", c, err)
	}
	for key, value := range map[string]string{"session": "1ms", "heartbeat": "40s", "rebalance_delay": "1h", "offsets_retention": "1s"} {
		path := "log.groups." + key
		if _, err := Load(Source{Flags: map[string]string{path: value}}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s=%s: %v", path, value, err)
		}
	}
}
