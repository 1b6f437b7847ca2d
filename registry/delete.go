package registry

import (
	"context"
)

// DeleteSubject deletes all versions of a subject, softly, or, of one that was, for good. It returns their numbers.
func (r *Registry) DeleteSubject(ctx context.Context, subject string, permanent bool) (numbers []int, err error) {
	err = r.change(ctx, func(st *state) (recs []record, err error) {
		numbers = nil
		if err := st.writable(subject); err != nil {
			return nil, err
		}
		live, all := st.live(subject, false), st.subjects[subject]
		switch {
		case len(all) == 0:
			return nil, subjectNotFound(subject)
		case permanent && len(live) > 0:
			return nil, errorf(codeSubjectNotSoftDeleted, "Subject '%s' was not deleted first before being permanently deleted", clip(subject))
		case !permanent && len(live) == 0:
			return nil, errorf(codeSubjectSoftDeleted, "Subject '%s' was soft deleted. Set permanent=true to delete permanently", clip(subject))
		}
		if permanent {
			for _, v := range all {
				numbers = append(numbers, v.number)
			}
			return st.erase(all)
		}
		for _, v := range live {
			if ids := st.referencing(subject, v.number); len(ids) > 0 {
				return nil, referenced(v)
			}
			numbers = append(numbers, v.number)
		}
		return st.forget(subject, live[len(live)-1].number)
	})
	return numbers, err
}

// forget are the records of a subject's soft end: its own settings end with it.
func (st *state) forget(subject string, number int) (recs []record, err error) {
	add := func(k, v any) {
		if err == nil {
			var r record
			r, err = encode(k, v)
			recs = append(recs, r)
		}
	}
	add(recordKey{KeyType: keyDelete, Subject: &subject}, deleteValue{subject, number})
	if _, set := st.mode[subject]; set {
		add(settingKey(keyMode, subject), nil)
	}
	if _, set := st.config[subject]; set {
		add(settingKey(keyConfig, subject), nil)
	}
	return recs, err
}

// erase are the records by which versions are gone for good. Their ids are never given again.
func (st *state) erase(list []*version) (recs []record, err error) {
	r, err := encode(recordKey{KeyType: keyNoop}, noopValue{st.lastID})
	recs = append(recs, r)
	for _, v := range list {
		if err != nil {
			return nil, err
		}
		r, err = encode(versionKey(v.subject, v.number), nil)
		recs = append(recs, r)
	}
	return recs, err
}

func referenced(v *version) *Error {
	return errorf(codeReferenced, "One or more references exist to the schema {magic=1,keytype=SCHEMA,subject=%s,version=%d}.", clip(v.subject), v.number)
}

// writable says whether a subject may be changed.
func (st *state) writable(subject string) error {
	if m := st.modeOf(subject); m == ReadOnly || m == ReadOnlyOverride {
		return errorf(codeNotPermitted, "Subject %s is in read-only mode", clip(subject))
	}
	return nil
}

// DeleteVersion deletes one version, softly, or, if it was, for good. It returns its number.
func (r *Registry) DeleteVersion(ctx context.Context, subject string, number int, permanent bool) (deleted int, err error) {
	err = r.change(ctx, func(st *state) ([]record, error) {
		if err := st.writable(subject); err != nil {
			return nil, err
		}
		v := st.find(subject, number, number != latest || permanent)
		switch {
		case len(st.subjects[subject]) == 0:
			return nil, subjectNotFound(subject)
		case v == nil:
			return nil, versionNotFound(number)
		case permanent && !v.deleted:
			return nil, errorf(codeVersionNotSoftDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", clip(subject), v.number)
		case !permanent && v.deleted:
			return nil, errorf(codeVersionSoftDeleted, "Subject '%s' Version %d was soft deleted. Set permanent=true to delete permanently", clip(subject), v.number)
		case len(st.referencing(subject, v.number)) > 0:
			return nil, referenced(v)
		}
		if deleted = v.number; permanent {
			return st.erase([]*version{v})
		}
		gone := *v
		gone.deleted = true
		rec, err := gone.record()
		return []record{rec}, err
	})
	return deleted, err
}
