package web

import (
	"flag"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sim/city"
)

var serve = flag.String("serve", "", "address at which to serve the mock node for an hour: for work on the page by hand")
var serveFleet = flag.Int("fleet", 1000, "vehicles of the mock node")

func TestServeByHand(t *testing.T) {
	if *serve == "" {
		t.Skip("nobody asked for it with -serve")
	}
	m := newMock(*serveFleet)
	defer m.close()
	if b, _, err := city.Streets(); err == nil {
		m.streets = b
	}
	go m.run(t.Context(), time.Second)
	l, err := net.Listen("tcp", *serve)
	if err != nil {
		t.Fatal(err)
	}
	go http.Serve(l, m.http.Config.Handler) //nolint:gosec // by hand, on loopback
	time.Sleep(time.Hour)
}
