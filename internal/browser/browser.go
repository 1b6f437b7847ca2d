// Package browser drives a headless Chromium for tests of the console's page.
//
// Open starts one with an empty profile of its own, for one test; it ends with the test. Everything that the page writes to its console,
// and every breach of its content security policy, is kept: a test that does not expect it fails. Without a GPU Chromium draws in
// software, so nothing here measures frames per second. It is for tests alone, and never linked into the program.
package browser

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// names under which Chromium is found, in order.
var names = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chromium-headless-shell"}

// Patience is how long a page may take to get somewhere. It is long because the machine may be busy, not because pages are slow.
const Patience = 60 * time.Second

// Page is one tab.
type Page struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	problems []string
}

// Open starts a browser with one tab of that size, or skips the test: if there is no browser, and under the race
// detector, which would look at nothing but the test itself.
func Open(t testing.TB, width, height int) *Page {
	t.Helper()
	if race {
		t.Skip("SKIPPED: browsers are not for the race detector's run; make test-all starts them")
	}
	path := ""
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("SKIPPED: no Chromium (scripts/test-tools installs it)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("enable-unsafe-swiftshader", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.Flag("mute-audio", true), chromedp.Flag("js-flags", "--expose-gc"),
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(width, height))
	p := &Page{t: t}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, end := chromedp.NewContext(allocator)
	p.ctx = ctx
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("browser: close: %v", err)
		}
		end()
		stop()
	})
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(int64(width), int64(height))); err != nil {
		t.Fatalf("browser: start %s: %v", path, err)
	}
	go func() {
		for m, err := range chromedp.Console(ctx) {
			if err != nil {
				return
			}
			if m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleException || m.Type == chromedp.ConsoleWarning {
				p.mu.Lock()
				p.problems = append(p.problems, fmt.Sprintf("%s: %s (%s)", m.Type, m.Text, m.URL))
				p.mu.Unlock()
			}
		}
	}()
	return p
}

// Do runs actions, and fails the test if one fails.
func (p *Page) Do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, Patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("browser: %v (the console says: %v)", err, p.Problems())
	}
}

// Goto loads an address.
func (p *Page) Goto(url string) {
	p.t.Helper()
	p.Do(chromedp.Navigate(url))
}

// Resize gives the tab another size.
func (p *Page) Resize(width, height int) {
	p.t.Helper()
	p.Do(chromedp.EmulateViewport(int64(width), int64(height)))
}

// Dark has the page think that the system is dark, or light.
func (p *Page) Dark(dark bool) {
	p.t.Helper()
	value := "light"
	if dark {
		value = "dark"
	}
	p.Do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}}) //nolint:misspell // as CSS has it
		return err
	}))
}

// Eval returns the value of an expression in the page.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, Patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("browser: %s: %v", expression, err)
	}
	return v
}

// Wait waits until an expression is true in the page.
func (p *Page) Wait(expression string) {
	p.t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		ctx, cancel := context.WithDeadline(p.ctx, deadline.Add(time.Second))
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		cancel()
		if err == nil && ok {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("browser: waited for %s (last: %v; the console says: %v)", expression, err, p.Problems())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Shot is a picture of the tab, PNG.
func (p *Page) Shot() []byte {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, Patience)
	defer cancel()
	b, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		p.t.Fatalf("browser: screenshot: %v", err)
	}
	return b
}

// Problems are the warnings and errors on the page's console until now, but for those that contain one of except.
func (p *Page) Problems(except ...string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
next:
	for _, m := range p.problems {
		for _, e := range except {
			if strings.Contains(m, e) {
				continue next
			}
		}
		out = append(out, m)
	}
	return out
}
