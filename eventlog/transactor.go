package eventlog

import "context"

// Transactor is an optional capability of a Driver: to append several batches together or not at all, under a name that one process at a
// time has. Who drains something else into the log writes how far it is together with what it drains.
type Transactor interface {
	// Take takes over a name. When it returns, what an earlier holder appended is in the log, or never will be, and nothing more of his
	// can come.
	Take(ctx context.Context, name string) (Taken, error)
	// Settled is a topic's ends as they are when it is called, once all that is open below them has ended. Ends is not that: what a holder has
	// committed may lie behind what another has open, and is not seen before that ends.
	Settled(ctx context.Context, id TopicID) ([]int64, error)
}

// Taken is a name that was taken over. It is used by one goroutine.
type Taken interface {
	// Commit appends batches, those of one partition in their order, and returns what became of each. On an error nothing of them is in the
	// log, unless it is ErrUnknownOutcome; after that one and after ErrFenced only a new Take tells, and only a new Take appends.
	Commit(ctx context.Context, batches []*Batch) ([]Outcome, error)
}
