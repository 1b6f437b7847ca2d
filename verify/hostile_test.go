package verify_test

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/logtest"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/verify"
)

// A log that refuses, does not know, lands late and leaves holes is no reason for a false alarm: what is refused or in doubt is said as
// that. (Sequences are left out: who does not know sends again, and these messages are sent once.)
func TestAHostileLogIsNoFalseAlarm(t *testing.T) {
	for n := range uint64(tier.N(200)) {
		seed := tier.Seed() + n
		mem := logtest.NewMemory(seed, logtest.Hostility{Shuffle: true, Refuse: 0.1, Unknown: 0.1, Late: 0.5, Gap: 0.1, NoSide: 0.3, Decoded: 0.2})
		w := &world{T: t, now: began, specs: fleetRoutes, log: eventlog.New(mem)}
		clock := func() int64 { w.now = w.now.Add(time.Millisecond); return w.now.UnixMilli() }
		var err error
		for range 100 {
			if w.meter, err = meter.Open(t.Context(), meter.Options{Log: w.log, Run: 1, Now: clock, Every: time.Hour}); err == nil {
				break
			}
		}
		if err == nil {
			for range 100 {
				if w.store, err = route.Open(t.Context(), route.Options{Log: w.log, Routes: w.specs, Now: clock, Meter: w.meter}); err == nil {
					break
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		accepted := 0
		for i := range 60 {
			w.now = w.now.Add(time.Second)
			var msgs []session.Message
			for _, v := range []string{"a", "b", "c", "d"} {
				msgs = append(msgs, telemetry(v, i+1, 1))
			}
			for _, r := range w.publish(msgs...) {
				if r.Err == nil {
					accepted++
				}
			}
		}
		flush := func() (err error) {
			for range 200 {
				if err = w.meter.Flush(t.Context()); err == nil {
					return nil
				}
			}
			return err
		}
		if err := flush(); err != nil {
			t.Fatal(err)
		}
		w.store.Close()
		r := w.verify(func(o *verify.Options, _ *verify.Request) {
			o.Embedded, o.Fields = false, nil
		})
		k := r.totals["telemetry"]
		if !r.Complete || k.Logged != uint64(accepted) || k.Found < k.Logged || k.Published != 240 || len(k.Failed) == 0 || k.Unknown == 0 {
			t.Fatalf("seed %d: %d accepted\n%s", seed, accepted, r)
		}
	}
}
