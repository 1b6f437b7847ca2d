package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// Headers of a dead letter, beside those the record came with.
const (
	hDeadReason    = "mr-dlq-reason"
	hDeadTopic     = "mr-dlq-topic"
	hDeadTopicID   = "mr-dlq-topic-id"
	hDeadPartition = "mr-dlq-partition"
	hDeadOffset    = "mr-dlq-offset"
	hDeadTime      = "mr-dlq-timestamp"
)

// deadLetter is a stable record that cannot reach its MQTT topic.
type deadLetter struct {
	offset, timestamp int64
	key, value        []byte
	headers           []eventlog.Header
	reason            string
}

func newDeadLetter(r *eventlog.Record, why error) deadLetter {
	d := deadLetter{offset: r.Offset, timestamp: r.Timestamp, key: r.Key, value: r.Value, reason: why.Error()}
	for _, h := range r.Headers {
		if !strings.HasPrefix(h.Key, "mr-") {
			d.headers = append(d.headers, h)
		}
	}
	return d
}

// deadLetters writes dead letters to `<topic>.dlq`, from one goroutine, each source position at most once across restarts: the
// letters of a partition are written in order of offset, so the last one found in the dead-letter topic tells what is there.
type deadLetters struct {
	s      *Store
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{}
	wake   chan struct{}

	mu    sync.Mutex
	queue []deadWork
	tails map[*tail]struct{}

	// Of the goroutine alone.
	topics map[eventlog.TopicID]eventlog.Topic // the dead-letter topic of each topic
	marks  map[eventlog.Part]int64             // the highest offset whose letter is written, of each partition
}

// deadWork is the dead letters of one batch.
type deadWork struct {
	tail    *tail
	part    eventlog.Part
	letters []deadLetter
}

func newDeadLetters(s *Store) *deadLetters {
	d := &deadLetters{s: s, ended: make(chan struct{}), wake: make(chan struct{}, 1), tails: map[*tail]struct{}{},
		topics: map[eventlog.TopicID]eventlog.Topic{}, marks: map[eventlog.Part]int64{}}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	go d.loop()
	return d
}

func (d *deadLetters) close() {
	d.cancel()
	<-d.ended
}

func (d *deadLetters) attach(t *tail) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tails[t] = struct{}{}
}

func (d *deadLetters) detach(t *tail) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tails, t)
}

func (d *deadLetters) follow(topic eventlog.Topic) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for t := range d.tails {
		t.follow(topic)
	}
}

// write queues letters; the tail is told when they are durable.
func (d *deadLetters) write(t *tail, p eventlog.Part, letters []deadLetter) {
	d.mu.Lock()
	d.queue = append(d.queue, deadWork{tail: t, part: p, letters: letters})
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *deadLetters) loop() {
	defer close(d.ended)
	for {
		d.mu.Lock()
		work := d.queue
		d.queue = nil
		d.mu.Unlock()
		for _, w := range work {
			if d.finish(w) != nil {
				return
			}
			w.tail.release(w.part)
		}
		if len(work) > 0 {
			continue
		}
		select {
		case <-d.wake:
		case <-d.ctx.Done():
			return
		}
	}
}

// finish writes letters until they are durable or can never be; an error means that the store is closing.
func (d *deadLetters) finish(w deadWork) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := d.try(&w)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, eventlog.ErrClosed) || d.ctx.Err() != nil:
			return err
		case errors.Is(err, eventlog.ErrInvalid) || errors.Is(err, errTopicGone):
			d.lost(&w, len(w.letters), err)
			return nil
		}
		d.s.logger.Warn("dead letters wait", "part", w.part.String(), "err", err)
		select {
		case <-time.After(pause):
		case <-d.ctx.Done():
			return d.ctx.Err()
		}
	}
}

// lost gives up the first n of the letters.
func (d *deadLetters) lost(w *deadWork, n int, err error) {
	d.s.logger.Error("dead letters lost", "part", w.part.String(), "first_offset", w.letters[0].offset, "n", n, "err", err)
	d.s.stats.dead.add("lost", uint64(n))
}

// try writes those of the letters that are not there yet.
func (d *deadLetters) try(w *deadWork) error {
	i, there := d.s.places.Load().byID[w.part.Topic]
	if !there {
		return errTopicGone
	}
	source := d.s.table.topics[i]
	to, err := d.topic(w.part.Topic, source)
	if err != nil {
		return err
	}
	part := eventlog.Part{Topic: to.ID, Index: w.part.Index % to.Partitions}
	mark, err := d.mark(w.part, part)
	if err != nil {
		return err
	}
	for len(w.letters) > 0 && w.letters[0].offset <= mark {
		w.letters = w.letters[1:]
	}
	for len(w.letters) > 0 {
		var b eventlog.Builder
		n := 0
		for n < len(w.letters) && (n == 0 || b.Size()+len(w.letters[n].value) < maxBatch) {
			l := &w.letters[n]
			b.Add(d.s.now(), l.key, l.value, l.withHeaders(source.name, w.part))
			n++
		}
		batch, _, err := b.Batch(part, eventlog.None)
		if err != nil {
			return err
		}
		_, err = d.s.log.AppendWait(d.ctx, batch)
		switch {
		case errors.Is(err, eventlog.ErrTooLarge): // its record was compressed; the others are not lost with it
			d.lost(w, n, err)
			w.letters = w.letters[n:]
			continue
		case err != nil:
			delete(d.marks, w.part) // what is there must be looked up again
			if errors.Is(err, eventlog.ErrUnknownTopic) {
				delete(d.topics, w.part.Topic)
			}
			return fmt.Errorf("append to %q: %w", to.Name, err)
		}
		d.s.stats.dead.add("written", uint64(n))
		d.marks[w.part] = w.letters[n-1].offset
		w.letters = w.letters[n:]
	}
	return nil
}

func (l *deadLetter) withHeaders(topic string, p eventlog.Part) []eventlog.Header {
	text := func(k, v string) eventlog.Header { return eventlog.Header{Key: k, Value: []byte(v)} }
	return append(slices.Clip(l.headers),
		text(hDeadReason, l.reason), text(hDeadTopic, topic), text(hDeadTopicID, p.Topic.String()),
		text(hDeadPartition, strconv.Itoa(int(p.Index))), text(hDeadOffset, strconv.FormatInt(l.offset, 10)),
		text(hDeadTime, strconv.FormatInt(l.timestamp, 10)))
}

// topic finds or makes the dead-letter topic of a topic.
func (d *deadLetters) topic(id eventlog.TopicID, source *topicPlan) (eventlog.Topic, error) {
	if t, known := d.topics[id]; known {
		return t, nil
	}
	at := d.s.places.Load()
	t, err := d.s.log.Ensure(d.ctx, d.s.letterTopic(source, at.topics[at.byID[id]]))
	if err == nil {
		d.topics[id] = t
	}
	return t, err
}

// letterTopic is what a topic's dead-letter topic is made with.
func (s *Store) letterTopic(source *topicPlan, of eventlog.Topic) eventlog.TopicSpec {
	spec := eventlog.TopicSpec{Name: source.name + DeadSuffix, Partitions: of.Partitions, Config: map[string]string{
		"max.message.bytes": strconv.Itoa(max(kafkaMaxMessage, s.maxRecord) + maxForeignHeaderBytes)}}
	if ms := source.config["retention.ms"]; ms != "" {
		spec.Config["retention.ms"] = ms
	}
	return spec
}

// mark is the highest offset of a partition whose letter is written: the last letter of ours in the dead-letter topic's
// partition that came from there. -1 if there is none.
func (d *deadLetters) mark(source, dead eventlog.Part) (int64, error) {
	if m, known := d.marks[source]; known {
		return m, nil
	}
	ends, err := d.s.log.Ends(d.ctx, dead.Topic)
	if err != nil {
		return 0, err
	}
	starts, err := d.s.log.Starts(d.ctx, dead.Topic)
	if err != nil {
		return 0, err
	}
	mark, start, end := int64(-1), starts[dead.Index], ends[dead.Index]
	for from, step := end, int64(100); mark < 0 && from > start; step *= 8 {
		from = max(start, from-step)
		own := func(b *eventlog.Batch) bool { return b.Own } // Kafka clients may write there too, anything
		err := d.s.visitRange(d.ctx, dead, from, end, own, func(r *eventlog.Record) error {
			if at, ours := sourceOf(r, source); ours {
				mark = max(mark, at)
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	d.marks[source] = mark
	return mark, nil
}

// sourceOf reads where a dead letter of ours came from, and whether that is source.
func sourceOf(r *eventlog.Record, source eventlog.Part) (offset int64, ours bool) {
	var id, partition string
	offset = -1
	for _, h := range r.Headers {
		switch h.Key {
		case hDeadTopicID:
			id = string(h.Value)
		case hDeadPartition:
			partition = string(h.Value)
		case hDeadOffset:
			n, err := strconv.ParseInt(string(h.Value), 10, 64)
			if err != nil {
				return 0, false
			}
			offset = n
		}
	}
	return offset, offset >= 0 && id == source.Topic.String() && partition == strconv.Itoa(int(source.Index))
}
