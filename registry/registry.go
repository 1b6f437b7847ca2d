// Package registry is a schema registry with Confluent's REST API: subjects, versions, ids, references, compatibility, modes; and checks
// payloads against what it holds.
//
// The log topic `_schemas`, compacted, in the record format that Confluent's registry has, is all of its state: a Registry replays it
// when it opens, follows it, and answers a change once that is durable and has come back through the tail. A writer claims the topic's
// partition before it decides, so that of several nodes on one cluster each decides on what the others have written. Ids are counted up
// in the order of the log.
//
// A Registry owns one goroutine, which follows the topic; a Server those of net/http. What clients can make grow is bounded (Options). It
// never fetches anything that a schema names.
package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/registry/schema"
)

// Topic is the log topic of all schemas.
const Topic = "_schemas"

// Options say how a Registry is built.
type Options struct {
	Log    *eventlog.Log
	Now    func() int64 // milliseconds since 1970; never goes back
	Logger *slog.Logger // default: discards

	// ReadOnly neither makes the topic nor writes to it: it may be another registry's.
	ReadOnly bool

	MaxSchemas int   // versions in all; default 100,000
	MaxBytes   int64 // of their texts; default 256 MiB
}

// Registry holds schemas. It is safe for concurrent use.
type Registry struct {
	o     Options
	topic eventlog.Topic
	part  eventlog.Part
	tail  eventlog.Tail

	state   atomic.Pointer[state] // once it is replayed it is never changed: another one takes its place
	mu      sync.Mutex            // of the next three
	applied int64                 // the next offset to apply
	moved   chan struct{}         // closed when applied has moved
	failed  error                 // the topic is gone: nothing can be written any more

	opened  bool          // the state is others', too
	skipped atomic.Uint64 // records of the topic that are none of a registry's

	writing chan struct{} // holds a token while somebody writes
	writer  eventlog.Writer

	parsing sync.Mutex
	parsed  map[*content]*schema.Schema

	quit chan struct{}
	work sync.WaitGroup
}

// Open makes the topic if it is missing, and replays it.
func Open(ctx context.Context, o Options) (*Registry, error) {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.MaxSchemas, o.MaxBytes = cmp.Or(o.MaxSchemas, 100_000), cmp.Or(o.MaxBytes, 256<<20)
	r := &Registry{o: o, moved: make(chan struct{}), writing: make(chan struct{}, 1), parsed: map[*content]*schema.Schema{},
		quit: make(chan struct{})}
	r.state.Store(newState())
	if err := r.openTopic(ctx); err != nil {
		return nil, fmt.Errorf("topic %q: %w", Topic, err)
	}
	r.part = eventlog.Part{Topic: r.topic.ID}
	starts, err := o.Log.Starts(ctx, r.topic.ID)
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", Topic, err)
	}
	r.applied = starts[0]
	if r.tail, err = o.Log.Tail(eventlog.Vector{r.part: starts[0]}); err != nil {
		return nil, fmt.Errorf("tail topic %q: %w", Topic, err)
	}
	if err := r.replay(ctx); err != nil {
		r.tail.Close()
		return nil, fmt.Errorf("replay topic %q: %w", Topic, err)
	}
	r.opened = true
	r.work.Go(r.follow)
	return r, nil
}

// replay applies everything that is in the topic now.
func (r *Registry) replay(ctx context.Context) error {
	ends, err := r.o.Log.Ends(ctx, r.topic.ID)
	if err != nil {
		return err
	}
	var events []eventlog.Event
	for r.applied < ends[0] && r.failed == nil {
		if events, err = r.tail.Poll(events[:0], 1<<20); err != nil {
			return err
		}
		for i := range events {
			r.event(&events[i])
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-r.tail.Wake():
		case <-ctx.Done():
			return fmt.Errorf("at offset %d of %d: %w", r.applied, ends[0], ctx.Err())
		}
	}
	return r.failed
}

func (r *Registry) openTopic(ctx context.Context) (err error) {
	if r.o.ReadOnly {
		r.topic, err = r.o.Log.Topic(ctx, Topic)
		return err
	}
	// A schema is JSON in the record's JSON: with its quotes escaped it is twice as long.
	spec := eventlog.TopicSpec{Name: Topic, Partitions: 1, Config: map[string]string{"cleanup.policy": "compact", "max.message.bytes": strconv.Itoa(3 * schema.MaxText)}}
	if r.topic, err = r.o.Log.Ensure(ctx, spec); err != nil {
		return err
	}
	switch policy := r.topic.Config["cleanup.policy"]; {
	case r.topic.Partitions != 1:
		return fmt.Errorf("it has %d partitions, and a registry needs one: delete it, or give this node another log", r.topic.Partitions)
	case policy != "" && policy != "compact":
		return fmt.Errorf("its cleanup.policy is %s, which forgets schemas: set it to compact", policy)
	}
	return nil
}

// Close stops following the topic. The log stays open.
func (r *Registry) Close() {
	select {
	case <-r.quit:
		return
	default:
	}
	close(r.quit)
	r.tail.Poke()
	r.work.Wait()
	r.tail.Close()
}

// follow applies what the tail brings.
func (r *Registry) follow() {
	var events []eventlog.Event
	for {
		select {
		case <-r.tail.Wake():
		case <-r.quit:
			return
		}
		for more := true; more; {
			var err error
			events, err = r.tail.Poll(events[:0], 1<<20)
			more = len(events) > 0
			for i := range events {
				r.event(&events[i])
			}
			clear(events)
			if errors.Is(err, eventlog.ErrClosed) {
				r.fail(err)
				return
			}
			if err != nil {
				r.o.Logger.Warn("schemas cannot be read at present", "topic", Topic, "err", err)
				more = false
			}
		}
	}
}

func (r *Registry) event(ev *eventlog.Event) {
	switch ev.Kind {
	case eventlog.Deleted, eventlog.Recreated:
		r.o.Logger.Error("the topic of the schemas was deleted: what was read of it is served still, and nothing can be registered until the node starts again", "topic", Topic)
		r.fail(fmt.Errorf("topic %q: %w: it was deleted; start the node again", Topic, eventlog.ErrUnknownTopic))
		return
	case eventlog.Gap:
		r.o.Logger.Error("schemas are gone from their topic", "topic", Topic, "before", ev.Next)
	}
	if ev.Batch != nil {
		r.apply(ev.Batch)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = max(r.applied, ev.Next)
	close(r.moved)
	r.moved = make(chan struct{})
}

// apply takes a batch over. Whoever has the state as it was keeps that.
func (r *Registry) apply(b *eventlog.Batch) {
	st, from := r.state.Load(), r.applied
	if r.opened {
		st = st.clone()
	}
	err := b.Each(func(rec *eventlog.Record) error {
		if rec.Offset < from {
			return nil
		}
		if err := st.apply(rec.Key, rec.Value); err != nil {
			r.skipped.Add(1)
			r.o.Logger.Warn("a record is no registry's, and is passed over", "topic", Topic, "offset", rec.Offset, "err", err)
		}
		return nil
	})
	if err != nil {
		r.skipped.Add(1)
		r.o.Logger.Warn("a batch that cannot be decoded is passed over", "topic", Topic, "offset", b.Base(), "err", err)
	}
	r.state.Store(st)
}

func (r *Registry) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
		close(r.moved)
		r.moved = make(chan struct{})
	}
}

// catchUp waits until everything that is in the topic now is applied.
func (r *Registry) catchUp(ctx context.Context) error {
	ends, err := r.o.Log.Ends(ctx, r.topic.ID)
	if err != nil {
		return err
	}
	return r.reach(ctx, ends[0])
}

// reach waits until everything below an offset is applied.
func (r *Registry) reach(ctx context.Context, next int64) error {
	for {
		r.mu.Lock()
		applied, moved, failed := r.applied, r.moved, r.failed
		r.mu.Unlock()
		switch {
		case applied >= next:
			return nil
		case failed != nil:
			return failed
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for offset %d, at %d: %w", next, applied, ctx.Err())
		}
	}
}

// change writes what decide makes of the state, and returns when it is applied. decide sees everything that is written already, and nothing
// comes in between but what a Kafka client writes to the topic; it is called again if another node has written meanwhile. No records:
// there is nothing to write.
func (r *Registry) change(ctx context.Context, decide func(*state) ([]record, error)) error {
	if r.o.ReadOnly {
		return &Error{Code: codeNotPermitted, Text: "the registry is read-only here"}
	}
	select {
	case r.writing <- struct{}{}:
		defer func() { <-r.writing }()
	case <-ctx.Done():
		return storeError(ctx.Err())
	}
	var err error
	for range 5 {
		if err = r.tryChange(ctx, decide); err == nil || !errors.Is(err, eventlog.ErrFenced) && !errors.Is(err, eventlog.ErrUnknownOutcome) || ctx.Err() != nil {
			break
		}
		r.writer = nil // a new claim settles what became of the records
	}
	var told *Error
	if err == nil || errors.As(err, &told) {
		return err
	}
	return storeError(err)
}

func (r *Registry) tryChange(ctx context.Context, decide func(*state) ([]record, error)) (err error) {
	if r.writer == nil {
		if r.writer, err = r.o.Log.Claim(ctx, r.part); err != nil {
			r.writer = nil
			return fmt.Errorf("claim topic %q: %w", Topic, err)
		}
	}
	if err := r.catchUp(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	failed := r.failed
	r.mu.Unlock()
	if failed != nil {
		return failed
	}
	recs, err := decide(r.state.Load())
	if err != nil || len(recs) == 0 {
		return err
	}
	var b eventlog.Builder
	for i := range recs {
		b.Add(r.o.Now(), recs[i].key, recs[i].value, nil)
	}
	batch, _, err := b.Batch(r.part, eventlog.None)
	if err != nil {
		return fmt.Errorf("encode records: %w", err)
	}
	answer := make(chan eventlog.Outcome, 1)
	r.writer.Append(batch, func(o eventlog.Outcome) { answer <- o })
	select {
	case o := <-answer:
		last := int64(-1)
		for i := range recs {
			at := o.At(i)
			if at.Err != nil {
				return fmt.Errorf("append to topic %q: %w", Topic, at.Err)
			}
			last = at.Offset
		}
		return r.reach(ctx, last+1)
	case <-ctx.Done():
		r.writer = nil
		return fmt.Errorf("%w: %w", eventlog.ErrUnknownOutcome, ctx.Err())
	}
}

// read looks at the state as it is now.
func (r *Registry) read(f func(*state) error) error { return f(r.state.Load()) }

// Stats is a snapshot of what there is.
type Stats struct {
	Subjects, Versions int
	Bytes              int64
	Skipped            uint64 // records of the topic that are none of a registry's
}

// Stats returns the counters.
func (r *Registry) Stats() Stats {
	st := r.state.Load()
	return Stats{Subjects: len(st.subjects), Versions: st.versions, Bytes: st.bytes, Skipped: r.skipped.Load()}
}
