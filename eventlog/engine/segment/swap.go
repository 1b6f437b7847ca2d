package segment

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/internal/vfs"
)

// swapName is the name of a log that replaces all segments with a base offset in [base, limit).
func swapName(base, limit int64) string {
	return fmt.Sprintf("%020d-%s", base, fileName(limit, swapSuffix))
}

func parseSwapName(name string) (base, limit int64, ok bool) {
	from, to, ok := strings.Cut(name, "-")
	if !ok {
		return 0, 0, false
	}
	base, ok = parseName(from, "")
	limit, ok2 := parseName(to, swapSuffix)
	return base, limit, ok && ok2 && base < limit
}

// finishSwaps finishes replacements that a crash interrupted, and returns what is in the directory then.
func (l *Log) finishSwaps(names []string) ([]string, error) {
	found := false
	for _, name := range names {
		if base, limit, ok := parseSwapName(name); ok {
			found = true
			if err := l.finishSwap(base, limit, names); err != nil {
				return nil, err
			}
		}
	}
	if !found {
		return names, nil
	}
	return l.fs.List(l.dir)
}

// finishSwap puts a log that replaces others, durable under its swap name, in their place. Until the last step a crash finds
// the swap file and does it all again; so the others must be gone, durably, before the last step.
func (l *Log) finishSwap(base, limit int64, names []string) error {
	for _, name := range names {
		if replaced(name, base, limit) {
			if err := l.fs.Remove(path.Join(l.dir, name)); err != nil {
				return err
			}
		}
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return err
	}
	if err := l.fs.Rename(path.Join(l.dir, swapName(base, limit)), path.Join(l.dir, fileName(base, logSuffix))); err != nil {
		return err
	}
	return l.fs.SyncDir(l.dir)
}

// replaced tells whether a file belongs to a segment in [base, limit).
func replaced(name string, base, limit int64) bool {
	return slices.ContainsFunc([]string{logSuffix, indexSuffix, timeSuffix}, func(suffix string) bool {
		b, ok := parseName(name, suffix)
		return ok && b >= base && b < limit
	})
}

// writeFile makes a file with its content durable, but not its name.
func writeFile(fs vfs.FS, name string, p []byte) error {
	h, err := fs.Create(name)
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := h.WriteAt(p, 0); err != nil {
		return err
	}
	return h.Sync()
}
