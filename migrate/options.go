package migrate

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// option is one line of mosquitto.conf.
type option struct {
	at   place
	name string
	args string // the rest of the line
}

const (
	maxFiles   = 1000
	maxOptions = 100_000
)

// scan reads a file's options, those of the files that it includes in their place.
func scan(path string, read Read, list List) (all []option, err error) {
	files := 0
	var one func(path string, depth int) error
	one = func(path string, depth int) error {
		if files++; files > maxFiles || depth > 10 {
			return fmt.Errorf("%s: too many files include each other", path)
		}
		text, err := read(path)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		number := 0
		for text := range strings.Lines(string(text)) {
			number++
			name, args, _ := strings.Cut(strings.TrimSpace(text), " ")
			if name == "" || name[0] == '#' {
				continue
			}
			o := option{place{path, number, name}, name, strings.TrimSpace(args)}
			if name == "include_dir" {
				if err := folder(o.args, list, func(p string) error { return one(p, depth+1) }); err != nil {
					return fmt.Errorf("%s: %w", o.at, err)
				}
				continue
			}
			if all = append(all, o); len(all) > maxOptions {
				return errors.New("too many options")
			}
		}
		return nil
	}
	err = one(path, 0)
	return all, err
}

// folder visits the files of an include_dir as Mosquitto does: those that end in .conf, in the order of their names.
func folder(dir string, list List, visit func(string) error) error {
	names, err := list(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	for _, name := range names {
		if strings.HasSuffix(name, ".conf") {
			if err := visit(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// truth reads true or false.
func (o *option) truth() (bool, error) {
	switch strings.ToLower(o.args) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("%s: %s is true or false, not %q", o.at, o.name, clip(o.args))
}

// number reads a whole number.
func (o *option) number() (n int64, err error) {
	if _, err := fmt.Sscanf(o.args, "%d", &n); err != nil || fmt.Sprint(n) != strings.TrimPrefix(o.args, "+") {
		return 0, fmt.Errorf("%s: %s is a number, not %q", o.at, o.name, clip(o.args))
	}
	return n, nil
}

func clip(s string) string { return s[:min(len(s), 100)] }
