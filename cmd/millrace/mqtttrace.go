package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/console"
)

func newTrace(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var client, filter, file string
	var lasts time.Duration
	var payload int
	c := &cobra.Command{
		Use: "trace (--client ID | --filter FILTER)", Short: "Show the packets of one client, or the messages of one filter, as they come", Args: cobra.NoArgs,
		Long: `Show every packet of one client, both ways, also of one that is refused; or every message on the topics that a filter matches, from and to
everybody. Payloads are shown only if asked for. What comes faster than it can be shown is left out and counted, and holds nobody up.`,
		Example: `  millrace mqtt trace --client truck-7 --token file:ops.token
  millrace mqtt trace --filter 'fleet/+/cmd' --payload 200 --duration 30m --file cmds.ndjson --token file:ops.token
  millrace mqtt trace --client truck-7 -o json --token file:ops.token | jq 'select(.packet == "PUBLISH")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			res, err := n.send(ctx, http.MethodGet, "mqtt/trace", params("client", client, "filter", filter, "payload", strconv.Itoa(payload), "duration", lasts.String()), nil)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			t := tracePrinter{out: e.Out, json: n.output == "json"}
			if file != "" {
				f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // payloads are nobody else's business
				if err != nil {
					return failure{fmt.Errorf("--file: %w", err)}
				}
				t.out, t.json = f, true
				defer func() { fmt.Fprintf(e.Err, "%d events in %s\n", t.events, file) }()
				defer f.Close()
			}
			if err := t.run(res.Body); err != nil && ctx.Err() == nil {
				return failure{err}
			}
			return nil
		},
	}
	n.flags(c)
	f := c.Flags()
	f.StringVar(&client, "client", "", "the packets of this client id, under whatever account")
	f.StringVar(&filter, "filter", "", "the messages that this MQTT filter matches")
	f.DurationVar(&lasts, "duration", 5*time.Minute, "until it ends by itself, at most 1h")
	f.IntVar(&payload, "payload", 0, "bytes of each payload to show, at most 65536")
	f.StringVar(&file, "file", "", "write NDJSON to this new file instead")
	c.MarkFlagsOneRequired("client", "filter")
	c.MarkFlagsMutuallyExclusive("client", "filter")
	return c
}

// tracePrinter writes a trace, for people or for programs.
type tracePrinter struct {
	out    io.Writer
	json   bool
	events int
}

const maxTraceLine = 1 << 20

func (t *tracePrinter) run(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxTraceLine)
	for lines.Scan() {
		var e console.TraceEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("the node's trace has a line that is none: %w", err)
		}
		if t.json {
			if err := rewrite(t.out, lines.Bytes(), ""); err != nil {
				return err
			}
		} else if _, err := fmt.Fprintln(t.out, traceLine(&e)); err != nil {
			return fmt.Errorf("write the trace: %w", err)
		}
		if e.End != "" {
			return nil
		}
		t.events++
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the trace is cut off: %w", err)
	}
	return errors.New("the trace is cut off: the node has ended it without a word")
}

// traceLine is an event for people.
func traceLine(e *console.TraceEvent) string {
	at := time.UnixMicro(int64(e.At * 1000)).Format("15:04:05.000000")
	switch {
	case e.End != "":
		return at + "  the trace is over: " + plain(e.End)
	case e.Dropped > 0:
		return fmt.Sprintf("%s  %d events are left out: they came faster than they were read", at, e.Dropped)
	}
	arrow := "→" // to the node
	if e.Direction == "out" {
		arrow = "←"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s %s %s", at, plain(e.Client), arrow, plain(e.Packet))
	word := func(set bool, format string, args ...any) {
		if set {
			fmt.Fprintf(&b, " "+format, args...)
		}
	}
	word(e.Topic != "" || e.Packet == "SUBSCRIBE", "q%d", e.QoS)
	word(e.Dup, "dup")
	word(e.Retain, "retain")
	word(e.ID != 0, "#%d", e.ID)
	word(e.Topic != "", "%s", plain(e.Topic))
	for _, f := range e.Filters {
		word(true, "%s", plain(f))
	}
	word(e.Size > 0, "(%d B)", e.Size)
	word(e.Reason != "", "· %s", plain(e.Reason))
	if e.Payload != nil {
		word(true, "%q", *e.Payload)
	}
	if e.Base64 != nil {
		word(true, "base64:%s", plain(*e.Base64))
	}
	return b.String()
}
