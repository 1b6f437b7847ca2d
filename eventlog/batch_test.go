package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/tier"
)

var codecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

// randomRecords makes records with everything a record may have: null and empty keys and values, headers twice and without a
// value, times that go back.
func randomRecords(rng *rand.Rand, n int) []Record {
	some := func(max int) []byte {
		switch rng.IntN(5) {
		case 0:
			return nil
		case 1:
			return []byte{}
		}
		b := make([]byte, rng.IntN(max)+1)
		for i := range b {
			b[i] = byte(rng.IntN(1 + rng.IntN(256)))
		}
		return b
	}
	recs := make([]Record, n)
	for i := range recs {
		r := Record{Offset: int64(i), Timestamp: 1_700_000_000_000 + rng.Int64N(2000) - 1000, Key: some(40), Value: some(600)}
		for range rng.IntN(4) {
			r.Headers = append(r.Headers, Header{Key: string(some(12)), Value: some(30)})
		}
		recs[i] = r
	}
	return recs
}

func build(t testing.TB, c Codec, recs []Record) *Batch {
	t.Helper()
	var bl Builder
	for _, r := range recs {
		bl.Add(r.Timestamp, r.Key, r.Value, r.Headers)
	}
	b, _, err := bl.Batch(Part{}, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(a, b Record) bool {
	bytesSame := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
	return a.Offset == b.Offset && a.Timestamp == b.Timestamp && bytesSame(a.Key, b.Key) && bytesSame(a.Value, b.Value) &&
		slices.EqualFunc(a.Headers, b.Headers, func(a, b Header) bool { return a.Key == b.Key && bytesSame(a.Value, b.Value) })
}

func wantSame(t testing.TB, got, want []Record) {
	t.Helper()
	if !slices.EqualFunc(got, want, same) {
		t.Fatalf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestBatchRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(tier.Seed(), 1))
	for i := range tier.N(2000) {
		c := codecs[i%len(codecs)]
		want := randomRecords(rng, 1+rng.IntN(20))
		b := build(t, c, want)
		got, err := b.Records() // from the plain bytes at hand
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, got, want)
		raw, err := CheckBatch(append(slices.Clone(b.Raw()), "what follows"...))
		if err != nil {
			t.Fatal(err)
		}
		raw.SetBase(1000)
		raw.SetLeaderEpoch(7)
		if _, err = CheckBatch(raw); err != nil {
			t.Fatalf("after its base was set: %v", err)
		}
		stored := NewRawBatch(Part{}, raw)
		if got, err = stored.Records(); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			want[i].Offset += 1000
		}
		wantSame(t, got, want)
		if stored.Base() != 1000 || stored.Next() != 1000+int64(len(want)) || stored.Len() != len(want) || stored.Size() != len(raw) {
			t.Fatalf("base %d, next %d, %d records, %d bytes", stored.Base(), stored.Next(), stored.Len(), stored.Size())
		}
		times := make([]int64, len(want))
		for i := range want {
			times[i] = want[i].Timestamp
		}
		if raw.MaxTime() != slices.Max(times) || raw.BaseTime() != times[0] || raw.Codec() != c {
			t.Fatalf("times %d to %d of %v, codec %v", raw.BaseTime(), raw.MaxTime(), times, raw.Codec())
		}
	}
}

// TestKafkaReadsOurs: what a Builder made is what a Kafka client reads.
func TestKafkaReadsOurs(t *testing.T) {
	rng := rand.New(rand.NewPCG(tier.Seed(), 2))
	for i := range tier.N(1000) {
		c := codecs[i%len(codecs)]
		want := randomRecords(rng, 1+rng.IntN(20))
		b := build(t, c, want)
		b.Raw().SetProducer(42, 3, 17)
		b.Raw().SetTransactional(i%2 == 0)
		b.Raw().Reseal()
		b.Raw().SetBase(500)

		fetched := kmsg.NewFetchResponseTopicPartition()
		fetched.RecordBatches = b.Raw()
		fetched.HighWatermark, fetched.LastStableOffset = 1000, 1000
		got, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: 500}, &fetched, kgo.DefaultDecompressor(), nil)
		if got.Err != nil || next != 500+int64(len(want)) || len(got.Records) != len(want) {
			t.Fatalf("%v: %d of %d records, next %d, %v", c, len(got.Records), len(want), next, got.Err)
		}
		var recs []Record
		for _, r := range got.Records {
			if r.ProducerID != 42 || r.ProducerEpoch != 3 || r.Attrs.IsTransactional() != (i%2 == 0) {
				t.Fatalf("read as %+v", r)
			}
			rec := Record{Offset: r.Offset - 500, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				rec.Headers = append(rec.Headers, Header{Key: h.Key, Value: h.Value})
			}
			recs = append(recs, rec)
		}
		wantSame(t, recs, want)
	}
}

// TestMerge: batches merged are the batch of all their records.
func TestMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(tier.Seed(), 11))
	var bl Builder
	for i := range tier.N(1000) {
		var want []Record
		for range 1 + rng.IntN(6) {
			recs := randomRecords(rng, 1+rng.IntN(70))
			b := build(t, codecs[rng.IntN(len(codecs))], recs)
			if rng.IntN(2) == 0 { // as it came from elsewhere
				b = NewRawBatch(Part{}, b.Raw())
			}
			if err := bl.Merge(b); err != nil {
				t.Fatal(err)
			}
			want = append(want, recs...)
		}
		for i := range want {
			want[i].Offset = int64(i)
		}
		if bl.Len() != len(want) {
			t.Fatalf("%d records, want %d", bl.Len(), len(want))
		}
		b, _, err := bl.Batch(Part{}, codecs[i%len(codecs)])
		if err != nil {
			t.Fatal(err)
		}
		raw, err := CheckBatch(b.Raw())
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewRawBatch(Part{}, raw).Records()
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, got, want)
		times := make([]int64, len(want))
		for i := range want {
			times[i] = want[i].Timestamp
		}
		if raw.BaseTime() != times[0] || raw.MaxTime() != slices.Max(times) {
			t.Fatalf("times %d to %d of %v", raw.BaseTime(), raw.MaxTime(), times)
		}
	}
}

// FuzzMerge: a batch that cannot be decoded is not merged with a panic, and one that can is the same afterwards.
func FuzzMerge(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	f.Add([]byte(build(f, None, randomRecords(rng, 3)).Raw()[HeaderSize:]), int32(3))
	f.Add([]byte{}, int32(1))
	f.Fuzz(func(t *testing.T, body []byte, count int32) {
		raw := append(slices.Clone(build(t, None, []Record{{Value: []byte("x")}}).Raw()[:HeaderSize]), body...)
		binary.BigEndian.PutUint32(raw[offCount:], uint32(count))
		binary.BigEndian.PutUint32(raw[offLastDelta:], uint32(count-1))
		if count < 1 || int(count) > len(body) {
			return
		}
		b := NewRawBatch(Part{}, raw)
		want, bad := b.Records()
		var bl Builder
		if err := bl.Merge(b); err != nil {
			if bad == nil {
				t.Fatalf("%d records are not merged: %v", len(want), err)
			}
			return
		}
		if bad != nil {
			return // whoever reads it finds out
		}
		out, _, err := bl.Batch(Part{}, None)
		if err != nil {
			t.Fatal(err)
		}
		got, err := out.Records()
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			want[i].Offset = int64(i)
		}
		wantSame(t, got, want)
	})
}

// kafkaBatch encodes records as a Kafka client does.
func kafkaBatch(t testing.TB, c Codec, recs []Record) []byte {
	t.Helper()
	var body []byte
	maxTime := recs[0].Timestamp
	for i, r := range recs {
		k := kmsg.Record{TimestampDelta64: r.Timestamp - recs[0].Timestamp, OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		length := len(k.AppendTo(nil)) - 1 // of the length itself, 0 as yet
		k.Length = int32(length)
		body = k.AppendTo(body)
		maxTime = max(maxTime, r.Timestamp)
	}
	if c != None {
		comp, err := kgo.DefaultCompressor([]kgo.CompressionCodec{
			kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}[c])
		if err != nil {
			t.Fatal(err)
		}
		out, as := comp.Compress(new(bytes.Buffer), body)
		if Codec(as) != c {
			t.Fatalf("compressed as %d, want %v", as, c)
		}
		body = slices.Clone(out)
	}
	return sealed(c, recs, maxTime, body)
}

func sealed(c Codec, recs []Record, maxTime int64, body []byte) []byte {
	kb := kmsg.RecordBatch{
		Length: int32(49 + len(body)), PartitionLeaderEpoch: -1, Magic: 2, Attributes: int16(c), LastOffsetDelta: int32(len(recs) - 1),
		FirstTimestamp: recs[0].Timestamp, MaxTimestamp: maxTime, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(len(recs)), Records: body,
	}
	kb.CRC = int32(crc32.Checksum(kb.AppendTo(nil)[21:], crc32.MakeTable(crc32.Castagnoli)))
	return kb.AppendTo(nil)
}

// TestWeReadKafka: what a Kafka client made is what we read, in every compression, snappy in Java's framing too.
func TestWeReadKafka(t *testing.T) {
	rng := rand.New(rand.NewPCG(tier.Seed(), 3))
	for i := range tier.N(1000) {
		want := randomRecords(rng, 1+rng.IntN(20))
		p := kafkaBatch(t, codecs[i%len(codecs)], want)
		if i%len(codecs) == int(Snappy) && i%2 == 0 {
			plain := kafkaBatch(t, None, want)[HeaderSize:]
			p = sealed(Snappy, want, 0, xerialFramed(plain, 1+rng.IntN(200)))
		}
		raw, err := CheckBatch(p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewRawBatch(Part{}, raw).Records()
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, got, want)
	}
}

func xerialFramed(plain []byte, block int) []byte {
	p := append(slices.Clone(xerial), 0, 0, 0, 1, 0, 0, 0, 1)
	for chunk := range slices.Chunk(plain, block) {
		c := s2.EncodeSnappy(nil, chunk)
		p = binary.BigEndian.AppendUint32(p, uint32(len(c)))
		p = append(p, c...)
	}
	return p
}

func TestBatchPatches(t *testing.T) {
	raw := build(t, None, []Record{{Timestamp: 5, Value: []byte("a")}, {Timestamp: 9, Value: []byte("b")}}).Raw()
	raw.SetProducer(1<<40, 77, math.MaxInt32)
	if _, err := CheckBatch(raw); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a changed batch that was not sealed again: %v", err)
	}
	raw.SetLogAppendTime(12345)
	raw.Reseal()
	if _, err := CheckBatch(raw); err != nil {
		t.Fatal(err)
	}
	if raw.ProducerID() != 1<<40 || raw.ProducerEpoch() != 77 || raw.BaseSequence() != math.MaxInt32 {
		t.Errorf("producer %d, %d, %d", raw.ProducerID(), raw.ProducerEpoch(), raw.BaseSequence())
	}
	recs, err := NewRawBatch(Part{}, raw).Records()
	if err != nil || recs[0].Timestamp != 12345 || recs[1].Timestamp != 12345 {
		t.Errorf("stamped by the log: %+v, %v", recs, err)
	}
	raw.SetTransactional(true)
	if raw.Attributes() != AttrLogAppendTime|AttrTransactional {
		t.Errorf("attributes %#x", raw.Attributes())
	}
	raw.SetTransactional(false)
	if raw.Attributes() != AttrLogAppendTime {
		t.Errorf("attributes %#x", raw.Attributes())
	}
}

// TestCheckBatchFindsDamage: no bit under the crc, of the length or of the magic can change unseen.
func TestCheckBatchFindsDamage(t *testing.T) {
	whole := build(t, None, []Record{{Key: []byte("key"), Value: []byte("value")}}).Raw()
	for i := range whole {
		if i < offLength || i >= offEpoch && i < offMagic { // base offset and leader epoch are free
			continue
		}
		for bit := range 8 {
			p := slices.Clone(whole)
			p[i] ^= 1 << bit
			if _, err := CheckBatch(p); !errors.Is(err, ErrCorrupt) {
				t.Errorf("bit %d of byte %d changed: %v", bit, i, err)
			}
		}
	}
	for n := range whole {
		if _, err := CheckBatch(whole[:n]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	for n := range offEpoch {
		if size, err := BatchSize(whole[:n]); size != 0 || err != nil {
			t.Errorf("size of %d bytes: %d, %v", n, size, err)
		}
	}
	if size, err := BatchSize(whole); size != len(whole) || err != nil {
		t.Errorf("size %d, %v, want %d", size, err, len(whole))
	}
}

// TestEachRefusesLies: an intact crc does not make what it covers true.
func TestEachRefusesLies(t *testing.T) {
	record := func(parts ...[]byte) []byte {
		body := slices.Concat(parts...)
		return append(binary.AppendVarint(nil, int64(len(body))), body...)
	}
	v := func(n ...int64) (b []byte) {
		for _, x := range n {
			b = binary.AppendVarint(b, x)
		}
		return b
	}
	ok := record([]byte{0}, v(0, 0, -1, -1, 0))
	second := record([]byte{0}, v(0, 1, -1, -1, 0))
	lies := map[string]struct {
		count, lastDelta int32
		body             []byte
	}{
		"fewer records than counted":   {2, 1, ok},
		"bytes after the last":         {1, 0, append(slices.Clone(ok), 0)},
		"two at one offset":            {2, 1, append(slices.Clone(ok), ok...)},
		"an offset before":             {2, 1, append(slices.Clone(second), ok...)},
		"an offset beyond the last":    {1, 0, second},
		"a negative offset delta":      {1, 0, record([]byte{0}, v(0, -1, -1, -1, 0))},
		"a key longer than the record": {1, 0, record([]byte{0}, v(0, 0, 100, -1, 0))},
		"a length of -2":               {1, 0, record([]byte{0}, v(0, 0, -2, -1, 0))},
		"more headers than bytes":      {1, 0, record([]byte{0}, v(0, 0, -1, -1, 1<<40))},
		"negative headers":             {1, 0, record([]byte{0}, v(0, 0, -1, -1, -1))},
		"a header without a key":       {1, 0, record([]byte{0}, v(0, 0, -1, -1, 1, -1, -1))},
		"too many headers":             {1, 0, record([]byte{0}, v(0, 0, -1, -1, MaxHeaders+1), make([]byte, 2*MaxHeaders+2))},
		"bytes after the headers":      {1, 0, record([]byte{0}, v(0, 0, -1, -1, 0, 5))},
		"an empty record":              {1, 0, []byte{0}},
		"a record of negative length":  {1, 0, v(-5)},
		"an endless varint":            {1, 0, bytes.Repeat([]byte{0xff}, 30)},
		"a record cut off":             {1, 0, ok[:len(ok)-1]},
	}
	for name, lie := range lies {
		raw := RawBatch(append(make([]byte, HeaderSize), lie.body...))
		binary.BigEndian.PutUint32(raw[offLength:], uint32(len(raw)-offEpoch))
		raw[offMagic] = 2
		binary.BigEndian.PutUint32(raw[offLastDelta:], uint32(lie.lastDelta))
		binary.BigEndian.PutUint32(raw[offCount:], uint32(lie.count))
		raw.Reseal()
		if _, err := CheckBatch(raw); err != nil {
			t.Fatalf("%s: the header: %v", name, err)
		}
		if err := NewRawBatch(Part{}, raw).Each(func(*Record) error { return nil }); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBombs: what would decompress to more than the limit is refused.
func TestBombs(t *testing.T) {
	const limit = 1 << 20
	zeros := make([]byte, 4*limit)
	for _, c := range codecs[1:] {
		bomb, err := Compress(c, nil, zeros)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := Decompress(c, bomb, limit); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: %d bytes from %d, %v", c, len(out), len(bomb), err)
		}
		small, _ := Compress(c, nil, zeros[:100_000])
		if out, err := Decompress(c, small, 100_000); err != nil || len(out) != 100_000 {
			t.Errorf("%v: at the limit: %d bytes, %v", c, len(out), err)
		}
		if _, err := Decompress(c, small, 99_999); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: one over the limit: %v", c, err)
		}
		if _, err := Decompress(c, []byte("this is not compressed"), 1000); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%v: bytes of no codec: %v", c, err)
		}
	}
	framed := xerialFramed(zeros, limit/2)
	if _, err := Decompress(Snappy, framed, limit); !errors.Is(err, ErrCorrupt) {
		t.Errorf("snappy in frames: %v", err)
	}
	huge, _ := Compress(Zstd, nil, make([]byte, MaxDecompressed+1))
	if out, err := Decompress(Zstd, huge, math.MaxInt); !errors.Is(err, ErrCorrupt) {
		t.Errorf("zstd beyond what any batch may: %d bytes, %v", len(out), err)
	}
	liar := binary.AppendUvarint(nil, MaxDecompressed)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		_, _ = Decompress(Snappy, liar, MaxDecompressed)
	}
	runtime.ReadMemStats(&after)
	allocated := (after.TotalAlloc - before.TotalAlloc) / 10
	if allocated > 10_000 {
		t.Errorf("a snappy block of %d bytes makes us allocate %d", len(liar), allocated)
	}
	for _, c := range []Codec{5, 6, 7} {
		if _, err := Decompress(c, []byte("x"), 100); !errors.Is(err, ErrCorrupt) {
			t.Errorf("codec %d: %v", c, err)
		}
		if _, err := Compress(c, nil, []byte("x")); !errors.Is(err, ErrInvalid) {
			t.Errorf("compress with codec %d: %v", c, err)
		}
	}
}

// FuzzBatch: bytes from outside never panic, and what decodes once encodes to the same.
func FuzzBatch(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 4))
	for _, c := range codecs {
		f.Add([]byte(build(f, c, randomRecords(rng, 3)).Raw()), false)
		f.Add([]byte(build(f, c, randomRecords(rng, 1)).Raw()), true)
	}
	recs := randomRecords(rng, 2)
	f.Add(sealed(Snappy, recs, 0, xerialFramed(kafkaBatch(f, None, recs)[HeaderSize:], 50)), true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, p []byte, heal bool) {
		if heal && len(p) >= HeaderSize { // past the crc, where the fuzzer would never come by itself
			raw := RawBatch(p)
			binary.BigEndian.PutUint32(raw[offLength:], uint32(len(raw)-offEpoch))
			raw[offMagic] = 2
			raw.Reseal()
		}
		raw, err := CheckBatch(p)
		if err != nil {
			return
		}
		b := NewRawBatch(Part{}, raw)
		var bl Builder
		var want []Record
		err = b.Each(func(r *Record) error {
			if r.Offset < raw.Base() || r.Offset > raw.Last() {
				t.Fatalf("offset %d outside [%d, %d]", r.Offset, raw.Base(), raw.Last())
			}
			bl.Add(r.Timestamp, r.Key, r.Value, r.Headers)
			c := *r
			c.Offset, c.Headers = int64(len(want)), slices.Clone(r.Headers)
			want = append(want, c)
			if len(want) > 10_000 {
				return errEnough
			}
			return nil
		})
		if err != nil || len(want) == 0 {
			return
		}
		again, _, err := bl.Batch(Part{}, raw.Codec())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CheckBatch(again.Raw()); err != nil {
			t.Fatal(err)
		}
		got, err := NewRawBatch(Part{}, again.Raw()).Records()
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, got, want)
	})
}

var errEnough = errors.New("enough")

// TestBuilderAllocs: a record costs no allocation of its own, in or out.
func TestBuilderAllocs(t *testing.T) {
	const n = 10_000
	key, value := []byte("vehicle-1"), make([]byte, 100)
	headers := []Header{{Key: "mqtt.topic", Value: []byte("fleet/vehicle-1/telemetry")}}
	var batch *Batch
	allocs := testing.AllocsPerRun(5, func() {
		var bl Builder
		for range n {
			bl.Add(1_700_000_000_000, key, value, headers)
		}
		batch, _, _ = bl.Batch(Part{}, None)
	})
	if allocs > 60 { // the growth of one buffer
		t.Errorf("%v allocations to build %d records", allocs, n)
	}
	stored := NewRawBatch(Part{}, batch.Raw())
	seen := 0
	allocs = testing.AllocsPerRun(5, func() {
		_ = stored.Each(func(r *Record) error { seen += len(r.Value); return nil })
	})
	if allocs > 3 {
		t.Errorf("%v allocations to read %d records", allocs, n)
	}
	if seen != 6*n*len(value) { // AllocsPerRun runs once more to warm up
		t.Errorf("read %d bytes", seen)
	}
}

func TestBuilderPlaces(t *testing.T) {
	for _, c := range codecs {
		var bl Builder
		var at []int
		values := []string{"one", "", "three"}
		for _, v := range values {
			at = append(at, bl.Add(1, []byte("k"), []byte(v), []Header{{Key: "h"}}))
		}
		if bl.Len() != 3 || bl.Size() <= HeaderSize {
			t.Errorf("%d records, %d bytes", bl.Len(), bl.Size())
		}
		_, plain, err := bl.Batch(Part{}, c)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if got := string(plain[at[i] : at[i]+len(v)]); got != v {
				t.Errorf("%v: at %d: %q, want %q", c, at[i], got, v)
			}
		}
		if bl.Len() != 0 || bl.Size() != HeaderSize {
			t.Errorf("after Batch: %d records, %d bytes", bl.Len(), bl.Size())
		}
	}
	if _, _, err := new(Builder).Batch(Part{}, None); !errors.Is(err, ErrInvalid) {
		t.Errorf("a batch of nothing: %v", err)
	}
	var bl Builder
	bl.Add(1, nil, nil, nil)
	if _, _, err := bl.Batch(Part{}, 9); !errors.Is(err, ErrInvalid) {
		t.Errorf("an unknown codec: %v", err)
	}
}

func TestRecordBatch(t *testing.T) {
	recs := []Record{{Offset: 10, Value: []byte("a")}, {Offset: 15, Key: []byte("k"), Headers: []Header{{Key: "h", Value: []byte("v")}}}}
	b := NewRecordBatch(Part{Index: 2}, recs, 20)
	if b.Base() != 10 || b.Next() != 20 || b.Len() != 2 || b.Raw() != nil || b.Size() < HeaderSize {
		t.Errorf("base %d, next %d, %d records, %d bytes", b.Base(), b.Next(), b.Len(), b.Size())
	}
	got, err := b.Records()
	if err != nil {
		t.Fatal(err)
	}
	wantSame(t, got, recs)
	n := 0
	if err := b.Each(func(*Record) error { n++; return errEnough }); err != errEnough || n != 1 {
		t.Errorf("stopped after %d records with %v", n, err)
	}
	empty := NewRecordBatch(Part{}, nil, 33)
	if empty.Base() != 33 || empty.Next() != 33 || empty.Len() != 0 {
		t.Errorf("of nothing: base %d, next %d", empty.Base(), empty.Next())
	}
}

func TestCodecNames(t *testing.T) {
	for _, c := range codecs {
		if got, err := ParseCodec(c.String()); err != nil || got != c {
			t.Errorf("%v is read as %v, %v", c, got, err)
		}
	}
	for _, s := range []string{"", "producer", "uncompressed"} {
		if c, err := ParseCodec(s); err != nil || c != None {
			t.Errorf("%q is read as %v, %v", s, c, err)
		}
	}
	if _, err := ParseCodec("brotli"); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "brotli") {
		t.Errorf("brotli: %v", err)
	}
	if s := Codec(7).String(); s != "codec(7)" {
		t.Errorf("codec 7 is called %s", s)
	}
}

func TestTopicNames(t *testing.T) {
	for _, name := range []string{"a", "fleet.telemetry", "A-Z_09", strings.Repeat("x", MaxTopicName), "__millrace_producers", "..."} {
		if err := CheckTopicName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "a b", "a\x00", "é", "a:b", "a\\b", strings.Repeat("x", MaxTopicName+1)} {
		if err := CheckTopicName(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestOutcome(t *testing.T) {
	whole := Outcome{Base: 7}
	if r := whole.At(3); r.Offset != 10 || r.Err != nil {
		t.Errorf("%+v", r)
	}
	failed := Outcome{Err: ErrFenced}
	if r := failed.At(3); r.Offset != -1 || r.Err != ErrFenced {
		t.Errorf("%+v", r)
	}
	mixed := Outcome{Each: []Result{{Offset: 5}, {Offset: -1, Err: ErrNoSpace}}}
	if mixed.At(0).Offset != 5 || mixed.At(1).Err != ErrNoSpace {
		t.Errorf("%+v", mixed)
	}
}

// answering is a driver that answers appends when it is told to.
type answering struct {
	Driver
	topics []Topic
	create error
	done   func(Outcome)
}

func (d *answering) Topics(context.Context) ([]Topic, error) { return d.topics, nil }
func (d *answering) CreateTopic(_ context.Context, s TopicSpec) (Topic, error) {
	return Topic{Name: s.Name, Partitions: 9}, d.create
}
func (d *answering) Append(_ *Batch, done func(Outcome))              { d.done = done }
func (d *answering) Ends(context.Context, TopicID) ([]int64, error)   { return []int64{4, 5}, nil }
func (d *answering) Starts(context.Context, TopicID) ([]int64, error) { return nil, ErrUnknownTopic }

func TestLog(t *testing.T) {
	ctx := context.Background()
	d := &answering{topics: []Topic{{Name: "a", Partitions: 2}}}
	l := New(d)
	if got, err := l.Topic(ctx, "a"); err != nil || got.Partitions != 2 {
		t.Errorf("topic a: %+v, %v", got, err)
	}
	if _, err := l.Topic(ctx, "b"); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("topic b: %v", err)
	}
	if got, err := l.Ensure(ctx, TopicSpec{Name: "a", Partitions: 7}); err != nil || got.Partitions != 2 {
		t.Errorf("ensure what is there: %+v, %v", got, err)
	}
	if got, err := l.Ensure(ctx, TopicSpec{Name: "b"}); err != nil || got.Partitions != 9 {
		t.Errorf("ensure what is not: %+v, %v", got, err)
	}
	d.create = fmt.Errorf("b: %w", ErrTopicExists)
	if got, err := l.Ensure(ctx, TopicSpec{Name: "b"}); err != nil || got.Partitions != 9 {
		t.Errorf("ensure what somebody else creates: %+v, %v", got, err)
	}
	d.create = ErrInvalid
	if _, err := l.Ensure(ctx, TopicSpec{Name: "b"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("ensure what cannot be: %v", err)
	}
	id := TopicID{1}
	v, err := l.EndsOf(ctx, Topic{ID: id})
	if err != nil || len(v) != 2 || v[Part{id, 1}] != 5 {
		t.Errorf("ends: %v, %v", v, err)
	}
	if _, err := l.StartsOf(ctx, Topic{Name: "a", ID: id}); !errors.Is(err, ErrUnknownTopic) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("starts: %v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if o, err := l.AppendWait(ctx, nil); !errors.Is(err, ErrUnknownOutcome) || !errors.Is(o.At(0).Err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("an append that nobody waits for: %+v, %v", o, err)
	}
	d.done(Outcome{Base: 3}) // late: nobody is held up
}

func TestWords(t *testing.T) {
	id := TopicID{0xfb, 0xff}
	if s := id.String(); s != "-_8AAAAAAAAAAAAAAAAAAA" {
		t.Errorf("id %s", s)
	}
	pos := Position{Part{id, 3}, 42}
	if s := pos.String(); s != id.String()+"/3@42" {
		t.Errorf("position %s", s)
	}
	err := &OutOfRangeError{Position: pos, Start: 50, End: 60}
	if s := err.Error(); !strings.Contains(s, "@42") || !strings.Contains(s, "[50, 60]") {
		t.Errorf("%s", s)
	}
}

func TestStamped(t *testing.T) {
	bl := Builder{Stamped: true}
	for range 2 {
		bl.Add(5, []byte("key"), []byte("value"), nil)
		b, _, err := bl.Batch(Part{}, None)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CheckBatch(b.Raw()); err != nil || b.Raw().ProducerID() != OwnProducer {
			t.Errorf("producer %d, %v", b.Raw().ProducerID(), err)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	key, value := []byte("vehicle-1"), make([]byte, 100)
	headers := []Header{{Key: "mqtt.topic", Value: []byte("fleet/vehicle-1/telemetry")}}
	var bl Builder
	b.ReportAllocs()
	for b.Loop() {
		if bl.Add(1_700_000_000_000, key, value, headers); bl.Len() == 1000 {
			_, _, _ = bl.Batch(Part{}, None)
		}
	}
}

func BenchmarkEach(b *testing.B) {
	var bl Builder
	for range 1000 {
		bl.Add(1_700_000_000_000, []byte("vehicle-1"), make([]byte, 100), []Header{{Key: "mqtt.topic", Value: []byte("fleet/vehicle-1/telemetry")}})
	}
	batch, _, _ := bl.Batch(Part{}, None)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%1000 == 0 {
			_ = batch.Each(func(*Record) error { return nil })
		}
	}
}
