package broker_test

import (
	"context"
	"sort"

	"github.com/millrace-io/millrace/mqtt/session"
)

// History is the store's: every partition may have messages for every filter.
func (s *memStore) History(_ context.Context, ask session.HistoryAsk) session.History {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := session.History{From: session.Vector{}}
	for i := range s.data {
		from := s.starts[i]
		switch f := &ask.From; {
		case f.Time != 0:
			from = int64(sort.Search(len(s.data[i]), func(n int) bool { return s.data[i][n].Time >= f.Time }))
		case f.Offset >= 0:
			from = f.Offset
		}
		if lost := s.starts[i] - from; lost > 0 {
			h.Lost += lost
		}
		h.From[dataPart(i)] = max(from, s.starts[i])
	}
	return h
}
