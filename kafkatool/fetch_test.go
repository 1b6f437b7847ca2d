package kafkatool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// What a broker sends is bounded and checked: a batch that unpacks to more than it may, or is not one, is an error that no repetition mends.
func TestFetchGarbled(t *testing.T) {
	bomb, err := eventlog.Compress(eventlog.Gzip, nil, make([]byte, eventlog.MaxDecompressed+1))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := (&unpacker{}).Decompress(bomb, kgo.CodecGzip); err == nil {
		t.Errorf("a bomb: %d bytes", len(out))
	}
	cu := &cursor{topic: "t", next: 5}
	take := func(batches []byte) got {
		resp := kmsg.NewPtrFetchResponse()
		resp.Version = 12
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic = "t"
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.RecordBatches, rp.HighWatermark, rp.LastStableOffset = batches, 9, 9
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return cu.take(resp, how{})
	}
	torn := make([]byte, 200)
	binary.BigEndian.PutUint64(torn, 5)
	binary.BigEndian.PutUint32(torn[8:], 188)
	torn[16] = 2
	endless := make([]byte, 100)
	binary.BigEndian.PutUint32(endless[8:], 1<<30)
	for name, b := range map[string][]byte{"checksum": torn, "longer than the answer": endless, "no batch": make([]byte, 40)} {
		g := take(b)
		if !errors.Is(g.err, errGarbled) || passing(g.err) || len(g.records) > 0 || g.next != 5 {
			t.Errorf("%s: %+v", name, g)
		}
	}
	if g := take(nil); g.err != nil || g.end != 9 {
		t.Errorf("nothing: %+v", g)
	}
	if g := cu.take(kmsg.NewPtrFetchResponse(), how{}); !errors.Is(g.err, errNoAnswer) || !passing(g.err) {
		t.Errorf("no answer: %+v", g)
	}
	for err, want := range map[error]bool{kerr.NotLeaderForPartition: true, kerr.TopicAuthorizationFailed: false, kerr.OffsetOutOfRange: false, fmt.Errorf("x: %w", ErrNoTopic): false, errors.New("dial: refused"): true} {
		if passing(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
}
