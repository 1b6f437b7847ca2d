package route

import (
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/mqtt/session"
)

// A message that is refused has a *packet.Error in its result, with a reason code that PUBACK may carry: it is not in the log
// and never will be. If nothing certain can be said the error is session.ErrUnknown: no ack may leave, the client's resend
// decides.
var (
	errNoRoute      = &packet.Error{Code: packet.TopicNameInvalid, Text: "no route takes this topic"}
	errReservedName = &packet.Error{Code: packet.ImplementationSpecificError, Text: "user property names that begin with mqtt. or mr- are reserved"}
	errRetain       = &packet.Error{Code: packet.ImplementationSpecificError, Text: "retain is not possible on a route with store: false"}
	errTooLarge     = fmt.Errorf("%w: %w", session.ErrTooLarge, &packet.Error{Code: packet.QuotaExceeded, Text: session.ErrTooLarge.Error()})
	errNoSpace      = &packet.Error{Code: packet.QuotaExceeded, Text: "not enough free disk space"}
	errSpillFull    = &packet.Error{Code: packet.QuotaExceeded, Text: "what waits for the cluster has reached its bound"}
	errTopicGone    = errors.New("the log topic was deleted")
	errInvalid      = &packet.Error{Code: packet.ImplementationSpecificError, Text: "the log refuses the record"}
)

// refusal makes a log's error one that the broker can act on.
func refusal(err error) error {
	for _, c := range [...]struct{ is, as error }{
		{eventlog.ErrUnknownOutcome, session.ErrUnknown},
		{eventlog.ErrClosed, session.ErrUnknown}, // a log that fails may have written what it cannot answer for
		{eventlog.ErrFenced, session.ErrFenced},
		{eventlog.ErrTooLarge, errTooLarge},
		{eventlog.ErrNoSpace, errNoSpace},
		{eventlog.ErrUnknownTopic, session.ErrUnknown}, // it is being made again: what comes again then finds it
	} {
		if errors.Is(err, c.is) {
			return fmt.Errorf("%w: %w", c.as, err)
		}
	}
	return fmt.Errorf("%w: %w", errInvalid, err)
}

// reason names an error in a counter.
func reason(err error) string {
	switch {
	case errors.Is(err, errNoRoute):
		return "no_route"
	case errors.Is(err, errReservedName):
		return "reserved_property"
	case errors.Is(err, errRetain):
		return "retain_without_store"
	case errors.Is(err, eventlog.ErrTooLarge):
		return "too_large"
	case errors.Is(err, eventlog.ErrNoSpace):
		return "no_space"
	case errors.Is(err, eventlog.ErrUnknownTopic):
		return "topic_deleted"
	case errors.Is(err, eventlog.ErrInvalid):
		return "invalid"
	case errors.Is(err, eventlog.ErrUnknownOutcome):
		return "outcome_unknown"
	case errors.Is(err, eventlog.ErrClosed):
		return "log_closed"
	case errors.Is(err, errSpillFull):
		return "spill_full"
	case errors.Is(err, errOneWay):
		return "one_way_topic"
	case errors.Is(err, errNullValue):
		return "null_value"
	case isWrong(err):
		return wrongPayload
	}
	return "other"
}
