package kafkatool

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Internals decodes a record of Kafka's own topics __consumer_offsets and __transaction_state; nil if it is of another topic, or of a kind that
// is not known here.
func Internals(topic string, key, value []byte) any {
	if len(key) < 2 {
		return nil
	}
	version := binary.BigEndian.Uint16(key)
	switch {
	case topic == "__consumer_offsets" && version <= 1:
		return pair(&kmsg.OffsetCommitKey{}, &kmsg.OffsetCommitValue{}, key, value)
	case topic == "__consumer_offsets" && version == 2:
		return pair(&kmsg.GroupMetadataKey{}, &kmsg.GroupMetadataValue{}, key, value)
	case topic == "__transaction_state" && version == 0:
		return pair(&kmsg.TxnMetadataKey{}, &kmsg.TxnMetadataValue{}, key, value)
	}
	return nil
}

type readable interface{ ReadFrom([]byte) error }

func pair(k, v readable, key, value []byte) any {
	if k.ReadFrom(key) != nil {
		return nil
	}
	out := struct {
		Key   any `json:"key"`
		Value any `json:"value"` // null: removed
	}{Key: k}
	if value != nil {
		if v.ReadFrom(value) != nil {
			return nil
		}
		out.Value = v
	}
	return out
}
