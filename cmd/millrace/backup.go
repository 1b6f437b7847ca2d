package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
)

func newBackup(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var data string
	var o app.BackupOptions
	c := &cobra.Command{
		Use: "backup FOLDER", Short: "Copy the log of a node to a folder, while it runs", Args: cobra.ExactArgs(1),
		Long: `Copy the embedded log to a folder: a cut at one commit, with every topic, session, retained message, group and its offsets as they were then, while devices and
clients go on. Only segments that are not in the folder yet are copied. Every batch is verified on the way; what is damaged is not copied.

A running node is asked over HTTP, and only an administrator may; with --data the folder of one that does not run is read. Keys, certificates, password files
and the configuration are not in it. See docs/backup.md.

Exit codes: 0 the backup is whole; 1 it could not be made; 2 wrong command line.`,
		Example: `  millrace backup /backup/millrace --token file:admin.token
  millrace backup /backup/millrace --token env:MILLRACE_TOKEN --keep 14 -o json
  millrace backup /backup/millrace --data /var/lib/millrace      # of a node that does not run
  millrace backup list /backup/millrace
  millrace restore /backup/millrace --data /var/lib/millrace-new`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newProgress(e.Err, "copied")
			o.Progress = p.bytes
			source := func(since int64) (io.ReadCloser, error) {
				q := url.Values{}
				if since != math.MinInt64 {
					q.Set("since", strconv.FormatInt(since, 10))
				}
				res, err := n.send(cmd.Context(), "GET", "log/backup", q, nil)
				if err != nil {
					return nil, err
				}
				return res.Body, nil
			}
			if data != "" {
				s, closer, err := app.StoppedNode(cmd.Context(), data)
				if err != nil {
					return failure{err}
				}
				defer closer() //nolint:errcheck // it was only read
				source = s
			}
			if n.output != "text" && n.output != "json" {
				return fmt.Errorf("--output %q: text or json", n.output)
			}
			r, err := app.Backup(args[0], o, source)
			if err != nil {
				return failure{err}
			}
			return print(e.Out, n.output, r, func() { sayBackup(e.Out, r) })
		},
	}
	n.flags(c)
	f := c.Flags()
	f.StringVar(&data, "data", "", "back up this data folder, of a node that does not run")
	f.IntVar(&o.Keep, "keep", 0, "remove all but so many cuts afterwards; 0: none")
	f.BoolVar(&o.AllowDamaged, "allow-damaged", false, "leave out segments that are damaged")
	c.MarkFlagsMutuallyExclusive("http", "data")
	c.AddCommand(newBackupList(e))
	return c
}

func sayBackup(w io.Writer, r *app.BackupResult) {
	fmt.Fprintf(w, "cut at commit %d, %s: %d segments of %s, of which %s were copied\n", r.Commit, time.UnixMilli(r.Time).Format("2006-01-02 15:04:05"), r.Segments,
		size(r.Bytes), size(r.Copied))
	for _, name := range r.Damaged {
		fmt.Fprintf(w, "LEFT OUT, damaged: %s\n", name)
	}
	if r.Removed > 0 {
		fmt.Fprintf(w, "%d older cuts were removed\n", r.Removed)
	}
}

func newBackupList(e env) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "list FOLDER", Short: "List the cuts of a backup", Args: cobra.ExactArgs(1),
		Example: `  millrace backup list /backup/millrace
  millrace backup list /backup/millrace -o json | jq '.[-1].commit'`,
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := app.Backups(args[0])
			if err != nil {
				return failure{err}
			}
			return print(e.Out, output, list, func() {
				for _, i := range list {
					sayCut(e.Out, i)
				}
			})
		},
	}
	outputFlag(c, &output)
	return c
}

func sayCut(w io.Writer, i app.BackupInfo) {
	fmt.Fprintf(w, "commit %d  %s  %d segments  %s", i.Commit, time.UnixMilli(i.Time).Format("2006-01-02 15:04:05"), i.Segments, size(i.Bytes))
	if i.Left > 0 {
		fmt.Fprintf(w, "  without %d damaged segments", i.Left)
	}
	fmt.Fprintln(w)
}

func newRestore(e env) *cobra.Command {
	var data, output string
	var o app.RestoreOptions
	c := &cobra.Command{
		Use: "restore FOLDER", Short: "Make a data folder of a backup", Args: cobra.ExactArgs(1),
		Long: `Make a data folder of a cut that millrace backup has made, and verify every byte of it. The folder must be new or empty; it becomes a log only once all of it is
there and right. A node is started on it as on any other. With --check nothing is written: the backup is verified.

Exit codes: 0 it is restored, or whole; 1 it is not: damaged, missing, or the folder is not empty; 2 wrong command line.`,
		Example: `  millrace restore /backup/millrace --data /var/lib/millrace-new
  millrace restore /backup/millrace --data ./yesterday --commit 81234
  millrace restore /backup/millrace --check`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (data == "") == !o.Check {
				return errors.New("name the new data folder with --data, or only --check")
			}
			if output != "text" && output != "json" {
				return fmt.Errorf("--output %q: text or json", output)
			}
			o.Progress = newProgress(e.Err, "restored").bytes
			info, err := app.Restore(cmd.Context(), args[0], data, o)
			if err != nil {
				return failure{err}
			}
			return print(e.Out, output, info, func() { sayCut(e.Out, *info) })
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "the folder to make")
	f.Uint64Var(&o.Commit, "commit", 0, "which cut; 0: the newest")
	f.BoolVar(&o.Check, "check", false, "only verify the backup")
	outputFlag(c, &output)
	return c
}
