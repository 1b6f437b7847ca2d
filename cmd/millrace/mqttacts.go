package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/console"
)

func newKick(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var principal, reason string
	c := &cobra.Command{
		Use: "kick ID", Short: "End a client's connection; its session stays", Args: cobra.ExactArgs(1),
		Long: `End the connection of a client. Its session stays, its will fires, and nothing keeps it from connecting again: see ban.
A client of MQTT 5.0 is told the reason.`,
		Example: "  millrace mqtt kick truck-7 --token file:ops.token\n  millrace mqtt kick truck-7 --reason not_authorized --token env:OPS_TOKEN",
		RunE: func(cmd *cobra.Command, args []string) error {
			var body console.Kicked
			return n.ask(cmd.Context(), http.MethodPost, clientPath(args[0], "/kick"), clientQuery(args[0], principal), console.Kick{Reason: reason}, &body,
				func(w io.Writer) { fmt.Fprintf(w, "%s was disconnected\n", plain(body.Client)) })
		},
	}
	n.flags(c)
	principalFlag(c, &principal)
	c.Flags().StringVar(&reason, "reason", "administrative_action", "administrative_action, not_authorized, server_busy, quota_exceeded, use_another_server or server_moved")
	return c
}

func newEndSession(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var principal string
	c := &cobra.Command{
		Use: "end-session ID", Short: "End a session for good: what is queued for it is given up", Args: cobra.ExactArgs(1),
		Long:    "End the session of a client, connected or not. Its subscriptions are gone, what is queued for it is given up, its will fires.",
		Example: "  millrace mqtt end-session old-dashboard --token file:ops.token",
		RunE: func(cmd *cobra.Command, args []string) error {
			var body console.SessionEnded
			return n.ask(cmd.Context(), http.MethodDelete, clientPath(args[0], "/session"), clientQuery(args[0], principal), nil, &body, func(w io.Writer) {
				fmt.Fprintf(w, "the session of %s has ended; %d deliveries were given up\n", plain(body.Client), body.Discarded)
			})
		},
	}
	n.flags(c)
	principalFlag(c, &principal)
	return c
}

// banFlags name who is banned.
type banFlags struct{ client, principal, network string }

func (b *banFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&b.client, "client", "", "this client id, under whatever account")
	c.Flags().StringVar(&b.principal, "principal", "", "this account")
	c.Flags().StringVar(&b.network, "network", "", "this address, or these: 192.0.2.0/24")
	c.MarkFlagsOneRequired("client", "principal", "network")
	c.MarkFlagsMutuallyExclusive("client", "principal", "network")
}

func newBan(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var b banFlags
	var reason string
	var lasts time.Duration
	c := &cobra.Command{
		Use: "ban", Short: "Keep a client id, an account or a network out", Args: cobra.NoArgs,
		Long: "End the connections of a client id, an account or a network, and let no other in until the ban is over. Sessions stay, wills fire.",
		Example: `  millrace mqtt ban --client truck-7 --for 1h --reason "floods us" --token file:ops.token
  millrace mqtt ban --network 192.0.2.0/24 --token file:ops.token`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask := console.NewBan{Client: b.client, Principal: b.principal, Network: b.network, Reason: reason}
			if lasts > 0 {
				ask.For = lasts.String()
			}
			var body console.Ban
			return n.ask(cmd.Context(), http.MethodPost, "mqtt/bans", nil, ask, &body, func(w io.Writer) {
				until := "until the ban is lifted"
				if body.Until != nil {
					until = "until " + clock(body.Until)
				}
				fmt.Fprintf(w, "%s is banned %s\n", whomOf(&body), until)
			})
		},
	}
	n.flags(c)
	b.flags(c)
	c.Flags().DurationVar(&lasts, "for", 0, "how long (default: until it is lifted)")
	c.Flags().StringVar(&reason, "reason", "", "for operators; the client does not hear it")
	return c
}

func whomOf(b *console.Ban) string {
	switch {
	case b.Client != "":
		return "client " + plain(b.Client)
	case b.Principal != "":
		return "account " + plain(b.Principal)
	}
	return "network " + plain(b.Network)
}

func newUnban(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var b banFlags
	c := &cobra.Command{
		Use: "unban", Short: "Lift a ban", Args: cobra.NoArgs,
		Example: "  millrace mqtt unban --client truck-7 --token file:ops.token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return n.ask(cmd.Context(), http.MethodDelete, "mqtt/bans", params("client", b.client, "principal", b.principal, "network", b.network), nil, nil,
				func(w io.Writer) { fmt.Fprintln(w, "the ban is lifted") })
		},
	}
	n.flags(c)
	b.flags(c)
	return c
}

func newBans(e env) *cobra.Command {
	n := nodeFlags{env: e}
	c := &cobra.Command{
		Use: "bans", Short: "List who is banned", Args: cobra.NoArgs,
		Example: "  millrace mqtt bans",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var body console.Bans
			return n.ask(cmd.Context(), http.MethodGet, "mqtt/bans", nil, nil, &body, func(w io.Writer) {
				table(w, "WHO\tSINCE\tUNTIL\tBY\tREASON", func(row func(string, ...any)) {
					for i := range body.Bans {
						b := &body.Bans[i]
						row("%s\t%s\t%s\t%s\t%s", whomOf(b), clock(&b.Since), clock(b.Until), orDash(b.By), orDash(b.Reason))
					}
				})
			})
		},
	}
	n.flags(c)
	return c
}

func newDrain(e env) *cobra.Command {
	n := nodeFlags{env: e}
	var server string
	var rate int
	var status, undo, wait bool
	c := &cobra.Command{
		Use: "drain", Short: "Send every client away, some a second, and let none in", Args: cobra.NoArgs,
		Long: `Send every client away before maintenance. Clients of MQTT 5.0 are told which server to use (0x9C), the others are disconnected; wills do
not fire, sessions stay, what was received is acknowledged first. The node goes on running and lets nobody in until --undo.`,
		Example: `  millrace mqtt drain --server mqtt2.example:8883 --rate 500 --wait --token file:ops.token
  millrace mqtt drain --status
  millrace mqtt drain --undo --token file:ops.token`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if status && (undo || wait || server != "") || undo && (wait || server != "") {
				return errors.New("--status and --undo stand alone")
			}
			ctx := cmd.Context()
			var d console.Drain
			switch {
			case undo:
				return n.ask(ctx, http.MethodDelete, "mqtt/drain", nil, nil, nil, func(w io.Writer) { fmt.Fprintln(w, "clients are let in again") })
			case status:
				return n.ask(ctx, http.MethodGet, "mqtt/drain", nil, nil, &d, func(w io.Writer) { writeDrain(w, &d) })
			}
			text := func(w io.Writer) { writeDrain(w, &d) }
			if wait {
				text = func(io.Writer) {}
			}
			// The rate is sent as it is: 0 is all at once.
			body := map[string]any{"server": server, "rate": rate}
			if !wait {
				return n.ask(ctx, http.MethodPost, "mqtt/drain", nil, body, &d, text)
			}
			quiet := n
			quiet.output, quiet.env.Out = "text", io.Discard
			if err := quiet.ask(ctx, http.MethodPost, "mqtt/drain", nil, body, &d, text); err != nil {
				return err
			}
			return n.awaitDrained(ctx)
		},
	}
	n.flags(c)
	f := c.Flags()
	f.StringVar(&server, "server", "", "host:port that clients of MQTT 5.0 are told to use instead")
	f.IntVar(&rate, "rate", 500, "clients a second; 0: all at once")
	f.BoolVar(&wait, "wait", false, "return when all are gone")
	f.BoolVar(&status, "status", false, "only say how far it is")
	f.BoolVar(&undo, "undo", false, "let clients in again")
	return c
}

// awaitDrained asks until the last client is gone, and then says so.
func (n *nodeFlags) awaitDrained(ctx context.Context) error {
	look := *n
	look.output, look.env.Out = "text", io.Discard
	for {
		var d console.Drain
		if err := look.ask(ctx, http.MethodGet, "mqtt/drain", nil, nil, &d, func(io.Writer) {}); err != nil {
			return err
		}
		if !d.Running {
			var last console.Drain
			return n.ask(ctx, http.MethodGet, "mqtt/drain", nil, nil, &last, func(w io.Writer) { writeDrain(w, &last) })
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return failure{errors.New("interrupted; the node goes on sending clients away: millrace mqtt drain --status")}
		}
	}
}

func writeDrain(w io.Writer, d *console.Drain) {
	if !d.Active {
		fmt.Fprintln(w, "clients are let in, and none is sent away")
		return
	}
	to := ""
	if d.Server != "" {
		to = " to " + plain(d.Server)
	}
	state := "all are gone"
	if d.Running {
		state = strconv.Itoa(d.Left) + " are still there"
	}
	fmt.Fprintf(w, "since %s clients are sent away%s: %d of %d were, %d of them had to be cut off; %s\n", clock(d.Since), to, d.Told, d.Total, d.Cut, state)
}
