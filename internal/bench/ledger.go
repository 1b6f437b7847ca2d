package main

// ledger is what one receiver saw of one publisher's messages, by their sequence numbers, which begin at 1. It belongs to the
// receiver's goroutine until that has ended, or nothing is under way.
type ledger struct {
	next    uint32 // the lowest that was never passed
	missing map[uint32]struct{}
	twice   int64 // came again
	late    int64 // came after a later one
}

func (l *ledger) saw(seq uint32) {
	if l.next == 0 {
		l.next = 1
	}
	switch _, gap := l.missing[seq]; {
	case seq == l.next:
		l.next++
	case seq > l.next:
		if l.missing == nil {
			l.missing = map[uint32]struct{}{}
		}
		for ; l.next < seq; l.next++ {
			l.missing[l.next] = struct{}{}
		}
		l.next++
	case gap:
		delete(l.missing, seq)
		l.late++
	default:
		l.twice++
	}
}

// lost is how many of the first sent never came.
func (l *ledger) lost(sent uint32) (n int64) {
	if l.next <= sent {
		n = int64(sent) - int64(max(l.next, 1)) + 1
	}
	for seq := range l.missing {
		if seq <= sent {
			n++
		}
	}
	return n
}

// faults is what went wrong in a run, by sequence numbers.
type faults struct{ lost, twice, late int64 }

func (f *faults) count(l *ledger, sent uint32) {
	f.lost += l.lost(sent)
	f.twice += l.twice
	f.late += l.late
}

func (f *faults) add(g faults) {
	f.lost += g.lost
	f.twice += g.twice
	f.late += g.late
}
