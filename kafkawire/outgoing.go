package kafkawire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

const flushAt = 256 << 10 // responses are gathered up to here

// write sends the replies in their order, gathering those that go now into one write.
func (c *conn) write() error {
	out := outgoing{c: c}
	defer func() { out.forget() }()
	for {
		rep, over := c.replies.take()
		if rep != nil {
			if err := out.take(rep); err != nil {
				return err
			}
			continue
		}
		if err := out.flush(); err != nil || over {
			return err
		}
		if err := c.replies.wait(c.ctx); err != nil {
			return err
		}
	}
}

// outgoing gathers responses.
type outgoing struct {
	c     *conn
	bufs  net.Buffers
	files []filePiece
	size  int
	sent  []func()
	send  *fileSender // nil before the first file
	left  net.Buffers // of bufs, while they are written
}

// take adds a reply whose turn has come, and sends what was gathered if it is much.
func (o *outgoing) take(rep *reply) error {
	defer o.c.open.Done()
	if err := o.add(rep); err != nil || o.size < flushAt {
		return err
	}
	return o.flush()
}

// add adds a reply; what was gathered is sent before it waits.
func (o *outgoing) add(rep *reply) error {
	if rep.slow {
		if err := o.flush(); err != nil {
			return err
		}
	}
	if rep.sent != nil {
		o.sent = append(o.sent, rep.sent)
	}
	if rep.finish != nil {
		if err := rep.finish(&rep.frame); err != nil {
			return err
		}
	}
	for _, b := range rep.frame.bufs {
		o.size += len(b)
	}
	for _, f := range rep.frame.files {
		o.size += int(f.span.Size)
		o.files = append(o.files, filePiece{len(o.bufs) + f.before, f.span})
	}
	o.bufs = append(o.bufs, rep.frame.bufs...)
	return nil
}

// flush writes what was gathered.
func (o *outgoing) flush() error {
	if len(o.bufs) == 0 {
		o.forget()
		return nil
	}
	if err := o.writeAll(); err != nil {
		return err
	}
	o.forget()
	return nil
}

// writeAll writes the bytes and the parts of files that stand between them, as one stream of full segments.
func (o *outgoing) writeAll() error {
	if len(o.files) == 0 {
		return o.write(o.bufs)
	}
	s, err := o.sender()
	if err != nil {
		return err
	}
	if err := s.cork(1); err != nil {
		return fmt.Errorf("write responses: %w", err)
	}
	at := 0
	for _, f := range o.files {
		if err := o.write(o.bufs[at:f.before]); err != nil {
			return err
		}
		at = f.before
		if err := o.sendFile(f.span); err != nil {
			return err
		}
	}
	if err := o.write(o.bufs[at:]); err != nil {
		return err
	}
	if err := s.cork(0); err != nil {
		return fmt.Errorf("write responses: %w", err)
	}
	return nil
}

// write writes buffers, none of them empty. A client must take something within the stall timeout, not all of it.
func (o *outgoing) write(bufs net.Buffers) error {
	for o.left = bufs; len(o.left) > 0; {
		o.c.nc.SetWriteDeadline(time.Now().Add(o.c.s.StallTimeout))
		n, err := o.left.WriteTo(o.c.nc)
		if o.c.s.stats.bytesOut.Add(uint64(n)); err != nil && !(n > 0 && errors.Is(err, os.ErrDeadlineExceeded)) {
			return fmt.Errorf("write responses: %w", err)
		}
	}
	return nil
}

// forget lets go of what was gathered.
func (o *outgoing) forget() {
	for _, f := range o.sent {
		f()
	}
	clear(o.sent)
	clear(o.bufs)
	clear(o.files)
	o.bufs, o.files, o.sent, o.size = o.bufs[:0], o.files[:0], o.sent[:0], 0
}
