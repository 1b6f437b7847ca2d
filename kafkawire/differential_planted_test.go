package kafkawire

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// An answer that is altered once it has come is a difference that the script finds: the comparison is not blind.
func TestDifferencesAreSeen(t *testing.T) {
	for what, alter := range map[string]func(kmsg.Response){
		"a base offset": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.ProduceResponse); ok {
				r.Topics[0].Partitions[0].BaseOffset++
			}
		},
		"a duplicate that counts as out of order": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.ProduceResponse); ok && r.Topics[0].Partitions[0].ErrorCode == kerr.OutOfOrderSequenceNumber.Code {
				r.Topics[0].Partitions[0].ErrorCode = kerr.DuplicateSequenceNumber.Code
			}
		},
		"an offset out of range that is none": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.FetchResponse); ok && r.Topics[0].Partitions[0].ErrorCode == kerr.OffsetOutOfRange.Code {
				r.Topics[0].Partitions[0].ErrorCode = 0
			}
		},
		"a high watermark": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.FetchResponse); ok {
				r.Topics[0].Partitions[0].HighWatermark++
			}
		},
		"a time found": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.ListOffsetsResponse); ok && r.Topics[0].Partitions[0].Timestamp > 0 {
				r.Topics[0].Partitions[0].Timestamp++
			}
		},
		"a stale generation that may sync": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.SyncGroupResponse); ok && r.ErrorCode == kerr.IllegalGeneration.Code {
				r.ErrorCode = 0
			}
		},
		"an offset that was not kept": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.OffsetFetchResponse); ok && len(r.Topics) > 0 && r.Topics[0].Partitions[0].Offset > 0 {
				r.Topics[0].Partitions[0].Offset = 0
			}
		},
		"a topic made twice": func(r kmsg.Response) {
			if r, ok := r.(*kmsg.CreateTopicsResponse); ok {
				r.Topics[0].ErrorCode = 0
			}
		},
	} {
		seen := false
		for seed := uint64(1); seed <= 100 && !seen; seed++ {
			seen = againstKfake(t, seed, alter, scripts[0], map[string]int{}).difference != ""
		}
		if !seen {
			t.Errorf("%s is not seen", what)
		}
	}
}
