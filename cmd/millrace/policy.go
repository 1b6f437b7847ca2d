package main

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
)

func newPolicy(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Ask a policy who may do what", Args: cobra.NoArgs, RunE: help,
		Long: "The policy says which account may publish and subscribe to what, and what Kafka clients may do. It is `policy:` of the configuration, or the file that this names.",
	}
	c.AddCommand(newPolicyCheck(e))
	return c
}

func newPolicyCheck(e env) *cobra.Command {
	var s settings
	var output, as, client, of string
	c := &cobra.Command{
		Use: "check (publish|subscribe|receive) TOPIC | (read|write|manage) NAME", Short: "May somebody do something, and which rule says so?", Args: cobra.ExactArgs(2),
		Long: `Say what a node with this configuration would answer, and which rule decides. Exit code 0: it is allowed; 1: it is denied.

Of a filter that may be subscribed to, it names the rules that deny a part: what is published there does not reach the subscriber.

read, write and manage are what Kafka clients do to the log topic NAME, or, with --of, to a consumer group, a transactional id or the cluster. ACLs of
the running node may deny more, and allow what no rule speaks of.`,
		Example: `  millrace policy check --config millrace.yaml --as truck-7 publish fleet/truck-7/telemetry
  millrace policy check --config millrace.yaml --as alice --client alice-laptop subscribe 'fleet/#'
  millrace policy check --config millrace.yaml --as etl write orders
  millrace policy check --config millrace.yaml --as etl --of group read etl-1
  millrace policy check --config millrace.yaml receive '$SYS/broker/uptime' -o json`,
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := s.load(e)
			if err != nil {
				return err
			}
			var j *app.Judgement
			if app.LogAction(args[0]) {
				j, err = app.JudgeLog(cfg, as, args[0], of, args[1])
			} else {
				j, err = app.Judge(cfg, as, cmp.Or(client, as), args[0], args[1])
			}
			if err != nil {
				return err
			}
			if err := print(e.Out, output, j, func() { explain(e, j) }); err != nil {
				return err
			}
			if !j.Allowed {
				return failure{errors.New("denied")}
			}
			return nil
		},
	}
	s.flags(c)
	outputFlag(c, &output)
	c.Flags().StringVar(&as, "as", "anonymous", "the account that asks")
	c.Flags().StringVar(&of, "of", "topic", "what is read, written or managed: topic, group, transactional-id or cluster")
	c.Flags().StringVar(&client, "client", "", "its client id (default: the account's name)")
	return c
}

func explain(e env, j *app.Judgement) {
	answer := "denied"
	if j.Allowed {
		answer = "allowed"
	}
	fmt.Fprintf(e.Out, "%s: %s\n", answer, j.Why)
	for i := range j.Withheld {
		fmt.Fprintf(e.Out, "withheld from it: %s\n", &j.Withheld[i])
	}
}
