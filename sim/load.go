package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// LoadOptions describe made-up load. The stamp of a message is at the start of its payload, on every version of MQTT.
type LoadOptions struct {
	FleetOptions
	Clients int     // default 1
	Prefix  string  // of the client ids, before the number; default "load-"
	Topic   string  // {client} stands for the client id, {n} for its number, {topic} for the topic's; default "load/{client}"
	Topics  int     // per client, used in turn; default 1
	Size    int     // payload, bytes; at least that of the stamp, which is 21 and the client id
	Rate    float64 // messages per second of all clients together; 0: each as many as its window lets it
	Count   int     // messages per client; 0: until ctx is done
	Retain  bool
}

// Load plays made-up load until its messages are sent or ctx is done, then waits for the acknowledgements.
func Load(ctx context.Context, o LoadOptions) (FleetStats, error) {
	o.Clients, o.Topics = max(o.Clients, 1), max(o.Topics, 1)
	if o.Prefix == "" {
		o.Prefix = "load-"
	}
	if o.Topic == "" {
		o.Topic = "load/{client}"
	}
	devices := make([]device, o.Clients)
	for i := range devices {
		devices[i] = device{id: o.Prefix + strconv.Itoa(i), stamped: true, source: newLoadSource(&o, i)}
	}
	f := newFleet(o.FleetOptions, 1)
	f.total = uint64(o.Clients) * uint64(o.Count)
	return f.run(ctx, devices)
}

// loadSource is what one client of a load sends.
type loadSource struct {
	p      packet.Publish
	topics [][]byte
	every  time.Duration // 0: no schedule
	phase  time.Duration // of this client's schedule, so that all clients together send evenly
	size   int
	left   int // -1: no end
	sent   int
}

func newLoadSource(o *LoadOptions, n int) *loadSource {
	s := &loadSource{size: o.Size, left: o.Count, p: packet.Publish{Retain: o.Retain}}
	if s.left == 0 {
		s.left = -1
	}
	for t := range o.Topics {
		r := strings.NewReplacer("{client}", o.Prefix+strconv.Itoa(n), "{n}", strconv.Itoa(n), "{topic}", strconv.Itoa(t))
		s.topics = append(s.topics, []byte(r.Replace(o.Topic)))
	}
	if o.Rate > 0 {
		s.every = time.Duration(float64(o.Clients) / o.Rate * float64(time.Second))
		s.phase = time.Duration(float64(n) / o.Rate * float64(time.Second))
	}
	return s
}

func (s *loadSource) next() (after time.Duration, ok bool) {
	if s.left == 0 {
		return 0, false
	}
	s.left--
	if s.every == 0 {
		return -1, true
	}
	return s.phase + time.Duration(s.sent)*s.every, true
}

func (s *loadSource) message(stamp *Stamp) *packet.Publish {
	s.p.Topic = s.topics[s.sent%len(s.topics)]
	s.p.Payload = appendPayloadStamp(s.p.Payload[:0], stamp)
	if pad := s.size - len(s.p.Payload); pad > 0 {
		s.p.Payload = appendFiller(s.p.Payload, pad, s.sent)
	}
	s.sent++
	return &s.p
}

// A payload stamp is
//
//	4 bytes magic, uint64 sequence, int64 due in nanoseconds since 1970, byte length of the device, device
//
// big-endian.
const payloadStampMagic = "\xf1mr1"

func appendPayloadStamp(b []byte, s *Stamp) []byte {
	b = append(b, payloadStampMagic...)
	b = binary.BigEndian.AppendUint64(b, s.Sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Due.UnixNano()))
	return append(append(b, byte(len(s.Device))), s.Device...)
}

func readPayloadStamp(b []byte) (s Stamp, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(payloadStampMagic))
	if !ok || len(b) < 17 || len(b) < 17+int(b[16]) {
		return s, false
	}
	s.Sequence = binary.BigEndian.Uint64(b)
	s.Due = time.Unix(0, int64(binary.BigEndian.Uint64(b[8:])))
	s.Device = string(b[17 : 17+int(b[16])])
	return s, s.Device != "" && s.Sequence > 0
}

// filler is text that compresses about as badly as telemetry does.
var filler = func() []byte {
	r := rand.New(rand.NewPCG(1, 1))
	var b []byte
	for len(b) < 64<<10 {
		b = fmt.Appendf(b, `,"s%d":%d.%03d`, r.IntN(40), r.IntN(100), r.IntN(1000))
	}
	return b
}()

func appendFiller(b []byte, n, at int) []byte {
	for at = at * 31 % len(filler); n > 0; at = 0 {
		m := min(n, len(filler)-at)
		b = append(b, filler[at:at+m]...)
		n -= m
	}
	return b
}
