package eventlog

import (
	"context"
	"errors"
	"fmt"
)

// Log is what the program holds: a Driver and what every user of one needs on top. It is safe for concurrent use.
type Log struct {
	Driver
}

// New returns the log over a driver. It owns the driver: Close closes it.
func New(d Driver) *Log { return &Log{Driver: d} }

// Topic finds a topic by name; ErrUnknownTopic if there is none.
func (l *Log) Topic(ctx context.Context, name string) (Topic, error) {
	all, err := l.Topics(ctx)
	if err != nil {
		return Topic{}, err
	}
	for _, t := range all {
		if t.Name == name {
			return t, nil
		}
	}
	return Topic{}, fmt.Errorf("topic %q: %w", name, ErrUnknownTopic)
}

// Ensure returns the topic of a spec, made if it is not there. One that is there is returned as it is, never altered: the
// caller compares what it cares about.
func (l *Log) Ensure(ctx context.Context, spec TopicSpec) (Topic, error) {
	if t, err := l.Topic(ctx, spec.Name); !errors.Is(err, ErrUnknownTopic) {
		return t, err
	}
	t, err := l.CreateTopic(ctx, spec)
	if err != nil && !errors.Is(err, ErrTopicExists) {
		return Topic{}, fmt.Errorf("create topic %q: %w", spec.Name, err)
	}
	return t, nil
}

// AppendWait appends and waits for the outcome, or for ctx; then the outcome is unknown.
func (l *Log) AppendWait(ctx context.Context, b *Batch) (Outcome, error) {
	c := make(chan Outcome, 1)
	l.Append(b, func(o Outcome) { c <- o })
	select {
	case o := <-c:
		return o, o.Err
	case <-ctx.Done():
		return Outcome{Err: ErrUnknownOutcome}, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
}

// EndsOf returns the ends of several topics as one vector.
func (l *Log) EndsOf(ctx context.Context, topics ...Topic) (Vector, error) {
	return l.vector(ctx, l.Ends, topics)
}

// StartsOf several topics as one vector.
func (l *Log) StartsOf(ctx context.Context, topics ...Topic) (Vector, error) {
	return l.vector(ctx, l.Starts, topics)
}

func (l *Log) vector(ctx context.Context, f func(context.Context, TopicID) ([]int64, error), topics []Topic) (Vector, error) {
	v := Vector{}
	for _, t := range topics {
		offs, err := f(ctx, t.ID)
		if err != nil {
			return nil, fmt.Errorf("topic %q: %w", t.Name, err)
		}
		for i, o := range offs {
			v[Part{t.ID, int32(i)}] = o
		}
	}
	return v, nil
}
