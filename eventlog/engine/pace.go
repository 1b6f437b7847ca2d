package engine

import "time"

// A commit costs about the same whatever is in it: the write, the sync, and the wake-ups of threads around them. At a moderate rate, one
// append here and one there, few of them meet in a commit, and it is the commits that are paid for. So commits of few begin
// Options.CommitDelay apart at the least, and what comes meanwhile shares the next one. A lone appender that waits for each answer is
// never delayed, nor is bulk: what has come is committed at once when it is gatherItems or gatherBytes.

const (
	gatherItems = 32
	gatherBytes = 32 << 10

	leastRest = 50 * time.Microsecond // less is not worth the timer
	meanOne   = 16                    // fixed point of pacer.mean
)

// pacer decides how long the committer rests before it begins a commit. It is the committer's, and pure.
type pacer struct {
	delay time.Duration // 0: none
	began time.Time     // the last commit
	mean  int           // appends in the last commits, in sixteenths, the late ones counting most
}

// begins notes that a commit of so many appends begins.
func (p *pacer) begins(now time.Time, items int) {
	p.began = now
	p.mean += (min(items, gatherItems)*meanOne - p.mean) / 8
}

// rest is how long to wait now.
func (p *pacer) rest(now time.Time) time.Duration {
	if p.mean < meanOne*3/2 {
		return 0
	}
	if d := p.delay - now.Sub(p.began); d >= leastRest {
		return min(d, p.delay)
	}
	return 0
}

// Alarm is what a rest sleeps by: finer than the runtime's timers, which are late by up to a millisecond in a process that has nothing
// else to do, and without a thread that is blocked for it.
type Alarm interface {
	// Sleep returns after d, or as soon as Ring was called. It may return early. One goroutine.
	Sleep(d time.Duration)
	// Ring ends a Sleep that is under way. Any goroutine.
	Ring()
	Close() error
}

// rest lets appends gather before the next commit.
func (c *committer) rest() {
	if c.alarm == nil || !c.backlog.empty() {
		return
	}
	if d := c.pace.rest(c.o.Now()); d > 0 && c.queue.gather(c.alarm.Ring) {
		c.alarm.Sleep(d)
		c.queue.gathered()
	}
}
