package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/mqtt/packet"
	"github.com/millrace-io/millrace/sim"
	"github.com/millrace-io/millrace/sim/city"
)

// demoConfig has a route for the vans, one for the buses, and one for whoever tries it. The keys are the vehicles, so a Kafka consumer
// has each in order.
const demoConfig = `# Written by millrace demo at each start. When it has stopped: millrace verify --data FOLDER/log --config FOLDER/millrace.yaml
log: {max_bytes: 4GiB, retention: 1d}
routes:
  - {mqtt: "city/{vehicle}/position", topic: vehicles, key: "{vehicle}", kind: simulated, label: Amsterdam, compression: zstd}
  - {mqtt: "/hfp/v2/{journey}/{state}/{event}/bus/{operator}/{vehicle}/#", topic: hfp, key: "{operator}/{vehicle}", kind: recorded, label: Helsinki, attribution: "` + sim.Attribution + `", compression: zstd}
  - {mqtt: "fleet/{vehicle}/position", topic: fleet, key: "{vehicle}"}
`

// demoFlags are the demo's settings.
type demoFlags struct {
	data     string
	fresh    bool
	vehicles int
	speed    float64
	duration time.Duration
}

func newDemo(e env) *cobra.Command {
	var o demoFlags
	c := &cobra.Command{
		Use: "demo", Short: "Run a node with a city's fleet on a live map", Args: cobra.NoArgs,
		Long: `Run a node, with simulated vans that make deliveries in Amsterdam and recorded buses of Helsinki, and show where to look: the console's
live map, any MQTT client, any Kafka client. It needs no network. Ports that are taken are passed over.

Ctrl-C ends it. The data stays in ./millrace-demo-data (or --data), and the next demo goes on where its log ends.

Streets ` + city.Attribution + `. Buses ` + sim.Attribution + `.`,
		Example: "  millrace demo\n  millrace demo --vehicles 200 --speed 5\n  millrace demo --fresh --duration 10m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !(o.speed > 0 && o.speed <= 1000) {
				return fmt.Errorf("--speed %v: above 0, at most 1000", o.speed)
			}
			if o.vehicles < 1 || o.vehicles > 100_000 {
				return fmt.Errorf("--vehicles %d: 1 to 100000", o.vehicles)
			}
			ctx := cmd.Context()
			if o.duration > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, o.duration)
				defer cancel()
			}
			if err := o.run(ctx, e); err != nil {
				return failure{err}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.data, "data", "millrace-demo-data", "folder for the data")
	f.BoolVar(&o.fresh, "fresh", false, "begin anew: delete what an earlier demo left in the folder")
	f.IntVar(&o.vehicles, "vehicles", 1000, "how many vans")
	f.Float64Var(&o.speed, "speed", 1, "times real time, of vans and buses")
	f.DurationVar(&o.duration, "duration", 0, "stop after this time; 0: with Ctrl-C")
	return c
}

// demoStop is how long the end may take.
const demoStop = 5 * time.Second

func (o *demoFlags) run(ctx context.Context, e env) (err error) {
	began := time.Now()
	streets := make(chan []byte, 1)
	go func() {
		b, _, _ := city.Streets() // without a map it is a demo still; an error of the graph comes up again in Drive
		streets <- b
		if c, err := city.Load(); err == nil {
			c.Prepare() // while the node starts
		}
	}()
	c, err := o.config()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(e.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	n, err := app.Start(ctx, app.Options{Config: c, Version: version, Logger: log, Streets: <-streets})
	if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), demoStop)
		defer cancel()
		err = errors.Join(err, n.Stop(stopping))
	}()
	was, err := remember(ctx, n, o.vehicles)
	if err != nil {
		return err
	}
	o.explain(e.Out, n, time.Since(began), was)
	err = o.play(ctx, e, n, was)
	fmt.Fprintln(e.Out, "\nstopping")
	return err
}

// play runs both fleets until ctx ends or the node fails.
func (o *demoFlags) play(ctx context.Context, e env, n *app.Node, was memory) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fleet := sim.FleetOptions{Dial: sim.DialTCP(n.Address("MQTT")), QoS: 1, Last: was.last, Grace: 2 * time.Second,
		Connect: packet.Connect{Version: packet.V5, CleanStart: true, KeepAlive: 60}}
	line := &demoLine{n: n, show: statusLine(e.Out, 10*time.Second)}
	played := make(chan error, 2)
	go func() {
		d := sim.DriveOptions{FleetOptions: fleet, Vehicles: o.vehicles, Speed: o.speed, Resume: was.state}
		d.Report = func(s sim.FleetStats) { line.report(0, s) }
		_, err := sim.Drive(ctx, d)
		played <- err
	}()
	go func() {
		r := sim.ReplayOptions{FleetOptions: fleet, Speed: o.speed, Now: true, Loop: true}
		r.Report = func(s sim.FleetStats) { line.report(1, s) }
		_, err := sim.Replay(ctx, r)
		played <- err
	}()
	running := 2
	select {
	case err = <-n.Failed():
	case err = <-played:
		running--
	}
	cancel()
	for range running {
		err = errors.Join(err, <-played)
	}
	if ctxEnded(err) {
		err = nil
	}
	return err
}

// config is the demo's configuration: its routes, its folder, ports that are free.
func (o *demoFlags) config() (*config.Config, error) {
	c, err := config.Parse(demoConfig, "demo")
	if err != nil {
		return nil, err
	}
	if err := o.folder(); err != nil {
		return nil, err
	}
	c.Log.Data = o.log()
	c.Listeners.MQTT[0].Bind = freeAddress(1883)
	c.Listeners.Kafka[0].Bind = freeAddress(9092)
	c.Listeners.HTTP.Bind = freeAddress(8080)
	return c, nil
}

// demoNote marks a folder as the demo's: only such a one is ever deleted.
const (
	demoNote = "README.txt"
	demoText = "millrace demo keeps its data here. It may be deleted, best with: millrace demo --fresh\n"
	demoFile = "millrace.yaml" // the demo's configuration, for whoever looks at the data afterwards
)

// folder makes the data's folder, or takes one that a demo has made; of that --fresh deletes what the demo left there.
func (o *demoFlags) folder() error {
	note := filepath.Join(o.data, demoNote)
	text, err := os.ReadFile(note)
	ours := err == nil && string(text) == demoText
	if there, err := os.ReadDir(o.data); !ours && (len(there) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist)) {
		return fmt.Errorf("%s is there, and is not a demo's folder: name another one with --data", o.data)
	}
	if ours && o.fresh {
		if err := app.DeleteData(o.log()); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	if err := os.MkdirAll(o.data, 0o755); err != nil {
		return fmt.Errorf("make the folder for the data: %w", err)
	}
	for name, text := range map[string]string{demoNote: demoText, demoFile: demoConfig} {
		if err := os.WriteFile(filepath.Join(o.data, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("make the folder for the data: %w", err)
		}
	}
	return nil
}

// log is the folder of the node's log.
func (o *demoFlags) log() string { return filepath.Join(o.data, "log") }

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

func (o *demoFlags) explain(w io.Writer, n *app.Node, took time.Duration, was memory) {
	host, port, _ := net.SplitHostPort(n.Address("MQTT"))
	goesOn := ""
	if was.messages > 0 {
		goesOn = " It goes on where the last one ended."
	}
	fmt.Fprintf(w, `
  Console  http://%s/
  MQTT     %s
  Kafka    %s
  Data     %s

%s vans drive in Amsterdam (simulated; streets %s),
7 buses in Helsinki (recorded; %s). Started in %v.%s

Watch them, as any MQTT client does:
  mosquitto_sub -h %s -p %s -t 'city/+/position' -v
Read the same messages, as any Kafka client does:
  kcat -b %s -C -t vehicles -o end -f '%%k %%s\n'
Publish a vehicle of your own; it appears on the map:
  mosquitto_pub -h %s -p %s -t fleet/me/position -m '{"lat":52.3731,"lon":4.8926}'
Prove from the log that nothing is missing:
  %s verify --http %s

Ctrl-C ends it.

`, n.Address("HTTP"), n.Address("MQTT"), n.Address("Kafka"), o.data, grouped(uint64(o.vehicles)), city.Attribution, sim.Attribution,
		took.Round(10*time.Millisecond), goesOn, host, port, n.Address("Kafka"), host, port, os.Args[0], n.Address("HTTP"))
}

// demoLine is the live line: what both fleets say, added up. Each fleet reports from a goroutine of its own.
type demoLine struct {
	n    *app.Node
	show func(string)

	mu    sync.Mutex
	stats [2]sim.FleetStats
}

func (l *demoLine) report(fleet int, s sim.FleetStats) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats[fleet] = s
	if fleet > 0 || s.Ack == nil {
		return // shown with the vans
	}
	ready := ""
	if !l.n.Status().Ready {
		ready = "  NOT READY, see /readyz"
	}
	vans, buses := l.stats[0], l.stats[1]
	recent := vans.Recent
	if recent.Count() == 0 { // it has only begun
		recent = vans.Ack.Snapshot()
	}
	l.show(fmt.Sprintf("%v  %s devices  %.0f/s  sent %s  in the log %s  under way %d  durable after p50 %v p99 %v%s", vans.Elapsed.Round(time.Second),
		grouped(uint64(vans.Connected+buses.Connected)), vans.Rate+buses.Rate, grouped(vans.Sent+buses.Sent), grouped(vans.Acked+buses.Acked),
		vans.InFlight+buses.InFlight, recent.Quantile(0.5).Round(100*time.Microsecond), recent.Quantile(0.99).Round(100*time.Microsecond), ready))
}

// grouped writes a number with commas.
func grouped(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
