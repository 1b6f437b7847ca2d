package kafka

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog"
)

// Keys of the requests whose versions matter here.
const (
	keyProduce            = 0
	keyInitProducerID     = 22
	keyAddPartitionsToTxn = 24
	keyEndTxn             = 26
)

// sentinels of the errors that callers of the log branch on.
var sentinels = map[*kerr.Error]error{
	kerr.UnknownTopicOrPartition:    eventlog.ErrUnknownTopic,
	kerr.UnknownTopicID:             eventlog.ErrUnknownTopic,
	kerr.InconsistentTopicID:        eventlog.ErrUnknownTopic,
	kerr.TopicAlreadyExists:         eventlog.ErrTopicExists,
	kerr.InvalidTopicException:      eventlog.ErrInvalid,
	kerr.InvalidConfig:              eventlog.ErrInvalid,
	kerr.InvalidPartitions:          eventlog.ErrInvalid,
	kerr.InvalidReplicationFactor:   eventlog.ErrInvalid,
	kerr.InvalidRequest:             eventlog.ErrInvalid,
	kerr.PolicyViolation:            eventlog.ErrInvalid,
	kerr.InvalidRecord:              eventlog.ErrInvalid,
	kerr.CorruptMessage:             eventlog.ErrInvalid,
	kerr.InvalidTimestamp:           eventlog.ErrInvalid,
	kerr.UnsupportedCompressionType: eventlog.ErrInvalid,
	kerr.MessageTooLarge:            eventlog.ErrTooLarge,
	kerr.RecordListTooLarge:         eventlog.ErrTooLarge,
	kerr.ProducerFenced:             eventlog.ErrFenced,
	kerr.InvalidProducerEpoch:       eventlog.ErrFenced,
	kerr.InvalidProducerIDMapping:   eventlog.ErrFenced,
}

// translate wraps an error of the cluster with the log's word for it, if there is one.
func translate(err error) error {
	if errors.Is(err, kgo.ErrClientClosed) {
		return eventlog.ErrClosed
	}
	var ke *kerr.Error
	if errors.As(err, &ke) {
		if s := sentinels[ke]; s != nil {
			return fmt.Errorf("%w: %w", s, err)
		}
	}
	return err
}

// verdict is what a broker's answer to one partition's batch means for the batch.
type verdict uint8

const (
	accepted  verdict = iota
	rejected          // not in the log, and never will be as it is
	later             // not in the log: repeat it as it is
	again             // may be in the log: repeat it as it is
	elsewhere         // as again, after looking for the leader anew
	gone              // the broker does not know the topic
	stateless         // the broker does not know the producer as we do: its sequence, its epoch
)

func judge(code int16) (verdict, error) {
	if code == 0 {
		return accepted, nil
	}
	err := kerr.ErrorForCode(code)
	switch err {
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InconsistentTopicID:
		return gone, err
	case kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch,
		kerr.KafkaStorageError, kerr.ReplicaNotAvailable, kerr.BrokerNotAvailable:
		return elsewhere, err
	case kerr.NotEnoughReplicas, kerr.ConcurrentTransactions, kerr.NotCoordinator, kerr.CoordinatorNotAvailable,
		kerr.CoordinatorLoadInProgress, kerr.ThrottlingQuotaExceeded,
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
		kerr.SaslAuthenticationFailed, kerr.InvalidTimestamp: // what was taken from us can be given back, and clocks can be set
		return later, err
	case kerr.OutOfOrderSequenceNumber, kerr.DuplicateSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch,
		kerr.InvalidProducerIDMapping, kerr.ProducerFenced, kerr.InvalidTxnState:
		return stateless, err
	case kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.CorruptMessage,
		kerr.UnsupportedCompressionType, kerr.UnsupportedForMessageFormat, kerr.InvalidTopicException, kerr.PolicyViolation,
		kerr.InvalidRequiredAcks, kerr.UnsupportedVersion:
		return rejected, err
	}
	return again, err
}
