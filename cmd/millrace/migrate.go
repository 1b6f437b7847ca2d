package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/migrate"
)

func newMigrate(e env) *cobra.Command {
	c := &cobra.Command{Use: "migrate", Short: "Come from another broker"}
	c.AddCommand(newMigrateImport(e))
	return c
}

func newMigrateImport(e env) *cobra.Command {
	var out, output string
	c := &cobra.Command{
		Use: "import FILE", Short: "Make a configuration of a Mosquitto broker's",
		Long: `Read mosquitto.conf with the files that it names (include_dir, password_file, acl_file) and write what that is for Millrace: millrace.yaml, and beside
it policy.yaml, passwords and bridges' passwords as they are needed. Nothing that is there is overwritten. Certificates and keys stay where they are.

Every option is carried over or named, with the reason and what to do. Passwords stay as they are: hashes of mosquitto_passwd are taken, and made
stronger when their owners log in.

Exit codes: 0 written; 1 it could not be read or written; 2 wrong command line. Read the notes of the level "unsafe" before you start the node.`,
		Example: `  millrace migrate import /etc/mosquitto/mosquitto.conf              # into ./millrace
  millrace migrate import mosquitto.conf --out /etc/millrace
  millrace config check --config millrace/millrace.yaml
  millrace serve --config millrace/millrace.yaml`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return importMosquitto(e, args[0], out, output)
		},
	}
	c.Flags().StringVar(&out, "out", "millrace", "folder for what is written; it is made if it is not there")
	outputFlag(c, &output)
	return c
}

const configName = "millrace.yaml"

func importMosquitto(e env, path, out, output string) error {
	out, err := filepath.Abs(out) // a service does not start in this folder
	if err != nil {
		return failure{err}
	}
	result, err := migrate.Import(path, out, os.ReadFile, listFolder)
	if err != nil {
		return failure{err}
	}
	if err := writeImport(result, out); err != nil {
		return failure{err}
	}
	file := filepath.Join(out, configName)
	_, wrong := config.Load(config.Source{File: file})
	return print(e.Out, output, imported(result, file, wrong), func() { sayImport(e.Out, result, file, wrong) })
}

func listFolder(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, f := range entries {
		names = append(names, f.Name())
	}
	return names, err
}

// writeImport writes the files. One that is there already stops it before it begins.
func writeImport(r *migrate.Result, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make the folder: %w", err)
	}
	files := append([]migrate.File{{Name: configName, Text: []byte(r.Config)}}, r.Files...)
	for _, f := range files {
		if _, err := os.Lstat(filepath.Join(out, f.Name)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there already: choose another folder with --out, or move it away", filepath.Join(out, f.Name))
		}
	}
	for _, f := range files {
		mode := os.FileMode(0o644)
		if f.Secret {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(out, f.Name), f.Text, mode); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

func sayImport(w io.Writer, r *migrate.Result, file string, wrong error) {
	fmt.Fprintf(w, "%d options read, %d things to know:\n", r.Asked, len(r.Notes))
	last := migrate.Level("")
	for _, n := range r.Notes {
		if n.Level != last {
			fmt.Fprintf(w, "\n%s\n", map[migrate.Level]string{
				migrate.Unsafe:  "LOOK AT THESE FIRST",
				migrate.Dropped: "NOT CARRIED OVER",
				migrate.Changed: "CARRIED OVER, BUT NOT QUITE THE SAME",
				migrate.Moot:    "NEEDED NO MORE",
			}[n.Level])
			last = n.Level
		}
		fmt.Fprintf(w, "  %s %s: %s\n", printable(n.Where), printable(n.Option), printable(n.Text))
	}
	fmt.Fprintf(w, "\nWritten: %s", file)
	for _, f := range r.Files {
		fmt.Fprintf(w, ", %s", filepath.Join(filepath.Dir(file), f.Name))
	}
	fmt.Fprintln(w)
	var problems config.Problems
	switch {
	case wrong == nil:
		fmt.Fprintf(w, "Next: millrace serve --config %s\n", file)
	case errors.As(wrong, &problems):
		fmt.Fprintf(w, "It still needs you:\n%v\n", problems)
	default:
		fmt.Fprintf(w, "It cannot be read again: %v\n", wrong)
	}
}

// imported is what the command says with -o json.
func imported(r *migrate.Result, file string, wrong error) any {
	out := struct {
		Config string         `json:"config"`
		Files  []string       `json:"files"`
		Notes  []migrate.Note `json:"notes"`
		Wrong  string         `json:"wrong,omitempty"` // what config check has against it
	}{Config: file, Files: []string{}, Notes: r.Notes}
	for _, f := range r.Files {
		out.Files = append(out.Files, filepath.Join(filepath.Dir(file), f.Name))
	}
	if wrong != nil {
		out.Wrong = wrong.Error()
	}
	return out
}
