package engine

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/millrace-io/millrace/eventlog"
)

// fromMemory returns committed batches that are not in segments yet, from the one that holds offset on and below end: about
// maxBytes of them, at least one. below is where memory begins: an offset under it is in the segments.
func (p *partition) fromMemory(offset, end int64, maxBytes int) (batches []*eventlog.Batch, below int64) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if offset < p.applied {
		return nil, p.applied
	}
	first := sort.Search(len(p.mem), func(i int) bool { return p.mem[i].Next() > offset })
	last := first
	for size := 0; last < len(p.mem) && p.mem[last].Next() <= end; last++ {
		if size += p.mem[last].Size(); size > maxBytes && last > first {
			break
		}
	}
	return slices.Clone(p.mem[first:last]), p.applied
}

// bounds are where a partition's log begins and ends.
type bounds struct{ start, stable, high int64 }

func (p *partition) bounds() (b bounds) {
	b.start = p.start.Load() // before stable: neither goes back, and stable never falls behind start
	b.stable = p.stable.Load()
	b.high = p.high.Load()
	return b
}

// check checks an offset against [start, end].
func (p *partition) check(offset int64, b bounds, end int64) error {
	if offset < b.start || offset > end {
		return &eventlog.OutOfRangeError{Position: eventlog.Position{Part: p.part, Offset: offset}, Start: b.start, End: end}
	}
	return nil
}

// Read implements eventlog.Driver.
func (e *Engine) Read(ctx context.Context, pos eventlog.Position, maxBytes int) ([]*eventlog.Batch, int64, error) {
	if err := e.usable(ctx); err != nil {
		return nil, 0, fmt.Errorf("read %v: %w", pos, err)
	}
	p, err := e.partition(pos.Part)
	if err != nil {
		return nil, 0, fmt.Errorf("read: %w", err)
	}
	for next := pos.Offset; ; {
		batches, to, err := e.read(p, next, maxBytes)
		if err != nil || len(batches) > 0 || to == next {
			return batches, to, err
		}
		if err := e.usable(ctx); err != nil {
			return nil, 0, fmt.Errorf("read %v: %w", pos, err)
		}
		next = to
	}
}

// read returns stable batches from an offset on, those of what it looked at that hold anything to see. Below the stable offset
// it moves on.
func (e *Engine) read(p *partition, offset int64, maxBytes int) ([]*eventlog.Batch, int64, error) {
	for {
		forgotten := p.forgotten.Load()
		b := p.bounds()
		if err := p.check(offset, b, b.stable); err != nil {
			return nil, offset, err
		}
		batches, next, err := e.readBelow(p, offset, b.stable, maxBytes)
		if err != nil {
			return nil, offset, err
		}
		if batches = p.withoutHidden(batches); p.forgotten.Load() == forgotten { // else some may not be known any more as aborted
			return batches, next, nil
		}
	}
}

// withoutHidden leaves out markers and what was aborted. The slice is the caller's own.
func (p *partition) withoutHidden(batches []*eventlog.Batch) []*eventlog.Batch {
	return slices.DeleteFunc(batches, func(b *eventlog.Batch) bool { return !p.visible(b.Raw()) })
}

// readBelow returns batches from an offset on, all of them below end. It returns something, or moves on; next is end at most.
func (e *Engine) readBelow(p *partition, offset, end int64, maxBytes int) (batches []*eventlog.Batch, next int64, err error) {
	for offset < end {
		batches, below := p.fromMemory(offset, end, maxBytes)
		if len(batches) > 0 {
			return batches, batches[len(batches)-1].Next(), nil
		}
		if offset >= below { // in a batch that is not below end
			return nil, end, nil
		}
		batches, next, err := e.fromSegments(p, offset, min(below, end), maxBytes)
		if err != nil || len(batches) > 0 {
			return batches, next, err
		}
		offset = next
	}
	return nil, offset, nil
}

// fromSegments reads batches below an offset that is in the segments. Batches that compaction emptied are passed over.
func (e *Engine) fromSegments(p *partition, offset, below int64, maxBytes int) (batches []*eventlog.Batch, next int64, err error) {
	raw, err := e.readSegments(p, offset, maxBytes, true)
	if err != nil {
		return nil, offset, err
	}
	next = offset
	for len(raw) > 0 {
		n, err := eventlog.BatchSize(raw) // the segment has checked the whole batch
		if err != nil || n == 0 || n > len(raw) {
			return nil, offset, fmt.Errorf("read %v at %d: %w", p.part, next, eventlog.ErrCorrupt)
		}
		b := eventlog.RawBatch(raw[:n:n])
		if raw = raw[n:]; b.Next() > below {
			return batches, below, nil
		}
		next = max(next, b.Next())
		if b.Count() > 0 {
			batch := eventlog.NewRawBatch(p.part, b)
			batch.Own = b.ProducerID() >= FirstOwnProducerID
			batches = append(batches, batch)
		}
	}
	if next == offset { // nothing is left between here and what memory holds
		next = below
	}
	return batches, next, nil
}

// readSegments reads whole batches from the segments. What retention took under the reader's feet is out of range.
func (e *Engine) readSegments(p *partition, offset int64, maxBytes int, minOne bool) ([]byte, error) {
	log, err := e.segmentsOf(p)
	if err != nil {
		return nil, err
	}
	raw, err := log.Read(offset, maxBytes, minOne)
	if err == nil {
		return raw, nil
	}
	if p.topic.gone.Load() {
		return nil, fmt.Errorf("read %v: %w", p.part, eventlog.ErrUnknownTopic)
	}
	if cerr := e.open(); cerr != nil {
		return nil, fmt.Errorf("read %v: %w", p.part, cerr)
	}
	if b := p.bounds(); offset < b.start {
		return nil, p.check(offset, b, b.high)
	}
	e.noteDamage(p, err)
	return nil, fmt.Errorf("read topic %q, partition %d, at %d: %w", p.topic.name, p.part.Index, offset, err)
}

// FetchRaw returns stored batches as they are, about maxBytes of them, at least one whole batch if minOne.
// *eventlog.OutOfRangeError outside of [Start, High].
func (e *Engine) FetchRaw(at eventlog.Part, offset int64, maxBytes int, minOne bool) (Fetched, error) {
	return e.fetch(at, offset, maxBytes, minOne, false)
}

// FetchCommitted is FetchRaw for who reads only what is committed: nothing from the last stable offset on, and with it what of
// it was aborted.
func (e *Engine) FetchCommitted(at eventlog.Part, offset int64, maxBytes int, minOne bool) (Fetched, error) {
	p, err := e.partition(at)
	if err != nil {
		return Fetched{}, fmt.Errorf("fetch: %w", err)
	}
	for {
		forgotten := p.forgotten.Load()
		f, err := e.fetch(at, offset, maxBytes, minOne, true)
		if err != nil || len(f.Raw) == 0 {
			return f, err
		}
		f.Aborted = p.abortedIn(offset, endOfBatches(f.Raw))
		if p.forgotten.Load() == forgotten { // else some may not be known any more as aborted
			return f, nil
		}
	}
}

// FetchFile is FetchRaw or FetchCommitted for who can send a file without reading it: at least and at most so many bytes, as a span that
// the caller releases. False: the batches are in memory, have to be verified, or there are not as many, and are to be had by the other two.
func (e *Engine) FetchFile(at eventlog.Part, offset int64, least, most int, committed bool) (f Fetched, ok bool) {
	p, err := e.partition(at)
	if err != nil || e.open() != nil {
		return Fetched{}, false
	}
	forgotten := p.forgotten.Load()
	b := p.bounds()
	end := b.high
	if committed {
		end = b.stable
	}
	if offset < b.start || offset >= end || offset >= p.appliedOffset() {
		return Fetched{}, false
	}
	log, err := e.segmentsOf(p)
	if err != nil {
		return Fetched{}, false
	}
	f = Fetched{Start: b.start, Stable: b.stable, High: b.high}
	if f.File, ok = log.Span(offset, end, least, most); !ok || !committed {
		return f, ok
	}
	f.Aborted = p.abortedIn(offset, f.File.Next)
	if p.forgotten.Load() != forgotten { // some may not be known any more as aborted
		f.File.Release()
		return Fetched{}, false
	}
	return f, true
}

func (e *Engine) fetch(at eventlog.Part, offset int64, maxBytes int, minOne, committed bool) (Fetched, error) {
	if err := e.open(); err != nil {
		return Fetched{}, fmt.Errorf("fetch: %w", err)
	}
	p, err := e.partition(at)
	if err != nil {
		return Fetched{}, fmt.Errorf("fetch: %w", err)
	}
	for {
		b := p.bounds()
		f := Fetched{Start: b.start, Stable: b.stable, High: b.high}
		end := b.high
		if committed {
			end = b.stable
		}
		if err := p.check(offset, b, b.high); err != nil || offset >= end {
			return f, err
		}
		batches, below := p.fromMemory(offset, end, maxBytes)
		if len(batches) > 0 {
			f.Raw = concat(batches, maxBytes, minOne)
			return f, nil
		}
		if offset >= below { // in a batch that is not below end
			return f, nil
		}
		if f.Raw, err = e.readSegments(p, offset, maxBytes, minOne); err != nil || !minOne && len(f.Raw) == 0 {
			return f, err
		}
		if committed {
			f.Raw = cutAt(f.Raw, end)
		}
		if len(f.Raw) > 0 {
			return f, nil
		}
		offset = below
	}
}

// endOfBatches is the offset after whole batches.
func endOfBatches(raw []byte) (end int64) {
	for len(raw) > 0 {
		n, err := eventlog.BatchSize(raw)
		if err != nil || n == 0 {
			return math.MaxInt64
		}
		end = eventlog.RawBatch(raw).Next()
		raw = raw[min(n, len(raw)):]
	}
	return end
}

// cutAt cuts whole batches before the first that does not end by an offset.
func cutAt(raw []byte, end int64) []byte {
	for at := 0; at < len(raw); {
		n, err := eventlog.BatchSize(raw[at:]) // the segment has checked the batches
		if err != nil || n == 0 || eventlog.RawBatch(raw[at:]).Next() > end {
			return raw[:at]
		}
		at += n
	}
	return raw
}

// concat is batches as they are stored. The first one is the only one that may be larger than maxBytes, if minOne.
func concat(batches []*eventlog.Batch, maxBytes int, minOne bool) []byte {
	n := 0
	for i, b := range batches {
		if n+b.Size() > maxBytes && (i > 0 || !minOne) {
			batches = batches[:i]
			break
		}
		n += b.Size()
	}
	out := make([]byte, 0, n)
	for _, b := range batches {
		out = append(out, b.Raw()...)
	}
	return out
}

// ReadableBytes says roughly how many bytes [offset, high) holds, without reading them, at most limit.
func (e *Engine) ReadableBytes(at eventlog.Part, offset int64, limit int) int {
	return e.readable(at, offset, limit, false)
}

// ReadableCommitted is ReadableBytes for FetchCommitted.
func (e *Engine) ReadableCommitted(at eventlog.Part, offset int64, limit int) int {
	return e.readable(at, offset, limit, true)
}

func (e *Engine) readable(at eventlog.Part, offset int64, limit int, committed bool) int {
	p, err := e.partition(at)
	if err != nil {
		return 0
	}
	b := p.bounds()
	end := b.high
	if committed {
		end = b.stable
	}
	if offset < b.start || offset >= end {
		return 0
	}
	n := int64(0)
	batches, below := p.fromMemory(max(offset, p.appliedOffset()), end, limit)
	for _, b := range batches {
		n += int64(b.Size())
	}
	if offset < below && n < int64(limit) {
		n += e.segmentBytes(p, offset, end)
	}
	return int(min(n, int64(limit)))
}

func (p *partition) appliedOffset() int64 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.applied
}

// segmentBytes estimates the bytes of the segments from an offset on and below another.
func (e *Engine) segmentBytes(p *partition, offset, end int64) int64 {
	log, err := e.segmentsOf(p)
	if err != nil {
		return 0
	}
	return log.Between(offset, end)
}

// Ends implements eventlog.Driver.
func (e *Engine) Ends(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return e.offsets(ctx, "ends", id, func(p *partition) int64 { return p.stable.Load() })
}

// Highs returns, for each partition of a topic by index, the offset below which everything is durable, stable or not.
func (e *Engine) Highs(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return e.offsets(ctx, "high watermarks", id, func(p *partition) int64 { return p.high.Load() })
}

// Starts implements eventlog.Driver.
func (e *Engine) Starts(ctx context.Context, id eventlog.TopicID) ([]int64, error) {
	return e.offsets(ctx, "starts", id, func(p *partition) int64 { return p.start.Load() })
}

func (e *Engine) offsets(ctx context.Context, what string, id eventlog.TopicID, of func(*partition) int64) ([]int64, error) {
	if err := e.usable(ctx); err != nil {
		return nil, fmt.Errorf("%s of %v: %w", what, id, err)
	}
	parts, err := e.partitions(id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	out := make([]int64, len(parts))
	for i, p := range parts {
		out[i] = of(p)
	}
	return out, nil
}

// PartSizes returns the bytes of each partition of a topic, by index.
func (e *Engine) PartSizes(id eventlog.TopicID) ([]int64, error) {
	if err := e.open(); err != nil {
		return nil, fmt.Errorf("sizes of %v: %w", id, err)
	}
	parts, err := e.partitions(id)
	if err != nil {
		return nil, fmt.Errorf("sizes: %w", err)
	}
	out := make([]int64, len(parts))
	for i, p := range parts {
		out[i] = p.size()
	}
	return out, nil
}

// OffsetByTime implements eventlog.Driver.
func (e *Engine) OffsetByTime(ctx context.Context, at eventlog.Part, t int64) (int64, error) {
	if err := e.usable(ctx); err != nil {
		return -1, fmt.Errorf("offset by time of %v: %w", at, err)
	}
	found, err := e.FindCommittedTime(at, t)
	return found.Offset, err
}

// FindCommittedTime is FindTime among the stable records.
func (e *Engine) FindCommittedTime(at eventlog.Part, t int64) (TimeOffset, error) {
	found, err := e.FindTime(at, t)
	if err != nil || found == noTime {
		return noTime, err
	}
	p, err := e.findable(at)
	if err != nil {
		return noTime, err
	}
	switch {
	case found.Offset >= p.stable.Load(): // it is the first
		return noTime, nil
	case p.aborted.Load() == nil: // no transaction ever
		return found, nil
	}
	return e.scan(p, found.Offset, t)
}

var noTime = TimeOffset{-1, -1}

// FindTime finds the first record with a timestamp of t or later.
func (e *Engine) FindTime(at eventlog.Part, t int64) (TimeOffset, error) {
	p, err := e.findable(at)
	if err != nil {
		return noTime, err
	}
	start, applied := p.start.Load(), p.appliedOffset()
	if start < applied {
		log, err := e.segmentsOf(p)
		if err != nil {
			return noTime, err
		}
		offset, ts, err := log.FindTime(t, start)
		switch {
		case err != nil:
			return noTime, fmt.Errorf("find time in %v: %w", at, err)
		case offset >= 0:
			return TimeOffset{offset, ts}, nil
		}
	}
	return e.scanMemory(p, max(start, applied), t)
}

func (e *Engine) findable(at eventlog.Part) (*partition, error) {
	if err := e.open(); err != nil {
		return nil, fmt.Errorf("find time in %v: %w", at, err)
	}
	p, err := e.partition(at)
	if err != nil {
		return nil, fmt.Errorf("find time: %w", err)
	}
	return p, nil
}

// scanMemory finds the first record of t or later at or after an offset in memory. Batches whose header says that all is
// earlier are not taken apart.
func (e *Engine) scanMemory(p *partition, from, t int64) (TimeOffset, error) {
	p.mu.RLock()
	batches := slices.Clone(p.mem)
	moved := p.applied > from
	p.mu.RUnlock()
	if moved { // into the segments, between two looks
		return e.scanAll(p, from, t)
	}
	for _, b := range batches {
		if b.Next() <= from || b.Raw().MaxTime() < t {
			continue
		}
		if found := firstIn(b, from, func(r *eventlog.Record) bool { return r.Timestamp >= t }); found != noTime {
			return found, nil
		}
	}
	return noTime, nil
}

// scan reads on from an offset to the first stable record of t or later.
func (e *Engine) scan(p *partition, from, t int64) (TimeOffset, error) {
	return scanTime(from, t, func(offset int64) ([]*eventlog.Batch, int64, error) { return e.read(p, offset, 1<<20) })
}

// scanAll is scan among all records, stable or not.
func (e *Engine) scanAll(p *partition, from, t int64) (TimeOffset, error) {
	return scanTime(from, t, func(offset int64) ([]*eventlog.Batch, int64, error) {
		return e.readBelow(p, offset, p.high.Load(), 1<<20)
	})
}

func scanTime(from, t int64, read func(int64) ([]*eventlog.Batch, int64, error)) (TimeOffset, error) {
	for offset := from; ; {
		batches, next, err := read(offset)
		if err != nil || next == offset {
			return noTime, err
		}
		for _, b := range batches {
			if found := firstIn(b, from, func(r *eventlog.Record) bool { return r.Timestamp >= t }); found != noTime {
				return found, nil
			}
		}
		offset = next
	}
}

// firstIn finds the first record at or after an offset that is looked for. A batch that cannot be decoded has none, here as in the
// segments: that is its producer's doing.
func firstIn(b *eventlog.Batch, from int64, match func(*eventlog.Record) bool) TimeOffset {
	found := noTime
	err := b.Each(func(r *eventlog.Record) error {
		if r.Offset >= from && found == noTime && match(r) {
			found = TimeOffset{r.Offset, r.Timestamp}
		}
		return nil
	})
	if err != nil {
		return noTime
	}
	return found
}

// FindMaxTime finds the record with the latest timestamp, the first one if several have it.
func (e *Engine) FindMaxTime(at eventlog.Part) (TimeOffset, error) {
	p, err := e.findable(at)
	if err != nil {
		return noTime, err
	}
	p.mu.RLock()
	batches, applied := slices.Clone(p.mem), p.applied // before the segments: what goes there meanwhile is seen twice, not missed
	p.mu.RUnlock()
	start, best := p.start.Load(), noTime
	if start < applied {
		log, err := e.segmentsOf(p)
		if err != nil {
			return noTime, err
		}
		offset, ts, err := log.FindMaxTime(start)
		if err != nil {
			return noTime, fmt.Errorf("find the latest time in %v: %w", at, err)
		}
		best = TimeOffset{offset, ts}
	}
	for _, b := range batches {
		if b.Next() <= start || b.Raw().MaxTime() <= best.Timestamp {
			continue
		}
		firstIn(b, start, func(r *eventlog.Record) bool {
			if r.Timestamp > best.Timestamp {
				best = TimeOffset{r.Offset, r.Timestamp}
			}
			return false
		})
	}
	return best, nil
}
