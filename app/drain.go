package app

import (
	"context"
	"errors"
	"time"

	"github.com/millrace-io/millrace/mqtt/broker"
)

// nothing is how a stage starts that is only about stopping.
func nothing(context.Context) error { return nil }

// StopTime is how long a clean stop may take before clients are cut off.
func (n *Node) StopTime() time.Duration { return time.Duration(n.o.Config.Drain.Timeout) }

// drain is the first thing that a node does when it stops: it is not ready any more, gives a load balancer the time to see that, and
// sends its clients away at a rate. What is not done in time the broker does at once when it is closed.
func (n *Node) drain(ctx context.Context) error {
	d := &n.o.Config.Drain
	ctx, cancel := n.forDrain(ctx)
	defer cancel()
	select {
	case <-time.After(time.Duration(d.Wait)):
	case <-ctx.Done():
	}
	clients := n.broker.Stats().Connections
	if clients > 0 {
		n.o.Logger.Info("sending clients away", "connections", clients, "to", string(d.Reference))
	}
	err := n.broker.Retire(ctx, string(d.Reference), n.drainRate(ctx, clients))
	if err != nil && !errors.Is(err, broker.ErrEvacuating) {
		n.o.Logger.Warn("not every client could be sent away in time: the rest is cut off", "err", err)
	}
	return nil
}

// forDrain is ctx without the last fifth of its time, in which the node has to stop.
func (n *Node) forDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	if end, is := ctx.Deadline(); is {
		return context.WithDeadline(ctx, end.Add(-time.Until(end)/5))
	}
	return context.WithCancel(ctx)
}

// drainRate is what the configuration says, or more if all clients are to be gone in time.
func (n *Node) drainRate(ctx context.Context, clients int64) int {
	rate := n.o.Config.Drain.Rate
	if end, is := ctx.Deadline(); is && rate > 0 {
		left := max(time.Until(end).Seconds()-1, 0.1)
		rate = max(rate, int(float64(clients)/left)+1)
	}
	return rate
}
