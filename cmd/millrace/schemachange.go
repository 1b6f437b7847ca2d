package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/schematool"
)

// schemaFile is a schema on the command line.
type schemaFile struct {
	kind string
	refs []string
}

func (f *schemaFile) flags(c *cobra.Command) {
	c.Flags().StringVarP(&f.kind, "type", "t", "", "AVRO, JSON or PROTOBUF (default: what the file's name says: .avsc, .json, .proto)")
	c.Flags().StringArrayVarP(&f.refs, "ref", "r", nil, "what the schema refers to: NAME=SUBJECT, the latest version, or NAME=SUBJECT@VERSION; may be repeated")
}

// read makes the schema of a file, - for standard input. Nobody has been asked yet.
func (f *schemaFile) read(e env, name string) (*schematool.Schema, error) {
	s := &schematool.Schema{Type: strings.ToUpper(f.kind)}
	for _, text := range f.refs {
		ref, err := schematool.ParseReference(text)
		if err != nil {
			return nil, fmt.Errorf("--ref: %w", err)
		}
		s.References = append(s.References, ref)
	}
	if s.Type = cmp.Or(s.Type, schematool.TypeOfFile(name)); s.Type == "" {
		return nil, fmt.Errorf("%s: its name does not say what it is: --type AVRO, JSON or PROTOBUF", name)
	}
	var b []byte
	var err error
	if name == "-" {
		b, err = io.ReadAll(io.LimitReader(e.In, maxSchema+1))
	} else {
		b, err = readUpTo(name, maxSchema+1)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the schema: %w", err)
	case len(bytes.TrimSpace(b)) == 0:
		return nil, fmt.Errorf("%s: there is no schema in it", name)
	case len(b) > maxSchema:
		return nil, fmt.Errorf("%s: more than %d bytes, which no registry takes", name, maxSchema)
	}
	s.Text = string(b)
	return s, nil
}

const maxSchema = 16 << 20

func readUpTo(name string, n int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, n))
}

func newSchemaRegister(e env) *cobra.Command {
	s, from := schemaFlags{env: e}, schemaFile{}
	var normalise bool
	c := &cobra.Command{
		Use: "register SUBJECT FILE", Short: "Register a file as the next version of a subject", Args: cobra.ExactArgs(2),
		Long: `Register a file as the next version of a subject, unless the subject has that schema. FILE - is standard input.

What it refers to is registered first, and named with --ref by what the text calls it: Avro's full name, JSON Schema's $ref, Protobuf's import.`,
		Example: `  millrace schema register telemetry-value telemetry.avsc
  millrace schema register order-value order.proto --ref common/money.proto=money@2
  jq -c . telemetry.json | millrace schema register telemetry-value - --type JSON`,
		RunE: func(cmd *cobra.Command, args []string) error {
			schema, err := from.read(e, args[1])
			if err != nil {
				return err
			}
			return s.ask(cmd.Context(), func(ctx context.Context, r *schematool.Registry) (any, func(io.Writer), error) {
				if err := r.Resolve(ctx, schema.References); err != nil {
					return nil, nil, err
				}
				made, err := r.Register(ctx, args[0], schema, normalise)
				if err != nil {
					return nil, nil, err
				}
				return made, func(w io.Writer) {
					verb := "registered"
					if !made.New {
						verb = "there already"
					}
					fmt.Fprintf(w, "%s: %s, version %d, id %d\n", plain(made.Subject), verb, made.Version, made.ID)
				}, nil
			})
		},
	}
	s.flags(c)
	from.flags(c)
	c.Flags().BoolVar(&normalise, "normalize", false, "in a form in which two schemas that mean the same are the same")
	return c
}

func newSchemaCheck(e env) *cobra.Command {
	s, from := schemaFlags{env: e}, schemaFile{}
	var version string
	c := &cobra.Command{
		Use: "check SUBJECT FILE", Short: "Say whether a file could be the next version of a subject, and why not", Args: cobra.ExactArgs(2),
		Long: `Say whether a file could be the next version of a subject, by the subject's level of compatibility, and why not. FILE - is standard input.
Nothing is registered. It ends with 1 if it could not.`,
		Example: `  millrace schema check telemetry-value telemetry.avsc
  millrace schema check telemetry-value telemetry.avsc --version 3
  millrace schema check telemetry-value telemetry.avsc -o json | jq .differences`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if version != "" {
				if err := checkVersion(version); err != nil {
					return err
				}
			}
			schema, err := from.read(e, args[1])
			if err != nil {
				return err
			}
			return s.ask(cmd.Context(), func(ctx context.Context, r *schematool.Registry) (any, func(io.Writer), error) {
				if err := r.Resolve(ctx, schema.References); err != nil {
					return nil, nil, err
				}
				v, err := r.Check(ctx, args[0], version, schema)
				if err != nil {
					return nil, nil, err
				}
				if !v.Compatible {
					err = fmt.Errorf("%s and %s: %w", args[1], args[0], schematool.ErrIncompatible)
				}
				return v, func(w io.Writer) { sayVerdict(w, v) }, err
			})
		},
	}
	s.flags(c)
	from.flags(c)
	c.Flags().StringVarP(&version, "version", "V", "", "compare with this version only: a number, or latest (default: those that the level demands)")
	return c
}

func sayVerdict(w io.Writer, v *schematool.Verdict) {
	level := ""
	if v.Level != "" {
		level = " (" + plain(v.Level) + ")"
	}
	switch {
	case v.New:
		fmt.Fprintf(w, "%s: there is no such subject yet: it would be its first version\n", plain(v.Subject))
	case v.Compatible:
		fmt.Fprintf(w, "%s: compatible%s\n", plain(v.Subject), level)
	case v.With > 0:
		fmt.Fprintf(w, "%s: not compatible with version %d%s\n", plain(v.Subject), v.With, level)
	default:
		fmt.Fprintf(w, "%s: not compatible%s\n", plain(v.Subject), level)
	}
	for _, d := range v.Differences {
		at := ""
		if d.Path != "" {
			at = "at " + printable(d.Path) + ": "
		}
		kind := ""
		if d.Kind != "" {
			kind = " (" + printable(d.Kind) + ")"
		}
		fmt.Fprintf(w, "  %s%s%s\n", at, printable(cmp.Or(d.Text, d.Kind)), kind)
	}
}

func newSchemaLevel(e env) *cobra.Command {
	s := schemaFlags{env: e}
	var set string
	var unset bool
	c := &cobra.Command{
		Use: "level [SUBJECT]", Short: "Show or set the level of compatibility, of a subject or of all that have none", Args: cobra.MaximumNArgs(1),
		Long: `Show or set the level of compatibility, of a subject or of all that have none of their own.

Levels: ` + strings.Join(schematool.Levels, ", ") + `.`,
		Example: `  millrace schema level
  millrace schema level telemetry-value --set FULL_TRANSITIVE
  millrace schema level telemetry-value --unset`,
		RunE: func(cmd *cobra.Command, args []string) error {
			subject := strings.Join(args, "")
			switch {
			case set != "" && unset:
				return errors.New("--set and --unset exclude each other")
			case unset && subject == "":
				return errors.New("--unset: name a subject; all subjects have some level")
			}
			if set != "" {
				var err error
				if set, err = schematool.ParseLevel(set); err != nil {
					return fmt.Errorf("--set: %w", err)
				}
			}
			return s.ask(cmd.Context(), func(ctx context.Context, r *schematool.Registry) (any, func(io.Writer), error) {
				var err error
				switch {
				case set != "":
					err = r.SetLevel(ctx, subject, set)
				case unset:
					err = r.DropLevel(ctx, subject)
				}
				if err != nil {
					return nil, nil, err
				}
				level, own, err := r.Level(ctx, subject)
				if err != nil {
					return nil, nil, err
				}
				return levelSaid{subject, level, own}, func(w io.Writer) { sayLevel(w, subject, level, own) }, nil
			})
		},
	}
	s.flags(c)
	c.Flags().StringVar(&set, "set", "", "the level it is to have")
	c.Flags().BoolVar(&unset, "unset", false, "the subject is to have none of its own")
	return c
}

type levelSaid struct {
	Subject string `json:"subject,omitempty"` // empty: all that have none of their own
	Level   string `json:"level"`
	Own     bool   `json:"of_its_own"`
}

func sayLevel(w io.Writer, subject, level string, own bool) {
	switch {
	case subject == "":
		fmt.Fprintf(w, "%s (of all subjects that have none of their own)\n", plain(level))
	case own:
		fmt.Fprintf(w, "%s: %s\n", plain(subject), plain(level))
	default:
		fmt.Fprintf(w, "%s: %s (the registry's)\n", plain(subject), plain(level))
	}
}

func newSchemaDelete(e env) *cobra.Command {
	s := schemaFlags{env: e}
	var version string
	var permanent, yes bool
	c := &cobra.Command{
		Use: "delete SUBJECT", Aliases: []string{"rm"}, Short: "Delete a subject, or one of its versions", Args: cobra.ExactArgs(1),
		Long: `Delete a subject, or one of its versions. That is soft: it is not listed any more, and what was written with it can still be read.
--permanent takes it away for good. What another schema refers to stays.`,
		Example: `  millrace schema delete scratch-value --yes
  millrace schema delete telemetry-value --version 4 --yes
  millrace schema delete scratch-value --permanent --yes`,
		RunE: func(cmd *cobra.Command, args []string) error {
			what := plain(args[0])
			if version != "" {
				if err := checkVersion(version); err != nil {
					return err
				}
				what = "version " + version + " of " + what
			}
			if !yes {
				how := "softly: what was written with it can still be read"
				if permanent {
					how = "for good: what was written with it cannot be read any more"
				}
				return fmt.Errorf("this would delete %s, %s: say --yes", what, how)
			}
			return s.ask(cmd.Context(), func(ctx context.Context, r *schematool.Registry) (any, func(io.Writer), error) {
				gone, err := r.Delete(ctx, args[0], version, permanent)
				if err != nil {
					return nil, nil, err
				}
				return gone, func(w io.Writer) {
					how := "softly; --permanent takes it away for good"
					if gone.Permanent {
						how = "for good"
					}
					fmt.Fprintf(w, "%s: deleted version %s, %s\n", plain(gone.Subject), numbers(gone.Versions), how)
				}, nil
			})
		},
	}
	s.flags(c)
	f := c.Flags()
	f.StringVarP(&version, "version", "V", "", "this version only: a number, or latest (default: all)")
	f.BoolVar(&permanent, "permanent", false, "for good; softly first, if that has not been done")
	f.BoolVar(&yes, "yes", false, "really")
	return c
}
