package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
)

var _ eventlog.Transactor = (*Driver)(nil)

// taken is a transactional id of a name of the caller's.
type taken struct{ txn txn }

// Take implements eventlog.Transactor: the next epoch of the name's transactional id, after whatever was open under it has been ended.
func (d *Driver) Take(ctx context.Context, name string) (eventlog.Taken, error) {
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	t := &taken{txn{d: d, id: eventlog.InternalPrefix + name}}
	if err := t.txn.init(ctx); err != nil {
		return nil, d.fail(err, "take %q", name)
	}
	return t, nil
}

// Settled implements eventlog.Transactor. It takes as long as what is open: at most the transaction timeout of whoever left it so.
func (d *Driver) Settled(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	ends, err := d.offsets(ctx, id, "ends", d.adm.ListEndOffsets)
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		stable, err := d.Ends(ctx, id)
		if err != nil {
			return nil, err
		}
		if reached(stable, ends) {
			return ends, nil
		}
		if err := d.pause(ctx, n); err != nil {
			return nil, fmt.Errorf("wait for open transactions in topic %v: %w", id, err)
		}
	}
}

// reached tells whether each of some offsets is at another, or beyond.
func reached(offsets, others []int64) bool {
	for i, o := range others {
		if i >= len(offsets) || offsets[i] < o {
			return false
		}
	}
	return true
}

// Commit implements eventlog.Taken.
func (t *taken) Commit(ctx context.Context, batches []*eventlog.Batch) ([]eventlog.Outcome, error) {
	d := t.txn.d
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	g := &group{outs: make([]eventlog.Outcome, len(batches))}
	for _, b := range batches {
		if err := whole(b); err != nil {
			return nil, err
		}
		g.jobs = append(g.jobs, &job{b: b, size: cost(b)})
	}
	shots, of, err := g.load()
	if err != nil {
		return nil, err
	}
	refused, err := t.txn.commit(ctx, shots)
	for _, why := range refused {
		err = why
	}
	switch {
	case err == nil:
		g.placed(of)
		return g.outs, nil
	case isDone(err) && !errors.Is(err, eventlog.ErrUnknownOutcome): // what is open ends with the next Take
		err = fmt.Errorf("%w: %w", eventlog.ErrFenced, err)
	}
	return nil, fmt.Errorf("commit under %q: %w", t.txn.id, err)
}
