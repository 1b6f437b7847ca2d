package meter

import (
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
)

// The names of counts. Refusals, failures and drops have a name per reason. What was published is logged, failed or unknown.
const (
	Published     = "published" // accepted from a client for a partition of the log
	Logged        = "logged"    // of those: the log says that they are in it
	Unknown       = "unknown"   // the outcome of the append is not known
	Digest        = "digest"    // sum of the CRC-32C of the payloads of Logged, modulo 2^32
	Unlogged      = "unlogged"  // accepted on a `store: false` route
	Owed          = "owed"      // deliveries to subscribers that were decided on
	Delivered     = "delivered" // QoS 0: handed to the connection; QoS 1 and 2: acknowledged
	RefusedPrefix = "refused:"  // not accepted
	FailedPrefix  = "failed:"   // accepted, and then refused by the log
	DroppedPrefix = "dropped:"
)

// Count is one number under its name.
type Count struct {
	Name string
	N    uint64
}

// Row is what was counted about one device in one minute on one topic, since the flush before.
type Row struct {
	Minute int64 // of the records' timestamps, since 1970
	Topic  string
	Device string
	Over   bool // not one device: those for which there was no row left
	Counts []Count
}

func (r *Row) add(name string, n uint64) {
	if n != 0 {
		r.Counts = append(r.Counts, Count{name, n})
	}
}

// PartCount is what went into one partition since the run began.
type PartCount struct {
	Part  eventlog.Part
	Topic string
	Start int64 // the partition's end when the run began
	Next  int64 // the run counts its records below

	Published int64 // accepted for it
	Sent      int64 // handed to the log
	Logged    int64
	Refused   int64
	Unknown   int64
}

// BookCount is where the deliveries of one partition are, as one session core has it.
type BookCount struct {
	Part    eventlog.Part
	Life    uint64 // of the core
	Matched int64  // the deliveries of records below are in the rows' Owed
	Known   bool   // Book is there
	Book    session.Book
}

// Flush is one write of the meter: rows since the flush before, and totals since the run began.
type Flush struct {
	Run      uint64
	Seq      uint64 // of the run, from 0
	Began    int64  // when the run began, milliseconds since 1970
	Time     int64  // of the flush
	Clean    bool   // the run ends here, and everything is counted
	Mapping  uint64 // of MQTT topics to places in the log, as the run had it; 0: it is not known
	Rows     []Row
	Parts    []PartCount // all in the first flush of a minute, else those that changed
	Books    []BookCount
	Refused  []Count // publishes refused before a route saw them, since the run began
	Overflow uint64  // rows that were not begun since there were too many, since the run began

	full bool // it names every partition, though nothing may have changed: a sign of life
}

// empty tells that there is nothing to write.
func (f *Flush) empty() bool { return !f.full && len(f.Rows)+len(f.Parts)+len(f.Books) == 0 }
