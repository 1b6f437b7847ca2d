package verify_test

import (
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/verify"
)

// Routes are added, as everybody does after the first try: what came before lies where it led then, counted or not, and nothing is wrong
// with that. What the routes of its own time would have put elsewhere is.
func TestRoutesThatChange(t *testing.T) {
	first := func(t *testing.T) *world {
		w := newWorld(t)
		w.stop()
		w.specs = nil
		w.open()
		w.drive(1, 20)
		w.flush()
		w.drive(21, 23) // not counted, if the node is killed now
		return w
	}
	t.Run("then a clean stop", func(t *testing.T) {
		w := first(t)
		w.stop()
		w.specs = fleetRoutes
		w.want(w.atRest(), true, verify.Rerouted)
	})
	t.Run("then a kill", func(t *testing.T) {
		w := first(t)
		w.kill()
		w.specs = fleetRoutes
		w.open()
		w.drive(24, 30)
		w.stop()
		r := w.atRest()
		w.want(r, true, verify.Rerouted, verify.Killed)
		if f := r.find(verify.Rerouted); f != nil && (f.Count != 23*3 || f.Topic != route.CatchAllTopic || f.Severity != verify.Note) {
			t.Errorf("%+v", f)
		}
	})
	for _, end := range []func(*world){(*world).stop, (*world).kill} {
		t.Run("but a record lies where none has led", func(t *testing.T) {
			w := newWorld(t)
			w.stop()
			w.specs = nil
			w.open()
			w.publish(session.Message{Topic: "depot/door", Client: "door", QoS: 1, Payload: []byte("open")})
			w.stop()
			w.specs = fleetRoutes
			w.open()
			w.drive(1, 120)
			end(w)
			tamper(t, w.fs, "truck-1", func(bs [][]eventlog.Record) [][]eventlog.Record {
				i, j := of(t, bs, "truck-1", 7)
				bs[i][j].Headers = append([]eventlog.Header{}, bs[i][j].Headers...)
				bs[i][j].Headers[0].Value = []byte("fleet/truck-9/telemetry")
				return bs
			})
			r := w.atRest()
			if f := r.find(verify.Misplaced); f == nil || f.Severity != verify.Wrong || f.Topic != "telemetry" || r.Complete {
				t.Errorf("%s", r)
			}
		})
	}
}
