package console

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// openAPI describes the API in OpenAPI 3.1, from endpoints and the doc tags of the bodies, so that there is one place to say what there is.
func openAPI(endpoints []endpoint) []byte {
	schemas := object{}
	paths := object{}
	for _, e := range endpoints {
		ops, _ := paths[e.path].(object)
		if ops == nil {
			ops = object{}
			paths[e.path] = ops
		}
		ops[strings.ToLower(e.method)] = e.describe(schemas)
	}
	b, err := json.Marshal(object{
		"openapi": "3.1.0",
		"info": object{"title": "Millrace", "version": "1",
			"description": "What a node shows. Times are milliseconds since 1970 on the node's clock; what may be unknown is null. Errors are application/problem+json (RFC 9457)."},
		"paths": paths,
		"components": object{"schemas": schemas, "securitySchemes": object{
			"token":   object{"type": "http", "scheme": "bearer", "description": "made with `millrace passwd --token`"},
			"session": object{"type": "apiKey", "in": "cookie", "name": "millrace", "description": "from POST /api/v1/login; over TLS its name is __Host-millrace"},
		}},
		"security": []any{object{}, object{"token": []string{}}, object{"session": []string{}}},
	})
	if err != nil {
		panic(err) // it is made of constants
	}
	return b
}

type object = map[string]any

func (e *endpoint) describe(schemas object) object {
	op := object{"summary": e.sum, "operationId": e.name()}
	switch {
	case e.open:
		op["security"] = []any{}
	case e.admin:
		op["security"] = []any{object{"token": []string{}}, object{"session": []string{}}}
		op["description"] = "For administrators only: accounts of the role admin in listeners.http.password_file. Others are answered 403."
	}
	var params []any
	for _, p := range e.params {
		params = append(params, object{"name": p.name, "in": p.in, "required": p.in == "path", "description": p.doc, "schema": object{"type": p.kind}})
	}
	if params != nil {
		op["parameters"] = params
	}
	if e.request != nil {
		op["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": schemaOf(reflect.TypeOf(e.request), schemas)}}}
	}
	status := e.status
	if status == 0 {
		status = http.StatusOK
	}
	good := object{"description": http.StatusText(status)}
	if e.response != nil {
		kind := e.kind
		if kind == "" {
			kind = "application/json"
		}
		good["content"] = object{kind: object{"schema": schemaOf(reflect.TypeOf(e.response), schemas)}}
	}
	op["responses"] = object{strconv.Itoa(status): good, "default": object{"description": "an error",
		"content": object{"application/problem+json": object{"schema": schemaOf(reflect.TypeFor[Problem](), schemas)}}}}
	return op
}

// name is the operation's: its path's words, and what it does with that.
func (e *endpoint) name() string {
	words := strings.FieldsFunc(strings.TrimPrefix(e.path, "/api/v1/"), func(r rune) bool { return strings.ContainsRune("/{}.", r) })
	name := strings.Join(words, "_")
	if e.admin && e.method != http.MethodGet {
		name += "_" + strings.ToLower(e.method)
	}
	return name
}

// schemaOf describes a type; of structs it puts the schema among schemas and refers to it.
func schemaOf(t reflect.Type, schemas object) object {
	switch t.Kind() {
	case reflect.Pointer:
		s := maps.Clone(schemaOf(t.Elem(), schemas))
		s["type"] = []any{s["type"], "null"}
		return s
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem(), schemas)}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return object{"type": "object"}
		}
		return object{"type": "object", "additionalProperties": schemaOf(t.Elem(), schemas)}
	case reflect.Struct:
		if _, there := schemas[t.Name()]; !there {
			schemas[t.Name()] = object{} // so that a type may have itself in it
			schemas[t.Name()] = structSchema(t, schemas)
		}
		return object{"$ref": "#/components/schemas/" + t.Name()}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	}
	return object{"type": "integer"}
}

func structSchema(t reflect.Type, schemas object) object {
	properties, required := object{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("json")
		if f.Anonymous || !f.IsExported() || tag == "" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		s := schemaOf(f.Type, schemas)
		s["description"] = f.Tag.Get("doc")
		properties[name] = s
		if options == "" {
			required = append(required, name)
		}
	}
	slices.Sort(required)
	return object{"type": "object", "properties": properties, "required": required}
}
