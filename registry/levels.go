package registry

import (
	"slices"
	"strings"

	"github.com/millrace-io/millrace/registry/schema"
)

// The compatibility levels: with the latest version, or (transitive) with all of a subject's.
const (
	None               = "NONE"
	Backward           = "BACKWARD" // the new schema reads what was written with the old one
	BackwardTransitive = "BACKWARD_TRANSITIVE"
	Forward            = "FORWARD" // the old one reads what is written with the new one
	ForwardTransitive  = "FORWARD_TRANSITIVE"
	Full               = "FULL" // both
	FullTransitive     = "FULL_TRANSITIVE"
)

var levels = []string{None, Backward, BackwardTransitive, Forward, ForwardTransitive, Full, FullTransitive}

func knownLevel(s string) bool { return slices.Contains(levels, s) }

// The modes.
const (
	ReadWrite        = "READWRITE"
	ReadOnly         = "READONLY"
	ReadOnlyOverride = "READONLY_OVERRIDE" // of all subjects, whatever theirs are
	Import           = "IMPORT"            // versions and ids are given by who registers
)

var modes = []string{ReadWrite, ReadOnly, ReadOnlyOverride, Import}

func knownMode(s string) bool { return slices.Contains(modes, s) }

// compatible says what is wrong with a schema after an older one, at a level.
func compatible(level string, now, before *schema.Schema) (ds []schema.Difference) {
	level = strings.TrimSuffix(level, "_TRANSITIVE")
	if level == Backward || level == Full {
		ds = append(ds, schema.Compare(now, before)...)
	}
	if level == Forward || level == Full {
		ds = append(ds, schema.Compare(before, now)...)
	}
	return ds
}

// against are those of a subject's versions that a level compares with.
func against(level string, list []*version) []*version {
	switch {
	case level == None || len(list) == 0:
		return nil
	case strings.HasSuffix(level, "_TRANSITIVE"):
		return list
	}
	return list[len(list)-1:]
}
