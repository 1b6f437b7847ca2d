package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/schematool"
)

// schemaFlags say which schema registry a command asks, and as whom.
type schemaFlags struct {
	env                   env
	registry              string
	user, password, token string
	ca, cert, key         string
	timeout               time.Duration
	output                string
}

func (s *schemaFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.registry, "registry", "127.0.0.1:8081", "address of the schema registry; https://… with TLS")
	f.StringVarP(&s.user, "user", "u", "", "who asks, by HTTP basic authentication")
	f.StringVar(&s.password, "password", "", "its password: env:VARIABLE or file:PATH")
	f.StringVar(&s.token, "token", "", "bearer token: env:VARIABLE or file:PATH")
	f.StringVar(&s.ca, "ca", "", "PEM file of the authority that the registry's certificate is from, if it is not one of the system's")
	f.StringVar(&s.cert, "cert", "", "PEM file of a certificate to show; with --key")
	f.StringVar(&s.key, "key", "", "PEM file of its key")
	f.DurationVar(&s.timeout, "timeout", 30*time.Second, "give up after this time without an answer")
	outputFlag(c, &s.output)
}

// open makes ready to ask.
func (s *schemaFlags) open() (*schematool.Registry, error) {
	o := schematool.Options{URL: s.registry, User: s.user}
	var err error
	switch {
	case s.output != "text" && s.output != "json":
		return nil, fmt.Errorf("--output %q: text or json", s.output)
	case s.timeout <= 0:
		return nil, fmt.Errorf("--timeout %v: more than nothing", s.timeout)
	case (s.user == "") != (s.password == ""):
		return nil, errors.New("--user and --password go together")
	case s.user != "" && s.token != "":
		return nil, errors.New("--user and --token exclude each other")
	case (s.cert == "") != (s.key == ""):
		return nil, errors.New("--cert and --key go together")
	}
	if o.Password, err = s.env.secret("--password", s.password); err != nil {
		return nil, err
	}
	if o.Token, err = s.env.secret("--token", s.token); err != nil {
		return nil, err
	}
	if o.Client, err = clientTrusting(s.ca); err != nil {
		return nil, err
	}
	if s.cert != "" {
		if o.Client, err = showing(o.Client, s.cert, s.key); err != nil {
			return nil, err
		}
	}
	r, err := schematool.New(o)
	if err != nil {
		return nil, fmt.Errorf("--registry: %w", err)
	}
	return r, nil
}

// showing is a client that shows a certificate.
func showing(c *http.Client, cert, key string) (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("--cert %s with --key %s: %w", cert, key, err)
	}
	t, ok := c.Transport.(*http.Transport)
	if !ok {
		t = http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.Certificates = []tls.Certificate{pair}
	return &http.Client{Transport: t}, nil
}

// ask asks the registry within the time, and prints the answer. An error beside an answer is what the exit code tells.
func (s *schemaFlags) ask(ctx context.Context, do func(context.Context, *schematool.Registry) (any, func(io.Writer), error)) error {
	r, err := s.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	answer, text, err := do(ctx, r)
	if answer == nil && err != nil {
		return failure{s.advise(err)}
	}
	var out bytes.Buffer
	if p := print(&out, s.output, answer, func() { text(&out) }); p != nil {
		return p
	}
	if _, w := s.env.Out.Write(out.Bytes()); w != nil {
		return failure{fmt.Errorf("write the result: %w", w)}
	}
	if err != nil {
		return failure{err}
	}
	return nil
}

// advise says what to do about an error.
func (s *schemaFlags) advise(err error) error {
	switch {
	case errors.Is(err, schematool.ErrUnauthorized) && s.user == "" && s.token == "" && s.cert == "":
		return fmt.Errorf("%w; say who asks: --user NAME --password file:PATH, --token file:PATH, or --cert and --key", err)
	case errors.Is(err, schematool.ErrUnreachable), errors.Is(err, schematool.ErrForeign):
		return fmt.Errorf("%w; name another with --registry (a node has one when listeners.registry is configured)", err)
	}
	return err
}

func newSchema(e env) *cobra.Command {
	c := &cobra.Command{
		Use: "schema", Short: "List, show, register, check and delete schemas of a registry", Args: cobra.NoArgs, RunE: help,
		Long: `Schemas of this machine's node, or of any registry with Confluent's REST API: --registry names it.`,
		Example: `  millrace schema list
  millrace schema show telemetry-value
  millrace schema check telemetry-value telemetry.json && millrace schema register telemetry-value telemetry.json
  millrace schema list --registry https://registry.example:8081 --user anna --password file:secret`,
	}
	c.AddCommand(newSchemaList(e), newSchemaShow(e), newSchemaRegister(e), newSchemaCheck(e), newSchemaLevel(e), newSchemaDelete(e))
	return c
}

func newSchemaList(e env) *cobra.Command {
	s := schemaFlags{env: e}
	var deleted bool
	c := &cobra.Command{
		Use: "list [PREFIX]", Aliases: []string{"ls"}, Short: "List the subjects, with their latest version", Args: cobra.MaximumNArgs(1),
		Example: `  millrace schema list
  millrace schema list telemetry- --deleted
  millrace schema list -o json | jq -r '.[] | select(.type == "AVRO").subject'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.ask(cmd.Context(), func(ctx context.Context, r *schematool.Registry) (any, func(io.Writer), error) {
				list, err := r.Subjects(ctx, strings.Join(args, ""), deleted)
				if err != nil {
					return nil, nil, err
				}
				return list, func(w io.Writer) { saySubjects(w, list) }, nil
			})
		},
	}
	s.flags(c)
	c.Flags().BoolVar(&deleted, "deleted", false, "those too that are deleted, but not for good")
	return c
}

func saySubjects(w io.Writer, list []schematool.Subject) {
	if len(list) == 0 {
		fmt.Fprintln(w, "there are no subjects")
		return
	}
	table(w, "SUBJECT\tTYPE\tVERSION\tID\t", func(row func(string, ...any)) {
		for _, s := range list {
			note := ""
			if s.Deleted {
				note = "deleted"
			}
			row("%s\t%s\t%d\t%d\t%s", plain(s.Name), plain(cmp.Or(s.Type, "-")), s.Version, s.ID, note)
		}
	})
}

func newSchemaShow(e env) *cobra.Command {
	s := schemaFlags{env: e}
	var version string
	var id int
	var bare bool
	c := &cobra.Command{
		Use: "show SUBJECT", Short: "Show a version of a subject, the latest by default, or the schema with an id", Args: cobra.MaximumNArgs(1),
		Example: `  millrace schema show telemetry-value
  millrace schema show telemetry-value --version 2
  millrace schema show telemetry-value --bare > telemetry.avsc
  millrace schema show --id 17`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case (len(args) == 0) != cmd.Flags().Changed("id"):
				return errors.New("which one: SUBJECT, or --id")
			case len(args) == 0 && cmd.Flags().Changed("version"):
				return errors.New("--id and --version exclude each other")
			case bare && s.output == "json":
				return errors.New("--bare and -o json exclude each other")
			}
			if err := checkVersion(version); err != nil {
				return err
			}
			return s.ask(cmd.Context(), func(ctx context.Context, r *schematool.Registry) (any, func(io.Writer), error) {
				var v *schematool.Version
				var err error
				if len(args) == 0 {
					v, err = r.ByID(ctx, id)
				} else {
					v, err = r.Version(ctx, args[0], version)
				}
				if err != nil {
					return nil, nil, err
				}
				return v, func(w io.Writer) { sayVersion(w, v, bare) }, nil
			})
		},
	}
	s.flags(c)
	f := c.Flags()
	f.StringVarP(&version, "version", "V", schematool.Latest, "a number, or latest")
	f.IntVar(&id, "id", 0, "the schema with this id, as records have it")
	f.BoolVar(&bare, "bare", false, "the schema's text as it is registered, and nothing else")
	return c
}

// checkVersion takes a number, or latest.
func checkVersion(v string) error {
	if n, err := strconv.Atoi(v); v != schematool.Latest && (err != nil || n <= 0) {
		return fmt.Errorf("--version %q: a number from 1 on, or latest", v)
	}
	return nil
}

func sayVersion(w io.Writer, v *schematool.Version, bare bool) {
	if bare {
		fmt.Fprintln(w, strings.TrimRight(v.Schema, "\n"))
		return
	}
	if v.Subject == "" {
		fmt.Fprintf(w, "schema %d, %s, of no version that is there\n", v.ID, plain(v.Type))
	} else {
		fmt.Fprintf(w, "%s: version %d of %s, id %d, %s\n", plain(v.Subject), v.Version, numbers(v.Versions), v.ID, plain(v.Type))
	}
	if v.Level != "" {
		of := "the registry's"
		if v.LevelOwn {
			of = "its own"
		}
		fmt.Fprintf(w, "compatibility: %s (%s)\n", plain(v.Level), of)
	}
	for _, ref := range v.References {
		fmt.Fprintf(w, "refers to %s: %s, version %d\n", plain(ref.Name), plain(ref.Subject), ref.Version)
	}
	if len(v.ReferredBy) > 0 {
		fmt.Fprintf(w, "schemas that refer to it: %s\n", numbers(v.ReferredBy))
	}
	fmt.Fprintf(w, "\n%s\n", schemaText(v.Schema))
}

func numbers(list []int) string {
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ", ")
}

// schemaText is a schema for reading: JSON indented, and nothing that moves a terminal's cursor but the ends of lines.
func schemaText(text string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(text), "", "  ") == nil {
		text = b.String()
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, l := range lines {
		lines[i] = printable(strings.ReplaceAll(strings.TrimSuffix(l, "\r"), "\t", "    "))
	}
	return strings.Join(lines, "\n")
}
