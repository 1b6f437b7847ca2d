package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/token"
)

// Entry is one value in effect.
type Entry struct {
	Path   string `json:"path"`
	Value  string `json:"value"`
	Origin string `json:"origin"`
}

// Effective lists every value in effect and where it comes from.
func (c *Config) Effective() []Entry {
	var es []Entry
	c.entries(reflect.ValueOf(c).Elem(), "", func(path, value string) {
		es = append(es, Entry{Path: path, Value: value, Origin: c.Where(path)})
	})
	return es
}

func (c *Config) entries(v reflect.Value, path string, yield func(path, value string)) {
	if s, ok := scalarOf(v); ok {
		yield(path, s)
		return
	}
	if v.Kind() == reflect.Slice {
		for i := range v.Len() {
			c.entries(v.Index(i), path+"["+itoa(i)+"]", yield)
		}
		if v.Len() == 0 {
			yield(path, "[]")
		}
		return
	}
	if v.Kind() == reflect.Map {
		for _, name := range namesIn(v) {
			c.entries(v.MapIndex(reflect.ValueOf(name)), join(path, name), yield)
		}
		return
	}
	for f := range fields(v.Type()) {
		c.entries(v.FieldByIndex(f.Index), join(path, f.Tag.Get("yaml")), yield)
	}
}

// scalarOf is a scalar's text.
func scalarOf(v reflect.Value) (string, bool) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "", true
		}
		v = v.Elem()
	}
	if v.CanAddr() {
		if t, ok := v.Addr().Interface().(text); ok {
			b, err := t.MarshalText()
			return string(b), err == nil
		}
	}
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Int:
		return fmt.Sprint(v.Interface()), true
	}
	return "", false
}

// YAML writes the configuration in effect as a file that means the same, each value with its origin as a comment. Values that
// are empty and defaults are left out of lists.
func (c *Config) YAML() []byte {
	var b bytes.Buffer
	c.write(&b, reflect.ValueOf(c).Elem(), "", 0, false, false)
	return b.Bytes()
}

// write writes a mapping. first: its first line begins where the buffer ends, after a dash; inList: it is in a list, however deep.
func (c *Config) write(b *bytes.Buffer, v reflect.Value, path string, depth int, inList, first bool) {
	for f := range fields(v.Type()) {
		key := f.Tag.Get("yaml")
		at, field := join(path, key), v.FieldByIndex(f.Index)
		if inList && field.IsZero() {
			continue
		}
		indent := strings.Repeat("  ", depth)
		if first {
			indent, first = "", false // the dash is written
		}
		if s, ok := scalarOf(field); ok {
			fmt.Fprintf(b, "%s%s: %s  # %s\n", indent, key, yamlText(field, s), c.Where(at))
			continue
		}
		if field.Kind() == reflect.Map {
			c.writeTable(b, field, key, at, depth)
			continue
		}
		if p, ok := field.Addr().Interface().(*Policy); ok && !p.Configured() {
			continue // an empty one would not be read again
		}
		if field.Kind() == reflect.Struct {
			fmt.Fprintf(b, "%s%s:\n", indent, key)
			c.write(b, field, at, depth+1, inList, false)
			continue
		}
		if field.Len() == 0 {
			fmt.Fprintf(b, "%s%s: []  # %s\n", indent, key, c.Where(at))
			continue
		}
		fmt.Fprintf(b, "%s%s:\n", indent, key)
		for i := range field.Len() {
			item, itemPath := field.Index(i), at+"["+itoa(i)+"]"
			fmt.Fprintf(b, "%s  - ", strings.Repeat("  ", depth))
			if s, ok := scalarOf(item); ok {
				fmt.Fprintf(b, "%s  # %s\n", yamlText(item, s), c.Where(itemPath))
				continue
			}
			if item.IsZero() {
				fmt.Fprintf(b, "{}\n")
				continue
			}
			c.write(b, item, itemPath, depth+2, true, true)
		}
	}
}

// writeTable writes names, each with its list.
func (c *Config) writeTable(b *bytes.Buffer, v reflect.Value, key, path string, depth int) {
	indent := strings.Repeat("  ", depth)
	if v.Len() == 0 {
		fmt.Fprintf(b, "%s%s: {}  # %s\n", indent, key, c.Where(path))
		return
	}
	fmt.Fprintf(b, "%s%s:\n", indent, key)
	for _, name := range namesIn(v) {
		list := v.MapIndex(reflect.ValueOf(name))
		items := make([]string, list.Len())
		for i := range items {
			items[i] = strconv.Quote(list.Index(i).String())
		}
		fmt.Fprintf(b, "%s  %s: [%s]  # %s\n", indent, strconv.Quote(name), strings.Join(items, ", "), c.Where(join(path, name)))
	}
}

// namesIn are a table's names, in order.
func namesIn(v reflect.Value) (names []string) {
	for _, k := range v.MapKeys() {
		names = append(names, k.String())
	}
	slices.Sort(names)
	return names
}

// yamlText quotes a scalar where YAML would read it as something else.
func yamlText(v reflect.Value, s string) string {
	if v.Kind() == reflect.Bool || v.Kind() == reflect.Int || v.Kind() == reflect.Pointer && !v.IsNil() {
		return s
	}
	if v.Kind() == reflect.Pointer {
		return "" // unset
	}
	if s == "" || token.IsNeedQuoted(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
