package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/millrace-io/millrace/eventlog"
)

// A frame is one commit in the WAL. It begins on a block boundary, so that a write that a power cut tears cannot reach into
// an earlier frame's sectors. Its header, whose first 48 bytes keep their meaning in every version:
//
//	0 magic "MWAL"   4   16 file generation 8   40 payload length 4
//	4 version        1   24 commit number   8   44 crc32c         4  (of the header before it, then the payload; see sum)
//	5 flags          1   32 time            8
//	6 zero           2
//	8 salt           8
//
// The salt is drawn anew whenever a WAL is started afresh, and stands in the checkpoint: no older frame, no other log's frame
// and no bytes that somebody sent in a record can pass for a frame of this one. The time is the node's clock, which never
// goes back.
const (
	frameHeader  = 48
	frameVersion = 2 // 1: the checksum covers all of every batch
	block        = 4096

	flagSealed = 1 // the payload is encrypted; reserved

	// largeFrom is the size from which a batch's own checksum, verified or made when it came, stands for its bytes. It is part of the format.
	largeFrom = 4 << 10
	// copyBelow is the size from which a batch is written from where it lies, here as in segments.
	copyBelow = largeFrom
)

var (
	frameMagic = [4]byte{'M', 'W', 'A', 'L'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeroBlock  [block]byte
)

// ErrNewer says that a file was written by a later version of Millrace.
var ErrNewer = errors.New("written by a newer version of Millrace")

// ErrDamaged says that durable data is damaged: acknowledged records would be lost, so nothing is repaired or deleted.
var ErrDamaged = errors.New("damaged")

func alignUp(n int64) int64 { return (n + block - 1) &^ (block - 1) }

// frame gathers the entries of one commit. It is reused from commit to commit.
type frame struct {
	buf    []byte // the header, entries, and small batches; large ones stand between
	large  []largeBatch
	size   int // header and payload
	bufs   [][]byte
	commit uint64
}

type largeBatch struct {
	at  int // where in buf it belongs
	raw []byte
}

func (f *frame) reset() {
	f.buf = append(f.buf[:0], zeroBlock[:frameHeader]...)
	clear(f.large)
	clear(f.bufs)
	f.large, f.bufs = f.large[:0], f.bufs[:0]
	f.size = frameHeader
}

func (f *frame) empty() bool { return f.size == frameHeader }

func (f *frame) batch(p eventlog.Part, raw eventlog.RawBatch) {
	f.buf = appendPart(beginEntry(f.buf, entryBatch, batchHeader-entryHeader+len(raw)), p)
	f.size += batchHeader + len(raw)
	if len(raw) < largeFrom {
		f.buf = append(f.buf, raw...)
		return
	}
	f.large = append(f.large, largeBatch{len(f.buf), raw})
}

func (f *frame) add(e *entry) {
	at := len(f.buf)
	f.buf = appendEntry(f.buf, e)
	f.size += len(f.buf) - at
}

// seal writes the header and returns the frame's bytes, padded to whole blocks.
func (f *frame) seal(salt, generation, commit uint64, time int64) [][]byte {
	f.commit = commit
	h := f.buf[:frameHeader]
	copy(h, frameMagic[:])
	h[4], h[5] = frameVersion, 0
	binary.BigEndian.PutUint64(h[8:], salt)
	binary.BigEndian.PutUint64(h[16:], generation)
	binary.BigEndian.PutUint64(h[24:], commit)
	binary.BigEndian.PutUint64(h[32:], uint64(time))
	binary.BigEndian.PutUint32(h[40:], uint32(f.size-frameHeader))
	crc := crc32.Checksum(h[:44], castagnoli)
	at, sum := 0, frameHeader // how far buf is among bufs, and in the checksum
	for _, l := range f.large {
		f.bufs = append(f.bufs, f.buf[at:l.at], l.raw)
		crc = crc32.Update(crc, castagnoli, f.buf[sum:l.at])
		crc = crc32.Update(crc, castagnoli, l.raw[:eventlog.Unsummed])
		at, sum = l.at, l.at
	}
	f.bufs = append(f.bufs, f.buf[at:])
	crc = crc32.Update(crc, castagnoli, f.buf[sum:])
	binary.BigEndian.PutUint32(h[44:], crc)
	if pad := alignUp(int64(f.size)) - int64(f.size); pad > 0 {
		f.bufs = append(f.bufs, zeroBlock[:pad])
	}
	return f.bufs
}

// frameInfo is a frame's header, taken apart.
type frameInfo struct {
	version, flags           byte
	salt, generation, commit uint64
	time                     int64
	payload                  []byte
}

// frameOf tells whether what is at least as long as a frame's header looks like one of this salt.
func frameOf(h []byte, salt uint64) bool {
	return [4]byte(h) == frameMagic && binary.BigEndian.Uint64(h[8:]) == salt
}

// checkFrame verifies that p begins with a whole, intact frame of this salt. It says nothing about versions: later ones are summed as this one, or
// a checkpoint of a later version says that they are there.
func checkFrame(p []byte, salt uint64) (f frameInfo, ok bool) {
	if len(p) < frameHeader || !frameOf(p, salt) {
		return f, false
	}
	n := int64(binary.BigEndian.Uint32(p[40:]))
	if n > int64(len(p)-frameHeader) {
		return f, false
	}
	f.payload = p[frameHeader : frameHeader+n]
	crc := crc32.Checksum(p[:44], castagnoli)
	if p[4] < 2 {
		crc, ok = crc32.Update(crc, castagnoli, f.payload), true
	} else {
		crc, ok = sumPayload(crc, f.payload)
	}
	if !ok || binary.BigEndian.Uint32(p[44:]) != crc {
		return f, false
	}
	f.version, f.flags, f.salt = p[4], p[5], salt
	f.generation = binary.BigEndian.Uint64(p[16:])
	f.commit = binary.BigEndian.Uint64(p[24:])
	f.time = int64(binary.BigEndian.Uint64(p[32:]))
	return f, true
}

// sumPayload goes on with a frame's checksum over its payload: of each large batch it covers what the batch's own leaves out, with that. It is not ok if
// one of those is wrong. The payload is not known to be right yet: from where it is no entries on, it is summed like any bytes.
func sumPayload(crc uint32, payload []byte) (_ uint32, ok bool) {
	from := 0 // what is not summed yet
	for at := 0; len(payload)-at >= batchHeader+largeFrom; {
		n := int64(binary.BigEndian.Uint32(payload[at+1:]))
		if n > int64(len(payload)-at-entryHeader) {
			break
		}
		next := at + entryHeader + int(n)
		if entryKind(payload[at]) == entryBatch && next-at >= batchHeader+largeFrom {
			raw := eventlog.RawBatch(payload[at+batchHeader : next])
			if !raw.SumHolds() && !mutant(mutantTrustBatches) {
				return 0, false
			}
			crc = crc32.Update(crc, castagnoli, payload[from:at+batchHeader+eventlog.Unsummed])
			from = next
		}
		at = next
	}
	return crc32.Update(crc, castagnoli, payload[from:]), true
}

// readable says whether this program can read the frame.
func (f *frameInfo) readable() error {
	switch {
	case f.version > frameVersion:
		return fmt.Errorf("frame format %d, this program reads up to %d: %w", f.version, frameVersion, ErrNewer)
	case f.flags&flagSealed != 0:
		return fmt.Errorf("the frame is sealed, and this program has no key: %w", ErrNewer)
	case f.flags != 0:
		return fmt.Errorf("frame flags %#x: %w", f.flags, ErrNewer)
	}
	return nil
}
