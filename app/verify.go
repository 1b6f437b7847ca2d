package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/millrace-io/millrace/console"
	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/fleet"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/route"
	"github.com/millrace-io/millrace/verify"
)

// ErrVerifying says that the log is being verified already; once is enough.
var ErrVerifying = errors.New("the log is being verified already")

// Verify checks that everything adds up on the running node, and tells emit what it finds. It gives way to what the node does for others.
func (n *Node) Verify(ctx context.Context, r verify.Request, emit func(verify.Row) error) (verify.Summary, error) {
	if n.phase.Load() != nil {
		return verify.Summary{}, errors.New("the node is not running yet, or no more")
	}
	if !n.verifying.CompareAndSwap(false, true) {
		return verify.Summary{}, ErrVerifying
	}
	defer n.verifying.Store(false)
	o, err := n.verifyOptions()
	if err != nil {
		return verify.Summary{}, err
	}
	o.Flush = n.meter.Flush
	o.Rest = func(busy time.Duration) { time.Sleep(min(busy, maxRest)) } // half of a processor at most
	return verify.Run(ctx, o, r, emit)
}

const maxRest = 100 * time.Millisecond

// verifyFor is Verify as the console has it.
func (n *Node) verifyFor(ctx context.Context, q console.VerifyQuery, emit func(any) error) error {
	r := verify.Request{From: q.From, To: q.To, Topic: q.Topic, Device: q.Device, All: q.All, Strict: q.Strict, Stamps: q.Stamps}
	_, err := n.Verify(ctx, r, func(row verify.Row) error { return emit(row) })
	if err != nil && ctx.Err() == nil {
		return emit(verify.Row{Error: err.Error()})
	}
	return err
}

func (n *Node) verifyOptions() (o verify.Options, err error) {
	specs := Routes(n.o.Config)
	o = verify.Options{Log: n.log, Embedded: n.engine != nil, Now: time.Now}
	if o.Table, err = route.Compile(specs); err != nil {
		return o, err
	}
	for _, r := range n.o.Config.Routes {
		o.Fields = append(o.Fields, fleet.Fields(r.Fields))
	}
	o.Table.Filters(func(filter string, stored bool) {
		o.Routes = append(o.Routes, verify.Filter{MQTT: filter, Stored: stored})
	})
	return o, nil
}

// VerifyData verifies the log of a node that is not running, or a copy of it. It opens the log as a node does after a crash, and no more: no
// record is removed, no topic made, nothing claimed. With a log on a cluster it reads that.
func VerifyData(ctx context.Context, o Options, r verify.Request, emit func(verify.Row) error) (sum verify.Summary, err error) {
	n := &Node{o: o}
	if ps := o.Config.Check(); len(ps) > 0 {
		return sum, ps
	}
	n.budget = divide(raiseFileLimit(), o.Config)
	if len(o.Config.Log.Kafka) > 0 {
		err = n.openCluster(ctx)
	} else {
		err = n.openAtRest()
	}
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, n.log.Close()) }()
	vo, err := n.verifyOptions()
	if err != nil {
		return sum, err
	}
	return verify.Run(ctx, vo, r, emit)
}

// openAtRest opens the embedded log for reading. What a crash has left in the WAL is put into its place, as the next start would.
func (n *Node) openAtRest() error {
	dir := n.o.Config.Log.Data
	fsys := n.o.Files
	if fsys == nil {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() { // vfs.OS would make it
			return fmt.Errorf("data folder %s: there is none; name it with --data", dir)
		}
		var err error
		if fsys, err = vfs.OS(dir); err != nil {
			return n.dataError(err)
		}
	}
	names, err := fsys.List(".")
	if err != nil {
		return n.dataError(err)
	}
	if !slices.Contains(names, engine.CheckpointName) { // the engine would lock it before it looks, and leave that file
		return fmt.Errorf("data folder %s: there is no log in it; name a node's with --data", dir)
	}
	n.engine, err = engine.Open(engine.Options{FS: fsys, Now: n.o.Now, Logger: n.o.Logger.With("part", "log"), MaintainEvery: -1,
		DefaultRetention: time.Duration(n.o.Config.Log.Retention), OpenFiles: n.budget.files})
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return fmt.Errorf("data folder %s: a node is running on it; verify through it, with --http and its address: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("data folder %s: it cannot be written, and the log's WAL must be put into place first; verify a copy: %w", dir, err)
	case err != nil:
		return n.dataError(err)
	}
	n.log = eventlog.New(n.engine)
	return nil
}
