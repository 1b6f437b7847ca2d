package schematool

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Reference is another schema that one refers to, by what it is called in its text.
type Reference struct {
	Name    string `json:"name"`
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// Subject is one of a list, with its latest version.
type Subject struct {
	Name    string `json:"subject"`
	Type    string `json:"type"`
	Version int    `json:"version"`
	ID      int    `json:"id"`
	Deleted bool   `json:"deleted,omitempty"` // softly
}

// answered is a version as registries tell it.
type answered struct {
	Subject    string      `json:"subject"`
	Version    int         `json:"version"`
	ID         int         `json:"id"`
	Type       string      `json:"schemaType"`
	References []Reference `json:"references"`
	Schema     string      `json:"schema"`
}

// Avro, JSON and Protobuf are the types of schemas that all registries know.
const (
	Avro     = "AVRO"
	JSON     = "JSON"
	Protobuf = "PROTOBUF"
)

// typeOf is a schema's type; registries do not name Avro.
func typeOf(told string) string {
	if told == "" {
		return Avro
	}
	return told
}

// Subjects lists the subjects whose names begin with prefix, by name; deleted: those too that are deleted softly.
func (r *Registry) Subjects(ctx context.Context, prefix string, deleted bool) ([]Subject, error) {
	there, err := r.names(ctx, prefix, false)
	if err != nil {
		return nil, err
	}
	names := there
	if deleted {
		if names, err = r.names(ctx, prefix, true); err != nil {
			return nil, err
		}
	}
	latest, err := r.latest(ctx, prefix, deleted)
	if err != nil {
		return nil, err
	}
	list := make([]Subject, 0, len(names))
	for _, name := range names {
		s := Subject{Name: name}
		if v, ok := latest[name]; ok {
			s.Type, s.Version, s.ID = typeOf(v.Type), v.Version, v.ID
		}
		_, alive := slices.BinarySearch(there, name)
		s.Deleted = !alive
		list = append(list, s)
	}
	return list, nil
}

// names are those of subjects, sorted.
func (r *Registry) names(ctx context.Context, prefix string, deleted bool) ([]string, error) {
	q := url.Values{}
	if prefix != "" {
		q.Set("subjectPrefix", prefix)
	}
	if deleted {
		q.Set("deleted", "true")
	}
	var names []string
	if err := r.call(ctx, http.MethodGet, "/subjects", q, nil, &names); err != nil {
		return nil, fmt.Errorf("list the subjects: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) }) // registries that know no prefixes
	slices.Sort(names)
	return slices.Compact(names), nil
}

// latest are the latest versions by subject, page by page.
func (r *Registry) latest(ctx context.Context, prefix string, deleted bool) (map[string]answered, error) {
	latest, q := map[string]answered{}, url.Values{"latestOnly": {"true"}}
	if prefix != "" {
		q.Set("subjectPrefix", prefix)
	}
	if deleted {
		q.Set("deleted", "true")
	}
	for seen := 0; ; {
		var page []answered
		q.Set("offset", strconv.Itoa(seen))
		if err := r.call(ctx, http.MethodGet, "/schemas", q, nil, &page); err != nil {
			return nil, fmt.Errorf("list the latest versions: %w", err)
		}
		fresh := false
		for _, v := range page {
			if _, known := latest[v.Subject]; !known {
				fresh = true
			}
			if v.Version >= latest[v.Subject].Version {
				v.Schema = "" // it is not what was asked for, and may be large
				latest[v.Subject] = v
			}
		}
		if seen += len(page); !fresh { // the end, or a registry that knows no pages
			return latest, nil
		}
	}
}

// Version is one version of a subject, with what is said about the others.
type Version struct {
	Subject    string      `json:"subject"`
	Version    int         `json:"version"`
	Versions   []int       `json:"versions"` // all of the subject
	ID         int         `json:"id"`
	Type       string      `json:"type"`
	Level      string      `json:"level"` // of compatibility; "": the registry does not tell
	LevelOwn   bool        `json:"level_of_its_own"`
	References []Reference `json:"references,omitempty"`
	ReferredBy []int       `json:"referred_by,omitempty"` // ids of schemas
	Schema     string      `json:"schema"`
}

// Latest stands for the number of a subject's latest version.
const Latest = "latest"

// Version tells about a version: a number, or Latest.
func (r *Registry) Version(ctx context.Context, subject, version string) (*Version, error) {
	v, err := r.version(ctx, subject, version)
	if err != nil {
		return nil, err
	}
	out := &Version{Subject: v.Subject, Version: v.Version, ID: v.ID, Type: typeOf(v.Type), References: v.References, Schema: v.Schema}
	if err := r.call(ctx, http.MethodGet, subjectPath(subject, "/versions"), nil, nil, &out.Versions); err != nil {
		return nil, fmt.Errorf("versions of %q: %w", subject, err)
	}
	if out.Level, out.LevelOwn, err = r.Level(ctx, subject); err != nil {
		out.Level = ""
	}
	// Not every registry tells who refers.
	_ = r.call(ctx, http.MethodGet, subjectPath(subject, "/versions/", strconv.Itoa(v.Version), "/referencedby"), nil, nil, &out.ReferredBy)
	return out, nil
}

func (r *Registry) version(ctx context.Context, subject, version string) (v answered, err error) {
	if err = r.call(ctx, http.MethodGet, subjectPath(subject, "/versions/", url.PathEscape(version)), nil, nil, &v); err != nil {
		return v, fmt.Errorf("version %s of %q: %w", version, subject, err)
	}
	return v, nil
}

// ByID finds the schema with an id, and what versions it is.
func (r *Registry) ByID(ctx context.Context, id int) (*Version, error) {
	var v answered
	if err := r.call(ctx, http.MethodGet, "/schemas/ids/"+strconv.Itoa(id), nil, nil, &v); err != nil {
		return nil, fmt.Errorf("schema %d: %w", id, err)
	}
	var of []struct {
		Subject string `json:"subject"`
		Version int    `json:"version"`
	}
	if err := r.call(ctx, http.MethodGet, "/schemas/ids/"+strconv.Itoa(id)+"/versions", nil, nil, &of); err != nil {
		return nil, fmt.Errorf("versions of schema %d: %w", id, err)
	}
	if len(of) == 0 { // all are deleted; what was written with it is read all the same
		return &Version{ID: id, Type: typeOf(v.Type), References: v.References, Schema: v.Schema}, nil
	}
	return r.Version(ctx, of[0].Subject, strconv.Itoa(of[0].Version))
}
