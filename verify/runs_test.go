package verify

import (
	"testing"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/meter"
	"github.com/millrace-io/millrace/mqtt/session"
)

// Deliveries are lost only if books say so that are as new as the rows: a node makes them less often.
func TestOutstandingByOldBooks(t *testing.T) {
	part := eventlog.Part{Index: 3}
	owed := func(books ...meter.BookCount) Kind {
		var r runs
		r.init(&check{Options: Options{Embedded: true}})
		for i, b := range books {
			b.Part = part
			r.take(&meter.Flush{Run: 1, Seq: uint64(i), Time: int64(i), Parts: []meter.PartCount{{Part: part, Topic: "pos"}}, Books: []meter.BookCount{b}})
		}
		r.settle(0, r.list[0])
		r.killed = false // as of a node that runs
		kind, _, _ := r.outstanding("pos", 50)
		return kind
	}
	book := func(matched, pending int64) meter.BookCount {
		return meter.BookCount{Matched: matched, Known: true, Book: session.Book{Next: matched, Pending: pending}}
	}
	for name, c := range map[string]struct {
		books []meter.BookCount
		want  Kind
	}{
		"all are pending":                         {[]meter.BookCount{book(250, 50)}, Pending},
		"some are nowhere":                        {[]meter.BookCount{book(250, 8)}, LostDeliveries},
		"the books came before the last messages": {[]meter.BookCount{book(208, 8), {Matched: 250}}, Pending},
		"nothing came since the books":            {[]meter.BookCount{book(250, 8), {Matched: 250}}, LostDeliveries},
	} {
		if got := owed(c.books...); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
