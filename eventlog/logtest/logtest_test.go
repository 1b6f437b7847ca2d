package logtest

import (
	"fmt"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
)

func openMemory(seed uint64, h Hostility) Opener {
	return func(t testing.TB) *Env {
		m := NewMemory(seed, h)
		root := m // keeps the log while its drivers come and go
		t.Cleanup(func() { root.Close() })
		peer := func(t testing.TB) eventlog.Driver {
			p := m.Peer()
			t.Cleanup(func() { p.Close() })
			return p
		}
		return &Env{
			Driver: m, Reopen: peer, Peer: peer, RoomBytes: 1 << 20,
			Crash: func(t testing.TB) eventlog.Driver { m.Restart(); return m },
			Stall: func(testing.TB) func() { return m.Hold() },
			Foreign: func(t testing.TB, p eventlog.Part, recs []eventlog.Record, commit bool) {
				if err := m.Foreign(p, recs, commit); err != nil {
					t.Fatal(err)
				}
			},
		}
	}
}

// TestMemory runs the suite on each hostility alone and on all together.
func TestMemory(t *testing.T) {
	cases := map[string]Hostility{
		"Friendly": {},
		"Shuffle":  {Shuffle: true},
		"Refuse":   {Shuffle: true, Refuse: 0.2, WriterRefuse: 0.2},
		"Unknown":  {Shuffle: true, Unknown: 0.2, Late: 0.6, WriterLost: 0.2},
		"Gaps":     {Gap: 0.5, Decoded: 0.5, NoSide: 0.5},
		"Delay":    {Shuffle: true, TailDelay: 0.9},
		"Strange":  {Shuffle: true, Foreign: 0.5, Aborted: 0.4, Held: 0.4},
		"Hostile":  Hostile(),
	}
	all := Hostile()
	all.WriterLost, all.WriterRefuse = 0.05, 0.05
	cases["All"] = all
	for name, h := range cases {
		t.Run(name, func(t *testing.T) {
			for i := range tier.N(10) {
				seed := tier.Seed() + uint64(i)
				t.Run(fmt.Sprint(seed), func(t *testing.T) { Run(t, openMemory(seed, h), nil) })
			}
		})
	}
}
