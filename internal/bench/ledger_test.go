package main

import "testing"

// The ledger is what the tables' zeros rest on: each fault must show.
func TestLedger(t *testing.T) {
	for _, tt := range []struct {
		name string
		seqs []uint32
		sent uint32
		want faults
	}{
		{"all", []uint32{1, 2, 3}, 3, faults{}},
		{"nothing came", nil, 3, faults{lost: 3}},
		{"the end is missing", []uint32{1, 2}, 4, faults{lost: 2}},
		{"one is missing", []uint32{1, 3}, 3, faults{lost: 1}},
		{"the first is missing", []uint32{2, 3}, 3, faults{lost: 1}},
		{"twice", []uint32{1, 2, 2, 3}, 3, faults{twice: 1}},
		{"twice, much later", []uint32{1, 2, 3, 1}, 3, faults{twice: 1}},
		{"swapped", []uint32{1, 3, 2, 4}, 4, faults{late: 1}},
		{"late, and again", []uint32{1, 3, 2, 2}, 3, faults{late: 1, twice: 1}},
		{"beyond what counts", []uint32{1, 4}, 2, faults{lost: 1}},
	} {
		var l ledger
		for _, s := range tt.seqs {
			l.saw(s)
		}
		var got faults
		if got.count(&l, tt.sent); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
