package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace-io/millrace/verify"
)

// verifyPrinter writes what verify says, for people or for programs.
type verifyPrinter struct {
	out, err io.Writer
	json     bool
	all      bool // show every row
	began    time.Time
	told     time.Time // when progress was told

	rows     []verify.Counts
	totals   []verify.Counts
	findings []verify.Finding
	summary  *verify.Summary
}

// maxRowsShown bounds a table for people.
const maxRowsShown = 200

func (p *verifyPrinter) row(r verify.Row) error {
	if r.Summary != nil {
		p.summary = r.Summary
	}
	if r.Progress != nil {
		p.progress(r.Progress)
	}
	if p.json {
		if r.Progress != nil {
			return nil
		}
		if err := json.NewEncoder(p.out).Encode(r); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
		return nil
	}
	switch {
	case r.Counts != nil && r.Counts.Minute == 0:
		p.totals = append(p.totals, *r.Counts)
	case r.Counts != nil && !p.all && r.Counts.Status.Mild(): // the notes tell
	case r.Counts != nil && len(p.rows) <= maxRowsShown:
		p.rows = append(p.rows, *r.Counts)
	case r.Finding != nil:
		p.findings = append(p.findings, *r.Finding)
	}
	return nil
}

// progress is told of long runs, every few seconds.
func (p *verifyPrinter) progress(g *verify.Progress) {
	if now := time.Now(); now.Sub(p.began) > 2*time.Second && now.Sub(p.told) > 2*time.Second {
		p.told = now
		fmt.Fprintf(p.err, "verify: %d %%, %d records, at %s\n", g.Done, g.Records, time.UnixMilli(g.Minute).UTC().Format("2006-01-02 15:04Z"))
	}
}

// finish writes the tables and makes the exit code.
func (p *verifyPrinter) finish() error {
	if p.summary == nil {
		return errors.New("it could not be checked: the answer ended before the summary")
	}
	if !p.json {
		p.text()
	}
	if !p.summary.Complete {
		return failure{errors.New(p.summary.Text)}
	}
	return nil
}

func (p *verifyPrinter) text() {
	if len(p.totals) > 0 {
		p.table("TOPIC", p.totals, func(k *verify.Counts) string { return k.Topic })
	}
	if len(p.rows) > 0 {
		fmt.Fprintln(p.out)
		p.table("MINUTE (UTC)\tTOPIC\tDEVICE", p.rows[:min(len(p.rows), maxRowsShown)], func(k *verify.Counts) string {
			device := printable(k.Device)
			if k.Others {
				device = "(others)"
			}
			return time.UnixMilli(k.Minute).UTC().Format("2006-01-02 15:04") + "\t" + k.Topic + "\t" + device
		})
		if len(p.rows) > maxRowsShown {
			fmt.Fprintln(p.out, "… more: choose --topic or --device, or -o json for all")
		}
	}
	for _, level := range []struct {
		severity verify.Severity
		mark     string
	}{{verify.Wrong, "WRONG"}, {verify.Loss, "lost at QoS 0"}, {verify.Note, "note"}} {
		p.list(level.severity, level.mark)
	}
	if n := p.summary.Kinds[verify.SequenceQoS1]; n > 0 {
		fmt.Fprintf(p.out, "\n%d messages are in the log more than once, as QoS 1 allows.\n", n)
	}
	if s := p.summary; s.Devices > 0 {
		fmt.Fprintf(p.out, "\n%d sequence numbers of %d devices were followed.\n", s.Sequenced, s.Devices)
	}
	if p.summary.Complete { // else the error says it
		fmt.Fprintf(p.out, "\n%s\n", p.summary.Text)
	}
}

func (p *verifyPrinter) list(severity verify.Severity, mark string) {
	begun := false
	for i := range p.findings {
		f := &p.findings[i]
		if f.Severity != severity {
			continue
		}
		if !begun {
			fmt.Fprintln(p.out)
			begun = true
		}
		where := ""
		switch {
		case f.Offset >= 0:
			where = fmt.Sprintf(" %s/%d@%d", f.Topic, f.Partition, f.Offset)
		case f.Topic != "" && f.Partition >= 0:
			where = fmt.Sprintf(" %s/%d", f.Topic, f.Partition)
		case f.Topic != "":
			where = " " + f.Topic
		}
		fmt.Fprintf(p.out, "%s: %s%s: %s\n", mark, f.Kind, where, printable(f.Text))
	}
}

func (p *verifyPrinter) table(head string, rows []verify.Counts, name func(*verify.Counts) string) {
	w := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tPUBLISHED\tLOGGED\tFOUND\tOWED\tDELIVERED\tOTHER\tSTATUS\n", head)
	for i := range rows {
		k := &rows[i]
		status := string(k.Status)
		if status == "" {
			status = "ok"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", name(k), k.Published, k.Logged, k.Found, k.Owed, k.Delivered, others(k), status)
	}
	w.Flush() //nolint:errcheck // as with every print
}

// others are the counts that few rows have.
func others(k *verify.Counts) string {
	var list []string
	one := func(name string, n uint64) {
		if n > 0 {
			list = append(list, fmt.Sprintf("%s %d", name, n))
		}
	}
	one("kafka", k.Foreign)
	one("dead", k.Dead)
	one("uncounted", k.Uncounted)
	one("unlogged", k.Unlogged)
	one("unknown", k.Unknown)
	for _, m := range []struct {
		name string
		n    map[string]uint64
	}{{"failed", k.Failed}, {"refused", k.Refused}, {"dropped", k.Dropped}} {
		for _, reason := range slices.Sorted(maps.Keys(m.n)) {
			one(m.name+":"+reason, m.n[reason])
		}
	}
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ", ")
}

// printable takes out of a device's words what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}
