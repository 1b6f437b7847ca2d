package fleet

import (
	"time"

	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Options say how a View is built.
type Options struct {
	Sources []Source // what Place's source is an index into
	// Place tells the source and the record key of a message; false: it belongs to none. It is called for each message.
	Place func(topic, client string) (source int, key string, ok bool)
	// Begin is when the node began to follow: what was received before is history, of which no latency is taken.
	Begin time.Time

	MaxDevices int // default 200,000; the one not heard for longest is forgotten
	MaxTracks  int // devices whose recent positions are kept; default 10,000
}

// Source is one route, as the console shows it.
type Source struct {
	Name   string // the log topic
	Kind   string // recorded, simulated or empty
	Fields Fields
}

// View is the fleet. Add, Gap and Tick are of one goroutine; everything else is safe for concurrent use.
type View struct{ o Options }

// New returns an empty view.
func New(o Options) (*View, error) { return &View{o: o}, nil }

// Sources lists the sources by their ids.
func (v *View) Sources() []Source { return v.o.Sources }

// Add takes stable messages, in log order. It keeps nothing of the batch.
func (v *View) Add(now time.Time, b *session.Batch) {}

// Gap says that messages were lost to the view: what is missing in sequences now is not the devices' fault.
func (v *View) Gap() {}

// Tick builds what changed since the last tick for the clients' frames. Once a second.
func (v *View) Tick(now time.Time) {}

// Stage is how long after their sending messages got somewhere, by the devices' clocks as far as they can be trusted.
type Stage struct {
	Name      string // receive, commit (the view has it), console (a frame has it), browser (it is drawn)
	Histogram *metrics.Histogram
}

// Stages lists the stages in order. Their histograms live as long as the view.
func (v *View) Stages() []Stage { return nil }

// Totals is the fleet in numbers.
type Totals struct {
	Devices   int // known now
	Positions int // of these, with a position
	Stale     int // of these, not heard for StaleAfter
	Skewed    int // of these, with a clock that is off
	Clients   int // pages that look on

	Messages  uint64 // taken since the view began
	Foreign   uint64 // left out: records of Kafka clients, which tell what others say to a device
	Unplaced  uint64 // left out: of no source, or of a source without devices
	Forgotten uint64 // devices
	Gaps      uint64 // holes in the log that the view went over
	Refused   map[string]uint64
	Sequences
}

// Sequences counts what sequence numbers tell.
type Sequences struct {
	Missing   uint64 // numbers passed over and not seen since
	Repeated  uint64 // numbers seen again
	Reordered uint64 // numbers that came after a later one
	Restarted uint64 // times that a device began to count anew
}

// Totals returns the fleet in numbers.
func (v *View) Totals() Totals { return Totals{} }
