package kafkawire

import (
	"encoding/binary"
)

// The codec of Produce, by hand: it is most of what a small batch costs. It takes what the shape takes, and nothing else; kmsg's codec is
// what the tests hold it against.

// decode takes a request apart. Names and batches stay in its body.
func (p *production) decode(body []byte) error {
	w := walker{b: body, version: p.r.version, flexible: p.r.version >= p.r.api.flexible}
	if id, ok := w.string(); ok {
		txn := string(id)
		p.txn = &txn
	}
	p.acks = w.i16()
	w.i32() // a timeout: the log's answer never takes as long
	for range w.count(w.length(4)) {
		var t producedTopic
		if p.byTopicID() {
			copy(t.id[:], w.take(16))
		} else {
			t.name, _ = w.string()
		}
		for range w.count(w.length(4)) {
			part := p.part(w.i32())
			part.records = w.take(w.length(4))
			if w.end(); w.err != nil {
				return w.err
			}
			t.parts++
		}
		if w.end(); w.err != nil {
			return w.err
		}
		p.topics = append(p.topics, t)
	}
	w.end()
	return w.err
}

// part adds a partition without an answer.
func (p *production) part(index int32) *produced {
	n := len(p.parts)
	if n == len(p.spare) {
		fresh := &produced{of: p}
		fresh.done = fresh.answered
		p.spare = append(p.spare, fresh)
	}
	part := p.spare[n]
	part.index, part.code, part.message, part.base, part.appended, part.start = index, 0, nil, -1, -1, -1
	p.parts = append(p.parts, part)
	return part
}

// encode makes the response.
func (p *production) encode() {
	e := encoder{version: p.r.version, flexible: p.r.version >= p.r.api.flexible, b: p.r.header(p.out[:0])}
	e.array(len(p.topics))
	parts := p.parts
	for i := range p.topics {
		t := &p.topics[i]
		if p.byTopicID() {
			e.b = append(e.b, t.id[:]...)
		} else {
			e.string(t.found.Name)
		}
		e.array(t.parts)
		for _, part := range parts[:t.parts] {
			part.encode(&e)
		}
		parts = parts[t.parts:]
		e.tags()
	}
	e.i32(0) // throttle
	e.tags()
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-4))
	p.out = e.b
}

func (part *produced) encode(e *encoder) {
	e.i32(part.index)
	e.i16(part.code)
	e.i64(part.base)
	e.i64(part.appended)
	if e.version >= 5 {
		e.i64(part.start)
	}
	if e.version >= 8 {
		e.array(0) // records in error: a batch is taken or refused as a whole
		e.nullString(part.message)
	}
	e.tags()
}
