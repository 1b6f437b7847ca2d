// Package spill keeps messages on the local disk until a Kafka cluster has them: with `spill: true` on a route an acknowledgement means a
// local fsync, and not that any broker has the message. It is for publishers that must not wait while the cluster is away.
//
// The local log is an eventlog of its own, with one topic per spilled topic of the cluster, of as many partitions. A drainer per topic moves
// what is there into the cluster, in the order of each local partition, exactly once: every step is one Kafka transaction that appends some
// batches and writes, to the compacted topic __millrace_spill, up to which local offset they go. What a crash leaves:
//
//   - Before the local fsync: nothing was acknowledged.
//   - After it, before the step's transaction is committed: the next drainer takes over the transactional id, which aborts what is open, reads
//     the position, once nothing that another drainer has open can hide it, and drains the same again. Readers of the cluster that read committed records never saw the first try.
//   - After the commit was asked for, before its answer: taking over the id waits until the commit is whole or was never made, and the
//     position tells which. A broker that dies is the same, and so is a transaction that lasted longer than the cluster allows.
//   - After the commit, before the local log is trimmed: the position says that it is drained.
//   - A local log that is behind the position (its disk was put back, or lost what it had) starts a new life: what its other partitions have
//     waiting is drained, then its topic is made again, under another id, and positions are kept by that id, so nothing new is taken for drained.
//
// It is bounded in bytes and in age. When it is full, either new messages are refused, or the oldest are given up, as the Policy
// says; both are counted. A Spill owns a goroutine per spilled topic and one that looks after the bounds; Close ends them. It never reorders, and
// never lets a message past one of the same partition that waits: as long as a route is spilled, all of its messages come this way, and when it is
// no more the next Open drains what is left before it returns.
package spill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// PositionsTopic is the cluster's compacted topic, of one partition, that says how far each local partition is drained:
//
//	<id of the local topic>/<partition> → the local offset of the next record to drain
const PositionsTopic = eventlog.InternalPrefix + "spill"

// localPrefix begins the names of the local log's topics; the cluster's topic follows.
const localPrefix = eventlog.InternalPrefix + "spill."

// Policy says what happens when the spill is full.
type Policy string

// The policies.
const (
	Reject    Policy = "reject"    // new messages are refused
	Overwrite Policy = "overwrite" // the oldest are given up
)

// ErrFull says that a message was refused because the spill is full.
var ErrFull = errors.New("the spill is full")

// ErrUnreadable says that something which waits cannot be read back: the local disk is damaged. Its partition waits for somebody to mend that, the others go on.
var ErrUnreadable = errors.New("the local disk does not give back what waits there")

// Options say how a Spill is built.
type Options struct {
	Local   *eventlog.Log // its own; Close closes it
	Cluster *eventlog.Log // whose driver is an eventlog.Transactor
	Now     func() int64  // milliseconds since 1970

	Bytes  int64         // what may wait, in bytes of batches; 1 GiB
	Age    time.Duration // how old what waits may be; 0: as old as it is
	Policy Policy        // Reject
	Logger *slog.Logger
	Every  time.Duration // how often the bounds are looked at, and drained space is given back; 1 s

	Hooks
}

// Hooks are what the routes say and hear.
type Hooks struct {
	// Partition is where in a topic of so many partitions a key belongs. Required.
	Partition func(key []byte, partitions int32) int32
	// Drained, if there is one, is told of batches that are in the cluster now; next is the cluster's offset after each.
	Drained func(topic string, b *eventlog.Batch, next int64)
	// GivenUp, if there is one, is told of batches that never will be.
	GivenUp func(topic string, b *eventlog.Batch, reason string)
}

// The reasons for which messages are given up.
const (
	OverBytes = "spill_over_bytes"
	OverAge   = "spill_over_age"
)

// Spill is the local log in front of a cluster. It is safe for concurrent use.
type Spill struct {
	o         Options
	positions eventlog.Part
	topics    []*topic // fixed once Start has run
	byName    map[string]*topic
	byID      map[eventlog.TopicID]*topic
	full      atomic.Bool
	bytes     atomic.Int64 // that wait

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	drained  atomic.Uint64 // records
	overBy   [2]atomic.Uint64
	rejected atomic.Uint64
}

// Open opens the spill of some topics of the cluster, which are there. Of topics that are spilled no more it drains what waits before it returns:
// what is published then must not overtake it. That may take long, and ends with ctx. It fails as soon as a topic cannot be drained: the cluster has it no
// more, or a local partition cannot be read. What the others have waiting is drained by an Open that finds this mended, as far as it is not by then.
func Open(ctx context.Context, o Options, names []string) (*Spill, error) {
	if o.Bytes == 0 {
		o.Bytes = 1 << 30
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Policy == "" {
		o.Policy = Reject
	}
	if _, ok := o.Cluster.Driver.(eventlog.Transactor); !ok {
		return nil, fmt.Errorf("spill: %w: this log has no transactions to drain by", eventlog.ErrNotSupported)
	}
	s := &Spill{o: o, byName: map[string]*topic{}, byID: map[eventlog.TopicID]*topic{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	t, err := o.Cluster.Ensure(ctx, eventlog.TopicSpec{Name: PositionsTopic, Partitions: 1, Config: map[string]string{"cleanup.policy": "compact"}})
	if err != nil {
		return nil, fmt.Errorf("spill: %w", err)
	}
	if !strings.Contains(t.Config["cleanup.policy"], "compact") || t.Partitions != 1 {
		return nil, fmt.Errorf("spill: %w: topic %q has %d partitions and cleanup.policy=%q, want 1 and compact", eventlog.ErrInvalid, t.Name, t.Partitions, t.Config["cleanup.policy"])
	}
	s.positions = eventlog.Part{Topic: t.ID}
	for _, name := range names {
		if err := s.open(ctx, name); err != nil {
			return nil, fmt.Errorf("spill of topic %q: %w", name, err)
		}
	}
	if err := s.drainLeft(ctx); err != nil {
		s.cancel()
		s.running.Wait()
		return nil, fmt.Errorf("spill: %w", err)
	}
	for _, t := range s.topics {
		s.running.Go(func() { t.drain(s.ctx) })
	}
	s.running.Go(s.watch)
	return s, nil
}

// open opens the local topic of one of the cluster's.
func (s *Spill) open(ctx context.Context, name string) error {
	to, err := s.o.Cluster.Topic(ctx, name)
	if err != nil {
		return err
	}
	spec := eventlog.TopicSpec{Name: localPrefix + name, Partitions: to.Partitions, Config: map[string]string{
		"retention.ms": "-1", "retention.bytes": "-1", "segment.bytes": strconv.Itoa(16 << 20), "message.timestamp.after.max.ms": strconv.FormatInt(1<<62, 10)}}
	if size := to.Config["max.message.bytes"]; size != "" {
		spec.Config["max.message.bytes"] = size
	}
	local, err := s.o.Local.Ensure(ctx, spec)
	if err != nil {
		return err
	}
	t := newTopic(s, name, to, local)
	behind, err := t.load(ctx)
	if err == nil && behind {
		if err = t.empty(ctx, "in a local log that must begin anew, as it is behind what was drained of it"); err != nil {
			return err
		}
		if err = s.o.Local.DeleteTopic(ctx, local.Name); err != nil {
			return err
		}
		if local, err = s.o.Local.Ensure(ctx, spec); err != nil {
			return err
		}
		t = newTopic(s, name, to, local)
		_, err = t.load(ctx)
	}
	if err != nil {
		return err
	}
	s.topics = append(s.topics, t)
	s.byName[name], s.byID[local.ID] = t, t
	return nil
}

// drainLeft drains topics that were spilled once, and removes them here.
func (s *Spill) drainLeft(ctx context.Context) error {
	all, err := s.o.Local.Topics(ctx)
	if err != nil {
		return err
	}
	for _, local := range all {
		name, ours := strings.CutPrefix(local.Name, localPrefix)
		if !ours || s.byName[name] != nil {
			continue
		}
		t := newTopic(s, name, eventlog.Topic{}, local)
		if _, err := t.load(ctx); err != nil {
			return fmt.Errorf("topic %q: %w", name, err)
		}
		if err := t.empty(ctx, "though no route that leads to it has spill: true any more"); err != nil {
			return err
		}
		if err := s.o.Local.DeleteTopic(ctx, local.Name); err != nil {
			return fmt.Errorf("topic %q: %w", local.Name, err)
		}
	}
	return nil
}

// Topic is the local topic in front of a topic of the cluster.
func (s *Spill) Topic(name string) eventlog.Topic { return s.byName[name].local }

// Full says that nothing more is taken at present.
func (s *Spill) Full() bool { return s.full.Load() }

// Reject counts a message that was refused because the spill is full.
func (s *Spill) Reject() { s.rejected.Add(1) }

// Append takes a batch for a local partition, as eventlog.Driver's does.
func (s *Spill) Append(b *eventlog.Batch, done func(eventlog.Outcome)) {
	t, size, n := s.byID[b.Part.Topic], int64(len(b.Raw())), b.Len()
	part := b.Part.Index
	s.o.Local.Append(b, func(o eventlog.Outcome) {
		if o.Err == nil {
			t.took(part, o.Base+int64(n), size)
			if s.bytes.Load() > s.o.Bytes && s.o.Policy == Reject {
				s.full.Store(true)
			}
		}
		done(o)
	})
}

// Room is the local log's.
func (s *Spill) Room(p eventlog.Part) <-chan struct{} { return s.o.Local.Room(p) }

// Stats is a snapshot.
type Stats struct {
	Messages uint64        // that wait for the cluster
	Bytes    int64         // of their batches
	Age      time.Duration // of the oldest
	Full     bool          // and so new ones are refused
	Drained  uint64        // messages moved to the cluster since Open
	Rejected uint64        // refused since Open
	GivenUp  map[string]uint64
	Err      error // why draining does not get on, if it does not
}

// Stats returns it.
func (s *Spill) Stats() Stats {
	st := Stats{Full: s.full.Load(), Drained: s.drained.Load(), Rejected: s.rejected.Load(),
		GivenUp: map[string]uint64{OverBytes: s.overBy[0].Load(), OverAge: s.overBy[1].Load()}}
	for _, t := range s.topics {
		w := t.waiting()
		st.Messages += w.Messages
		st.Bytes += w.Bytes
		st.Age = max(st.Age, w.Age)
		if w.Err != nil {
			st.Err = w.Err
		}
	}
	return st
}

// watch keeps the bounds, and gives back the space of what is drained.
func (s *Spill) watch() {
	tick := time.NewTicker(s.o.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		for _, t := range s.topics {
			if err := t.trim(s.ctx); err != nil && s.ctx.Err() == nil {
				s.o.Logger.Warn("drained messages stay on the local disk", "topic", t.name, "err", err)
			}
		}
		if err := s.bound(); err != nil && s.ctx.Err() == nil {
			s.o.Logger.Error("the spill's bounds are not kept", "err", err)
		}
	}
}

// bound refuses, or gives up, what is too much.
func (s *Spill) bound() error {
	st := s.Stats()
	over := st.Bytes > s.o.Bytes || s.o.Age > 0 && st.Age > s.o.Age
	if s.o.Policy == Reject {
		if was := s.full.Swap(over); over != was {
			s.o.Logger.Warn("the spill takes messages, or not", "full", over, "bytes", st.Bytes, "age", st.Age.Round(time.Second).String())
		}
		return nil
	}
	for over && s.ctx.Err() == nil {
		reason := OverBytes
		if st.Bytes <= s.o.Bytes {
			reason = OverAge
		}
		t := s.oldest()
		if t == nil {
			return nil
		}
		n, err := t.giveUp(s.ctx, reason)
		if err != nil || n == 0 {
			return err
		}
		if reason == OverBytes {
			s.overBy[0].Add(uint64(n))
		} else {
			s.overBy[1].Add(uint64(n))
		}
		st = s.Stats()
		over = st.Bytes > s.o.Bytes || s.o.Age > 0 && st.Age > s.o.Age
	}
	return nil
}

// oldest is the topic with the oldest message that waits and may be given up.
func (s *Spill) oldest() (of *topic) {
	most := time.Duration(-1)
	for _, t := range s.topics {
		if age, ok := t.oldestLoose(); ok && age > most {
			of, most = t, age
		}
	}
	return of
}

// Close stops draining and closes the local log. What waits is drained by the next Open.
func (s *Spill) Close() error {
	s.cancel()
	s.running.Wait()
	return s.o.Local.Close()
}
