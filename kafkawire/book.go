package kafkawire

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace-io/millrace/eventlog"
)

// book is a compacted topic of the server's own, of which the last record of each key counts. It is made when something is first
// written in it. A write is durable when it returns, and what a crash cuts off was never answered. Who owns a book has its writers take turns.
type book struct {
	log   Engine
	name  string
	now   func() time.Time
	learn func(key, value []byte) error // takes in a record; value nil: the key is gone
}

// entryOf is a record of a book.
type entryOf struct{ key, value []byte }

// open reads what is in the book. A record that cannot be understood is an error: it may be what keeps somebody out.
func (b *book) open(ctx context.Context) error {
	topic, ok := b.log.TopicByName(b.name)
	if !ok {
		return nil
	}
	_, err := replayTopic(ctx, b.log, b.name, eventlog.Part{Topic: topic.ID}, func(r *eventlog.Record) error {
		if err := b.learn(r.Key, r.Value); err != nil {
			return fmt.Errorf("offset %d: %w", r.Offset, err)
		}
		return nil
	})
	return err
}

// bookBatch bounds a batch of a book, in bytes of keys and values: well below what the log takes.
const bookBatch = 256 << 10

// write appends records and takes them in, those that are durable. Where there are many it takes several batches, and written says how many of
// the entries there are when one of them fails; those of one batch stand and fall together.
func (b *book) write(ctx context.Context, entries []entryOf) (written int, err error) {
	for written < len(entries) {
		n, size := 0, 0
		for _, e := range entries[written:] {
			if size += len(e.key) + len(e.value); n > 0 && size > bookBatch {
				break
			}
			n++
		}
		if err := b.append(ctx, entries[written:written+n]); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// append is write of one batch.
func (b *book) append(ctx context.Context, entries []entryOf) error {
	part, err := ownTopic(ctx, b.log, b.name, nil)
	if err != nil {
		return err
	}
	var builder eventlog.Builder
	for _, e := range entries {
		builder.Add(b.now().UnixMilli(), e.key, e.value, nil)
	}
	batch, _, err := builder.Batch(part, eventlog.None)
	if err != nil {
		return fmt.Errorf("write to topic %s: %w", b.name, err)
	}
	outcome := make(chan error, 1)
	b.log.Append(batch, func(o eventlog.Outcome) { outcome <- lost(o) })
	if err := <-outcome; err != nil { // the log answers always: it is not ours to wait less long than for the truth
		return fmt.Errorf("write to topic %s: %w", b.name, err)
	}
	for _, e := range entries {
		if err := b.learn(e.key, e.value); err != nil {
			return fmt.Errorf("topic %s: %w", b.name, err)
		}
	}
	return nil
}
