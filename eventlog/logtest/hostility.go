package logtest

import "github.com/millrace-io/millrace/eventlog"

// Hostility says how a Memory log misbehaves within the contract. The zero value is a friendly log: it answers in the order
// of the calls and hides nothing. Every float is a chance between 0 and 1, taken for each batch unless it says otherwise.
type Hostility struct {
	// Manual leaves the log without goroutines: nothing happens to an append, and nothing delayed shows, until Step or Drain
	// is called; done is called by them. With the same seed and the same calls everything that happens is the same.
	Manual bool

	// Shuffle applies and answers the batches of different partitions in any order, and lets time pass between the two.
	// Within a partition the order of the calls is kept, as the contract demands.
	Shuffle bool

	Refuse       float64 // per record: refused, the others of its batch are not
	Unknown      float64 // the producer's state is lost: the answer is ErrUnknownOutcome
	Late         float64 // per unknown batch: it is in the log all the same, now or later, a restart later too
	WriterRefuse float64 // Refuse, for the writers of claimed partitions (a whole batch at a time)
	WriterLost   float64 // Unknown, for the writers of claimed partitions; the writer is spent, as the contract says

	Gap     float64 // offsets are missing before a batch, or within it
	Decoded float64 // a batch is read as decoded records, not as a RecordBatch
	NoSide  float64 // a batch comes out of the tail without its Side

	TailDelay float64 // per stable batch and tail: it shows later than its end, its answer and other tails say
	Foreign   float64 // somebody else's record lands before it, Own false; never in a claimed partition
	Aborted   float64 // an aborted transaction's record lands before it: offsets nobody may ever see
	Held      float64 // an open transaction before it holds back the stable offset for a while, then commits or aborts

	Trim    float64 // retention moves the start of the partition up to some place
	Compact float64 // in a topic with cleanup.policy=compact: superseded records vanish

	// ForeignRecord makes the n-th record of somebody else; nil: a record whose value says so.
	ForeignRecord func(p eventlog.Part, n int) eventlog.Record

	RoomBytes  int   // the bytes one partition takes before Room says wait; 0: 1 MiB
	Partitions int32 // of a topic that does not say; 0: 4
}

// Hostile is everything at once, but for what takes records away (Trim, Compact) and what takes writers away (WriterLost,
// WriterRefuse): a user of the log asks for those by name.
func Hostile() Hostility {
	return Hostility{
		Shuffle: true, Refuse: 0.02, Unknown: 0.03, Late: 0.5, Gap: 0.1, Decoded: 0.3, NoSide: 0.3,
		TailDelay: 0.5, Foreign: 0.1, Aborted: 0.05, Held: 0.05,
	}
}

// AbortedValue is the value of records in transactions that were aborted. Whoever sees it has found a bug.
const AbortedValue = "aborted: nobody may see this"
