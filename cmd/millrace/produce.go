package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/millrace-io/millrace/kafkatool"
)

// produceFlags are kcat's, as far as there are any.
type produceFlags struct {
	kafkaFlags
	w         kafkatool.Writing
	headers   []string
	delimiter string
	keyDelim  string
	key       string
	keyed     bool
	null      bool
	lines     bool
	tee       bool
	count     int64
	quiet     bool
	unsent    func() string // what was read, or was to be, and was not handed over; "": nothing
}

func newProduce(e env) *cobra.Command {
	f := produceFlags{kafkaFlags: kafkaFlags{env: e}}
	c := &cobra.Command{
		Use: "produce -t TOPIC [FILE…]", Short: "Write records to a topic, with the manners of kcat",
		Long: `Write what is read to a topic, with the flags of kcat -P: each line of standard input is a record; each FILE is one record, or with -l a file of lines.
Empty lines are passed over. All in-sync replicas confirm each record, on a node of Millrace after fsync.

A key's partition is the one that Kafka's own clients and Millrace's routes choose (kcat's differs).

Exit codes: 0 every record that was read is confirmed; 1 one is not; 2 wrong command line. When it is interrupted it sends what it has read whole.`,
		Example: `  echo 'truck-7:{"cmd":"stop"}' | millrace produce -t commands -K :
  millrace produce -t orders -z zstd -H source=import -l orders.jsonl
  echo 'truck-7:' | millrace produce -t state -K : -Z     # a null value: a tombstone
  millrace produce -t pictures -k cam-1 photo.jpg -b h1:9092`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.keyed = cmd.Flags().Changed("key")
			return f.run(cmd.Context(), args)
		},
	}
	f.flags(c)
	fl := c.Flags()
	fl.StringVarP(&f.w.Topic, "topic", "t", "", "topic to write to; it must be there")
	fl.Int32VarP(&f.w.Partition, "partition", "p", -1, "partition to write to (default: by the key, or any)")
	fl.StringVarP(&f.delimiter, "delimiter", "D", `\n`, "what stands between records")
	fl.StringVarP(&f.keyDelim, "key-delimiter", "K", "", "what stands between a record's key and value")
	fl.StringVarP(&f.key, "key", "k", "", "key of records that bring none")
	fl.StringArrayVarP(&f.headers, "header", "H", nil, "header of all records, NAME=VALUE; may be repeated")
	fl.StringVarP(&f.w.Codec, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	fl.BoolVarP(&f.null, "null", "Z", false, "with -K: an empty value or key is null")
	fl.BoolVarP(&f.lines, "lines", "l", false, "FILE has records as standard input has")
	fl.BoolVarP(&f.tee, "tee", "T", false, "write to standard output what is read")
	fl.Int64VarP(&f.count, "count", "c", 0, "end after so many records")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing on standard error but errors")
	fl.Int32Var(&f.w.MaxBytes, "max-bytes", 1_000_000, "the largest record; the topic must take it, too (max.message.bytes)")
	_ = c.MarkFlagRequired("topic") // it is there
	return c
}

func (f *produceFlags) run(ctx context.Context, files []string) error {
	if f.w.Partition < -1 || f.count < 0 {
		return errors.New("-p and -c: 0 or more")
	}
	if f.lines && len(files) != 1 {
		return errors.New("-l: exactly one FILE")
	}
	delimiter := []byte(kafkatool.Unescape(f.delimiter))
	if len(delimiter) == 0 {
		return errors.New("-D: records need something between them")
	}
	for _, h := range f.headers {
		header, err := kafkatool.ParseHeader(h)
		if err != nil {
			return err
		}
		f.w.Headers = append(f.w.Headers, header)
	}
	f.w.Confirm = f.timeout
	f.w.Note = func(format string, args ...any) {
		fmt.Fprintf(f.env.Err, "%% %s\n", printable(fmt.Sprintf(format, args...)))
	}
	in := f.env.In
	if f.lines {
		file, err := os.Open(files[0])
		if err != nil {
			return failure{err}
		}
		defer file.Close()
		in, files = file, nil
	}
	next := f.fromFiles(files)
	if len(files) == 0 {
		next = f.fromInput(in, delimiter)
	}
	c, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	w, err := c.Produce(ctx, f.w, next)
	return f.finish(w, err)
}

// finish says what became of the records.
func (f *produceFlags) finish(w kafkatool.Written, err error) error {
	if w.Failed > 0 {
		return failure{fmt.Errorf("%d of %d records were not confirmed by the cluster", w.Failed, w.Failed+w.Delivered)}
	}
	if !errors.Is(err, context.Canceled) {
		return asked(err)
	}
	if rest := f.unsent(); rest != "" {
		return failure{fmt.Errorf("interrupted: %d records were delivered; %s not sent", w.Delivered, rest)}
	}
	if !f.quiet {
		fmt.Fprintf(f.env.Err, "%% interrupted: all %d records that were read are delivered\n", w.Delivered)
	}
	return nil
}

// message makes a record of what was read.
func (f *produceFlags) message(b, delimiter []byte) (kafkatool.Message, error) {
	m := kafkatool.Cut(b, []byte(kafkatool.Unescape(f.keyDelim)), f.null)
	if m.Key == nil && f.keyed {
		m.Key = []byte(f.key)
	}
	if f.tee {
		if _, err := f.env.Out.Write(slices.Concat(b, delimiter)); err != nil {
			return m, fmt.Errorf("write to standard output: %w", err)
		}
	}
	return m, nil
}

// fromInput gives the records of a stream, which is read beside: who waits for it can be interrupted.
func (f *produceFlags) fromInput(in io.Reader, delimiter []byte) func(context.Context) (kafkatool.Message, error) {
	type piece struct {
		b   []byte
		err error
	}
	pieces, over := make(chan piece), make(chan struct{})
	var read, taken int64
	counted := &countedReader{r: in}
	f.unsent = func() string {
		if n := counted.n.Load() - taken; n > 0 {
			return fmt.Sprintf("%d bytes that were read are", n)
		}
		return ""
	}
	begin := func(ctx context.Context) {
		scan := kafkatool.Split(counted, delimiter, int(f.w.MaxBytes))
		for scan.Scan() {
			select {
			case pieces <- piece{b: slices.Clone(scan.Bytes())}:
			case <-ctx.Done():
				return
			case <-over:
				return
			}
		}
		err := scan.Err()
		switch {
		case err == nil:
			err = io.EOF
		case errors.Is(err, bufio.ErrTooLong):
			err = fmt.Errorf("a record is larger than %d bytes (--max-bytes); the rest was not read", f.w.MaxBytes)
		default:
			err = fmt.Errorf("read the records: %w", err)
		}
		select {
		case pieces <- piece{err: err}:
		case <-ctx.Done():
		case <-over:
		}
	}
	started := false
	return func(ctx context.Context) (kafkatool.Message, error) {
		if !started {
			started = true
			go begin(ctx)
		}
		if f.count > 0 && read == f.count {
			close(over)
			return kafkatool.Message{}, io.EOF
		}
		for {
			select {
			case p := <-pieces:
				if p.err != nil {
					return kafkatool.Message{}, p.err
				}
				taken += int64(len(p.b) + len(delimiter))
				if len(p.b) == 0 {
					continue
				}
				read++
				return f.message(p.b, delimiter)
			case <-ctx.Done():
				return kafkatool.Message{}, ctx.Err()
			}
		}
	}
}

// fromFiles gives each file as a record.
func (f *produceFlags) fromFiles(files []string) func(context.Context) (kafkatool.Message, error) {
	f.unsent = func() string {
		if len(files) == 0 {
			return ""
		}
		return fmt.Sprintf("%d files are", len(files))
	}
	return func(ctx context.Context) (kafkatool.Message, error) {
		if len(files) == 0 {
			return kafkatool.Message{}, io.EOF
		}
		if ctx.Err() != nil {
			return kafkatool.Message{}, ctx.Err()
		}
		name := files[0]
		files = files[1:]
		file, err := os.Open(name)
		if err != nil {
			return kafkatool.Message{}, err
		}
		defer file.Close()
		var b bytes.Buffer
		if n, err := io.Copy(&b, io.LimitReader(file, int64(f.w.MaxBytes)+1)); err != nil {
			return kafkatool.Message{}, err
		} else if n > int64(f.w.MaxBytes) {
			return kafkatool.Message{}, fmt.Errorf("%s is larger than %d bytes (--max-bytes)", name, f.w.MaxBytes)
		}
		m := kafkatool.Message{Value: b.Bytes()}
		if m.Value == nil {
			m.Value = []byte{}
		}
		if f.keyed {
			m.Key = []byte(f.key)
		}
		return m, nil
	}
}

// countedReader counts what was read.
type countedReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
