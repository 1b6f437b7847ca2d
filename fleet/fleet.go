// Package fleet is the last known state of every device, as a view of the log: where it is, when it was last heard, how late its messages
// come, how far off its clock is. It finds these in the messages by the routes' fields, and builds the frames that the console's map
// draws (docs/live.md).
//
// A View is fed stable records in log order by one goroutine and asked by many. It starts no goroutine, keeps nothing on disk, and is
// rebuilt from the log when a node starts. It never holds a payload, and its memory is bounded by a number of devices.
package fleet

import "time"

// Fields says where in a route's messages the things are that the fleet and verify look for. Each is a path into a JSON payload
// (`VP.lat`, names and array indexes between dots), the name of an MQTT user property (`user:seq`), or empty: then the usual names are tried
// (lat, latitude; lon, lng, long, longitude; speed, spd; heading, hdg, bearing; tst, ts, time, timestamp), at the top of the payload and one level below, and
// the properties of this project's simulator. `-` means that there is none.
type Fields struct {
	Device    string `yaml:"device"`   // default: the record's key
	Sequence  string `yaml:"sequence"` // of the device's messages on the route, counting by one
	Time      string `yaml:"time"`     // when the device sent: RFC 3339, or seconds, ms, µs or ns since 1970, told apart by size
	Latitude  string `yaml:"lat"`
	Longitude string `yaml:"lon"`
	Speed     string `yaml:"speed"`   // m/s
	Heading   string `yaml:"heading"` // degrees clockwise from north
}

// Point is what was found in one message.
type Point struct {
	Device   string // empty: as the record's key says
	Sequence uint64 // 0: none
	Sent     time.Time
	Lat, Lon float64 // valid if HasPosition
	Speed    float32 // m/s; negative: unknown
	Heading  float32 // degrees; negative: unknown

	HasPosition bool
}
