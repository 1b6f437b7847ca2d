package console

import (
	"encoding/json"
	"sync"
	"sync/atomic"
)

// hub knows the pages that look on. A tick is a word to each page's writer, nothing more: what a page gets is made when its socket has room
// for it, so a page costs its frame at hand and a word, however slow it is.
type hub struct {
	mu        sync.Mutex
	pages     map[*page]struct{}
	pagesGone sync.WaitGroup
	strip     atomic.Pointer[[]byte] // the pipeline event of the last tick

	frames, coalesced, bytes atomic.Int64
}

// maxPages look on at once.
const maxPages = 100

// enter adds a page; false: there are too many.
func (h *hub) enter(p *page) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.pages) >= maxPages {
		return false
	}
	if h.pages == nil {
		h.pages = map[*page]struct{}{}
	}
	h.pages[p] = struct{}{}
	h.pagesGone.Add(1)
	return true
}

func (h *hub) leave(p *page) {
	h.mu.Lock()
	delete(h.pages, p)
	h.mu.Unlock()
	h.pagesGone.Done()
}

// tick wakes every page. The pipeline's event is made once for all, and only if somebody looks on.
func (h *hub) tick(parts *attached) {
	if h.empty() {
		return
	}
	if e, err := event("pipeline", parts.pipeline()); err == nil {
		h.strip.Store(&e)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for p := range h.pages {
		if p.ticks.Add(1) > 1 {
			h.coalesced.Add(1) // the page has not taken the one before
		}
		p.poke()
	}
}

func (h *hub) empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pages) == 0
}

func (h *hub) stats() Hub {
	h.mu.Lock()
	defer h.mu.Unlock()
	return Hub{Pages: int64(len(h.pages)), Frames: h.frames.Load(), Coalesced: h.coalesced.Load(), Bytes: h.bytes.Load()}
}

// event is a text of the live channel: a body with its type.
func event(kind string, body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	e := append([]byte(`{"type":"`), kind...)
	if e = append(e, '"'); len(b) > 2 {
		e = append(e, ',')
	}
	return append(e, b[1:]...), nil
}
