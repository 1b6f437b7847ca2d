package conformance

import (
	"os"
	"strings"
	"testing"
)

// TestRealKafkaConformance is the suite against a node whose log is on Apache Kafka.
func TestRealKafkaConformance(t *testing.T) {
	seeds := os.Getenv("MILLRACE_KAFKA")
	if seeds == "" {
		t.Skip("MILLRACE_KAFKA is not set: no Kafka cluster for a node (make test-all starts one)")
	}
	ours := boot(t, "log: {kafka: ["+strings.ReplaceAll(seeds, ",", ", ")+"]}\n")
	ours.strict = true
	run(t, ours)
}
