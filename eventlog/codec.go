package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is a record batch's compression, numbered as in the batch's attributes.
type Codec uint8

const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

func (c Codec) String() string {
	if int(c) < len(codecNames) {
		return codecNames[c]
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// ParseCodec reads a codec's name as Kafka's compression.type has it; "uncompressed", "producer" and "" mean None.
func ParseCodec(s string) (Codec, error) {
	switch s {
	case "", "uncompressed", "producer":
		return None, nil
	}
	for i, n := range codecNames {
		if n == s {
			return Codec(i), nil
		}
	}
	return None, fmt.Errorf("%w: unknown compression %q (one of none, gzip, snappy, lz4, zstd)", ErrInvalid, s)
}

// MaxDecompressed bounds what one batch may decompress to, in bytes: more is refused as a bomb.
const MaxDecompressed = 64 << 20

var (
	zstdEnc = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithEncoderLevel(zstd.SpeedFastest))
		if err != nil {
			panic(err) // the options are constants
		}
		return e
	})
	zstdDec = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(MaxDecompressed),
			zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			panic(err) // the options are constants
		}
		return d
	})
	gzipPool = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}
	lz4Pool  = sync.Pool{New: func() any { return lz4.NewWriter(nil) }}

	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	lz4Readers  = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
)

// Compress appends src, compressed, to dst.
func Compress(c Codec, dst, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case Snappy:
		return append(dst, s2.EncodeSnappy(nil, src)...), nil
	case Zstd:
		return zstdEnc().EncodeAll(src, dst), nil
	case Gzip:
		buf := bytes.NewBuffer(dst)
		w := gzipPool.Get().(*gzip.Writer)
		defer gzipPool.Put(w)
		w.Reset(buf)
		return flushTo(buf, w, src)
	case LZ4:
		buf := bytes.NewBuffer(dst)
		w := lz4Pool.Get().(*lz4.Writer)
		defer lz4Pool.Put(w)
		w.Reset(buf)
		return flushTo(buf, w, src)
	}
	return nil, fmt.Errorf("%w: %v", ErrInvalid, c)
}

func flushTo(buf *bytes.Buffer, w io.WriteCloser, src []byte) ([]byte, error) {
	if _, err := w.Write(src); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Decompress returns src decompressed; more than limit bytes, or bytes that are not of the codec, are ErrCorrupt.
func Decompress(c Codec, src []byte, limit int) (out []byte, err error) {
	switch c {
	case None:
		return src, nil
	case Snappy:
		out, err = decodeSnappy(src, limit)
	case Zstd:
		out, err = zstdDec().DecodeAll(src, nil)
	case Gzip:
		r := gzipReaders.Get().(*gzip.Reader)
		defer gzipReaders.Put(r)
		if err = r.Reset(bytes.NewReader(src)); err == nil {
			out, err = readBounded(r, limit)
		}
	case LZ4:
		r := lz4Readers.Get().(*lz4.Reader)
		defer lz4Readers.Put(r)
		r.Reset(bytes.NewReader(src))
		out, err = readBounded(r, limit)
	default:
		return nil, fmt.Errorf("%w: unknown %v", ErrCorrupt, c)
	}
	if err == nil && len(out) > limit {
		err = errBomb
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrCorrupt, c, err)
	}
	return out, nil
}

var errBomb = fmt.Errorf("decompresses to more than the limit")

func readBounded(r io.Reader, limit int) ([]byte, error) {
	return io.ReadAll(io.LimitReader(r, int64(limit)+1))
}

// xerial is the magic of the framing that Java's snappy puts around raw blocks: 8 bytes of magic, two versions, then
// length-prefixed blocks. librdkafka and others send raw blocks.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

func decodeSnappy(src []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerial) || len(src) < 16 {
		return snappyBlock(nil, src, limit)
	}
	var out []byte
	for src = src[16:]; len(src) > 0; {
		if len(src) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(src)
		src = src[4:]
		if uint64(n) > uint64(len(src)) {
			return nil, io.ErrUnexpectedEOF
		}
		var err error
		if out, err = snappyBlock(out, src[:n], limit); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return out, nil
}

func snappyBlock(dst, src []byte, limit int) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return nil, err
	}
	if n > limit-len(dst) {
		return nil, errBomb
	}
	if n > 64*len(src) { // no element makes more of its bytes: the length lies, and is not worth its memory
		return nil, s2.ErrCorrupt
	}
	b, err := s2.Decode(nil, src)
	if err != nil {
		return nil, err
	}
	return append(dst, b...), nil
}
