package kafkawire

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/tier"
)

// decoded is what our codec reads in a Produce request.
func decoded(body []byte, version int16) (*production, error) {
	p := newProduction(nil, &request{api: lookup(int16(kmsg.Produce)), version: version})
	return p, p.decode(body)
}

// agree compares what our codec and kmsg's read in a request.
func agree(t *testing.T, p *production, req *kmsg.ProduceRequest) {
	t.Helper()
	if (p.txn == nil) != (req.TransactionID == nil) || p.txn != nil && *p.txn != *req.TransactionID || p.acks != req.Acks || len(p.topics) != len(req.Topics) {
		t.Fatalf("version %d: read transactional id %v, acks %d and %d topics, want %+v", req.Version, p.txn, p.acks, len(p.topics), req)
	}
	parts := p.parts
	for i, topic := range req.Topics {
		got := p.topics[i]
		if string(got.name) != topic.Topic || got.id != topic.TopicID || got.parts != len(topic.Partitions) {
			t.Fatalf("version %d: read topic %+v, want %+v", req.Version, got, topic)
		}
		for j, part := range topic.Partitions {
			if parts[j].index != part.Partition || !bytes.Equal(parts[j].records, part.Records) {
				t.Fatalf("version %d: read partition %d with %x, want %+v", req.Version, parts[j].index, parts[j].records, part)
			}
		}
		parts = parts[got.parts:]
	}
	if len(parts) > 0 {
		t.Fatalf("version %d: %d partitions too many", req.Version, len(parts))
	}
}

// Our codec of Produce and kmsg's read the same in every request, and answer with the same bytes.
func TestProduceCodec(t *testing.T) {
	for version := int16(3); version <= 13; version++ {
		for i := range uint64(tier.N(2000)) {
			rng := rand.New(rand.NewPCG(tier.Seed()+i, uint64(version)))
			body := randomRequest(rng, int16(kmsg.Produce), version).AppendTo(nil)
			req := kmsg.NewPtrProduceRequest()
			req.SetVersion(version)
			if err := req.ReadFrom(body); err != nil {
				t.Fatal(err)
			}
			p, err := decoded(body, version)
			if err != nil {
				t.Fatal(err)
			}
			agree(t, p, req)
			if len(body) > 0 {
				if _, err := decoded(body[:len(body)-1], version); err == nil {
					t.Fatalf("version %d: took a request that lacks its last byte", version)
				}
			}
			answersAlike(t, rng, p)
		}
	}
}

// answersAlike makes up what became of a request, and compares our answer with kmsg's.
func answersAlike(t *testing.T, rng *rand.Rand, p *production) {
	t.Helper()
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(p.r.version)
	parts := p.parts
	for i := range p.topics {
		topic := &p.topics[i]
		topic.found.Name = string(topic.name)
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = topic.found.Name, topic.id
		for _, part := range parts[:topic.parts] {
			part.code, part.base, part.appended, part.start = int16(rng.IntN(90)), rng.Int64(), rng.Int64(), rng.Int64()
			if text := "no"; rng.IntN(2) == 0 {
				part.message = &text
			}
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode, rp.ErrorMessage = part.index, part.code, part.message
			rp.BaseOffset, rp.LogAppendTime, rp.LogStartOffset = part.base, part.appended, part.start
			rt.Partitions = append(rt.Partitions, rp)
		}
		parts = parts[topic.parts:]
		resp.Topics = append(resp.Topics, rt)
	}
	var want frame
	want.set(&p.r, resp)
	if p.encode(); !bytes.Equal(p.out, want.bufs[0]) {
		t.Fatalf("version %d: answered\n%x, want\n%x", p.r.version, p.out, want.bufs[0])
	}
}

// FuzzProduceRequest: our codec takes nothing that the shape does not take, and reads in the rest what kmsg's reads.
func FuzzProduceRequest(f *testing.F) {
	for version := int16(3); version <= 13; version++ {
		rng := rand.New(rand.NewPCG(1, uint64(version)))
		f.Add(version, randomRequest(rng, int16(kmsg.Produce), version).AppendTo(nil))
	}
	api := lookup(int16(kmsg.Produce))
	f.Fuzz(func(t *testing.T, version int16, body []byte) {
		if version < api.min || version > api.max {
			return
		}
		p, err := decoded(body, version)
		shapeErr := api.shape.walk(body, version, version >= api.flexible)
		if (err == nil) != (shapeErr == nil) {
			t.Fatalf("the codec says %v, the shape %v", err, shapeErr)
		}
		if err != nil {
			return
		}
		req := kmsg.NewPtrProduceRequest()
		req.SetVersion(version)
		if req.ReadFrom(body) == nil {
			agree(t, p, req)
		}
	})
}

// A batch of a small request shares no memory with it in the log: that is used again.
func TestBatchesAreCopied(t *testing.T) {
	e := &keepingEngine{}
	c := &conn{s: &Server{Options: Options{Engine: e}}}
	body := produceRequest("a", 0, -1, batchOf(eventlog.None, "value"))
	body.SetVersion(9)
	r := &request{api: lookup(int16(kmsg.Produce)), version: 9, body: body.AppendTo(nil), s: c.s}
	at := bytes.Index(r.body, []byte("value"))
	if _, err := startProduce(c, r); err != nil {
		t.Fatal(err)
	}
	copy(r.body[at:], "other")
	if !bytes.Contains(e.raw, []byte("value")) {
		t.Fatalf("the log has %q, which the next request wrote over", e.raw)
	}
}

type keepingEngine struct {
	Engine
	raw []byte
}

func (e *keepingEngine) BareTopic(name string) (eventlog.Topic, bool) {
	return eventlog.Topic{Name: name, Partitions: 1}, true
}
func (e *keepingEngine) Room(eventlog.Part) <-chan struct{} { return nil }
func (e *keepingEngine) ProduceAs(_ eventlog.Part, raw []byte, _ engine.Acks, _ engine.Producing, done func(engine.Produced)) {
	e.raw = raw
	done(engine.Produced{})
}
