package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/eventlog"
)

// ProducersTopic is the compacted topic, of one partition, that says which producers are Millrace's and how often each
// partition was claimed:
//
//	producer/<producer id>         → the first epoch announced
//	claim/<topic id>/<partition>   → the epoch of the last claim
//
// Whoever may write to it can pass records off as ours.
const ProducersTopic = eventlog.InternalPrefix + "producers"

// registry is our view on ProducersTopic. Nothing in it is ever taken back.
type registry struct {
	d    *Driver
	part eventlog.Part

	reading sync.Mutex // held by whoever reads on; guards next
	next    int64

	mu      sync.RWMutex
	own     map[int64]int16    // producer id → first epoch
	claims  map[string]int64   // by claimKey
	foreign map[int64]struct{} // producers seen in the log that were not announced, so never will be: a bounded cache
}

const maxForeign = 1 << 16

func producerKey(id int64) string     { return "producer/" + strconv.FormatInt(id, 10) }
func claimKey(p eventlog.Part) string { return fmt.Sprintf("claim/%v/%d", p.Topic, p.Index) }
func parseProducer(key string) (int64, error) {
	return strconv.ParseInt(strings.TrimPrefix(key, "producer/"), 10, 64)
}

// open finds or creates the topic and reads it.
func (r *registry) open(ctx context.Context) error {
	spec := eventlog.TopicSpec{Name: ProducersTopic, Partitions: 1, Config: map[string]string{"cleanup.policy": "compact"}}
	all, err := r.d.list(ctx, ProducersTopic)
	if err != nil {
		return fmt.Errorf("describe topic %q: %w", ProducersTopic, translate(err))
	}
	var t eventlog.Topic
	if len(all) > 0 {
		t = all[0]
	} else if t, err = r.d.CreateTopic(ctx, spec); err != nil && !errors.Is(err, eventlog.ErrTopicExists) {
		return err
	}
	if t.Partitions != 1 || !strings.Contains(t.Config["cleanup.policy"], "compact") {
		return fmt.Errorf("%w: topic %q has %d partitions and cleanup.policy=%q, want 1 and compact",
			eventlog.ErrInvalid, t.Name, t.Partitions, t.Config["cleanup.policy"])
	}
	r.part = eventlog.Part{Topic: t.ID}
	return r.catchUp(ctx)
}

// catchUp reads what was written before the call.
func (r *registry) catchUp(ctx context.Context) error {
	r.reading.Lock()
	defer r.reading.Unlock()
	end, err := r.d.highWatermark(ctx, r.part)
	if err != nil {
		return fmt.Errorf("read %s: %w", ProducersTopic, err)
	}
	for n := 0; r.next < end; {
		got, err := r.d.readOnce(ctx, eventlog.Position{Part: r.part, Offset: r.next}, 1<<20)
		if err != nil {
			var out *eventlog.OutOfRangeError
			if errors.As(err, &out) && r.next < out.Start {
				r.next = out.Start
				continue
			}
			return fmt.Errorf("read %s: %w", ProducersTopic, err)
		}
		for _, b := range got.batches {
			if err := b.Each(r.learn); err != nil {
				return fmt.Errorf("read %s: %w", ProducersTopic, err)
			}
		}
		if got.next == r.next { // somebody's open transaction: not ours, but it must end first
			if err := r.d.pause(ctx, n); err != nil {
				return fmt.Errorf("read %s: held back at %d: %w", ProducersTopic, r.next, err)
			}
			n++
		}
		r.next = got.next
	}
	return nil
}

// learn takes in one record. What makes no sense is not ours and is ignored.
func (r *registry) learn(rec *eventlog.Record) error {
	key := string(rec.Key)
	n, err := strconv.ParseInt(string(bytes.TrimSpace(rec.Value)), 10, 64)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case strings.HasPrefix(key, "producer/"):
		if id, err := parseProducer(key); err == nil && id >= 0 && n == int64(int16(n)) {
			if was, ok := r.own[id]; !ok || int16(n) < was {
				r.own[id] = int16(n)
			}
			delete(r.foreign, id)
		}
	case strings.HasPrefix(key, "claim/"):
		r.claims[key] = max(r.claims[key], n)
	}
	return nil
}

// owns says whether a producer that appended something is Millrace's. It is announced before its first append, so one that
// is not known after reading on never was ours.
func (r *registry) owns(ctx context.Context, id int64, epoch int16) (bool, error) {
	if id < 0 {
		return false, nil
	}
	own, known := r.knows(id, epoch)
	if known {
		return own, nil
	}
	if err := r.catchUp(ctx); err != nil {
		return false, err
	}
	if own, known = r.knows(id, epoch); !known {
		r.mu.Lock()
		if len(r.foreign) >= maxForeign {
			clear(r.foreign)
		}
		r.foreign[id] = struct{}{}
		r.mu.Unlock()
	}
	return own, nil
}

func (r *registry) knows(id int64, epoch int16) (own, known bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if first, ok := r.own[id]; ok {
		return epoch >= first, true
	}
	_, known = r.foreign[id]
	return false, known
}

// announce writes that a producer is ours, durably, before it appends anything.
func (r *registry) announce(ctx context.Context, id int64, epoch int16) error {
	if own, _ := r.knows(id, epoch); own {
		return nil
	}
	return r.write(ctx, producerKey(id), int64(epoch))
}

// claim counts one more claim of a partition and returns its epoch. The caller has fenced earlier claimants before, and makes
// sure afterwards that it was not fenced itself: then no two claims have the same epoch, and later ones have larger.
func (r *registry) claim(ctx context.Context, p eventlog.Part) (int64, error) {
	if err := r.catchUp(ctx); err != nil {
		return 0, err
	}
	key := claimKey(p)
	r.mu.RLock()
	epoch := r.claims[key] + 1
	r.mu.RUnlock()
	if epoch >= 1<<31 {
		return 0, fmt.Errorf("%w: partition %v was claimed %d times, which is all an epoch can count", eventlog.ErrInvalid, p, epoch-1)
	}
	return epoch, r.write(ctx, key, epoch)
}

// write appends one record and waits until it is durable. It has no producer id, so a retry may write it twice: the second
// says the same.
func (r *registry) write(ctx context.Context, key string, n int64) error {
	var bl eventlog.Builder
	bl.Add(time.Now().UnixMilli(), []byte(key), strconv.AppendInt(nil, n, 10), nil)
	b, _, err := bl.Batch(r.part, eventlog.None)
	if err != nil {
		return err
	}
	for tries := 0; ; tries++ {
		v, err := r.attempt(ctx, b)
		switch {
		case v == accepted:
			return r.learn(&eventlog.Record{Key: []byte(key), Value: strconv.AppendInt(nil, n, 10)})
		case v == rejected || isDone(err):
			return fmt.Errorf("write %q to %s: %w", key, ProducersTopic, err)
		}
		if pauseErr := r.d.pause(ctx, tries); pauseErr != nil {
			return fmt.Errorf("write %q to %s: %w: %w", key, ProducersTopic, pauseErr, err)
		}
	}
}

func (r *registry) attempt(ctx context.Context, b *eventlog.Batch) (verdict, error) {
	t, err := r.d.topics.partition(ctx, r.part)
	if err != nil {
		return rejected, err
	}
	req := newProduce(nil)
	addProduce(req, t, r.part.Index, b.Raw())
	resp, err := req.RequestWith(ctx, r.d.cl.Broker(int(t.leader(r.part.Index))))
	if err == nil {
		p, ok := answerOf(resp, t, r.part.Index)
		if !ok {
			return again, errNoAnswer
		}
		var v verdict
		if v, err = judge(p.ErrorCode); v == accepted {
			return v, nil
		} else if v == rejected {
			return v, err
		}
	}
	if refreshErr := r.d.topics.refresh(ctx); refreshErr != nil {
		err = errors.Join(err, refreshErr)
	}
	return again, err
}

var errNoAnswer = errors.New("the broker's response lacks the partition")

// highWatermark is the end of everything in a partition, stable or not.
func (d *Driver) highWatermark(ctx context.Context, p eventlog.Part) (int64, error) {
	t, err := d.topics.partition(ctx, p)
	if err != nil {
		return 0, err
	}
	listed, err := d.adm.ListEndOffsets(ctx, t.name)
	if err != nil {
		return 0, err
	}
	o, ok := listed.Lookup(t.name, p.Index)
	if !ok {
		return 0, fmt.Errorf("end of %v: %w", p, eventlog.ErrUnknownTopic)
	}
	return o.Offset, o.Err
}

// newProduce begins a produce request; the client sets acks to all replicas in sync, whatever is here.
func newProduce(txnID *string) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.TransactionID = txnID
	req.Acks = -1
	req.TimeoutMillis = 5_000
	return req
}

func addProduce(req *kmsg.ProduceRequest, t *topic, index int32, raw eventlog.RawBatch) {
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = index, raw
	for i := range req.Topics {
		if rt := &req.Topics[i]; rt.Topic == t.name {
			rt.Partitions = append(rt.Partitions, rp)
			return
		}
	}
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = t.name, t.id
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
}

// answerOf finds a partition's part of a produce response, which names topics by name or, from version 13 on, by id.
func answerOf(resp *kmsg.ProduceResponse, t *topic, index int32) (kmsg.ProduceResponseTopicPartition, bool) {
	for i := range resp.Topics {
		rt := &resp.Topics[i]
		if resp.Version >= 13 && rt.TopicID != t.id || resp.Version < 13 && rt.Topic != t.name {
			continue
		}
		for _, p := range rt.Partitions {
			if p.Partition == index {
				return p, true
			}
		}
	}
	return kmsg.ProduceResponseTopicPartition{}, false
}
