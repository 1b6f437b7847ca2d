package session

import "errors"

// lane is one claimed target: the writes to it go out in order.
type lane struct {
	target  Target
	part    Part
	place   int32 // of part
	recs    []StateRecord
	bytes   int
	pending []outcome

	removals int // of sessions and wills, outstanding
}

// outcome is what to do when a run of records has been written, or refused.
type outcome struct {
	records int
	done    func(results []Result, err error)
}

const (
	writeBytes = 256 << 10 // of records in one Host.Write, about
	redoEvery  = 1_000     // milliseconds until what was refused is tried again
)

// write appends records to a target; done runs once with their outcome, all or nothing: a mixed outcome ends the core.
func (c *Core) write(l *lane, done func(err error), recs ...StateRecord) {
	c.append(l, func(_ []Result, err error) {
		if done != nil {
			done(err)
		}
	}, recs...)
}

func (c *Core) append(l *lane, done func(results []Result, err error), recs ...StateRecord) {
	size := 0
	for _, r := range recs {
		size += len(r.Key) + len(r.Value)
	}
	if l.bytes > 0 && l.bytes+size > writeBytes {
		c.flush(l)
	}
	l.recs = append(l.recs, recs...)
	l.bytes += size
	l.pending = append(l.pending, outcome{len(recs), done})
}

func (c *Core) flush(l *lane) {
	if len(l.recs) == 0 || c.failed {
		return
	}
	c.token++
	c.writes[c.token] = l.pending
	recs := l.recs
	l.recs, l.pending, l.bytes = nil, nil, 0
	c.host.Write(c.token, l.target, recs)
}

// Written is the outcome of a Host.Write, one result per record.
func (c *Core) Written(now int64, token uint64, results []Result) {
	if !c.enter(now) {
		return
	}
	outcomes, ok := c.writes[token]
	if !ok {
		return
	}
	delete(c.writes, token)
	for _, o := range outcomes {
		if o.records > len(results) {
			c.fail(ErrUnknown)
			return
		}
		err, mixed := verdict(results[:o.records])
		if mixed || errors.Is(err, ErrFenced) || errors.Is(err, ErrUnknown) {
			c.fail(err)
			return
		}
		o.done(results[:o.records], err)
		results = results[o.records:]
	}
	c.leave()
}

// verdict is the first error among results; mixed tells that others succeeded.
func verdict(results []Result) (err error, mixed bool) {
	good := false
	for _, r := range results {
		good = good || r.Err == nil
		if err == nil {
			err = r.Err
		}
	}
	return err, err != nil && good
}
