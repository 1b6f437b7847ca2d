package console

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/eventlog"
)

// Whatever a request or a record says, what is made of it is within bounds, and nothing panics.
func FuzzInput(f *testing.F) {
	f.Add("bbox=24,60,25,61&limit=10", "0:17,1:3", []byte(`{"lat":60}`))
	f.Add("slots=1,2,3&sort=last_seen&cursor=MTc2", "0:9223372036854775807", []byte("\xff\x00"))
	f.Add("bbox=1e308,-1e308,NaN,Inf&q=%F0%9F", "1:2,1:2,", []byte("data: x\n\nevent: end\r\n"))
	f.Add("q=a;b&%zz", ":,:", []byte(strings.Repeat("\u00e4", 600)))
	f.Fuzz(func(t *testing.T, query, id string, value []byte) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL = &url.URL{Path: "/", RawQuery: query}
		if q, err := deviceQuery(r); err == nil {
			if q.Limit < 1 || q.Limit > 1000 || len(q.Slots) > maxSlots || len(q.Text) > 256 ||
				q.Box != nil && !validBox([4]float64{q.Box.West, q.Box.South, q.Box.East, q.Box.North}) {
				t.Errorf("%q became %+v", query, q)
			}
		}
		if places, err := parsePlaces(id, 3); err == nil && places != nil {
			for _, at := range places {
				if at < -1 {
					t.Errorf("%q became %v", id, places)
				}
			}
		}
		b, err := json.Marshal(recordBody(0, &eventlog.Record{Key: value, Value: value, Headers: []eventlog.Header{{Key: id, Value: value}}}))
		if err != nil || len(b) > 16<<10 || strings.ContainsAny(string(b), "\r\n") {
			t.Errorf("%d bytes of %q: %v", len(b), value, err)
		}
	})
}
