package kafkawire

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/history"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/vfs"
)

// TestHistories lets concurrent clients produce, transact, copy exactly once and consume while the node loses power, is killed, or restarts in
// good order, and looks for what a log must never do in what they were told.
func TestHistories(t *testing.T) {
	seeds := uint64(tier.N(1000))
	if !tier.Soak() {
		seeds /= 8 // each takes half a second, mostly waiting
	}
	next := atomic.Uint64{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !t.Failed() {
				i := next.Add(1) - 1
				if i >= seeds {
					return
				}
				seed := tier.Seed() + i
				if found, err := historyOf(t, seed); err != nil || len(found) > 0 {
					t.Errorf("seed %d: %v %v", seed, found[:min(5, len(found))], err)
				}
			}
		})
	}
	wg.Wait()
}

// historyOf is one node's history.
func historyOf(t testing.TB, seed uint64) ([]history.Anomaly, error) {
	rng := rand.New(rand.NewPCG(seed, 0x68697374))
	d := &doomed{rng: rng}
	n := startOn(t, Options{MinSession: 50 * time.Millisecond}, d.files)
	defer n.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	w, err := history.Start(ctx, history.Options{Addr: n.addr, Seed: seed, Session: 300 * time.Millisecond, Pause: 2 * time.Millisecond})
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	for range 1 + rng.IntN(3) {
		lived := time.Duration(rng.IntN(60)) * time.Millisecond
		if rng.IntN(4) == 0 {
			time.Sleep(lived) // how far the clients get, not a wait for anything
			n.restart()
			continue
		}
		n.back(d.end(n.fs, lived))
	}
	time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
	return w.Finish()
}

// doomed is the files of a node whose power goes, or that is killed, at one of their operations.
type doomed struct {
	rng  *rand.Rand
	left atomic.Int64 // operations until then; 0: it lives
	mu   sync.Mutex
	disk *vfs.Mem
	now  *vfs.Mem
	over chan struct{}
	life atomic.Int64
}

// files is what one life of the node has: after its end nothing it does has any effect.
func (d *doomed) files(mem *vfs.Mem) vfs.FS {
	life := d.life.Add(1)
	d.mu.Lock()
	d.now, d.over = mem, make(chan struct{})
	over := d.over
	d.mu.Unlock()
	return vfs.Faults(mem, func(op vfs.Op) error {
		select {
		case <-over:
			return fs.ErrClosed
		default:
		}
		if (op.Kind == vfs.OpWrite || op.Kind == vfs.OpDatasync) && d.left.Load() > 0 && d.left.Add(-1) == 0 && d.life.Load() == life {
			d.cut(mem, over)
			return fs.ErrClosed
		}
		return nil
	})
}

func (d *doomed) cut(mem *vfs.Mem, over chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.disk != nil {
		return
	}
	if d.rng.IntN(4) == 0 {
		d.disk = mem.Kill()
	} else {
		d.disk = mem.Crash(d.rng)
	}
	close(over)
}

// end lets the node live for a while, and then until some operation of its, and returns what its disk has afterwards.
func (d *doomed) end(mem *vfs.Mem, lived time.Duration) *vfs.Mem {
	time.Sleep(lived)
	d.mu.Lock()
	d.disk = nil
	over := d.over
	left := 1 + d.rng.Int64N(12)
	d.mu.Unlock()
	d.left.Store(left)
	select {
	case <-over:
	case <-time.After(2 * time.Second): // nobody writes
		d.cut(mem, over)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disk
}
