package kafkawire

import (
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// api is one row of the table of what is served.
type api struct {
	key      int16
	name     string
	min, max int16 // what is served
	// advertisedMin is less than min for Produce alone: old librdkafka wants to see version 0 in the range, though it never
	// sends it, before it believes in compression (KAFKA-18659).
	advertisedMin int16
	flexible      int16 // the first version with compact strings and tags
	shape         shape
	decodes       bool // start walks the body itself
	start         func(c *conn, r *request) (*reply, error)
}

const maxKey = 75

var table [maxKey + 1]*api

// register adds a row whose handler answers on the spot. It waits until everything before it on its connection is answered, as
// Kafka does, so that a client sees the effects of its requests in their order.
func register[R kmsg.Request](minVersion, maxVersion int16, shapeText string, handle func(c *conn, req R) kmsg.Response) {
	var zero R
	registerStart(zero.Key(), minVersion, maxVersion, shapeText, func(c *conn, r *request) (*reply, error) {
		defer r.release()
		req := kmsg.RequestForKey(r.api.key).(R)
		req.SetVersion(r.version)
		if err := req.ReadFrom(r.body); err != nil {
			return nil, err
		}
		c.open.Wait()
		return r.answer(handle(c, req)), nil
	})
}

// registerStart adds a row whose handler only starts the work.
func registerStart(key, minVersion, maxVersion int16, shapeText string, start func(*conn, *request) (*reply, error)) {
	a := &api{
		key: key, name: kmsg.NameForKey(key), min: minVersion, advertisedMin: minVersion, max: maxVersion,
		shape: parseShape(shapeText), start: start,
	}
	req := kmsg.RequestForKey(key)
	for req.SetVersion(0); !req.IsFlexible() && req.GetVersion() <= req.MaxVersion(); req.SetVersion(a.flexible) {
		a.flexible++
	}
	table[key] = a
}

// apis lists the table by key.
var apis = sync.OnceValue(func() []*api {
	return slices.DeleteFunc(slices.Clone(table[:]), func(a *api) bool { return a == nil })
})

func lookup(key int16) *api {
	if key < 0 || key > maxKey {
		return nil
	}
	return table[key]
}
