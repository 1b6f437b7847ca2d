// Package broker is the MQTT server: listeners, connections, delivery, and the owner's loop that drives session.Core.
//
// Every connection is one goroutine blocked in a read, without a buffer; there is no writer goroutine: a few flushers write for
// all. owner.go is the one loop that holds the tail, the claims, restore, checkpoints and timers; a few readers read the log for
// sessions that lag, one ticker looks for clients that have fallen silent. Broker.Close ends them all, in a written order.
//
// A PUBLISH goes from the reader to the store in one call per read; its PUBACK or PUBREC leaves from the store's callback, and
// from nowhere else. A subscriber is fed by the tail, through the core, never by another client's reader.
//
// The package touches no files and does not know the log: it declares the Store it needs, in session's words, and package route
// provides it. It never waits for a disk or for a slow client while it holds something that others need.
package broker

import (
	"context"

	"github.com/millrace-io/millrace/mqtt/session"
)

// Store is where messages and session state are kept. It is safe for concurrent use.
type Store interface {
	// Append routes messages to the log, in order. Nothing of msgs is kept after the call returns (payloads and topics may
	// alias a read buffer). done is called exactly once for the whole call, from a goroutine of the store, and must not block;
	// results[i] belongs to msgs[i], and results are valid until done returns. Calls of one goroutine become stable per log partition in the order of the calls. A message
	// for a `store: false` route is not appended: its result has Pos zero and Err nil at once, and it is given to the unlogged
	// function instead.
	//
	// wait is nil while there is room, else a channel closed when there is again: the caller stops reading its socket till then.
	Append(msgs []session.Message, done func(results []session.Result)) (wait <-chan struct{})
	// Data returns where each MQTT-carrying partition starts (first record still there) and ends (next to become stable), now.
	Data(ctx context.Context) (starts, ends session.Vector, err error)
	// Tail follows the MQTT-carrying partitions.
	Tail(from session.Vector) (Tail, error)
	// Read returns one run of records from pos on, of a data partition or of a target (Position of a Target: see TargetPart; its
	// messages are those of session.StoredMessage), about maxBytes. It may begin before pos, if that costs nothing. A Batch without messages from pos on and with
	// Next > pos.Offset means: nothing for MQTT up to Next.
	// session.ErrGap, wrapped in *session.GapError, if pos lies below the start.
	Read(ctx context.Context, pos session.Position, maxBytes int) (session.Batch, error)
	// History finds out where the history that an ask wants begins, in each partition that can have messages for its filter.
	History(ctx context.Context, ask session.HistoryAsk) session.History
	// Targets lists the partitions of the sessions and retained topics that this node owns.
	Targets() []session.Target
	// TargetPart is the log partition behind a target.
	TargetPart(t session.Target) session.Part
	// Claim takes over a target; restore then visits each record that is in it, in order (nil Value: tombstone).
	Claim(ctx context.Context, t session.Target) (w StateWriter, restore func(visit func(offset int64, r session.StateRecord) error) error, err error)
}

// StateWriter appends to one claimed target.
type StateWriter interface {
	// Epoch is larger for every later claim of the same target; it fits 31 bits.
	Epoch() int64
	// Append writes records in order after all earlier ones; done as in Store.Append. The results carry the positions.
	Append(recs []session.StateRecord, done func(results []session.Result))
}

// Tail is the live log as one sequence, for the owner's loop.
type Tail interface {
	Wake() <-chan struct{}
	// Poll appends to into what is there, about maxBytes of it, without waiting.
	Poll(into []TailEvent, maxBytes int) ([]TailEvent, error)
	Close()
}

// TailEvent is one step of the tail: a batch, a gap up to Next, or the end of a topic.
type TailEvent struct {
	Batch   *session.Batch // nil for the other kinds
	Part    session.Part
	Next    int64
	Gap     bool
	Deleted bool
}
