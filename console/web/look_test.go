package web

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/browser"
	"github.com/millrace-io/millrace/sim/city"
)

var (
	look      = flag.String("look", "", "folder to write pictures of the views to: for work on the page by hand")
	lookAt    = flag.String("look-at", "", "take them of this node instead of the mock one: http://host:port")
	lookViews = flag.String("look-views", "/map /map?at=52.3702,4.8952,15 /devices /topics /about", "which views")
	lookSize  = flag.String("look-size", "wide phone", "at which widths")
)

func TestLookByHand(t *testing.T) {
	if *look == "" {
		t.Skip("nobody asked for it with -look")
	}
	at := *lookAt
	if at == "" {
		m := newMock(*serveFleet)
		defer m.close()
		m.streets, _, _ = city.Streets()
		m.lost = 3
		go m.run(t.Context(), time.Second)
		at = m.http.URL
	}
	for size := range strings.FieldsSeq(*lookSize) {
		p := browser.Open(t, map[string]int{"wide": 1280, "phone": 360}[size], map[string]int{"wide": 800, "phone": 740}[size])
		for _, dark := range []bool{false, true} {
			p.Dark(dark)
			for view := range strings.FieldsSeq(*lookViews) {
				p.Goto("about:blank")
				p.Goto(at + view)
				p.Wait("document.querySelectorAll('.stage').length === 5")
				if strings.HasPrefix(view, "/map") {
					p.Wait("__fleet.settled")
				}
				time.Sleep(3 * time.Second) // for a flight to end
				name := size + map[bool]string{true: "-dark"}[dark] + strings.NewReplacer("/", "-", "?", "-", "=", "-", ",", "-", "&", "-").Replace(view) + ".png"
				if err := os.WriteFile(filepath.Join(*look, name), p.Shot(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Log(p.Problems(ofTheDriver))
	}
}
