package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/millrace-io/millrace/eventlog"
)

// Transactions of foreign producers, as a partition sees them. A transaction is open in a partition from its first batch there
// to its marker, a control batch in Kafka's format. Which partitions it has, and how it ends, is its coordinator's to know; the
// log keeps what is stable below the first open one, and remembers the aborted ones for as long as it has their records.

var (
	// ErrInvalidTxnState: a batch of a producer does not fit its transaction.
	ErrInvalidTxnState = errors.New("invalid transaction state")
	// ErrTooManyAborted: no transaction may begin while so many aborted ones have to be remembered.
	ErrTooManyAborted = errors.New("too many aborted transactions to remember; retention makes room")
)

// maxAborted bounds the aborted transactions that are remembered of one partition.
const maxAborted = 100_000

// Aborted is a transaction that was aborted, in one partition.
type Aborted struct {
	ProducerID  int64
	First, Last int64 // its first batch's first offset, and its marker's
	Stable      int64 // the last stable offset after it ended: no open transaction began before
}

// transactions is what a partition remembers of them. It belongs to the committer, and is there from the first one on.
type transactions struct {
	open    map[int64]openTxn // by producer
	order   []openTxn         // the same, the one that began first before the others
	aborted []Aborted         // by Last; published slices share its memory, so nothing in it ever changes
	changed bool              // aborted, since it was published
	encoded []byte            // as a checkpoint has them; nil when they changed since
}

type openTxn struct {
	first int64
	since int64 // the node's clock at its first batch
}

func (t *transactions) begin(id int64, o openTxn) {
	t.open[id] = o
	t.order = append(t.order, o) // offsets ascend
	t.encoded = nil
}

// end takes the marker of a producer's transaction, if one is open.
func (t *transactions) end(id, marker int64, commit bool) {
	o, ok := t.open[id]
	if !ok {
		return
	}
	delete(t.open, id)
	i := sort.Search(len(t.order), func(i int) bool { return t.order[i].first >= o.first })
	t.order = slices.Delete(t.order, i, i+1)
	t.encoded = nil
	if !commit {
		t.aborted = append(t.aborted, Aborted{ProducerID: id, First: o.first, Last: marker, Stable: t.stable(marker + 1)})
		t.changed = true
	}
}

// stable is where the first open transaction begins, or the end.
func (t *transactions) stable(end int64) int64 {
	if len(t.order) > 0 {
		return min(t.order[0].first, end)
	}
	return end
}

// forget drops what is aborted before the log's start.
func (t *transactions) forget(start int64) {
	n := sort.Search(len(t.aborted), func(i int) bool { return t.aborted[i].Last >= start })
	if n > 0 {
		t.aborted = slices.Clone(t.aborted[n:])
		t.changed, t.encoded = true, nil
	}
}

// append encodes them for a checkpoint.
func (t *transactions) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.open)))
	for _, id := range t.byFirst() {
		o := t.open[id]
		for _, v := range []int64{id, o.first, o.since} {
			b = binary.BigEndian.AppendUint64(b, uint64(v))
		}
	}
	b = binary.AppendUvarint(b, uint64(len(t.aborted)))
	for _, a := range t.aborted {
		for _, v := range []int64{a.ProducerID, a.First, a.Last, a.Stable} {
			b = binary.BigEndian.AppendUint64(b, uint64(v))
		}
	}
	return b
}

// byFirst is the producers with an open transaction, the one that began first before the others.
func (t *transactions) byFirst() []int64 {
	ids := make([]int64, 0, len(t.open))
	for id := range t.open {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b int64) int { return int(min(max(t.open[a].first-t.open[b].first, -1), 1)) })
	return ids
}

func readTransactions(r *reader) *transactions {
	t := &transactions{open: map[int64]openTxn{}}
	for range r.count(24) {
		id := r.i64()
		o := openTxn{first: r.i64(), since: r.i64()}
		if _, twice := t.open[id]; r.bad || twice || len(t.order) > 0 && t.order[len(t.order)-1].first >= o.first {
			r.bad = true
			return t
		}
		t.begin(id, o)
	}
	for range r.count(32) {
		a := Aborted{r.i64(), r.i64(), r.i64(), r.i64()}
		if n := len(t.aborted); a.First > a.Last || n > 0 && t.aborted[n-1].Last >= a.Last {
			r.bad = true
			return t
		}
		t.aborted = append(t.aborted, a)
	}
	t.changed = true
	return t
}

// transact takes a transactional batch: one that begins or goes on with a transaction, or a marker.
func (p *partition) transact(raw eventlog.RawBatch, now int64) {
	t := p.head.txns
	if t == nil {
		t = &transactions{open: map[int64]openTxn{}, changed: true}
		p.head.txns = t
	}
	id := raw.ProducerID()
	if raw.Attributes()&eventlog.AttrControl != 0 {
		t.end(id, raw.Base(), IsCommit(raw))
	} else if _, open := t.open[id]; !open {
		t.begin(id, openTxn{raw.Base(), now})
	}
}

// mayJoin says why a batch of a foreign producer does not fit its transactions here.
func (p *partition) mayJoin(raw eventlog.RawBatch) error {
	transactional := raw.Attributes()&eventlog.AttrTransactional != 0
	t := p.head.txns
	if t == nil {
		return nil
	}
	switch _, open := t.open[raw.ProducerID()]; {
	case open && !transactional:
		return fmt.Errorf("%w: a batch outside of the transaction that is open", ErrInvalidTxnState)
	case transactional && !open && len(t.aborted) >= maxAborted:
		return ErrTooManyAborted
	}
	return nil
}

// encodedTransactions is the partition's transactions as a checkpoint has them; none is no bytes.
func (p *partition) encodedTransactions() []byte {
	t := p.head.txns
	if t == nil {
		return nil
	}
	if t.encoded == nil {
		t.encoded = t.append(nil)
	}
	return t.encoded
}

// showStable publishes what is stable, now that everything below high is durable and the log begins at start. What is aborted is
// known before it is.
func (p *partition) showStable(high, start int64) {
	t := p.head.txns
	if t == nil {
		p.stable.Store(high)
		return
	}
	if t.changed {
		aborted := t.aborted
		p.aborted.Store(&aborted)
		t.changed = false
	}
	held := int64(0)
	if len(t.order) > 0 {
		held = t.order[0].since
	}
	p.held.Store(held)
	if stable := max(t.stable(high), start); mutant(mutantReadOpen) {
		p.stable.Store(high)
	} else {
		p.stable.Store(stable)
	}
}

// moveStart publishes a log start. The start never passes what is stable, as readers see it.
func (p *partition) moveStart(to int64) {
	if p.head.txns != nil {
		p.showStable(p.high.Load(), to)
	}
	p.start.Store(to)
}

// visible tells whether a stable batch holds records for those who read what is committed.
func (p *partition) visible(raw eventlog.RawBatch) bool {
	switch a := raw.Attributes() & (eventlog.AttrTransactional | eventlog.AttrControl); {
	case a == 0:
		return true
	case a&eventlog.AttrControl != 0:
		return false
	}
	return !p.isAborted(raw.ProducerID(), raw.Base())
}

// isAborted tells whether a stable batch belongs to an aborted transaction.
func (p *partition) isAborted(id, base int64) bool {
	if mutant(mutantShowAborted) {
		return false
	}
	for _, a := range p.abortedSince(base) {
		if a.ProducerID == id && a.First <= base {
			return true
		}
		if a.Stable > base { // what ended later began later
			break
		}
	}
	return false
}

// abortedSince is the aborted transactions that ended at an offset or later.
func (p *partition) abortedSince(offset int64) []Aborted {
	view := p.aborted.Load()
	if view == nil {
		return nil
	}
	all := *view
	return all[sort.Search(len(all), func(i int) bool { return all[i].Last >= offset }):]
}

// abortedIn is the aborted transactions with anything in [from, to).
func (p *partition) abortedIn(from, to int64) (out []Aborted) {
	if mutant(mutantShowAborted) {
		return nil
	}
	for _, a := range p.abortedSince(from) {
		if a.First < to {
			out = append(out, a)
		}
		if a.Stable >= to {
			break
		}
	}
	return out
}

// End is the end of a transaction.
type End struct {
	ProducerID int64
	Epoch      int16 // of the markers, from which on the producer may write again
	Commit     bool
	Parts      []eventlog.Part // where it may be open
	State      *eventlog.Batch // nil, or what its coordinator wants remembered of it
}

// EndTransaction writes the markers of a transaction in all of its partitions, and its coordinator's record of it, in one
// commit: no crash leaves a part of it. Partitions where it is not open, or that are gone, get none. done is called as
// Append's.
func (e *Engine) EndTransaction(end End, done func(error)) {
	it := itemPool.Get().(*item)
	it.end = &endOf{End: end, done: done}
	size := (markerSize + batchHeader) * len(end.Parts)
	if end.State != nil {
		it.end.state, it.err = e.own(end.State)
		size += end.State.Size() + batchHeader
	}
	if limit := e.defaults.maxMessageLimit; it.err == nil && size > limit {
		it.err = fmt.Errorf("end a transaction in %d partitions: %w: %d bytes, at most %d", len(end.Parts), eventlog.ErrTooLarge, size, limit)
	}
	e.put(it, size)
}

// endOf is an End in the queue.
type endOf struct {
	End
	state *partition // where State goes
	done  func(error)
}

func (c *committer) takeEnd(it *item) {
	end := it.end
	if c.noSpace {
		it.err = fmt.Errorf("end a transaction: %w", eventlog.ErrNoSpace)
		return
	}
	if end.state != nil {
		if it.err = c.mayEnter(end.state, 0); it.err != nil {
			return
		}
	}
	for _, at := range end.Parts {
		p, err := c.state.partition(at)
		if err != nil { // gone, and its transactions with it
			continue
		}
		if p.isOpen(end.ProducerID) && !tearsEnd(p, end) {
			c.enter(p, eventlog.NewRawBatch(at, marker(end.ProducerID, end.Epoch, end.Commit, c.now)))
		}
	}
	if end.state != nil {
		c.enter(end.state, end.State)
	}
	it.taken = true
}

// AppendAs queues a batch built by a Builder as a part of a foreign producer's transaction: for its coordinator, which alone knows
// that the transaction has the partition. Sequences are not checked.
func (e *Engine) AppendAs(b *eventlog.Batch, id int64, epoch int16, done func(eventlog.Outcome)) {
	it := itemPool.Get().(*item)
	it.batch, it.done = b, done
	if it.p, it.err = e.own(b); it.err == nil && (!remembers(id) || epoch < 0) {
		it.err = fmt.Errorf("append to %v: %w: producer %d, epoch %d", b.Part, eventlog.ErrInvalid, id, epoch)
	}
	if it.err == nil {
		raw := b.Raw()
		raw.SetProducer(id, epoch, -1)
		raw.SetTransactional(true)
		raw.Reseal()
	}
	e.put(it, b.Size())
}

// markerSize is more than a marker's batch takes.
const markerSize = eventlog.HeaderSize + 32

// Kafka's kinds of control records.
const (
	abortMarker  = 0
	commitMarker = 1
)

// marker is the control batch that ends a transaction, as Kafka writes it: one record, whose key is a version and a kind and whose
// value is a version and the coordinator's epoch.
func marker(id int64, epoch int16, commit bool, now int64) eventlog.RawBatch {
	key, value := make([]byte, 4), make([]byte, 6)
	if commit {
		binary.BigEndian.PutUint16(key[2:], commitMarker)
	}
	var bl eventlog.Builder
	bl.Add(now, key, value, nil)
	b, _, err := bl.Batch(eventlog.Part{}, eventlog.None)
	if err != nil {
		panic(err) // without compression nothing can fail
	}
	raw := b.Raw()
	raw.SetProducer(id, epoch, -1)
	raw.SetControl()
	raw.Reseal()
	return raw
}

// IsCommit tells a commit's marker from an abort's.
func IsCommit(raw eventlog.RawBatch) (commit bool) {
	err := eventlog.NewRawBatch(eventlog.Part{}, raw).Each(func(r *eventlog.Record) error {
		commit = len(r.Key) >= 4 && binary.BigEndian.Uint16(r.Key[2:]) == commitMarker
		return nil
	})
	return err == nil && commit
}

// OpenTransaction is one that is open in a partition.
type OpenTransaction struct {
	Part       eventlog.Part
	ProducerID int64
	Epoch      int16
	First      int64 // offset
	Since      int64 // milliseconds since 1970
}

// OpenTransactions lists all that are open.
func (e *Engine) OpenTransactions(ctx context.Context) (out []OpenTransaction, err error) {
	err = e.do(ctx, func(s *state) ([]entry, func(), error) {
		for _, t := range s.topics {
			for _, p := range t.head.parts {
				if p.head.txns == nil {
					continue
				}
				for id, o := range p.head.txns.open {
					found := OpenTransaction{Part: p.part, ProducerID: id, First: o.first, Since: o.since}
					if pr := p.head.producers[id]; pr != nil {
						found.Epoch = pr.epoch
					}
					out = append(out, found)
				}
			}
		}
		return nil, nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list open transactions: %w", err)
	}
	return out, nil
}

// ProducerState is what a partition remembers of a producer.
type ProducerState struct {
	ID           int64
	Epoch        int16
	LastSequence int32 // -1 if none
	Active       int64 // milliseconds since 1970
	TxnFirst     int64 // where its open transaction begins, or -1
}

// Producers lists what a partition remembers, by id.
func (e *Engine) Producers(ctx context.Context, at eventlog.Part) (out []ProducerState, err error) {
	err = e.do(ctx, func(s *state) ([]entry, func(), error) {
		p, err := s.partition(at)
		if err != nil {
			return nil, nil, err
		}
		for id, pr := range p.head.producers {
			st := ProducerState{ID: id, Epoch: pr.epoch, LastSequence: -1, Active: pr.active, TxnFirst: -1}
			if pr.n > 0 {
				st.LastSequence = pr.last[0].last
			}
			if p.isOpen(id) {
				st.TxnFirst = p.head.txns.open[id].first
			}
			out = append(out, st)
		}
		return nil, nil, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list producers: %w", err)
	}
	slices.SortFunc(out, func(a, b ProducerState) int { return int(min(max(a.ID-b.ID, -1), 1)) })
	return out, nil
}

// HeldSince is since when the oldest open transaction of a partition has held back what is stable, in milliseconds since 1970; 0 if
// none is open.
func (e *Engine) HeldSince(at eventlog.Part) int64 {
	p, err := e.partition(at)
	if err != nil {
		return 0
	}
	return p.held.Load()
}

// isOpen tells whether a producer has a transaction open in the partition.
func (p *partition) isOpen(id int64) bool {
	if p.head.txns == nil {
		return false
	}
	_, open := p.head.txns.open[id]
	return open
}
