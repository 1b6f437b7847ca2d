package kafkawire

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

// woken tells whether the writer would be.
func (q *replies) woken() bool {
	select {
	case <-q.wake:
		return true
	default:
		return false
	}
}

// The writer is woken when the first reply goes and for nothing else, and takes them in order.
func TestReplies(t *testing.T) {
	ctx := t.Context()
	q := newReplies()
	a, b, c := &reply{later: true}, &reply{}, &reply{later: true}
	for _, r := range []*reply{a, b, c} {
		if !q.put(ctx, r) {
			t.Fatal("no room")
		}
	}
	q.settle(c)
	if q.woken() {
		t.Fatal("woken though the first does not go")
	}
	if r, over := q.take(); r != nil || over {
		t.Fatal("one that does not go was taken")
	}
	q.settle(a)
	if !q.woken() {
		t.Fatal("nobody knows that the first goes")
	}
	for i, want := range []*reply{a, b, c, nil} {
		if got, over := q.take(); got != want || over {
			t.Fatalf("%d: %p, want %p", i, got, want)
		}
	}
	early := &reply{later: true}
	q.settle(early) // before it is put
	if q.put(ctx, early); !q.woken() {
		t.Fatal("nobody knows of one that goes at once")
	}
	q.take()
	last := &reply{later: true}
	q.put(ctx, last)
	if q.close(); !q.woken() {
		t.Fatal("nobody knows of the end")
	}
	if _, over := q.take(); over {
		t.Fatal("over, and one is left")
	}
	q.settle(last)
	if got, over := q.take(); got != last || over {
		t.Fatal("the last one does not come")
	}
	if got, over := q.take(); got != nil || !over {
		t.Fatal("not over")
	}
}

// The reader waits while there are maxInFlight, for as long as the writer and the connection live.
func TestRepliesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		q := newReplies()
		var all []*reply
		putting := make(chan bool)
		go func() {
			for range 3 * maxInFlight {
				r := &reply{}
				all = append(all, r)
				putting <- q.put(ctx, r)
			}
		}()
		for range maxInFlight {
			if !<-putting {
				t.Fatal("no room")
			}
		}
		for i := range 2*maxInFlight - 1 {
			synctest.Wait()
			select {
			case <-putting:
				t.Fatal("room for one too many")
			default:
			}
			if got, _ := q.take(); got != all[i] {
				t.Fatalf("reply %d is another", i)
			}
			if !<-putting {
				t.Fatal("no room where one was taken")
			}
		}
		synctest.Wait()
		if cancel(); <-putting {
			t.Error("put after the end")
		}
		if err := q.wait(ctx); !errors.Is(err, context.Canceled) && err != nil {
			t.Error(err)
		}
		left := q.abandon()
		if want := all[2*maxInFlight-1 : len(all)-1]; !slices.Equal(left, want) {
			t.Errorf("%d are left, want %d", len(left), len(want))
		}
		if q.put(t.Context(), &reply{}) {
			t.Error("put where nobody takes")
		}
	})
}
