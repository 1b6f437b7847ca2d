package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/registry/schema"
)

// Error is what a client is told. The code is Confluent's: its first three digits are the HTTP status.
type Error struct {
	Code int
	Text string
}

func (e *Error) Error() string { return e.Text }

// Status is that of the HTTP answer.
func (e *Error) Status() int {
	if e.Code >= 10_000 {
		return e.Code / 100
	}
	return e.Code
}

// Confluent's error codes.
const (
	codeSubjectNotFound       = 40401
	codeVersionNotFound       = 40402
	codeSchemaNotFound        = 40403
	codeSubjectSoftDeleted    = 40404
	codeSubjectNotSoftDeleted = 40405
	codeVersionSoftDeleted    = 40406
	codeVersionNotSoftDeleted = 40407
	codeNoSubjectLevel        = 40408
	codeNoSubjectMode         = 40409
	codeIncompatible          = 409
	codeInvalidSchema         = 42201
	codeInvalidVersion        = 42202
	codeInvalidLevel          = 42203
	codeInvalidMode           = 42204
	codeNotPermitted          = 42205
	codeReferenced            = 42206
	codeIDMismatch            = 42207
	codeInvalidSubject        = 42208
	codeStore                 = 50001
	codeStoreTimeout          = 50002
)

func errorf(code int, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

func subjectNotFound(s string) *Error {
	return errorf(codeSubjectNotFound, "Subject '%s' not found.", clip(s))
}

func versionNotFound(n int) *Error { return errorf(codeVersionNotFound, "Version %d not found.", n) }

func invalidSchema(err error) *Error {
	return errorf(codeInvalidSchema, "Invalid schema: %s", err)
}

// incompatible tells of differences with a version.
func incompatible(subject string, v *version, level string, ds []schema.Difference) *Error {
	return errorf(codeIncompatible, "Schema being registered is incompatible with an earlier schema for subject \"%s\", details: %s", clip(subject),
		described(v, level, ds))
}

func described(v *version, level string, ds []schema.Difference) []string {
	var texts []string
	for _, d := range ds {
		texts = append(texts, d.String())
	}
	return append(texts, fmt.Sprintf("{oldSchemaVersion: %d}", v.number), fmt.Sprintf("{compatibility: '%s'}", level))
}

// storeError is what a client is told of the log.
func storeError(err error) *Error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return errorf(codeStoreTimeout, "The log has not answered in time: the change may be made or not; ask again.")
	}
	for _, known := range []error{eventlog.ErrNoSpace, eventlog.ErrClosed, eventlog.ErrUnknownTopic, eventlog.ErrTooLarge, eventlog.ErrUnknownOutcome} {
		if errors.Is(err, known) {
			return errorf(codeStore, "Error in the backend data store: %s", known)
		}
	}
	return errorf(codeStore, "Error in the backend data store: %s", clip(err.Error()))
}

// clip shortens what others have written, for a message.
func clip(s string) string {
	if len(s) <= 300 {
		return s
	}
	return s[:300] + "…"
}
