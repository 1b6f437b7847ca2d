package engine

import (
	"slices"
	"sync"

	"github.com/millrace-io/millrace/eventlog"
)

// watcher is one call of Watch.
type watcher struct{ f func(eventlog.Part) }

// Watch calls f (which must not block, and may be called concurrently) whenever the stable offset of a partition moves, or its
// topic goes, until the returned stop is called. Partitions that are not there are not watched.
func (e *Engine) Watch(parts []eventlog.Part, f func(eventlog.Part)) (stop func()) {
	w := &watcher{f}
	var watched []*partition
	for _, at := range parts {
		p, err := e.partition(at)
		if err != nil {
			continue
		}
		p.mu.Lock()
		p.watchers = append(slices.Clone(p.watchers), w) // notify walks the old one
		p.mu.Unlock()
		watched = append(watched, p)
	}
	return sync.OnceFunc(func() {
		for _, p := range watched {
			p.mu.Lock()
			p.watchers = slices.DeleteFunc(slices.Clone(p.watchers), func(o *watcher) bool { return o == w })
			p.mu.Unlock()
		}
	})
}

// notify calls those who watch a partition.
func (p *partition) notify() {
	p.mu.RLock()
	watchers := p.watchers
	p.mu.RUnlock()
	for _, w := range watchers {
		w.f(p.part)
	}
}
