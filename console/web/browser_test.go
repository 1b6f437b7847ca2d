package web

import (
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/millrace-io/millrace/internal/browser"
	"github.com/millrace-io/millrace/internal/tier"
	"github.com/millrace-io/millrace/internal/webbuild"
	"github.com/millrace-io/millrace/sim/city"
)

// Chromium says this of its own software drawing, whatever a page does.
const ofTheDriver = "GPU stall due to ReadPixels"

func quiet(t *testing.T, p *browser.Page, except ...string) {
	t.Helper()
	if said := p.Problems(append(except, ofTheDriver)...); len(said) > 0 {
		t.Errorf("the page's console:\n%s", strings.Join(said, "\n"))
	}
}

// The parts that draw nothing: the decoder on frames written by hand, and on damaged ones; positions between frames; what is shown of names.
func TestBrowserLogic(t *testing.T) {
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	script, err := webbuild.Script(dir, "test/logic.ts")
	if err != nil {
		t.Fatal(err)
	}
	m := newMock(0)
	defer m.close()
	m.add("/test/logic.js", "text/javascript", script)
	m.add("/test/", "text/html", []byte(`<!doctype html><link rel="icon" href="data:,"><script type="module" src="/test/logic.js"></script>`))
	frames, err := os.ReadFile("testdata/frames.json")
	if err != nil {
		t.Fatal(err)
	}
	m.add("/test/frames.json", "application/json", frames)
	p := browser.Open(t, 400, 300)
	p.Goto(m.http.URL + "/test/")
	p.Wait("window.__results")
	for _, r := range browser.Eval[[]string](p, "__results") {
		t.Error(r)
	}
	quiet(t, p)
}

// agree waits until the page has exactly the vehicles that it should see, each where the node has it.
func agree(t *testing.T, p *browser.Page, m *mock, what string, sees func(row) bool) {
	t.Helper()
	deadline := time.Now().Add(browser.Patience)
	for {
		have := map[int][2]int32{}
		for _, v := range browser.Eval[[][3]int32](p, "__fleet.positions()") {
			have[int(v[0])] = [2]int32{v[1], v[2]}
		}
		m.mu.Lock()
		want := map[int][2]int32{}
		for i := range m.vehicles {
			if r := m.vehicles[i].row; sees(r) {
				want[i] = [2]int32{r.lat, r.lon}
			}
		}
		m.mu.Unlock()
		if maps.Equal(have, want) && len(want) >= 20 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the page has %d vehicles, the node %d, and not the same: %v; its console says: %v", what, len(have), len(want),
				browser.Eval[any](p, "[__fleet.surveying, __fleet.broken, __fleet.camera, location.search]"), p.Problems(ofTheDriver))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// slash presses the key. Not with chromedp: it types the character even where the page has taken the key.
func slash(p *browser.Page) {
	browser.Eval[bool](p, `document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "/", bubbles: true, cancelable: true}))`)
}

func (m *mock) with(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func inHelsinki(r row) bool { return r.lat > 56e6 }

func TestBrowserMap(t *testing.T) {
	m := newMock(600)
	defer m.close()
	streets, _, err := city.Streets()
	if err != nil {
		t.Fatal(err)
	}
	m.streets = streets
	go m.run(t.Context(), 250*time.Millisecond)
	p := browser.Open(t, 1100, 700)
	p.Goto(m.http.URL + "/?interp=off")

	// Who comes without a place in mind is brought to where most vehicles are.
	p.Wait("window.__fleet && __fleet.drawn >= 500 && __fleet.camera.zoom > 9")
	amsterdam := func(r row) bool { return !inHelsinki(r) }
	m.with(func() { m.frozen = true })
	agree(t, p, m, "at first", amsterdam)

	// What is drawn is where it belongs, and there is colour on that spot.
	drawnWhereTheyAre(t, p)
	p.Wait("__fleet.settled")
	if credits := browser.Eval[string](p, "document.querySelector('.credits').textContent"); !strings.Contains(credits, "© OpenStreetMap contributors") || !strings.Contains(credits, "© Helsinki Region Transport") {
		t.Errorf("credits: %s", credits)
	}

	// Another area, by its button, while everybody drives.
	m.with(func() { m.frozen = false })
	p.Do(chromedp.Click(chromedp.CSS(".areas button:nth-child(2)")))
	p.Wait("__fleet.camera.y < 0.3") // Helsinki
	agree(t, p, m, "after a flight", inHelsinki)
	if at := browser.Eval[string](p, "location.search"); !strings.Contains(at, "at=60.") {
		t.Errorf("the address does not tell where the map is: %s", at)
	}

	// A frame is lost: the page says so, asks for all rows, and agrees again.
	keys := m.keys
	m.with(func() { m.lose = 1 })
	p.Wait("__fleet.dropped === 1")
	agree(t, p, m, "after a lost frame", inHelsinki)
	if m.with(func() { keys = m.keys - keys }); keys == 0 {
		t.Error("nobody asked for the rows of the lost frame")
	}

	// The node goes and comes back.
	m.hangUp()
	p.Wait("__fleet.connects === 2")
	agree(t, p, m, "after a reconnect", inHelsinki)
	m.with(func() {
		if m.seen == 0 || m.offsets == 0 {
			t.Errorf("the page told of no frame seen (%d) or no clock (%d)", m.seen, m.offsets)
		}
	})

	// Deep link: the place and the device.
	p.Goto(m.http.URL + "/map?interp=off&at=52.36,4.91,12&device=van-00042")
	p.Wait("document.querySelector('.panel h2')?.textContent === 'van-00042' && document.querySelector('.panel dl')")
	m.with(func() { m.frozen = true })
	agree(t, p, m, "after a link", amsterdam)
	if zoom := browser.Eval[float64](p, "__fleet.camera.zoom"); zoom != 12 {
		t.Errorf("the link's zoom is 12, the map's %v", zoom)
	}
	panel := browser.Eval[string](p, "document.querySelector('.panel').textContent")
	for _, want := range []string{"2 missing", "1 repeated", "1.5 ms ahead", "deliveries (simulated)"} {
		if !strings.Contains(panel, want) {
			t.Errorf("the panel lacks %q: %s", want, panel)
		}
	}
	p.Do(chromedp.KeyEvent(kb.Escape))
	p.Wait("!document.querySelector('.panel') && !location.search.includes('device')")

	p.Goto(m.http.URL + "/map?interp=off&at=52.36,4.91,12&device=nobody")
	p.Wait("document.querySelector('.panel')?.textContent.includes('does not know this device') && window.__fleet?.drawn >= 20")
	p.Do(chromedp.KeyEvent(kb.Escape))
	p.Wait("!document.querySelector('.panel')")

	// By a click on the map.
	at := browser.Eval[map[string]float64](p, `(() => { for (const s of __fleet.slots) { const p = __fleet.position(s); const r = document.querySelector('.ground').getBoundingClientRect();
		if (p.x > 400 && p.x < 900 && p.y > 200 && p.y < 500) return {s, x: p.x + r.x, y: p.y + r.y}; } })()`)
	p.Do(chromedp.MouseClickXY(at["x"], at["y"]))
	p.Wait("document.querySelector('.panel h2') && document.querySelector('.panel dl')")

	// Through the search, by keys alone.
	p.Do(chromedp.KeyEvent(kb.Escape))
	slash(p)
	p.Do(chromedp.KeyEvent("van-00077"))
	p.Wait("document.querySelectorAll('#hits [role=option]').length === 1")
	p.Do(chromedp.KeyEvent(kb.Enter))
	p.Wait("document.querySelector('.panel h2')?.textContent === 'van-00077'")
	// Not: the connection that was hung up, this test's own reading, the device that nobody knows.
	quiet(t, p, "WebSocket connection", "Canvas2D: Multiple readback", "/devices/nobody")
}

// drawnWhereTheyAre compares every drawn place with the projection of its position, and looks for colour there.
func drawnWhereTheyAre(t *testing.T, p *browser.Page) {
	t.Helper()
	const look = `(() => {
		const wrong = [], c = __fleet.camera, canvas = document.querySelector("canvas.vehicles"), g = canvas.getContext("2d");
		let looked = 0;
		for (const s of __fleet.slots) {
			const p = __fleet.position(s);
			const x = c.width / 2 + (p.lon / 360 + 0.5 - c.x) * c.world;
			const y = c.height / 2 + (0.5 - Math.asinh(Math.tan(p.lat * Math.PI / 180)) / (2 * Math.PI) - c.y) * c.world;
			if (x < 2 || y < 2 || x > c.width - 2 || y > c.height - 2) continue;
			if (p.x === null || Math.hypot(p.x - x, p.y - y) > 0.6) { wrong.push(s + " is drawn at " + p.x + "," + p.y + " instead of " + x + "," + y); continue; }
			const pixel = g.getImageData(Math.round(x * canvas.width / c.width), Math.round(y * canvas.height / c.height), 1, 1).data;
			if (pixel[3] === 0) wrong.push(s + ": nothing is drawn there");
			looked++;
		}
		if (looked < 20) wrong.push("only " + looked + " are in view");
		return wrong.slice(0, 5);
	})()`
	wrong := browser.Eval[[]string](p, look)
	for deadline := time.Now().Add(browser.Patience / 4); len(wrong) > 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		wrong = browser.Eval[[]string](p, look) // a frame may be here and not yet drawn
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

func TestBrowserStrip(t *testing.T) {
	m := newMock(50)
	defer m.close()
	m.lost, m.warnings = 3, []string{"fsync is off"}
	go m.run(t.Context(), 250*time.Millisecond)
	p := browser.Open(t, 1100, 700)
	p.Goto(m.http.URL + "/about")
	p.Wait("document.querySelectorAll('.stage').length === 5")
	text := browser.Eval[string](p, "document.querySelector('.strip').textContent")
	for _, want := range []string{"Devices", "Broker", "Log", "Console", "Browser", "3 unaccounted for", "0 unaccounted", "p50 1.8 ms p99 7.2 ms"} {
		if !strings.Contains(text, want) {
			t.Errorf("the strip lacks %q: %s", want, text)
		}
	}
	p.Wait("document.querySelector('.warnings')?.textContent.includes('fsync is off')")
	// A stage's details name the reasons.
	p.Do(chromedp.Click(chromedp.CSS(".stage:nth-child(4) button")))
	p.Wait("document.querySelector('.stage-detail')?.textContent.includes('on its way')")
	p.Do(chromedp.KeyEvent(kb.Escape))
	p.Wait("!document.querySelector('.stage-detail')")
	quiet(t, p)
	// Without the node nothing is shown as if it were live.
	m.with(func() { m.down = true })
	m.hangUp()
	p.Wait("document.querySelector('.strip').classList.contains('old') && document.querySelector('.connection.waiting')")
	m.with(func() { m.down = false })
	p.Wait("!document.querySelector('.strip').classList.contains('old') && document.querySelector('.connection.live')")
}

func TestBrowserLists(t *testing.T) {
	m := newMock(2500)
	defer m.close()
	go m.run(t.Context(), 500*time.Millisecond)
	p := browser.Open(t, 1100, 700)
	p.Goto(m.http.URL + "/devices")
	p.Wait("document.querySelectorAll('.grid .all .row').length > 10")
	if n := browser.Eval[int](p, "document.querySelectorAll('.grid .all .row').length"); n > 60 {
		t.Errorf("%d rows exist; only those in view should", n)
	}
	// Names that devices chose are text, and no longer than their place.
	first := browser.Eval[string](p, "document.querySelector('.grid .all .row .id').textContent")
	if !strings.HasPrefix(first, "<img src=x") || strings.Contains(first, "\u202e") || len(first) > 300 {
		t.Errorf("the first name is shown as %q", first)
	}
	if title := browser.Eval[string](p, "document.title"); strings.Contains(title, "owned") {
		t.Error("a device's name ran as a script")
	}
	// The last row is reached by scrolling, over pages of the API.
	p.Wait("(document.querySelector('.grid .body').scrollTop = 1e9, document.querySelector('#device-2499'))")
	// Search, in the address too; held order while the pointer is on the list.
	slash(p)
	p.Do(chromedp.KeyEvent("bus/00"))
	p.Wait("document.querySelectorAll('.grid .all .row').length === 10 && location.search.includes('q=bus')")
	p.Do(chromedp.Click(chromedp.CSS(".grid .head .seen button")))
	p.Wait("location.search.includes('sort=last_seen')")
	p.Do(chromedp.MouseEvent("mouseMoved", 500, 420))
	p.Wait("document.querySelector('[role=status].dim').textContent.includes('order held')")
	// What is exported is what is listed, and no cell is a formula.
	csv := browser.Eval[string](p, `(async () => {
		const blob = new Promise((take) => { const make = URL.createObjectURL; URL.createObjectURL = (b) => { take(b); return make.call(URL, b); }; });
		[...document.querySelectorAll(".devices > header button")].at(-1).click();
		return await (await blob).text();
	})()`)
	if lines := strings.Split(strings.TrimSpace(csv), "\r\n"); len(lines) != 11 || !strings.HasPrefix(lines[0], "id,source,last_seen") || !strings.HasPrefix(lines[1], "bus/00") {
		t.Errorf("exported:\n%s", csv)
	}
	p.Goto(m.http.URL + "/devices?q=HYPER")
	p.Wait("document.querySelectorAll('.grid .all .row').length === 1 && document.querySelector('.connection.live')")
	// By keys: into the list, to a row, and to the map.
	p.Do(chromedp.Focus(chromedp.CSS(".grid .body")))
	p.Do(chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.Enter))
	p.Wait("location.pathname === '/map' && document.querySelector('.panel h2')?.textContent.startsWith('=HYPER')")

	p.Goto(m.http.URL + "/topics")
	p.Wait("document.querySelectorAll('table.data tbody tr').length === 2 && document.querySelector('table.data tbody td:nth-child(4)').textContent !== '–'")
	p.Do(chromedp.Click(chromedp.CSS("table.data tbody button")))
	p.Wait("document.querySelectorAll('.tail li').length >= 3 && location.search.includes('topic=deliveries')")
	quiet(t, p)
}

func TestBrowserLogin(t *testing.T) {
	m := newMock(30)
	defer m.close()
	m.login = true
	go m.run(t.Context(), 250*time.Millisecond)
	p := browser.Open(t, 800, 600)
	p.Goto(m.http.URL + "/devices")
	p.Wait("document.querySelector('.login form')")
	p.Do(chromedp.SendKeys(chromedp.CSS("input[name=name]"), "admin"), chromedp.SendKeys(chromedp.CSS("input[name=password]"), "wrong\r"))
	p.Wait("document.querySelector('.login .bad')?.textContent.includes('the name or the password is wrong')")
	p.Do(chromedp.SetValue(chromedp.CSS("input[name=password]"), "correct horse"), chromedp.Click(chromedp.CSS("button.primary")))
	p.Wait("document.querySelector('.connection.live') && document.querySelectorAll('.grid .all .row').length > 5")

	// A login that ends while the map is shown: the map is there again after the next one.
	p.Goto(m.http.URL + "/map")
	p.Wait("window.__fleet?.drawn > 20 && __fleet.settled")
	m.with(func() { m.key = "another" })
	m.hangUp()
	p.Wait("document.querySelector('.login form')")
	p.Do(chromedp.SetValue(chromedp.CSS("input[name=name]"), "admin"), chromedp.SetValue(chromedp.CSS("input[name=password]"), "correct horse"), chromedp.Click(chromedp.CSS("button.primary")))
	p.Wait("!document.querySelector('.login') && document.querySelector('.connection.live') && __fleet.connects >= 2 && (window.__draws ??= __fleet.draws, __fleet.draws > __draws) && __fleet.drawn > 20")
	quiet(t, p, "401", "WebSocket connection")
}

// The policy holds: nothing becomes markup or a script, no other host is reached, and whoever tries is on the console, where all other tests
// look.
func TestBrowserPolicy(t *testing.T) {
	m := newMock(5)
	defer m.close()
	p := browser.Open(t, 400, 300)
	p.Goto(m.http.URL + "/about")
	p.Wait("document.querySelector('.strip')")
	quiet(t, p)
	for _, tried := range []string{
		`document.querySelector("main").innerHTML = "<b>x</b>"`,
		`new Worker("/assets/other.js")`,
		`document.createElement("script").src = "/assets/other.js"`,
		`setTimeout("window.ran = true")`,
	} {
		if got := browser.Eval[string](p, "(() => { try { "+tried+"; return 'done'; } catch (e) { return e.name; } })()"); got != "TypeError" && got != "EvalError" {
			t.Errorf("%s: %s", tried, got)
		}
	}
	if got := browser.Eval[string](p, `fetch("http://localhost:1/").then(() => "done", (e) => e.name)`); got != "TypeError" {
		t.Errorf("another host: %s", got)
	}
	said, all := "", false
	for deadline := time.Now().Add(browser.Patience); !all && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		said = strings.Join(p.Problems(), "\n")
		all = strings.Contains(said, "TrustedHTML") && strings.Contains(said, "TrustedScript") && strings.Contains(said, "connect-src")
	}
	if !all || browser.Eval[bool](p, "!!window.ran") {
		t.Errorf("the console says of that: %s", said)
	}
}

// Every view in both themes and at phone width: readable contrast, nothing wider than the window, and no label missing.
func TestBrowserLooks(t *testing.T) {
	m := newMock(40)
	defer m.close()
	go m.run(t.Context(), 250*time.Millisecond)
	p := browser.Open(t, 360, 740)
	for _, dark := range []bool{false, true} {
		p.Dark(dark)
		for _, view := range []string{"/map?device=van-00001", "/devices", "/topics?topic=deliveries", "/about"} {
			p.Goto(m.http.URL + view)
			p.Wait("document.querySelectorAll('.stage').length === 5 && document.querySelector('main').textContent.length > 20")
			if strings.HasPrefix(view, "/map") {
				p.Wait("document.querySelector('.panel dl')")
			}
			for _, wrong := range browser.Eval[[]string](p, looks) {
				t.Errorf("%s, dark %v: %s", view, dark, wrong)
			}
			if theme := browser.Eval[string](p, "document.documentElement.dataset.theme"); theme != map[bool]string{true: "dark", false: "light"}[dark] {
				t.Errorf("%s: the system is dark: %v, the page is %s", view, dark, theme)
			}
		}
	}
	// The switch wins over the system, and is remembered.
	p.Do(chromedp.Click(chromedp.CSS(".bar button.icon")))
	p.Wait("document.documentElement.dataset.theme === 'light'")
	p.Goto(m.http.URL + "/about")
	p.Wait("document.documentElement.dataset.theme === 'light'")
	quiet(t, p)
}

// looks lists what is wrong with how a view looks.
const looks = `(() => {
	const wrong = [];
	if (document.documentElement.scrollWidth > innerWidth) wrong.push("wider than the window: " + document.documentElement.scrollWidth);
	const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return /^colo.\(srgb/.test(c) ? [m[0] * 255, m[1] * 255, m[2] * 255, m[3] ?? 1] : [m[0], m[1], m[2], m[3] ?? 1]; };
	const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
	const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 0.5) return c; } return [255, 255, 255, 1]; };
	for (const e of document.querySelectorAll("body *")) {
		const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
		if (!own || e.closest("svg,[hidden],noscript,option") || !e.checkVisibility()) continue;
		const s = getComputedStyle(e), a = light(parse(s.color)), b = light(behind(e));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (parseFloat(s.fontSize) > 0 && ratio < 4.5) wrong.push("contrast " + ratio.toFixed(1) + " of " + e.tagName + "." + e.className + " " + e.textContent.slice(0, 20));
	}
	for (const e of document.querySelectorAll("button,a,input")) {
		if (!(e.textContent.trim() || e.getAttribute("aria-label") || e.closest("label"))) wrong.push("no name: " + e.outerHTML.slice(0, 80));
	}
	return wrong.slice(0, 6);
})()`

// Ten thousand vehicles, each moving every second: no frame is missed, each is drawn soon, and the heap does not grow. For ten minutes in a
// soak, else for six seconds.
func TestBrowserKeepsUp(t *testing.T) {
	m := newMock(10_000)
	defer m.close()
	go m.run(t.Context(), time.Second)
	p := browser.Open(t, 1280, 800)
	p.Goto(m.http.URL + "/map?at=52.36,4.91,11.5")
	p.Wait("window.__fleet && __fleet.drawn > 5000")
	p.Wait("(window.__began ??= __fleet.lastSeq, __fleet.lastSeq > __began + 4)") // settle
	browser.Eval[any](p, `(() => {
		window.__late = []; let last = __fleet.lastSeq, draws = __fleet.draws, at = performance.now();
		setInterval(() => {
			if (__fleet.lastSeq !== last) { last = __fleet.lastSeq; draws = __fleet.draws; at = performance.now(); }
			else if (at && __fleet.draws > draws) { __late.push(performance.now() - at); at = 0; }
		}, 10);
		return null;
	})()`)
	heap := func() float64 {
		return browser.Eval[float64](p, "(gc(), gc(), performance.memory.usedJSHeapSize)") / 1e6
	}
	before, bytes := heap(), browser.Eval[float64](p, "__fleet.bytes")
	first := browser.Eval[int](p, "__fleet.lastSeq")
	var ticked int
	m.with(func() { ticked = int(m.ticks) })
	start := time.Now()
	time.Sleep(map[bool]time.Duration{true: 10 * time.Minute, false: 6 * time.Second}[tier.Soak()])
	frames := browser.Eval[int](p, "__fleet.lastSeq") - first
	lasted := time.Since(start)
	bytes = (browser.Eval[float64](p, "__fleet.bytes") - bytes) / lasted.Seconds()
	after := heap()
	late := browser.Eval[[]float64](p, "__late")
	slices.Sort(late)
	cost := browser.Eval[float64](p, "__fleet.drawCost")
	t.Logf("%d frames in %v, %.0f KB/s; drawn %d, a draw costs %.1f ms; after a frame came, the next draw came after %.0f ms (median), %.0f ms (most); heap %.1f MB, then %.1f MB",
		frames, lasted.Round(time.Second), bytes/1e3, browser.Eval[int](p, "__fleet.drawn"), cost, late[len(late)/2], late[len(late)-1], before, after)
	m.mu.Lock()
	sent := int(m.ticks) - ticked
	m.mu.Unlock()
	if frames < sent-2 {
		t.Errorf("%d frames, %d were sent", frames, sent)
	}
	if n := browser.Eval[int](p, "__fleet.dropped + __fleet.broken + __fleet.orphans"); n != 0 {
		t.Errorf("%d frames or rows were lost", n)
	}
	if len(late) < frames/2 || late[len(late)*9/10] > 2000 {
		t.Errorf("frames are drawn too late: %.0f", late)
	}
	if after > before+4 {
		t.Errorf("the heap grew from %.1f to %.1f MB", before, after)
	}
	quiet(t, p)
}

// add serves a fixed body.
func (m *mock) add(path, kind string, body []byte) {
	m.http.Config.Handler.(*http.ServeMux).HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Write(body)
	})
}
