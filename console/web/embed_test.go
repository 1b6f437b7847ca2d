package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/internal/webbuild"
)

// differences names every file in which two builds differ.
func differences(built, committed map[string][]byte) []string {
	var diff []string
	for _, name := range slices.Sorted(maps.Keys(built)) {
		if have, ok := committed[name]; !ok {
			diff = append(diff, name+": not committed")
		} else if !bytes.Equal(have, built[name]) {
			diff = append(diff, name+": other bytes")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(committed)) {
		if _, ok := built[name]; !ok {
			diff = append(diff, name+": no longer made")
		}
	}
	return diff
}

func committed(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := fs.ReadDir(dist, "dist")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := dist.ReadFile("dist/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = b
	}
	return files
}

// The bundle is built in a copy of the sources elsewhere, so that nothing of this checkout's place can be in it.
func TestDistMatchesItsSource(t *testing.T) {
	dir := t.TempDir()
	for _, part := range []string{"src", "vendor"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(part)); err != nil {
			t.Fatal(err)
		}
	}
	built, err := webbuild.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := differences(built, committed(t)); len(diff) > 0 {
		t.Fatalf("dist does not match src and vendor (run `go generate ./console/web`):\n%s", strings.Join(diff, "\n"))
	}

	// The check has teeth: one changed letter in one source is found, and so is one changed byte in dist.
	text := filepath.Join(dir, "src", "strings.ts")
	b, err := os.ReadFile(text)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(b, []byte("Devices"), []byte("Devicez"), 1)
	if bytes.Equal(b, changed) {
		t.Fatal("strings.ts says nothing of Devices")
	}
	if err := os.WriteFile(text, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	if built, err = webbuild.Build(dir); err != nil {
		t.Fatal(err)
	}
	if len(differences(built, committed(t))) == 0 {
		t.Error("a changed source was not found")
	}
	same := committed(t)
	for name := range same {
		same[name] = append(slices.Clone(same[name]), 0)
		break
	}
	if len(differences(committed(t), same)) != 1 {
		t.Error("a changed file in dist was not found")
	}
}

// What the page may add to the program: 2 MB.
func TestDistIsSmall(t *testing.T) {
	size := 0
	for _, b := range committed(t) {
		size += len(b)
	}
	if t.Logf("dist: %d KB", size>>10); size > 2<<20 {
		t.Errorf("dist is %d KB", size>>10)
	}
}

func get(t *testing.T, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

func TestPagesAndAssets(t *testing.T) {
	for _, p := range Pages {
		w := get(t, p+"?device=truck-7")
		if w.Code != 200 || w.Header().Get("Content-Security-Policy") != Policy || !strings.Contains(w.Body.String(), "<title>Millrace") {
			t.Errorf("%s: %d %v", p, w.Code, w.Header())
		}
		if again := get(t, p, "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("%s, unchanged: %d with %d bytes", p, again.Code, again.Body.Len())
		}
	}
	page := get(t, "/").Body.String()
	linked := regexp.MustCompile(`"(/assets/[^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(linked) < 2 {
		t.Fatalf("the page links to %v", linked)
	}
	for _, l := range linked {
		plain, zipped := get(t, l[1]), get(t, l[1], "Accept-Encoding", "gzip, br")
		if plain.Code != 200 || zipped.Code != 200 || !strings.Contains(plain.Header().Get("Cache-Control"), "immutable") {
			t.Fatalf("%s: %d, %d, %v", l[1], plain.Code, zipped.Code, plain.Header())
		}
		body := io.Reader(zipped.Body)
		if zipped.Header().Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(zipped.Body)
			if err != nil {
				t.Fatal(err)
			}
			body = z
		}
		b, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(b, plain.Body.Bytes()) {
			t.Errorf("%s: not the same with and without gzip (%v)", l[1], err)
		}
	}
	text := get(t, "/assets/licences.txt").Body.String()
	for _, of := range []string{"MapLibre contributors", "Jason Miller", "Preact Team", "Michael Bostock"} {
		if !strings.Contains(text, of) {
			t.Errorf("licences.txt says nothing of %s", of)
		}
	}
	for accept, want := range map[string]bool{"": false, "gzip": true, "br, GZIP;q=0.5": true, "gzip;q=0": false, "gzip; q=0.0": false, "br": false} {
		if acceptsGzip(accept) != want {
			t.Errorf("Accept-Encoding %q: %v", accept, !want)
		}
	}
	for _, p := range []string{"/nothing", "/assets/", "/assets/index.html", "/assets/..%2fembed.go", "/assets/x.js", "/map/streets.json"} {
		if w := get(t, p); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", p, w.Code)
		}
	}
}

// What the page is made of holds no address of a registry and nothing that could put text into the page as markup.
func TestSourcesAreClean(t *testing.T) {
	err := filepath.WalkDir("src", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "dangerouslySet", "document.write", "eval(", "new Function", "http://", "https://"} {
			if bytes.Contains(b, []byte(bad)) {
				t.Errorf("%s: %s", p, bad)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// VENDOR.md names every vendored file with its hash, and every package has its licence beside it.
func TestVendoredFilesAreNamed(t *testing.T) {
	table, err := os.ReadFile("vendor/VENDOR.md")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir("vendor", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), "LICENSE") || e.Name() == "VENDOR.md" {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(p, "vendor"+string(filepath.Separator)))
		if !strings.Contains(string(table), fmt.Sprintf("| %s | %x |", name, sha256.Sum256(b))) {
			t.Errorf("%s: not in VENDOR.md, or changed", name)
		}
		if licences, _ := filepath.Glob(filepath.Join(filepath.Dir(p), "LICENSE*")); len(licences) == 0 {
			t.Errorf("%s: no licence beside it", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
