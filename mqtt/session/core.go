package session

import "github.com/millrace-io/millrace/mqtt/packet"

// Core holds all sessions of the claimed targets. Every call is made by one goroutine, with the owner's clock as now
// (milliseconds since 1970).
type Core struct{}

// New returns an empty core. Targets are all partitions of the sessions and the retained topic; a session lives in the one
// that its key hashes to.
func New(o Options, h Host, targets []Target) *Core { return &Core{} }

// Restore visits every record of a claimed partition, in order, before the first other call. at is the target's place in the
// log (positions of retained messages are in it); epoch is that of the claim. recs is the function that Store.Claim returned.
func (c *Core) Restore(t Target, at Part, epoch int64, recs func(visit func(offset int64, r StateRecord) error) error) error {
	return nil
}

// Restored ends the restore. ends and starts are those of the data partitions. It returns the vector to tail them from; a
// partition that no checkpoint knows starts where starts says.
func (c *Core) Restored(now int64, ends, starts Vector) Vector { return nil }

// Ready tells whether the replay has reached the ends given to Restored, so that sessions may be resumed. A Connect made
// before waits by itself.
func (c *Core) Ready() bool { return false }

// Connect is a CONNECT. It is answered by Conn.Accept or Conn.Refuse, perhaps later.
func (c *Core) Connect(now int64, conn Conn, r *Connect) {}

// Packet is a SUBSCRIBE, UNSUBSCRIBE, PUBACK, PUBREC, PUBREL or PUBCOMP of an accepted connection. p is not kept.
func (c *Core) Packet(now int64, conn Conn, p packet.Packet) {}

// Disconnected is the end of a connection, accepted or not. expiry is the session expiry of a DISCONNECT that has one. If the
// will has to be removed first, the core calls conn.Close (with code Success) once that is durable; otherwise, at once.
func (c *Core) Disconnected(now int64, conn Conn, cause Cause, expiry *uint32) {}

// Writable says that there is room again in a connection whose Deliver returned false.
func (c *Core) Writable(now int64, conn Conn) {}

// Tail is the next batch of stable records of a data partition.
func (c *Core) Tail(now int64, b *Batch) {}

// Unlogged is a message of a `store: false` route: effective QoS 0, for connected subscribers only. m is not kept.
func (c *Core) Unlogged(now int64, m *Message) {}

// Gap says that the tail jumped: the records of p before next are gone.
func (c *Core) Gap(now int64, p Part, next int64) {}

// Deleted says that a topic is gone.
func (c *Core) Deleted(now int64, topic [16]byte) {}

// Written is the outcome of a Host.Write, one result per record.
func (c *Core) Written(now int64, token uint64, results []Result) {}

// ReadDone is the outcome of a Host.Read. b's messages are kept, not copied.
func (c *Core) ReadDone(now int64, token uint64, b Batch, err error) {}

// Published is the outcome of a Host.Publish.
func (c *Core) Published(now int64, token uint64, r Result) {}

// PolicyChanged says that Host.Allowed may now answer otherwise.
func (c *Core) PolicyChanged(now int64) {}

// Tick does what is due and returns when it wants to be called again (math.MaxInt64: no need).
func (c *Core) Tick(now int64) (next int64) { return 0 }

// Checkpoint begins one now, for a clean stop. It is complete when Busy is false.
func (c *Core) Checkpoint(now int64) {}

// Busy tells whether writes, a checkpoint or wills are under way.
func (c *Core) Busy() bool { return false }

// Stats are gauges.
type Stats struct {
	Sessions      int   // all, connected or not
	Connected     int   // with a connection
	Subscriptions int   //
	Retained      int   // topics with a retained message
	QueueBytes    int64 // memory of all sets of positions
	Behind        int   // sessions that are connected and not at the frontier
	Inflight      int   // deliveries not yet acknowledged
	Checkpoint    uint64
	ReplayBytes   int64 // of log since the last checkpoint
}

// Stats returns the gauges of now.
func (c *Core) Stats() Stats { return Stats{} }

// RetainedMessage decodes a record of the retained topic, for Store.Read. ok is false for the records that are no message
// (tombstones, clears, the topic's own frontier) and for bytes that are no record of ours. The message aliases r.
func RetainedMessage(offset int64, r StateRecord) (m Message, ok bool) { return Message{}, false }
