package web

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/internal/browser"
	"github.com/millrace-io/millrace/sim/city"
)

var look = flag.String("look", "", "folder to write pictures of all views to: for work on the page by hand")
var lookAt = flag.String("look-at", "", "take the pictures of this node instead of the mock one, http://host:port")

func TestBrowserLook(t *testing.T) {
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
	for _, size := range []struct {
		name string
		w, h int
	}{{"wide", 1280, 800}, {"phone", 360, 740}} {
		p := browser.Open(t, size.w, size.h)
		for _, dark := range []bool{false, true} {
			p.Dark(dark)
			for _, view := range []string{"/map", "/map?at=52.3702,4.8952,15", "/devices", "/topics?topic=deliveries", "/about"} {
				p.Goto("about:blank")
				p.Goto(at + view)
				if strings.HasPrefix(view, "/map") {
					p.Wait("window.__fleet && __fleet.drawn > 0 && __fleet.pipeline")
				}
				time.Sleep(6 * time.Second)
				if strings.Contains(view, "at=") {
					id := browser.Eval[string](p, `(async () => { const s = __fleet.slots.find((s) => { const at = __fleet.position(s); return at.x > 300 && at.y > 200 && at.y < 500 && at.x < 900; }) ?? __fleet.slots[0]; return (await (await fetch("/api/v1/devices?slots=" + s)).json()).devices[0].id; })()`)
					p.Goto(at + view + "&device=" + strings.ReplaceAll(id, "/", "%2F"))
					time.Sleep(5 * time.Second)
				}
				name := *look + "/" + size.name + map[bool]string{true: "-dark"}[dark] + strings.NewReplacer("/", "-", "?", "-", "=", "-", ",", "-").Replace(view) + ".png"
				if err := os.WriteFile(name, p.Shot(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Log(p.Problems())
	}
}
