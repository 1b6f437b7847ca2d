package fleet

import (
	"errors"
	"time"
)

// Query asks for devices. The conditions that are set must all hold.
type Query struct {
	Text   string   // part of the id, in any case
	Box    *Box     // has a position in it
	Slots  []uint32 // is one of these; at most maxSlots are looked at
	Sort   Sort
	Cursor string // Page.Next of the page before
	Limit  int    // 1 to 1,000; default 100
}

// Sort is the order of a query's answer.
type Sort uint8

const (
	ByID   Sort = iota
	BySeen      // last heard first
)

// Page is one page of devices.
type Page struct {
	Devices []Device
	Total   int    // how many match, on all pages
	Next    string // empty: there are no more
}

// Device is the last known state of one device.
type Device struct {
	ID      string
	Slot    uint32
	Source  int    // of its last message
	Topic   string // MQTT topic of its last message
	Seen    time.Time
	Sent    time.Time     // by its own clock; zero: unknown
	Latency time.Duration // of its last message, from sending to receiving, corrected by Skew; negative: unknown

	HasPosition    bool
	Lat, Lon       float64
	Speed, Heading float32 // m/s, degrees; negative: unknown

	Skewed bool
	Skew   time.Duration // how far its clock is ahead of the node's; 0 unless Skewed

	Sequence uint64 // of its last message; 0: none
	Messages uint64
	Stale    bool // nothing for StaleAfter
	Sequences
}

// Detail is a device with its recent track, oldest first.
type Detail struct {
	Device
	Track []Fix
}

// Fix is a position at a (receive) time.
type Fix struct {
	At       time.Time
	Lat, Lon float64
}

// ErrCursor says that a query's cursor is not one.
var ErrCursor = errors.New("not a cursor of this query")

// Devices answers a query.
func (v *View) Devices(q Query) (Page, error) { return Page{}, nil }

// Device returns one device. Asking for it also begins its track, if it had none.
func (v *View) Device(id string) (Detail, bool) { return Detail{}, false }
