package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/console"
)

func newMQTT(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "mqtt", Short: "Look after the MQTT broker of a running node: clients, topics, bans, traces", Args: cobra.NoArgs, RunE: help,
		Long: `Ask the broker of a running node, over its HTTP API, who is connected, who is slow, what comes on which topic; end connections and
sessions, ban, trace, send everybody away.

Where the node has a password file (listeners.http.password_file), a token says who asks: --token file:PATH or env:VARIABLE. To change
anything, and to trace, the token must be an administrator's, on this machine too.

Exit codes: 0 done; 1 the node refused, or does not answer; 2 wrong command line, nothing was asked.`,
		Example: `  millrace passwd users ops --token > ops.token      # with listeners: {http: {password_file: users}}
  millrace mqtt clients 'truck-*' --sort queued
  millrace mqtt client truck-7
  millrace mqtt slow
  millrace mqtt kick truck-7 --token file:ops.token
  millrace mqtt trace --client truck-7 --token file:ops.token`,
	}
	c.AddCommand(newClients(e), newClient(e), newSubscriptions(e), newSlow(e), newTopics(e), newRetained(e), newGroups(e),
		newKick(e), newEndSession(e), newBan(e), newUnban(e), newBans(e), newTrace(e), newDrain(e))
	return c
}

// params are those of a request that are set.
func params(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// table writes rows in columns.
func table(w io.Writer, head string, rows func(row func(format string, args ...any))) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, head)
	rows(func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) })
	t.Flush() //nolint:errcheck // w is a buffer
}

const columnWidth = 40

func newClients(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var principal, sort, cursor string
	var connected, offline bool
	var limit int
	c := &cobra.Command{
		Use: "clients [PATTERN]", Short: "List the sessions, connected or not", Args: cobra.MaximumNArgs(1),
		Long: "List the sessions of clients whose id matches PATTERN, in which * stands for any characters.",
		Example: `  millrace mqtt clients
  millrace mqtt clients 'truck-*' --connected --sort last_seen
  millrace mqtt clients --sort queued --limit 10
  millrace mqtt clients -o json | jq -r '.clients[].client_id'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if connected && offline {
				return errors.New("--connected and --offline exclude each other")
			}
			pattern, state := "", ""
			if len(args) > 0 {
				pattern = args[0]
			}
			if connected || offline {
				state = strconv.FormatBool(connected)
			}
			return n.listClients(cmd.Context(), "mqtt/clients", params("client", pattern, "principal", principal, "connected", state, "sort", sort,
				"limit", strconv.Itoa(limit), "cursor", cursor))
		},
	}
	n.flags(c)
	f := c.Flags()
	f.StringVar(&principal, "principal", "", "only of this account; * stands for any characters")
	f.BoolVar(&connected, "connected", false, "only those with a connection")
	f.BoolVar(&offline, "offline", false, "only those without a connection")
	f.StringVar(&sort, "sort", "id", "id, queued, inflight, waiting, lag, subscriptions, bytes_in, bytes_out, messages_in, messages_out, since or last_seen")
	f.IntVar(&limit, "limit", 100, "of one page, at most 1000")
	f.StringVar(&cursor, "cursor", "", "of the page before, to go on")
	return c
}

func (n *nodeFlags) listClients(ctx context.Context, path string, q url.Values) error {
	var body console.Clients
	return n.ask(ctx, http.MethodGet, path, q, nil, &body, func(w io.Writer) {
		now := time.Now()
		table(w, "CLIENT\tPRINCIPAL\tSTATE\tFOR\tSEEN\tADDRESS\tMQTT\tSUBS\tQUEUED\tIN FLIGHT\tLAG\tMSGS IN/OUT\tBYTES IN/OUT", func(row func(string, ...any)) {
			for i := range body.Clients {
				c := &body.Clients[i]
				row("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%d\t%s\t%d/%d\t%s/%s", short(c.ID, columnWidth), short(c.Principal, 20), stateOf(c), ago(c.Since, now), ago(c.LastSeen, now),
					orDash(c.Address), orDash(c.Protocol), c.Subscriptions, queueOf(c), c.Inflight, lagOf(c), c.MessagesIn, c.MessagesOut, size(c.BytesIn), size(c.BytesOut))
			}
		})
		if len(body.Clients) < body.Total {
			fmt.Fprintf(w, "\n%d of %d", len(body.Clients), body.Total)
			if body.Next != "" {
				fmt.Fprintf(w, "; more: --cursor %s", plain(body.Next))
			}
			fmt.Fprintln(w)
		}
	})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return plain(s)
}

func stateOf(c *console.Client) string {
	switch {
	case !c.Connected:
		return "away"
	case c.Paused != "":
		return "paused"
	case c.Full:
		return "full"
	case c.Behind:
		return "behind"
	}
	return "connected"
}

func queueOf(c *console.Client) string {
	if c.QueuedAtMost {
		return fmt.Sprintf("≤%d", c.Queued)
	}
	return strconv.FormatInt(c.Queued, 10)
}

func lagOf(c *console.Client) string {
	if c.Lag == nil {
		return "-"
	}
	return span(time.Duration(*c.Lag) * time.Millisecond)
}

// principalFlag says whose session it is.
func principalFlag(c *cobra.Command, principal *string) {
	c.Flags().StringVar(principal, "principal", "", "the account, where several use the client id")
}

// clientPath is the route of a client, and clientQuery what it is asked with: some ids cannot stand in a path.
func clientPath(id, what string) string {
	if unpathable(id) {
		id = "-"
	}
	return "mqtt/clients/" + url.PathEscape(id) + what
}

func clientQuery(id, principal string) url.Values {
	if !unpathable(id) {
		id = ""
	}
	return params("client", id, "principal", principal)
}

func unpathable(id string) bool { return id == "." || id == ".." || id == "/" }

func newClient(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var principal string
	c := &cobra.Command{
		Use: "client ID", Short: "Tell all about one client: state, subscriptions, what happened to it", Args: cobra.ExactArgs(1),
		Example: "  millrace mqtt client truck-7\n  millrace mqtt client truck-7 -o json | jq .events",
		RunE: func(cmd *cobra.Command, args []string) error {
			var c console.ClientDetail
			return n.ask(cmd.Context(), http.MethodGet, clientPath(args[0], ""), clientQuery(args[0], principal), nil, &c, func(w io.Writer) { writeClient(w, &c) })
		},
	}
	n.flags(c)
	principalFlag(c, &principal)
	return c
}

func writeClient(w io.Writer, c *console.ClientDetail) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("client", "%s", plain(c.ID))
	line("principal", "%s", plain(c.Principal))
	if !c.Exists {
		line("session", "has ended; this is what is remembered of it")
	} else {
		writeSession(line, c)
	}
	t.Flush() //nolint:errcheck // w is a buffer
	if len(c.List) > 0 {
		fmt.Fprintln(w)
		table(w, "SUBSCRIPTION\tQOS\tOPTIONS", func(row func(string, ...any)) {
			for i := range c.List {
				row("%s\t%d\t%s", short(c.List[i].Filter, 80), c.List[i].QoS, optionsOf(&c.List[i]))
			}
		})
	}
	if len(c.Events) > 0 {
		fmt.Fprintln(w)
		table(w, "TIME\tEVENT\tDETAIL", func(row func(string, ...any)) {
			for _, e := range c.Events {
				times := ""
				if e.Count > 1 {
					times = fmt.Sprintf(" (%d times)", e.Count)
				}
				row("%s\t%s%s\t%s", clock(&e.At), plain(e.Kind), times, orDash(e.Detail))
			}
		})
	}
}

func writeSession(line func(name, format string, args ...any), c *console.ClientDetail) {
	now := time.Now()
	line("state", "%s for %s", stateOf(&c.Client), ago(c.Since, now))
	line("last seen", "%s ago", ago(c.LastSeen, now))
	if c.Connected {
		line("connection", "%s by %s, %s, MQTT %s", orDash(c.Address), orDash(c.Listener), orDash(c.Transport), orDash(c.Protocol))
		line("keep-alive", "%d s; clean start %v", c.KeepAlive, c.CleanStart)
		line("messages", "%d in, %d out", c.MessagesIn, c.MessagesOut)
		line("bytes", "%s in, %s out, %s not taken yet", size(c.BytesIn), size(c.BytesOut), size(int64(c.Waiting)))
	}
	switch {
	case c.Expires != nil:
		line("expires", "%s", clock(c.Expires))
	case c.SessionExpiry == 1<<32-1:
		line("expires", "never")
	default:
		line("expires", "%s after its connection", span(time.Duration(c.SessionExpiry)*time.Second))
	}
	line("queued", "%s, lag %s; %d in flight", queueOf(&c.Client), lagOf(&c.Client), c.Inflight)
	if c.Paused != "" {
		line("paused", "%s", plain(c.Paused))
	}
	if c.Will != "" {
		line("will", "on %s", plain(c.Will))
	}
}

func optionsOf(s *console.Subscription) (text string) {
	add := func(on bool, word string) {
		if on {
			text += word + " "
		}
	}
	add(s.NoLocal, "no-local")
	add(s.RetainAsPublished, "retain-as-published")
	add(s.ID != 0, fmt.Sprintf("id=%d", s.ID))
	add(s.Pending, "pending")
	return text
}

func newSubscriptions(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var limit int
	c := &cobra.Command{
		Use: "subscriptions TOPIC", Short: "Say who would receive a message on a topic", Args: cobra.ExactArgs(1),
		Example: "  millrace mqtt subscriptions fleet/truck-7/telemetry",
		RunE: func(cmd *cobra.Command, args []string) error {
			var body console.Subscribers
			return n.ask(cmd.Context(), http.MethodGet, "mqtt/subscriptions", params("topic", args[0], "limit", strconv.Itoa(limit)), nil, &body, func(w io.Writer) {
				table(w, "CLIENT\tPRINCIPAL\tSTATE\tQOS\tBY", func(row func(string, ...any)) {
					for _, s := range body.Subscribers {
						state := "away"
						switch {
						case s.Denied:
							state = "denied"
						case s.Connected:
							state = "connected"
						}
						by, who := "", short(s.ID, columnWidth)
						for _, f := range s.Filters {
							by += short(f, 60) + " "
						}
						if s.Group != "" {
							by, who = short(s.Group, 80), "one of a group"
						}
						row("%s\t%s\t%s\t%d\t%s", who, orDash(s.Principal), state, s.QoS, by)
					}
				})
				fmt.Fprintf(w, "\n%d in all\n", body.Total)
			})
		},
	}
	n.flags(c)
	c.Flags().IntVar(&limit, "limit", 100, "listed, at most 1000")
	return c
}

func newSlow(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var sort string
	var offline bool
	var limit int
	c := &cobra.Command{
		Use: "slow", Short: "List the subscribers that do not keep up, the slowest first", Args: cobra.NoArgs,
		Long: `List clients that read from the log because more came than they took, or for which 256 KiB or more wait.
With --offline also sessions without a connection that have a queue.`,
		Example: "  millrace mqtt slow\n  millrace mqtt slow --offline --sort queued",
		RunE: func(cmd *cobra.Command, _ []string) error {
			off := ""
			if offline {
				off = "true"
			}
			return n.listClients(cmd.Context(), "mqtt/slow", params("sort", sort, "offline", off, "limit", strconv.Itoa(limit)))
		},
	}
	n.flags(c)
	c.Flags().StringVar(&sort, "sort", "lag", "lag: by the age of the oldest message that waits; queued; waiting: by bytes not taken")
	c.Flags().BoolVar(&offline, "offline", false, "also sessions without a connection")
	c.Flags().IntVar(&limit, "limit", 20, "listed, at most 1000")
	return c
}

func newTopics(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var sort string
	var interval time.Duration
	var limit int
	c := &cobra.Command{
		Use: "topics [FILTER]", Short: "Say what comes on which topic, the most first", Args: cobra.MaximumNArgs(1),
		Long: "Count what has come on the topics that FILTER matches (default #) since the node started, and measure the rates for a moment.",
		Example: `  millrace mqtt topics
  millrace mqtt topics 'fleet/+/telemetry' --sort bytes --interval 10s`,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter := ""
			if len(args) > 0 {
				filter = args[0]
			}
			var body console.TopicMetrics
			return n.ask(cmd.Context(), http.MethodGet, "mqtt/topics", params("filter", filter, "sort", sort, "interval", interval.String(), "limit", strconv.Itoa(limit)), nil, &body,
				func(w io.Writer) { writeTopics(w, &body) })
		},
	}
	n.flags(c)
	c.Flags().StringVar(&sort, "sort", "messages", "messages, bytes or last")
	c.Flags().DurationVar(&interval, "interval", 5*time.Second, "measure rates for so long, at most 20s; 0s: no rates")
	c.Flags().IntVar(&limit, "limit", 20, "listed, at most 1000")
	return c
}

func writeTopics(w io.Writer, body *console.TopicMetrics) {
	rate := func(f *float64) string {
		if f == nil {
			return "-"
		}
		return strconv.FormatFloat(*f, 'f', 1, 64)
	}
	table(w, "TOPIC\tMESSAGES\tBYTES\tMSG/S\tBYTES/S\tLAST", func(row func(string, ...any)) {
		for _, t := range body.Topics {
			row("%s\t%d\t%s\t%s\t%s\t%s", short(t.Topic, 80), t.Messages, size(t.Bytes), rate(t.Rate), rate(t.ByteRate), clock(&t.Last))
		}
	})
	fmt.Fprintf(w, "\n%d topics with %d messages, %s, since %s\n", body.Total, body.Matched.Messages, size(body.Matched.Bytes), clock(&body.Since))
	if body.Others.Messages > 0 {
		fmt.Fprintf(w, "and %d messages, %s, on topics that are not known one by one any more\n", body.Others.Messages, size(body.Others.Bytes))
	}
}

func newRetained(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var limit int
	var cursor string
	c := &cobra.Command{
		Use: "retained [FILTER]", Short: "List the retained messages, without their payloads", Args: cobra.MaximumNArgs(1),
		Example: "  millrace mqtt retained 'fleet/+/status'",
		RunE: func(cmd *cobra.Command, args []string) error {
			filter := ""
			if len(args) > 0 {
				filter = args[0]
			}
			var body console.RetainedMessages
			return n.ask(cmd.Context(), http.MethodGet, "mqtt/retained", params("filter", filter, "limit", strconv.Itoa(limit), "cursor", cursor), nil, &body, func(w io.Writer) {
				table(w, "TOPIC\tBYTES\tQOS\tTIME\tEXPIRES", func(row func(string, ...any)) {
					for _, r := range body.Retained {
						row("%s\t%d\t%d\t%s\t%s", short(r.Topic, 80), r.Bytes, r.QoS, clock(&r.Time), clock(r.Expires))
					}
				})
				if body.Next != "" {
					fmt.Fprintf(w, "\nmore: --cursor %s\n", plain(body.Next))
				}
			})
		},
	}
	n.flags(c)
	c.Flags().IntVar(&limit, "limit", 100, "of one page, at most 1000")
	c.Flags().StringVar(&cursor, "cursor", "", "of the page before, to go on")
	return c
}

func newGroups(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var limit int
	c := &cobra.Command{
		Use: "groups", Short: "List the groups of shared subscriptions", Args: cobra.NoArgs,
		Example: "  millrace mqtt groups\n  millrace mqtt groups -o json | jq '.groups[].members'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var body console.SharedGroups
			return n.ask(cmd.Context(), http.MethodGet, "mqtt/groups", params("limit", strconv.Itoa(limit)), nil, &body, func(w io.Writer) {
				table(w, "GROUP\tFILTER\tMEMBERS\tQUEUED\tIN FLIGHT", func(row func(string, ...any)) {
					for _, g := range body.Groups {
						row("%s\t%s\t%d\t%d\t%d", short(g.Name, columnWidth), short(g.Filter, 60), g.Size, g.Queued, g.Inflight)
					}
				})
				fmt.Fprintf(w, "\n%d in all\n", body.Total)
			})
		},
	}
	n.flags(c)
	c.Flags().IntVar(&limit, "limit", 100, "listed, at most 1000")
	return c
}
