// Package eventlog is the narrow waist of Millrace: partitioned, durable, replayable logs of records in Kafka's terms.
//
// Log is the concrete type the program holds. Below it stands a small Driver with two real implementations (the embedded
// engine in eventlog/engine, a Kafka cluster in eventlog/kafka) and a hostile one for tests (eventlog/logtest), all of which
// pass one conformance suite.
//
// The package starts no goroutines and touches no files. It will never know MQTT.
package eventlog

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
)

// TopicID names one life of a topic: a topic deleted and created again under the same name has another id (KIP-516).
type TopicID [16]byte

// String is the id as Kafka's tools print it: unpadded URL-safe base64.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// Part is one partition of one topic. It is comparable and small, and used as a map key everywhere.
type Part struct {
	Topic TopicID
	Index int32
}

func (p Part) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Index) }

// Position is the place of one record.
type Position struct {
	Part
	Offset int64
}

func (p Position) String() string { return fmt.Sprintf("%s@%d", p.Part, p.Offset) }

// Vector is a place in several partitions at once: for each, the offset of the next record to come.
type Vector map[Part]int64

// Topic describes one topic. Config holds Kafka's own names ("retention.ms", "cleanup.policy", …), only what was set.
type Topic struct {
	Name       string
	ID         TopicID
	Partitions int32
	Config     map[string]string
}

// TopicSpec asks for a topic.
type TopicSpec struct {
	Name       string
	Partitions int32             // 0: the driver's default
	Config     map[string]string // Kafka's names; an unknown one is refused
}

// InternalPrefix begins the name of every topic that belongs to Millrace itself (sessions, retained, routes, producers). Kafka clients
// can neither write nor alter these, nor by default read them. The prefix keeps them apart from the user's own topics when
// the log is the user's Kafka cluster.
const InternalPrefix = "__millrace_"

var (
	// ErrUnknownTopic: no such topic, or no longer, or no such partition of it.
	ErrUnknownTopic = errors.New("unknown topic or partition")
	// ErrTopicExists: a topic of that name is there already.
	ErrTopicExists = errors.New("topic already exists")
	// ErrInvalid: the request can never succeed as it is (a name, a config, a batch); the text names the thing and the fix.
	ErrInvalid = errors.New("invalid request")
	// ErrTooLarge: the batch exceeds the topic's max.message.bytes, or the driver's limit for one append.
	ErrTooLarge = errors.New("batch too large")
	// ErrNoSpace: refused before anything was written, because free space is under the reserve. Reads go on.
	ErrNoSpace = errors.New("not enough free disk space")
	// ErrFenced: a later claim on the partition is stable; this writer's records can no longer enter.
	ErrFenced = errors.New("writer fenced by a later claim")
	// ErrUnknownOutcome: the records may or may not be in the log, now or later. Reading may prove presence, never absence.
	ErrUnknownOutcome = errors.New("outcome of append unknown")
	// ErrClosed: the log is closed, or has failed for good (see the log's health).
	ErrClosed = errors.New("log closed")
	// ErrNotSupported: the driver lacks this optional capability.
	ErrNotSupported = errors.New("not supported by this log driver")
)

// OutOfRangeError says that a read asked for an offset outside [Start, End].
type OutOfRangeError struct {
	Position   Position
	Start, End int64
}

func (e *OutOfRangeError) Error() string {
	return fmt.Sprintf("offset out of range: %v is outside [%d, %d]", e.Position, e.Start, e.End)
}

// Result is what became of one record: Err nil means it is durable at Offset. Otherwise errors.Is(Err, ErrUnknownOutcome)
// tells "unknown" from "refused".
type Result struct {
	Offset int64
	Err    error
}

// Outcome is what became of one appended batch, record by record. The usual case (all records durable at contiguous
// offsets, or all failed alike) needs no slice.
type Outcome struct {
	Base int64    // offset of the first record, when Each is nil and Err is nil
	Err  error    // the same for every record, when Each is nil
	Each []Result // one per record, when they differ or are not contiguous
}

// At is the result of the i-th record of the batch.
func (o *Outcome) At(i int) Result {
	if o.Each != nil {
		return o.Each[i]
	}
	if o.Err != nil {
		return Result{Offset: -1, Err: o.Err}
	}
	return Result{Offset: o.Base + int64(i)}
}

// Driver is what a log must do. It is safe for concurrent use. The contract is checked by eventlog/logtest.
//
// A record is stable once it is below min(high watermark, last stable offset); aborted and control records never become
// stable. Everything read through a Driver is stable.
type Driver interface {
	// CreateTopic makes a topic, durably, and returns it as it now is. ErrTopicExists if the name is taken (the existing
	// topic is returned with it, never altered).
	CreateTopic(ctx context.Context, spec TopicSpec) (Topic, error)
	// Topics lists all topics, internal ones too, in no order.
	Topics(ctx context.Context) ([]Topic, error)
	// ConfigureTopic sets (value non-nil) or resets (nil) configs of a topic.
	ConfigureTopic(ctx context.Context, name string, set map[string]*string) error
	// DeleteTopic deletes a topic and its records.
	DeleteTopic(ctx context.Context, name string) error

	// Append queues a batch built by a Builder for its partition and returns at once. It never waits for the disk. done is
	// called exactly once, from a goroutine of the driver, and must not block; for one partition, the batches of one
	// goroutine become stable in the order of the calls. Records refused have never been and will never be in the log. An
	// unknown outcome is retried by the driver under the same producer id, epoch and sequence for as long as it lives, and
	// later batches of that partition wait behind it; ErrUnknownOutcome is given only when the driver closes or loses its
	// producer's state. The driver owns b from the call on; b.Side travels with it to Tail where the driver can do so.
	Append(b *Batch, done func(Outcome))
	// Room returns nil while the partition accepts more, else a channel that is closed when it does again. An appender that
	// ignores it is refused nothing: the bound on memory is the caller's to keep by asking before it appends more.
	Room(p Part) <-chan struct{}

	// Tail follows the partitions of a vector from there on: history, then live, in one sequence without gap or repeat.
	Tail(from Vector) (Tail, error)
	// Read returns stable batches from pos on, about maxBytes of them but at least one if there is any, and the next offset
	// to read at. The first batch may begin before pos.Offset (skip its earlier records) and offsets may jump. At the end it
	// returns no batch and next = pos.Offset (or beyond, past unstable ground). *OutOfRangeError below the start.
	Read(ctx context.Context, pos Position, maxBytes int) (batches []*Batch, next int64, err error)
	// Ends returns, for each partition of a topic by index, the next offset to become stable.
	Ends(ctx context.Context, id TopicID) ([]int64, error)
	// Starts returns, for each partition of a topic by index, the offset of the first record still there.
	Starts(ctx context.Context, id TopicID) ([]int64, error)
	// OffsetByTime returns the offset of the first record with a timestamp ≥ t (milliseconds since 1970), or -1.
	OffsetByTime(ctx context.Context, p Part, t int64) (int64, error)
	// Trim moves the start of a partition up to pos. A pos below the start changes nothing; one past the end is refused.
	Trim(ctx context.Context, pos Position) error

	// Claim takes over a partition. Once it returns, no append by an earlier Writer of the partition can enter, so what the
	// caller reads up to the partition's end is all there will be before its own appends.
	Claim(ctx context.Context, p Part) (Writer, error)

	// Close stops the driver: every append made before is answered first. Later calls return ErrClosed, tails too; a second
	// Close does nothing.
	Close() error
}

// AtomicAppender is an optional capability of a Driver: several batches become stable together or not at all. It serves
// processors and Kafka transactions; no MQTT path depends on it.
type AtomicAppender interface {
	AppendAtomic(batches []*Batch, done func([]Outcome))
}

// Writer is the exclusive right to append to a claimed partition.
type Writer interface {
	// Append is Driver.Append, except that it is refused with ErrFenced once a later claim of the partition is stable. An
	// outcome of ErrUnknownOutcome spends the writer: its later appends are refused with ErrFenced too, and only a new Claim
	// settles what became of the unknown ones.
	Append(b *Batch, done func(Outcome))
	// Epoch is larger for each later claim of the same partition. It fits 31 bits.
	Epoch() int64
}

// EventKind tells what a tail saw.
type EventKind uint8

const (
	// Records: Batch holds stable records; the partition's next offset is Next.
	Records EventKind = iota
	// Gap: records before Next are gone (retention, trim) and were not delivered.
	Gap
	// Deleted: the topic is gone; nothing more comes from Part.
	Deleted
	// Recreated: the topic is gone and its name now belongs to a topic with another id.
	Recreated
)

// Event is one step of a tail in one partition.
type Event struct {
	Kind  EventKind
	Part  Part
	Next  int64  // the next offset of this partition after the event; offsets may jump
	Batch *Batch // for Records; its first records may lie before the tail's place: skip them. It may hold none (see Tail)
}

// Tail is one reader's place in the live log. It is used by one goroutine, but for Poke. It never holds up the committer: a tail that
// falls behind what is kept in memory goes on from the files. It passes every stable offset sooner or later: where the last
// ones hold nothing to see (an aborted transaction, a marker), an empty batch says so, and Next comes to equal the end.
type Tail interface {
	// Wake is readable after there may be something new to poll.
	Wake() <-chan struct{}
	// Poke makes Wake readable, for a reader that has something else to look after as well. Any goroutine, closed or not.
	Poke()
	// Poll appends what is there, up to about maxBytes of batches, to into and returns it; nothing new is not an error. It
	// may read files but never waits for records to come. The tail is past what it returned, with an error too. ErrClosed once
	// the tail or the log is closed.
	Poll(into []Event, maxBytes int) ([]Event, error)
	// Add follows one more partition from an offset on; ErrInvalid if the tail follows it already.
	Add(p Part, from int64) error
	// Close releases the tail.
	Close()
}
