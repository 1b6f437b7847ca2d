package verify

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Row is one line of what verify says. One of its fields is set.
type Row struct {
	Progress *Progress `json:"progress,omitempty"`
	Counts   *Counts   `json:"counts,omitempty"`
	Finding  *Finding  `json:"finding,omitempty"`
	Stamps   []Stamp   `json:"stamps,omitempty"`
	Summary  *Summary  `json:"summary,omitempty"` // the last line
	Error    string    `json:"error,omitempty"`   // instead of a Summary: it could not be checked
}

// Progress says how far the check is.
type Progress struct {
	Records int64 `json:"records"`
	Minute  int64 `json:"minute"` // milliseconds since 1970
	Done    int   `json:"done"`   // percent
}

// Counts is what is known of one device in one minute on one log topic, or (Minute 0) of a topic in the whole window.
type Counts struct {
	Minute    int64             `json:"minute,omitempty"` // milliseconds since 1970
	Topic     string            `json:"topic"`
	Device    string            `json:"device,omitempty"` // the record's key
	Others    bool              `json:"others,omitempty"` // not one device: those for which the meter had no row left
	Published uint64            `json:"published"`        // accepted from clients, as the broker counted
	Logged    uint64            `json:"logged"`           // as the log answered
	Found     uint64            `json:"found"`            // in the log, of what was counted
	Uncounted uint64            `json:"uncounted,omitempty"`
	Foreign   uint64            `json:"foreign,omitempty"` // of Kafka clients
	Dead      uint64            `json:"dead,omitempty"`    // of Foreign: to the dead-letter topic
	Unlogged  uint64            `json:"unlogged,omitempty"`
	Failed    map[string]uint64 `json:"failed,omitempty"`
	Refused   map[string]uint64 `json:"refused,omitempty"`
	Unknown   uint64            `json:"unknown,omitempty"`
	Owed      uint64            `json:"owed"`
	Delivered uint64            `json:"delivered"`
	Dropped   map[string]uint64 `json:"dropped,omitempty"`
	Status    Kind              `json:"status,omitempty"` // "": it adds up
}

// Stamp names a message of a simulation that is in the log: for a ledger that is elsewhere.
type Stamp struct {
	Device   string
	Sequence uint64
	Content  uint64
}

// MarshalJSON writes a stamp as a list: there are many.
func (s Stamp) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{s.Device, s.Sequence, fmt.Sprintf("%016x", s.Content)})
}

// UnmarshalJSON is its reverse.
func (s *Stamp) UnmarshalJSON(b []byte) error {
	var content string
	if err := json.Unmarshal(b, &[]any{&s.Device, &s.Sequence, &content}); err != nil {
		return fmt.Errorf("stamp: %w", err)
	}
	if _, err := fmt.Sscanf(content, "%x", &s.Content); err != nil {
		return fmt.Errorf("stamp %q: %w", content, err)
	}
	return nil
}

// Severity says what a finding means for the result.
type Severity string

const (
	Wrong Severity = "wrong" // it does not add up
	Loss  Severity = "loss"  // of QoS 0, where nothing is promised; wrong if Strict
	Note  Severity = "note"  // worth knowing; and what could not be checked
)

// Kind names what was found.
type Kind string

// Kinds of findings.
const (
	MissingRecords   Kind = "missing_records"    // the log answered for more than are there
	ExtraRecords     Kind = "extra_records"      // there are more than the log answered for
	AlteredRecords   Kind = "altered_records"    // as many, with other payloads
	LostBeforeLog    Kind = "lost_before_log"    // accepted from clients, and never given to the log
	LostDeliveries   Kind = "lost_deliveries"    // owed to subscribers, and neither delivered, nor given up, nor pending
	SequenceMissing  Kind = "sequence_missing"   // a device's numbers have a hole
	SequenceRepeated Kind = "sequence_repeated"  // a number came again, not at QoS 1
	SequenceOrder    Kind = "sequence_reordered" // a number came after a higher one
	SequenceAltered  Kind = "sequence_altered"   // a number came again with another payload
	SequenceRestart  Kind = "sequence_restart"   // the device began anew
	SequenceQoS1     Kind = "qos1_repeats"       // what QoS 1 allows
	QoS0Lost         Kind = "qos0_lost"          // numbers of a device that sends at QoS 0 are missing
	QoS0Dropped      Kind = "qos0_dropped"       // deliveries of QoS 0 that were given up
	Hole             Kind = "offset_hole"        // offsets that nothing explains
	Corrupt          Kind = "corrupt"            // bytes that are no intact records
	Misplaced        Kind = "misplaced"          // a record where its MQTT topic does not lead
	Rerouted         Kind = "rerouted"           // a record where the routes of its time have led
	TimeBack         Kind = "time_goes_back"     // a record that is older than the one before it
	Twin             Kind = "qos2_twin"          // two records of one QoS 2 message
	DeadMissing      Kind = "dead_letter_missing"
	Killed           Kind = "killed"          // a node was killed: some counts are not known
	NotCounted       Kind = "not_counted"     // no meter was running
	Expired          Kind = "expired"         // retention has removed records
	Compacted        Kind = "compacted"       // the topic keeps the last record of a key only
	Recreated        Kind = "recreated"       // the topic was deleted and made again
	TooMany          Kind = "too_many"        // rows or devices, to be told apart
	InFlight         Kind = "in_flight"       // accepted, and on its way into the log; only a row's status
	NotRouted        Kind = "not_routed"      // no route leads to the topic
	Pending          Kind = "pending"         // deliveries that are still owed
	InDoubt          Kind = "in_doubt"        // neither acknowledged nor refused
	Refusals         Kind = "refused"         // what clients sent and was not accepted
	LedgerMissing    Kind = "acked_missing"   // acknowledged, by the ledger, and not in the log
	LedgerRefused    Kind = "refused_logged"  // refused, by the ledger, and in the log
	LedgerUnknown    Kind = "never_sent"      // in the log, and not in the ledger
	LedgerReader     Kind = "reader"          // a subscriber of the ledger did not get what it was owed
	LedgerBroken     Kind = "ledger_altered"  // in the log with another payload than in the ledger
	LedgerTwice      Kind = "ledger_repeated" // twice in the log, and not at QoS 1
)

// Mild tells that a row's status is nothing wrong.
func (k Kind) Mild() bool {
	return k == Pending || k == InFlight || k == NotCounted || k == NotRouted || k == Expired || k == Recreated
}

// Finding is one thing that was found.
type Finding struct {
	Kind      Kind     `json:"kind"`
	Severity  Severity `json:"severity"`
	Minute    int64    `json:"minute,omitempty"` // milliseconds since 1970
	Topic     string   `json:"topic,omitempty"`
	Partition int32    `json:"partition"` // -1: none
	Offset    int64    `json:"offset"`    // -1: none
	Device    string   `json:"device,omitempty"`
	Numbers   []Span   `json:"numbers,omitempty"` // sequence numbers
	Count     uint64   `json:"count,omitempty"`
	Text      string   `json:"text"`
}

// Span is a run of numbers, both ends in it.
type Span struct{ From, To uint64 }

// MarshalJSON writes a span as a list.
func (s Span) MarshalJSON() ([]byte, error) { return json.Marshal([2]uint64{s.From, s.To}) }

// UnmarshalJSON is its reverse.
func (s *Span) UnmarshalJSON(b []byte) error {
	var v [2]uint64
	err := json.Unmarshal(b, &v)
	s.From, s.To = v[0], v[1]
	return err
}

func (s Span) String() string {
	if s.From == s.To {
		return fmt.Sprint(s.From)
	}
	return fmt.Sprintf("%d–%d", s.From, s.To)
}

func numbers(spans []Span) string {
	var b strings.Builder
	for i, s := range spans {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(s.String())
	}
	return b.String()
}

// Summary is the result.
type Summary struct {
	Complete  bool            `json:"complete"`
	From      int64           `json:"from"` // milliseconds since 1970
	To        int64           `json:"to"`
	Records   int64           `json:"records"`
	Devices   int             `json:"devices"` // whose sequences were followed
	Sequenced int64           `json:"sequenced"`
	Wrong     int             `json:"wrong"`
	Losses    int             `json:"losses"` // of QoS 0
	Notes     int             `json:"notes"`
	Kinds     map[Kind]uint64 `json:"kinds,omitempty"` // how often each was found
	Runs      int             `json:"runs"`            // of nodes, whose counts were read
	Routes    []Filter        `json:"routes,omitempty"`
	Text      string          `json:"text"`
}

// Filter is a route for who has only its MQTT side: the first that matches a topic decides.
type Filter struct {
	MQTT   string `json:"mqtt"`
	Stored bool   `json:"stored"`
}
