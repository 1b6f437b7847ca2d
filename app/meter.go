package app

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/route"
)

// openMeter makes what counts messages for verify. It comes before all that it counts, and its last flush after.
func (n *Node) openMeter(ctx context.Context) (err error) {
	table, err := route.Compile(n.specs)
	if err != nil {
		return err
	}
	n.meter, err = meter.Open(ctx, meter.Options{Log: n.log, Run: rand.Uint64(), Now: n.now, Retention: n.longest(), Mapping: table.Mapping(),
		Logger: n.o.Logger.With("part", "meter")})
	return err
}

// longest is how long the records are kept that are kept longest; 0: as the log's default says.
func (n *Node) longest() (d time.Duration) {
	usual := time.Duration(n.o.Config.Log.Retention)
	for _, s := range n.specs {
		if s.Retention < 0 || usual < 0 {
			return -1
		}
		if s.Retention > usual {
			d = max(d, s.Retention)
		}
	}
	return d
}

// closeMeter writes that nothing is uncounted.
func (n *Node) closeMeter(ctx context.Context) error { return n.meter.Close(ctx) }

// startMeter begins to write counts. From here on it is known what is uncounted when the node is killed.
func (n *Node) startMeter(ctx context.Context) error {
	n.meter.Follow(meter.Sources{Deliveries: n.broker.Counts, Refused: func() map[string]int64 { return n.broker.Stats().Refused }})
	return n.meter.Start(ctx)
}
