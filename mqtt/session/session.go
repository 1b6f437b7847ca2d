// Package session is what MQTT promises a client between and across its connections, as pure state machines: queues of log
// positions, subscriptions, the ids of QoS 1 and 2, retained messages, wills, expiry.
//
// Core holds every session of the session partitions that one owner has claimed. It does no I/O and starts no goroutine: time,
// packets, stable records and the outcomes of its own writes come in as calls; what it wants done goes out through Host and
// Conn. One goroutine (the owner's loop in mqtt/broker) makes all calls. The same calls in the same order give the same
// results, which is how the model test and the crash tests drive it.
//
// The package also defines the words that broker and route share (Position, Vector, Message, Batch, StateRecord) and the
// encoding of the topics __millrace_sessions and __millrace_retained (docs/formats/sessions.md). It never sees the log.
package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Part is one partition of one log topic. It has the layout of eventlog.Part, so that one converts to the other.
type Part struct {
	Topic [16]byte
	Index int32
}

// Position is the place of one record in the log.
type Position struct {
	Part
	Offset int64
}

// Vector gives, per partition, the offset of the next record to come.
type Vector map[Part]int64

// Key names a session. Principal is who authenticated (a constant while there is no authentication), so that the same client
// id under two principals is two sessions.
type Key struct{ Tenant, Principal, ClientID string }

// Incarnation names one life of a session: the claim epoch of its owner in the upper 32 bits, a counter in the lower. 0 is none.
type Incarnation uint64

// Triple marks the record of an inbound QoS 2 message of a persistent session. Use is the last released use of the packet id
// plus one, so a second record with the same triple is a duplicate. The zero Triple is none.
type Triple struct {
	Incarnation Incarnation
	PacketID    uint16
	Use         uint32
}

// Message is one MQTT message on its way into or out of the log.
type Message struct {
	Offset  int64 // in its partition; -1 before it has one
	Time    int64 // broker receive time, milliseconds since 1970
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Clear   bool   // a retained message with an empty value: removes the retained message of the topic
	Client  string // client id of the publisher, "" for records of Kafka clients; for no-local
	Props   *Props // nil: none
	QoS2    Triple
	Will    Incarnation // not 0: the will of that incarnation, fired
	Tally   *Tally      // nil: what becomes of it is not counted by its sender

	// Received is when the broker read it, on the clock of Broker.Latency; 0: it was read from the log, or this process did not
	// receive it. It only measures: nothing is decided by it.
	Received time.Duration
}

// Props are the parts of a message that few messages have.
type Props struct {
	HasExpiry     bool
	Expiry        uint32 // seconds after Time
	PayloadFormat byte
	ContentType   string
	ResponseTopic string
	Correlation   []byte
	User          []packet.UserProperty
}

// Batch is a run of stable records of one partition, in order of offset. Base is the place it was read or tailed from, Next the
// offset after it; offsets may jump. Records that MQTT never sees (unrenderable, dead-lettered) are not in Msgs. A Batch of the
// retained or sessions topic's partitions comes from Read only, with what StoredMessage makes of the records.
type Batch struct {
	Part Part
	Base int64
	Next int64
	Msgs []Message
}

// StateRecord is one record of the sessions or retained topic. A nil Value is a tombstone.
type StateRecord struct{ Key, Value []byte }

// Result is what became of one message or state record that was to be appended.
type Result struct {
	Pos Position
	Err error
}

var (
	// ErrFenced in a Result: another owner has claimed the target. It ends the core (Host.Failed).
	ErrFenced = errors.New("session state: fenced by another owner")
	// ErrUnknown in a Result: the record may or may not be in the log, now or later. It ends the core (Host.Failed). Every
	// other error in a Result means that the record has not been and never will be written.
	ErrUnknown = errors.New("session state: outcome of a write unknown")
	// ErrTooLarge in the Result of a message, beside a refusal: it is larger than the log takes, now or later.
	ErrTooLarge = errors.New("message larger than its log topic allows")
	// ErrGap is what a *GapError is.
	ErrGap = errors.New("records are gone")
)

// GapError answers a Read below the start of its partition.
type GapError struct{ Next int64 } // the first offset that is still there

func (e *GapError) Error() string {
	return fmt.Sprintf("%v: the partition starts at %d", ErrGap, e.Next)
}
func (e *GapError) Unwrap() error { return ErrGap }

// Target names one claimed partition that the core writes.
type Target struct {
	Retained  bool // the retained topic, else the sessions topic
	Partition int32
}

// Host is the world outside the core. Its methods return at once and never call back into the core before they return; the
// outcome of each comes later as a call of Core with the same token.
type Host interface {
	// Write appends records to a claimed partition, in order after every earlier Write to it. Then Core.Written.
	Write(token uint64, to Target, recs []StateRecord)
	// Read asks for stable records from pos on, about maxBytes of them. Then Core.ReadDone.
	Read(token uint64, pos Position, maxBytes int)
	// Publish appends a message (a fired will) as if a client had. Then Core.Published. A will refused with a *packet.Error other
	// than QuotaExceeded, or with ErrTooLarge, is given up; after any other refusal it is published again.
	Publish(token uint64, m *Message)
	// History finds out where history begins, one answer per ask. Then Core.HistoryDone.
	History(token uint64, asks []HistoryAsk)
	// Allowed decides whether a session may receive, or publish (as its will), a message on a topic now.
	Allowed(k Key, publish bool, topic string) bool
	// Count adds to the counter of things dropped or skipped, by reason (one of the Drop… constants).
	Count(reason string, n int)
	// Failed says that the core's memory may no longer agree with the log (a write was fenced, or its outcome is unknown for
	// good). The core does nothing more: close every connection, and build a new core from a new claim.
	Failed(err error)
}

// Conn is one network connection as the core sees it. Methods never block and never call back. After Close, or after
// Core.Disconnected for it, the core calls it no more.
type Conn interface {
	// Accept answers the CONNECT: the conn sends CONNACK from it, then may process further packets.
	Accept(a Accepted)
	// Refuse answers the CONNECT with a failure; the connection then closes.
	Refuse(code packet.Code, reason string)
	// Send queues a SUBACK, UNSUBACK, PUBREL, PUBCOMP, or PUBREC/PUBACK that the core owes. p is not kept.
	Send(p packet.Packet)
	// Deliver queues a PUBLISH. It reports whether there is room for more; if not, Core.Writable is called when there is again.
	// d and what it points to is valid only during the call, except Msg's payload and topic, which are immutable.
	Deliver(d *Delivery) (room bool)
	// Close sends DISCONNECT with the code (5.0) and closes; Core.Disconnected is not needed after it, and does nothing.
	Close(code packet.Code, reason string)
}

// Delivery is one PUBLISH to one client.
type Delivery struct {
	Msg      *Message
	QoS      byte // effective
	Retain   bool
	Dup      bool
	PacketID uint16 // 0 for QoS 0
	SubIDs   []uint32
	Expiry   uint32 // seconds left, when Msg.Props.HasExpiry

	Replayed bool  // it is history: a 5.0 client is told when it was received
	Gap      int64 // not 0: so many records of the history before it are gone (LostUnknown: some)

	Dropped string // set by Deliver: why the client does not get it, already counted
}

// Accepted is the outcome of a CONNECT.
type Accepted struct {
	SessionPresent bool
	Expiry         uint32 // session expiry in force, seconds
	Inbound        *Inbound
}

// Connect is a CONNECT that authentication has passed, limits applied.
type Connect struct {
	Key            Key
	Version        packet.Version
	CleanStart     bool
	Expiry         uint32 // session expiry interval asked for (3.1.1: 0 for clean session, else the maximum), seconds
	ReceiveMaximum uint16 // of the client: how many QoS 1 and 2 deliveries may be unacknowledged; ≥ 1
	MaximumPacket  uint32 // of the client, bytes; 0: no limit. A message that cannot fit is dropped, counted, and acked as done
	Will           *packet.Will
}

// Cause is why a connection ended, as far as the core must know.
type Cause uint8

const (
	// Lost: the network connection ended without DISCONNECT, or the server ended it (keep-alive, protocol error): the will fires.
	Lost Cause = iota
	// Normal: DISCONNECT 0x00 (any DISCONNECT in 3.1.1): the will is removed.
	Normal
	// WithWill: DISCONNECT with 0x04 or another code: the will fires.
	WithWill
	// Draining: the node is stopping: the will does not fire.
	Draining
	// Moved: the server has sent the client to another one: the will is removed, and counted.
	Moved
)

// Reasons counted through Host.Count.
const (
	DropExpired      = "message_expired"
	DropQoS0Full     = "qos0_slow_subscriber"
	DropTooLarge     = "larger_than_client_maximum"
	DropDenied       = "not_authorized"
	DropWillDenied   = "will_not_authorized"
	DropGap          = "gap_retention"
	DropTopicDeleted = "topic_deleted"
	DropDuplicate    = "qos2_duplicate_record"
	DropSuperseded   = "retained_superseded"
	DropUnmatched    = "no_longer_subscribed"
	DropSessionEnded = "session_ended"
	DropOffline      = "qos0_connection_ended"
	// DropRetainedExpired counts retained messages removed because they have expired.
	DropRetainedExpired = "retained_expired"
	// DropRetainedFull counts wills that were published without retain, because there was no room for another retained message.
	DropRetainedFull = "will_not_retained"
	DropBadRecord    = "state_record_invalid"
	DropWillRefused  = "will_refused"
	// DropGroupEnded counts what a shared subscription still held when its last member left.
	DropGroupEnded = "shared_group_ended"
	// DropRefused counts messages that a client has answered with a failure: they go to nobody else.
	DropRefused = "refused_by_subscriber"
	// DropWillMoved counts the wills of clients that were sent to another server.
	DropWillMoved = "will_moved"
)

// Options are the limits of a core. Zero fields take the defaults named.
type Options struct {
	MaxExpiry     uint32 // cap on session expiry, seconds; default 7 days
	MaxQueueBytes int    // cap on one queue's set of positions; past it neighbouring runs merge; default 64 KiB
	MaxInflight   int    // deliveries unacknowledged per session, beside the client's receive maximum; default 1,024
	MaxSubs       int    // subscriptions per session, by weight (a filter of more than 256 bytes counts as several); default 10,000
	MaxAllSubs    int    // subscriptions in all, likewise; default 2,000,000
	MaxSessions   int    // connected or not; default 1,000,000
	MaxReplays    int    // of one session at once; default 8, at most 22; negative: none
	MaxAllReplays int    // of all sessions; default 256; negative: none
	// Topics with a retained message, default 1,000,000, and the bytes of their names and payloads, default 1 GiB. What is beyond is
	// refused by who asks RetainedIndex.Admits; a will is published without retain.
	MaxRetained      int
	MaxRetainedBytes int64

	// MaxWillBytes is what all wills together may take, default 256 MiB: a CONNECT beyond it is refused.
	MaxWillBytes int64

	Expired func(Key) // told of each session that the clock ends; called by the core's goroutine

	CheckpointBytes int64         // of log since the last checkpoint that start one; default 32 MiB
	CheckpointEvery time.Duration // since the last checkpoint, if anything changed; default 2 s
	ReadBytes       int           // asked of Host.Read at once; default 64 KiB
	CopyAfter       time.Duration // a delivery of QoS 2 that has been open for so long gets a copy that retention does not take; default 1 min
}
