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

// Levels are those of compatibility.
var Levels = []string{"NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"}

// ParseLevel reads a level, in whatever case.
func ParseLevel(text string) (string, error) {
	if level := strings.ToUpper(strings.ReplaceAll(text, "-", "_")); slices.Contains(Levels, level) {
		return level, nil
	}
	return "", fmt.Errorf("level %q: one of %s", text, strings.Join(Levels, ", "))
}

func configPath(subject string) string {
	if subject == "" {
		return "/config"
	}
	return "/config/" + url.PathEscape(subject)
}

// Level is a subject's level, and whether it is its own; of "", that of all that have none.
func (r *Registry) Level(ctx context.Context, subject string) (level string, own bool, err error) {
	var said struct {
		Level string `json:"compatibilityLevel"`
	}
	err = r.call(ctx, http.MethodGet, configPath(subject), nil, nil, &said)
	if subject != "" && hasCode(err, codeNoLevel, codeSubjectNotFound) {
		if err = r.call(ctx, http.MethodGet, configPath(""), nil, nil, &said); err == nil {
			return said.Level, false, nil
		}
	}
	if err != nil {
		return "", false, fmt.Errorf("level of %s: %w", whose(subject), err)
	}
	return said.Level, true, nil
}

// SetLevel sets it.
func (r *Registry) SetLevel(ctx context.Context, subject, level string) error {
	body := struct {
		Level string `json:"compatibility"`
	}{level}
	if err := r.call(ctx, http.MethodPut, configPath(subject), nil, body, &body); err != nil {
		return fmt.Errorf("set the level of %s: %w", whose(subject), err)
	}
	return nil
}

// DropLevel has a subject be compared as those without a level of their own.
func (r *Registry) DropLevel(ctx context.Context, subject string) error {
	var was any
	if err := r.call(ctx, http.MethodDelete, configPath(subject), nil, nil, &was); err != nil && !hasCode(err, codeNoLevel) {
		return fmt.Errorf("drop the level of %s: %w", whose(subject), err)
	}
	return nil
}

func whose(subject string) string {
	if subject == "" {
		return "all subjects"
	}
	return strconv.Quote(subject)
}

// Deleted is what was deleted.
type Deleted struct {
	Subject   string `json:"subject"`
	Versions  []int  `json:"versions"`
	Permanent bool   `json:"permanent"` // for good; else softly: what was written with it is still read
}

// Delete deletes a version of a subject, or, if version is "", all of them. What is to be gone for good is first deleted softly, if that has not
// been done.
func (r *Registry) Delete(ctx context.Context, subject, version string, permanent bool) (*Deleted, error) {
	softly, err := r.delete(ctx, subject, version, false)
	if !permanent || err != nil && !hasCode(err, codeSubjectDeleted, codeVersionDeleted) {
		return softly, err
	}
	if version == Latest && softly != nil { // the latest is another one now
		version = strconv.Itoa(softly.Versions[0])
	}
	return r.delete(ctx, subject, version, true)
}

func (r *Registry) delete(ctx context.Context, subject, version string, permanent bool) (*Deleted, error) {
	out := &Deleted{Subject: subject, Permanent: permanent}
	if version == "" {
		if err := r.call(ctx, http.MethodDelete, subjectPath(subject), flag("permanent", permanent), nil, &out.Versions); err != nil {
			return nil, fmt.Errorf("delete %q: %w", subject, err)
		}
		return out, nil
	}
	var number int
	if err := r.call(ctx, http.MethodDelete, subjectPath(subject, "/versions/", url.PathEscape(version)), flag("permanent", permanent), nil, &number); err != nil {
		return nil, fmt.Errorf("delete version %s of %q: %w", version, subject, err)
	}
	out.Versions = []int{number}
	return out, nil
}
