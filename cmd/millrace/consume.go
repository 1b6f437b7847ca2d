package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/kafkatool"
)

// consumeFlags are kcat's, as far as there are any.
type consumeFlags struct {
	kafkaFlags
	topic       string
	partition   int32
	offsets     []string
	count       int64
	exit        bool
	format      string
	delimiter   string
	key         string
	null        bool
	json        bool
	quiet       bool
	uncommitted bool

	group, instance string
	serverAssigns   bool
	packs           []string
}

func newConsume(e env) *cobra.Command {
	f := consumeFlags{kafkaFlags: kafkaFlags{env: e}}
	c := &cobra.Command{
		Use: "consume (-t TOPIC | -G GROUP TOPIC…)", Short: "Read records of a topic, with the manners of kcat",
		Long: `Read records of a topic and write them out, with the flags of kcat -C. Records are read as they are, and written so: what is in them reaches your terminal.
Without -G nothing is committed. Records of transactions are seen when those are committed (--read-uncommitted: at once).

Where to begin, -o: beginning (default), end, OFFSET, -N (the last N of each partition), s@TIME. Where to end: e@TIME (with another -o), -c, -e.
TIME is in milliseconds, RFC 3339, or how long ago: s@90m.

With -G you are a member of a group, which divides the partitions of the topics (^… is an expression) among its members and goes on where it was; -o beginning or
end (default) says where it begins that has committed nothing. What was written out is committed. --server-assigns: by the protocol of KIP-848, where the cluster has it.

In -f: %s value, %k key, %h headers, %t topic, %p partition, %o offset, %T time in milliseconds, %S %K length of value and key (-1: null), %R the
value's length as four bytes, %% a percent sign; \n \t \r \xNN. -J writes one JSON object a line; -o is not the output, as it is in kcat.

Exit codes: 0 done, or interrupted; 1 failed; 2 wrong command line.`,
		Example: `  millrace consume -t telemetry -o end
  millrace consume -t telemetry -e -f '%T %k %s\n'
  millrace consume -t telemetry -o s@2026-05-01T06:00:00Z -o e@2026-05-01T07:00:00Z -e -J | jq .payload
  millrace consume -t orders -p 0 -o -10 -e -K : -b h1:9092
  millrace consume -G billing -o beginning orders '^invoices-.*'
  millrace consume -t counts -s key=s -s 'value=>q' -K ': '`,
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), args, time.Now()) },
	}
	f.flags(c)
	fl := c.Flags()
	fl.StringVarP(&f.topic, "topic", "t", "", "topic to read")
	fl.Int32VarP(&f.partition, "partition", "p", -1, "partition to read (default all)")
	fl.StringArrayVarP(&f.offsets, "offset", "o", nil, "where to begin: beginning, end, OFFSET, -N, s@TIME; e@TIME where to end (default beginning)")
	fl.Int64VarP(&f.count, "count", "c", 0, "end after so many records")
	fl.BoolVarP(&f.exit, "exit", "e", false, "end when the end of every partition is reached")
	fl.StringVarP(&f.format, "format", "f", "", `how to write a record, such as '%k: %s\n'`)
	fl.StringVarP(&f.delimiter, "delimiter", "D", `\n`, "what to write after a record")
	fl.StringVarP(&f.key, "key-delimiter", "K", "", "write the key before the value, and this between them")
	fl.BoolVarP(&f.null, "null", "Z", false, "write NULL for an empty value or key")
	fl.BoolVarP(&f.json, "json", "J", false, "write JSON objects")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing on standard error but errors")
	fl.BoolVar(&f.uncommitted, "read-uncommitted", false, "also what transactions have not committed, or have aborted")
	fl.StringVarP(&f.group, "group", "G", "", "read as a member of this group; the topics follow")
	fl.StringVar(&f.instance, "instance", "", "with -G: be this static member")
	fl.BoolVar(&f.serverAssigns, "server-assigns", false, "with -G: let the server assign (KIP-848), where it can")
	fl.StringArrayVarP(&f.packs, "unpack", "s", nil, "how to read keys and values: key=PACK, value=PACK, or PACK for both, of < > bBhHiIqQ c s $")
	return c
}

// reading makes what the flags say into what to read.
func (f *consumeFlags) reading(now time.Time) (kafkatool.Reading, error) {
	r := kafkatool.Reading{Topic: f.topic, Partition: f.partition, Count: f.count, ToEnd: f.exit, Uncommitted: f.uncommitted}
	if f.partition < -1 || f.count < 0 {
		return r, errors.New("-p and -c: 0 or more")
	}
	begun := false
	for _, o := range f.offsets {
		if at, ok := strings.CutPrefix(o, "e@"); ok {
			ms, err := kafkatool.ParseTime(at, now)
			if err != nil {
				return r, err
			}
			r.Until = max(ms, 1)
			continue
		}
		if begun {
			return r, fmt.Errorf("-o %s: one place to begin, and e@TIME where to end", o)
		}
		var err error
		if r.From, err = kafkatool.ParseOffset(o, now); err != nil {
			return r, err
		}
		begun = true
	}
	return r, nil
}

// writer says how records are written.
func (f *consumeFlags) writer() (func([]byte, kafkatool.Record) ([]byte, error), error) {
	delimiter := kafkatool.Unescape(f.delimiter)
	key, value, err := kafkatool.ParsePacks(f.packs)
	if err != nil {
		return nil, err
	}
	if f.json {
		if f.format != "" || len(f.packs) > 0 {
			return nil, errors.New("-J excludes -f and -s")
		}
		return func(b []byte, r kafkatool.Record) ([]byte, error) {
			return append(kafkatool.AppendJSON(b, r), delimiter...), nil
		}, nil
	}
	format := f.format
	if format == "" {
		literal := strings.NewReplacer("%", "%%") // a delimiter's backslashes are unescaped with the format's
		format = "%s" + literal.Replace(f.delimiter)
		if f.key != "" {
			format = "%k" + literal.Replace(f.key) + format
		}
	}
	w, err := kafkatool.ParseFormat(format, f.null)
	if err != nil {
		return nil, err
	}
	w.Key, w.Value = key, value
	return w.Append, nil
}

// member makes what the flags say into a membership.
func (f *consumeFlags) member(topics []string) (m kafkatool.Membership, err error) {
	m = kafkatool.Membership{Group: f.group, Topics: topics, Instance: f.instance, ServerSide: f.serverAssigns, Count: f.count, ToEnd: f.exit, Uncommitted: f.uncommitted}
	switch {
	case f.topic != "" || f.partition != -1:
		return m, errors.New("-G: the topics follow the flags, without -t, and the group says which partitions")
	case len(topics) == 0:
		return m, errors.New("-G: name the topics, such as: millrace consume -G GROUP TOPIC")
	case f.count < 0:
		return m, errors.New("-c: 0 or more")
	}
	for _, o := range f.offsets {
		switch o {
		case "beginning":
			m.FromEarliest = true
		case "end":
			m.FromEarliest = false
		default:
			return m, fmt.Errorf("-o %s: with -G, beginning or end; millrace group reset puts a group elsewhere", o)
		}
	}
	return m, nil
}

func (f *consumeFlags) run(ctx context.Context, args []string, now time.Time) error {
	var r kafkatool.Reading
	var m kafkatool.Membership
	var err error
	switch {
	case f.group != "":
		m, err = f.member(args)
	case len(args) > 0:
		err = fmt.Errorf("what is %q? a topic is named with -t, or after -G GROUP", args[0])
	case f.topic == "":
		err = errors.New("-t TOPIC, or -G GROUP TOPIC: which topic?")
	case f.instance != "" || f.serverAssigns:
		err = errors.New("--instance and --server-assigns go with -G")
	default:
		r, err = f.reading(now)
	}
	if err != nil {
		return err
	}
	write, err := f.writer()
	if err != nil {
		return err
	}
	c, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	out := bufio.NewWriterSize(f.env.Out, 64<<10)
	var line []byte
	emit := func(k kafkatool.Record) (err error) {
		if line, err = write(line[:0], k); err != nil {
			return err
		}
		if _, err := out.Write(line); err != nil {
			return fmt.Errorf("write the records: %w", err)
		}
		return nil
	}
	note := func(format string, args ...any) {
		if !f.quiet {
			fmt.Fprintf(f.env.Err, "%% %s\n", printable(fmt.Sprintf(format, args...)))
		}
	}
	if f.group != "" {
		m.Emit, m.Idle, m.Note = emit, out.Flush, note
		err = c.ConsumeGroup(ctx, m)
	} else {
		r.Emit, r.Idle, r.Note = emit, out.Flush, note
		err = c.Consume(ctx, r)
	}
	if flushed := out.Flush(); err == nil && flushed != nil { // what came before an error is seen too
		err = fmt.Errorf("write the records: %w", flushed)
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // before there was anything to read
		return nil
	}
	return asked(err)
}
