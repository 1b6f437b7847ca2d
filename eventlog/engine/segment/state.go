package segment

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
)

// State is what a checkpoint records of one partition: everything in the files that Open may rely on. What lies beyond it in
// the active segment is cut, and segments after the active one are removed, for the write-ahead log has their batches. The
// zero State is a partition that was never written.
type State struct {
	Start   int64 // of the log: earlier records are gone
	End     int64 // the next offset
	Base    int64 // of the active segment, or End if there is none
	Size    int64 // of the active segment, in bytes
	Entries int64 // of the active segment's indexes
	MaxTime int64 // of the active segment's records, -1 if none
	Born    int64 // when the active segment was begun, milliseconds since 1970
	Clean   int64 // below it compaction has left one record per key
	Bytes   int64 // of all segments
	Gapless int64 // from here on each batch begins where the one before ends; below, an older version's compaction may have left gaps
}

// Append encodes a state, in 10 to about 55 bytes.
func (s State) Append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(s.Start))
	b = binary.AppendUvarint(b, uint64(s.End-s.Start))
	b = binary.AppendUvarint(b, uint64(s.End-s.Base))
	b = binary.AppendUvarint(b, uint64(s.Size))
	b = binary.AppendUvarint(b, uint64(s.Entries))
	b = binary.AppendVarint(b, s.MaxTime)
	b = binary.AppendVarint(b, s.Born)
	b = binary.AppendUvarint(b, uint64(s.Clean))
	b = binary.AppendUvarint(b, uint64(s.Bytes))
	return binary.AppendUvarint(b, uint64(s.Gapless))
}

// DecodeState decodes what Append has encoded, or did in format 1, and returns the rest.
func DecodeState(b []byte, format int) (s State, rest []byte, err error) {
	bad := false
	unsigned := func() int64 {
		v, n := binary.Uvarint(b)
		if n <= 0 || int64(v) < 0 {
			bad = true
			return 0
		}
		b = b[n:]
		return int64(v)
	}
	signed := func() int64 {
		v, n := binary.Varint(b)
		if n <= 0 {
			bad = true
			return 0
		}
		b = b[n:]
		return v
	}
	s.Start = unsigned()
	s.End = s.Start + unsigned()
	s.Base = s.End - unsigned()
	s.Size, s.Entries = unsigned(), unsigned()
	s.MaxTime, s.Born = signed(), signed()
	s.Clean, s.Bytes = unsigned(), unsigned()
	switch {
	case format > 1:
		s.Gapless = unsigned()
	default: // compaction left gaps then, in rolled segments, and Clean may not say so: a checkpoint may be older than a compaction
		s.Gapless = s.Base
	}
	if bad || s.End < s.Start || s.Base < 0 || s.Bytes < s.Size {
		return State{}, nil, fmt.Errorf("%w: partition state in checkpoint", eventlog.ErrInvalid)
	}
	return s, b, nil
}
