package engine

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// committer is the one goroutine that assigns offsets, checks sequences and claims, and writes the WAL. It takes what waits,
// makes it one frame, writes it, syncs once, publishes, and has everybody answered. While one commit is on the disk the next one
// gathers; if commits are of few, for a little longer (see pace.go).
type committer struct {
	*Engine
	state     *state // its own
	backlog   backlog
	frame     frame
	fresh     []published // batches of the commit at hand
	moved     []*partition
	ops       []*operation
	now       int64
	noSpace   bool
	pace      pacer
	alarm     Alarm  // nil: no rests
	ringAlarm func() // its Ring
}

type published struct {
	p      *partition
	batch  *eventlog.Batch
	memory *Memory // that the batch lies in; nil: its own
}

func (c *committer) run() {
	defer close(c.gone)
	var drained bool
	for {
		c.rest()
		closed := c.backlog.refill(&c.queue)
		if !c.backlog.empty() {
			items, size := c.choose()
			c.admit(size)
			c.commit(items)
			c.serveSnapshot()
			continue
		}
		if closed && !drained {
			drained = true
			close(c.drained)
		}
		select {
		case <-c.queue.wake:
			runtime.Gosched() // whoever is about to append comes along: a sync costs more than all of them
		case reply := <-c.snapshots:
			reply <- c.snapshot()
		case <-c.stop:
			return
		}
	}
}

func (c *committer) serveSnapshot() {
	select {
	case reply := <-c.snapshots:
		reply <- c.snapshot()
	default:
	}
}

// choose takes the items of the next commit. Where room comes to an end, bulk stops before what is light does, whether any of that is there yet or
// not: the light items go alone, and not even they wait for segments and checkpoints as long as there is something left of the WAL. Where the disk
// has no space bulk is not kept here: it is to be refused.
func (c *committer) choose() (items []*item, size int) {
	items = c.itemSlice()
	for c.backlog.bulk > 0 && c.failure() == nil && !c.spacious() && c.checkSpace() {
		if items, size = c.backlog.lightOnly(items, c.commitBytes); len(items) > 0 {
			return items, size
		}
		c.awaitRoom(c.queue.wake)
		c.backlog.more(&c.queue)
	}
	return c.backlog.take(items, c.commitBytes)
}

// spacious tells whether there is room for bulk, and something left behind it.
func (c *committer) spacious() bool {
	need := alignUp(int64(frameHeader + min(c.commitBytes, mixedCommit)))
	return c.ring.unappliedBytes() < c.unappliedMax/4*3 && c.wal.spare(need)
}

// admit waits until what is committed but not applied yet is under its bound, and the WAL has room for size bytes more. That is
// the back-pressure of a slow disk. The state is that of the last commit all the while, so a checkpoint can be had here.
func (c *committer) admit(size int) {
	need := alignUp(int64(frameHeader + size))
	for c.failure() == nil {
		if c.ring.unappliedBytes() < c.unappliedMax && c.wal.room(need) {
			return
		}
		c.awaitRoom(nil)
	}
}

// awaitRoom asks for room, and waits until there may be more or something else has happened.
func (c *committer) awaitRoom(fresh <-chan struct{}) {
	if c.ring.unappliedBytes() >= c.unappliedMax/4*3 {
		c.applier.hurry()
	}
	if !c.wal.spare(c.wal.size) { // no file is free
		c.requestCheckpoint()
	}
	select {
	case <-fresh:
	case <-c.ring.progress:
	case <-c.wal.freed:
	case reply := <-c.snapshots:
		reply <- c.snapshot()
	case <-c.failed:
	}
}

// commit takes the items into one frame, makes it durable, publishes and answers.
func (c *committer) commit(items []*item) {
	if err := c.failure(); err != nil {
		for _, it := range items {
			c.refuse(it, closedBy(err))
		}
		c.finish(items)
		return
	}
	c.begin()
	c.pace.begins(c.o.Now(), len(items))
	if mutant(mutantSwapBatches) {
		swapBatches(items)
	}
	for _, it := range items {
		c.take(it)
	}
	if c.frame.empty() {
		c.runPublish()
		c.finish(items)
		return
	}
	if err := c.wal.write(&c.frame, c.state.commit+1, c.now); err != nil {
		c.abandon(items, err)
		return
	}
	items = c.answerEarly(items)
	if mutant(mutantServeEarly) {
		c.publish()
	}
	start := time.Now()
	if err := c.wal.sync(); err != nil {
		c.abandon(items, err)
		return
	}
	c.counters.synced(time.Since(start), c.frame.size, c.fresh)
	c.state.commit++
	c.state.time = c.now
	c.publish()
	c.finish(items)
	if c.ring.unappliedBytes() >= c.applyFrom {
		c.applier.hurry()
	}
	if c.walSince.Add(alignUp(int64(c.frame.size))) >= c.checkpointBytes {
		c.requestCheckpoint()
	}
}

func (c *committer) begin() {
	c.now = c.Now()
	c.noSpace = !c.checkSpace()
	c.frame.reset()
	clear(c.fresh)
	clear(c.moved)
	clear(c.ops)
	c.fresh, c.moved, c.ops = c.fresh[:0], c.moved[:0], c.ops[:0]
}

// abandon answers a commit whose write or sync failed. What became of it is unknown until the next start, and the state must
// not be built on: the log is closed for good, and what is published stays as it was.
func (c *committer) abandon(items []*item, err error) {
	c.fail(err)
	for _, it := range items {
		if it.err == nil { // an operation without entries, too: it may have found done what only this commit does
			it.err = fmt.Errorf("%w: %w", eventlog.ErrUnknownOutcome, closedBy(err))
		}
	}
	c.finish(items)
}

// closedBy says that the log is closed and why.
func closedBy(err error) error {
	if errors.Is(err, eventlog.ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: %w", eventlog.ErrClosed, err)
}

func (c *committer) refuse(it *item, err error) {
	if it.err == nil {
		it.err = err
	}
}

// take decides about one item, in queue order, and puts its entries into the frame.
func (c *committer) take(it *item) {
	switch {
	case it.err != nil:
	case it.op != nil:
		c.takeOperation(it)
	case it.atomic != nil:
		c.takeAtomic(it)
	case it.end != nil:
		c.takeEnd(it)
	default:
		c.takeBatch(it)
	}
	if it.err != nil {
		c.counters.refused(it.err)
	}
}

func (c *committer) takeOperation(it *item) {
	entries, publish, err := it.op.run(c.state)
	if err != nil {
		it.err = err
		return
	}
	for i := range entries {
		if err := c.state.step(&entries[i]); err != nil {
			panic(fmt.Sprintf("engine: an operation made an entry that does not fit: %v", err))
		}
		c.frame.add(&entries[i])
		it.taken = true
	}
	if publish != nil {
		it.op.publish = publish
		c.ops = append(c.ops, it.op)
	}
}

// mayEnter says why a batch of ours cannot enter a partition now.
func (c *committer) mayEnter(p *partition, writer int64) error {
	switch {
	case p.topic.head.gone:
		return fmt.Errorf("append to %v: %w", p.part, eventlog.ErrUnknownTopic)
	case writer != 0 && writer != p.head.claim:
		return fmt.Errorf("append to %v with claim %d, the last is %d: %w", p.part, writer, p.head.claim, eventlog.ErrFenced)
	case c.noSpace:
		return fmt.Errorf("append to %v: %w", p.part, eventlog.ErrNoSpace)
	}
	return nil
}

func (c *committer) takeBatch(it *item) {
	raw := it.batch.Raw()
	p := it.p
	if it.err = c.mayEnter(p, it.writer); it.err != nil {
		return
	}
	if id := raw.ProducerID(); remembers(id) {
		dup, err := p.admit(raw, it.fresh)
		if err != nil {
			it.err = fmt.Errorf("append to %v, producer %d: %w", p.part, id, err)
			return
		}
		if dup != nil { // its original is in the log, or in this very frame: either way it is answered when that is durable
			it.dup, it.base, it.time = true, dup.base, dup.time
			return
		}
	}
	it.base, it.time = c.enter(p, it.batch)
	c.fresh[len(c.fresh)-1].memory = it.memory
	it.taken = true
}

// enter gives a batch its offsets and puts it into the frame.
func (c *committer) enter(p *partition, b *eventlog.Batch) (base, appended int64) {
	raw := b.Raw()
	base = p.head.end
	raw.SetBase(base)
	raw.SetLeaderEpoch(0)
	if p.topic.head.cfg.logAppendTime {
		raw.SetLogAppendTime(c.now)
		raw.Reseal()
	}
	c.state.batch(p, raw, c.now)
	c.fresh = append(c.fresh, published{p: p, batch: b})
	if next := c.state.commit + 1; p.head.commit != next {
		p.head.commit = next
		c.moved = append(c.moved, p)
	}
	if !mutant(mutantDropBatch) || base == 0 || !dropBatch(raw) {
		c.frame.batch(p.part, raw)
	}
	return base, appendTime(raw)
}

func (c *committer) takeAtomic(it *item) {
	a := it.atomic
	for _, p := range a.parts {
		if it.err = c.mayEnter(p, 0); it.err != nil {
			return
		}
	}
	for i, b := range a.batches {
		a.bases[i], _ = c.enter(a.parts[i], b)
	}
	it.taken = true
}

// publish makes the commit visible: to reads first, then to tails, then to those who watch.
func (c *committer) publish() {
	for i := range c.fresh {
		c.fresh[i].p.publish(c.fresh[i].batch)
	}
	c.ring.add(c.fresh, c.state.commit)
	c.runPublish()
	for _, p := range c.moved {
		p.notify()
	}
	c.fresh, c.moved = c.fresh[:0], c.moved[:0]
}

func (c *committer) runPublish() {
	for _, op := range c.ops {
		op.publish()
	}
	c.ops = c.ops[:0]
}

// publish makes a durable batch readable.
func (p *partition) publish(b *eventlog.Batch) {
	p.mu.Lock()
	p.mem = append(p.mem, b)
	p.high.Store(b.Next())
	p.showStable(b.Next(), p.start.Load())
	p.mu.Unlock()
}

// answerEarly has those answered who do not wait for the disk, and returns the others.
func (c *committer) answerEarly(items []*item) []*item {
	early := c.itemSlice()
	rest := items[:0]
	for _, it := range items {
		if (it.early || mutant(mutantAckEarly) && it.op == nil) && it.taken {
			early = append(early, it)
			continue
		}
		rest = append(rest, it)
	}
	clear(items[len(rest):])
	c.finish(early)
	return rest
}

// finish has the items answered, in order. A few, while nobody waits for the next commit, are answered on the spot: to wake
// another goroutine would cost more.
func (c *committer) finish(items []*item) {
	if len(items) <= answerHere && c.unanswered.Load() == 0 && c.backlog.empty() && c.queue.empty() {
		c.answerAll(items)
		return
	}
	c.unanswered.Add(1)
	c.answers <- items
}

const answerHere = 16

// answer is a goroutine that answers, so that the next commit is on the disk meanwhile.
func (e *Engine) answer() {
	defer close(e.answered)
	for items := range e.answers {
		e.answerAll(items)
		e.unanswered.Add(-1)
	}
}

// answerAll calls everybody's done and gives the items' room back.
func (e *Engine) answerAll(items []*item) {
	for i, it := range items {
		it.deliver()
		e.left(it)
		it.release()
		items[i] = nil
	}
	e.roomAgain()
	select {
	case e.slices <- items[:0]:
	default:
	}
}

// itemSlice is an empty slice, one that was used before if there is any.
func (c *committer) itemSlice() []*item {
	select {
	case s := <-c.slices:
		return s
	default:
		return nil
	}
}
