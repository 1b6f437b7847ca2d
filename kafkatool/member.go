package kafkatool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/kafka"
)

// Membership says what to read as a member of a consumer group.
type Membership struct {
	Group        string
	Topics       []string // one that begins with ^ is an expression
	Instance     string   // static membership; "": none
	ServerSide   bool     // the server assigns (KIP-848), where it can
	FromEarliest bool     // where to begin in partitions of which the group has committed nothing; else at their ends
	Count        int64    // of records; 0: without end
	ToEnd        bool     // end when the ends of all partitions that this member has are reached
	Uncommitted  bool     // also what transactions have not committed

	Emit func(Record) error               // takes a record, which is its own
	Idle func() error                     // nothing more is at hand: what was taken should be seen. Then it is committed
	Note func(format string, args ...any) // says what somebody should know, past the records
}

const (
	pollRecords = 1000
	pollWait    = 500 * time.Millisecond
	// quiet is how long nothing must have come before a partition is looked at from beside: what is left may be of aborted
	// transactions, of which no record tells.
	quiet = time.Second
)

// member runs a Membership.
type member struct {
	c  *Cluster
	cl *kgo.Client
	m  Membership

	done     map[string]map[int32]kgo.EpochOffset // emitted, and not committed
	at       map[string]map[int32]int64           // where reading goes on, as far as it is known
	assigned map[string]map[int32]bool
	emitted  int64
	last     time.Time // when something came, or what it has changed
}

// ConsumeGroup reads as a member of a group until there is nothing more to read, or ctx ends, which is no error. What was emitted
// and seen is committed, nothing else: who crashes reads a little again. The group is left in good order.
func (c *Cluster) ConsumeGroup(ctx context.Context, m Membership) error {
	r := &member{c: c, m: m, done: map[string]map[int32]kgo.EpochOffset{}, at: map[string]map[int32]int64{}, assigned: map[string]map[int32]bool{}, last: time.Now()}
	var speaking sync.Mutex // rebalances are told from the client's goroutine
	r.m.Note = func(format string, args ...any) {
		speaking.Lock()
		defer speaking.Unlock()
		m.Note(format, args...)
	}
	opts, err := r.options(ctx)
	if err != nil {
		return err
	}
	if r.cl, err = kafka.NewClient(c.o, opts...); err != nil {
		return err
	}
	defer r.cl.CloseAllowingRebalance()
	r.m.Note("Waiting for group rebalance")
	err = r.run(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return nil
	}
	return tidy(err)
}

func (r *member) options(ctx context.Context) ([]kgo.Opt, error) {
	var topics []string
	regex := slices.ContainsFunc(r.m.Topics, func(t string) bool { return strings.HasPrefix(t, "^") })
	for _, t := range r.m.Topics {
		switch {
		case strings.HasPrefix(t, "^"):
			if _, err := regexp.Compile(t); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrAsked, err)
			}
		default:
			if _, err := r.c.topic(ctx, t); err != nil {
				return nil, err
			}
			if regex {
				t = "^" + regexp.QuoteMeta(t) + "$"
			}
		}
		topics = append(topics, t)
	}
	begin := kgo.NewOffset().AtEnd()
	if r.m.FromEarliest {
		begin = kgo.NewOffset().AtStart()
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(r.m.Group), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(begin), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(partitionBytes), kgo.KeepControlRecords(), kgo.WithDecompressor(bounded{}),
		kgo.OnPartitionsAssigned(func(_ context.Context, cl *kgo.Client, parts map[string][]int32) {
			r.rebalanced(cl, "assigned", parts, true)
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, cl *kgo.Client, parts map[string][]int32) {
			r.rebalanced(cl, "revoked", parts, false)
		}),
		kgo.OnPartitionsLost(func(_ context.Context, cl *kgo.Client, parts map[string][]int32) {
			r.rebalanced(cl, "lost", parts, false)
		}),
	}
	if regex {
		opts = append(opts, kgo.ConsumeRegex())
	}
	if r.m.Instance != "" {
		opts = append(opts, kgo.InstanceID(r.m.Instance))
	}
	if r.m.ServerSide {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	if !r.m.Uncommitted {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return opts, nil
}

// bounded unpacks batches, and refuses one that would be more than a batch may be.
type bounded struct{}

func (bounded) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	if codec == kgo.CodecNone {
		return src, nil
	}
	return eventlog.Decompress(eventlog.Codec(codec), src, eventlog.MaxDecompressed)
}

// rebalanced notes what this member has. The client calls it only between two polls: everything emitted is committed by then.
func (r *member) rebalanced(cl *kgo.Client, what string, parts map[string][]int32, has bool) {
	var list []string
	for _, t := range slices.Sorted(maps.Keys(parts)) {
		for _, p := range parts[t] {
			list = append(list, fmt.Sprintf("%s [%d]", t, p))
			if r.assigned[t] == nil {
				r.assigned[t], r.at[t] = map[int32]bool{}, map[int32]int64{}
			}
			delete(r.at[t], p)
			if r.assigned[t][p] = true; !has {
				delete(r.assigned[t], p)
			}
		}
	}
	if len(list) > 0 || has {
		id, _ := cl.GroupMetadata()
		r.m.Note("Group %s rebalanced (memberid %s): %s: %s", r.m.Group, id, what, strings.Join(list, ", "))
	}
	r.last = time.Now()
}

func (r *member) run(ctx context.Context) error {
	for ctx.Err() == nil {
		poll, cancel := context.WithTimeout(ctx, pollWait)
		fs := r.cl.PollRecords(poll, pollRecords)
		cancel()
		full, err := r.emit(fs)
		if err == nil {
			err = r.commit()
		}
		if err == nil && !full && r.m.ToEnd && fs.NumRecords() == 0 {
			if full, err = r.atEnd(ctx); err != nil && passing(err) && ctx.Err() == nil {
				err = nil // the member's own reading goes on, or fails for good
			}
		}
		r.cl.AllowRebalance()
		if err != nil || full {
			return err
		}
	}
	return nil
}

// emit hands records on. full: there are as many as were wanted.
func (r *member) emit(fs kgo.Fetches) (full bool, err error) {
	for _, e := range fs.Errors() {
		if !errors.Is(e.Err, context.DeadlineExceeded) && !errors.Is(e.Err, context.Canceled) && !passing(e.Err) {
			return false, fmt.Errorf("%q [%d]: %w", e.Topic, e.Partition, e.Err)
		}
	}
	for it := fs.RecordIter(); !it.Done() && !full; {
		k := it.Next()
		if !k.Attrs.IsControl() {
			if err := r.m.Emit(Record{k, -1}); err != nil {
				return false, err
			}
			r.emitted++
			full = r.emitted == r.m.Count
		}
		if r.done[k.Topic] == nil {
			r.done[k.Topic] = map[int32]kgo.EpochOffset{}
		}
		r.done[k.Topic][k.Partition] = kgo.EpochOffset{Epoch: k.LeaderEpoch, Offset: k.Offset + 1}
		if r.at[k.Topic] == nil {
			r.at[k.Topic] = map[int32]int64{}
		}
		r.at[k.Topic][k.Partition] = k.Offset + 1
		r.last = time.Now()
	}
	return full, nil
}

// commit commits what was emitted, once it is seen. It is done even when ctx ends: the records are out.
func (r *member) commit() error {
	if len(r.done) == 0 {
		return nil
	}
	if err := r.m.Idle(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.c.patience)
	defer cancel()
	var failed error
	r.cl.CommitOffsetsSync(ctx, r.done, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		failed = committedAll(resp, err)
	})
	clear(r.done)
	if failed != nil && !rebalancing(failed) {
		return fmt.Errorf("commit in group %q: %w", r.m.Group, failed)
	}
	if failed != nil {
		r.m.Note("the group took partitions away before their offsets were committed: others will read some records again")
	}
	return nil
}

func committedAll(resp *kmsg.OffsetCommitResponse, err error) error {
	if err != nil || resp == nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("%q [%d]: %w", t.Topic, p.Partition, err)
			}
		}
	}
	return nil
}

// rebalancing tells an error that only says that the group moved on.
func rebalancing(err error) bool {
	return slices.ContainsFunc([]error{kerr.RebalanceInProgress, kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.StaleMemberEpoch, kerr.FencedMemberEpoch},
		func(e error) bool { return errors.Is(err, e) })
}

// atEnd tells whether all that this member has is read.
func (r *member) atEnd(ctx context.Context) (bool, error) {
	var topics []string
	for t, ps := range r.assigned {
		if len(ps) > 0 {
			topics = append(topics, t)
		}
	}
	if len(topics) == 0 {
		return false, nil
	}
	all, err := r.c.spans(ctx, !r.m.Uncommitted, topics...)
	if err != nil {
		return false, err
	}
	committed, err := r.c.adm.FetchOffsets(ctx, r.m.Group)
	if err != nil {
		return false, fmt.Errorf("ask for the offsets of group %q: %w", r.m.Group, tidy(err))
	}
	for _, t := range topics {
		for p := range r.assigned[t] {
			at, known := r.place(committed, t, p, all[t][p])
			if !known || at >= all[t][p].end {
				continue
			}
			if time.Since(r.last) < quiet {
				return false, nil
			}
			if empty, err := r.empty(ctx, t, p, at); err != nil || !empty {
				return false, err
			}
		}
	}
	for _, t := range slices.Sorted(slices.Values(topics)) {
		for _, p := range slices.Sorted(maps.Keys(r.assigned[t])) {
			r.m.Note("Reached end of topic %s [%d] at offset %d", t, p, all[t][p].end)
		}
	}
	return true, nil
}

// empty tells whether a partition has no records from an offset on, though it goes on.
func (r *member) empty(ctx context.Context, topic string, partition int32, from int64) (bool, error) {
	d, err := r.c.topic(ctx, topic)
	if err != nil {
		return false, err
	}
	h := how{bytes: fetchBytes, partBytes: partitionBytes, uncommitted: r.m.Uncommitted}
	cu := &cursor{topic: topic, id: d.ID, partition: partition, next: from}
	for {
		resp, err := r.c.fetch(ctx, d.Partitions[partition].Leader, []*cursor{cu}, h)
		if err != nil {
			return false, err
		}
		g := cu.take(resp, h)
		if g.err != nil || len(g.records) > 0 || g.next <= cu.next {
			return false, nil //nolint:nilerr // the member will read it, or hear of it
		}
		if cu.next = g.next; g.next >= g.end {
			return true, nil
		}
	}
}

// place is where reading a partition goes on.
func (r *member) place(committed kadm.OffsetResponses, topic string, partition int32, s span) (at int64, known bool) {
	if at, ok := r.at[topic][partition]; ok {
		return at, true
	}
	if o, ok := committed.Lookup(topic, partition); ok && o.At >= 0 {
		return o.At, true
	}
	if r.m.FromEarliest {
		return s.start, true
	}
	return 0, false
}
