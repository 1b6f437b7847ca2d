package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/millrace-io/millrace/identity"
)

func newPasswd(e env) *cobra.Command {
	var p passwd
	var list, remove bool
	c := &cobra.Command{
		Use: "passwd FILE [NAME]", Short: "Say who may read the console: passwords and tokens",
		Long: `Give a name a password in a password file (asked for twice, unseen), or a token, or take it away. FILE is made if it is not there. A node
whose listeners.http.password_file it is takes the change over within seconds; a password that was changed or taken away ends its logins.

People get passwords. Programs get tokens, to be sent as "Authorization: Bearer TOKEN"; a token is shown once, the file has its hash only.`,
		Example: `  millrace passwd users anna                      # asks for anna's password
  millrace passwd users scraper --token           # prints a token for Prometheus
  millrace passwd users anna --stdin < secret     # reads the password from a pipe
  millrace passwd users anna --delete
  millrace passwd users --list
  millrace serve --config my.yaml                 # with listeners: {http: {bind: ":8080", password_file: users}}`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.file, p.e, p.ctx = args[0], e, cmd.Context()
			if len(args) == 2 {
				p.name = args[1]
			}
			if err := p.check(list, remove); err != nil {
				return err
			}
			switch {
			case list:
				return p.list()
			case remove:
				return p.edit(p.delete)
			case p.token:
				return p.edit(p.setToken)
			}
			return p.edit(p.setPassword)
		},
	}
	f := c.Flags()
	f.BoolVar(&p.token, "token", false, "make a token for a program, print it once")
	f.BoolVar(&p.stdin, "stdin", false, "read the password from standard input, one line")
	f.BoolVar(&remove, "delete", false, "take the name out of the file")
	f.BoolVar(&list, "list", false, "say who is in the file")
	f.StringVar(&p.role, "role", identity.Admin, "what the name may do: admin (read everything)")
	outputFlag(c, &p.output)
	return c
}

// passwd is one call of the command.
type passwd struct {
	ctx                      context.Context
	e                        env
	file, name, role, output string
	token, stdin             bool
}

func (p *passwd) check(list, remove bool) error {
	n := 0
	for _, set := range []bool{list, remove, p.token, p.stdin} {
		if set {
			n++
		}
	}
	switch {
	case n > 1:
		return errors.New("--list, --delete, --token and --stdin exclude each other")
	case list && p.name != "":
		return errors.New("--list takes no name")
	case list:
		return nil
	case p.name == "":
		return errors.New("whose password? write millrace passwd FILE NAME")
	}
	if err := identity.CheckName(p.name); err != nil {
		return fmt.Errorf("%q: %w", p.name, err)
	}
	return nil
}

func (p *passwd) list() error {
	f, err := readPasswords(p.file)
	if err != nil {
		return failure{err}
	}
	return print(p.e.Out, p.output, f.List(), func() {
		for _, c := range f.List() {
			fmt.Fprintf(p.e.Out, "%-20s %-8s %s\n", c.Name, c.Role, c.Kind)
		}
	})
}

// edit changes the file, and says what it did after that is on disk.
func (p *passwd) edit(change func(*identity.File) (result map[string]string, say string, err error)) error {
	w, err := beginReplace(p.file)
	if err != nil {
		return failure{err}
	}
	defer w.abandon()
	f, err := readPasswords(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = identity.Parse(nil)
	}
	if err != nil {
		return failure{err}
	}
	result, say, err := change(f)
	if err != nil {
		return failure{fmt.Errorf("%s: %w", p.name, err)}
	}
	if err := w.commit(f.Bytes()); err != nil {
		return failure{err}
	}
	return print(p.e.Out, p.output, result, func() { fmt.Fprintln(p.e.Out, say) })
}

func (p *passwd) delete(f *identity.File) (map[string]string, string, error) {
	if !f.Delete(p.name) {
		return nil, "", errors.New("is not in the file; --list says who is")
	}
	return map[string]string{"deleted": p.name}, p.name + " is out of " + p.file, nil
}

func (p *passwd) setToken(f *identity.File) (map[string]string, string, error) {
	token, err := f.SetToken(nil, p.name, p.role)
	if err != nil {
		return nil, "", err
	}
	return map[string]string{"name": p.name, "role": p.role, "token": token}, token, nil
}

func (p *passwd) setPassword(f *identity.File) (map[string]string, string, error) {
	password, err := p.ask()
	if err == nil {
		err = f.SetPassword(nil, p.name, p.role, password)
	}
	if err != nil {
		return nil, "", err
	}
	return map[string]string{"name": p.name, "role": p.role}, p.name + " has a password in " + p.file, nil
}

// ask gets the password, from the terminal or as standard input's first line.
func (p *passwd) ask() (string, error) {
	if p.stdin {
		line, err := bufio.NewReader(io.LimitReader(p.e.In, identity.MaxPassword+3)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read standard input: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	in, ok := p.e.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", errors.New("there is no terminal to ask at: use --stdin")
	}
	var twice [2]string
	for i, prompt := range []string{"Password: ", "Again: "} {
		fmt.Fprint(p.e.Err, prompt)
		var err error
		twice[i], err = readUnseen(p.ctx, int(in.Fd()))
		fmt.Fprintln(p.e.Err)
		if err != nil {
			return "", fmt.Errorf("ask for the password: %w", err)
		}
	}
	if twice[0] != twice[1] {
		return "", errors.New("the two are not the same; nothing has changed")
	}
	return twice[0], nil
}

// readUnseen reads a line from a terminal that does not show it. Ctrl-C ends the waiting, and leaves a terminal that shows what is typed.
func readUnseen(ctx context.Context, fd int) (string, error) {
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	type read struct {
		line []byte
		err  error
	}
	done := make(chan read, 1)
	go func() { // ends with the program at the latest
		b, err := term.ReadPassword(fd)
		done <- read{b, err}
	}()
	select {
	case r := <-done:
		return string(r.line), r.err
	case <-ctx.Done():
		return "", errors.Join(errors.New("interrupted; nothing has changed"), term.Restore(fd, before))
	}
}

func readPasswords(name string) (*identity.File, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	f, err := identity.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// replacement is a file that will stand in another's place, or not at all. While it is there nobody else changes the other.
type replacement struct {
	f    *os.File
	name string
	done bool
}

// beginReplace begins beside the file itself, also if a link leads to it.
func beginReplace(name string) (*replacement, error) {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s.new is there: another millrace passwd is at work, or one was interrupted; if it was, remove that file", name)
	}
	if err != nil {
		return nil, fmt.Errorf("change %s: %w", name, err)
	}
	return &replacement{f: f, name: name}, nil
}

// commit puts the bytes in the file's place: after a crash there is the old file or the new one. Its owner stays its owner.
func (r *replacement) commit(b []byte) error {
	_, err := r.f.Write(b)
	if err == nil {
		err = keepOwner(r.f, r.name)
	}
	if err == nil {
		err = r.f.Sync()
	}
	if e := r.f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(r.name+".new", r.name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", r.name, err)
	}
	r.done = true
	if d, err := os.Open(filepath.Dir(r.name)); err == nil {
		d.Sync() //nolint:errcheck // not every system syncs folders; the file is in place
		d.Close()
	}
	return nil
}

// abandon removes what was not committed.
func (r *replacement) abandon() {
	if !r.done { // else the next one's may be there
		r.f.Close()
		os.Remove(r.name + ".new") //nolint:errcheck // it is empty or half a file: whoever comes next says that it is there
	}
}
