// Package web is the console's page: a TypeScript app (src), bundled into dist and embedded, and the handler that serves it.
//
// dist is committed so that Go alone builds the program; `go generate ./console/web` makes it anew from src and vendor, and a test
// proves that the two match. The handler serves fixed bytes: it takes nothing from a request but the path and whether gzip is
// understood, keeps nothing, and starts no goroutine. It never reaches another host: nor does the page (the content security policy).
package web

import (
	"compress/gzip"
	"embed"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:generate go run generate.go

//go:embed dist
var dist embed.FS

// Policy is the content security policy of the page: its own files, its own server, nothing else, and no script from text.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; " +
	"worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types default"

// Pages are the paths that are views of the app: each answers with the same page.
var Pages = []string{"/", "/map", "/devices", "/topics", "/about"}

var types = map[string]string{
	".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".json": "application/json", ".txt": "text/plain; charset=utf-8",
}

// Handler serves Pages and /assets/; anything else is not found.
func Handler() http.Handler {
	page, err := dist.ReadFile("dist/index.html")
	if err != nil {
		panic(err) // embedded: the build would have failed
	}
	h := fnv.New64a()
	h.Write(page)
	tag := fmt.Sprintf(`"%x"`, h.Sum64())
	mux := http.NewServeMux()
	for _, p := range Pages {
		if p == "/" {
			p = "/{$}"
		}
		mux.HandleFunc("GET "+p, func(w http.ResponseWriter, r *http.Request) { servePage(w, r, page, tag) })
	}
	mux.HandleFunc("GET /assets/{name}", serveAsset)
	return mux
}

func servePage(w http.ResponseWriter, r *http.Request, page []byte, tag string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", Policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Write(page) //nolint:errcheck // the client went away
}

// licences is the one asset whose name has no hash: people link to it.
const licences = "licences.txt"

// serveAsset serves a file of dist. Its name carries a hash of it, so it is never asked for again.
func serveAsset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	f, zipped, err := openAsset(name)
	kind := types[path.Ext(name)]
	if err != nil || kind == "" {
		http.NotFound(w, r)
		return
	}
	defer f.Close() //nolint:errcheck // it was read
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if name == licences {
		h.Set("Cache-Control", "no-cache")
	}
	h.Set("Vary", "Accept-Encoding")
	var body io.Reader = f
	switch {
	case zipped && acceptsGzip(r.Header.Get("Accept-Encoding")):
		h.Set("Content-Encoding", "gzip")
		if s, err := f.Stat(); err == nil {
			h.Set("Content-Length", strconv.FormatInt(s.Size(), 10))
		}
	case zipped:
		z, err := gzip.NewReader(f)
		if err != nil {
			http.Error(w, "the file is damaged", http.StatusInternalServerError)
			return
		}
		body = z
	}
	io.Copy(w, body) //nolint:errcheck // the client went away
}

// acceptsGzip reads Accept-Encoding as far as it matters: gzip is named, and not refused.
func acceptsGzip(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		coding, weight, _ := strings.Cut(strings.ReplaceAll(part, " ", ""), ";")
		if strings.EqualFold(coding, "gzip") {
			return strings.Trim(strings.TrimPrefix(weight, "q="), "0.") != "" || weight == ""
		}
	}
	return false
}

func openAsset(name string) (f fs.File, zipped bool, err error) {
	if !fs.ValidPath(name) || strings.Contains(name, "/") || name == "index.html" {
		return nil, false, fs.ErrNotExist
	}
	if f, err = dist.Open("dist/" + name + ".gz"); err == nil {
		return f, true, nil
	}
	f, err = dist.Open("dist/" + name)
	return f, false, err
}
