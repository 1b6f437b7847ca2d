package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/app"
	"github.com/millrace-io/millrace/config"
)

// settings are the flags that say how a node is configured.
type settings struct {
	file                        string
	data, mqtt, ws, kafka, http string
	log                         string
	logFlag                     string // that log is from; "": --log
	insecure                    bool
	level, format               string
}

func (s *settings) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&s.file, "config", "c", "", "configuration file (YAML)")
	f.StringVar(&s.data, "data", "", "folder for the data (default ./millrace-data)")
	f.StringVar(&s.log, "log", "", "where messages are kept: kafka://h1:9092,h2:9092 is a cluster, kafkas:// one over TLS (default: here, in --data)")
	f.StringVar(&s.mqtt, "mqtt-listen", "", "address for devices, or none (default 127.0.0.1:1883)")
	f.StringVar(&s.ws, "ws-listen", "", "address for MQTT over WebSocket (default none)")
	f.StringVar(&s.kafka, "kafka-listen", "", "address for Kafka clients, or none (default 127.0.0.1:9092)")
	f.StringVar(&s.http, "http-listen", "", "address for health and metrics, or none (default 127.0.0.1:8080)")
	f.BoolVar(&s.insecure, "insecure-allow-anonymous", false, "let other machines in without authentication")
	f.StringVar(&s.level, "log-level", "", "debug, info, warn or error (default info)")
	f.StringVar(&s.format, "log-format", "", "text or json (default text)")
}

// load makes the configuration of defaults, file, environment and flags, and checks it.
func (s *settings) load(e env) (*config.Config, error) {
	src := config.Source{File: s.file, Environ: e.Environ, Flags: map[string]string{}, Names: map[string]string{}}
	set := func(path, flag, value string) {
		if value != "" {
			src.Flags[path], src.Names[path] = value, flag
		}
	}
	set("log.data", "--data", quote(s.data))
	logFlag := cmp.Or(s.logFlag, "--log")
	brokers, overTLS, err := cluster(logFlag, s.log)
	if err != nil {
		return nil, err
	}
	set("log.kafka", logFlag, brokers)
	if overTLS {
		set("log.tls.ca", logFlag, string(config.SystemCA))
	}
	set("listeners.mqtt", "--mqtt-listen", listeners(s.mqtt))
	set("listeners.ws", "--ws-listen", listeners(s.ws))
	set("listeners.kafka", "--kafka-listen", listeners(s.kafka))
	set("logging.level", "--log-level", quote(s.level))
	set("logging.format", "--log-format", quote(s.format))
	if s.http == "none" {
		set("listeners.http.bind", "--http-listen", "''")
	} else {
		set("listeners.http.bind", "--http-listen", quote(s.http))
	}
	if s.insecure {
		set("insecure_allow_anonymous", "--insecure-allow-anonymous", "true")
	}
	c, err := config.Load(src)
	if err != nil {
		return nil, err
	}
	if err := app.CheckRoutes(c); err != nil {
		return nil, err
	}
	if err := app.CheckBridges(c); err != nil {
		return nil, err
	}
	if err := app.CheckPolicy(c); err != nil {
		return nil, err
	}
	return c, nil
}

// quote makes a YAML scalar of a flag's text; nothing of nothing.
func quote(s string) string {
	if s == "" {
		return ""
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// cluster makes a YAML list of the brokers of a URL.
func cluster(flag, s string) (list string, overTLS bool, err error) {
	if s == "" {
		return "", false, nil
	}
	scheme, hosts, ok := strings.Cut(strings.TrimSuffix(s, "/"), "://")
	if !ok || scheme != "kafka" && scheme != "kafkas" || hosts == "" {
		return "", false, fmt.Errorf("%s %s: write kafka://h1:9092,h2:9092, or kafkas:// for TLS", flag, s)
	}
	var quoted []string
	for h := range strings.SplitSeq(hosts, ",") {
		quoted = append(quoted, quote(h))
	}
	return "[" + strings.Join(quoted, ", ") + "]", scheme == "kafkas", nil
}

// listeners makes a YAML list of listeners of an address.
func listeners(s string) string {
	switch s {
	case "":
		return ""
	case "none":
		return "[]"
	}
	return "[{bind: " + quote(s) + "}]"
}

// logger writes what the program says about itself to standard error.
func logger(e env, c *config.Config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Logging.Level)); err != nil {
		level = slog.LevelInfo // the configuration is checked: it does not come to this
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Logging.Format == "json" {
		return slog.New(slog.NewJSONHandler(e.Err, o))
	}
	return slog.New(slog.NewTextHandler(e.Err, o))
}

func newConfig(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "config", Short: "Check or show a configuration", Args: cobra.NoArgs, RunE: help,
		Long: `A configuration is defaults, then a YAML file, then MILLRACE_… variables (MILLRACE_LOG_DATA is log.data), then flags.`,
	}
	c.AddCommand(newConfigCheck(e), newConfigShow(e))
	return c
}

func newConfigCheck(e env) *cobra.Command {
	var s settings
	var output string
	c := &cobra.Command{
		Use: "check", Short: "Say all that is wrong with a configuration, with lines and fixes", Args: cobra.NoArgs,
		Example: "  millrace config check --config millrace.yaml",
		RunE: func(*cobra.Command, []string) error {
			cfg, err := s.load(e)
			warnings := []string{}
			if err == nil {
				warnings = append(warnings, app.Warnings(cfg)...)
			}
			if output != "json" {
				if err == nil {
					err = print(e.Out, output, nil, func() {
						fmt.Fprintln(e.Out, "the configuration is right")
						for _, w := range warnings {
							fmt.Fprintln(e.Out, "warning:", w)
						}
					})
				}
				return err
			}
			found := problemsOf(err)
			found["warnings"] = warnings
			if e := print(e.Out, output, found, nil); e != nil {
				return e
			}
			return err
		},
	}
	s.flags(c)
	outputFlag(c, &output)
	return c
}

// problemsOf is an error of a configuration as a list.
func problemsOf(err error) map[string]any {
	problems := config.Problems{}
	switch err := err.(type) {
	case nil:
	case config.Problems:
		problems = err
	default:
		for line := range strings.SplitSeq(err.Error(), "\n") {
			problems = append(problems, config.Problem{Path: "routes", Text: line})
		}
	}
	return map[string]any{"ok": err == nil, "problems": problems}
}

func newConfigShow(e env) *cobra.Command {
	var s settings
	var output string
	var effective bool
	c := &cobra.Command{
		Use: "show", Short: "Show the configuration in effect, each value with its origin", Args: cobra.NoArgs,
		Example: "  millrace config show --effective --config millrace.yaml\n  MILLRACE_LOG_RETENTION=30d millrace config show --effective -o json",
		RunE: func(*cobra.Command, []string) error {
			c, err := s.load(e)
			if err != nil {
				return err
			}
			entries := c.Effective()
			if effective {
				return print(e.Out, output, entries, func() { fmt.Fprintf(e.Out, "%s", c.YAML()) })
			}
			set := entries[:0]
			for _, en := range entries {
				if en.Origin != "default" {
					set = append(set, en)
				}
			}
			return print(e.Out, output, set, func() {
				for _, en := range set {
					fmt.Fprintf(e.Out, "%s: %s  # %s\n", en.Path, en.Value, en.Origin)
				}
			})
		},
	}
	s.flags(c)
	outputFlag(c, &output)
	c.Flags().BoolVar(&effective, "effective", false, "defaults too, as a file that means the same")
	return c
}
