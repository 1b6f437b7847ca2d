package registry

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/registry/schema"
)

// Schema is one that a client sends.
type Schema struct {
	Type       string // empty: AVRO
	Text       string
	References []Reference
	Normalise  bool
	// ID and Version are given in mode IMPORT only; 0: they are not.
	ID, Version int
}

// Version is one that a client gets.
type Version struct {
	Subject    string
	Version    int
	ID         int
	Type       schema.Type
	Text       string
	References []Reference
	Deleted    bool
}

func (v *version) told() Version {
	return Version{Subject: v.subject, Version: v.number, ID: v.id, Type: v.typ, Text: v.text, References: v.refs, Deleted: v.deleted}
}

// maxSubject is the longest name of a subject, bytes.
const maxSubject = 1024

// checkSubject says whether something can be the name of a subject to register under.
func checkSubject(s string) error {
	bad := s == "" || len(s) > maxSubject || strings.HasPrefix(s, ":.") || s == "__GLOBAL" || s == "__EMPTY" ||
		strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f || c == '�' })
	if bad {
		return errorf(codeInvalidSubject, "The specified subject '%s' is not a valid subject: it has 1 to %d bytes, no control characters, and no context (:.name:), of which there is one only.", clip(s), maxSubject)
	}
	return nil
}

// same finds the version of a subject that has a schema, the latest first; nil: none has.
func (r *Registry) same(ctx context.Context, st *state, subject string, s *schema.Schema, refs []Reference, deleted bool) (*version, error) {
	list := st.live(subject, deleted)
	for _, v := range slices.Backward(list) {
		if v.typ == s.Type && v.text == s.Text && slices.Equal(v.refs, refs) {
			return v, nil
		}
	}
	for _, v := range slices.Backward(list) {
		if err := ctx.Err(); err != nil {
			return nil, storeError(err)
		}
		if v.typ != s.Type || !slices.Equal(v.refs, refs) {
			continue
		}
		if was, err := r.parse(st, v.content); err == nil && was.Identity() == s.Identity() {
			return v, nil
		}
	}
	return nil, nil
}

// Register adds a version to a subject, if it has none like it, and returns its id.
func (r *Registry) Register(ctx context.Context, subject string, n *Schema) (id int, err error) {
	if err := checkSubject(subject); err != nil {
		return 0, err
	}
	if v, err := r.Lookup(ctx, subject, n, false); err == nil && n.ID == 0 { // nothing is written, so nobody has to be waited for
		return v.ID, nil
	}
	err = r.change(ctx, func(st *state) ([]record, error) {
		v, fresh, err := r.decide(ctx, st, subject, n)
		if err != nil {
			return nil, err
		}
		if id = v.id; !fresh {
			return nil, nil
		}
		rec, err := v.record()
		return []record{rec}, err
	})
	return id, err
}

// decide finds out what version a schema becomes.
func (r *Registry) decide(ctx context.Context, st *state, subject string, n *Schema) (v *version, fresh bool, err error) {
	mode := st.modeOf(subject)
	switch {
	case mode == ReadOnly || mode == ReadOnlyOverride:
		return nil, false, errorf(codeNotPermitted, "Subject %s is in read-only mode", clip(subject))
	case mode != Import && (n.ID > 0 || n.Version > 0):
		return nil, false, errorf(codeNotPermitted, "Subject %s is not in import mode: ids and versions are given by the registry", clip(subject))
	}
	if n.ID > maxID || n.Version > maxID {
		return nil, false, errorf(codeNotPermitted, "Ids and versions are at most %d", maxID)
	}
	s, err := st.parseNew(n)
	if err != nil {
		return nil, false, err
	}
	v, err = r.same(ctx, st, subject, s, n.References, false)
	switch {
	case err != nil:
		return nil, false, err
	case v != nil && (n.ID == 0 || n.ID == v.id && (n.Version == 0 || n.Version == v.number)):
		return v, false, nil
	}
	if mode != Import {
		if err := r.compatibleWith(ctx, st, subject, s); err != nil {
			return nil, false, err
		}
	}
	if st.versions >= r.o.MaxSchemas || st.bytes+int64(len(s.Text)) > r.o.MaxBytes {
		return nil, false, errorf(codeNotPermitted, "The registry is full: it holds %d versions of %d bytes; delete some for good", st.versions, st.bytes)
	}
	c, err := r.contentOf(ctx, st, subject, s, n)
	if err != nil {
		return nil, false, err
	}
	all := st.subjects[subject]
	v = &version{subject: subject, number: n.Version, content: c}
	if v.number == 0 && len(all) > 0 {
		v.number = all[len(all)-1].number
	}
	if n.Version == 0 {
		v.number++
	}
	if v.number > maxID {
		return nil, false, errorf(codeNotPermitted, "There are no more versions: the highest was given")
	}
	return v, true, nil
}

// contentOf gives a schema its id: that which the same has elsewhere, that of a deleted version of the subject, or the next.
func (r *Registry) contentOf(ctx context.Context, st *state, subject string, s *schema.Schema, n *Schema) (*content, error) {
	c := &content{id: n.ID, typ: s.Type, text: s.Text, refs: n.References}
	if c.id > 0 {
		if h, there := st.ids[c.id]; there && h.sum() != c.sum() {
			return nil, errorf(codeIDMismatch, "Overwrite new schema with id %d is not permitted: another schema has it.", c.id)
		}
		return c, nil
	}
	if id, known := st.sums[c.sum()]; known {
		return st.ids[id].content, nil
	}
	v, err := r.same(ctx, st, subject, s, n.References, true)
	if err != nil {
		return nil, err
	}
	if v != nil {
		return v.content, nil
	}
	if c.id = st.lastID + 1; c.id > maxID {
		return nil, errorf(codeNotPermitted, "There are no more ids: the highest was given")
	}
	return c, nil
}

// compatibleWith says whether a schema can follow those of a subject.
func (r *Registry) compatibleWith(ctx context.Context, st *state, subject string, s *schema.Schema) error {
	level := st.level(subject)
	for _, v := range slices.Backward(against(level, st.live(subject, false))) {
		if err := ctx.Err(); err != nil {
			return storeError(err)
		}
		was, err := r.parse(st, v.content)
		if err != nil {
			return errorf(codeIncompatible, "Schema being registered cannot be compared with version %d of subject \"%s\": %s", v.number, clip(subject), clip(err.Error()))
		}
		if ds := compatible(level, s, was); len(ds) > 0 {
			return incompatible(subject, v, level, ds)
		}
	}
	return nil
}

// Compatible compares a schema with a version of a subject (latest, too; 0: all that its level demands), and says what is wrong.
func (r *Registry) Compatible(ctx context.Context, subject string, number int, n *Schema) (wrong []string, err error) {
	err = r.read(func(st *state) error {
		s, err := st.parseNew(n)
		if err != nil {
			return err
		}
		level := st.level(subject)
		list := against(level, st.live(subject, false))
		if number != 0 {
			v := st.find(subject, number, false)
			switch {
			case v == nil && number == latest:
				return nil // with nothing, everything is compatible
			case v == nil && len(st.live(subject, false)) == 0:
				return subjectNotFound(subject)
			case v == nil:
				return versionNotFound(number)
			}
			if list = []*version{v}; level == None {
				list = nil
			}
		}
		for _, v := range slices.Backward(list) {
			if err := ctx.Err(); err != nil {
				return storeError(err)
			}
			was, err := r.parse(st, v.content)
			if err != nil {
				wrong = append(wrong, clip(err.Error()))
			} else if ds := compatible(level, s, was); len(ds) > 0 {
				wrong = append(wrong, described(v, level, ds)...)
			}
			if len(wrong) > 0 {
				return nil
			}
		}
		return nil
	})
	return wrong, err
}

// Lookup finds the version of a subject that has a schema.
func (r *Registry) Lookup(ctx context.Context, subject string, n *Schema, deleted bool) (told Version, err error) {
	err = r.read(func(st *state) error {
		if len(st.live(subject, deleted)) == 0 {
			return subjectNotFound(subject)
		}
		s, err := st.parseNew(n)
		if err != nil {
			return err
		}
		v, err := r.same(ctx, st, subject, s, n.References, deleted)
		if err != nil {
			return err
		}
		if v == nil {
			return errorf(codeSchemaNotFound, "Schema not found")
		}
		told = v.told()
		return nil
	})
	return told, err
}

// Subjects lists them, with those of which all versions are deleted if asked for.
func (r *Registry) Subjects(prefix string, deleted, onlyDeleted bool) (list []string) {
	_ = r.read(func(st *state) error {
		for s := range st.subjects {
			live := len(st.live(s, false)) > 0
			if strings.HasPrefix(s, prefix) && (live && !onlyDeleted || !live && (deleted || onlyDeleted)) {
				list = append(list, s)
			}
		}
		return nil
	})
	slices.Sort(list)
	return list
}

// Versions lists those of a subject.
func (r *Registry) Versions(subject string, deleted bool) (list []Version, err error) {
	err = r.read(func(st *state) error {
		for _, v := range st.live(subject, deleted) {
			list = append(list, v.told())
		}
		if len(list) == 0 {
			return subjectNotFound(subject)
		}
		return nil
	})
	return list, err
}

// Version returns one.
func (r *Registry) Version(subject string, number int, deleted bool) (told Version, err error) {
	err = r.read(func(st *state) error {
		v := st.find(subject, number, deleted)
		switch {
		case v == nil && len(st.live(subject, deleted)) == 0:
			return subjectNotFound(subject)
		case v == nil:
			return versionNotFound(number)
		}
		told = v.told()
		return nil
	})
	return told, err
}

// ByID returns a schema by its id, of a version that is deleted too, with the versions that have it.
func (r *Registry) ByID(id int, deleted bool) (s Version, versions []Version, err error) {
	err = r.read(func(st *state) error {
		h, there := st.ids[id]
		if !there {
			return errorf(codeSchemaNotFound, "Schema %d not found", id)
		}
		s = Version{ID: id, Type: h.typ, Text: h.text, References: h.refs}
		for _, list := range st.subjects {
			for _, v := range list {
				if v.id == id && (deleted || !v.deleted) {
					versions = append(versions, v.told())
				}
			}
		}
		return nil
	})
	slices.SortFunc(versions, func(a, b Version) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Version, b.Version))
	})
	return s, versions, err
}

// Serialised is a schema as FileDescriptorProto in base64, if it is Protobuf.
func (r *Registry) Serialised(v Version) (text string, err error) {
	err = r.read(func(st *state) error {
		h, there := st.ids[v.ID]
		if !there {
			return errorf(codeSchemaNotFound, "Schema %d not found", v.ID)
		}
		s, err := r.parse(st, h.content)
		if err != nil {
			return invalidSchema(err)
		}
		text, err = s.Serialised()
		return err
	})
	return text, err
}

// ReferencedBy lists the ids of the schemas that refer to a version.
func (r *Registry) ReferencedBy(subject string, number int) (ids []int, err error) {
	err = r.read(func(st *state) error {
		v := st.find(subject, number, true)
		switch {
		case v == nil && len(st.subjects[subject]) == 0:
			return subjectNotFound(subject)
		case v == nil:
			return versionNotFound(number)
		}
		ids = st.referencing(subject, v.number)
		return nil
	})
	return ids, err
}

// referencing are the ids of the versions that are not deleted and refer to one.
func (st *state) referencing(subject string, number int) (ids []int) {
	for s, list := range st.subjects {
		for _, v := range list {
			to := func(r Reference) bool {
				return r.Subject == subject && (r.Version == number || r.Version == latest)
			}
			if s != "" && !v.deleted && slices.ContainsFunc(v.refs, to) {
				ids = append(ids, v.id)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// LastID is the highest id that was ever given.
func (r *Registry) LastID() int { return r.state.Load().lastID }
