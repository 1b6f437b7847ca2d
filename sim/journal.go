package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// File is where a ledger is kept: a file of internal/vfs, or of the operating system behind a few lines.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Size() (int64, error)
}

// journal is the ledger's file, as docs/formats/ledger.md says. It is written without sync: what it must survive is the end of other
// processes. A last frame that is cut is dropped.
type journal struct {
	file File
	off  int64
	buf  []byte // the next frame, from its header on; empty or longer than that
	last int64  // second of the message before
	err  error  // of an earlier write; flush reports it
}

const (
	journalHeader = "millrace ledger 2\n"
	frameHeader   = 8
	frameSize     = 64 << 10

	recordStream  = 'S'
	recordMessage = 'M'
	recordAcked   = 'A'
	recordRefused = 'F'
	recordReader  = 'R'
	recordBegin   = 'B'
	recordAll     = 'L'
	recordEnd     = 'E'
	recordGot     = 'G'
	recordAltered = 'X'
	recordPhantom = 'P'
)

var errJournal = errors.New("not a ledger, or damaged")

// begin starts a record behind those before.
func (j *journal) begin(kind byte) []byte {
	if len(j.buf) == 0 {
		j.buf = append(j.buf, make([]byte, frameHeader)...)
	}
	return append(j.buf, kind)
}

func (j *journal) end(buf []byte) {
	j.buf = buf
	if len(buf) >= frameSize {
		j.err = errors.Join(j.err, j.write())
	}
}

func (j *journal) stream(s stream) {
	if j != nil {
		j.end(appendText(appendText(j.begin(recordStream), s.device), s.topic))
	}
}

func (j *journal) message(m message) {
	if j == nil {
		return
	}
	b := binary.AppendUvarint(j.begin(recordMessage), uint64(m.stream))
	b = append(binary.AppendUvarint(b, uint64(m.sequence)), m.qos)
	b = binary.AppendVarint(b, int64(m.second)-j.last)
	j.last = int64(m.second)
	j.end(binary.LittleEndian.AppendUint64(b, m.hash))
}

func (j *journal) state(ref int, state byte) {
	if j == nil {
		return
	}
	kind := byte(recordAcked)
	if state == refused {
		kind = recordRefused
	}
	j.end(binary.AppendUvarint(j.begin(kind), uint64(ref)))
}

func (j *journal) reader(r *Reader) {
	if j != nil {
		j.end(append(appendText(appendText(j.begin(recordReader), r.name), r.filter), r.qos))
	}
}

func (j *journal) mark(kind byte, r *Reader) {
	if j != nil {
		j.end(binary.AppendUvarint(j.begin(kind), uint64(r.id)))
	}
}

func (j *journal) got(kind byte, r *Reader, ref int) {
	if j != nil {
		j.end(binary.AppendUvarint(binary.AppendUvarint(j.begin(kind), uint64(r.id)), uint64(ref)))
	}
}

func (j *journal) phantom(r *Reader, what string) {
	if j != nil {
		j.end(appendText(binary.AppendUvarint(j.begin(recordPhantom), uint64(r.id)), what))
	}
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (j *journal) flush() error {
	err := errors.Join(j.err, j.write())
	j.err = nil
	if err != nil {
		return fmt.Errorf("sim: write ledger: %w", err)
	}
	return nil
}

// write puts the frame into the file. If that fails, the frame stays and is written again, longer, at the same place.
func (j *journal) write() error {
	if len(j.buf) == 0 {
		return nil
	}
	body := j.buf[frameHeader:]
	binary.LittleEndian.PutUint32(j.buf, uint32(len(body)))
	binary.LittleEndian.PutUint32(j.buf[4:], crc32.Checksum(body, castagnoli))
	if _, err := j.file.WriteAt(j.buf, j.off); err != nil {
		return err
	}
	j.off += int64(len(j.buf))
	j.buf = j.buf[:0]
	return nil
}

// open reads the file into an empty ledger and makes it ready for appending.
func (j *journal) open(l *Ledger) error {
	size, err := j.file.Size()
	if err != nil {
		return err
	}
	if size == 0 {
		_, err := j.file.WriteAt([]byte(journalHeader), 0)
		j.off = int64(len(journalHeader))
		return err
	}
	if err := j.load(l, size); err != nil {
		return err
	}
	return j.file.Truncate(j.off)
}

// load reads what is whole in the file into an empty ledger.
func (j *journal) load(l *Ledger, size int64) error {
	header := make([]byte, min(size, int64(len(journalHeader))))
	if _, err := j.file.ReadAt(header, 0); err != nil {
		return err
	}
	if !bytes.Equal(header, []byte(journalHeader)) {
		return errJournal
	}
	j.off = int64(len(journalHeader))
	for r := (records{}); ; j.last = r.last {
		body, err := j.frame(size)
		if err != nil || body == nil {
			return err
		}
		for r.b = body; len(r.b) > 0; {
			r.apply(l)
		}
		if r.bad {
			return errJournal
		}
		j.off += frameHeader + int64(len(body))
	}
}

// frame reads the frame at j.off, nil if the file ends there or in it.
func (j *journal) frame(size int64) ([]byte, error) {
	var header [frameHeader]byte
	if size-j.off < frameHeader {
		return nil, nil
	}
	if _, err := j.file.ReadAt(header[:], j.off); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(header[:]))
	if n == 0 || n > size-j.off-frameHeader {
		return nil, nil
	}
	body := make([]byte, n)
	if _, err := j.file.ReadAt(body, j.off+frameHeader); err != nil {
		return nil, err
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(header[4:]) {
		return nil, nil
	}
	return body, nil
}

// records takes a body apart. A record that makes no sense ends it with bad set.
type records struct {
	b    []byte
	last int64 // second of the message before
	bad  bool
}

func (r *records) apply(l *Ledger) {
	switch r.byte() {
	case recordStream:
		if s := (stream{r.text(), r.text()}); !r.bad {
			l.addStream(s)
		}
	case recordMessage:
		m := message{stream: int32(r.below(len(l.streams))), sequence: uint32(r.number()), qos: r.byte(), second: r.second(), hash: r.uint64()}
		// Devices count from 1 in single steps, so no sequence is beyond the number of messages.
		if r.bad = r.bad || m.sequence == 0 || int(m.sequence) > len(l.messages)+1; !r.bad {
			l.addMessage(m)
		}
	case recordAcked:
		if ref := r.below(len(l.messages)); !r.bad {
			l.messages[ref].state = acked
		}
	case recordRefused:
		if ref := r.below(len(l.messages)); !r.bad {
			l.messages[ref].state = refused
		}
	case recordReader:
		if name, filter, qos := r.text(), r.text(), r.byte(); !r.bad {
			l.addReader(name, filter, qos)
		}
	case recordBegin:
		if reader := r.below(len(l.readers)); !r.bad {
			l.readers[reader].begin()
		}
	case recordAll:
		if reader := r.below(len(l.readers)); !r.bad {
			l.readers[reader].from, l.readers[reader].to = 0, -1
		}
	case recordEnd:
		if reader := r.below(len(l.readers)); !r.bad {
			l.readers[reader].to = len(l.messages)
		}
	case recordGot:
		if reader, ref := r.below(len(l.readers)), r.below(len(l.messages)); !r.bad {
			l.readers[reader].got(ref)
		}
	case recordAltered:
		if reader, ref := r.below(len(l.readers)), r.below(len(l.messages)); !r.bad {
			l.readers[reader].alter(ref)
		}
	case recordPhantom:
		if reader, what := r.below(len(l.readers)), r.text(); !r.bad {
			l.readers[reader].phantom(what)
		}
	default:
		r.bad = true
	}
	if r.bad {
		r.b = nil
	}
}

func (r *records) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *records) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *records) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *records) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// second reads a time, against the one before.
func (r *records) second() uint32 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	r.last += v
	return uint32(r.last)
}

// below reads a number that must be below a limit.
func (r *records) below(limit int) int {
	v := r.number()
	if v >= uint64(limit) {
		r.bad = true
		return 0
	}
	return int(v)
}

func (r *records) text() string { return string(r.take(r.number())) }
