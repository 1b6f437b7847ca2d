package segment

import (
	"encoding/binary"
	"math"

	"github.com/millrace-io/millrace/eventlog"
)

// Offsets in the header of a batch (see eventlog).
const (
	atLength    = 8
	afterLength = 12
	atMagic     = 16
	atAttrs     = 21
	atLastDelta = 23
	atBaseTime  = 27
	atMaxTime   = 35
	atCount     = 57
)

// readable returns a batch, whose checksum holds, without compression; its checksum is not its own then. ok is false if its
// records cannot be decoded. That is its producer's doing: to us it is a batch without records.
func readable(b eventlog.RawBatch) (plain eventlog.RawBatch, ok bool) {
	plain = b
	if c := b.Codec(); c != eventlog.None {
		body, err := eventlog.Decompress(c, b[eventlog.HeaderSize:], eventlog.MaxDecompressed)
		if err != nil {
			return nil, false
		}
		plain = append(b[:eventlog.HeaderSize:eventlog.HeaderSize], body...)
		binary.BigEndian.PutUint16(plain[atAttrs:], uint16(b.Attributes()&^eventlog.AttrCodecMask))
	}
	err := each(plain, func(*eventlog.Record) error { return nil })
	return plain, err == nil
}

func each(b eventlog.RawBatch, f func(*eventlog.Record) error) error {
	return eventlog.NewRawBatch(eventlog.Part{}, b).Each(f)
}

// reencode builds a batch from those records of another, uncompressed one that are kept. If it is stamped, its base time is
// the delete horizon, as Kafka has it; all else in the header stays as it is.
func (j *judgement) reencode(plain eventlog.RawBatch, codec eventlog.Codec) (eventlog.RawBatch, error) {
	attrs, baseTime := plain.Attributes()|int16(codec), plain.BaseTime()
	if j.stamp {
		attrs, baseTime = attrs|eventlog.AttrDeleteHorizon, j.horizon
	}
	body := make([]byte, 0, len(plain))
	maxTime, i, kept := int64(math.MinInt64), 0, int64(0)
	err := each(plain, func(r *eventlog.Record) error {
		if j.keep[i] {
			if mutant(MutantMoveOffsets) {
				r.Offset = plain.Base() + kept
				kept++
			}
			body = appendRecord(body, r, plain.Base(), baseTime)
			maxTime = max(maxTime, r.Timestamp)
		}
		i++
		return nil
	})
	if err != nil {
		return nil, err
	}
	if attrs&eventlog.AttrLogAppendTime != 0 {
		maxTime = plain.MaxTime()
	}
	b := append(make(eventlog.RawBatch, 0, eventlog.HeaderSize+len(body)), plain[:eventlog.HeaderSize]...)
	if b, err = eventlog.Compress(codec, b, body); err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-afterLength))
	binary.BigEndian.PutUint16(b[atAttrs:], uint16(attrs))
	binary.BigEndian.PutUint64(b[atBaseTime:], uint64(baseTime))
	binary.BigEndian.PutUint64(b[atMaxTime:], uint64(maxTime))
	binary.BigEndian.PutUint32(b[atCount:], uint32(j.left))
	b.Reseal()
	return b, nil
}

// appendRecord encodes a record relative to its batch's base offset and time.
func appendRecord(dst []byte, r *eventlog.Record, base, baseTime int64) []byte {
	body := []byte{0} // attributes
	body = binary.AppendVarint(body, r.Timestamp-baseTime)
	body = binary.AppendVarint(body, r.Offset-base)
	body = appendBytes(body, r.Key)
	body = appendBytes(body, r.Value)
	body = binary.AppendVarint(body, int64(len(r.Headers)))
	for _, h := range r.Headers {
		body = binary.AppendVarint(body, int64(len(h.Key)))
		body = append(body, h.Key...)
		body = appendBytes(body, h.Value)
	}
	return append(binary.AppendVarint(dst, int64(len(body))), body...)
}

func appendBytes(dst, p []byte) []byte {
	if p == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(p))), p...)
}
