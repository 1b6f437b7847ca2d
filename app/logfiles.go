package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/kafkatool"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/route"
)

// What the command line does with the files of an embedded log that no node has open.
type (
	LogReport      = engine.Report
	LogFault       = engine.Fault
	LogDumpOptions = engine.DumpOptions
	LogDumpLine    = engine.DumpLine
)

// dataFolder is a folder as it is; one that is not there is not made.
func dataFolder(dir string) (vfs.FS, error) {
	fi, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("data folder %s is not there: name one with --data", dir)
	case err != nil:
		return nil, fmt.Errorf("data folder: %w", err)
	case !fi.IsDir():
		return nil, fmt.Errorf("data folder %s is not a folder", dir)
	}
	return vfs.OS(dir)
}

// offlineError says what to do about an error of looking at a folder.
func offlineError(dir string, err error) error {
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("data folder %s: %w. Stop the node first; of one that runs, /readyz and millrace_log_quarantined say what its scrubber has found", dir, err)
	}
	return fmt.Errorf("data folder %s: %w", dir, err)
}

// CheckLog verifies everything that a log has on disk and changes nothing.
func CheckLog(ctx context.Context, dir, topic string, progress func(done, total int64)) (*LogReport, error) {
	fsys, err := dataFolder(dir)
	if err != nil {
		return nil, err
	}
	r, err := engine.Check(ctx, fsys, engine.CheckOptions{Topic: topic, Progress: progress})
	if err != nil {
		return nil, offlineError(dir, err)
	}
	return r, nil
}

// DumpLog tells what is in a log's files. What stands in internal topics is decoded.
func DumpLog(ctx context.Context, dir string, o LogDumpOptions, emit func(LogDumpLine) error) error {
	fsys, err := dataFolder(dir)
	if err != nil {
		return err
	}
	o.Decode = decodeInternal
	if err := engine.Dump(ctx, fsys, o, emit); err != nil {
		return offlineError(dir, err)
	}
	return nil
}

// decodeInternal says what a record of an internal topic means; nil if that is not known.
func decodeInternal(topic string, r *eventlog.Record) any {
	if topic == route.SessionsTopic || topic == route.RetainedTopic {
		if d, ok := session.Describe(session.StateRecord{Key: r.Key, Value: r.Value}); ok {
			return d
		}
		return nil
	}
	return kafkatool.Internals(topic, r.Key, r.Value)
}

// damageListed is how many damaged places are named one by one.
const damageListed = 20

// damageWarnings name what of the embedded log cannot be read.
func (n *Node) damageWarnings() (ws []string) {
	if n.engine == nil {
		return nil
	}
	all := n.engine.Quarantine()
	for _, q := range all[:min(len(all), damageListed)] {
		ws = append(ws, fmt.Sprintf("damaged: topic %q, partition %d, offsets %d to %d cannot be read and are not served; what is around them is. Restore %s from a backup "+
			"(node stopped), or have readers go on at offset %d", q.Topic, q.Partition, q.From, q.To-1, q.File, q.To))
	}
	if more := len(all) - damageListed; more > 0 {
		ws = append(ws, fmt.Sprintf("damaged: %d more places; millrace log check names them all", more))
	}
	return ws
}
