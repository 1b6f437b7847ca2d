package registry

import (
	"cmp"
	"context"
	"strings"
)

// Level is the compatibility level of a subject ("": the global one). fallback: the global one counts where a subject has none of its own.
func (r *Registry) Level(subject string, fallback bool) (level string, err error) {
	err = r.read(func(st *state) error {
		switch own := st.config[subject]; {
		case own != "":
			level = own
		case subject == "" || fallback:
			level = st.level(subject)
		default:
			return errorf(codeNoSubjectLevel, "Subject '%s' does not have subject-level compatibility configured", clip(subject))
		}
		return nil
	})
	return level, err
}

// SetLevel sets it.
func (r *Registry) SetLevel(ctx context.Context, subject, level string) (string, error) {
	level = strings.ToUpper(level)
	if !knownLevel(level) {
		return "", errorf(codeInvalidLevel, "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive")
	}
	return level, r.set(ctx, keyConfig, subject, func(st *state) (any, error) {
		value := configValue{Level: level}
		if subject != "" {
			value.Subject = &subject
		}
		return value, st.writable(subject)
	})
}

// DropLevel has a subject follow the global level again, or the global one be the default, and returns what it was.
func (r *Registry) DropLevel(ctx context.Context, subject string) (was string, err error) {
	err = r.set(ctx, keyConfig, subject, func(st *state) (any, error) {
		was = st.config[subject]
		if subject == "" {
			was = st.level("")
		} else if was == "" {
			return nil, errorf(codeNoSubjectLevel, "Subject '%s' does not have subject-level compatibility configured", clip(subject))
		}
		return nil, st.writable(subject)
	})
	return was, err
}

// Mode is that of a subject ("": the global one). fallback: as in Level.
func (r *Registry) Mode(subject string, fallback bool) (mode string, err error) {
	err = r.read(func(st *state) error {
		switch own := st.mode[subject]; {
		case own != "":
			mode = own
		case subject == "" || fallback:
			mode = cmp.Or(st.mode[""], ReadWrite)
		default:
			return errorf(codeNoSubjectMode, "Subject '%s' does not have subject-level mode configured", clip(subject))
		}
		return nil
	})
	return mode, err
}

// SetMode sets it. A subject that has schemas does not become one to import into, unless it is forced.
func (r *Registry) SetMode(ctx context.Context, subject, mode string, force bool) (string, error) {
	mode = strings.ToUpper(mode)
	if !knownMode(mode) || mode == ReadOnlyOverride && subject != "" {
		return "", errorf(codeInvalidMode, "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE (global only), and IMPORT")
	}
	return mode, r.set(ctx, keyMode, subject, func(st *state) (any, error) {
		if mode == Import && !force && (subject == "" && len(st.subjects) > 0 || len(st.subjects[subject]) > 0) {
			return nil, errorf(codeNotPermitted, "Cannot import since found existing subjects; set force=true to do so nevertheless")
		}
		value := modeValue{Mode: mode}
		if subject != "" {
			value.Subject = &subject
		}
		return value, nil
	})
}

// DropMode has a subject follow the global mode again, and returns what it was.
func (r *Registry) DropMode(ctx context.Context, subject string) (was string, err error) {
	err = r.set(ctx, keyMode, subject, func(st *state) (any, error) {
		if was = st.mode[subject]; was == "" {
			return nil, errorf(codeNoSubjectMode, "Subject '%s' does not have subject-level mode configured", clip(subject))
		}
		return nil, nil
	})
	return was, err
}

// set writes a setting of a subject; a nil value is its end.
func (r *Registry) set(ctx context.Context, keyType, subject string, decide func(*state) (any, error)) error {
	if subject != "" {
		if err := checkSubject(subject); err != nil {
			return err
		}
	}
	return r.change(ctx, func(st *state) ([]record, error) {
		value, err := decide(st)
		if err != nil {
			return nil, err
		}
		rec, err := encode(settingKey(keyType, subject), value)
		return []record{rec}, err
	})
}
