package identity

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/metrics"
)

// Counts counts what the links of all chains have decided. It is safe for concurrent use.
type Counts struct {
	mu    sync.Mutex
	links map[string]*linkCount
}

type linkCount struct {
	results [len(Results)]atomic.Int64
	time    metrics.Histogram
}

// Results of a judgement, for counters: let in, refused, not looked at for want of a place, and not known for want of an answer.
var Results = [...]string{"accepted", "refused", "busy", "failed"}

func (c *Counts) of(link string) *linkCount {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.links == nil {
		c.links = map[string]*linkCount{}
	}
	if c.links[link] == nil {
		c.links[link] = &linkCount{}
	}
	return c.links[link]
}

func (c *linkCount) add(err error, took time.Duration) {
	i := 3
	switch {
	case err == nil:
		i = 0
	case errors.Is(err, ErrRefused):
		i = 1
	case errors.Is(err, ErrBusy):
		i = 2
	}
	c.results[i].Add(1)
	c.time.Record(took)
}

// Each gives the counters of each link, and the time of its judgements.
func (c *Counts) Each(yield func(link string, byResult map[string]int64, took *metrics.Histogram)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, l := range c.links {
		m := make(map[string]int64, len(Results))
		for i, r := range Results {
			m[r] = l.results[i].Load()
		}
		yield(name, m, &l.time)
	}
}
