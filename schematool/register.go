package schematool

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Schema is one that is sent.
type Schema struct {
	Type       string      `json:"schemaType,omitempty"`
	References []Reference `json:"references,omitempty"`
	Text       string      `json:"schema"`
}

// TypeOfFile is a schema's type by the name of its file; "": that does not say.
func TypeOfFile(name string) string {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".avsc", ".avro":
		return Avro
	case ".json", ".jsonschema":
		return JSON
	case ".proto":
		return Protobuf
	}
	return ""
}

// ParseReference reads NAME=SUBJECT or NAME=SUBJECT@VERSION. Without a version it is the latest one, which Resolve finds.
func ParseReference(text string) (ref Reference, err error) {
	name, subject, ok := strings.Cut(text, "=")
	if i := strings.LastIndexByte(subject, '@'); i >= 0 {
		if subject[i+1:] != Latest {
			if ref.Version, err = strconv.Atoi(subject[i+1:]); err != nil || ref.Version <= 0 {
				return ref, fmt.Errorf("reference %q: the version after @ is a number from 1 on, or %s", text, Latest)
			}
		}
		subject = subject[:i]
	}
	if !ok || name == "" || subject == "" {
		return ref, fmt.Errorf("reference %q: write NAME=SUBJECT or NAME=SUBJECT@VERSION, NAME as the schema's text has it", text)
	}
	ref.Name, ref.Subject = name, subject
	return ref, nil
}

// Resolve finds the latest versions of references that name none.
func (r *Registry) Resolve(ctx context.Context, refs []Reference) error {
	for i := range refs {
		if refs[i].Version == 0 {
			v, err := r.version(ctx, refs[i].Subject, Latest)
			if err != nil {
				return fmt.Errorf("reference %q: %w", refs[i].Name, err)
			}
			refs[i].Version = v.Version
		}
	}
	return nil
}

// Registered is what became of a schema.
type Registered struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	ID      int    `json:"id"`
	New     bool   `json:"new"` // false: the subject had it
}

// Register makes a schema the next version of a subject, unless the subject has it.
func (r *Registry) Register(ctx context.Context, subject string, s *Schema, normalise bool) (*Registered, error) {
	q := flag("normalize", normalise)
	find := func() (v answered, err error) {
		err = r.call(ctx, http.MethodPost, subjectPath(subject), q, s, &v)
		return v, err
	}
	if v, err := find(); err == nil {
		return &Registered{Subject: subject, Version: v.Version, ID: v.ID}, nil
	}
	var made struct {
		ID int `json:"id"`
	}
	if err := r.call(ctx, http.MethodPost, subjectPath(subject, "/versions"), q, s, &made); err != nil {
		return nil, fmt.Errorf("register for %q: %w", subject, err)
	}
	out := &Registered{Subject: subject, ID: made.ID, New: true}
	if v, err := find(); err == nil { // it is registered; its number is a courtesy
		out.Version = v.Version
	}
	return out, nil
}

// Verdict is whether a schema can follow those of a subject.
type Verdict struct {
	Subject     string       `json:"subject"`
	Compatible  bool         `json:"compatible"`
	New         bool         `json:"new_subject,omitempty"` // there is nothing to compare with
	Level       string       `json:"level,omitempty"`
	With        int          `json:"with,omitempty"` // the version of which the differences are told
	Differences []Difference `json:"differences,omitempty"`
}

// Difference is one that keeps a schema from being compatible.
type Difference struct {
	Kind string `json:"kind,omitempty"`
	Path string `json:"path,omitempty"`
	Text string `json:"text"`
}

// Check compares a schema with a version of a subject, Latest too, or, if version is "", with all that the subject's level demands.
func (r *Registry) Check(ctx context.Context, subject, version string, s *Schema) (*Verdict, error) {
	var answer struct {
		Is       bool     `json:"is_compatible"`
		Messages []string `json:"messages"`
	}
	path := "/compatibility" + subjectPath(subject, "/versions")
	if version != "" {
		path += "/" + url.PathEscape(version)
	}
	out := &Verdict{Subject: subject}
	switch err := r.call(ctx, http.MethodPost, path, url.Values{"verbose": {"true"}}, s, &answer); {
	case hasCode(err, codeSubjectNotFound, codeVersionNotFound) && version == "":
		out.Compatible, out.New = true, true
		return out, nil
	case err != nil:
		return nil, fmt.Errorf("compare with %q: %w", subject, err)
	}
	out.Compatible = answer.Is
	for _, m := range answer.Messages {
		if m != "" {
			out.take(m)
		}
	}
	if out.Level == "" {
		out.Level, _, _ = r.Level(ctx, subject) // not every account may ask
	}
	if answer.Is && version == "" {
		if _, err := r.version(ctx, subject, Latest); hasCode(err, codeSubjectNotFound, codeVersionNotFound) {
			out.New = true
		}
	}
	return out, nil
}

// said is where a value begins in a registry's message, which looks like {errorType:'…', description:'…'}. Values may have quotes of their own,
// so one ends where the next begins.
var said = regexp.MustCompile(`(?:^\{|, ?)(errorType|description|additionalInfo|path|oldSchemaVersion|compatibility|oldSchema|validateFields): ?`)

// take reads a message. What is not understood is told as it is.
func (v *Verdict) take(message string) {
	at := said.FindAllStringSubmatchIndex(message, -1)
	if len(at) == 0 || !strings.HasSuffix(message, "}") {
		v.Differences = append(v.Differences, Difference{Text: message})
		return
	}
	d := Difference{}
	for i, m := range at {
		end := len(message) - 1
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		value := message[m[1]:end]
		if n := len(value); n >= 2 && (value[0] == '\'' || value[0] == '"') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		switch message[m[2]:m[3]] {
		case "errorType":
			d.Kind = value
		case "description", "additionalInfo":
			d.Text = strings.TrimSpace(d.Text + " " + value)
		case "path":
			d.Path = value
		case "oldSchemaVersion":
			v.With, _ = strconv.Atoi(value) // 0: it does not say
		case "compatibility":
			v.Level = value
		}
	}
	if d != (Difference{}) {
		v.Differences = append(v.Differences, d)
	}
}

// ErrIncompatible says that a schema cannot follow those of its subject.
var ErrIncompatible = errors.New("not compatible")
