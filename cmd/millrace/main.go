// Command millrace is the whole program: a node (serve, demo), what looks at its configuration, and what plays devices (sim).
//
// Exit codes: 0, it did what it was told; 1, it could not, or what it checked is wrong; 2, the command line or the
// configuration is wrong, and nothing was begun.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/config"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the program at once
	}()
	os.Exit(run(ctx, os.Args[1:], env{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Environ: os.Environ()}))
}

// env is what a command sees of the world.
type env struct {
	In       io.Reader
	Out, Err io.Writer
	Environ  []string
}

const (
	exitOK = iota
	exitFailed
	exitUsage
)

// failure is an error of doing, as against one of asking.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// run is the program, but for the process around it.
func run(ctx context.Context, args []string, e env) int {
	root := newRoot(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(e.Err, "millrace: %v\n", err)
	var done failure
	var problems config.Problems
	if errors.As(err, &done) && !errors.As(err, &problems) {
		return exitFailed
	}
	return exitUsage
}

func newRoot(e env) *cobra.Command {
	root := &cobra.Command{
		Use:   "millrace",
		Short: "Carries device data from the antenna to the answer",
		Long: `Millrace carries device data from the antenna to the answer: devices speak MQTT to it, every message becomes a durable record in a
log, and any Kafka client reads that log.

Exit codes: 0 done; 1 failed, or what was checked is wrong; 2 wrong command line or configuration, nothing was begun.`,
		Example: `  millrace serve                             # a node on loopback, data in ./millrace-data
  millrace demo                              # a node with a replayed fleet
  millrace config check --config my.yaml     # is this configuration right?`,
		SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs, RunE: help,
	}
	root.SetOut(e.Out)
	root.SetErr(e.Err)
	root.AddCommand(newServe(e), newDemo(e), newSim(e), newVerify(e), newMQTT(e), newTopic(e), newGroup(e), newConsume(e), newProduce(e), newSchema(e), newLog(e), newBackup(e), newRestore(e), newDoctor(e), newConfig(e), newPasswd(e), newPolicy(e), newMigrate(e), newVersion(e))
	return root
}

// help is what a command does that only has commands below it.
func help(c *cobra.Command, _ []string) error { return c.Help() }

func newVersion(e env) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "version", Short: "Say which build this is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return print(e.Out, output, v, func() { fmt.Fprintf(e.Out, "millrace %s (%s, %s)\n", version, v["go"], v["platform"]) })
		},
	}
	outputFlag(c, &output)
	return c
}

func outputFlag(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "text", "text or json")
}

// print writes a result as text or JSON.
func print(w io.Writer, output string, value any, text func()) error {
	switch output {
	case "text":
		text()
		return nil
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(value); err != nil {
			return failure{fmt.Errorf("write the result: %w", err)}
		}
		return nil
	}
	return fmt.Errorf("--output %q: text or json", output)
}
