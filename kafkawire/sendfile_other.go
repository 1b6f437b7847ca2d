//go:build !linux

package kafkawire

import (
	"errors"

	"github.com/millrace-io/millrace/eventlog/engine"
)

type sendfile func()

// fileSender is of Linux only: elsewhere records pass through memory.
type fileSender struct{}

func (c *conn) sendsFiles() bool { return false }

func (s *fileSender) cork(int) error { return errors.ErrUnsupported }

func (o *outgoing) sender() (*fileSender, error) { return nil, errors.ErrUnsupported }

func (o *outgoing) sendFile(engine.Span) error { return errors.ErrUnsupported }
