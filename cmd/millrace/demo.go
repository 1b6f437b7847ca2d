package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/sim"
)

// demoRoutes give the positions of the buses a log topic of their own, and everything else they say another. The key is the
// vehicle, so a Kafka consumer has each bus in order.
const demoRoutes = `
routes:
  - {mqtt: "/hfp/v2/{journey}/{state}/vp/bus/{operator}/{vehicle}/#", topic: positions, key: "{operator}/{vehicle}", compression: zstd}
  - {mqtt: "/hfp/v2/{journey}/{state}/+/bus/{operator}/{vehicle}/#", topic: events, key: "{operator}/{vehicle}"}
`

func newDemo(e env) *cobra.Command {
	var data string
	var speed float64
	var vehicles int
	var duration time.Duration
	c := &cobra.Command{
		Use: "demo", Short: "Run a node with a replayed fleet of Helsinki buses", Args: cobra.NoArgs,
		Long: `Run a node on free ports, with its data in a temporary folder (or --data), and play a recorded fleet of Helsinki buses to it, again
and again. Ctrl-C ends it. The recording is © Helsinki Region Transport, CC BY 4.0.`,
		Example: "  millrace demo\n  millrace demo --vehicles 500 --speed 5 --data ./demo-data",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if duration > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, duration)
				defer cancel()
			}
			if speed <= 0 {
				return fmt.Errorf("--speed %v: above 0", speed)
			}
			return demo(ctx, e, data, sim.ReplayOptions{Speed: speed, Vehicles: vehicles, Now: true, Loop: true})
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "folder for the data, kept afterwards (default: a temporary one)")
	f.Float64Var(&speed, "speed", 1, "times the recorded one")
	f.IntVar(&vehicles, "vehicles", 0, "how many; beyond 7 they are copies (default 7)")
	f.DurationVar(&duration, "duration", 0, "stop after this time; 0: with Ctrl-C")
	return c
}

func demo(ctx context.Context, e env, data string, o sim.ReplayOptions) (err error) {
	c, err := config.Parse(demoRoutes, "demo")
	if err != nil {
		return err
	}
	if c.Log.Data = data; data == "" {
		if c.Log.Data, err = os.MkdirTemp("", "millrace-demo-"); err != nil {
			return failure{fmt.Errorf("make a temporary folder: %w", err)}
		}
		defer func() { err = errors.Join(err, os.RemoveAll(c.Log.Data)) }()
	}
	c.Listeners.MQTT[0].Bind = freeAddress(1883)
	c.Listeners.Kafka[0].Bind = freeAddress(9092)
	c.Listeners.HTTP.Bind = freeAddress(8080)
	n, err := app.Start(ctx, app.Options{Config: c, Version: version, Logger: slog.New(slog.NewTextHandler(e.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return failure{err}
	}
	explain(e.Out, n, c.Log.Data, cmp.Or(o.Vehicles, 7))
	status := statusLine(e.Out)
	o.Dial, o.QoS, o.Report = sim.DialTCP(n.Address("MQTT")), 1, func(s sim.FleetStats) { status(s, n) }
	o.Connect.Version, o.Connect.CleanStart, o.Connect.KeepAlive = 5, true, 60
	playing, stopPlaying := context.WithCancel(ctx)
	defer stopPlaying()
	played := make(chan error, 1)
	go func() {
		_, err := sim.Replay(playing, o)
		played <- err
	}()
	select {
	case err = <-n.Failed():
		stopPlaying()
		err = errors.Join(err, <-played)
	case err = <-played:
	}
	if ctxEnded(err) {
		err = nil
	}
	fmt.Fprintln(e.Out, "\nstopping")
	if err = errors.Join(err, stop(ctx, n)); err != nil {
		return failure{err}
	}
	return nil
}

// freeAddress is the first free port on loopback from a wanted one on.
func freeAddress(port int) config.Address {
	for p := port; p < port+100; p++ {
		a := fmt.Sprintf("127.0.0.1:%d", p)
		if l, err := net.Listen("tcp", a); err == nil {
			l.Close()
			return config.Address(a)
		}
	}
	return "127.0.0.1:0"
}

func explain(w io.Writer, n *app.Node, data string, vehicles int) {
	host, port, _ := net.SplitHostPort(n.Address("MQTT"))
	fmt.Fprintf(w, `A node is running, and %d recorded buses of Helsinki are driving. © Helsinki Region Transport, CC BY 4.0.

Watch them, as any MQTT client does:
  mosquitto_sub -h %s -p %s -t '/hfp/v2/journey/ongoing/vp/#' -v

Read the same messages, as any Kafka client does; positions from the first one on, then events of one group:
  kcat -b %s -C -t positions -f '%%T %%k %%s\n'
  kcat -b %s -G readers events

Health and metrics: http://%s/
Data:               %s
Ctrl-C ends it.

`, vehicles, host, port, n.Address("Kafka"), n.Address("Kafka"), n.Address("HTTP"), data)
}

// statusLine returns what shows the state of things: over and over on one line of a terminal, else a line now and then.
func statusLine(w io.Writer) func(sim.FleetStats, *app.Node) {
	f, isFile := w.(*os.File)
	terminal := false
	if isFile {
		info, err := f.Stat()
		terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	last := -time.Hour
	return func(s sim.FleetStats, n *app.Node) {
		ready := "ready"
		if !n.Status().Ready {
			ready = "NOT READY"
		}
		line := fmt.Sprintf("%s  %s  %d buses  %d messages  %.0f/s  durable in p50 %v, p99 %v", s.Elapsed.Round(time.Second), ready, s.Connected, s.Acked,
			s.Rate, s.Ack.Quantile(0.5).Round(10*time.Microsecond), s.Ack.Quantile(0.99).Round(10*time.Microsecond))
		if terminal {
			fmt.Fprintf(w, "\r%s%s", line, strings.Repeat(" ", max(0, 100-len(line))))
		} else if s.Elapsed-last >= 10*time.Second {
			last = s.Elapsed
			fmt.Fprintln(w, line)
		}
	}
}
