package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/millrace-io/millrace/identity"
	"github.com/millrace-io/millrace/internal/vfs"
)

func newPasswd(e env) *cobra.Command {
	var p passwd
	var list, remove bool
	c := &cobra.Command{
		Use: "passwd FILE [NAME]", Short: "Say who gets in, to the console and over MQTT and Kafka: passwords and tokens",
		Long: `Give a name a password in a password file (asked for twice, unseen), or a token, or take it away. FILE is made if it is not there. A node
whose listeners.http.password_file or auth.passwords it is takes the change over within seconds; a password or token that was changed or taken away
ends logins and MQTT connections. Lines that mosquitto_passwd has written are read too.

People get passwords. Programs and devices get tokens: over HTTP to be sent as "Authorization: Bearer TOKEN", over MQTT as the password, with the name
as the user name (so over Kafka, with SASL PLAIN). A token is shown once, the file has its hash only. Names with the role device get in over MQTT and
Kafka, and nowhere else.

With --scram Kafka clients can also log in by SCRAM-SHA-256 and SCRAM-SHA-512, which never send the password. What the file keeps for that is
easier to guess at than its other hash, so do it for those who need it, with passwords that nobody guesses.`,
		Example: `  millrace passwd users anna                      # asks for anna's password
  millrace passwd users scraper --token           # prints a token for Prometheus
  millrace passwd users truck-7 --token --role device   # prints a token for a device
  millrace passwd users etl --scram --role device # asks for a password that works with SCRAM
  millrace passwd users anna --stdin < secret     # reads the password from a pipe
  millrace passwd users anna --delete
  millrace passwd users --list
  mosquitto_pub -u truck-7 -P TOKEN -t x -m y     # with auth: {passwords: users} and auth: [token] on the listener
  millrace serve --config my.yaml                 # with listeners: {http: {bind: ":8080", password_file: users}}`,
		Args: oneOrTwo,
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
	f.BoolVar(&p.scram, "scram", false, "let Kafka clients log in with the password by SCRAM, too")
	f.StringVar(&p.role, "role", identity.Admin, "what the name may do: admin (everything over HTTP), viewer (read over HTTP), device (MQTT and Kafka only)")
	outputFlag(c, &p.output)
	return c
}

// oneOrTwo wants a file and perhaps a name, and says how that looks.
func oneOrTwo(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return errors.New("which file? write millrace passwd FILE NAME, such as: millrace passwd users anna")
	case len(args) > 2:
		return fmt.Errorf("%d arguments are too many: write millrace passwd FILE NAME, such as: millrace passwd users anna", len(args))
	}
	return nil
}

// passwd is one call of the command.
type passwd struct {
	ctx                      context.Context
	e                        env
	file, name, role, output string
	token, stdin, scram      bool
}

func (p *passwd) check(list, remove bool) error {
	if p.scram && (list || remove || p.token) {
		return errors.New("--scram is about a password")
	}
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
			kind := string(c.Kind)
			if c.SCRAM {
				kind += ", SCRAM"
			}
			fmt.Fprintf(p.e.Out, "%-20s %-8s %s\n", c.Name, c.Role, kind)
		}
	})
}

// edit changes the file, and says what it did after that is on disk.
func (p *passwd) edit(change func(*identity.File) (result map[string]string, say string, err error)) error {
	var result map[string]string
	var say string
	err := vfs.Replace(p.file, func(old []byte) ([]byte, error) {
		f, err := identity.Parse(old)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.file, err)
		}
		if result, say, err = change(f); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		return f.Bytes(), nil
	})
	if errors.Is(err, vfs.ErrReplacing) {
		err = fmt.Errorf("another millrace passwd is at work, or a node that saves passwords: %w", err)
	}
	if err != nil {
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
		set := f.SetPassword
		if p.scram {
			set = f.SetSCRAM
		}
		err = set(nil, p.name, p.role, password)
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
