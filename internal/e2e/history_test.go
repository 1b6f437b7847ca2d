package e2e

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/history"
	"github.com/millrace-io/millrace/internal/tier"
)

// TestHistoryKillNine kills the real binary under Kafka clients that produce, transact, copy exactly once and consume, and looks for what a log
// must never do in what they were told.
func TestHistoryKillNine(t *testing.T) {
	n := newNode(t, "")
	n.start()
	rng := rand.New(rand.NewPCG(tier.Seed(), 11))
	w, err := history.Start(deadline(t, 10*time.Minute), history.Options{Addr: n.kafka, Seed: tier.Seed(), Session: 6 * time.Second, Pause: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for range tier.N(30) {
		time.Sleep(time.Duration(50+rng.IntN(300)) * time.Millisecond) // how far the clients get, not a wait for anything
		n.kill()
		n.start()
	}
	found, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range found[:min(len(found), 10)] {
		t.Error(a)
	}
}
