package engine

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-io/millrace/eventlog"
)

// A WAL frame's payload is a run of entries, each kind (1), length of the body (4), body. The bodies, in big-endian order;
// strings and counts have a uvarint of their length before them (docs/formats/wal.md):
//
//	batch      topic id 16, partition 4, RecordBatch v2 with its offsets
//	create     topic id 16, partitions 4, name, configs
//	delete     topic id 16
//	configure  topic id 16, configs (all of them)
//	partitions topic id 16, partitions 4
//	start      topic id 16, partition 4, offset 8
//	claim      topic id 16, partition 4, epoch 8
//	ids        next producer id 8
//	forgotten  topic id 16, partition 4, offset 8
type entryKind byte

const (
	entryBatch entryKind = 1 + iota
	entryCreate
	entryDelete
	entryConfigure
	entryPartitions
	entryStart
	entryClaim
	entryIDs
	entryReference // reserved: bytes that are durable in a segment already
	entryForgotten
)

const (
	entryHeader = 5
	batchHeader = entryHeader + 20 // before a batch's own bytes
)

// entry is one entry, taken apart. Only the fields of its kind are set.
type entry struct {
	kind    entryKind
	part    eventlog.Part // the topic's id, and the partition's index where the kind has one
	raw     eventlog.RawBatch
	name    string
	count   int32
	configs map[string]string
	value   int64 // the offset, epoch or next id
}

func beginEntry(b []byte, k entryKind, bodyLen int) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(k)), uint32(bodyLen))
}

func appendPart(b []byte, p eventlog.Part) []byte {
	return binary.BigEndian.AppendUint32(append(b, p.Topic[:]...), uint32(p.Index))
}

// appendEntry appends any entry but a batch, whose bytes the frame takes without copying them here.
func appendEntry(b []byte, e *entry) []byte {
	at := len(b)
	b = beginEntry(b, e.kind, 0)
	b = append(b, e.part.Topic[:]...)
	switch e.kind {
	case entryCreate:
		b = binary.BigEndian.AppendUint32(b, uint32(e.count))
		b = appendString(b, e.name)
		b = appendConfigs(b, e.configs)
	case entryConfigure:
		b = appendConfigs(b, e.configs)
	case entryPartitions:
		b = binary.BigEndian.AppendUint32(b, uint32(e.count))
	case entryStart, entryClaim, entryForgotten:
		b = binary.BigEndian.AppendUint32(b, uint32(e.part.Index))
		b = binary.BigEndian.AppendUint64(b, uint64(e.value))
	case entryIDs:
		b = binary.BigEndian.AppendUint64(b, uint64(e.value))
	}
	binary.BigEndian.PutUint32(b[at+1:], uint32(len(b)-at-entryHeader))
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendConfigs(b []byte, m map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		b = appendString(appendString(b, k), m[k])
	}
	return b
}

// nextEntry takes the first entry off a payload. The entry aliases it.
func nextEntry(payload []byte) (e entry, rest []byte, err error) {
	if len(payload) < entryHeader {
		return e, nil, fmt.Errorf("an entry's header is cut off")
	}
	n := int64(binary.BigEndian.Uint32(payload[1:]))
	if n > int64(len(payload)-entryHeader) {
		return e, nil, fmt.Errorf("an entry of %d bytes where %d are left", n, len(payload)-entryHeader)
	}
	e.kind = entryKind(payload[0])
	body := reader{b: payload[entryHeader : entryHeader+n]}
	copy(e.part.Topic[:], body.take(len(e.part.Topic)))
	switch e.kind {
	case entryBatch:
		e.part.Index = int32(body.u32())
		e.raw, err = wholeBatch(body.take(len(body.b)))
	case entryCreate:
		e.count, e.name, e.configs = int32(body.u32()), body.str(), body.configs()
	case entryDelete:
	case entryConfigure:
		e.configs = body.configs()
	case entryPartitions:
		e.count = int32(body.u32())
	case entryStart, entryClaim, entryForgotten:
		e.part.Index, e.value = int32(body.u32()), int64(body.u64())
	case entryIDs:
		e.value = int64(body.u64())
	default:
		err = fmt.Errorf("an entry of unknown kind %d", e.kind)
	}
	if err == nil {
		err = body.end()
	}
	if err != nil {
		return e, nil, fmt.Errorf("entry of kind %d: %w", e.kind, err)
	}
	return e, payload[entryHeader+n:], nil
}

// wholeBatch checks that p is one batch, no more and no less. The frame's checksum has vouched for the bytes, and from version 2 on for a large batch's
// its own has (checkFrame).
func wholeBatch(p []byte) (eventlog.RawBatch, error) {
	raw, err := eventlog.CheckBatch(p)
	if err == nil && len(raw) != len(p) {
		err = fmt.Errorf("%w: %d bytes after the batch", eventlog.ErrCorrupt, len(p)-len(raw))
	}
	return raw, err
}

// reader takes bytes apart. After the first thing that is not there everything reads as zero, and end says so.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u8() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if p := r.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (r *reader) i64() int64 { return int64(r.u64()) }

// count reads a number of things to come, each of at least size bytes: never more than can be there.
func (r *reader) count(size int) int {
	n, k := binary.Uvarint(r.b)
	if r.bad || k <= 0 || n > uint64(len(r.b)-k)/uint64(max(1, size)) {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[k:]
	return int(n)
}

func (r *reader) str() string { return string(r.take(r.count(1))) }

func (r *reader) configs() map[string]string {
	n := r.count(2)
	m := make(map[string]string, n)
	for range n {
		k := r.str()
		m[k] = r.str()
	}
	return m
}

func (r *reader) end() error {
	switch {
	case r.bad:
		return fmt.Errorf("cut off")
	case len(r.b) > 0:
		return fmt.Errorf("%d bytes too many", len(r.b))
	}
	return nil
}
