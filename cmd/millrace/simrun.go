package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
)

// simFlags are what all simulations have in common.
type simFlags struct {
	broker, protocol, output string
	qos                      uint8
	duration                 time.Duration

	network, ledger string
	seed            uint64
	watch           bool
}

// common are the flags of everything that connects.
func (s *simFlags) common(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.broker, "broker", "127.0.0.1:1883", "the broker's address")
	f.StringVar(&s.protocol, "mqtt", "5", "version of MQTT: 3.1, 3.1.1 or 5")
	f.Uint8Var(&s.qos, "qos", 1, "0, 1 or 2")
	f.DurationVar(&s.duration, "duration", 0, "stop after this time; 0: at the end, or with Ctrl-C")
	outputFlag(c, &s.output)
}

// flags are those of everything that publishes.
func (s *simFlags) flags(c *cobra.Command) {
	s.common(c)
	f := c.Flags()
	f.StringVar(&s.network, "network", "", "how devices are connected: "+networkNames()+" (default: as this machine is)")
	f.Uint64Var(&s.seed, "seed", 1, "decides what is random: where vans drive, when there is coverage")
	f.StringVar(&s.ledger, "ledger", "", "keep what is sent, acknowledged and watched in this file, and go on where it ends")
	f.BoolVar(&s.watch, "watch", false, "subscribe, and compare what comes back with what was sent")
}

func networkNames() string {
	var names []string
	for _, n := range sim.Networks {
		names = append(names, n.Name)
	}
	return strings.Join(names, ", ")
}

var protocols = map[string]packet.Version{"3.1": packet.V31, "3.1.1": packet.V311, "5": packet.V5, "5.0": packet.V5}

// check checks the common flags.
func (s *simFlags) check() error {
	if s.qos > 2 {
		return fmt.Errorf("--qos %d: 0, 1 or 2", s.qos)
	}
	if protocols[s.protocol] == 0 {
		return fmt.Errorf("--mqtt %q: 3.1, 3.1.1 or 5", s.protocol)
	}
	if s.output != "text" && s.output != "json" {
		return fmt.Errorf("--output %q: text or json", s.output)
	}
	if _, ok := sim.NetworkNamed(s.network); s.network != "" && !ok {
		return fmt.Errorf("--network %q: one of %s", s.network, networkNames())
	}
	return nil
}

// connect is a device's CONNECT: its session outlives its connections, for an hour after the last.
func (s *simFlags) connect() packet.Connect {
	c := packet.Connect{Version: protocols[s.protocol], KeepAlive: 60}
	if c.Version == packet.V5 {
		c.Props.Has, c.Props.SessionExpiry = packet.PSessionExpiry, 3600
	}
	return c
}

// play runs a simulation, with its ledger and its watcher, and says what came of it.
func (s *simFlags) play(cmd *cobra.Command, e env, filter string, run func(context.Context, sim.FleetOptions) (sim.FleetStats, error)) error {
	if err := s.check(); err != nil {
		return err
	}
	o := sim.FleetOptions{Dial: sim.DialTCP(s.broker), Connect: s.connect(), QoS: s.qos, Seed: s.seed, Fresh: true, Forget: true, Duration: s.duration}
	o.Network, _ = sim.NetworkNamed(s.network)
	flush, closeLedger, err := s.openLedger(&o)
	if err != nil {
		return failure{err}
	}
	defer closeLedger()
	var w *watcher
	if s.watch {
		if w, err = s.startWatch(cmd.Context(), o, filter); err != nil {
			return failure{err}
		}
	}
	show := func(string) {}
	if s.output == "text" {
		show = statusLine(e.Err, 10*time.Second)
	}
	var flushed error
	o.Report = func(st sim.FleetStats) {
		if err := flush(); flushed == nil {
			flushed = err
		}
		show(fleetLine(st, st.Recent.Quantile))
	}
	st, err := run(cmd.Context(), o)
	if s.output == "text" && isTerminal(e.Err) {
		fmt.Fprintln(e.Err)
	}
	if ctxEnded(err) {
		err = nil
	}
	var report *sim.Report
	if w != nil {
		report = w.finish()
	}
	err = errors.Join(err, flushed, flush())
	return s.finish(e, st, report, err)
}

// openLedger opens the ledger that the flags ask for.
func (s *simFlags) openLedger(o *sim.FleetOptions) (flush func() error, done func(), err error) {
	if s.ledger == "" {
		if s.watch {
			o.Ledger = sim.NewLedger()
		}
		return func() error { return nil }, func() {}, nil
	}
	f, err := os.OpenFile(s.ledger, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("--ledger: %w", err)
	}
	if o.Ledger, err = sim.OpenLedger(ledgerFile{f}); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", s.ledger, err)
	}
	for _, r := range o.Ledger.Readers() {
		r.End() // a watcher of an earlier run, which may have been killed
	}
	return o.Ledger.Flush, func() { f.Close() }, nil
}

// ledgerFile is a file as the ledger wants it.
type ledgerFile struct{ *os.File }

func (f ledgerFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// watcher is a subscriber beside the fleet.
type watcher struct {
	reader *sim.Reader
	ended  chan error
	stop   context.CancelFunc
}

// startWatch subscribes to all that the fleet will send, on a connection of its own without the fleet's bad network.
func (s *simFlags) startWatch(ctx context.Context, fleet sim.FleetOptions, filter string) (*watcher, error) {
	o := sim.WatchOptions{Dial: fleet.Dial, Connect: fleet.Connect, Filter: filter, QoS: s.qos, Ledger: fleet.Ledger, Name: "watch " + filter, Fresh: true, Forget: true}
	o.Connect.ClientID = fmt.Sprintf("sim-watch-%08x", rand.Uint32()) // several may run beside each other
	ready := make(chan struct{})
	o.Ready = func() { close(ready) }
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it has to see what was sent before Ctrl-C
	w := &watcher{ended: make(chan error, 1), stop: cancel}
	go func() {
		_, err := sim.Watch(ctx, o)
		w.ended <- err
	}()
	select {
	case <-ready:
		w.reader = fleet.Ledger.Reader(o.Name, filter, s.qos)
		return w, nil
	case err := <-w.ended:
		cancel()
		return nil, err
	}
}

// finish waits until everything acknowledged has come, or nothing comes any more, and ends the watcher. It does so after Ctrl-C too; a
// second one ends the program.
func (w *watcher) finish() *sim.Report {
	const patience = 10 * time.Second
	report := w.reader.Report()
	for last, since := report.Missing, time.Now(); report.Missing > 0 && time.Since(since) < patience; report = w.reader.Report() {
		if report.Missing != last {
			last, since = report.Missing, time.Now()
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.stop()
	<-w.ended //nolint:errcheck // what it did not get shows in the report
	w.reader.End()
	report = w.reader.Report()
	return &report
}

// fleetLine is how a fleet fares; the latency is the last seconds', or in the end all of it.
func fleetLine(s sim.FleetStats, latency func(float64) time.Duration) string {
	progress := ""
	if s.Total > 0 {
		progress = fmt.Sprintf(" of %d (%.0f %%)", s.Total, 100*float64(s.Sent)/float64(s.Total))
	}
	return fmt.Sprintf("%6.1fs  %d/%d connected  %d%s sent  %d acked  %d refused  %d under way  %.0f/s  ack p50 %v p99 %v", s.Elapsed.Seconds(),
		s.Connected, s.Devices, s.Sent, progress, s.Acked, s.Refused, s.InFlight, s.Rate, latency(0.5).Round(10*time.Microsecond),
		latency(0.99).Round(10*time.Microsecond))
}

// fleetResult is a fleet's end, for scripts.
type fleetResult struct {
	Seconds  float64            `json:"seconds"`
	Devices  int                `json:"devices"`
	Connects uint64             `json:"connects"`
	Sent     uint64             `json:"sent"`
	Bytes    uint64             `json:"bytes"`
	Acked    uint64             `json:"acked"`
	Refused  uint64             `json:"refused"`
	Resent   uint64             `json:"resent"`
	InFlight uint64             `json:"in_flight"`
	AckMs    map[string]float64 `json:"ack_ms"`
	Late     map[string]float64 `json:"late_ms"`
	Ledger   *sim.Report        `json:"ledger,omitempty"`
}

func ms(h *sim.Histogram) map[string]float64 {
	q := func(p float64) float64 { return float64(h.Quantile(p).Microseconds()) / 1000 }
	return map[string]float64{"p50": q(0.5), "p99": q(0.99), "p999": q(0.999), "max": float64(h.Max().Microseconds()) / 1000}
}

func (s *simFlags) finish(e env, st sim.FleetStats, report *sim.Report, err error) error {
	r := fleetResult{Seconds: st.Elapsed.Seconds(), Devices: st.Devices, Connects: st.Connects, Sent: st.Sent, Bytes: st.Bytes, Acked: st.Acked,
		Refused: st.Refused, Resent: st.Resent, InFlight: st.InFlight, Ledger: report}
	if st.Ack != nil {
		r.AckMs, r.Late = ms(st.Ack), ms(st.Late)
	}
	if e := print(e.Out, s.output, r, func() {
		if st.Ack != nil {
			fmt.Fprintln(e.Out, fleetLine(st, st.Ack.Quantile))
		}
		if report != nil {
			fmt.Fprintln(e.Out, report)
		}
	}); e != nil {
		return e
	}
	if report != nil {
		err = errors.Join(err, report.Err())
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

// statusLine returns what shows the state of things: over and over on one line of a terminal, else a line every so often.
func statusLine(w io.Writer, every time.Duration) func(line string) {
	if isTerminal(w) {
		shown := 0
		return func(line string) {
			text := []rune(line)
			if width, _, err := term.GetSize(int(w.(*os.File).Fd())); err == nil && len(text) >= width && width > 1 {
				text = text[:width-1] // a line that wraps is not written over
			}
			fmt.Fprintf(w, "\r%s%s", string(text), strings.Repeat(" ", max(0, shown-len(text))))
			shown = len(text)
		}
	}
	var last time.Time
	return func(line string) {
		if now := time.Now(); now.Sub(last) >= every {
			last = now
			fmt.Fprintln(w, line)
		}
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
