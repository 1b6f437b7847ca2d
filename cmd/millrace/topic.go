package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/kafkatool"
)

func newTopic(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "topic", Short: "List, describe, create, alter and delete topics of a Kafka cluster", Args: cobra.NoArgs, RunE: help,
		Long: `Topics of this machine's node, or of any Kafka cluster: --brokers names it, or --config the configuration of a node that says how to get in.`,
	}
	c.AddCommand(newTopicList(e), newTopicDescribe(e), newTopicCreate(e), newTopicAlter(e), newTopicDelete(e))
	return c
}

func newTopicList(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	var internal bool
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the topics", Args: cobra.NoArgs,
		Long: "List the topics, with the records between their first and last offset; what compaction took away is counted.",
		Example: `  millrace topic list
  millrace topic list --brokers h1:9092,h2:9092 --internal
  millrace topic list -o json | jq -r '.[].name'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return k.ask(cmd.Context(), func(ctx context.Context, c *kafkatool.Cluster) (any, func(io.Writer), error) {
				list, err := c.Topics(ctx, internal)
				if err != nil {
					return nil, nil, err
				}
				return list, func(w io.Writer) { sayTopics(w, list) }, nil
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	c.Flags().BoolVar(&internal, "internal", false, "internal topics too")
	return c
}

func sayTopics(w io.Writer, list []kafkatool.Topic) {
	if len(list) == 0 {
		fmt.Fprintln(w, "there are no topics")
		return
	}
	table(w, "TOPIC\tPARTITIONS\tREPLICAS\tRECORDS\t", func(row func(string, ...any)) {
		for _, t := range list {
			row("%s\t%d\t%d\t%s\t%s", plain(t.Name), t.Partitions, t.Replicas, number(t.Records), printable(t.Error))
		}
	})
}

func newTopicDescribe(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	var all bool
	c := &cobra.Command{
		Use: "describe TOPIC", Short: "Tell about a topic: partitions, leaders, offsets, configs", Args: cobra.ExactArgs(1),
		Example: `  millrace topic describe telemetry
  millrace topic describe telemetry --all
  millrace topic describe telemetry -o json | jq '.partitions[] | select(.leader < 0)'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return k.ask(cmd.Context(), func(ctx context.Context, c *kafkatool.Cluster) (any, func(io.Writer), error) {
				t, err := c.Describe(ctx, args[0])
				if err != nil {
					return nil, nil, err
				}
				return t, func(w io.Writer) { sayTopic(w, t, all) }, nil
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	c.Flags().BoolVar(&all, "all", false, "configs that are the cluster's defaults, too (-o json always has them)")
	return c
}

func sayTopic(w io.Writer, t *kafkatool.TopicDetail, all bool) {
	fmt.Fprintf(w, "%s: %d partitions, %d records", plain(t.Name), len(t.Partitions), t.Records)
	if t.ID != "" {
		fmt.Fprintf(w, ", id %s", t.ID)
	}
	if t.Internal {
		fmt.Fprint(w, ", internal")
	}
	fmt.Fprint(w, "\n\n")
	table(w, "PARTITION\tLEADER\tREPLICAS\tIN SYNC\tSTART\tEND\t", func(row func(string, ...any)) {
		for _, p := range t.Partitions {
			row("%d\t%d\t%s\t%s\t%d\t%d\t%s", p.ID, p.Leader, brokers(p.Replicas), brokers(p.InSync), p.Start, p.End, printable(p.Error))
		}
	})
	if t.Unknown != "" {
		fmt.Fprintf(w, "\nits configs are not known: %s\n", printable(t.Unknown))
		return
	}
	fmt.Fprintln(w)
	none := true
	table(w, "CONFIG\tVALUE\tFROM", func(row func(string, ...any)) {
		for _, k := range t.Configs {
			if all || k.Set {
				none = false
				row("%s\t%s\t%s", plain(k.Name), value(k.Value, "(secret)"), strings.ToLower(strings.ReplaceAll(k.Source, "_", " ")))
			}
		}
	})
	if none {
		fmt.Fprintln(w, "all are the cluster's defaults (--all shows them)")
	}
}

func brokers(list []int32) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]")
}

func newTopicCreate(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	t := kafkatool.NewTopic{}
	var configs []string
	var there, dry bool
	c := &cobra.Command{
		Use: "create TOPIC…", Short: "Create topics", Args: cobra.MinimumNArgs(1),
		Example: `  millrace topic create orders --partitions 6
  millrace topic create state --partitions 6 --set cleanup.policy=compact
  millrace topic create orders --brokers h1:9092 --replicas 3 --set retention.ms=604800000 --if-not-exists`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if t.Configs, err = pairs("set", configs); err != nil {
				return err
			}
			return each(&k, cmd.Context(), args, func(ctx context.Context, c *kafkatool.Cluster, name string) (string, error) {
				one := t
				one.Name = name
				made, err := c.Create(ctx, one, there, dry)
				switch {
				case err != nil:
					return "", err
				case !made:
					return "there already", nil
				case dry:
					return "would be created", nil
				}
				return "created", nil
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	f := c.Flags()
	f.Int32VarP(&t.Partitions, "partitions", "p", 0, "partitions (default: as many as the cluster does)")
	f.Int16Var(&t.Replicas, "replicas", 0, "replicas of each (default: as many as the cluster does)")
	f.StringArrayVar(&configs, "set", nil, "a config, NAME=VALUE; may be repeated")
	f.BoolVar(&there, "if-not-exists", false, "a topic that is there will do, whatever it is like")
	f.BoolVar(&dry, "dry-run", false, "only ask whether it could be created")
	return c
}

// outcome is what became of one of several topics or groups.
type outcome struct {
	Topic  string `json:"topic,omitempty"`
	Group  string `json:"group,omitempty"`
	Result string `json:"result,omitempty"`
	Error  string `json:"error,omitempty"`
}

// each does something to each of several topics; a failure with one does not keep it from the others.
func each(k *kafkaFlags, ctx context.Context, names []string, do func(context.Context, *kafkatool.Cluster, string) (string, error)) error {
	return eachOf(k, ctx, names, func(name string) outcome { return outcome{Topic: name} }, do)
}

// eachOf is each for what is named so.
func eachOf(k *kafkaFlags, ctx context.Context, names []string, named func(string) outcome, do func(context.Context, *kafkatool.Cluster, string) (string, error)) error {
	return k.ask(ctx, func(ctx context.Context, c *kafkatool.Cluster) (any, func(io.Writer), error) {
		var list []outcome
		var failed error
		for _, name := range names {
			result, err := do(ctx, c, name)
			o := named(name)
			o.Result = result
			if err != nil {
				o.Error = err.Error()
			}
			list, failed = append(list, o), errors.Join(failed, err)
		}
		if failed != nil && len(names) > 1 {
			failed = failure{failed} // something may be done
		}
		return list, func(w io.Writer) {
			for _, o := range list {
				if o.Error == "" {
					fmt.Fprintf(w, "%s: %s\n", plain(o.Topic+o.Group), o.Result)
				}
			}
		}, failed
	})
}

func newTopicAlter(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	a := kafkatool.Altering{}
	var set []string
	var dry bool
	c := &cobra.Command{
		Use: "alter TOPIC", Short: "Alter a topic's configs, or give it more partitions", Args: cobra.ExactArgs(1),
		Long: `Alter a topic's configs, or give it more partitions. Others of its configs stay as they are.

With more partitions, keys go to other ones than before: what consumers know of a key's order ends there. A node refuses it for a topic that its
routes write.`,
		Example: `  millrace topic alter orders --set retention.ms=604800000 --unset max.message.bytes
  millrace topic alter orders --partitions 12 --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if a.Set, err = pairs("set", set); err != nil {
				return err
			}
			for _, name := range a.Unset {
				if _, both := a.Set[name]; both {
					return fmt.Errorf("%s: --set and --unset exclude each other", name)
				}
			}
			if len(a.Set)+len(a.Unset) == 0 && a.Partitions == 0 || a.Partitions < 0 {
				return errors.New("nothing to alter: --set NAME=VALUE, --unset NAME or --partitions N")
			}
			return k.ask(cmd.Context(), func(ctx context.Context, c *kafkatool.Cluster) (any, func(io.Writer), error) {
				changes, err := c.Alter(ctx, args[0], a, dry)
				if err != nil {
					return nil, nil, err
				}
				return map[string]any{"topic": args[0], "dry_run": dry, "changes": changes}, func(w io.Writer) { sayChanges(w, args[0], changes, dry) }, nil
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	f := c.Flags()
	f.StringArrayVar(&set, "set", nil, "a config, NAME=VALUE; may be repeated")
	f.StringArrayVar(&a.Unset, "unset", nil, "a config that is to be the cluster's default again; may be repeated")
	f.Int32Var(&a.Partitions, "partitions", 0, "how many there are to be; never fewer")
	f.BoolVar(&dry, "dry-run", false, "only ask whether it could be done, and show what changes")
	return c
}

func sayChanges(w io.Writer, topic string, changes []kafkatool.Change, dry bool) {
	if len(changes) == 0 {
		fmt.Fprintf(w, "%s: it is so already\n", plain(topic))
		return
	}
	verb := "altered"
	if dry {
		verb = "would be altered"
	}
	fmt.Fprintf(w, "%s: %s\n", plain(topic), verb)
	table(w, "  WHAT\tOLD\tNEW", func(row func(string, ...any)) {
		for _, ch := range changes {
			row("  %s\t%s\t%s", plain(ch.What), value(ch.Old, "(not known)"), value(ch.New, "(the cluster's default)"))
		}
	})
}

func newTopicDelete(e env) *cobra.Command {
	k := kafkaFlags{env: e}
	var yes bool
	c := &cobra.Command{
		Use: "delete TOPIC…", Aliases: []string{"rm"}, Short: "Delete topics and all their records", Args: cobra.MinimumNArgs(1),
		Example: "  millrace topic delete scratch --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return fmt.Errorf("this would delete %s, with all records, for good: say --yes", plain(strings.Join(args, ", ")))
			}
			return each(&k, cmd.Context(), args, func(ctx context.Context, c *kafkatool.Cluster, name string) (string, error) {
				return "deleted", c.Delete(ctx, name)
			})
		},
	}
	k.flags(c)
	k.outputFlag(c)
	c.Flags().BoolVar(&yes, "yes", false, "really")
	return c
}
