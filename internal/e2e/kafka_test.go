package e2e

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// endsOf is the end offset of each partition of a topic.
func endsOf(t *testing.T, cl *kgo.Client, topic string) map[int32]int64 {
	t.Helper()
	list, err := kadm.NewClient(cl).ListEndOffsets(deadline(t, 30*time.Second), topic)
	if err == nil {
		err = list.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	ends := map[int32]int64{}
	list.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends
}
