package kafkawire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// sessionsState is what the script of fetch sessions knows: a session, and where it is.
type sessionsState struct {
	*topicsState
	session [2]int32
	epoch   int32
	byID    bool // the session names topics by their ids
}

func sessionsScript(d *differ) func() {
	return (&sessionsState{topicsState: newTopicsState(d)}).step
}

func (d *sessionsState) step() {
	topic, partition := d.topic(), int32(d.rng.IntN(2))
	switch d.rng.IntN(10) {
	case 0:
		d.create(topic)
	case 1:
		if d.chance(3) {
			d.remove()
		}
	case 2, 3, 4:
		d.produce(topic, partition)
	case 5:
		if d.chance(3) {
			d.deleteRecords(topic, partition)
		}
	case 6, 7, 8, 9:
		d.next()
	}
}

// next is one fetch in the session, or what begins, ends or breaks one. Answers of sessions are asked for once: they are not the same again.
func (d *sessionsState) next() {
	session, epoch, what := d.session, d.epoch, "next"
	switch n := d.rng.IntN(24); {
	case d.session[0] == 0 || n == 0:
		session, epoch, what = [2]int32{}, 0, "a new session"
		if d.session[0] != 0 && d.chance(2) {
			session, what = d.session, "a new session for the old"
		}
		d.byID = d.chance(2)
	case n == 1:
		epoch, what = -1, "the end"
	case n == 2:
		epoch, what = d.epoch+1, "an epoch too far"
	case n == 3:
		epoch, what = max(1, d.epoch-1), "an epoch again"
	case n == 4:
		session, what = [2]int32{77, 77}, "no such session"
	case n == 5:
		session, epoch, what = [2]int32{}, -1, "without a session"
	case n == 6:
		d.byID, what = !d.byID, "the other way of naming"
	case n == 7:
		session, epoch, what = [2]int32{}, 3, "an epoch of no session"
	}
	v := int16(7 + d.rng.IntN(6))
	if d.byID {
		v += 6
	}
	v = min(v, 17)
	type part struct {
		topic  string
		ids    [2][16]byte
		index  int32
		offset int64
		forget bool
	}
	var parts []part
	said := map[string]bool{}
	for range d.rng.IntN(4) {
		p := part{topic: d.topic(), index: int32(d.rng.IntN(3)), offset: int64(d.rng.IntN(8)), forget: d.chance(4) && epoch > 0}
		name := p.topic
		if d.byID {
			name, p.ids = d.id()
		}
		if key := fmt.Sprint(name, p.index); !said[key] && name != "no id" {
			said[key] = true
			parts = append(parts, p)
			what += fmt.Sprintf(", %s/%d at %d forget %v", name, p.index, p.offset, p.forget)
		}
	}
	d.ask(fmt.Sprintf("session, epoch %d, version %d: %s", epoch, v, what), func(side int) kmsg.Request {
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes, req.SessionID, req.SessionEpoch = 1<<20, session[side], epoch
		for _, p := range parts {
			if p.forget {
				req.ForgottenTopics = append(req.ForgottenTopics, kmsg.FetchRequestForgottenTopic{Topic: p.topic, TopicID: p.ids[side], Partitions: []int32{p.index}})
				continue
			}
			req.Topics = append(req.Topics, fetchRequest(eventlog.Topic{Name: p.topic, ID: p.ids[side]}, p.index, p.offset, 0, 0).Topics...)
		}
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		resp := r.(*kmsg.FetchResponse)
		if side == 0 {
			d.advance(resp, epoch)
		}
		if resp.SessionID != 0 {
			d.session[side] = resp.SessionID
			resp.SessionID = 1
		}
		return d.all()(side, gathered(resp))
	})
}

// advance goes on as a client does.
func (d *sessionsState) advance(resp *kmsg.FetchResponse, epoch int32) {
	switch {
	case resp.ErrorCode != 0:
		if d.chance(2) {
			d.session, d.epoch = [2]int32{}, 0
		}
	case resp.SessionID == 0:
		d.session, d.epoch = [2]int32{}, 0
	case epoch == 0:
		d.epoch = 1
	default:
		d.epoch = epoch + 1
	}
}

// gathered makes one of what an answer says of a topic in several places.
func gathered(resp *kmsg.FetchResponse) *kmsg.FetchResponse {
	type key struct {
		name string
		id   [16]byte
	}
	at := map[key]int{}
	var topics []kmsg.FetchResponseTopic
	for _, t := range resp.Topics {
		k := key{t.Topic, t.TopicID}
		if i, there := at[k]; there {
			topics[i].Partitions = append(topics[i].Partitions, t.Partitions...)
			continue
		}
		at[k] = len(topics)
		topics = append(topics, t)
	}
	resp.Topics = topics
	return resp
}
