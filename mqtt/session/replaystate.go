package session

// historyOf is a history as the record of its subscription says: numbered, and what it asked for in each partition. lost is how much was
// gone before it.
type historyOf struct {
	number   uint64
	lost     int64
	from, to []Position // of the same partitions, in the same order
}

func (v *historyOf) append(dst []byte) []byte {
	dst = appendInt(dst, v.number)
	dst = appendInt(dst, uint64(v.lost-LostUnknown))
	dst = appendVector(dst, v.from)
	return appendVector(dst, v.to)
}

func (r *reader) historyOf() *historyOf {
	v := &historyOf{number: r.int(), lost: r.offset() + LostUnknown, from: r.vector(), to: r.vector()}
	if len(v.from) != len(v.to) {
		r.bad = true
		return nil
	}
	for i := range v.from {
		if v.from[i].Part != v.to[i].Part || v.from[i].Offset >= v.to[i].Offset {
			r.bad = true
			return nil
		}
	}
	return v
}

// historyValue is what a checkpoint says is left of a history; without sets: nothing. lost is what its client is still to be told of.
type historyValue struct {
	number uint64
	lost   int64
	sets   []setValue
}

func appendHistories(dst []byte, list []historyValue) []byte {
	dst = appendInt(dst, uint64(len(list)))
	for i := range list {
		dst = appendInt(dst, list[i].number)
		dst = appendInt(dst, uint64(list[i].lost-LostUnknown))
		dst = appendSets(dst, list[i].sets)
	}
	return dst
}

func (r *reader) histories() []historyValue {
	n := r.count(3)
	list := make([]historyValue, 0, n)
	for range n {
		list = append(list, historyValue{number: r.int(), lost: r.offset() + LostUnknown, sets: r.sets()})
	}
	return list
}

func appendAskers(dst []byte, v *outValue) []byte {
	dst = append(dst, bit(v.queued, 1))
	dst = appendInt(dst, uint64(len(v.histories)))
	for _, n := range v.histories {
		dst = appendInt(dst, n)
	}
	return dst
}

// askers reads what appendAskers wrote.
func (r *reader) askers(v *outValue) {
	v.queued = r.byte() != 0
	n := r.count(1)
	v.histories = make([]uint64, 0, n)
	for range n {
		v.histories = append(v.histories, r.int())
	}
}
