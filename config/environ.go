package config

import (
	"reflect"
	"slices"
	"strings"
)

// envPrefix begins the name of every variable we read: MILLRACE_LOG_DATA is log.data. A list or mapping is written as YAML.
const envPrefix = "MILLRACE_"

// fileVariable names the file to read when no flag does.
const fileVariable = "MILLRACE_CONFIG"

// otherVariables have the prefix and are no values: the file, and what tests look at.
var otherVariables = []string{fileVariable, "MILLRACE_TIER", "MILLRACE_SEED"}

// paths lists every path that a variable or flag may set, outer ones first.
func paths(t reflect.Type, prefix string) (ps []string) {
	for f := range fields(t) {
		p := join(prefix, f.Tag.Get("yaml"))
		ps = append(ps, p)
		if _, scalar := reflect.New(f.Type).Interface().(text); !scalar && f.Type.Kind() == reflect.Struct {
			ps = append(ps, paths(f.Type, p)...)
		}
	}
	return ps
}

func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

func (c *Config) mergeEnviron(environ []string) (problems Problems) {
	known := paths(reflect.TypeFor[Config](), "")
	given := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, envPrefix) && !slices.Contains(otherVariables, name) {
			given[name] = value
		}
	}
	var names []string
	for _, path := range known {
		name := envName(path)
		names = append(names, name)
		if value, there := given[name]; there {
			delete(given, name)
			problems = append(problems, c.merge(path, quoted(find(reflect.ValueOf(c).Elem(), path), value), "variable "+name)...)
		}
	}
	for _, name := range sortedKeys(given) {
		fix := ""
		if n := nearest(name, names); n != "" {
			fix = "did you mean " + n + "?"
		}
		problems = append(problems, Problem{Where: "environment", Path: clip(name), Text: "unknown variable", Fix: fix})
	}
	return problems
}

// quoted makes a variable's text a YAML value: as it is for lists and mappings, one scalar otherwise, so that `:1883` or
// `#x` needs no quotes of its own.
func quoted(v reflect.Value, value string) string {
	if _, scalar := v.Addr().Interface().(text); !scalar && (v.Kind() == reflect.Slice || v.Kind() == reflect.Struct || v.Kind() == reflect.Map) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}
