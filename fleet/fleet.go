// Package fleet is the last known state of every device, as a view of the log: where it is, when it was last heard, how late its messages
// come, how far off its clock is. It finds these in the messages by the routes' fields, and builds the frames that the console's map
// draws (docs/live.md).
//
// A View is fed stable records in log order by one goroutine and asked by many. It starts no goroutine, keeps nothing on disk, and is
// rebuilt from the log when a node starts. It never holds a payload, and its memory is bounded by a number of devices.
package fleet

import "time"

// Fields says where in a route's messages the things are that the fleet and verify look for. Each is a path into a JSON payload
// (`VP.lat`, names and array indexes between dots), the name of an MQTT user property (`user:seq`), `-`, which means that there is
// none, or empty, which means the usual places:
//
//   - latitude: lat, latitude; longitude: lon, lng, long, longitude; speed: speed, spd; heading: heading, hdg, bearing; time: tst, ts, time,
//     timestamp. Each at the top of the payload and one level below; what stands higher, then earlier in this list, is taken.
//   - device, sequence and time: the user properties sim-device, sim-seq and sim-time of this project's simulator, before anything else.
//   - device: the record's key.
type Fields struct {
	Device    string `yaml:"device"`   // `-`: the route's messages are of no device, and the fleet leaves them out
	Sequence  string `yaml:"sequence"` // of the device's messages on the route, counting by one from 1
	Time      string `yaml:"time"`     // when the device sent: RFC 3339, or seconds, ms, µs or ns since 1970, told apart by size
	Latitude  string `yaml:"lat"`
	Longitude string `yaml:"lon"`
	Speed     string `yaml:"speed"`   // m/s
	Heading   string `yaml:"heading"` // degrees clockwise from north
}

// Point is what was found in one message.
type Point struct {
	Device   string // empty: the route has none. It may alias the message
	Sequence uint64 // 0: none
	Sent     time.Time
	Lat, Lon float64 // valid if HasPosition
	Speed    float32 // m/s; negative: unknown
	Heading  float32 // degrees; negative: unknown

	HasPosition bool
	Refused     Refusal // why a position that is there is none; NotRefused also if there is nothing
}

// Refusal is why something in a message is not believed.
type Refusal uint8

const (
	NotRefused   Refusal = iota
	NullPosition         // null: the device has no fix
	NotANumber           // text, NaN, infinity, a list; or only one of the two is there
	OutOfRange           // beyond ±90 and ±180 degrees: the sentinels 91, 181, 999 among them
	ZeroPosition         // 0, 0 is what receivers say before they know
	BadDevice            // a name that is empty, or longer than maxDeviceID bytes
	TooMany              // a device that came when too many others had been forgotten since the last tick
	refusals
)

var refusalNames = [refusals]string{"", "null", "not_a_number", "out_of_range", "zero", "device_name", "too_many_devices"}

func (r Refusal) String() string { return refusalNames[r] }
