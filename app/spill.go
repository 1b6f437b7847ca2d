package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace-io/millrace/eventlog"
	"github.com/millrace-io/millrace/eventlog/engine"
	"github.com/millrace-io/millrace/internal/vfs"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/spill"
)

// spillFolder is where in log.data messages wait for the cluster. An embedded log would be beside it.
const spillFolder = "spill"

// spillOpener opens what messages wait in for the cluster; nil on the embedded log.
func (n *Node) spillOpener() func(context.Context, []string, spill.Hooks) (*spill.Spill, error) {
	if n.cluster == nil {
		return nil
	}
	return n.openSpill
}

// openSpill opens the local log in front of the cluster. Where nothing is spilled, and something was, what is left is looked at.
func (n *Node) openSpill(ctx context.Context, topics []string, hooks spill.Hooks) (*spill.Spill, error) {
	c := &n.o.Config.Log
	dir := filepath.Join(c.Data, spillFolder)
	if _, err := os.Stat(dir); len(topics) == 0 && (c.Data == "" || errors.Is(err, fs.ErrNotExist)) {
		return nil, nil
	}
	fsys, err := vfs.OS(dir)
	if err != nil {
		return nil, n.dataError(err)
	}
	o := engine.Options{FS: fsys, Now: n.o.Now, Logger: n.o.Logger.With("part", "spill"), DefaultRetention: -1, OpenFiles: n.budget.files,
		MaxLogBytes: 1 << 60} // its bounds are its own: nothing that waits may go by retention
	if n.o.tune.engine != nil {
		n.o.tune.engine(&o)
	}
	e, err := engine.Open(o)
	if err != nil {
		return nil, n.dataError(err)
	}
	so := spill.Options{Local: eventlog.New(e), Cluster: n.log, Now: n.now, Bytes: int64(c.Spill.MaxBytes), Age: time.Duration(c.Spill.MaxAge),
		Policy: spill.Policy(c.Spill.WhenFull), Logger: n.o.Logger.With("part", "spill"), Hooks: hooks}
	if n.o.tune.spill != nil {
		n.o.tune.spill(&so)
	}
	s, err := spill.Open(ctx, so, topics)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data folder %s (log.data): %w", dir, err), e.Close())
	}
	if len(topics) == 0 {
		return nil, s.Close()
	}
	return s, nil
}

// spillStats are those of what waits for the cluster; false: nothing ever does.
func (n *Node) spillStats() (spill.Stats, bool) {
	if n.store == nil || n.store.Spill() == nil {
		return spill.Stats{}, false
	}
	return n.store.Spill().Stats(), true
}

func (n *Node) collectSpill(s *metrics.Samples) {
	st, ok := n.spillStats()
	if !ok {
		return
	}
	s.Gauge("spill_waiting_messages", "Messages on the local disk that the Kafka cluster does not have yet.", float64(st.Messages))
	s.Gauge("spill_waiting_bytes", "Bytes of these.", float64(st.Bytes))
	s.Gauge("spill_waiting_limit_bytes", "Bytes that may wait.", float64(n.o.Config.Log.Spill.MaxBytes))
	s.Gauge("spill_age_seconds", "Age of the oldest of these.", st.Age.Seconds())
	full, stuck := 0.0, 0.0
	if st.Full {
		full = 1
	}
	if st.Err != nil {
		stuck = 1
	}
	s.Gauge("spill_full", "1 while messages are refused because too much waits.", full)
	s.Gauge("spill_stuck", "1 while the cluster does not take what waits.", stuck)
	s.Counter("spill_messages", "Messages put on the local disk to wait for the cluster.", float64(n.store.Stats().Spilled))
	s.Counter("spill_drained", "Messages moved from the local disk to the cluster.", float64(st.Drained))
	s.Counter("spill_rejected", "Messages refused because too much waits.", float64(st.Rejected))
	metrics.Counters(s, "spill_given_up", "Messages that waited for the cluster and were given up.", "reason", st.GivenUp)
}
