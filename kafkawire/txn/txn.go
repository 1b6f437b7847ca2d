// Package txn is Kafka's transaction coordinator as a pure state machine, one Txn per transactional id, for both versions of
// its transactions: the first, and the second (KIP-890), where every end gives the producer a new epoch.
//
// Requests and the time go in; a record, a transaction's end and an answer come out. The package starts no goroutine, reads no
// clock and touches no log: its caller writes Output.Record and, with it in one commit, the markers of Output.End, and then calls
// Settle with the same Output. Because the end of a transaction is one commit, the states of Kafka that say "being committed" are
// not needed: there is
//
//	Empty ──partitions──▶ Ongoing ──end, timeout, a successor──▶ CompleteCommit, CompleteAbort ──partitions──▶ Ongoing
//
// and, while an end is being written, a Txn that is busy and asks everybody to come again. What was said of it is replayed at the
// start from its records, in the format of the topic __transaction_state.
//
// It will never know sockets, topics' existence or who is allowed to do what: its caller checks those before it asks.
package txn

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// State is where a transactional id is, numbered as in Kafka's records.
type State int8

const (
	Empty          State = 0
	Ongoing        State = 1
	CompleteCommit State = 4
	CompleteAbort  State = 5
	Dead           State = 6 // its record is to be removed
)

var stateNames = map[State]string{
	Empty: "Empty", Ongoing: "Ongoing", CompleteCommit: "CompleteCommit", CompleteAbort: "CompleteAbort", Dead: "Dead",
}

// String is the state as Kafka's tools print it.
func (s State) String() string { return stateNames[s] }

// StateNames lists the names of all states that Kafka knows, those included that are never seen here.
func StateNames() []string {
	return append(slices.Collect(maps.Values(stateNames)), "PrepareCommit", "PrepareAbort", "PrepareEpochFence")
}

// Config is what all transactional ids of a server share.
type Config struct {
	MaxTimeout time.Duration // what a producer may ask for as its transactions' timeout
	Expiry     time.Duration // an id that nobody used for so long is forgotten
	MaxParts   int           // partitions of one transaction
	Room       *Room         // for those of all of them together; nil: there is no bound
}

// Room is shared by transactional ids, which are used in turn. What was open at a restart may be more than it has.
type Room struct {
	Parts int // that there may be
	taken int
}

// Taken is how many there are.
func (r *Room) Taken() int { return r.taken }

// put makes p the producer, and counts its partitions instead of those of the one before.
func (t *Txn) put(p producer) {
	if t.cfg.Room != nil {
		t.cfg.Room.taken += len(p.parts) - len(t.p.parts)
	}
	t.p = p
}

// Part is a partition by its topic's name, as records have it.
type Part struct {
	Topic string
	Index int32
}

// End is the end of a transaction in the log: markers of Epoch in all of Parts.
type End struct {
	ProducerID int64
	Epoch      int16
	Commit     bool
	Parts      []Part
}

// Output is what a step wants written: Record, and the markers of End in the same commit; then Settle is called with it. Without
// Record there is nothing to wait for. ProducerID and Epoch are the producer's from then on; unless Refusal is not nil: it is the
// answer, once all that is written.
type Output struct {
	Record     *Record
	End        *End
	ProducerID int64
	Epoch      int16
	Refusal    *kerr.Error

	next *producer
}

// producer is what an id's record says.
type producer struct {
	state     State
	id        int64 // -1: none yet
	before    int64 // the id that id took over from at the last end, or -1
	epoch     int16
	lastEpoch int16 // of before: who had it may ask again for what gave it epoch; or -1
	version   int16 // of the transactions of its client
	timeout   time.Duration
	parts     map[Part]struct{}
	started   time.Time
	updated   time.Time
}

// Txn is one transactional id. It is used by one goroutine at a time.
type Txn struct {
	id   string
	cfg  *Config
	p    producer
	busy bool          // an Output that changes the producer is being written
	cap  time.Duration // on the timeout of the transaction at hand, by its partitions; 0: none
}

// New returns a transactional id nobody has used yet.
func New(id string, cfg *Config) *Txn {
	return &Txn{id: id, cfg: cfg, p: producer{id: -1, before: -1, epoch: -1, lastEpoch: -1}}
}

// ID is the transactional id.
func (t *Txn) ID() string { return t.id }

// State is where it is.
func (t *Txn) State() State { return t.p.state }

// Producer is who has it, -1 if nobody yet.
func (t *Txn) Producer() (id int64, epoch int16) { return t.p.id, t.p.epoch }

// Forgettable says that nothing distinguishes it from one that never was.
func (t *Txn) Forgettable() bool { return t.p.id < 0 && !t.busy }

// Timeout is that of its transactions.
func (t *Txn) Timeout() time.Duration { return t.p.timeout }

// Started is when the transaction at hand began; ok is false if there is none.
func (t *Txn) Started() (at time.Time, ok bool) { return t.p.started, t.p.state == Ongoing }

// Parts are the partitions of the transaction at hand, in order.
func (t *Txn) Parts() []Part {
	return slices.SortedFunc(maps.Keys(t.p.parts), func(a, b Part) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Index, b.Index))
	})
}

// Has tells whether the transaction at hand has a partition.
func (t *Txn) Has(p Part) bool {
	_, ok := t.p.parts[p]
	return ok && t.p.state == Ongoing
}

// maxEpoch is the last epoch that a producer is given. One more is left, for the marker that fences it.
const maxEpoch = math.MaxInt16 - 1

// exhausted says that the next epoch must be another producer id's.
func (p *producer) exhausted() bool { return p.epoch >= maxEpoch }

// NeedsID says that Init or End will want a producer id that nobody had before.
func (t *Txn) NeedsID() bool { return t.p.id < 0 || t.p.exhausted() }

// bump gives the producer its next epoch, or the first one of a fresh id; false if that is needed and not given.
func (p *producer) bump(fresh int64) bool {
	p.before, p.lastEpoch = p.id, p.epoch
	if p.id >= 0 && !p.exhausted() {
		p.epoch++
		return true
	}
	p.id, p.epoch = fresh, 0
	return fresh >= 0
}

// Init gives the id to a producer, the old one again if it says who it was (want, -1 for none), else a new one. An open transaction is
// aborted: whoever had it is fenced. That is so, as in Kafka, even if who asks is fenced himself, which he hears when he comes again.
func (t *Txn) Init(now time.Time, timeout time.Duration, want int64, wantEpoch int16, fresh int64) (Output, *kerr.Error) {
	old := &t.p
	said := want >= 0 && old.id >= 0
	switch {
	case timeout <= 0 || timeout > t.cfg.MaxTimeout:
		return Output{}, kerr.InvalidTransactionTimeout
	case t.busy:
		return Output{}, kerr.ConcurrentTransactions
	case said && want != old.id && (want != old.before || wantEpoch < maxEpoch):
		return Output{}, kerr.ProducerFenced
	case said && wantEpoch != old.epoch:
		return t.initLate(now, timeout, wantEpoch, fresh)
	}
	next := *old
	next.state, next.parts, next.timeout = Empty, nil, timeout
	next.started = time.Time{}
	if !next.bump(fresh) {
		return Output{}, kerr.ConcurrentTransactions // the caller did not know that it takes a new id
	}
	if want < 0 { // a new producer: the old one may not ask again
		next.before, next.lastEpoch = -1, -1
	}
	var end *End
	if old.state == Ongoing {
		end = &End{old.id, old.epoch + 1, false, t.Parts()}
	}
	return t.become(now, next, end), nil
}

// initLate is Init of who says another epoch than the id's: that before the last bump, of which it did not hear, or one that is fenced.
func (t *Txn) initLate(now time.Time, timeout time.Duration, wantEpoch int16, fresh int64) (Output, *kerr.Error) {
	next := t.p
	if t.p.state == Ongoing {
		out := t.abort(now, fresh)
		if out.Refusal = kerr.ConcurrentTransactions; out.Record == nil {
			return Output{}, out.Refusal
		}
		return out, nil
	}
	if wantEpoch != t.p.lastEpoch {
		return Output{}, kerr.ProducerFenced
	}
	if next.state == Empty && next.timeout == timeout {
		return Output{ProducerID: next.id, Epoch: next.epoch}, nil
	}
	next.state, next.timeout = Empty, timeout
	return t.become(now, next, nil), nil
}

// abort is the output that aborts the transaction at hand and gives its producer another epoch; without a record where that takes a new id
// that is not given. The producer, whose epoch is past, cannot write or commit any more; if it aborts, or begins anew with the epoch that it
// has, it is told the new one, as in Kafka.
func (t *Txn) abort(now time.Time, fresh int64) Output {
	next := t.p
	if !next.bump(fresh) {
		return Output{}
	}
	next.state, next.parts, next.started = CompleteAbort, nil, time.Time{}
	return t.become(now, next, &End{t.p.id, t.p.epoch + 1, false, t.Parts()})
}

// become is the output that makes the producer another one.
func (t *Txn) become(now time.Time, next producer, end *End) Output {
	next.updated = now
	t.busy = true
	r := next.record(t.id)
	return Output{Record: &r, End: end, ProducerID: next.id, Epoch: next.epoch, next: &next}
}

// Settle takes in what became of an output with a record.
func (t *Txn) Settle(out Output, written bool) {
	if out.next == nil {
		return
	}
	t.busy = false
	if !written {
		return
	}
	if t.put(*out.next); t.p.state != Ongoing {
		t.cap = 0
	}
	if t.p.state == Dead {
		t.reset()
	}
}

// reset has the id be as if nobody had used it.
func (t *Txn) reset() {
	t.put(New(t.id, t.cfg).p)
	t.busy, t.cap = false, 0
}

// mine refuses who does not have the id.
func (t *Txn) mine(id int64, epoch int16) *kerr.Error {
	switch {
	case t.p.id < 0 || id != t.p.id:
		return kerr.InvalidProducerIDMapping
	case epoch != t.p.epoch:
		return kerr.ProducerFenced
	case t.busy:
		return kerr.ConcurrentTransactions
	}
	return nil
}

// Add gives the transaction partitions, and begins it with the first. Limit, if not 0, caps its timeout. What Add says is so at once, in
// memory: whatever is appended to the log after its record is covered by it.
func (t *Txn) Add(now time.Time, id int64, epoch, version int16, limit time.Duration, parts ...Part) (Output, *kerr.Error) {
	if err := t.mine(id, epoch); err != nil {
		return Output{}, err
	}
	var fresh map[Part]struct{} // a request may name one twice
	for _, p := range parts {
		if t.Has(p) {
			continue
		}
		if fresh == nil {
			fresh = map[Part]struct{}{}
		}
		fresh[p] = struct{}{}
	}
	if len(fresh) == 0 {
		return Output{}, nil
	}
	room := t.cfg.Room
	if len(t.p.parts)+len(fresh) > t.cfg.MaxParts || room != nil && room.taken+len(fresh) > room.Parts {
		return Output{}, kerr.PolicyViolation
	}
	if t.p.state != Ongoing {
		t.p.state, t.p.parts, t.p.started, t.cap = Ongoing, map[Part]struct{}{}, now, 0
	}
	if room != nil {
		room.taken += len(fresh)
	}
	maps.Copy(t.p.parts, fresh)
	t.p.updated, t.p.version = now, version
	t.Limit(limit)
	r := t.p.record(t.id)
	return Output{Record: &r, ProducerID: id, Epoch: epoch}, nil
}

// Limit caps the timeout of the transaction at hand; 0 does not.
func (t *Txn) Limit(limit time.Duration) {
	if limit > 0 && (t.cap == 0 || limit < t.cap) {
		t.cap = limit
	}
}

// Check refuses a batch that is no part of the transaction.
func (t *Txn) Check(id int64, epoch int16, p Part) *kerr.Error {
	if err := t.mine(id, epoch); err != nil {
		return err
	}
	if !t.Has(p) {
		return kerr.InvalidTxnState
	}
	return nil
}

// End ends the transaction at its producer's wish. From version 2 on its producer goes on with the next epoch, and may ask again if it did
// not hear of it.
func (t *Txn) End(now time.Time, id int64, epoch, version int16, commit bool, fresh int64) (Output, *kerr.Error) {
	if version >= 2 && !t.busy && t.p.ended() && epoch == t.p.lastEpoch && id == t.p.before {
		if t.p.state == complete(commit) {
			return Output{ProducerID: t.p.id, Epoch: t.p.epoch}, nil
		}
		return Output{}, kerr.InvalidTxnState
	}
	if err := t.mine(id, epoch); err != nil {
		return Output{}, err
	}
	next := t.p
	next.state, next.version = complete(commit), version
	var end *End
	switch {
	case t.p.state == Ongoing:
		end = &End{id, epoch, commit, t.Parts()}
	case version >= 2 && !commit: // one without partitions, as far as we know: what is on its way for it is fenced
	case version < 2 && t.p.state == complete(commit):
		return Output{ProducerID: id, Epoch: epoch}, nil
	default:
		return Output{}, kerr.InvalidTxnState
	}
	if version >= 2 {
		if end != nil {
			end.Epoch++
		}
		if !next.bump(fresh) {
			return Output{}, kerr.ConcurrentTransactions // the caller did not know that it takes a new id
		}
	}
	next.parts, next.started = nil, time.Time{}
	return t.become(now, next, end), nil
}

// ended tells that the last transaction has ended, and that nobody has begun anew since.
func (p *producer) ended() bool { return p.state == CompleteCommit || p.state == CompleteAbort }

func complete(commit bool) State {
	if commit {
		return CompleteCommit
	}
	return CompleteAbort
}

// Deadline is when Tick has something to do next.
func (t *Txn) Deadline() time.Time {
	switch {
	case t.busy || t.p.id < 0:
		return time.Time{}
	case t.p.state == Ongoing:
		limit := t.p.timeout
		if t.cap > 0 {
			limit = min(limit, t.cap)
		}
		return t.p.started.Add(limit)
	}
	return t.p.updated.Add(t.cfg.Expiry)
}

// Tick aborts a transaction that took too long, and forgets an id that nobody uses. fresh is as for Init: without one, a producer whose
// epochs are used up waits for it.
func (t *Txn) Tick(now time.Time, fresh int64) Output {
	if due := t.Deadline(); due.IsZero() || due.After(now) {
		return Output{}
	}
	if t.p.state != Ongoing {
		next := t.p
		next.state = Dead
		return t.become(now, next, nil)
	}
	return t.abort(now, fresh)
}
