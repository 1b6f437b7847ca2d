package registry

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/millrace-io/millrace/registry/schema"
)

// routes is everything that is answered.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET /{$}":      func(*request) (any, error) { return struct{}{}, nil },
		"GET /contexts": func(*request) (any, error) { return []string{"."}, nil },

		"GET /subjects":                                           s.getSubjects,
		"POST /subjects/{subject}":                                s.lookup,
		"DELETE /subjects/{subject}":                              s.deleteSubject,
		"GET /subjects/{subject}/versions":                        s.getVersions,
		"POST /subjects/{subject}/versions":                       s.register,
		"GET /subjects/{subject}/versions/{version}":              s.getVersion,
		"GET /subjects/{subject}/versions/{version}/schema":       s.getVersionText,
		"GET /subjects/{subject}/versions/{version}/referencedby": s.getReferencedBy,
		"DELETE /subjects/{subject}/versions/{version}":           s.deleteVersion,

		"GET /schemas":                   s.getSchemas,
		"GET /schemas/types":             func(*request) (any, error) { return []schema.Type{schema.JSON, schema.Protobuf, schema.Avro}, nil },
		"GET /schemas/ids/{id}":          s.getByID,
		"GET /schemas/ids/{id}/schema":   s.getTextByID,
		"GET /schemas/ids/{id}/subjects": s.getSubjectsByID,
		"GET /schemas/ids/{id}/versions": s.getVersionsByID,

		"POST /compatibility/subjects/{subject}/versions":           s.compare,
		"POST /compatibility/subjects/{subject}/versions/{version}": s.compare,

		"GET /config": s.getLevel, "GET /config/{subject}": s.getLevel,
		"PUT /config": s.putLevel, "PUT /config/{subject}": s.putLevel,
		"DELETE /config": s.deleteLevel, "DELETE /config/{subject}": s.deleteLevel,
		"GET /mode": s.getMode, "GET /mode/{subject}": s.getMode,
		"PUT /mode": s.putMode, "PUT /mode/{subject}": s.putMode,
		"DELETE /mode/{subject}": s.deleteMode,
	} {
		mux.HandleFunc(pattern, s.serve(h))
	}
	mux.HandleFunc("/", s.serve(func(*request) (any, error) {
		return nil, errorf(http.StatusNotFound, "HTTP 404 Not Found")
	}))
	return mux
}

// sent is a schema as clients send it.
type sent struct {
	Schema     string          `json:"schema"`
	SchemaType string          `json:"schemaType"`
	References []Reference     `json:"references"`
	ID         int             `json:"id"`
	Version    int             `json:"version"`
	Metadata   json.RawMessage `json:"metadata"`
	RuleSet    json.RawMessage `json:"ruleSet"`
}

func (r *request) schema() (*Schema, error) {
	var b sent
	if err := r.body(&b); err != nil {
		return nil, err
	}
	for what, v := range map[string]json.RawMessage{"metadata": b.Metadata, "ruleSet": b.RuleSet} {
		if len(v) > 0 && string(v) != "null" {
			return nil, errorf(http.StatusUnprocessableEntity, "%s is not kept by this registry: send none", what)
		}
	}
	if b.Schema == "" {
		return nil, errorf(codeInvalidSchema, "Empty schema")
	}
	return &Schema{Type: b.SchemaType, Text: b.Schema, References: b.References, Normalise: r.flag("normalize"), ID: max(b.ID, 0), Version: max(b.Version, 0)}, nil
}

// told is a version as clients get it.
type told struct {
	Subject    string      `json:"subject,omitempty"`
	Version    int         `json:"version,omitempty"`
	ID         int         `json:"id,omitempty"`
	SchemaType schema.Type `json:"schemaType,omitempty"` // empty: Avro
	References []Reference `json:"references,omitempty"`
	Schema     string      `json:"schema"`
	Deleted    bool        `json:"deleted,omitempty"`
	MaxID      int         `json:"maxId,omitempty"`
}

func (s *Server) tell(r *request, v Version) (told, error) {
	t := told{Subject: v.Subject, Version: v.Version, ID: v.ID, SchemaType: v.Type, References: v.References, Schema: v.Text, Deleted: v.Deleted}
	if v.Type == schema.Avro {
		t.SchemaType = ""
	}
	var err error
	if r.URL.Query().Get("format") == "serialized" {
		t.Schema, err = s.o.Registry.Serialised(v)
	}
	return t, err
}

// subject is that of the path, if the account may do that to it.
func (s *Server) subject(r *request, to Right) (string, error) {
	name := r.PathValue("subject")
	return name, s.may(r, to, name)
}

func (s *Server) getSubjects(r *request) (any, error) {
	list := []string{}
	for _, name := range s.o.Registry.Subjects(r.URL.Query().Get("subjectPrefix"), r.flag("deleted"), r.flag("deletedOnly")) {
		if s.may(r, Read, name) == nil {
			list = append(list, name)
		}
	}
	return list, nil
}

func (s *Server) register(r *request) (any, error) {
	name, err := s.subject(r, Write)
	if err != nil {
		return nil, err
	}
	n, err := r.schema()
	if err != nil {
		return nil, err
	}
	if err := s.mayRefer(r, n); err != nil {
		return nil, err
	}
	id, err := s.o.Registry.Register(r.Context(), name, n)
	if err != nil {
		return nil, err
	}
	s.o.Logger.Info("a schema was registered, or was there", "subject", name, "id", id, "account", r.account)
	return struct {
		ID int `json:"id"`
	}{id}, nil
}

// mayRefer has a schema show no other that its author may not read.
func (s *Server) mayRefer(r *request, n *Schema) error {
	for _, ref := range n.References {
		if err := s.may(r, Read, ref.Subject); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) lookup(r *request) (any, error) {
	name, err := s.subject(r, Read)
	if err != nil {
		return nil, err
	}
	n, err := r.schema()
	if err == nil {
		err = s.mayRefer(r, n)
	}
	if err != nil {
		return nil, err
	}
	v, err := s.o.Registry.Lookup(r.Context(), name, n, r.flag("deleted"))
	if err != nil {
		return nil, err
	}
	return s.tell(r, v)
}

func (s *Server) compare(r *request) (any, error) {
	name, err := s.subject(r, Read)
	if err != nil {
		return nil, err
	}
	number := 0
	if r.PathValue("version") != "" {
		if number, err = r.version(); err != nil {
			return nil, err
		}
	}
	n, err := r.schema()
	if err == nil {
		err = s.mayRefer(r, n)
	}
	if err != nil {
		return nil, err
	}
	wrong, err := s.o.Registry.Compatible(r.Context(), name, number, n)
	if err != nil {
		return nil, err
	}
	answer := struct {
		Is       bool     `json:"is_compatible"`
		Messages []string `json:"messages,omitempty"`
	}{Is: len(wrong) == 0}
	if r.flag("verbose") {
		answer.Messages = wrong
	}
	return answer, nil
}

func (s *Server) deleteSubject(r *request) (any, error) {
	name, err := s.subject(r, Manage)
	if err != nil {
		return nil, err
	}
	numbers, err := s.o.Registry.DeleteSubject(r.Context(), name, r.flag("permanent"))
	if err == nil {
		s.o.Logger.Info("a subject was deleted", "subject", name, "versions", numbers, "permanent", r.flag("permanent"), "account", r.account)
	}
	return numbers, err
}

func (s *Server) deleteVersion(r *request) (any, error) {
	name, err := s.subject(r, Manage)
	if err != nil {
		return nil, err
	}
	number, err := r.version()
	if err != nil {
		return nil, err
	}
	number, err = s.o.Registry.DeleteVersion(r.Context(), name, number, r.flag("permanent"))
	if err == nil {
		s.o.Logger.Info("a version was deleted", "subject", name, "version", number, "permanent", r.flag("permanent"), "account", r.account)
	}
	return number, err
}

func (s *Server) getVersions(r *request) (any, error) {
	name, err := s.subject(r, Read)
	if err != nil {
		return nil, err
	}
	list, err := s.o.Registry.Versions(name, r.flag("deleted") || r.flag("deletedOnly"))
	numbers := []int{}
	for _, v := range list {
		if v.Deleted || !r.flag("deletedOnly") {
			numbers = append(numbers, v.Version)
		}
	}
	return numbers, err
}

func (s *Server) version(r *request) (Version, error) {
	name, err := s.subject(r, Read)
	if err != nil {
		return Version{}, err
	}
	number, err := r.version()
	if err != nil {
		return Version{}, err
	}
	return s.o.Registry.Version(name, number, r.flag("deleted"))
}

func (s *Server) getVersion(r *request) (any, error) {
	v, err := s.version(r)
	if err != nil {
		return nil, err
	}
	return s.tell(r, v)
}

func (s *Server) getVersionText(r *request) (any, error) {
	v, err := s.version(r)
	if err != nil {
		return nil, err
	}
	t, err := s.tell(r, v)
	return raw(t.Schema), err
}

func (s *Server) getReferencedBy(r *request) (any, error) {
	name, err := s.subject(r, Read)
	if err != nil {
		return nil, err
	}
	number, err := r.version()
	if err != nil {
		return nil, err
	}
	ids, err := s.o.Registry.ReferencedBy(name, number)
	if ids == nil {
		ids = []int{}
	}
	return ids, err
}

// What one answer lists at most; offset brings the others.
const (
	maxListed      = 1000
	maxListedBytes = 8 << 20
)

func (s *Server) getSchemas(r *request) (any, error) {
	list, skip := []told{}, max(r.number("offset", 0), 0)
	limit := r.number("limit", maxListed)
	if limit < 0 || limit > maxListed {
		limit = maxListed
	}
	deleted, size := r.flag("deleted"), 0
	for _, name := range s.o.Registry.Subjects(r.URL.Query().Get("subjectPrefix"), deleted, false) {
		if s.may(r, Read, name) != nil {
			continue
		}
		versions, err := s.o.Registry.Versions(name, deleted)
		if err != nil {
			continue // it was deleted meanwhile
		}
		if r.flag("latestOnly") {
			versions = versions[len(versions)-1:]
		}
		for _, v := range versions {
			switch {
			case len(list) >= limit || size > maxListedBytes:
				return list, nil
			case skip > 0:
				skip--
			default:
				t, err := s.tell(r, v)
				if err != nil {
					return nil, err
				}
				list, size = append(list, t), size+len(t.Schema)
			}
		}
	}
	return list, nil
}

// byID finds a schema and those of its versions that the account may read; it may read the schema if there is one.
func (s *Server) byID(r *request, deleted bool) (v Version, versions []Version, err error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 32)
	if err != nil {
		return v, nil, errorf(http.StatusNotFound, "HTTP 404 Not Found")
	}
	v, all, err := s.o.Registry.ByID(int(id), true)
	if err != nil {
		return v, nil, err
	}
	allowed := false
	for _, of := range all {
		if s.may(r, Read, of.Subject) == nil {
			allowed = true
			if deleted || !of.Deleted {
				versions = append(versions, of)
			}
		}
	}
	if !allowed {
		return v, nil, errorf(codeSchemaNotFound, "Schema %d not found", id)
	}
	return v, versions, nil
}

func (s *Server) getByID(r *request) (any, error) {
	v, _, err := s.byID(r, true)
	if err != nil {
		return nil, err
	}
	t, err := s.tell(r, v)
	t.ID = 0 // it is known
	if r.flag("fetchMaxId") {
		t.MaxID = s.o.Registry.LastID()
	}
	return t, err
}

func (s *Server) getTextByID(r *request) (any, error) {
	v, _, err := s.byID(r, true)
	if err != nil {
		return nil, err
	}
	t, err := s.tell(r, v)
	return raw(t.Schema), err
}

func (s *Server) getSubjectsByID(r *request) (any, error) {
	_, versions, err := s.byID(r, r.flag("deleted"))
	names := []string{}
	for _, v := range versions {
		if len(names) == 0 || names[len(names)-1] != v.Subject {
			names = append(names, v.Subject)
		}
	}
	return names, err
}

func (s *Server) getVersionsByID(r *request) (any, error) {
	type of struct {
		Subject string `json:"subject"`
		Version int    `json:"version"`
	}
	_, versions, err := s.byID(r, r.flag("deleted"))
	list := []of{}
	for _, v := range versions {
		list = append(list, of{v.Subject, v.Version})
	}
	return list, err
}

type levelTold struct {
	Level string `json:"compatibilityLevel"`
}

func (s *Server) getLevel(r *request) (any, error) {
	name, err := s.setting(r, Read)
	if err != nil {
		return nil, err
	}
	level, err := s.o.Registry.Level(name, r.flag("defaultToGlobal"))
	return levelTold{level}, err
}

// setting is the subject of the path, or none: what holds for all everybody may read who gets in.
func (s *Server) setting(r *request, to Right) (string, error) {
	name := r.PathValue("subject")
	if name == "" && to == Read {
		return "", nil
	}
	return name, s.may(r, to, name)
}

func (s *Server) putLevel(r *request) (any, error) {
	name, err := s.setting(r, Manage)
	if err != nil {
		return nil, err
	}
	var b struct {
		Level string `json:"compatibility"`
	}
	if err := r.body(&b); err != nil {
		return nil, err
	}
	level, err := s.o.Registry.SetLevel(r.Context(), name, b.Level)
	if err == nil {
		s.o.Logger.Info("a compatibility level was set", "subject", name, "level", level, "account", r.account)
	}
	b.Level = level
	return b, err
}

func (s *Server) deleteLevel(r *request) (any, error) {
	name, err := s.setting(r, Manage)
	if err != nil {
		return nil, err
	}
	was, err := s.o.Registry.DropLevel(r.Context(), name)
	return levelTold{was}, err
}

type modeTold struct {
	Mode string `json:"mode"`
}

func (s *Server) getMode(r *request) (any, error) {
	name, err := s.setting(r, Read)
	if err != nil {
		return nil, err
	}
	mode, err := s.o.Registry.Mode(name, r.flag("defaultToGlobal"))
	return modeTold{mode}, err
}

func (s *Server) putMode(r *request) (any, error) {
	name, err := s.setting(r, Manage)
	if err != nil {
		return nil, err
	}
	var b modeTold
	if err := r.body(&b); err != nil {
		return nil, err
	}
	b.Mode, err = s.o.Registry.SetMode(r.Context(), name, b.Mode, r.flag("force"))
	if err == nil {
		s.o.Logger.Info("a mode was set", "subject", name, "mode", b.Mode, "account", r.account)
	}
	return b, err
}

func (s *Server) deleteMode(r *request) (any, error) {
	name, err := s.setting(r, Manage)
	if err != nil {
		return nil, err
	}
	was, err := s.o.Registry.DropMode(r.Context(), name)
	return modeTold{was}, err
}
