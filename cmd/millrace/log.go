package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
)

func newLog(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "log", Short: "Look at the files of a log: check, dump", Args: cobra.NoArgs, RunE: help,
		Long: `Look at the files of an embedded log that no node has open. Nothing is changed. A node that runs verifies its own files in the background; what it
finds is in /readyz, in the metric millrace_log_quarantined and in its log.`,
	}
	c.AddCommand(newLogCheck(e), newLogDump(e))
	return c
}

func newLogCheck(e env) *cobra.Command {
	var data, topic, output string
	c := &cobra.Command{
		Use: "check", Short: "Verify everything that a log has on disk", Args: cobra.NoArgs,
		Long: `Read all of a log that no node has open, and verify it: the checksum of every batch, that offsets follow each other, the indexes against the log, the frames
of the write-ahead log, the checkpoint, what is remembered of producers. Nothing is changed.

Damage is what is lost unless it is mended: each line says which offsets, in which file, and what it means. Notes are what the next start or the
first use puts right.

Exit codes: 0 nothing is damaged; 1 something is; 2 it could not be looked at (a node is running on it, there is no log).`,
		Example: `  millrace log check --data /var/lib/millrace
  millrace log check --data ./backup --topic telemetry
  millrace log check -o json | jq -r '.damage[] | [.topic,.partition,.from,.to,.file] | @tsv'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: text or json", output)
			}
			p := newProgress(e.Err, "checked")
			r, err := app.CheckLog(cmd.Context(), data, topic, p.bytes)
			if err != nil {
				return err
			}
			if err := print(e.Out, output, r, func() { sayCheck(e.Out, r) }); err != nil {
				return err
			}
			if n := len(r.Damage); n > 0 {
				return failure{fmt.Errorf("%s is damaged in %d places", data, n)}
			}
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "./millrace-data", "data folder of a node that does not run, or a copy of one")
	c.Flags().StringVar(&topic, "topic", "", "only the segments of this topic")
	outputFlag(c, &output)
	return c
}

// progress tells on a terminal, now and then, how far something long is.
type progress struct {
	w     io.Writer
	what  string
	began time.Time
	told  time.Time
}

func newProgress(w io.Writer, what string) *progress {
	now := time.Now()
	return &progress{w, what, now, now}
}

// progressEvery is how often; what is done before that says nothing.
const progressEvery = 2 * time.Second

func (p *progress) bytes(done, total int64) {
	now := time.Now()
	if now.Sub(p.told) < progressEvery {
		return
	}
	p.told = now
	line := fmt.Sprintf("%s %s", p.what, size(done))
	if total > 0 {
		line = fmt.Sprintf("%s %s of %s, %d %%", p.what, size(done), size(total), done*100/total)
	}
	if took := now.Sub(p.began); done > 0 && done < total {
		line += fmt.Sprintf(", %s left", span(time.Duration(float64(took)/float64(done)*float64(total-done))))
	}
	fmt.Fprintln(p.w, line)
}

func sayCheck(w io.Writer, r *app.LogReport) {
	fmt.Fprintf(w, "format %d, commit %d, %d commits in the write-ahead log behind it\n", r.Format, r.Commit, r.WALCommits)
	fmt.Fprintf(w, "%d topics, %d partitions, %d segments of %s: %d batches, %d records are whole\n", r.Topics, r.Partitions, r.Segments, size(r.Bytes),
		r.Batches, r.Records)
	for _, f := range r.Damage {
		sayFault(w, "DAMAGED", f)
	}
	for _, f := range r.Notes {
		sayFault(w, "note", f)
	}
	if len(r.Damage) == 0 {
		fmt.Fprintln(w, "nothing is damaged")
	}
}

func sayFault(w io.Writer, kind string, f app.LogFault) {
	var at []string
	if f.Topic != "" {
		at = append(at, fmt.Sprintf("topic %s", printable(f.Topic)))
	}
	if f.Partition != nil {
		at = append(at, fmt.Sprintf("partition %d", *f.Partition))
	}
	if f.From != nil && f.To != nil {
		at = append(at, fmt.Sprintf("offsets %d to %d", *f.From, *f.To-1))
	}
	file := f.File
	if f.Byte != nil {
		file += fmt.Sprintf(" at byte %d", *f.Byte)
	}
	fmt.Fprintf(w, "\n%s  %s\n  file  %s\n  what  %s\n", kind, cmp.Or(strings.Join(at, ", "), "the log"), file, printable(f.What))
	if f.Meaning != "" {
		fmt.Fprintf(w, "  so    %s\n", f.Meaning)
	}
}

// dumpParts are what there is to dump.
var dumpParts = []string{"checkpoint", "wal", "segments", "indexes"}

func newLogDump(e env) *cobra.Command {
	var data, output string
	o := app.LogDumpOptions{Partition: -1}
	c := &cobra.Command{
		Use: "dump [" + strings.Join(dumpParts, "|") + "]...", Short: "Tell what is in the files of a log",
		Long: `Tell what is in the files of a log that no node has open: batches as Kafka's own kafka-dump-log does, and the checkpoint, the write-ahead log and the
indexes. Without an argument: checkpoint and segments. With --records what is in the batches, too; the records of internal topics (sessions, retained
messages, groups and their offsets, transactions) are decoded. Damage stands where it is.`,
		Example: `  millrace log dump --data /var/lib/millrace checkpoint
  millrace log dump segments --topic telemetry --partition 3 --from 1000 --to 1100 --records
  millrace log dump wal -o json | jq 'select(.kind=="frame")'
  millrace log dump segments --topic __consumer_offsets --records`,
		ValidArgs: dumpParts,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: text or json", output)
			}
			if len(args) == 0 {
				args = []string{"checkpoint", "segments"}
			}
			for _, a := range args {
				if !slices.Contains(dumpParts, a) {
					return fmt.Errorf("%q: one of %s", a, strings.Join(dumpParts, ", "))
				}
			}
			o.Checkpoint, o.WAL = slices.Contains(args, "checkpoint"), slices.Contains(args, "wal")
			o.Segments, o.Indexes = slices.Contains(args, "segments"), slices.Contains(args, "indexes")
			w := bufio.NewWriter(e.Out)
			say := sayLine
			if output == "json" {
				say = jsonLine
			}
			err := app.DumpLog(cmd.Context(), data, o, func(l app.LogDumpLine) error { return say(w, l) })
			if ferr := w.Flush(); ferr != nil {
				return failure{fmt.Errorf("write the result: %w", ferr)}
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "./millrace-data", "data folder of a node that does not run, or a copy of one")
	f.StringVar(&o.Topic, "topic", "", "only this topic")
	f.Int32Var(&o.Partition, "partition", -1, "only this partition")
	f.Int64Var(&o.From, "from", 0, "offsets from here on")
	f.Int64Var(&o.To, "to", 0, "offsets before this one; 0: all")
	f.BoolVar(&o.Records, "records", false, "what is in the batches, too")
	f.StringVarP(&output, "output", "o", "text", "text, or json: one object a line")
	return c
}

func jsonLine(w io.Writer, l app.LogDumpLine) error {
	b, err := json.Marshal(l)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	return err
}

// maxField is how much of a key or value is told in a line for people.
const maxField = 200

func sayLine(w io.Writer, l app.LogDumpLine) error {
	var b strings.Builder
	b.WriteString(l.Kind)
	for _, f := range l.Fields {
		var v string
		switch x := f.Value.(type) {
		case string:
			v = x
			if f.Name == "key" || f.Name == "value" || strings.HasPrefix(f.Name, "header ") {
				v = fmt.Sprintf("%q", short(x, maxField))
			}
		case []byte:
			v = fmt.Sprintf("%d bytes %x", len(x), x[:min(len(x), maxField/2)])
		case nil:
			v = "null"
		case int64:
			v = fmt.Sprint(x)
			if x == math.MaxInt64 {
				v = "none"
			}
		default:
			j, err := json.Marshal(x)
			if err != nil {
				return errors.Join(errors.New("encode "+f.Name), err)
			}
			v = string(j)
		}
		if v != "" {
			fmt.Fprintf(&b, "  %s: %s", printable(f.Name), printable(v))
		}
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
