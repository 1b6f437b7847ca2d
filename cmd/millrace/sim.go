package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/sim"
)

func newSim(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "sim", Short: "Play devices against any MQTT broker", Args: cobra.NoArgs, RunE: help,
		Long: `Play devices against any MQTT broker: a recorded fleet of Helsinki buses, made-up load, or a subscriber.
The recording is © Helsinki Region Transport, CC BY 4.0.`,
	}
	c.AddCommand(newSimReplay(e), newSimLoad(e), newSimWatch(e))
	return c
}

// simFlags are what all simulations have in common.
type simFlags struct {
	broker, protocol, output string
	qos                      uint8
	duration                 time.Duration
}

func (s *simFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.broker, "broker", "127.0.0.1:1883", "the broker's address")
	f.StringVar(&s.protocol, "mqtt", "5", "version of MQTT: 3.1, 3.1.1 or 5")
	f.Uint8Var(&s.qos, "qos", 1, "0, 1 or 2")
	f.DurationVar(&s.duration, "duration", 0, "stop after this time; 0: at the end, or with Ctrl-C")
	outputFlag(c, &s.output)
}

var protocols = map[string]byte{"3.1": 3, "3.1.1": 4, "5": 5, "5.0": 5}

// begin checks the common flags, and bounds the time.
func (s *simFlags) begin(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if s.qos > 2 {
		return nil, nil, fmt.Errorf("--qos %d: 0, 1 or 2", s.qos)
	}
	if protocols[s.protocol] == 0 {
		return nil, nil, fmt.Errorf("--mqtt %q: 3.1, 3.1.1 or 5", s.protocol)
	}
	if s.duration > 0 {
		ctx, cancel := context.WithTimeout(ctx, s.duration)
		return ctx, cancel, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	return ctx, cancel, nil
}

func (s *simFlags) fleet(e env) sim.FleetOptions {
	o := sim.FleetOptions{Dial: sim.DialTCP(s.broker), QoS: s.qos}
	setProtocol(&o, s.protocol)
	if s.output == "text" {
		o.Report = func(st sim.FleetStats) { fmt.Fprintln(e.Err, fleetLine(st)) }
	}
	return o
}

func setProtocol(o *sim.FleetOptions, name string) {
	switch protocols[name] {
	case 3:
		o.Connect.Version = 3
	case 4:
		o.Connect.Version = 4
	default:
		o.Connect.Version = 5
	}
	o.Connect.CleanStart, o.Connect.KeepAlive = true, 60
}

func fleetLine(s sim.FleetStats) string {
	return fmt.Sprintf("%6.1fs  %d connected  %d sent  %d acked  %d refused  %d under way  %.0f/s  ack p50 %v p99 %v", s.Elapsed.Seconds(),
		s.Connected, s.Sent, s.Acked, s.Refused, s.InFlight, s.Rate, s.Ack.Quantile(0.5).Round(time.Microsecond), s.Ack.Quantile(0.99).Round(time.Microsecond))
}

// fleetResult is a fleet's end, for scripts.
type fleetResult struct {
	Seconds  float64            `json:"seconds"`
	Sent     uint64             `json:"sent"`
	Bytes    uint64             `json:"bytes"`
	Acked    uint64             `json:"acked"`
	Refused  uint64             `json:"refused"`
	InFlight uint64             `json:"in_flight"`
	AckMs    map[string]float64 `json:"ack_ms"`
	Ledger   *sim.Report        `json:"ledger,omitempty"`
}

func ms(h *sim.Histogram) map[string]float64 {
	q := func(p float64) float64 { return float64(h.Quantile(p).Microseconds()) / 1000 }
	return map[string]float64{"p50": q(0.5), "p99": q(0.99), "p999": q(0.999), "max": float64(h.Max().Microseconds()) / 1000}
}

func (s *simFlags) finish(w io.Writer, st sim.FleetStats, report *sim.Report, err error) error {
	if ctxEnded(err) {
		err = nil
	}
	r := fleetResult{Seconds: st.Elapsed.Seconds(), Sent: st.Sent, Bytes: st.Bytes, Acked: st.Acked, Refused: st.Refused, InFlight: st.InFlight, Ledger: report}
	if st.Ack != nil {
		r.AckMs = ms(st.Ack)
	}
	if e := print(w, s.output, r, func() {
		if st.Ack != nil {
			fmt.Fprintln(w, fleetLine(st))
		}
		if report != nil {
			fmt.Fprintln(w, report)
		}
	}); e != nil {
		return e
	}
	if report != nil && err == nil {
		err = report.Err()
	}
	if err != nil {
		return failure{err}
	}
	return nil
}

// ctxEnded tells that a simulation ended because it was told to.
func ctxEnded(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func newSimReplay(e env) *cobra.Command {
	var s simFlags
	var speed float64
	var vehicles int
	var now, loop bool
	c := &cobra.Command{
		Use: "replay", Short: "Play the recorded fleet", Args: cobra.NoArgs,
		Example: "  millrace sim replay --loop --now\n  millrace sim replay --speed 0 --vehicles 1000 --qos 1   # as fast as the broker takes it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel, err := s.begin(cmd.Context())
			if err != nil {
				return err
			}
			defer cancel()
			if speed == 0 {
				speed = math.Inf(1)
			}
			st, err := sim.Replay(ctx, sim.ReplayOptions{FleetOptions: s.fleet(e), Speed: speed, Vehicles: vehicles, Now: now, Loop: loop})
			return s.finish(e.Out, st, nil, err)
		},
	}
	s.flags(c)
	c.Flags().Float64Var(&speed, "speed", 1, "times the recorded one; 0: as fast as possible")
	c.Flags().IntVar(&vehicles, "vehicles", 0, "how many; beyond 7 they are copies (default 7)")
	c.Flags().BoolVar(&now, "now", false, "shift the times in the payloads to the present")
	c.Flags().BoolVar(&loop, "loop", false, "begin again at the end")
	return c
}

func newSimLoad(e env) *cobra.Command {
	var s simFlags
	var o sim.LoadOptions
	var verify bool
	c := &cobra.Command{
		Use: "load", Short: "Play made-up load", Args: cobra.NoArgs,
		Long: `Play made-up load. With --verify a subscriber takes everything back, and the command fails (exit code 1) if an acknowledged
message is missing, changed, out of order, or, at QoS 2, there twice.`,
		Example: "  millrace sim load --clients 100 --rate 5000 --duration 30s\n  millrace sim load --clients 10 --count 1000 --qos 2 --verify",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel, err := s.begin(cmd.Context())
			if err != nil {
				return err
			}
			defer cancel()
			o.FleetOptions = s.fleet(e)
			if !verify {
				st, err := sim.Load(ctx, o)
				return s.finish(e.Out, st, nil, err)
			}
			st, report, err := verified(ctx, cmd.Context(), o)
			return s.finish(e.Out, st, report, err)
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
	f.BoolVar(&verify, "verify", false, "subscribe, and compare what comes back with what was sent")
	return c
}

// verified plays load with a subscriber to all of it, and compares.
func verified(ctx, outer context.Context, o sim.LoadOptions) (sim.FleetStats, *sim.Report, error) {
	o.Ledger = sim.NewLedger()
	watch := sim.WatchOptions{Dial: o.Dial, Connect: o.Connect, Filter: "#", QoS: o.QoS, Ledger: o.Ledger}
	watch.Connect.ClientID = o.Prefix + "verifier"
	ready := make(chan struct{})
	watch.Ready = func() { close(ready) }
	watching, stop := context.WithCancel(outer)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		_, err := sim.Watch(watching, watch)
		ended <- err
	}()
	select {
	case <-ready:
	case err := <-ended:
		return sim.FleetStats{}, nil, err
	}
	st, err := sim.Load(ctx, o)
	reader := o.Ledger.Reader(watch.Connect.ClientID, watch.Filter, watch.QoS)
	report := reader.Report()
	for deadline := time.Now().Add(10 * time.Second); report.Missing > 0 && time.Now().Before(deadline) && outer.Err() == nil; report = reader.Report() {
		time.Sleep(50 * time.Millisecond) // what is on its way still comes
	}
	return st, &report, err
}

func newSimWatch(e env) *cobra.Command {
	var s simFlags
	var filter, id string
	c := &cobra.Command{
		Use: "watch", Short: "Subscribe, and measure how late messages come", Args: cobra.NoArgs,
		Example: "  millrace sim watch --filter 'load/#' --duration 30s",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel, err := s.begin(cmd.Context())
			if err != nil {
				return err
			}
			defer cancel()
			var fo sim.FleetOptions
			setProtocol(&fo, s.protocol)
			o := sim.WatchOptions{Dial: sim.DialTCP(s.broker), Connect: fo.Connect, Filter: filter, QoS: s.qos, Latency: &sim.Histogram{}}
			o.Connect.ClientID = id
			_, err = sim.Watch(ctx, o)
			if err != nil && !ctxEnded(err) {
				return failure{err}
			}
			return print(e.Out, s.output, map[string]any{"received": o.Latency.Count(), "latency_ms": ms(o.Latency)}, func() {
				fmt.Fprintf(e.Out, "latency of stamped messages: %v\n", o.Latency)
			})
		},
	}
	s.flags(c)
	c.Flags().StringVar(&filter, "filter", "#", "what to subscribe to")
	c.Flags().StringVar(&id, "client-id", "sim-watch", "client id")
	return c
}
