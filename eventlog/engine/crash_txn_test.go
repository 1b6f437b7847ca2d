package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// Transactions in the many lives of a log: what becomes of them is told by the log's bytes, batch by batch and marker by marker, and
// held against what their producers know, and against what readers are shown.

// worldTxn is one transaction as its producer knows it.
type worldTxn struct {
	n       int
	parts   map[eventlog.Part]bool
	records []string // those that were answered
	unsure  bool     // some were not
	fate    txnFate
}

type txnFate uint8

const (
	txnOpen txnFate = iota
	txnCommitting
	txnAborting
	txnCommitted
	txnAborted
)

// transactor is a producer of transactions, through all lives.
type transactor struct {
	id    int64
	epoch int16
	seqs  map[eventlog.Part]int32
	cur   *worldTxn
}

// prepareTxns makes the producers.
func (w *world) prepareTxns(e *Engine) bool {
	for len(w.transactors) < 2 {
		id, err := e.NewProducerID()
		if err != nil {
			return false
		}
		w.transactors = append(w.transactors, &transactor{id: id, seqs: map[eventlog.Part]int32{}})
	}
	return true
}

func (w *world) transact(e *Engine, rng *rand.Rand, tp *transactor) {
	for range 2 + rng.IntN(5) {
		if tp.cur == nil {
			w.mu.Lock()
			tp.cur = &worldTxn{n: len(w.txns), parts: map[eventlog.Part]bool{}}
			w.txns = append(w.txns, tp.cur)
			w.mu.Unlock()
		}
		for range rng.IntN(5) {
			if !tp.cur.unsure && !w.sendInTxn(e, rng, tp) {
				return
			}
		}
		if rng.IntN(8) == 0 {
			return // it is left open for the next life
		}
		if !w.endTxn(e, tp, !tp.cur.unsure && rng.IntN(3) > 0) {
			return
		}
	}
}

// sendInTxn sends one batch and waits for its answer; false if there will be none.
func (w *world) sendInTxn(e *Engine, rng *rand.Rand, tp *transactor) bool {
	name, part := w.somePart(rng, "txn", "txn", "txnsized", "txncompact", "txncompact")
	txn := tp.cur
	b := &idempotentBatch{part: part}
	var bl eventlog.Builder
	var ids []string
	for i := range 1 + rng.IntN(3) {
		r := &sentRecord{part: part, stream: fmt.Sprintf("t%d", txn.n), n: len(txn.records) + i, txn: txn}
		var key []byte
		if name == "txncompact" {
			r.key = strconv.Itoa(rng.IntN(5))
			key = []byte(r.key)
		}
		value := w.note(rng, r)
		id, _, _ := strings.Cut(string(value), "|")
		ids = append(ids, id)
		bl.Add(e.Now(), key, value, nil)
		b.recs = append(b.recs, r)
	}
	batch, _, err := bl.Batch(part, eventlog.None)
	if err != nil {
		panic(err)
	}
	raw := batch.Raw()
	raw.SetProducer(tp.id, tp.epoch, tp.seqs[part])
	raw.SetTransactional(true)
	raw.Reseal()
	w.mu.Lock()
	txn.parts[part] = true
	w.mu.Unlock()
	done := make(chan Produced, 1)
	e.ProduceAs(part, raw, AcksDurable, Producing{Transactional: true, Fresh: true}, func(r Produced) { done <- r })
	r := <-done
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case r.Err == nil:
		tp.seqs[part] += raw.Count()
		for i, rec := range b.recs {
			rec.offset = r.Base + int64(i)
		}
		txn.records = append(txn.records, ids...)
		return true
	case !errors.Is(r.Err, eventlog.ErrClosed):
		w.bad = append(w.bad, fmt.Errorf("produce in transaction %d: %w", txn.n, r.Err))
	}
	txn.unsure = true
	return false
}

// endTxn ends the transaction at hand; false if there is no answer.
func (w *world) endTxn(e *Engine, tp *transactor, commit bool) bool {
	txn := tp.cur
	end := End{ProducerID: tp.id, Epoch: tp.epoch + 1, Commit: commit}
	w.mu.Lock()
	for p := range txn.parts {
		end.Parts = append(end.Parts, p)
	}
	fate, word := txnAborting, "aborted"
	if commit {
		fate, word = txnCommitting, "committed"
	}
	txn.fate = fate
	state := eventlog.Part{Topic: w.topics["txnstate"].id}
	w.mu.Unlock()
	var bl eventlog.Builder
	bl.Add(e.Now(), nil, fmt.Appendf(nil, "%d %s", txn.n, word), nil)
	b, _, err := bl.Batch(state, eventlog.None)
	if err != nil {
		panic(err)
	}
	end.State = b
	done := make(chan error, 1)
	e.EndTransaction(end, func(err error) { done <- err })
	switch err := <-done; {
	case err == nil:
		w.mu.Lock()
		defer w.mu.Unlock()
		w.settle(tp, commit)
		return true
	case !errors.Is(err, eventlog.ErrClosed):
		w.wrong("end transaction %d: %w", txn.n, err)
	}
	return false
}

// settle notes how a transaction ended. Called with mu held.
func (w *world) settle(tp *transactor, commit bool) {
	txn := tp.cur
	txn.fate = txnAborted
	became := refused
	met.aborted.Add(1)
	if commit {
		txn.fate, became = txnCommitted, durable
		met.aborted.Add(-1)
		met.committed.Add(1)
	}
	for _, id := range txn.records {
		w.recs[id].fate = became
	}
	tp.cur, tp.seqs = nil, map[eventlog.Part]int32{}
	tp.epoch++
}

// committed takes out of a fetch what a consumer would be shown.
func committedOf(f *Fetched, p eventlog.Part) (batches []*eventlog.Batch, err error) {
	for raw := f.Raw; len(raw) > 0; {
		b, err := eventlog.CheckBatch(raw)
		if err != nil {
			return nil, err
		}
		raw = raw[len(b):]
		hidden := b.Attributes()&eventlog.AttrControl != 0
		for _, a := range f.Aborted {
			hidden = hidden || b.Attributes()&eventlog.AttrTransactional != 0 && a.ProducerID == b.ProducerID() && a.First <= b.Base() && b.Base() < a.Last
		}
		if !hidden {
			batches = append(batches, eventlog.NewRawBatch(p, b))
		}
	}
	return batches, nil
}

// rawTxns is what the bytes of all partitions say of transactions.
type rawTxns struct {
	fates map[string]txnFate // of the records that are there
	held  bool
}

// scanTxnPart goes through a partition's bytes. It holds what readers are shown against them, and returns what of it is there for good.
// Of a compacted one they say that from what is stable on only: below it, there are no markers of what was committed, and it is shown that tells.
func (w *world) scanTxnPart(e *Engine, p eventlog.Part, t *worldTopic, start int64, found *rawTxns) (log map[int64]string, order []int64, err error) {
	log = map[int64]string{}
	open := map[int64][]int64{}  // producer to the offsets of its records
	begun := map[int64]int64{}   // producer to the first offset of its transaction
	values := map[int64]string{} // all records
	aborted := map[int64]struct{}{}
	var high int64
	for at := start; ; {
		f, err := e.FetchRaw(p, at, 1<<20, true)
		if err != nil {
			return nil, nil, err
		}
		high = f.High
		if len(f.Raw) == 0 {
			break
		}
		for raw := f.Raw; len(raw) > 0; {
			b, err := eventlog.CheckBatch(raw)
			if err != nil {
				return nil, nil, err
			}
			raw, at = raw[len(b):], b.Next()
			id := b.ProducerID()
			if b.Attributes()&eventlog.AttrControl != 0 {
				for _, o := range open[id] {
					if !IsCommit(b) {
						aborted[o] = struct{}{}
					}
				}
				delete(open, id)
				delete(begun, id)
				continue
			}
			_ = eventlog.NewRawBatch(p, b).Each(func(r *eventlog.Record) error {
				if r.Offset < start {
					return nil
				}
				values[r.Offset], _, _ = strings.Cut(string(r.Value), "|")
				if b.Attributes()&eventlog.AttrTransactional != 0 {
					open[id] = append(open[id], r.Offset)
				}
				return nil
			})
			if _, ok := begun[id]; !ok && b.Attributes()&eventlog.AttrTransactional != 0 {
				begun[id] = b.Base()
			}
		}
	}
	if t.compact {
		if err := w.compactedTxns(e, p, start, open, begun, values, aborted); err != nil {
			return nil, nil, err
		}
	}
	stable, pending := high, map[int64]bool{}
	for _, first := range begun {
		stable = min(stable, first)
		found.held = true
	}
	stable = max(stable, start)
	for _, offsets := range open {
		for _, o := range offsets {
			pending[o] = true
		}
	}
	for o, v := range values {
		switch _, gone := aborted[o]; {
		case gone:
			found.fates[v] = txnAborted
		case pending[o]:
			found.fates[v] = txnOpen
		default:
			found.fates[v] = txnCommitted
			log[o] = v
			order = append(order, o)
		}
	}
	slices.Sort(order)
	return log, order, w.shown(e, p, start, stable, log)
}

// compactedTxns puts right what the bytes of a compacted partition seem to say below what is stable: what is not shown was aborted, the rest
// has ended. Whether that is so, the coordinator's records tell (verifyTxn).
func (w *world) compactedTxns(e *Engine, p eventlog.Part, start int64, open map[int64][]int64, begun map[int64]int64, values map[int64]string,
	aborted map[int64]struct{}) error {
	ends, err := e.Ends(context.Background(), p.Topic)
	if err != nil {
		return err
	}
	stable := ends[p.Index]
	shown, err := w.read(e, p, start, stable)
	if err != nil {
		return err
	}
	for o := range values {
		if o >= stable {
			continue
		}
		if delete(aborted, o); shown[o] == "" {
			aborted[o] = struct{}{}
		}
	}
	for id, offsets := range open {
		if begun[id] < stable {
			met.markersGone.Add(1)
		}
		open[id] = slices.DeleteFunc(offsets, func(o int64) bool { return o < stable })
		if delete(begun, id); len(open[id]) > 0 {
			begun[id] = open[id][0]
		}
	}
	return nil
}

// shown holds what a reader is shown against what the bytes say.
func (w *world) shown(e *Engine, p eventlog.Part, start, stable int64, log map[int64]string) error {
	ctx := context.Background()
	ends, err := e.Ends(ctx, p.Topic)
	if err != nil {
		return err
	}
	if ends[p.Index] != stable {
		w.wrong("%v: %d is said to be stable, its bytes say %d", p, ends[p.Index], stable)
	}
	shown, err := w.read(e, p, start, stable)
	if err != nil {
		return err
	}
	for o, v := range log {
		if o < stable && shown[o] != v {
			w.wrong("%v: %q at %d is committed, and not shown", p, v, o)
		}
	}
	for o, v := range shown {
		if o >= start && log[o] != v {
			w.wrong("%v: %q at %d is shown, and not committed", p, v, o)
		}
	}
	return nil
}

// verifyTxns holds what the log's bytes say of each transaction against what its producer knows.
func (w *world) verifyTxns(e *Engine, found *rawTxns) {
	words := map[int]string{}
	for _, b := range allBatches(e, eventlog.Part{Topic: w.topics["txnstate"].id}) {
		_ = b.Each(func(r *eventlog.Record) error {
			var n int
			var word string
			if _, err := fmt.Sscan(string(r.Value), &n, &word); err != nil {
				return err
			}
			words[n] = word
			return nil
		})
	}
	if found.held {
		met.held.Add(1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, txn := range w.txns {
		w.verifyTxn(txn, found, words[txn.n])
	}
	for _, tp := range w.transactors {
		if tp.cur == nil {
			continue
		}
		switch words[tp.cur.n] {
		case "committed":
			w.settle(tp, true)
		case "aborted":
			w.settle(tp, false)
		default:
			tp.cur.fate = txnOpen
		}
	}
}

// verifyTxn: its records all tell the same, which is what its coordinator's record says, and what its producer was told.
func (w *world) verifyTxn(txn *worldTxn, found *rawTxns, word string) {
	wrong := func(format string, args ...any) {
		w.bad = append(w.bad, fmt.Errorf("transaction %d, %q, fate %d: "+format, append([]any{txn.n, word, txn.fate}, args...)...))
	}
	want := map[string]txnFate{"": txnOpen, "committed": txnCommitted, "aborted": txnAborted}[word]
	switch told := txn.fate; {
	case told == txnCommitted && want != txnCommitted, told == txnAborted && want != txnAborted, told == txnOpen && want != txnOpen,
		told == txnCommitting && want == txnAborted, told == txnAborting && want == txnCommitted:
		wrong("its coordinator's record does not fit")
	}
	for _, id := range txn.records {
		if fate, there := found.fates[id]; there && fate != want {
			wrong("its record %q has fate %d", id, fate)
		} else if !there && w.topics["txn"].id == w.recs[id].part.Topic {
			wrong("its record %q is lost", id)
		} else if !there && want == txnAborted && w.topics["txncompact"].id == w.recs[id].part.Topic {
			met.abortedGone.Add(1)
		}
	}
}

// read reads what is stable.
func (w *world) read(e *Engine, p eventlog.Part, start, stable int64) (map[int64]string, error) {
	shown := map[int64]string{}
	for at := start; at < stable; {
		batches, next, err := e.Read(context.Background(), eventlog.Position{Part: p, Offset: at}, 3000)
		if err != nil {
			return nil, err
		}
		for _, b := range batches {
			w.sawBatch(b)
			_ = b.Each(func(r *eventlog.Record) error {
				shown[r.Offset], _, _ = strings.Cut(string(r.Value), "|")
				return nil
			})
		}
		if next <= at {
			return nil, fmt.Errorf("a read of %v at %d goes to %d", p, at, next)
		}
		at = next
	}
	return shown, nil
}

func allBatches(e *Engine, p eventlog.Part) (all []*eventlog.Batch) {
	for at := int64(0); ; {
		batches, next, err := e.Read(context.Background(), eventlog.Position{Part: p, Offset: at}, 1<<20)
		if err != nil || next == at {
			return all
		}
		all, at = append(all, batches...), next
	}
}

// followed checks at a tail's end that it was shown every committed record that it is past.
type followed struct {
	mu   sync.Mutex
	seen map[eventlog.Position]bool
}

func (f *followed) batch(b *eventlog.Batch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = b.Each(func(r *eventlog.Record) error {
		f.seen[eventlog.Position{Part: b.Part, Offset: r.Offset}] = true
		return nil
	})
}

func (w *world) missed(f *followed, topic eventlog.TopicID, from, next map[eventlog.Part]int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, r := range w.recs {
		at := eventlog.Position{Part: r.part, Offset: r.offset}
		if r.part.Topic == topic && r.fate == durable && r.offset >= from[r.part] && r.offset < next[r.part] && !f.seen[at] {
			w.bad = append(w.bad, fmt.Errorf("a tail is at %d of %v and was not shown %q at %d", next[r.part], r.part, id, r.offset))
		}
	}
}
