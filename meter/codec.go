package meter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/mqtt/session"
)

// The records of the topic, see docs/formats/meter.md. A flush is any number of rows records and one end record, which makes it count.
const (
	version   = 1
	kindRows  = 'R'
	kindEnd   = 'E'
	rowsBytes = 48 << 10  // of one rows record, about
	batchSize = 256 << 10 // of one batch, uncompressed, about
)

const (
	rowOver   = 1
	endClean  = 1
	endMapped = 2
	bookKnown = 1
	bookMerge = 2
)

// ErrFormat says that a record is not one of the meter's.
var ErrFormat = errors.New("not a meter record")

// batches encodes a flush.
func (f *Flush) batches(p eventlog.Part) (out []*eventlog.Batch, err error) {
	bl := eventlog.Builder{}
	add := func(value []byte) error {
		if bl.Len() > 0 && bl.Size()+len(value) > batchSize {
			b, _, err := bl.Batch(p, eventlog.Zstd)
			if err != nil {
				return err
			}
			out = append(out, b)
		}
		bl.Add(f.Time, nil, value, nil)
		return nil
	}
	records := 0
	for rows := f.Rows; len(rows) > 0; records++ {
		var value []byte
		value, rows = f.rows(records, rows)
		if err := add(value); err != nil {
			return nil, err
		}
	}
	if err := add(f.end(records)); err != nil {
		return nil, err
	}
	b, _, err := bl.Batch(p, eventlog.Zstd)
	return append(out, b), err
}

func (f *Flush) head(kind byte) []byte {
	b := append(make([]byte, 0, 1024), version, kind)
	b = binary.BigEndian.AppendUint64(b, f.Run)
	return binary.AppendUvarint(b, f.Seq)
}

// names numbers strings in order of first use.
type names struct {
	list []string
	at   map[string]int
}

func (n *names) id(s string) uint64 {
	i, ok := n.at[s]
	if !ok {
		if n.at == nil {
			n.at = map[string]int{}
		}
		i = len(n.list)
		n.at[s] = i
		n.list = append(n.list, s)
	}
	return uint64(i)
}

func (n *names) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(n.list)))
	for _, s := range n.list {
		b = appendText(b, s)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// rows encodes as many rows as one record takes. index is the record's, in its flush.
func (f *Flush) rows(index int, rows []Row) (value []byte, left []Row) {
	var table names
	var body []byte
	n := 0
	for ; n < len(rows) && len(body) < rowsBytes; n++ {
		r := &rows[n]
		flags := uint64(0)
		if r.Over {
			flags |= rowOver
		}
		body = binary.AppendVarint(body, r.Minute-rows[0].Minute)
		body = binary.AppendUvarint(body, table.id(r.Topic))
		body = binary.AppendUvarint(body, flags)
		body = appendText(body, r.Device)
		body = binary.AppendUvarint(body, uint64(len(r.Counts)))
		for _, c := range r.Counts {
			body = binary.AppendUvarint(body, table.id(c.Name))
			body = binary.AppendUvarint(body, c.N)
		}
	}
	value = table.append(f.head(kindRows))
	value = binary.AppendUvarint(value, uint64(index))
	value = binary.AppendVarint(value, rows[0].Minute)
	value = binary.AppendUvarint(value, uint64(n))
	return append(value, body...), rows[n:]
}

// end encodes what a flush has beside its rows.
func (f *Flush) end(records int) []byte {
	var table names
	var body []byte
	body = binary.AppendUvarint(body, uint64(len(f.Refused)))
	for _, c := range f.Refused {
		body = binary.AppendUvarint(body, table.id(c.Name))
		body = binary.AppendUvarint(body, c.N)
	}
	body = binary.AppendUvarint(body, uint64(len(f.Parts)))
	for i := range f.Parts {
		p := &f.Parts[i]
		body = appendPart(body, p.Part)
		body = binary.AppendUvarint(body, table.id(p.Topic))
		body = appendNumbers(body, p.Start, p.Next, p.Published, p.Sent, p.Logged, p.Refused, p.Unknown)
	}
	body = binary.AppendUvarint(body, uint64(len(f.Books)))
	for i := range f.Books {
		b := &f.Books[i]
		body = appendPart(body, b.Part)
		flags := uint64(0)
		if b.Known {
			flags |= bookKnown
		}
		if b.Book.Merged {
			flags |= bookMerge
		}
		body = binary.AppendUvarint(body, flags)
		body = binary.AppendUvarint(body, b.Life)
		body = appendNumbers(body, b.Matched)
		if k := &b.Book; b.Known {
			body = appendNumbers(body, k.Next, k.Carried, k.Owed, k.Delivered, k.Lost, k.Loose, k.Pending)
		}
	}
	flags := uint64(0)
	if f.Clean {
		flags |= endClean
	}
	if f.Mapping != 0 {
		flags |= endMapped
	}
	value := table.append(f.head(kindEnd))
	value = binary.AppendUvarint(value, flags)
	value = appendNumbers(value, f.Began, f.Time)
	value = binary.AppendUvarint(value, uint64(records))
	value = binary.AppendUvarint(value, f.Overflow)
	if f.Mapping != 0 {
		value = binary.BigEndian.AppendUint64(value, f.Mapping)
	}
	return append(value, body...)
}

func appendPart(b []byte, p eventlog.Part) []byte {
	b = append(b, p.Topic[:]...)
	return binary.AppendUvarint(b, uint64(p.Index))
}

func appendNumbers(b []byte, ns ...int64) []byte {
	for _, n := range ns {
		b = binary.AppendVarint(b, n)
	}
	return b
}

// decoder reads a record, which may be anything. After an error everything it reads is zero.
type decoder struct {
	b     []byte
	table []string
	bad   bool
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) varint() int64 {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) fail() { d.bad, d.b = true, nil }

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) text() string { return string(d.bytes(d.uvarint())) }

// count reads how many things follow, each of which takes at least size bytes: it promises no more than there can be.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) names() {
	n := d.count(1)
	d.table = make([]string, 0, n)
	for range n {
		d.table = append(d.table, d.text())
	}
}

func (d *decoder) name() string {
	i := d.uvarint()
	if i >= uint64(len(d.table)) {
		d.fail()
		return ""
	}
	return d.table[i]
}

func (d *decoder) part() (p eventlog.Part) {
	copy(p.Topic[:], d.bytes(uint64(len(p.Topic))))
	i := d.uvarint()
	if i > math.MaxInt32 {
		d.fail()
		return p
	}
	p.Index = int32(i)
	return p
}

func (d *decoder) counts() []Count {
	n := d.count(2)
	out := make([]Count, 0, n)
	for range n {
		out = append(out, Count{d.name(), d.uvarint()})
	}
	return out
}

// decode reads a record. Of a rows record, records is how many of the flush come before it; of an end record, how many it has.
func decode(value []byte) (kind byte, f *Flush, records int, err error) {
	d := &decoder{b: value}
	head := d.bytes(10)
	if d.bad || head[0] != version || head[1] != kindRows && head[1] != kindEnd {
		return 0, nil, 0, fmt.Errorf("%w: %d bytes", ErrFormat, len(value))
	}
	f = &Flush{Run: binary.BigEndian.Uint64(head[2:]), Seq: d.uvarint()}
	d.names()
	if kind = head[1]; kind == kindRows {
		records = d.rows(f)
	} else {
		records = d.end(f)
	}
	if d.bad || len(d.b) > 0 {
		return 0, nil, 0, fmt.Errorf("%w: kind %q of %d bytes ends within", ErrFormat, kind, len(value))
	}
	return kind, f, records, nil
}

func (d *decoder) rows(f *Flush) (index int) {
	index = int(min(d.uvarint(), math.MaxInt32))
	base := d.varint()
	n := d.count(5)
	f.Rows = make([]Row, 0, n)
	for range n {
		r := Row{Minute: base + d.varint(), Topic: d.name()}
		r.Over = d.uvarint()&rowOver != 0
		r.Device = d.text()
		r.Counts = d.counts()
		f.Rows = append(f.Rows, r)
	}
	return index
}

func (d *decoder) end(f *Flush) (records int) {
	flags := d.uvarint()
	f.Clean = flags&endClean != 0
	f.Began, f.Time = d.varint(), d.varint()
	records = int(min(d.uvarint(), math.MaxInt32))
	f.Overflow = d.uvarint()
	if flags&endMapped != 0 {
		if b := d.bytes(8); !d.bad {
			f.Mapping = binary.BigEndian.Uint64(b)
		}
	}
	f.Refused = d.counts()
	n := d.count(25)
	f.Parts = make([]PartCount, 0, n)
	for range n {
		p := PartCount{Part: d.part(), Topic: d.name()}
		for _, to := range []*int64{&p.Start, &p.Next, &p.Published, &p.Sent, &p.Logged, &p.Refused, &p.Unknown} {
			*to = d.varint()
		}
		f.Parts = append(f.Parts, p)
	}
	n = d.count(20)
	f.Books = make([]BookCount, 0, n)
	for range n {
		b := BookCount{Part: d.part()}
		flags := d.uvarint()
		b.Known = flags&bookKnown != 0
		b.Life, b.Matched = d.uvarint(), d.varint()
		if b.Known {
			k := &b.Book
			k.Part, k.Merged = session.Part{Topic: b.Part.Topic, Index: b.Part.Index}, flags&bookMerge != 0
			for _, to := range []*int64{&k.Next, &k.Carried, &k.Owed, &k.Delivered, &k.Lost, &k.Loose, &k.Pending} {
				*to = d.varint()
			}
		}
		f.Books = append(f.Books, b)
	}
	return records
}
