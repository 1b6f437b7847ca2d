package kafkawire

import (
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/internal/tier"
)

// A shape and the codec must agree on where every request ends, in every version served.
func TestShapesAgreeWithCodec(t *testing.T) {
	for _, a := range apis() {
		t.Run(a.name, func(t *testing.T) {
			for v := a.min; v <= a.max; v++ {
				for i := range uint64(tier.N(300)) {
					rng := rand.New(rand.NewPCG(tier.Seed()+i, uint64(a.key)<<16|uint64(v)))
					body := randomRequest(rng, a.key, v).AppendTo(nil)
					w := walker{b: body, version: v, flexible: v >= a.flexible}
					w.structure(a.shape)
					if w.err != nil || len(w.b) != 0 {
						t.Fatalf("version %d, round %d: %d of %d bytes left, error %v", v, i, len(w.b), len(body), w.err)
					}
					if len(body) > 0 {
						short := walker{b: body[:len(body)-1], version: v, flexible: v >= a.flexible}
						if short.structure(a.shape); short.err == nil {
							t.Fatalf("version %d, round %d: took a request that lacks its last byte", v, i)
						}
					}
				}
			}
		})
	}
}

// randomRequest fills in every exported field of a request.
func randomRequest(rng *rand.Rand, key, version int16) kmsg.Request {
	req := kmsg.RequestForKey(key)
	fill(rng, reflect.ValueOf(req).Elem())
	req.SetVersion(version)
	if f, ok := req.(*kmsg.FetchRequest); ok {
		f.ReplicaState = kmsg.NewFetchRequestReplicaState() // a broker's: refused
	}
	return req
}

func fill(rng *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rng.Uint64()) >> (64 - v.Type().Bits()))
	case reflect.Uint8:
		v.SetUint(rng.Uint64N(256))
	case reflect.String:
		b := make([]byte, rng.IntN(200))
		for i := range b {
			b[i] = byte('a' + rng.IntN(26))
		}
		v.SetString(string(b))
	case reflect.Pointer:
		if rng.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(rng, v.Elem())
		}
	case reflect.Slice:
		if rng.IntN(8) == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), rng.IntN(4), 4))
		for i := range v.Len() {
			fill(rng, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(rng, v.Index(i))
		}
	case reflect.Struct:
		if tags, ok := v.Addr().Interface().(*kmsg.Tags); ok {
			for range rng.IntN(3) {
				tags.Set(uint32(100+rng.IntN(1000)), []byte("unknown"))
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(rng, v.Field(i))
			}
		}
	}
}

// Requests that claim more than they hold must cost nothing. Each of these would make the codec allocate gigabytes, or spin
// for a minute.
func TestClaimsAreNotBelieved(t *testing.T) {
	claims := []struct {
		name         string
		key, version int16
		body         []byte
	}{
		{"array of 2^31-1 topics", 3, 1, []byte{0x7f, 0xff, 0xff, 0xff}},
		{"compact array of 2^32-2 topics", 3, 12, []byte{0xff, 0xff, 0xff, 0xff, 0x0f}},
		{"2^32-1 tags", 12, 4, []byte{2, 'g', 0, 0, 0, 1, 2, 'm', 0, 0xff, 0xff, 0xff, 0xff, 0x0f}},
		{"a tag of 2^32-1 bytes", 12, 4, []byte{2, 'g', 0, 0, 0, 1, 2, 'm', 0, 1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f}},
		{"a replica's state with tags of its own", 1, 15, append(make([]byte, 4+4+4+1+4+4), 1, 1, 1, 1, 1, 17, 0, 0, 0, 0,
			0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f)},
		{"a string that ends after the request", 10, 0, []byte{0x7f, 0xff, 'x'}},
	}
	for _, c := range claims {
		t.Run(c.name, func(t *testing.T) {
			a := lookup(c.key)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := a.shape.walk(c.body, c.version, c.version >= a.flexible)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("accepted")
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
				t.Fatalf("%d bytes allocated", n)
			}
		})
	}
	many := append([]byte{0, 4, 0, 0}, make([]byte, 2*(4<<16))...) // 262,144 empty names
	if err := lookup(15).shape.walk(many, 0, false); err != errTooMany {
		t.Fatalf("a request with too many elements: %v", err)
	}
}
