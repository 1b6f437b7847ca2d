package history

import (
	"fmt"
	"slices"
	"testing"
)

func at(offset int64) Place { return Place{"t", 0, offset} }

// good is a history with everything in it and nothing wrong.
func good() *History {
	h := New()
	poll := h.Consumer("reader")
	end := func(o int64, v string) { h.Final(at(o), v); poll(at(o), v) }
	h.Sent("plain", nil)
	h.Acked("plain", at(0))
	h.Sent("unanswered", nil)
	for i, o := range []Outcome{Committed, Aborted, Unsure, Unsure, Open} {
		t := h.Begin()
		for j := range 2 {
			v := fmt.Sprintf("%d-%d", i, j)
			h.Sent(v, t)
			h.Acked(v, at(int64(10*i+j+10)))
		}
		t.Is(o)
	}
	end(0, "plain")
	end(10, "0-0")
	end(11, "0-1")
	end(30, "2-0")
	end(31, "2-1")
	h.Position("g", "t", 0, 5)
	h.Resumed("g", "t", 0, 5)
	h.Resumed("g", "t", 0, 7)
	return h
}

// TestCheck: a good history is good, and each thing that may go wrong is found and named.
func TestCheck(t *testing.T) {
	if found := good().Check(); len(found) != 0 {
		t.Fatal(found)
	}
	for _, c := range []struct {
		kind  string
		spoil func(*History)
	}{
		{LostWrite, func(h *History) { h.Sent("x", nil); h.Acked("x", at(50)) }},
		{LostWrite, func(h *History) { x := h.Begin(); h.Sent("x", x); h.Acked("x", at(50)); x.Is(Committed) }},
		{Duplicate, func(h *History) { h.Final(at(60), "plain") }},
		{AbortedRead, func(h *History) { h.Final(at(20), "1-0"); h.Final(at(21), "1-1") }},
		{AbortedRead, func(h *History) { h.Final(at(50), "4-0"); h.Final(at(51), "4-1") }},
		{AbortedRead, func(h *History) { h.Consumer("another")(at(20), "1-0") }},
		{Torn, func(h *History) { h.Final(at(40), "3-0") }},
		{Inconsistent, func(h *History) { h.Sent("x", nil); h.Acked("x", at(1)); h.Final(at(2), "x") }},
		{Inconsistent, func(h *History) { h.Consumer("another")(at(0), "0-0") }},
		{NonMonotonic, func(h *History) { p := h.Consumer("another"); p(at(10), "0-0"); p(at(0), "plain") }},
		{NonMonotonic, func(h *History) { h.Resumed("g", "t", 0, 4) }},
		{Skipped, func(h *History) { p := h.Consumer("another"); p(at(0), "plain"); p(at(11), "0-1") }},
		{LostWrite, func(h *History) { h.Input, h.Output = "t", "out" }},
		{Duplicate, func(h *History) {
			h.Input, h.Output = "in", "out"
			for i := range 2 {
				v := fmt.Sprint("x", copyMark, i)
				h.Sent(v, nil)
				h.Final(Place{"out", 0, int64(i)}, v)
			}
		}},
		{Unknown, func(h *History) { h.Final(at(70), "made up") }},
	} {
		h := good()
		c.spoil(h)
		if found := h.Check(); !slices.ContainsFunc(found, func(a Anomaly) bool { return a.Kind == c.kind }) {
			t.Errorf("%s is not found: %v", c.kind, found)
		}
	}
}
