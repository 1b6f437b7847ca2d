package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// errMoved says that a request was given up because another broker is to be asked by now. The one that was asked may have done it all
// the same.
var errMoved = errors.New("no answer, and another broker leads by now")

var errSlow = fmt.Errorf("no answer for %v: %w", askPatience, context.DeadlineExceeded)

const (
	askPatience = 2 * time.Second // after which a request that is not answered makes us look whether the broker is still the one to ask
	askAgain    = time.Second     // between such looks
)

// ask sends a request to one broker and waits for its answer. A broker that hangs holds the answer back for as long as the request may
// take, while the cluster has given it up long before: so after some patience the metadata is asked for, of the others, and once moved
// says that this broker is not the one any more, its answer is not waited for. slow is told when the patience has ended.
func (d *Driver) ask(ctx context.Context, cl *kgo.Client, node int32, req kmsg.Request, slow func(error), moved func() bool) (kmsg.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	look := time.AfterFunc(askPatience, func() {
		slow(errSlow)
		d.lookWhile(ctx, func() { cancel(errMoved) }, moved)
	})
	defer look.Stop()
	resp, err := cl.Broker(int(node)).Request(ctx, req)
	if err != nil && errors.Is(context.Cause(ctx), errMoved) {
		return nil, errMoved
	}
	return resp, err
}

// lookWhile refreshes the metadata until ctx ends, or moved says so.
func (d *Driver) lookWhile(ctx context.Context, give func(), moved func() bool) {
	for ctx.Err() == nil {
		if d.topics.refresh(ctx) == nil && moved() {
			give()
			return
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
		}
	}
}

// movedFrom says that a partition has a leader, and it is another broker.
func (d *Driver) movedFrom(node int32, t *topic, index int32) bool {
	if t == nil {
		return false
	}
	now := d.topics.cached(t.id).leader(index)
	return now >= 0 && now != node
}
