package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
	"github.com/millrace-io/millrace/sim/city"
)

func newSim(e env) *cobra.Command {
	var s simFlags
	var o fleetFlags
	c := &cobra.Command{
		Use: "sim", Short: "Play a fleet against any MQTT broker", Args: cobra.NoArgs,
		Long: `Play a fleet against any MQTT broker: vans that make deliveries in Amsterdam, or, with --csv, recorded tracks. The commands below
play a recorded fleet of buses, made-up load, or a subscriber.

Every message says which device it is of, its sequence and when it was sent, so that loss, repeats, order and latency can be computed:
in the user properties sim-device, sim-seq and sim-time (MQTT 5), and in the payload's id, seq and ts.

With --watch a subscriber takes everything back, and the exit code is 1 if an acknowledged message is missing, changed, out of order,
or, at QoS 2, there twice. With --ledger all of it is kept in a file for millrace verify, and the next run goes on with its sequences.

Streets ` + city.Attribution + `. Buses ` + sim.Attribution + `.`,
		Example: `  millrace sim                                              # 1,000 vans, to 127.0.0.1:1883, until Ctrl-C
  millrace sim --vehicles 50 --duration 5m --watch          # is anything lost?
  millrace sim --network tunnel --speed 10 --ledger run.ledger --watch
  millrace sim --csv positions.csv.gz --speed 60 --from 2015-03-07T12:00:00Z --to 2015-03-07T13:00:00Z
  millrace sim --csv tracks.csv --columns vehicle=car,time=when --vehicles 500 --loop`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.csv == "" {
				return o.drive(cmd, e, &s)
			}
			return o.tracks(cmd, e, &s)
		},
	}
	s.flags(c)
	o.flags(c)
	c.AddCommand(newSimReplay(e), newSimLoad(e), newSimWatch(e))
	return c
}

// fleetFlags are those of the fleets that millrace sim plays by itself.
type fleetFlags struct {
	csv, topic, prefix, from, to string
	columns                      map[string]string
	vehicles                     int
	speed                        float64
	every, gap                   time.Duration
	now, loop                    bool
}

func (o *fleetFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.IntVar(&o.vehicles, "vehicles", 0, "how many (default 1000 vans, or those of the file; beyond, copies that begin elsewhere)")
	f.Float64Var(&o.speed, "speed", 1, "times real time; with --csv, 0: as fast as possible")
	f.StringVar(&o.topic, "topic", "", "{vehicle} is filled in (default city/{vehicle}/position; with --csv fleet/{vehicle}/position)")
	f.StringVar(&o.prefix, "prefix", "", "of the client ids (default van-; with --csv none)")
	f.DurationVar(&o.every, "every", time.Second, "vans: time between two messages, of their own time")
	f.StringVar(&o.csv, "csv", "", "play the positions in this file instead, .csv or .csv.gz")
	f.StringToStringVar(&o.columns, "columns", nil, "with --csv: names of its columns, as vehicle=…,time=…,lat=…,lon=…,speed=…,heading=…")
	f.StringVar(&o.from, "from", "", "with --csv: leave out what is before this time (RFC 3339, or a date)")
	f.StringVar(&o.to, "to", "", "with --csv: leave out what is from this time on")
	f.DurationVar(&o.gap, "max-gap", 10*time.Minute, "with --csv: cut pauses of all vehicles that are longer")
	f.BoolVar(&o.now, "now", false, "with --csv: positions are of the present, not of when they were recorded")
	f.BoolVar(&o.loop, "loop", false, "with --csv: begin again at the end")
}

// drive plays the vans.
func (o *fleetFlags) drive(cmd *cobra.Command, e env, s *simFlags) error {
	for _, name := range []string{"columns", "from", "to", "max-gap", "now", "loop"} {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s is for --csv", name)
		}
	}
	if !(o.speed > 0) || math.IsInf(o.speed, 1) {
		return fmt.Errorf("--speed %v: above 0", o.speed)
	}
	if o.every < time.Second || o.every%time.Second != 0 {
		return fmt.Errorf("--every %v: whole seconds", o.every)
	}
	d := sim.DriveOptions{Vehicles: o.vehicles, Prefix: o.prefix, Topic: o.topic, Speed: o.speed, Every: o.every}
	return s.play(cmd, e, filterOf(o.topic, "city/{vehicle}/position"), func(ctx context.Context, f sim.FleetOptions) (sim.FleetStats, error) {
		d.FleetOptions = f
		return sim.Drive(ctx, d)
	})
}

// tracks plays a file.
func (o *fleetFlags) tracks(cmd *cobra.Command, e env, s *simFlags) error {
	if cmd.Flags().Changed("every") {
		return fmt.Errorf("--every is not for --csv: its positions have times")
	}
	if o.speed < 0 || math.IsNaN(o.speed) {
		return fmt.Errorf("--speed %v: 0 or above", o.speed)
	}
	from, err1 := bound("--from", o.from)
	to, err2 := bound("--to", o.to)
	if err1 != nil || err2 != nil {
		return firstError(err1, err2)
	}
	file, err := os.Open(o.csv)
	if err != nil {
		return fmt.Errorf("--csv: %w", err)
	}
	defer file.Close()
	tracks, err := sim.ReadTracks(file, sim.TrackFormat{Columns: o.columns, From: from, To: to, MaxGap: o.gap})
	if err != nil {
		return fmt.Errorf("%s: %w", o.csv, err)
	}
	speed := o.speed
	if speed == 0 {
		speed = math.Inf(1)
	}
	took := time.Duration(float64(tracks.Length) / speed).Round(time.Second)
	fmt.Fprintf(e.Err, "%d positions of %d vehicles, %v of recorded time: takes %v\n", tracks.Fixes(), tracks.Vehicles(), tracks.Length.Round(time.Second), took)
	if tracks.Skipped > 0 {
		fmt.Fprintf(e.Err, "%d rows are left out; the first: %v\n", tracks.Skipped, tracks.Why)
	}
	t := sim.TrackOptions{Tracks: tracks, Vehicles: o.vehicles, Prefix: o.prefix, Topic: o.topic, Speed: speed, Now: o.now, Loop: o.loop}
	return s.play(cmd, e, filterOf(o.topic, "fleet/{vehicle}/position"), func(ctx context.Context, f sim.FleetOptions) (sim.FleetStats, error) {
		t.FleetOptions = f
		return sim.PlayTracks(ctx, t)
	})
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// bound reads a time, or a date.
func bound(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q: a time such as 2015-03-07T12:00:00Z, or a date", flag, s)
}

// filterOf is the filter that takes what goes to a topic with levels to be filled in.
func filterOf(topic, otherwise string) string {
	if topic == "" {
		topic = otherwise
	}
	levels := strings.Split(topic, "/")
	for i, l := range levels {
		if strings.Contains(l, "{") {
			levels[i] = "+"
		}
	}
	return strings.Join(levels, "/")
}

func newSimReplay(e env) *cobra.Command {
	var s simFlags
	var o sim.ReplayOptions
	c := &cobra.Command{
		Use: "replay", Short: "Play the recorded fleet of Helsinki buses", Args: cobra.NoArgs,
		Example: "  millrace sim replay --loop --now\n  millrace sim replay --speed 0 --vehicles 1000 --qos 1   # as fast as the broker takes it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Speed < 0 || math.IsNaN(o.Speed) {
				return fmt.Errorf("--speed %v: 0 or above", o.Speed)
			}
			if o.Speed == 0 {
				o.Speed = math.Inf(1)
			}
			return s.play(cmd, e, "/hfp/#", func(ctx context.Context, f sim.FleetOptions) (sim.FleetStats, error) {
				o.FleetOptions = f
				return sim.Replay(ctx, o)
			})
		},
	}
	s.flags(c)
	c.Flags().Float64Var(&o.Speed, "speed", 1, "times the recorded one; 0: as fast as possible")
	c.Flags().IntVar(&o.Vehicles, "vehicles", 0, "how many; beyond 7 they are copies (default 7)")
	c.Flags().BoolVar(&o.Now, "now", false, "shift the times in the payloads to the present")
	c.Flags().BoolVar(&o.Loop, "loop", false, "begin again at the end")
	return c
}

func newSimLoad(e env) *cobra.Command {
	var s simFlags
	var o sim.LoadOptions
	c := &cobra.Command{
		Use: "load", Short: "Play made-up load", Args: cobra.NoArgs,
		Example: "  millrace sim load --clients 100 --rate 5000 --duration 30s\n  millrace sim load --clients 10 --count 1000 --qos 2 --watch",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.play(cmd, e, filterOf(o.Topic, ""), func(ctx context.Context, f sim.FleetOptions) (sim.FleetStats, error) {
				o.FleetOptions = f
				return sim.Load(ctx, o)
			})
		},
	}
	s.flags(c)
	f := c.Flags()
	f.IntVar(&o.Clients, "clients", 1, "how many clients")
	f.StringVar(&o.Prefix, "prefix", "load-", "of the client ids")
	f.StringVar(&o.Topic, "topic", "load/{client}", "{client}, {n} and {topic} are filled in")
	f.IntVar(&o.Topics, "topics", 1, "topics per client")
	f.IntVar(&o.Size, "size", 200, "bytes of payload")
	f.Float64Var(&o.Rate, "rate", 0, "messages per second of all clients; 0: as many as possible")
	f.IntVar(&o.Count, "count", 0, "messages per client; 0: no end")
	f.BoolVar(&o.Retain, "retain", false, "publish retained messages")
	f.BoolVar(&s.watch, "verify", false, "the same as --watch")
	return c
}

func newSimWatch(e env) *cobra.Command {
	var s simFlags
	var filter, id string
	c := &cobra.Command{
		Use: "watch", Short: "Subscribe, and measure how late messages come", Args: cobra.NoArgs,
		Example: "  millrace sim watch --filter 'load/#' --duration 30s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			ctx := cmd.Context()
			if s.duration > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, s.duration)
				defer cancel()
			}
			received := 0
			o := sim.WatchOptions{Dial: sim.DialTCP(s.broker), Connect: s.connect(), Filter: filter, QoS: s.qos, Latency: &sim.Histogram{},
				Fresh: true, Forget: true, OnMessage: func(*packet.Publish) { received++ }}
			o.Connect.ClientID = id
			_, err := sim.Watch(ctx, o)
			if err != nil && !ctxEnded(err) {
				return failure{err}
			}
			return print(e.Out, s.output, map[string]any{"received": received, "stamped": o.Latency.Count(), "latency_ms": ms(o.Latency)}, func() {
				fmt.Fprintf(e.Out, "%d messages; latency of the stamped ones: %v\n", received, o.Latency)
			})
		},
	}
	s.common(c)
	c.Flags().StringVar(&filter, "filter", "#", "what to subscribe to")
	c.Flags().StringVar(&id, "client-id", "sim-watch", "client id")
	return c
}
