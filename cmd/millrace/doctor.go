package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
)

func newDoctor(e env) *cobra.Command {
	var s settings
	var output string
	var probe bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "doctor", Short: "Look at the Kafka cluster that the log is, or will be, on", Args: cobra.NoArgs,
		Long: `Look at a Kafka cluster for what a node needs of it, before or while one runs on it: versions, replicas and min.insync.replicas, unclean election,
retention against how long sessions may be away, cleanup policies, quotas, rights that the node lacks, and who else may write what devices are sent. Each
finding says what it risks, and the command that mends it. Nothing is altered; with --probe a topic is made for a moment, to see the
cluster's clock and that writing works.

Exit codes: 0 nothing is wrong, warnings aside; 1 something is; 2 it could not be looked at.`,
		Example: `  millrace doctor --log kafka://h1:9092,h2:9092
  millrace doctor --config millrace.yaml --probe
  millrace doctor --config millrace.yaml -o json | jq '.findings[] | select(.severity=="error")'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := s.load(e)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			r, err := app.Doctor(ctx, config, probe)
			if errors.Is(err, app.ErrEmbedded) {
				return fmt.Errorf("%w: name a cluster with --log kafka://h1:9092 or in log.kafka", err)
			}
			if err != nil {
				return err
			}
			if err := print(e.Out, output, r, func() { sayDoctor(e.Out, r) }); err != nil {
				return err
			}
			if r.Bad() {
				return failure{errors.New("the cluster is not as a node needs it")}
			}
			return nil
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&probe, "probe", false, "make a topic for a moment, write a record and read it")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this time")
	outputFlag(c, &output)
	return c
}

func sayDoctor(w io.Writer, r *app.ClusterReport) {
	fmt.Fprintf(w, "%d brokers, Apache Kafka %s or what behaves like it; %d of the topics are there\n", r.Brokers, r.Version, r.Topics)
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "nothing to say against it")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "\n%s  %s: %s\n", f.Severity, printable(f.About), printable(f.What))
		if f.Risk != "" {
			fmt.Fprintf(w, "  risk  %s\n", printable(f.Risk))
		}
		if f.Fix != "" {
			fmt.Fprintf(w, "  fix   %s\n", printable(f.Fix))
		}
	}
}
