package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestDoctor(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(2, "telemetry"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	call := func(args ...string) (code int, out, errs string) {
		var o, e bytes.Buffer
		code = run(t.Context(), append([]string{"doctor"}, args...), env{Out: &o, Err: &e})
		return code, o.String(), e.String()
	}
	at := "kafka://" + cluster.ListenAddrs()[0]
	if code, out, errs := call("--log", at, "--probe"); code != exitOK || !strings.Contains(out, "3 brokers") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	route := []string{"--log", at, "-o", "json", "--config", write(t, "routes: [{mqtt: \"fleet/{v}/t\", topic: telemetry, key: \"{v}\", partitions: 8}]\n")}
	code, out, errs := call(route...)
	var r struct {
		Findings []struct{ Severity, About, What, Risk, Fix string }
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitFailed || len(r.Findings) == 0 || r.Findings[0].About != "telemetry" || r.Findings[0].Severity != "error" {
		t.Errorf("%d %v %s %s", code, err, out, errs)
	}
	if code, _, errs := call(); code != exitUsage || !strings.Contains(errs, "--log kafka://") {
		t.Errorf("no cluster: %d %s", code, errs)
	}
	if code, _, errs := call("--log", "kafka://127.0.0.1:1", "--timeout", "2s"); code != exitUsage || !strings.Contains(errs, "127.0.0.1:1") {
		t.Errorf("no broker: %d %s", code, errs)
	}
}
