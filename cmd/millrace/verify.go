package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
	"github.com/millrace-io/millrace/sim"
	"github.com/millrace-io/millrace/verify"
)

// verifyFlags are those of `millrace verify`.
type verifyFlags struct {
	settings
	http, token   string
	ca            string
	from, to      string
	last          time.Duration
	topic, device string
	ledger        string
	all, strict   bool
	output        string
	request       verify.Request
}

func newVerify(e env) *cobra.Command {
	var v verifyFlags
	c := &cobra.Command{
		Use: "verify", Short: "Prove that everything adds up, or name what is missing", Args: cobra.NoArgs,
		Long: `Compare, per minute, log topic and device, what clients published with what the log holds and what subscribers got; follow the devices'
sequence numbers; look at every record. What does not add up is named: which device, which numbers, where in the log.

A running node is asked over HTTP. With --data (or --config with log.kafka) the log of a node that does not run, or a copy, is read.

Exit codes: 0 complete; 1 something is missing, repeated, out of order or altered; 2 it could not be checked.`,
		Example: `  millrace verify                                   # the last ten minutes of the node on this machine
  millrace verify --last 24h --topic telemetry
  millrace verify --topic telemetry --device truck-7 --all
  millrace verify --ledger run.ledger               # against what a simulation sent: millrace sim … --ledger run.ledger
  millrace verify --data ./backup --config millrace.yaml --from 2026-05-01T00:00:00Z --to 2026-05-02T00:00:00Z
  millrace verify -o json | jq 'select(.finding)'`,
		RunE: func(cmd *cobra.Command, _ []string) error { return v.run(cmd.Context(), e, time.Now()) },
	}
	f := c.Flags()
	f.StringVar(&v.http, "http", "127.0.0.1:8080", "address of the running node's HTTP server")
	f.StringVar(&v.token, "token-file", "", "file with a bearer token for it")
	f.StringVar(&v.ca, "ca", "", "PEM file of the authority that its certificate is from, if it is not one of the system's")
	f.StringVar(&v.data, "data", "", "read this data folder instead, of a node that does not run")
	f.StringVarP(&v.file, "config", "c", "", "its configuration file: routes, and where the log is")
	f.StringVar(&v.from, "from", "", "begin: RFC 3339, or HH:MM today; with --to in place of --last")
	f.StringVar(&v.to, "to", "", "end (default now)")
	f.DurationVar(&v.last, "last", 10*time.Minute, "the last so long")
	f.StringVar(&v.topic, "topic", "", "only this log topic")
	f.StringVar(&v.device, "device", "", "only this device: the record key")
	f.StringVar(&v.ledger, "ledger", "", "file of a simulation's ledger to compare with; the window is its own unless another is named")
	f.BoolVar(&v.all, "all", false, "tell what adds up, too")
	f.BoolVar(&v.strict, "strict", false, "losses of QoS 0 are wrong")
	f.StringVarP(&v.output, "output", "o", "text", "text, or json: one object a line")
	c.MarkFlagsMutuallyExclusive("http", "data")
	c.MarkFlagsMutuallyExclusive("last", "from")
	return c
}

// run verifies. An error is of asking, or could not be checked, unless it is a failure.
func (v *verifyFlags) run(ctx context.Context, e env, now time.Time) error {
	if v.output != "text" && v.output != "json" {
		return fmt.Errorf("--output %q: text or json", v.output)
	}
	v.request = verify.Request{Topic: v.topic, Device: v.device, All: v.all, Strict: v.strict}
	var ledger *sim.Ledger
	if v.ledger != "" {
		var err error
		if ledger, err = readLedger(v.ledger); err != nil {
			return err
		}
	}
	if err := v.window(now, ledger); err != nil {
		return err
	}
	p := &verifyPrinter{out: e.Out, err: e.Err, json: v.output == "json", all: v.all, began: now}
	var err error
	if v.data != "" || v.file != "" {
		v.request.Ledger = ledger
		err = v.read(ctx, e, p)
	} else {
		err = v.ask(ctx, p, ledger)
	}
	if err != nil {
		return err
	}
	return p.finish()
}

// read verifies the log of a node that does not run.
func (v *verifyFlags) read(ctx context.Context, e env, p *verifyPrinter) error {
	c, err := v.load(e)
	if err != nil {
		return err
	}
	if v.level == "" {
		c.Logging.Level = "warn"
	}
	_, err = app.VerifyData(ctx, app.Options{Config: c, Version: version, Logger: logger(e, c)}, v.request, p.row)
	return err
}

// ask has a running node verify.
func (v *verifyFlags) ask(ctx context.Context, p *verifyPrinter, ledger *sim.Ledger) error {
	r := &v.request
	q := url.Values{"from": {millis(r.From)}, "to": {millis(r.To)}}
	for name, value := range map[string]string{"topic": r.Topic, "device": r.Device} {
		if value != "" {
			q.Set(name, value)
		}
	}
	for name, on := range map[string]bool{"all": r.All, "strict": r.Strict, "stamps": ledger != nil} {
		if on {
			q.Set(name, "true")
		}
	}
	base := v.http
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/api/v1/verify?"+q.Encode(), nil)
	if err != nil {
		return fmt.Errorf("--http %q: %w", v.http, err)
	}
	if v.token != "" {
		token, err := os.ReadFile(v.token)
		if err != nil {
			return fmt.Errorf("--token-file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	client, err := clientTrusting(v.ca)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no node answers at %s (--http); name its address, or the folder of one that does not run with --data: %w", v.http, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return v.refused(res)
	}
	return p.stream(res.Body, ledger, r.Strict)
}

// refused tells what the server said, if it is a node's word: anything else may be any server's, and is not for a terminal.
func (v *verifyFlags) refused(res *http.Response) error {
	var problem struct{ Title, Detail string }
	if res.Header.Get("Content-Type") != "application/problem+json" || json.NewDecoder(io.LimitReader(res.Body, 16<<10)).Decode(&problem) != nil {
		return fmt.Errorf("what answers at %s (%s) is no node of Millrace; name one with --http, or the folder of one that does not run with --data", v.http, res.Status)
	}
	switch {
	case res.StatusCode == http.StatusUnauthorized && v.token == "":
		return fmt.Errorf("the node at %s asks who you are: name a file with a token (--token-file; millrace passwd --token makes one)", v.http)
	default:
		return fmt.Errorf("the node at %s answers %s: %q", v.http, res.Status, cmp.Or(problem.Detail, problem.Title))
	}
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

// window works out which times are meant.
func (v *verifyFlags) window(now time.Time, ledger *sim.Ledger) (err error) {
	r := &v.request
	if r.To = now; v.to != "" {
		if r.To, err = parseTime("--to", v.to, now); err != nil {
			return err
		}
	}
	switch {
	case v.from != "":
		if r.From, err = parseTime("--from", v.from, now); err != nil {
			return err
		}
	case ledger != nil && v.last == 10*time.Minute:
		first := now
		ledger.Entries(func(e sim.Entry) bool { first = e.Sent; return false })
		r.From = first.Add(-2 * time.Minute) // the clocks of two machines
	case v.last <= 0:
		return fmt.Errorf("--last %v: it must be above 0", v.last)
	default:
		r.From = r.To.Add(-v.last)
	}
	if !r.From.Before(r.To) {
		return fmt.Errorf("the window from %s to %s is empty", r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	}
	return nil
}

func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q: write 2026-05-01T12:00:00Z, or 12:00 for today", flag, text)
}

func readLedger(name string) (*sim.Ledger, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--ledger: %w", err)
	}
	defer f.Close()
	l, err := sim.ReadLedger(ledgerFile{f})
	if err != nil {
		return nil, fmt.Errorf("--ledger %s: %w", name, err)
	}
	return l, nil
}

// stream prints what a node tells, and compares its stamps with a ledger that the node does not have.
func (p *verifyPrinter) stream(body io.Reader, ledger *sim.Ledger, strict bool) error {
	var check *verify.LedgerCheck
	if ledger != nil {
		check = verify.NewLedgerCheck(ledger)
	}
	dec := json.NewDecoder(body)
	for {
		var row verify.Row
		if err := dec.Decode(&row); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("the node's answer ends within: %w", err)
		}
		switch {
		case row.Error != "":
			return errors.New(row.Error)
		case row.Stamps != nil && check != nil:
			for _, s := range row.Stamps {
				check.Saw(s)
			}
			continue
		case row.Summary != nil && check != nil:
			check.Complete(row.Summary, strict, func(f verify.Finding) { _ = p.row(verify.Row{Finding: &f}) })
		}
		if err := p.row(row); err != nil {
			return err
		}
	}
}
