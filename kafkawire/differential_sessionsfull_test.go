package kafkawire

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/internal/tier"
)

// fullCache is both sides with as many fetch sessions as they keep. Those of Apache Kafka are in eight parts of its cache, one of which a new session is
// put into at random: it is full when many are refused in a row.
type fullCache struct {
	*differ
	sessions [2][]int32
	asked    [2]int // how often for the oldest
}

const refusedInARow = 300

// fetch is a request of one side's session.
func (d *fullCache) fetch(side int, session, epoch int32, partitions ...int32) *kmsg.FetchResponse {
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.SessionID, req.SessionEpoch = 1<<20, session, epoch
	for _, p := range partitions {
		req.Topics = append(req.Topics, fetchRequest(eventlog.Topic{Name: d.name + "t"}, p, 0, 0, 0).Topics...)
	}
	return do[*kmsg.FetchResponse]([]*client{d.ours, d.theirs}[side], 12, req)
}

// fill begins sessions of one partition until there is no room. It returns how many.
func (d *fullCache) fill(side int) (n int) {
	for refused := 0; refused < refusedInARow; {
		if id := d.fetch(side, 0, 0, 0).SessionID; id != 0 {
			d.sessions[side] = append(d.sessions[side], id)
			refused = 0
			n++
		} else {
			refused++
		}
	}
	return n
}

// same compares what a request of the oldest session, or of none, is told.
func (d *fullCache) same(what string, epoch int32, old bool, partitions ...int32) {
	d.t.Helper()
	var said [2]string
	for side := range said {
		session := int32(0)
		if old {
			session = d.sessions[side][0]
		}
		resp := d.fetch(side, session, epoch, partitions...)
		if resp.SessionID != 0 {
			resp.SessionID = 1
		}
		said[side] = d.all()(side, resp)
	}
	if said[0] != said[1] {
		d.t.Errorf("%s:\nours:   %s\ntheirs: %s", what, said[0], said[1])
	}
}

// When there are as many fetch sessions as are kept, who begins one more is answered as without one, by Apache Kafka too; who has one goes on; one that
// ends makes room, and so do those, after two minutes (in make soak), that nobody asks for any more.
func TestRealKafkaSessionsFull(t *testing.T) {
	addr := os.Getenv("MILLRACE_KAFKA_ONE")
	if addr == "" {
		t.Skip("MILLRACE_KAFKA_ONE IS NOT SET: it is the address of a cluster of one broker (make test-all sets it)")
	}
	n := startOn(t, Options{Rights: all{}}, nil)
	defer n.stop()
	d := &fullCache{differ: newDiffer(t, tier.Seed(), n, addr)}
	d.name = fmt.Sprintf("sessions-%x-", time.Now().UnixNano())
	d.kafka()
	topics := newTopicsState(d.differ)
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, createTopic(d.name+"t", 3, 1))
	for _, c := range []*client{d.ours, d.theirs} {
		do[*kmsg.CreateTopicsResponse](c, 7, req)
	}
	topics.created(d.name+"t", 3)
	for _, c := range []*client{d.ours, d.theirs} {
		do[*kmsg.ProduceResponse](c, 9, produceRequest(d.name+"t", 0, -1, batchOf(eventlog.None, "x", "y")))
	}
	ours, theirs := d.fill(0), d.fill(1)
	t.Logf("%d sessions here, %d there", ours, theirs)
	if ours != 1000 || theirs > 1000 || theirs < 500 { // others of this run may have left some there
		t.Errorf("%d sessions here, %d there, want 1000", ours, theirs)
	}
	d.same("one more", 0, false, 0)
	d.same("one more, of more partitions", 0, false, 0, 1, 2)
	d.same("the next request of one that is there", 1, true, 1)
	d.same("and the one after", 2, true)
	d.same("its end", -1, true)
	for side := range d.sessions {
		d.sessions[side] = d.sessions[side][1:]
		if got := d.fill(side); got != 1 {
			t.Errorf("side %d: after the end of one session there is room for %d", side, got)
		}
	}
	if tier.Soak() {
		for range 5 { // the oldest is asked for all the time
			time.Sleep(25 * time.Second)
			for side := range d.sessions {
				resp := d.fetch(side, d.sessions[side][0], int32(1+d.asked[side]))
				if d.asked[side]++; resp.ErrorCode != 0 {
					t.Errorf("side %d: its session, which is in use: %d", side, resp.ErrorCode)
				}
			}
		}
		for side := range d.sessions {
			if d.fetch(side, 0, 0, 0).SessionID == 0 {
				t.Errorf("side %d: nobody has asked for the others for two minutes, and there is no room", side)
			}
			if code := d.fetch(side, d.sessions[side][0], int32(1+d.asked[side])).ErrorCode; code != 0 {
				t.Errorf("side %d: the session that is in use: %d", side, code)
			}
		}
	}
	for _, id := range d.sessions[1] {
		d.fetch(1, id, -1)
	}
	d.cleanUp()
}
