package engine

import "time"

// A commit costs about the same whatever is in it: the write, the sync, and the wake-ups of threads around them. At a moderate rate, one
// append here and one there, few of them meet in a commit, and it is the commits that are paid for. So commits of few begin
// Options.CommitDelay apart at the least, and what comes meanwhile shares the next one. A lone appender that waits for each answer is
// not delayed, but for a few dozen commits after bulk; nor is bulk: what has come is committed at once when it is gatherItems or
// gatherBytes. And a few that all wait for their answers, so that a rest only keeps them, are found out by trying: now and then it is the
// other way round for trialTime, and the way in which more appends come is the one to go on with.

const (
	gatherItems = 32
	gatherBytes = 32 << 10

	leastRest = 50 * time.Microsecond // less is not worth the timer
	meanOne   = 16                    // fixed point of pacer.mean

	settleTime = 500 * time.Millisecond // between two trials
	trialTime  = 30 * time.Millisecond
	quietTime  = 20 * time.Millisecond // without a commit: what was counted before says nothing
	worth      = 1.25                  // as many appends, and rests are given up
)

// pacer decides how long the committer rests before it begins a commit. It is the committer's, and pure.
type pacer struct {
	delay time.Duration // 0: none
	began time.Time     // the last commit
	mean  int           // appends in the last commits, in sixteenths, the late ones counting most

	awake bool      // no rests: more come without
	trial bool      // it is the other way round
	since time.Time // it is so
	items int       // since then
	rate  float64   // appends a second, before the trial
}

// begins notes that a commit of so many appends begins.
func (p *pacer) begins(now time.Time, items int) {
	p.mean += (min(items, gatherItems)*meanOne - p.mean) / 8
	quiet := now.Sub(p.began) > quietTime
	p.began = now
	took := now.Sub(p.since)
	switch {
	case quiet || took < 0:
		p.turn(now, false)
	case p.trial && took >= trialTime:
		with, without := p.rate, p.perSecond(took)
		if p.awake {
			with, without = without, with
		}
		p.awake = without > with*worth
		p.turn(now, false)
	case !p.trial && took >= settleTime:
		p.rate = p.perSecond(took)
		p.turn(now, true)
	}
	p.items += items
}

func (p *pacer) turn(now time.Time, trial bool) { p.since, p.items, p.trial = now, 0, trial }

func (p *pacer) perSecond(took time.Duration) float64 { return float64(p.items) / took.Seconds() }

// rest is how long to wait now.
func (p *pacer) rest(now time.Time) time.Duration {
	if p.awake != p.trial || p.mean < meanOne*3/2 {
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
	if d := c.pace.rest(c.o.Now()); d > 0 && c.queue.gather(c.ringAlarm) {
		c.alarm.Sleep(d)
		c.queue.gathered()
	}
}
