package kafkatool

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/eventlog/kafka"
)

// Writing says how to write to a topic.
type Writing struct {
	Topic     string
	Partition int32 // -1: as Kafka's own clients do, by the key's hash
	Headers   []kgo.RecordHeader
	Codec     string // none, gzip, snappy, lz4 or zstd
	MaxBytes  int32  // of a record, and of a request's batch
	Confirm   time.Duration
	Note      func(format string, args ...any)
}

// Message is one to be written. A nil key or value is null.
type Message struct{ Key, Value []byte }

// Written counts what became of messages.
type Written struct{ Delivered, Failed int64 }

const (
	bufferedBytes   = 32 << 20
	bufferedRecords = 10_000
	saidFailures    = 5 // of those that are not delivered, so many are told one by one
)

// Split cuts an input at a delimiter, into messages of at most limit bytes.
func Split(r io.Reader, delimiter []byte, limit int) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, min(64<<10, limit)), limit+len(delimiter))
	s.Split(func(data []byte, end bool) (int, []byte, error) {
		if i := bytes.Index(data, delimiter); i >= 0 {
			return i + len(delimiter), data[:i], nil
		}
		if end && len(data) > 0 {
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	return s
}

// Cut makes a message of a piece of input. Where there is no key delimiter in it there is no key; with null, what is empty is null.
func Cut(b, delimiter []byte, null bool) Message {
	if len(delimiter) == 0 {
		return Message{Value: b}
	}
	k, v, ok := bytes.Cut(b, delimiter)
	if !ok {
		return Message{Value: b}
	}
	if null && len(k) == 0 {
		k = nil
	}
	if null && len(v) == 0 {
		v = nil
	}
	return Message{k, v}
}

// ParseHeader reads name=value, or a name alone, whose value is null.
func ParseHeader(s string) (kgo.RecordHeader, error) {
	name, value, ok := strings.Cut(s, "=")
	if name == "" {
		return kgo.RecordHeader{}, fmt.Errorf("%w: -H %q: write name=value, or a name alone", ErrAsked, s)
	}
	h := kgo.RecordHeader{Key: name}
	if ok {
		h.Value = []byte(value)
	}
	return h, nil
}

// codecs are those that -z takes.
var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

// check finds what is wrong with a Writing, and its codec.
func (w *Writing) check() (kgo.CompressionCodec, error) {
	codec, ok := codecs[w.Codec]
	if !ok {
		return codec, fmt.Errorf("%w: -z %q: there are none, gzip, snappy, lz4 and zstd", ErrAsked, w.Codec)
	}
	if w.MaxBytes < 1<<10 || w.MaxBytes > 1<<30 {
		return codec, fmt.Errorf("%w: --max-bytes: 1024 to %d", ErrAsked, 1<<30)
	}
	return codec, nil
}

// Produce writes what next gives until it says io.EOF, or ctx ends; then it waits until all of it is confirmed or has failed. What was handed over is not
// given up because ctx ends. The messages belong to Produce.
func (c *Cluster) Produce(ctx context.Context, w Writing, next func(context.Context) (Message, error)) (Written, error) {
	codec, err := w.check()
	if err != nil {
		return Written{}, err
	}
	d, err := c.topic(ctx, w.Topic)
	if err != nil {
		return Written{}, err
	}
	if _, there := d.Partitions[w.Partition]; w.Partition >= 0 && !there {
		return Written{}, fmt.Errorf("%w: %q has the partitions 0 to %d, and no %d", ErrAsked, w.Topic, len(d.Partitions)-1, w.Partition)
	}
	opts := []kgo.Opt{
		kgo.DefaultProduceTopic(w.Topic), kgo.ProducerBatchCompression(codec), kgo.ProducerBatchMaxBytes(w.MaxBytes), kgo.RecordDeliveryTimeout(w.Confirm), kgo.AllowIdempotentProduceCancellation(),
		kgo.MaxBufferedRecords(bufferedRecords), kgo.MaxBufferedBytes(max(bufferedBytes, int(w.MaxBytes))), kgo.BrokerMaxWriteBytes(max(100<<20, w.MaxBytes+1<<16)),
	}
	if w.Partition >= 0 {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	cl, err := kafka.NewClient(c.o, opts...)
	if err != nil {
		return Written{}, err
	}
	defer cl.Close()
	return write(ctx, cl, w, next)
}

func write(ctx context.Context, cl *kgo.Client, w Writing, next func(context.Context) (Message, error)) (Written, error) {
	var mu sync.Mutex
	var done Written
	lasting := context.WithoutCancel(ctx)
	var ended error
	for n := int64(1); ; n++ {
		m, err := next(ctx)
		if err != nil {
			ended = err
			break
		}
		r := &kgo.Record{Key: m.Key, Value: m.Value, Headers: w.Headers, Partition: w.Partition}
		cl.Produce(lasting, r, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done.Delivered++
				return
			}
			if done.Failed++; done.Failed <= saidFailures {
				w.Note("message %d was not delivered: %v", n, tidy(err))
			}
		})
	}
	err := cl.Flush(lasting) // each record fails when its time is up
	mu.Lock()
	defer mu.Unlock()
	if errors.Is(ended, io.EOF) {
		ended = nil
	}
	return done, errors.Join(ended, err)
}
