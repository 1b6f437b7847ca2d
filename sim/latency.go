package sim

import "github.com/millrace-io/millrace/metrics"

// Histogram counts durations. What Load, Replay and Stamp measure is recorded from the time a message was due, not from the time
// there was room to send it, so that the waiting they cause themselves is in the figure.
type Histogram = metrics.Histogram
