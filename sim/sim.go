// Package sim plays fleets against any MQTT broker: vans in a city (Drive), recorded tracks (PlayTracks), the recording that ships with it
// (Replay), made-up load (Load), over networks as bad as real ones (Network), and keeps the ledger that says afterwards whether what
// the broker acknowledged is what its subscribers got (Ledger).
//
// What plays a fleet owns its clients (mqtt/client), and a bad network two goroutines for each, and ends them before it returns. The tests of
// other packages use the client under its names here too.
//
// The ledger's file (docs/formats/ledger.md) is append-only and belongs to the process that checks, not to the one that is being
// killed. The package opens no files itself, listens on nothing, and never retries a message that the server has refused.
package sim

import (
	"bytes"
	"strconv"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// The user properties that stamp a message on MQTT 5, so that its payload stays exact. (Names that begin with mqtt. or mr- are
// the broker's.)
const (
	PropDevice   = "sim-device" // who sent it
	PropSequence = "sim-seq"    // 1 for the device's first message, decimal
	PropTime     = "sim-time"   // when it was due, microseconds since 1970, decimal
)

// Stamp says which message it is, of which device.
type Stamp struct {
	Device   string
	Sequence uint64
	Due      time.Time // when it was to be sent, whether or not there was room then
}

// properties returns the stamp as user properties.
func (s *Stamp) properties() []packet.UserProperty {
	return []packet.UserProperty{
		{Name: PropDevice, Value: s.Device},
		{Name: PropSequence, Value: strconv.FormatUint(s.Sequence, 10)},
		{Name: PropTime, Value: strconv.FormatInt(s.Due.UnixMicro(), 10)},
	}
}

// ReadStamp finds the stamp of a message: at the start of its payload, or in its user properties.
func ReadStamp(p *packet.Publish) (s Stamp, ok bool) {
	if s, ok = readPayloadStamp(p.Payload); ok {
		return s, true
	}
	for _, u := range p.Props.User {
		switch u.Name {
		case PropDevice:
			s.Device = u.Value
		case PropSequence:
			s.Sequence, _ = strconv.ParseUint(u.Value, 10, 64)
		case PropTime:
			us, _ := strconv.ParseInt(u.Value, 10, 64)
			s.Due = time.UnixMicro(us)
		}
	}
	if s.Device != "" && s.Sequence > 0 {
		return s, true
	}
	return readJSONStamp(p.Payload)
}

// A stamp in JSON is the first three members of the payload, written exactly so:
//
//	{"id":"van-0001","seq":17,"ts":"2026-11-22T14:00:00.123Z"
const (
	stampID   = `{"id":"`
	stampSeq  = `","seq":`
	stampTime = `,"ts":"`
	timeForm  = "2006-01-02T15:04:05.000Z"
)

// appendJSONStamp begins a JSON object. The device's name must need no escapes.
func appendJSONStamp(b []byte, s *Stamp) []byte {
	b = append(append(b, stampID...), s.Device...)
	b = strconv.AppendUint(append(b, stampSeq...), s.Sequence, 10)
	b = append(b, stampTime...)
	return append(s.Due.UTC().AppendFormat(b, timeForm), '"')
}

func readJSONStamp(b []byte) (s Stamp, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(stampID))
	if !ok {
		return s, false
	}
	device, b, ok1 := bytes.Cut(b, []byte(stampSeq))
	sequence, b, ok2 := bytes.Cut(b, []byte(stampTime))
	if !ok1 || !ok2 || len(b) < len(timeForm) || len(device) == 0 || bytes.IndexByte(device, '"') >= 0 {
		return s, false
	}
	n, err1 := strconv.ParseUint(string(sequence), 10, 64)
	due, err2 := time.Parse(timeForm, string(b[:len(timeForm)]))
	return Stamp{string(device), n, due}, err1 == nil && err2 == nil && n > 0
}
