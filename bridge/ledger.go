package bridge

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// StateTopic is the name of the compacted log topic that says how far each bridge is.
const StateTopic = eventlog.InternalPrefix + "bridges"

// ledger writes the records of all bridges of a node, under one claim: whoever claims the topic after it fences it, so that two nodes
// on one log never run the same bridge.
type ledger struct {
	log  *eventlog.Log
	part eventlog.Part
	now  func() int64

	mu     sync.Mutex
	writer eventlog.Writer
	values map[string][]byte // by key, as they were found
}

// openLedger makes the topic if it is missing, claims it and reads it.
func openLedger(ctx context.Context, log *eventlog.Log, now func() int64) (*ledger, error) {
	t, err := log.Ensure(ctx, eventlog.TopicSpec{Name: StateTopic, Partitions: 1, Config: map[string]string{
		"cleanup.policy": "compact", "segment.bytes": strconv.Itoa(4 << 20), "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.3"}})
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", StateTopic, err)
	}
	l := &ledger{log: log, part: eventlog.Part{Topic: t.ID}, now: now, values: map[string][]byte{}}
	if l.writer, err = log.Claim(ctx, l.part); err != nil {
		return nil, fmt.Errorf("claim topic %q: %w", StateTopic, err)
	}
	if err := l.read(ctx); err != nil {
		return nil, fmt.Errorf("read topic %q: %w", StateTopic, err)
	}
	return l, nil
}

func (l *ledger) read(ctx context.Context) error {
	ends, err := l.log.Ends(ctx, l.part.Topic)
	if err != nil {
		return err
	}
	starts, err := l.log.Starts(ctx, l.part.Topic)
	if err != nil {
		return err
	}
	for at := starts[0]; at < ends[0]; {
		batches, next, err := l.log.Read(ctx, eventlog.Position{Part: l.part, Offset: at}, 256<<10)
		var low *eventlog.OutOfRangeError
		if errors.As(err, &low) && at < low.Start {
			at = low.Start
			continue
		}
		if err != nil {
			return err
		}
		for _, b := range batches {
			err := b.Each(func(r *eventlog.Record) error {
				if r.Value == nil {
					delete(l.values, string(r.Key))
				} else {
					l.values[string(r.Key)] = append([]byte(nil), r.Value...)
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("batch at %d: %w", b.Base(), err)
			}
		}
		if next <= at {
			return fmt.Errorf("nothing at %d, though the topic ends at %d", at, ends[0])
		}
		at = next
	}
	return nil
}

// save writes a record and waits until it is durable. Writing one twice is harmless. eventlog.ErrFenced: another node has taken over.
func (l *ledger) save(ctx context.Context, key, value []byte) error {
	l.mu.Lock()
	w := l.writer
	l.mu.Unlock()
	var bl eventlog.Builder
	bl.Stamped = true
	bl.Add(l.now(), key, value, nil)
	b, _, err := bl.Batch(l.part, eventlog.None)
	if err != nil {
		return fmt.Errorf("encode a record of %q: %w", StateTopic, err)
	}
	answer := make(chan eventlog.Outcome, 1)
	w.Append(b, func(o eventlog.Outcome) { answer <- o })
	var o eventlog.Outcome
	select {
	case o = <-answer:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err = o.At(0).Err; err == nil {
		return nil
	}
	if errors.Is(err, eventlog.ErrUnknownOutcome) {
		if e := l.reclaim(ctx, w); e != nil {
			err = e
		}
	}
	return fmt.Errorf("write to topic %q: %w", StateTopic, err)
}

// reclaim replaces a writer that is spent.
func (l *ledger) reclaim(ctx context.Context, spent eventlog.Writer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writer != spent {
		return nil // another bridge was quicker
	}
	w, err := l.log.Claim(ctx, l.part)
	if err == nil {
		l.writer = w
	}
	return err
}

// self is what this log is called in loop guards: made once, the same for ever.
func (l *ledger) self(ctx context.Context, random io.Reader) (string, error) {
	if v := l.values[string(selfKey())]; len(v) == 9 && v[0] == stateVersion {
		return hex.EncodeToString(v[1:]), nil
	}
	v := []byte{stateVersion, 0, 0, 0, 0, 0, 0, 0, 0}
	if _, err := io.ReadFull(random, v[1:]); err != nil {
		return "", fmt.Errorf("make a name for this log: %w", err)
	}
	return hex.EncodeToString(v[1:]), l.save(ctx, selfKey(), v)
}
