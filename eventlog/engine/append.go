package engine

import (
	"errors"
	"fmt"
	"math"

	"github.com/millrace-io/millrace/eventlog"
)

// Append implements eventlog.Driver. It stamps our producer id on the batch, by which it is known as ours when it is read back.
func (e *Engine) Append(b *eventlog.Batch, done func(eventlog.Outcome)) { e.appendBatch(b, nil, done) }

func (e *Engine) appendBatch(b *eventlog.Batch, w *writer, done func(eventlog.Outcome)) {
	it := itemPool.Get().(*item)
	it.batch, it.early, it.done = b, b.Early, done
	it.p, it.err = e.own(b)
	if w != nil {
		it.writer = w.epoch
		if b.Part != w.part && it.err == nil {
			it.err = fmt.Errorf("append to %v: %w: the claim is of %v", b.Part, eventlog.ErrInvalid, w.part)
		}
	}
	e.put(it, b.Size())
}

// own checks a batch of ours and stamps it.
func (e *Engine) own(b *eventlog.Batch) (*partition, error) {
	p, err := e.partition(b.Part)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	raw := b.Raw()
	switch {
	case raw == nil:
		return p, fmt.Errorf("append to %v: %w: a batch of decoded records", b.Part, eventlog.ErrInvalid)
	case raw.Count() < 1 || raw.LastDelta() != raw.Count()-1:
		return p, fmt.Errorf("append to %v: %w: %d records up to offset delta %d", b.Part, eventlog.ErrInvalid, raw.Count(), raw.LastDelta())
	}
	if err := e.checkSize(p, len(raw)); err != nil {
		return p, err
	}
	if raw.ProducerID() != FirstOwnProducerID {
		raw.SetProducer(FirstOwnProducerID, 0, -1)
		raw.Reseal()
	}
	b.Own = true
	return p, nil
}

func (e *Engine) checkSize(p *partition, n int) error {
	if limit := min(p.topic.cfg.Load().maxMessageBytes, e.defaults.maxMessageLimit); n > limit {
		return fmt.Errorf("append to %v: %w: %d bytes, at most %d", p.part, eventlog.ErrTooLarge, n, limit)
	}
	return nil
}

// AppendAtomic implements eventlog.AtomicAppender: the batches are one part of one commit.
func (e *Engine) AppendAtomic(batches []*eventlog.Batch, done func([]eventlog.Outcome)) {
	it := itemPool.Get().(*item)
	a := &atomicAppend{batches: batches, bases: make([]int64, len(batches)), done: done}
	size := 0
	for _, b := range batches {
		p, err := e.own(b)
		if err != nil && it.err == nil {
			it.err = err
		}
		a.parts = append(a.parts, p)
		size += b.Size() + batchHeader
	}
	if limit := e.defaults.maxMessageLimit; it.err == nil && size > limit {
		it.err = fmt.Errorf("append of %d batches: %w: %d bytes, at most %d", len(batches), eventlog.ErrTooLarge, size, limit)
	}
	it.atomic = a
	e.put(it, size)
}

// Produce queues one RecordBatch v2 of a foreign producer and takes ownership of its bytes. Header, checksum, size and the
// topic's rules are checked here, epoch and sequence in queue order. done is called exactly once, from a goroutine of the
// engine, and must not block.
func (e *Engine) Produce(p eventlog.Part, raw []byte, acks Acks, done func(Produced)) {
	e.ProduceAs(p, raw, acks, Producing{}, done)
}

// Producing is what there may be to say of a batch that is produced.
type Producing struct {
	// Transactional: it is of a transaction, and whoever says so knows that the transaction is open and has the partition.
	Transactional bool
	// Fresh: a producer that is not known in the partition must begin with sequence 0, as transactions of version 2 do.
	Fresh bool
	// Memory that the batch lies in with others. Until they are answered it is the caller's to count, from then on the engine's. Nil: it has its own.
	Memory *Memory
}

// ProduceAs is Produce of a batch that there is more to say of.
func (e *Engine) ProduceAs(p eventlog.Part, raw []byte, acks Acks, how Producing, done func(Produced)) {
	it := itemPool.Get().(*item)
	it.answer, it.time, it.early, it.fresh, it.memory = done, -1, acks != AcksDurable, how.Fresh, how.Memory
	var b eventlog.RawBatch
	if it.p, it.err = e.partition(p); it.err == nil {
		b, it.err = e.checkForeign(it.p, raw, how.Transactional)
	}
	if it.err != nil {
		it.err = fmt.Errorf("produce to %v: %w", p, it.err)
	} else {
		it.batch = eventlog.NewRawBatch(p, b)
	}
	e.put(it, len(raw))
}

// maxRecords bounds the records of a foreign batch: well compressed they are nothing on the wire, but whoever decodes them pays for
// each.
const maxRecords = 1 << 18

// checkForeign verifies one batch of a foreign producer.
func (e *Engine) checkForeign(p *partition, raw []byte, transactional bool) (eventlog.RawBatch, error) {
	if len(raw) >= eventlog.HeaderSize && raw[16] < 2 {
		return nil, fmt.Errorf("%w: message format %d is no longer taken, want 2", ErrInvalidRecord, raw[16])
	}
	b, err := eventlog.CheckBatch(raw)
	if err != nil {
		return nil, err
	}
	cfg := p.topic.cfg.Load()
	switch {
	case len(b) != len(raw):
		return nil, fmt.Errorf("%w: %d bytes after the batch", ErrInvalidRecord, len(raw)-len(b))
	case b.Count() < 1 || b.LastDelta() != b.Count()-1:
		return nil, fmt.Errorf("%w: %d records up to offset delta %d", ErrInvalidRecord, b.Count(), b.LastDelta())
	case int(b.Count()) > b.MaxCount(): // offsets, and whoever makes room for the records, go by the count
		return nil, fmt.Errorf("%w: %d records in %d bytes", ErrInvalidRecord, b.Count(), len(b))
	case b.Attributes()&eventlog.AttrControl != 0:
		return nil, fmt.Errorf("%w: a control batch from a client", ErrInvalidRecord)
	case (b.Attributes()&eventlog.AttrTransactional != 0) != transactional:
		return nil, fmt.Errorf("%w: a batch is transactional iff it is sent in a transaction", ErrInvalidTxnState)
	case transactional && b.ProducerID() < 0:
		return nil, fmt.Errorf("%w: a transactional batch without a producer id", ErrInvalidRecord)
	case b.Count() > maxRecords:
		return nil, fmt.Errorf("%w: %d records, at most %d", eventlog.ErrTooLarge, b.Count(), maxRecords)
	case b.Attributes()&eventlog.AttrLogAppendTime != 0:
		return nil, fmt.Errorf("%w: stamped as by the log", ErrInvalidTimestamp)
	case b.Attributes()&^(eventlog.AttrCodecMask|eventlog.AttrTransactional) != 0: // a delete horizon above all: compaction would take its tombstones at once
		return nil, fmt.Errorf("%w: attributes %#x", ErrInvalidRecord, uint16(b.Attributes()))
	case b.Codec() > eventlog.Zstd:
		return nil, fmt.Errorf("%w: codec %d", ErrUnsupportedCompression, b.Codec())
	}
	if err := e.checkSize(p, len(b)); err != nil {
		return nil, err
	}
	if err := checkProducer(b); err != nil {
		return nil, err
	}
	if err := e.checkTimes(cfg, b); err != nil {
		return nil, err
	}
	if cfg.compact {
		return b, checkKeys(p.part, b)
	}
	return b, nil
}

func checkProducer(b eventlog.RawBatch) error {
	switch id := b.ProducerID(); {
	case id >= FirstOwnProducerID:
		return fmt.Errorf("%w: %d", ErrReservedProducer, id)
	case id < -1:
		return fmt.Errorf("%w: producer id %d", ErrInvalidRecord, id)
	case id >= 0 && (b.ProducerEpoch() < 0 || b.BaseSequence() < 0):
		return fmt.Errorf("%w: producer %d with epoch %d and sequence %d", ErrInvalidRecord, id, b.ProducerEpoch(), b.BaseSequence())
	}
	return nil
}

// checkTimes looks at the header's times only: the first record's and the latest.
func (e *Engine) checkTimes(cfg *topicConfig, b eventlog.RawBatch) error {
	if cfg.logAppendTime {
		return nil
	}
	now := e.Now()
	first, latest := b.BaseTime(), b.MaxTime()
	switch {
	case first < 0 && first != -1 || latest < -1:
		return fmt.Errorf("%w: %d", ErrInvalidTimestamp, min(first, latest))
	case cfg.afterMaxMs < math.MaxInt64-now && latest > now+cfg.afterMaxMs:
		return fmt.Errorf("%w: %d ms in the future, the topic takes %d", ErrInvalidTimestamp, latest-now, cfg.afterMaxMs)
	case first >= 0 && now-first > cfg.beforeMaxMs:
		return fmt.Errorf("%w: %d ms in the past, the topic takes %d", ErrInvalidTimestamp, now-first, cfg.beforeMaxMs)
	}
	return nil
}

// checkKeys refuses a batch for a compacted topic with a record that has no key.
func checkKeys(p eventlog.Part, b eventlog.RawBatch) error {
	err := eventlog.NewRawBatch(p, b).Each(func(r *eventlog.Record) error {
		if r.Key == nil {
			return fmt.Errorf("%w: a record without a key for a compacted topic", ErrInvalidRecord)
		}
		return nil
	})
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrInvalidRecord, err)
	}
	return err
}

// put queues an item of n bytes of batches.
func (e *Engine) put(it *item, n int) {
	if it.err == nil {
		it.size = n + batchHeader
	}
	if it.p != nil {
		it.p.queued.Add(int64(it.size))
	}
	e.queued.Add(int64(it.size))
	if !e.queue.put(it) {
		e.left(it)
		it.err = fmt.Errorf("append: %w", eventlog.ErrClosed)
		go it.deliver() // the goroutines that answer have ended
	}
}

// left takes an item's bytes out of what waits.
func (e *Engine) left(it *item) {
	if it.p != nil {
		it.p.queued.Add(-int64(it.size))
	}
	e.queued.Add(-int64(it.size))
}

// Room implements eventlog.Driver: it closes while a partition has more than its share waiting, or all together have.
func (e *Engine) Room(at eventlog.Part) <-chan struct{} {
	p, err := e.partition(at)
	if err != nil || e.hasRoom(p) {
		return nil
	}
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	if e.hasRoom(p) || e.queue.closed {
		return nil
	}
	ch := make(chan struct{})
	e.queue.rooms = append(e.queue.rooms, roomWaiter{p, ch})
	return ch
}

func (e *Engine) hasRoom(p *partition) bool {
	return p.queued.Load() < e.queueShare && e.queued.Load() < e.queueMax
}

// roomAgain wakes the appenders whose partition takes more. The check under the lock is made after the bytes left, so nobody
// is forgotten between the two.
func (e *Engine) roomAgain() {
	e.queue.mu.Lock()
	defer e.queue.mu.Unlock()
	kept := e.queue.rooms[:0]
	for _, w := range e.queue.rooms {
		if e.hasRoom(w.p) || e.queue.closed {
			close(w.ch)
		} else {
			kept = append(kept, w)
		}
	}
	clear(e.queue.rooms[len(kept):])
	e.queue.rooms = kept
}
