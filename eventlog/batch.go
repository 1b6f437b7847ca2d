package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"unsafe"
)

// RecordBatch v2, the unit of Kafka's log since 0.11 and the unit of ours, on the wire, in the WAL and in segments
// (https://kafka.apache.org/documentation/#recordbatch). Offsets of the fixed header's fields:
//
//	 0 base offset      8   27 base timestamp  8
//	 8 length           4   35 max timestamp   8   (length counts from 12)
//	12 leader epoch     4   43 producer id     8
//	16 magic = 2        1   51 producer epoch  2
//	17 crc32c           4   53 base sequence   4   (the crc covers 21 to the end)
//	21 attributes       2   57 record count    4
//	23 last offset delta 4  61 records
//
// Base offset and leader epoch lie outside the crc: a log patches them in place.
const (
	HeaderSize = 61
	Unsummed   = offAttrs // what the crc does not cover: it, and what stands before it

	offLength, offEpoch, offMagic, offCRC, offAttrs, offLastDelta = 8, 12, 16, 17, 21, 23
	offBaseTime, offMaxTime, offPID, offPEpoch, offSeq, offCount  = 27, 35, 43, 51, 53, 57
)

// Attribute bits of a batch.
const (
	AttrCodecMask     = 0x07
	AttrLogAppendTime = 0x08
	AttrTransactional = 0x10
	AttrControl       = 0x20
	AttrDeleteHorizon = 0x40
)

// OwnProducer begins the range of producer ids that belong to Millrace nodes. A batch in the embedded log is ours iff its id is
// from here on, since nobody else is let have one; other drivers put in its place what their log knows us by.
const OwnProducer int64 = 1 << 62

// ErrCorrupt says that bytes are not a well-formed, intact record batch.
var ErrCorrupt = errors.New("corrupt record batch")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is a record header.
type Header struct {
	Key   string
	Value []byte // nil is null
}

// Record is one record. Slices and header keys may alias the batch they came from; they are valid as long as it is.
type Record struct {
	Offset    int64
	Timestamp int64  // milliseconds since 1970
	Key       []byte // nil is null
	Value     []byte // nil is null: a tombstone in a compacted topic
	Headers   []Header
}

// RawBatch is a view on the bytes of one RecordBatch v2. Its accessors are valid once CheckBatch has passed.
type RawBatch []byte

func (b RawBatch) Base() int64          { return int64(binary.BigEndian.Uint64(b)) }
func (b RawBatch) Attributes() int16    { return int16(binary.BigEndian.Uint16(b[offAttrs:])) }
func (b RawBatch) Codec() Codec         { return Codec(b.Attributes() & AttrCodecMask) }
func (b RawBatch) LastDelta() int32     { return int32(binary.BigEndian.Uint32(b[offLastDelta:])) }
func (b RawBatch) Last() int64          { return b.Base() + int64(b.LastDelta()) }
func (b RawBatch) Next() int64          { return b.Last() + 1 }
func (b RawBatch) BaseTime() int64      { return int64(binary.BigEndian.Uint64(b[offBaseTime:])) }
func (b RawBatch) MaxTime() int64       { return int64(binary.BigEndian.Uint64(b[offMaxTime:])) }
func (b RawBatch) ProducerID() int64    { return int64(binary.BigEndian.Uint64(b[offPID:])) }
func (b RawBatch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[offPEpoch:])) }
func (b RawBatch) BaseSequence() int32  { return int32(binary.BigEndian.Uint32(b[offSeq:])) }
func (b RawBatch) Count() int32         { return int32(binary.BigEndian.Uint32(b[offCount:])) }

// MaxCount is how many records the batch can hold at most, going by its size: its header counts them, and may lie. A record takes
// minRecord bytes, and nobody reads a batch that decompresses to more than MaxDecompressed.
func (b RawBatch) MaxCount() int {
	if b.Codec() != None {
		return MaxDecompressed / minRecord
	}
	return (len(b) - HeaderSize) / minRecord
}

// SetBase patches the base offset in place; the crc does not cover it.
func (b RawBatch) SetBase(offset int64) { binary.BigEndian.PutUint64(b, uint64(offset)) }

// SetLeaderEpoch patches the partition leader epoch in place; the crc does not cover it.
func (b RawBatch) SetLeaderEpoch(e int32) { binary.BigEndian.PutUint32(b[offEpoch:], uint32(e)) }

// SetProducer writes the producer's triple. The caller must Reseal.
func (b RawBatch) SetProducer(id int64, epoch int16, seq int32) {
	binary.BigEndian.PutUint64(b[offPID:], uint64(id))
	binary.BigEndian.PutUint16(b[offPEpoch:], uint16(epoch))
	binary.BigEndian.PutUint32(b[offSeq:], uint32(seq))
}

// Shift moves the times of all records by so many milliseconds. The caller must Reseal.
func (b RawBatch) Shift(ms int64) {
	binary.BigEndian.PutUint64(b[offBaseTime:], uint64(b.BaseTime()+ms))
	binary.BigEndian.PutUint64(b[offMaxTime:], uint64(b.MaxTime()+ms))
}

// SetTransactional marks the batch as part of a transaction, or not. The caller must Reseal.
func (b RawBatch) SetTransactional(on bool) {
	a := b.Attributes() &^ AttrTransactional
	if on {
		a |= AttrTransactional
	}
	binary.BigEndian.PutUint16(b[offAttrs:], uint16(a))
}

// SetControl marks the batch as a transaction's marker. The caller must Reseal.
func (b RawBatch) SetControl() {
	binary.BigEndian.PutUint16(b[offAttrs:], uint16(b.Attributes()|AttrTransactional|AttrControl))
}

// SetLogAppendTime marks the batch as stamped by the log at t (milliseconds). The caller must Reseal.
func (b RawBatch) SetLogAppendTime(t int64) {
	binary.BigEndian.PutUint16(b[offAttrs:], uint16(b.Attributes()|AttrLogAppendTime))
	binary.BigEndian.PutUint64(b[offMaxTime:], uint64(t))
}

// Reseal recomputes the crc.
func (b RawBatch) Reseal() {
	binary.BigEndian.PutUint32(b[offCRC:], crc32.Checksum(b[offAttrs:], castagnoli))
}

// SumHolds tells whether the crc is that of the bytes behind Unsummed. The batch needs no more than those to be looked at.
func (b RawBatch) SumHolds() bool {
	return binary.BigEndian.Uint32(b[offCRC:]) == crc32.Checksum(b[offAttrs:], castagnoli)
}

// BatchSize returns the whole size of the batch that begins at p, which needs at least 12 bytes; 0 if there are fewer, and
// ErrCorrupt if the length cannot be one.
func BatchSize(p []byte) (int, error) {
	if len(p) < offEpoch {
		return 0, nil
	}
	n := int64(int32(binary.BigEndian.Uint32(p[offLength:]))) + offEpoch
	if n < HeaderSize || n > math.MaxInt32 {
		return 0, fmt.Errorf("%w: length %d", ErrCorrupt, n)
	}
	return int(n), nil
}

// CheckBatch verifies that p begins with one whole and intact RecordBatch v2 and returns it. It looks at the header and the
// crc only: records stay unparsed.
func CheckBatch(p []byte) (RawBatch, error) {
	n, err := BatchSize(p)
	if err != nil {
		return nil, err
	}
	if n == 0 || n > len(p) {
		return nil, fmt.Errorf("%w: truncated", ErrCorrupt)
	}
	b := RawBatch(p[:n:n])
	if b[offMagic] != 2 {
		return nil, fmt.Errorf("%w: magic %d, want 2", ErrCorrupt, b[offMagic])
	}
	if !b.SumHolds() {
		return nil, fmt.Errorf("%w: crc mismatch", ErrCorrupt)
	}
	if b.Count() < 0 || b.LastDelta() < 0 || b.Count()-1 > b.LastDelta() {
		return nil, fmt.Errorf("%w: %d records up to offset delta %d", ErrCorrupt, b.Count(), b.LastDelta())
	}
	return b, nil
}

// Batch is a run of records of one partition on its way into or out of a log. It holds the bytes of a RecordBatch v2, or
// records that a driver decoded already. It must not be changed after it was handed over.
type Batch struct {
	Part Part
	// Own says that a Millrace node appended the batch, so its reserved headers can be believed (see docs/records.md).
	Own bool
	// Early asks for the answer as soon as the batch survives the death of the process, before it survives a power cut (a route's
	// ack: memory). Becoming stable is not affected. A driver that knows no such moment answers when the batch is durable.
	Early bool
	// Side is whatever the appender wants to find again when the batch comes out of the tail. Nil after a read from disk.
	Side any
	// SideBytes is what Side takes in memory, about: it counts against the budget of whoever keeps the batch.
	SideBytes int

	raw   RawBatch
	plain []byte // the records section uncompressed, when known
	recs  []Record
	next  int64
}

// NewRawBatch wraps the bytes of a RecordBatch v2 that CheckBatch has passed.
func NewRawBatch(p Part, raw RawBatch) *Batch { return &Batch{Part: p, raw: raw} }

// NewRecordBatch wraps decoded records, whose offsets ascend; next is the offset after the batch.
func NewRecordBatch(p Part, recs []Record, next int64) *Batch {
	return &Batch{Part: p, recs: recs, next: next}
}

// Raw is the RecordBatch v2, or nil for a batch of decoded records.
func (b *Batch) Raw() RawBatch { return b.raw }

// Base is the offset of the first record (or the batch's place, if compaction took that record).
func (b *Batch) Base() int64 {
	if b.raw != nil {
		return b.raw.Base()
	}
	if len(b.recs) == 0 {
		return b.next
	}
	return b.recs[0].Offset
}

// Next is the first offset after the batch.
func (b *Batch) Next() int64 {
	if b.raw != nil {
		return b.raw.Next()
	}
	return b.next
}

// Len is the number of records.
func (b *Batch) Len() int {
	if b.raw != nil {
		return int(b.raw.Count())
	}
	return len(b.recs)
}

// Size is the batch's size in bytes as it counts against budgets.
func (b *Batch) Size() int {
	if b.raw != nil {
		return len(b.raw)
	}
	n := HeaderSize
	for i := range b.recs {
		n += 16 + len(b.recs[i].Key) + len(b.recs[i].Value)
		for _, h := range b.recs[i].Headers {
			n += 2 + len(h.Key) + len(h.Value)
		}
	}
	return n
}

// MaxHeaders bounds the headers of one record: more are refused, since each costs twenty times its bytes once decoded.
const MaxHeaders = 1 << 16

// Each calls f for each record in order until it returns an error, which Each returns. The *Record and its Headers slice are
// reused between calls; what they point to is valid as long as the batch. Offsets ascend and lie within the batch, whoever
// made it: a batch that says otherwise is ErrCorrupt.
func (b *Batch) Each(f func(*Record) error) error {
	if b.raw == nil {
		for i := range b.recs {
			if err := f(&b.recs[i]); err != nil {
				return err
			}
		}
		return nil
	}
	body := b.plain
	if body == nil {
		body = b.raw[HeaderSize:]
		if c := b.raw.Codec(); c != None {
			var err error
			if body, err = Decompress(c, body, MaxDecompressed); err != nil {
				return err
			}
		}
	}
	var r Record
	base, baseTime, attrs := b.raw.Base(), b.raw.BaseTime(), b.raw.Attributes()
	before, last := base-1, b.raw.Last()
	for range b.raw.Count() {
		var err error
		if body, err = decodeRecord(&r, body, base, baseTime); err != nil {
			return err
		}
		if r.Offset <= before || r.Offset > last {
			return errRecord
		}
		before = r.Offset
		if attrs&AttrLogAppendTime != 0 {
			r.Timestamp = b.raw.MaxTime()
		}
		if err := f(&r); err != nil {
			return err
		}
	}
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes after the last record", ErrCorrupt, len(body))
	}
	return nil
}

// minRecord is the size of the smallest record: its length, attributes, two deltas, no key, no value, no headers.
const minRecord = 7

// Records decodes all records. They take some fifteen times the bytes of a batch of the smallest: Each is for batches from
// outside.
func (b *Batch) Records() ([]Record, error) {
	if b.raw == nil {
		return b.recs, nil
	}
	recs := make([]Record, 0, min(b.Len(), len(b.raw)/minRecord))
	err := b.Each(func(r *Record) error {
		c := *r
		c.Headers = append([]Header(nil), r.Headers...)
		recs = append(recs, c)
		return nil
	})
	return recs, err
}

var errRecord = fmt.Errorf("%w: bad record", ErrCorrupt)

func decodeRecord(r *Record, p []byte, base, baseTime int64) (rest []byte, err error) {
	n, k := binary.Varint(p)
	if k <= 0 || n < 0 || n > int64(len(p)-k) {
		return nil, errRecord
	}
	p, rest = p[k:k+int(n)], p[k+int(n):]
	if len(p) < 1 {
		return nil, errRecord
	}
	p = p[1:] // attributes: unused
	dt, k := binary.Varint(p)
	if k <= 0 {
		return nil, errRecord
	}
	p = p[k:]
	do, k := binary.Varint(p)
	if k <= 0 {
		return nil, errRecord
	}
	p = p[k:]
	r.Timestamp, r.Offset = baseTime+dt, base+do
	if r.Key, p, err = varbytes(p); err != nil {
		return nil, err
	}
	if r.Value, p, err = varbytes(p); err != nil {
		return nil, err
	}
	hs, k := binary.Varint(p)
	if k <= 0 || hs < 0 || hs > min(int64(len(p)), MaxHeaders) {
		return nil, errRecord
	}
	p = p[k:]
	r.Headers = r.Headers[:0]
	for range hs {
		var key, val []byte
		if key, p, err = varbytes(p); err != nil || key == nil {
			return nil, errRecord
		}
		if val, p, err = varbytes(p); err != nil {
			return nil, err
		}
		r.Headers = append(r.Headers, Header{Key: unsafe.String(unsafe.SliceData(key), len(key)), Value: val})
	}
	if len(p) != 0 {
		return nil, errRecord
	}
	return rest, nil
}

func varbytes(p []byte) (b, rest []byte, err error) {
	n, k := binary.Varint(p)
	if k <= 0 || n < -1 || n > int64(len(p)-k) {
		return nil, nil, errRecord
	}
	if n < 0 {
		return nil, p[k:], nil
	}
	return p[k : k+int(n) : k+int(n)], p[k+int(n):], nil
}

// Builder encodes records into one RecordBatch v2. The zero Builder is ready; after Batch it may be used again, and is better
// used again, since it keeps the buffer it encodes into.
type Builder struct {
	// Stamped gives the batches OwnProducer, which the embedded log would have to write otherwise, and sum up the batch again.
	Stamped bool

	buf               []byte // scratch: a batch leaves in memory of its own, of its exact size
	headers           []byte // scratch
	count             int32
	baseTime, maxTime int64
}

// Len is the number of records added since the last Batch.
func (bl *Builder) Len() int { return int(bl.count) }

// Size is the size of the batch so far, uncompressed, in bytes.
func (bl *Builder) Size() int { return max(len(bl.buf), HeaderSize) }

// Grow makes room for n more bytes of records, to spare Add the copying.
func (bl *Builder) Grow(n int) {
	if bl.count == 0 && bl.buf == nil {
		bl.buf = make([]byte, HeaderSize, HeaderSize+n)
	} else if cap(bl.buf)-len(bl.buf) < n {
		bl.buf = append(make([]byte, 0, len(bl.buf)+n), bl.buf...)
	}
}

// Add encodes one record; nothing it is given is kept. It returns where in Plain the value begins.
func (bl *Builder) Add(timestamp int64, key, value []byte, headers []Header) (valueAt int) {
	bl.headers = AppendHeaders(bl.headers[:0], headers)
	return bl.AddEncoded(timestamp, key, value, bl.headers)
}

// AppendHeaders encodes the headers of a record, for AddEncoded.
func AppendHeaders(dst []byte, headers []Header) []byte {
	dst = binary.AppendVarint(dst, int64(len(headers)))
	for i := range headers {
		dst = binary.AppendVarint(dst, int64(len(headers[i].Key)))
		dst = append(dst, headers[i].Key...)
		dst = appendVarbytes(dst, headers[i].Value)
	}
	return dst
}

// AddEncoded is Add with headers that are encoded already: many records have the same.
func (bl *Builder) AddEncoded(timestamp int64, key, value, headers []byte) (valueAt int) {
	bl.begin(timestamp)
	bl.place(timestamp, varbytesLen(key)+varbytesLen(value)+len(headers))
	b := bl.buf
	b = appendVarbytes(b, key)
	b = appendVarbytes(b, value)
	valueAt = len(b) - len(value)
	bl.buf = append(b, headers...)
	bl.count++
	return valueAt
}

// Merge adds the records of another batch. Only their places and times are written anew, relative to this one's; the rest is copied, and
// not looked at. After an error some of them are in it.
func (bl *Builder) Merge(b *Batch) error {
	body := b.plain
	if b.raw == nil {
		return fmt.Errorf("%w: not encoded", ErrInvalid)
	}
	if body == nil {
		body = b.raw[HeaderSize:]
		if c := b.raw.Codec(); c != None {
			var err error
			if body, err = Decompress(c, body, MaxDecompressed); err != nil {
				return err
			}
		}
	}
	baseTime := b.raw.BaseTime()
	for range b.raw.Count() {
		n, k := binary.Varint(body)
		if k <= 0 || n < minRecord-1 || n > int64(len(body)-k) {
			return errRecord
		}
		rest := body[k+1 : k+int(n)] // attributes: unused
		body = body[k+int(n):]
		dt, k := binary.Varint(rest)
		if k <= 0 {
			return errRecord
		}
		rest = rest[k:]
		if _, k = binary.Varint(rest); k <= 0 {
			return errRecord
		}
		bl.begin(baseTime + dt)
		bl.place(baseTime+dt, len(rest)-k)
		bl.buf = append(bl.buf, rest[k:]...)
		bl.count++
	}
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes after the last record", ErrCorrupt, len(body))
	}
	return nil
}

// begin makes the builder ready for a record of a time.
func (bl *Builder) begin(timestamp int64) {
	if bl.count == 0 {
		if bl.buf == nil {
			bl.buf = make([]byte, HeaderSize, HeaderSize+256)
		}
		bl.buf = bl.buf[:HeaderSize]
		bl.baseTime, bl.maxTime = timestamp, timestamp
	}
	bl.maxTime = max(bl.maxTime, timestamp)
}

// place writes what comes before a record's key: its length, given what follows, and where it stands.
func (bl *Builder) place(timestamp int64, follows int) {
	n := 1 + varintLen(timestamp-bl.baseTime) + varintLen(int64(bl.count)) + follows
	b := binary.AppendVarint(bl.buf, int64(n))
	b = append(b, 0)
	b = binary.AppendVarint(b, timestamp-bl.baseTime)
	bl.buf = binary.AppendVarint(b, int64(bl.count))
}

// Batch ends the batch: it compresses the records (None leaves them), seals the header and returns the batch with base offset
// 0, no producer (but see Stamped) and Own set. plain is the uncompressed batch, into which Add's places point. The builder starts over.
func (bl *Builder) Batch(p Part, c Codec) (b *Batch, plain []byte, err error) {
	if bl.count == 0 {
		return nil, nil, fmt.Errorf("%w: a batch without records", ErrInvalid)
	}
	plain = make([]byte, len(bl.buf)) // with the copy right behind it, it is not cleared
	copy(plain, bl.buf)
	raw := RawBatch(plain)
	if c != None {
		raw = make(RawBatch, HeaderSize, HeaderSize+len(plain)/2)
		if raw, err = Compress(c, raw, plain[HeaderSize:]); err != nil {
			*bl = Builder{Stamped: bl.Stamped, buf: bl.buf[:HeaderSize], headers: bl.headers}
			return nil, nil, err
		}
	}
	binary.BigEndian.PutUint64(raw, 0)
	binary.BigEndian.PutUint32(raw[offLength:], uint32(len(raw)-offEpoch))
	binary.BigEndian.PutUint32(raw[offEpoch:], 0)
	raw[offMagic] = 2
	binary.BigEndian.PutUint16(raw[offAttrs:], uint16(c))
	binary.BigEndian.PutUint32(raw[offLastDelta:], uint32(bl.count-1))
	binary.BigEndian.PutUint64(raw[offBaseTime:], uint64(bl.baseTime))
	binary.BigEndian.PutUint64(raw[offMaxTime:], uint64(bl.maxTime))
	raw.SetProducer(-1, -1, -1)
	if bl.Stamped {
		raw.SetProducer(OwnProducer, 0, -1)
	}
	binary.BigEndian.PutUint32(raw[offCount:], uint32(bl.count))
	raw.Reseal()
	*bl = Builder{Stamped: bl.Stamped, buf: bl.buf[:HeaderSize], headers: bl.headers}
	return &Batch{Part: p, Own: true, raw: raw, plain: plain[HeaderSize:]}, plain, nil
}

func appendVarbytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(v))), v...)
}

func varbytesLen(v []byte) int {
	if v == nil {
		return 1
	}
	return varintLen(int64(len(v))) + len(v)
}

func varintLen(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for u >= 0x80 {
		u >>= 7
		n++
	}
	return n
}
