package conformance

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// patience is how long a check waits for what must come.
const patience = 15 * time.Second

// env is what one check runs in.
type env struct {
	testing.TB
	addr     string
	ws       string // host:port/path of its WebSocket listener, if there is one
	v        byte
	prefix   string // of client ids and topics that nobody else uses; letters and digits
	ids      int
	strict   bool // the node is ours: where the standards leave a choice, ours must have been made
	patience time.Duration
}

// topic is a topic, or a filter, that belongs to the check.
func (e *env) topic(name string) string { return e.prefix + "/" + name }

// clientID is a new client id of at most 23 letters and digits.
func (e *env) clientID() string {
	e.ids++
	return fmt.Sprintf("%sc%d", e.prefix, e.ids)
}

// choice ends a check in which a broker has used a freedom that leaves nothing to see. Our own node has not.
func (e *env) choice(format string, args ...any) {
	e.Helper()
	if e.strict {
		e.Fatalf(format, args...)
	}
	panic(nothingToSee(fmt.Sprintf(format, args...)))
}

// nothingToSee ends a check through panic: a skipped test is one that could not run, and this one could.
type nothingToSee string

// show runs a check. It returns why there was nothing to see, if so.
func (e *env) show(f check) (nothing nothingToSee) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case nothingToSee:
			nothing = r
		default:
			panic(r)
		}
	}()
	f(e)
	return ""
}

// closed tells whether an error is the end of a connection that the server has closed, between two packets or in disorder.
func closed(err error) bool {
	return errors.Is(err, io.EOF) || strings.Contains(err.Error(), "reset by peer")
}
