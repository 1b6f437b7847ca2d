// Package webbuild bundles the console's web app with esbuild's Go API, so that Go alone builds it: no Node, no network.
//
// Build is a function from a folder (src, vendor) to the files of dist, the same bytes on every machine; console/web's go:generate
// writes them, a test compares them with what is committed. It starts no goroutine that outlives it and writes nothing itself. It is
// never linked into the program.
package webbuild

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
	"github.com/klauspost/compress/gzip"
)

// packages are the vendored modules, by the names under which sources import them.
var packages = map[string]string{
	"maplibre-gl":                    "maplibre-gl/maplibre-gl.mjs",
	"preact":                         "preact/preact.mjs",
	"preact/hooks":                   "preact/hooks.mjs",
	"preact/jsx-runtime":             "preact/jsxRuntime.mjs",
	"@preact/signals":                "signals/signals.mjs",
	"@preact/signals-core":           "signals/signals-core.mjs",
	"topojson-client/src/feature.js": "topojson-client/feature.js",
}

// Build bundles the app in dir (an absolute path) and returns the files of dist by their names: index.html as it is served, and assets
// under names that carry their hash, compressed where that saves (then ".gz" is added to the name).
func Build(dir string) (map[string][]byte, error) {
	outputs, err := bundle(dir, "src/main.tsx")
	if err != nil {
		return nil, err
	}
	page, err := fs.ReadFile(os.DirFS(dir), "src/index.html")
	if err != nil {
		return nil, fmt.Errorf("webbuild: the page: %w", err)
	}
	if outputs["licences.txt"], err = licences(os.DirFS(dir)); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, b := range outputs {
		switch {
		case strings.HasPrefix(name, "main-") && strings.HasSuffix(name, ".js"):
			page = bytes.ReplaceAll(page, []byte("{{script}}"), []byte("/assets/"+name))
		case strings.HasPrefix(name, "main-") && strings.HasSuffix(name, ".css"):
			page = bytes.ReplaceAll(page, []byte("{{style}}"), []byte("/assets/"+name))
		}
		z, err := compress(b)
		if err != nil {
			return nil, fmt.Errorf("webbuild: compress %s: %w", name, err)
		}
		if len(z) < len(b)*9/10 {
			name, b = name+".gz", z
		}
		files[name] = b
	}
	if bytes.Contains(page, []byte("{{")) {
		return nil, errors.New("webbuild: index.html: a mark was not filled in")
	}
	files["index.html"] = page
	return files, nil
}

// licences are those of the vendored packages, which ask to go wherever their code goes.
func licences(dir fs.FS) ([]byte, error) {
	names, err := fs.Glob(dir, "vendor/*/LICENSE*")
	if err != nil || len(names) == 0 {
		return nil, fmt.Errorf("webbuild: no licences in vendor (%w)", err)
	}
	var b bytes.Buffer
	for _, name := range names { // sorted
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, fmt.Errorf("webbuild: %w", err)
		}
		fmt.Fprintf(&b, "%s\n\n%s\n\n", path.Base(path.Dir(name)), bytes.TrimSpace(text))
	}
	return b.Bytes(), nil
}

// Script bundles one source of dir into one module: for tests that run the app's parts by themselves.
func Script(dir, entry string) ([]byte, error) {
	outputs, err := bundle(dir, entry)
	if err != nil {
		return nil, err
	}
	for name, b := range outputs {
		if strings.HasSuffix(name, ".js") {
			return b, nil
		}
	}
	return nil, fmt.Errorf("webbuild: %s: no script came out", entry)
}

func bundle(dir, entry string) (map[string][]byte, error) {
	alias := map[string]string{}
	for name, file := range packages {
		alias[name] = filepath.Join(dir, "vendor", filepath.FromSlash(file))
	}
	result := api.Build(api.BuildOptions{
		AbsWorkingDir:     dir,
		EntryPoints:       []string{entry},
		EntryNames:        "[name]-[hash]",
		ChunkNames:        "[name]-[hash]",
		AssetNames:        "[name]-[hash]",
		Outdir:            filepath.Join(dir, "dist"),
		PublicPath:        "/assets",
		Bundle:            true,
		Splitting:         strings.HasSuffix(entry, "main.tsx"),
		Format:            api.FormatESModule,
		Target:            api.ES2022,
		Platform:          api.PlatformBrowser,
		MinifySyntax:      true,
		MinifyWhitespace:  true,
		MinifyIdentifiers: true,
		LegalComments:     api.LegalCommentsNone, // they are in licences.txt
		JSX:               api.JSXAutomatic,
		JSXImportSource:   "preact",
		TsconfigRaw:       `{"compilerOptions":{"useDefineForClassFields":true}}`,
		Charset:           api.CharsetUTF8,
		Alias:             alias,
		Plugins:           []api.Plugin{assets(dir)},
		LogLevel:          api.LogLevelSilent,
	})
	if wrong := append(result.Errors, result.Warnings...); len(wrong) > 0 {
		m := wrong[0]
		if m.Location != nil {
			return nil, fmt.Errorf("webbuild: %s:%d: %s", m.Location.File, m.Location.Line, m.Text)
		}
		return nil, fmt.Errorf("webbuild: %s", m.Text)
	}
	outputs := map[string][]byte{}
	for _, f := range result.OutputFiles {
		outputs[path.Base(filepath.ToSlash(f.Path))] = f.Contents
	}
	return outputs, nil
}

// assets lets a source import the address of a file that is served beside the bundle: `import url from "asset:../vendor/x"`.
func assets(dir string) api.Plugin {
	return api.Plugin{Name: "asset", Setup: func(b api.PluginBuild) {
		b.OnResolve(api.OnResolveOptions{Filter: "^asset:"}, func(a api.OnResolveArgs) (api.OnResolveResult, error) {
			name, err := filepath.Rel(dir, filepath.Join(a.ResolveDir, filepath.FromSlash(strings.TrimPrefix(a.Path, "asset:"))))
			// By its name within dir, so that what is built does not depend on where dir is.
			return api.OnResolveResult{Path: filepath.ToSlash(name), Namespace: "asset"}, err
		})
		b.OnLoad(api.OnLoadOptions{Filter: ".", Namespace: "asset"}, func(a api.OnLoadArgs) (api.OnLoadResult, error) {
			data, err := fs.ReadFile(os.DirFS(dir), a.Path)
			if err != nil {
				return api.OnLoadResult{}, err
			}
			// A script's map is not served: no reader's browser should look for it.
			if i := bytes.LastIndex(data, []byte("//# sourceMappingURL=")); i >= 0 {
				data = data[:i]
			}
			text := string(data)
			return api.OnLoadResult{Contents: &text, Loader: api.LoaderFile}, nil
		})
	}}
}

// compress is deterministic: no name, no time, and a compressor whose version go.mod pins.
func compress(b []byte) ([]byte, error) {
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return z.Bytes(), nil
}
