package registry

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/millrace-io/millrace/registry/schema"
)

// Reference is how a schema names another: Name is what it is called in the text, Subject and Version where it is.
type Reference struct {
	Name    string `json:"name"`
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// maxID is the highest id, and the highest version: payloads have 32 bits for the one.
const maxID = math.MaxInt32

// content is a schema under its id. It never changes.
type content struct {
	id   int
	typ  schema.Type
	text string
	refs []Reference
}

// sum names a content by all that it is but its id.
func (c *content) sum() [sha256.Size]byte {
	b, err := json.Marshal([]any{c.typ, c.text, c.refs})
	if err != nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(b)
}

// version is one version of a subject.
type version struct {
	subject string
	number  int
	deleted bool // softly: it keeps its number, and its id is still found
	*content
}

// state is what the records of the topic add up to. One that others may have does not change any more.
type state struct {
	subjects map[string][]*version // ascending
	ids      map[int]held
	sums     map[[sha256.Size]byte]int // ids
	config   map[string]string         // compatibility level by subject; "": the global one
	mode     map[string]string         // likewise
	lastID   int
	versions int
	bytes    int64
}

// held is a content, and how many versions have it.
type held struct {
	*content
	uses int
}

func newState() *state {
	return &state{subjects: map[string][]*version{}, ids: map[int]held{}, sums: map[[sha256.Size]byte]int{},
		config: map[string]string{}, mode: map[string]string{}}
}

// clone is a copy that can be changed.
func (st *state) clone() *state {
	c := *st
	c.subjects, c.ids, c.sums = maps.Clone(st.subjects), maps.Clone(st.ids), maps.Clone(st.sums)
	c.config, c.mode = maps.Clone(st.config), maps.Clone(st.mode)
	return &c
}

// record is one of the topic's.
type record struct{ key, value []byte } // value nil: what the key stands for is gone

// recordKey and the values are Confluent's: its registry, and tools that read the topic, know them. The order of the fields counts, since
// records are compacted by the bytes of their keys.
type recordKey struct {
	KeyType string  `json:"keytype"`
	Subject *string `json:"subject,omitempty"`
	Version int     `json:"version,omitempty"`
	Magic   int     `json:"magic"`
}

type schemaValue struct {
	Subject    string      `json:"subject"`
	Version    int         `json:"version"`
	ID         int         `json:"id"`
	References []Reference `json:"references,omitempty"`
	SchemaType schema.Type `json:"schemaType,omitempty"` // empty: Avro
	Schema     string      `json:"schema"`
	Deleted    bool        `json:"deleted"`
}

type configValue struct {
	Subject *string `json:"subject,omitempty"`
	Level   string  `json:"compatibilityLevel"`
}

type modeValue struct {
	Subject *string `json:"subject,omitempty"`
	Mode    string  `json:"mode"`
}

type deleteValue struct {
	Subject string `json:"subject"`
	Version int    `json:"version"` // it and those before
}

// noopValue is ours: Confluent's registry looks at no value of such a key. It keeps ids from being given again once nothing has the highest one.
type noopValue struct {
	LastID int `json:"lastId"`
}

const (
	keySchema = "SCHEMA"
	keyConfig = "CONFIG"
	keyMode   = "MODE"
	keyDelete = "DELETE_SUBJECT"
	keyClear  = "CLEAR_SUBJECT"
	keyNoop   = "NOOP"
)

func encode(k, v any) (r record, err error) {
	if r.key, err = encodeJSON(k); err == nil && v != nil {
		r.value, err = encodeJSON(v)
	}
	return r, err
}

// encodeJSON escapes nothing that JSON does not demand.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func versionKey(subject string, number int) recordKey {
	return recordKey{KeyType: keySchema, Subject: &subject, Version: number, Magic: 1}
}

func (v *version) record() (record, error) {
	value := schemaValue{Subject: v.subject, Version: v.number, ID: v.id, References: v.refs, SchemaType: v.typ, Schema: v.text, Deleted: v.deleted}
	if v.typ == schema.Avro {
		value.SchemaType = ""
	}
	return encode(versionKey(v.subject, v.number), value)
}

// settingKey is that of a subject's level or mode; an empty subject is written as null.
func settingKey(keyType, subject string) any {
	type key struct {
		KeyType string  `json:"keytype"`
		Subject *string `json:"subject"`
		Magic   int     `json:"magic"`
	}
	if subject == "" {
		return key{KeyType: keyType}
	}
	return key{KeyType: keyType, Subject: &subject}
}

// apply takes a record over. An error says that it is none that a registry writes; then nothing is changed.
func (st *state) apply(key, value []byte) error {
	var k recordKey
	if err := json.Unmarshal(key, &k); err != nil {
		return fmt.Errorf("key %.100q: %w", key, err)
	}
	subject := ""
	if k.Subject != nil {
		subject = *k.Subject
	}
	switch k.KeyType {
	case keySchema:
		return st.applyVersion(subject, k.Version, value)
	case keyConfig, keyMode:
		return st.applySetting(k.KeyType, subject, value)
	case keyDelete:
		var d deleteValue
		if value == nil {
			return nil
		}
		if err := json.Unmarshal(value, &d); err != nil {
			return fmt.Errorf("value of %.100q: %w", key, err)
		}
		list := slices.Clone(st.subjects[subject])
		for i, v := range list {
			if v.number <= d.Version {
				gone := *v
				gone.deleted = true
				list[i] = &gone
			}
		}
		st.set(subject, list)
		return nil
	case keyNoop:
		var n noopValue
		if value != nil && json.Unmarshal(value, &n) == nil && n.LastID <= maxID {
			st.lastID = max(st.lastID, n.LastID)
		}
		return nil
	case keyClear:
		return nil // what it follows is deleted by records of its own
	}
	return fmt.Errorf("key %.100q is of no kind that is known", key)
}

func (st *state) applySetting(keyType, subject string, value []byte) error {
	var v struct {
		Level string `json:"compatibilityLevel"`
		Mode  string `json:"mode"`
	}
	if value != nil {
		if err := json.Unmarshal(value, &v); err != nil {
			return fmt.Errorf("value of %s of %.100q: %w", keyType, subject, err)
		}
	}
	settings, text, known := st.config, v.Level, knownLevel(v.Level)
	if keyType == keyMode {
		settings, text, known = st.mode, v.Mode, knownMode(v.Mode)
	}
	switch {
	case value == nil || text == "":
		delete(settings, subject)
	case !known:
		return fmt.Errorf("%s of %.100q: %.100q is not known", keyType, subject, text)
	default:
		settings[subject] = text
	}
	return nil
}

func (st *state) applyVersion(subject string, number int, value []byte) error {
	if subject == "" || number < 1 || number > maxID {
		return fmt.Errorf("version %d of the subject %.100q", number, subject)
	}
	list := st.subjects[subject]
	at, there := slices.BinarySearchFunc(list, number, func(v *version, n int) int { return cmp.Compare(v.number, n) })
	if value == nil {
		if there {
			st.drop(list[at])
			st.set(subject, slices.Delete(slices.Clone(list), at, at+1))
		}
		return nil
	}
	var s schemaValue
	if err := json.Unmarshal(value, &s); err != nil {
		return fmt.Errorf("version %d of %.100q: %w", number, subject, err)
	}
	typ, err := schema.ParseType(string(s.SchemaType))
	if err != nil || s.ID < 1 || s.ID > maxID || len(s.Schema) > schema.MaxText {
		return fmt.Errorf("version %d of %.100q: id %d, %d bytes: %w", number, subject, s.ID, len(s.Schema), err)
	}
	v := &version{subject: subject, number: number, deleted: s.Deleted, content: st.keep(&content{id: s.ID, typ: typ, text: s.Schema, refs: s.References})}
	if there {
		st.drop(list[at])
		list = slices.Clone(list)
		list[at] = v
		st.set(subject, list)
	} else {
		st.set(subject, slices.Insert(slices.Clone(list), at, v))
	}
	return nil
}

// set changes the versions of a subject. Lists are never altered in place, so that who reads one may go on.
func (st *state) set(subject string, list []*version) {
	if len(list) == 0 {
		delete(st.subjects, subject)
		return
	}
	st.subjects[subject] = list
}

// keep counts a version of a content, which is one for all that have its id.
func (st *state) keep(c *content) *content {
	st.versions++
	st.bytes += int64(len(c.text))
	st.lastID = max(st.lastID, c.id)
	sum := c.sum()
	h, there := st.ids[c.id]
	if !there || h.sum() != sum { // another text under the id: somebody has written who does not know the rules; the last one counts
		h = held{content: c}
	}
	h.uses++
	st.ids[c.id] = h
	if _, known := st.sums[sum]; !known {
		st.sums[sum] = c.id
	}
	return h.content
}

// drop is the end of a version.
func (st *state) drop(v *version) {
	st.versions--
	st.bytes -= int64(len(v.text))
	h, there := st.ids[v.id]
	if !there || h.content != v.content {
		return
	}
	h.uses--
	if st.ids[v.id] = h; h.uses == 0 {
		delete(st.ids, v.id)
		if sum := v.sum(); st.sums[sum] == v.id {
			delete(st.sums, sum)
		}
	}
}

// live are a subject's versions; deleted ones too, if they are asked for.
func (st *state) live(subject string, deleted bool) (list []*version) {
	for _, v := range st.subjects[subject] {
		if deleted || !v.deleted {
			list = append(list, v)
		}
	}
	return list
}

// level is what compatibility a subject demands.
func (st *state) level(subject string) string {
	return cmp.Or(st.config[subject], st.config[""], Backward)
}

// modeOf is what may be done to a subject.
func (st *state) modeOf(subject string) string {
	if st.mode[""] == ReadOnlyOverride {
		return ReadOnlyOverride
	}
	return cmp.Or(st.mode[subject], st.mode[""], ReadWrite)
}
