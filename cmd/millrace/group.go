package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/kafkatool"
)

func newGroup(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "group", Short: "List, describe, reset and delete consumer groups of a Kafka cluster", Args: cobra.NoArgs, RunE: help,
		Long: `Consumer groups of this machine's node, or of any Kafka cluster: who is in them, how far they lag, and where they go on.`,
	}
	c.AddCommand(newGroupList(e), newGroupDescribe(e), newGroupReset(e), newGroupDelete(e))
	return c
}

func newGroupList(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the groups", Args: cobra.NoArgs,
		Example: "  millrace group list\n  millrace group list --brokers h1:9092 -o json | jq -r '.[] | select(.state==\"Empty\").name'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return k.ask(cmd.Context(), func(ctx context.Context, c *kafkatool.Cluster) (any, func(io.Writer), error) {
				list, err := c.Groups(ctx)
				if err != nil {
					return nil, nil, err
				}
				return list, func(w io.Writer) { sayGroups(w, list) }, nil
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	return c
}

func sayGroups(w io.Writer, list []kafkatool.Group) {
	if len(list) == 0 {
		fmt.Fprintln(w, "there are no groups")
		return
	}
	table(w, "GROUP\tSTATE\tTYPE\tPROTOCOL\tCOORDINATOR", func(row func(string, ...any)) {
		for _, g := range list {
			row("%s\t%s\t%s\t%s\t%d", plain(g.Name), printable(g.State), printable(g.Type), printable(g.Protocol), g.Coordinator)
		}
	})
}

func newGroupDescribe(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	c := &cobra.Command{
		Use: "describe GROUP", Short: "Tell who is in a group, and how far it lags", Args: cobra.ExactArgs(1),
		Long: `Tell who is in a group and how far it lags, per partition: in records, and in time: how old the first record is that the group has not committed,
by its timestamp and this machine's clock. LOST are offsets that retention took away before they were committed.`,
		Example: `  millrace group describe billing
  millrace group describe billing -o json | jq '{lag, lag_seconds}'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.ask(cmd.Context(), func(ctx context.Context, c *kafkatool.Cluster) (any, func(io.Writer), error) {
				g, err := c.DescribeGroup(ctx, args[0], time.Now())
				if err != nil {
					return nil, nil, err
				}
				return g, func(w io.Writer) { sayGroup(w, g) }, nil
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	return c
}

func sayGroup(w io.Writer, g *kafkatool.GroupDetail) {
	fmt.Fprintf(w, "%s: %s, members: %d, coordinator %d", plain(g.Name), printable(g.State), len(g.Members), g.Coordinator)
	if g.Type == "consumer" { // not the one that everybody knows
		fmt.Fprint(w, ", the server assigns")
	}
	if g.Assignor != "" {
		fmt.Fprintf(w, ", assignor %s", printable(g.Assignor))
	}
	fmt.Fprintf(w, "\nlag: %d records, %s\n", g.Lag, seconds(g.Seconds))
	if len(g.Lags) > 0 {
		fmt.Fprintln(w)
		table(w, "TOPIC\tPARTITION\tCOMMITTED\tSTART\tEND\tLAG\tTIME\tLOST\tMEMBER\t", func(row func(string, ...any)) {
			for _, l := range g.Lags {
				member := "-"
				if l.Member != "" {
					member = short(l.Member, columnWidth)
				}
				row("%s\t%d\t%s\t%d\t%d\t%d\t%s\t%d\t%s\t%s", plain(l.Topic), l.Partition, number(l.Committed), l.Start, l.End, l.Records, seconds(l.Seconds), l.Lost, member, printable(l.Error))
			}
		})
	}
	if len(g.Members) > 0 {
		fmt.Fprintln(w)
		table(w, "MEMBER\tINSTANCE\tCLIENT\tHOST\tPROTOCOL\tPARTITIONS", func(row func(string, ...any)) {
			for _, m := range g.Members {
				row("%s\t%s\t%s\t%s\t%s\t%d", short(m.ID, columnWidth), value(m.Instance, "-"), plain(m.Client), plain(m.Host), m.Protocol, m.Partitions)
			}
		})
	}
}

// resetFlags say where a group is to go on; one of them does.
type resetFlags struct {
	offset, shift    int64
	earliest, latest bool
	at               string
}

func (r *resetFlags) place(c *cobra.Command, now time.Time) (kafkatool.Place, error) {
	switch f := c.Flags(); {
	case f.Changed("to-offset"):
		if r.offset < 0 {
			return kafkatool.Place{}, errors.New("--to-offset: 0 or more")
		}
		return kafkatool.Place{Kind: kafkatool.At, Value: r.offset}, nil
	case f.Changed("shift"):
		return kafkatool.Place{Kind: kafkatool.Shift, Value: r.shift}, nil
	case r.earliest:
		return kafkatool.Place{Kind: kafkatool.Earliest}, nil
	case r.latest:
		return kafkatool.Place{Kind: kafkatool.Latest}, nil
	case r.at != "":
		ms, err := kafkatool.ParseTime(r.at, now)
		return kafkatool.Place{Kind: kafkatool.Since, Value: ms}, err
	}
	return kafkatool.Place{}, errors.New("say where to: --to-earliest, --to-latest, --to-offset N, --to-time TIME or --shift N")
}

func newGroupReset(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	r := resetFlags{}
	var topics []string
	var dry bool
	c := &cobra.Command{
		Use: "reset GROUP", Short: "Set where a group goes on", Args: cobra.ExactArgs(1),
		Long: `Set where a group goes on, in the topics that are named or in all in which it has committed something. It must have no members: they would commit over
it. An offset that is not in a partition becomes its first or last one. With --dry-run nothing is changed, and what would be is shown.`,
		Example: `  millrace group reset billing --to-earliest --dry-run
  millrace group reset billing --topic orders --to-time 2026-05-01T06:00:00Z
  millrace group reset billing --topic orders:0,2 --shift -100
  millrace group reset billing --to-time 90m               # 90 minutes ago`,
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := r.place(cmd, time.Now())
			if err != nil {
				return err
			}
			return k.ask(cmd.Context(), func(ctx context.Context, c *kafkatool.Cluster) (any, func(io.Writer), error) {
				moves, err := c.Plan(ctx, kafkatool.Reset{Group: args[0], Topics: topics, To: to})
				if err == nil && !dry {
					err = c.Commit(ctx, args[0], moves)
				}
				if err != nil {
					return nil, nil, err
				}
				return map[string]any{"group": args[0], "dry_run": dry, "partitions": moves}, func(w io.Writer) { sayMoves(w, args[0], moves, dry) }, nil
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	f := c.Flags()
	f.StringArrayVarP(&topics, "topic", "t", nil, "NAME, or NAME:0,2 for some partitions; may be repeated (default: all with a committed offset)")
	f.Int64Var(&r.offset, "to-offset", 0, "to this offset")
	f.Int64Var(&r.shift, "shift", 0, "so many records on; less than 0: back")
	f.BoolVar(&r.earliest, "to-earliest", false, "to the first record that is there")
	f.BoolVar(&r.latest, "to-latest", false, "past the last record")
	f.StringVar(&r.at, "to-time", "", "to the first record of this time or later: RFC 3339, milliseconds, or how long ago (90m)")
	f.BoolVar(&dry, "dry-run", false, "change nothing, show what would be")
	c.MarkFlagsMutuallyExclusive("to-offset", "shift", "to-earliest", "to-latest", "to-time")
	return c
}

func newGroupDelete(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	var yes bool
	c := &cobra.Command{
		Use: "delete GROUP…", Aliases: []string{"rm"}, Short: "Delete groups and what they have committed", Args: cobra.MinimumNArgs(1),
		Long:    `Delete groups with all their offsets. A group must have no members. Whoever uses the name next begins where its configuration says, as a new group does.`,
		Example: "  millrace group delete billing-test --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return fmt.Errorf("this would delete %s, with all offsets, for good: say --yes", plain(strings.Join(args, ", ")))
			}
			return eachOf(&k, cmd.Context(), args, func(name string) outcome { return outcome{Group: name} }, func(ctx context.Context, c *kafkatool.Cluster, name string) (string, error) {
				return "deleted", c.DeleteGroup(ctx, name)
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	c.Flags().BoolVar(&yes, "yes", false, "really")
	return c
}

func sayMoves(w io.Writer, group string, moves []kafkatool.Move, dry bool) {
	if dry {
		fmt.Fprintf(w, "%s: would be reset; nothing was changed\n\n", plain(group))
	} else {
		fmt.Fprintf(w, "%s: was reset\n\n", plain(group))
	}
	table(w, "TOPIC\tPARTITION\tOLD\t\tNEW\tMOVES\t", func(row func(string, ...any)) {
		for _, m := range moves {
			by := "-"
			if m.Old != nil {
				by = fmt.Sprintf("%+d", m.New-*m.Old)
			}
			row("%s\t%d\t%s\t→\t%d\t%s\t%s", plain(m.Topic), m.Partition, number(m.Old), m.New, by, m.Note)
		}
	})
}
