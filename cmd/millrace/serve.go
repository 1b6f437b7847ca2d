package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
	"github.com/millrace-io/millrace/config"
)

func newServe(e env) *cobra.Command {
	var s settings
	var test app.Test
	c := &cobra.Command{
		Use: "serve", Short: "Run a node", Args: cobra.NoArgs,
		Long: `Run a node: MQTT on 127.0.0.1:1883, Kafka on 127.0.0.1:9092, health and metrics on 127.0.0.1:8080, data in ./millrace-data.
SIGTERM or Ctrl-C stops it cleanly; a second one at once. Everything acknowledged is on disk either way. SIGHUP has it look at its
certificates at once, as it does by itself every few seconds; no connection is dropped.`,
		Example: `  millrace serve
  millrace serve --config millrace.yaml
  millrace serve --data /var/lib/millrace --mqtt-listen :1883 --insecure-allow-anonymous
  MILLRACE_LOG_RETENTION=30d millrace serve --kafka-listen none
  millrace serve --log kafka://h1:9092,h2:9092    # the log is your Kafka cluster`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.load(e)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), e, c, test)
		},
	}
	s.flags(c)
	testFlags(c, &test)
	return c
}

// testFlags are for measurements only (scripts/bench): they are not shown, and not for anybody's data.
func testFlags(c *cobra.Command, t *app.Test) {
	f := c.Flags()
	f.DurationVar(&t.DatasyncDelay, "test-datasync-delay", 0, "for measurements only: make every fdatasync take this much longer")
	f.DurationVar(&t.CheckpointEvery, "test-checkpoint-every", 0, "for measurements only: make a checkpoint at least this often")
	for _, name := range []string{"test-datasync-delay", "test-checkpoint-every"} {
		f.Lookup(name).Hidden = true
	}
}

// serve runs a node until ctx ends or the node fails.
func serve(ctx context.Context, e env, c *config.Config, test app.Test) error {
	defer app.TendHeap(int64(c.Limits.Memory))()
	log := logger(e, c)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	n, err := app.Start(ctx, app.Options{Config: c, Version: version, Logger: log, Test: test})
	if err != nil {
		return failure{err}
	}
	for running := true; running; {
		select {
		case <-reload:
			n.Reload()
			continue
		case <-ctx.Done():
			log.Info("stopping")
		case err = <-n.Failed():
			log.Error("the node has failed", "err", err)
		}
		running = false
	}
	err = errors.Join(err, stop(ctx, n))
	if err != nil {
		return failure{err}
	}
	log.Info("stopped")
	return nil
}

// stop stops a node, in the time that its configuration gives it.
func stop(ctx context.Context, n *app.Node) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.StopTime())
	defer cancel()
	return n.Stop(ctx)
}
