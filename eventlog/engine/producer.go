package engine

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/millrace-io/millrace/eventlog"
)

// sequences is how many batches of a producer are remembered, so that a resend is answered and not appended again. It is the
// number of requests an idempotent producer has in flight at most.
const sequences = 5

// producer is what a partition remembers of one producer. It belongs to the committer.
type producer struct {
	epoch  int16
	n      uint8 // how many of last are set
	last   [sequences]sent
	active int64 // milliseconds: when it last appended
}

// sent is one batch of a producer, the newest first in producer.last.
type sent struct {
	first, last int32 // sequence numbers
	base        int64
	time        int64 // LogAppendTime, or -1
}

// admit decides about a batch of a foreign producer. A producer that is fresh here, or whose last transaction ended with a new
// epoch, begins with sequence 0.
func (p *partition) admit(raw eventlog.RawBatch, fresh bool) (dup *sent, err error) {
	pr := p.head.producers[raw.ProducerID()]
	if mutant(mutantForgetSeqs) {
		return nil, nil
	}
	if fresh && pr == nil && raw.BaseSequence() > 0 {
		return nil, fmt.Errorf("%w: sequence %d of a producer that is not known here", ErrOutOfOrderSequence, raw.BaseSequence())
	}
	if dup, err = pr.admit(raw); dup != nil || err != nil {
		return dup, err
	}
	return nil, p.mayJoin(raw)
}

// admit decides about a batch by its producer's sequence. dup is the batch it repeats, if it does.
func (p *producer) admit(raw eventlog.RawBatch) (dup *sent, err error) {
	epoch, seq := raw.ProducerEpoch(), raw.BaseSequence()
	switch {
	case p == nil: // forgotten, or never seen: any sequence may be next
		return nil, nil
	case epoch < p.epoch:
		return nil, fmt.Errorf("%w: epoch %d, last seen %d", ErrInvalidProducerEpoch, epoch, p.epoch)
	case seq < 0: // its coordinator's
		return nil, nil
	case epoch > p.epoch || p.n == 0:
		if seq != 0 {
			return nil, fmt.Errorf("%w: a new epoch begins with sequence %d, not 0", ErrOutOfOrderSequence, seq)
		}
		return nil, nil
	}
	last := addSequence(seq, raw.LastDelta())
	for i := range p.last[:p.n] {
		if s := &p.last[i]; s.first == seq && s.last == last {
			return s, nil
		}
	}
	if want := addSequence(p.last[0].last, 1); seq != want {
		return nil, fmt.Errorf("%w: sequence %d, want %d", ErrOutOfOrderSequence, seq, want)
	}
	return nil, nil
}

// record remembers an admitted batch.
func (p *producer) record(raw eventlog.RawBatch, now int64) {
	if raw.ProducerEpoch() != p.epoch {
		p.epoch, p.n = raw.ProducerEpoch(), 0
	}
	p.active = now
	if raw.BaseSequence() < 0 { // its coordinator's
		return
	}
	copy(p.last[1:], p.last[:])
	p.n = min(p.n+1, sequences)
	p.last[0] = sent{
		first: raw.BaseSequence(),
		last:  addSequence(raw.BaseSequence(), raw.LastDelta()),
		base:  raw.Base(),
		time:  appendTime(raw),
	}
}

// addSequence adds to a sequence number; after 2³¹-1 comes 0.
func addSequence(seq, n int32) int32 { return int32((int64(seq) + int64(n)) & math.MaxInt32) }

// appendTime is the time the log stamped on a batch, -1 if the producer's own times stand.
func appendTime(raw eventlog.RawBatch) int64 {
	if raw.Attributes()&eventlog.AttrLogAppendTime != 0 {
		return raw.MaxTime()
	}
	return -1
}

// remembers tells whether sequences of this producer id are checked: those of foreign idempotent producers.
func remembers(id int64) bool { return id >= 0 && id < FirstOwnProducerID }

func (p *producer) append(b []byte, id int64) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(id))
	b = binary.BigEndian.AppendUint16(b, uint16(p.epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(p.active))
	b = append(b, p.n)
	for _, s := range p.last[:p.n] {
		b = binary.BigEndian.AppendUint32(b, uint32(s.first))
		b = binary.BigEndian.AppendUint32(b, uint32(s.last))
		b = binary.BigEndian.AppendUint64(b, uint64(s.base))
		b = binary.BigEndian.AppendUint64(b, uint64(s.time))
	}
	return b
}

func readProducer(r *reader) (id int64, p *producer) {
	p = &producer{}
	id = r.i64()
	if e := r.take(2); e != nil {
		p.epoch = int16(binary.BigEndian.Uint16(e))
	}
	p.active = r.i64()
	p.n = r.u8()
	if p.n > sequences {
		r.bad, p.n = true, 0
	}
	for i := range p.last[:p.n] {
		p.last[i] = sent{int32(r.u32()), int32(r.u32()), r.i64(), r.i64()}
	}
	return id, p
}
