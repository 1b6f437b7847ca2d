package registry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// The power goes while schemas are registered: every id that was answered is there after, with its schema, and none is given again.
func TestPowerLoss(t *testing.T) {
	for i := range tier.N(20) {
		rng := rand.New(rand.NewPCG(tier.Seed()+uint64(i), 1))
		mem, answered := vfs.NewMem(), map[int]string{}
		for life := range 3 {
			e, err := engine.Open(engine.Options{FS: mem, WALFileBytes: 13 << 20, WALFiles: 2, ReserveBytes: 1})
			if err != nil {
				t.Fatal(err)
			}
			r, err := Open(t.Context(), Options{Log: eventlog.New(e), Now: testNow})
			if err != nil {
				t.Fatal(err)
			}
			for id, text := range answered {
				if s, _, err := r.ByID(id, true); err != nil || s.Text != text {
					t.Fatalf("round %d: id %d was answered, and is %q, %v", i, id, s.Text, err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			under := make(chan struct{})
			for n := range 1 + rng.IntN(6) {
				text := fixed(1 + 100*life + n)
				id, err := r.Register(ctx, fmt.Sprintf("s-%d-%d", life, n), &Schema{Text: text})
				if was, given := answered[id]; err == nil && given && was != text {
					t.Fatalf("round %d: id %d is given to %s and %s", i, id, was, text)
				} else if err == nil {
					answered[id] = text
				}
			}
			go func() { // and one that is under way when it happens
				defer close(under)
				_, _ = r.Register(ctx, fmt.Sprint("late-", life), &Schema{Text: fixed(10_000 + life)})
			}()
			next := mem.Crash(rng)
			cancel()
			<-under
			r.Close()
			e.Close()
			mem = next
		}
	}
}
