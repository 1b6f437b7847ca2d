package kafkawire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/kafkawire/group"
)

// offsetsTopic holds what consumer groups must not forget, in Kafka's own formats.
const offsetsTopic = "__consumer_offsets"

const (
	pendingTimeout    = 3 * time.Second
	maxOffsetMetadata = 4096
	offsetsBatch      = 256 << 10 // groups share a batch up to this size
	offsetsWhole      = 3 << 19   // a batch is not larger, but for one record. What one group wants written at a time is in one commit, which a crash leaves whole or not at all,
	offsetsAppend     = 6 << 20   // so much at most: the log takes no more than engine.MaxAppend. What is larger is written in several commits
	maxGroupBytes     = 1 << 20   // what the members of a group may say of themselves; their assignments are as large
	offsetsMaxBytes   = 2 << 20   // and may reach this one with one large record: a group with its assignments
	offsetsSegment    = 4 << 20   // only what is in earlier segments is compacted, and all there is must be read at start-up
	forgetEvery       = time.Minute
)

// coordinator runs all groups in one goroutine. What the groups want written while a write is on its way is gathered and
// written together. A group whose records are on their way takes nothing in until they are durable; then everything its
// members sent meanwhile is taken in, commits together.
type coordinator struct {
	log    Engine
	now    func() time.Time
	logger *slog.Logger
	cfg    *group.Config
	part   eventlog.Part
	count  atomic.Int64

	mu    sync.Mutex
	mail  []func() // what others want done in the goroutine
	wake  chan struct{}
	ended chan struct{}

	// The goroutine's own.
	groups     map[string]*entry
	answers    map[uint64]chan<- kmsg.Response // by ticket
	ticket     uint64
	unwritten  []*entry                      // groups with records to write
	inTxns     map[int64]map[string]struct{} // groups with offsets in a producer's open transaction
	topics     map[string]eventlog.TopicID   // topics that somebody committed in, and their ids then
	nextForget time.Time
	dues       dues
}

// entry is one group and what waits for it.
type entry struct {
	g        *group.Group
	queue    []input
	deadline time.Time // when its timers have something to do; see dues
	due      int

	// While records are on their way:
	out     group.Output
	busy    bool
	left    int            // batches without an outcome
	written []group.Record // records of batches that are durable
	err     error
}

// input is something for a group to take in.
type input struct {
	step   func(*group.Group, time.Time) group.Output
	commit bool // may be taken in together with others
}

// newCoordinator restores the groups from the log and starts the goroutine, which ends with ctx.
func newCoordinator(ctx context.Context, o *Options, cfg *group.Config) (*coordinator, error) {
	co := &coordinator{
		log: o.Engine, now: o.Now, logger: o.Logger, cfg: cfg,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
		groups: map[string]*entry{}, answers: map[uint64]chan<- kmsg.Response{}, topics: map[string]eventlog.TopicID{},
		inTxns: map[int64]map[string]struct{}{},
	}
	cfg.Full = func() bool { return len(co.groups) > o.MaxGroups } // with the one that asks
	var err error
	co.part, err = ownTopic(ctx, o.Engine, offsetsTopic, map[string]string{
		"segment.bytes": strconv.Itoa(offsetsSegment), "max.message.bytes": strconv.Itoa(offsetsMaxBytes),
	})
	if err != nil {
		return nil, err
	}
	if err := co.restore(ctx); err != nil {
		return nil, err
	}
	go co.run(ctx)
	return co, nil
}

// restore replays the records of the topic. One that does not parse is skipped: a group that forgets an offset is better than
// a log that does not start.
func (co *coordinator) restore(ctx context.Context) error {
	at, err := replayTopic(ctx, co.log, offsetsTopic, co.part, co.replay)
	if err != nil {
		return err
	}
	if err := co.restoreOpen(ctx, at); err != nil {
		return fmt.Errorf("read %s beyond what is stable: %w", offsetsTopic, err)
	}
	now := co.now()
	for name, e := range co.groups {
		if e.g.Restored(now); e.g.Forgettable() {
			delete(co.groups, name)
			continue
		}
		co.dues.set(e, e.g.Deadline())
		co.restoreTopics(e)
	}
	co.count.Store(int64(len(co.groups)))
	return nil
}

func (co *coordinator) replay(r *eventlog.Record) error {
	rec := ownRecord(r)
	name, ok := group.NameOf(rec.Key)
	if !ok {
		return nil // of a kind we do not keep
	}
	if err := co.entry(name).g.Replay(rec); err != nil {
		co.logger.Warn("kafka: record of a consumer group skipped", "offset", r.Offset, "error", err)
	}
	return nil
}

// ownRecord is a record with bytes of its own.
func ownRecord(r *eventlog.Record) group.Record {
	return group.Record{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value)}
}

// restoreTopics notes which topics the group committed in.
func (co *coordinator) restoreTopics(e *entry) {
	note := func(topic string) {
		if _, ok := co.topics[topic]; !ok {
			t, _ := co.log.TopicByName(topic)
			co.topics[topic] = t.ID // the zero id of one that is gone is no topic's: it will be forgotten
		}
	}
	e.g.Offsets(func(topic string, _ int32, _ group.Offset) { note(topic) })
	e.g.PendingTopics(note)
}

func (co *coordinator) entry(name string) *entry {
	e := co.groups[name]
	if e == nil {
		e = &entry{g: group.New(name, co.cfg)}
		co.groups[name] = e
	}
	return e
}

// post has f done in the coordinator's goroutine. It never blocks.
func (co *coordinator) post(f func()) {
	co.mu.Lock()
	co.mail = append(co.mail, f)
	co.mu.Unlock()
	select {
	case co.wake <- struct{}{}:
	default:
	}
}

// view calls f in the coordinator's goroutine and waits for it; false if the coordinator ended instead.
func (co *coordinator) view(ctx context.Context, f func()) bool {
	done := make(chan struct{})
	co.post(func() { f(); close(done) })
	select {
	case <-done:
		return true
	case <-ctx.Done():
	case <-co.ended:
	}
	return false
}

// ask has a group take in a request and waits for the response; nil if the connection or the server ended instead.
func (co *coordinator) ask(c *conn, name string, commit bool, step func(g *group.Group, now time.Time, who group.Caller) group.Output) kmsg.Response {
	answer := make(chan kmsg.Response, 1)
	clientID, host := c.clientID, c.remoteHost()
	co.post(func() {
		co.ticket++
		who := group.Caller{Ticket: co.ticket, ClientID: clientID, Host: host}
		co.answers[who.Ticket] = answer
		e := co.entry(name)
		e.queue = append(e.queue, input{commit: commit, step: func(g *group.Group, now time.Time) group.Output {
			return step(g, now, who)
		}})
		co.advance(e)
	})
	select {
	case resp := <-answer:
		return resp
	case <-c.ctx.Done():
	case <-c.s.drain:
		select {
		case resp := <-answer: // not if it takes others to come
			return resp
		case <-time.After(drainTime / 4):
		case <-c.ctx.Done():
		}
	case <-co.ended:
	}
	return nil
}

// run is the coordinator's goroutine.
func (co *coordinator) run(ctx context.Context) {
	defer close(co.ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-co.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		co.mu.Lock()
		mail := co.mail
		co.mail = nil
		co.mu.Unlock()
		for _, f := range mail {
			f()
		}
		next := co.tick()
		co.write()
		timer.Reset(next)
	}
}

func (co *coordinator) wait() { <-co.ended }

// tick lets the groups do what is due and returns when to come back. It looks at no other.
func (co *coordinator) tick() time.Duration {
	now := co.now()
	if !co.nextForget.After(now) {
		co.nextForget = now.Add(forgetEvery)
		co.forget()
	}
	for _, e := range co.dues.take(now) {
		if !e.busy { // else it is looked at when what it wants written is
			e.queue = append(e.queue, input{step: (*group.Group).Tick})
			co.advance(e)
		}
	}
	next := co.nextForget
	if due := co.dues.next(); !due.IsZero() && due.Before(next) {
		next = due
	}
	return max(next.Sub(now), time.Millisecond)
}

// advance has the group take in what waits for it, until it has records to write.
func (co *coordinator) advance(e *entry) {
	for !e.busy && len(e.queue) > 0 {
		in := e.queue[0]
		e.queue = e.queue[1:]
		out := in.step(e.g, co.now())
		for in.commit && len(e.queue) > 0 && e.queue[0].commit {
			out.Merge(e.queue[0].step(e.g, co.now()))
			e.queue = e.queue[1:]
		}
		co.emit(e, out)
	}
	if e.busy {
		return
	}
	co.dues.set(e, e.g.Deadline())
	if e.g.Forgettable() && len(e.queue) == 0 {
		co.dues.set(e, time.Time{})
		delete(co.groups, e.g.Name())
	}
	co.count.Store(int64(len(co.groups)))
}

// emit sends the replies of a step, or has its records written first.
func (co *coordinator) emit(e *entry, out group.Output) {
	if len(out.Records) == 0 {
		co.send(out.Replies)
		return
	}
	e.busy, e.out, e.err, e.written = true, out, nil, nil
	co.unwritten = append(co.unwritten, e)
}

func (co *coordinator) send(replies []group.Reply) {
	for _, r := range replies {
		if answer, ok := co.answers[r.Ticket]; ok {
			answer <- r.Response // has room for one
			delete(co.answers, r.Ticket)
		}
	}
}

// share is what one group has in an append.
type share struct {
	e       *entry
	records []group.Record
}

// write appends the records of all groups that have some, in as few appends as there may be. Those of one group are in one, of several
// batches if it must be; unless they are more than the log takes at once.
func (co *coordinator) write() {
	var a appending
	flush := func() {
		if len(a.shares) > 0 {
			co.append(&a)
			a = appending{}
		}
	}
	at := co.now().UnixMilli()
	for _, e := range co.unwritten {
		if a.size+sizeOfRecords(e.out.Records) > offsetsBatch {
			flush()
		}
		e.left = 0
		for _, records := range atOnce(e.out.Records) {
			if e.left++; e.left > 1 {
				flush()
			}
			for _, r := range records {
				a.add(at, r)
			}
			a.shares = append(a.shares, share{e, records})
		}
	}
	flush()
	co.unwritten = co.unwritten[:0]
}

// appending is what one append is made of.
type appending struct {
	batches []*eventlog.Builder
	size    int
	shares  []share
}

func (a *appending) add(at int64, r group.Record) {
	n := sizeOfRecord(r)
	if k := len(a.batches); k == 0 || a.batches[k-1].Len() > 0 && a.batches[k-1].Size()+n > offsetsWhole {
		a.batches = append(a.batches, &eventlog.Builder{})
	}
	a.batches[len(a.batches)-1].Add(at, r.Key, r.Value, nil)
	a.size += n
}

// atOnce divides records into as many appends as they need: one, as a rule.
func atOnce(records []group.Record) (out [][]group.Record) {
	from, size := 0, 0
	for i, r := range records {
		if size += sizeOfRecord(r); size > offsetsAppend && i > from {
			out = append(out, records[from:i])
			from, size = i, sizeOfRecord(r)
		}
	}
	return append(out, records[from:])
}

func sizeOfRecords(records []group.Record) (n int) {
	for _, r := range records {
		n += sizeOfRecord(r)
	}
	return n
}

// sizeOfRecord is what a record takes of a batch, or a little more.
func sizeOfRecord(r group.Record) int { return len(r.Key) + len(r.Value) + 20 }

// append hands batches to the log. Their outcome, which is one, comes back as mail.
func (co *coordinator) append(a *appending) {
	shares := a.shares
	settle := func(err error) {
		co.post(func() {
			for _, s := range shares {
				co.settled(s, err)
			}
		})
	}
	batches := make([]*eventlog.Batch, 0, 1)
	for _, bl := range a.batches {
		b, _, err := bl.Batch(co.part, eventlog.None)
		if err != nil {
			settle(err)
			return
		}
		batches = append(batches, b)
	}
	if len(batches) == 1 {
		co.log.Append(batches[0], func(o eventlog.Outcome) { settle(lost(o)) })
		return
	}
	co.log.AppendAtomic(batches, func(outs []eventlog.Outcome) { settle(lost(outs[0])) })
}

// settled takes in what became of a group's share of a batch. After the last one the group takes note and goes on.
func (co *coordinator) settled(s share, err error) {
	e := s.e
	if err != nil {
		e.err = err
	} else {
		e.written = append(e.written, s.records...)
	}
	if e.left--; e.left > 0 {
		return
	}
	var failed *kerr.Error
	if e.err != nil {
		co.logger.Error("kafka: consumer group's records not written", "group", e.g.Name(), "error", e.err)
		failed = groupCode(e.err)
		for _, r := range e.written { // some of them are in the log all the same
			if err := e.g.Replay(r); err != nil {
				co.logger.Error("kafka: cannot replay", "group", e.g.Name(), "error", err)
			}
		}
	}
	out := e.out
	e.busy, e.out, e.written = false, group.Output{}, nil
	co.emit(e, e.g.Durable(co.now(), out, failed))
	co.advance(e)
}

// groupCode is what a member hears when its group's records were not written: try again, except with what never fits.
func groupCode(err error) *kerr.Error {
	if errors.Is(err, eventlog.ErrTooLarge) || errors.Is(err, eventlog.ErrInvalid) {
		return kerr.UnknownServerError
	}
	return kerr.CoordinatorNotAvailable
}

// committing notes the topics that a commit names, before it is taken in. Offsets of an earlier topic of the same name go.
func (co *coordinator) committing(topics map[string]eventlog.TopicID) {
	co.post(func() {
		for name, id := range topics {
			if known, ok := co.topics[name]; ok && known != id {
				co.forget()
			}
			co.topics[name] = id
		}
	})
}

// stale tells whether what was committed in a topic was committed in an earlier one of the same name.
func (co *coordinator) stale(topic string) bool {
	t, ok := co.log.TopicByName(topic)
	return !ok || t.ID != co.topics[topic]
}

// forgetDeleted drops the offsets of topics that are gone, and waits until the groups have taken note.
func (co *coordinator) forgetDeleted(ctx context.Context) { co.view(ctx, co.forget) }

// forget has the groups drop offsets of topics that are gone, or whose name belongs to another topic now.
func (co *coordinator) forget() {
	gone := map[string]bool{}
	for name, id := range co.topics {
		if t, ok := co.log.TopicByName(name); !ok || t.ID != id {
			gone[name] = true
			delete(co.topics, name)
		}
	}
	if len(gone) == 0 {
		return
	}
	for _, e := range co.groups {
		e.queue = append(e.queue, input{step: func(g *group.Group, now time.Time) group.Output {
			return g.Forget(now, func(topic string) bool { return gone[topic] })
		}})
		co.advance(e)
	}
}
