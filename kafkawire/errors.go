package kafkawire

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
)

// codes maps the log's errors to the protocol's, in this one place. The first that matches counts.
//
// What a client can only wait for (no space, a log that closes) is KAFKA_STORAGE_ERROR, which every client retries; an outcome
// that is unknown is REQUEST_TIMED_OUT, which an idempotent producer resends safely.
var codes = []struct {
	is   error
	code *kerr.Error
}{
	{eventlog.ErrUnknownTopic, kerr.UnknownTopicOrPartition},
	{eventlog.ErrTopicExists, kerr.TopicAlreadyExists},
	{eventlog.ErrTooLarge, kerr.MessageTooLarge},
	{eventlog.ErrNoSpace, kerr.KafkaStorageError},
	{eventlog.ErrUnknownOutcome, kerr.RequestTimedOut},
	{eventlog.ErrClosed, kerr.KafkaStorageError},
	{eventlog.ErrFenced, kerr.KafkaStorageError},
	{engine.ErrOutOfOrderSequence, kerr.OutOfOrderSequenceNumber},
	{engine.ErrInvalidProducerEpoch, kerr.InvalidProducerEpoch},
	{engine.ErrInvalidTxnState, kerr.InvalidTxnState},
	{engine.ErrTooManyAborted, kerr.PolicyViolation},
	{engine.ErrReservedProducer, kerr.InvalidRecord},
	{engine.ErrInvalidRecord, kerr.InvalidRecord},
	{engine.ErrUnsupportedCompression, kerr.UnsupportedCompressionType},
	{engine.ErrInvalidTimestamp, kerr.InvalidTimestamp},
	{eventlog.ErrCorrupt, kerr.CorruptMessage},
	{eventlog.ErrInvalid, kerr.InvalidRequest},
	{eventlog.ErrNotSupported, kerr.UnsupportedVersion},
}

// code is the protocol's word for an error of the log; nil for nil.
func code(err error) *kerr.Error {
	if err == nil {
		return nil
	}
	var outOfRange *eventlog.OutOfRangeError
	if errors.As(err, &outOfRange) {
		return kerr.OffsetOutOfRange
	}
	for _, c := range codes {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	return kerr.UnknownServerError
}

// refusal is an error on its way into a response that has room for a text.
type refusal struct {
	code *kerr.Error
	text string
}

func refuse(code *kerr.Error, text string) *refusal { return &refusal{code, text} }

// refused makes a refusal of an error of the log.
func refused(err error) *refusal {
	if err == nil {
		return nil
	}
	return &refusal{code(err), err.Error()}
}

// set writes the refusal into a response's fields; nil leaves them.
func (r *refusal) set(code *int16, text **string) {
	if r == nil {
		return
	}
	*code = r.code.Code
	if text != nil {
		*text = &r.text
	}
}
