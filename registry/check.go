package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/registry/schema"
)

// CheckOptions say what payloads are checked against.
type CheckOptions struct {
	Subject string
	Version int    // 0: the latest
	Message string // of a Protobuf schema; empty: the first one
	// Framed: payloads are in Confluent's wire format, and say by id which of the subject's schemas they are of.
	Framed bool
}

// The reasons for which a payload is not valid.
const (
	InvalidPayload  = "invalid_payload"   // it is not of the schema
	InvalidFrame    = "invalid_frame"     // it does not begin as Confluent's wire format does
	UnknownSchema   = "unknown_schema_id" // its id is none of the subject's
	NoSchema        = "no_schema"         // the subject, or its version, is not there
	UnusableSchema  = "unusable_schema"   // a registry may keep it, but nothing can be checked with it here
	validationPanic = "validator_failed"
)

var reasons = []string{InvalidPayload, InvalidFrame, UnknownSchema, NoSchema, UnusableSchema, validationPanic}

// Invalid is why a payload is not valid.
type Invalid struct {
	Reason string
	err    error
}

func (e *Invalid) Error() string { return e.err.Error() }
func (e *Invalid) Unwrap() error { return e.err }

func invalid(reason, format string, args ...any) *Invalid {
	return &Invalid{reason, fmt.Errorf(format, args...)}
}

// Check checks payloads against a subject of a registry, as it is at the time: a version that is registered counts from then on. Any
// number of goroutines may use it.
type Check struct {
	r *Registry
	o CheckOptions

	now      atomic.Pointer[checking]
	renewing sync.Mutex

	valid   atomic.Uint64
	invalid map[string]*atomic.Uint64 // by reason
	took    metrics.Histogram
}

// checking is a Check with a state of the registry.
type checking struct {
	st   *state
	main *compiled
	mu   sync.RWMutex
	byID map[int]*compiled // of payloads that say their id
}

// compiled is a schema made ready, or why it could not be.
type compiled struct {
	of        *content
	validator schema.Validator
	err       *Invalid
}

// Check makes a check. The subject need not be there yet; until it is, no payload is valid.
func (r *Registry) Check(o CheckOptions) *Check {
	c := &Check{r: r, o: o, invalid: map[string]*atomic.Uint64{}}
	for _, reason := range reasons {
		c.invalid[reason] = new(atomic.Uint64)
	}
	return c
}

// Validate returns why a payload is not valid, an *Invalid, or nil.
func (c *Check) Validate(payload []byte) error {
	began := time.Now()
	err := c.validate(payload)
	c.took.Record(time.Since(began))
	if err != nil {
		c.invalid[err.Reason].Add(1)
		return err
	}
	c.valid.Add(1)
	return nil
}

// Ready says why no payload can be valid at present, or nil.
func (c *Check) Ready() error {
	n := c.current()
	if !c.o.Framed && n.main.err != nil {
		return n.main.err
	}
	if c.o.Framed && len(n.st.live(c.o.Subject, false)) == 0 {
		return c.noSchema()
	}
	return nil
}

// validate is the check itself. A defect in a validator is one message's bad luck, and not the node's.
func (c *Check) validate(payload []byte) (why *Invalid) {
	defer func() {
		if p := recover(); p != nil {
			why = invalid(validationPanic, "the validator has failed: %.200s", fmt.Sprint(p))
		}
	}()
	n := c.current()
	if c.o.Framed {
		return c.framed(n, payload)
	}
	if n.main.err != nil {
		return n.main.err
	}
	if err := n.main.validator.Validate(payload); err != nil {
		return &Invalid{InvalidPayload, err}
	}
	return nil
}

// current is the check with the registry's state of now.
func (c *Check) current() *checking {
	st := c.r.state.Load()
	if n := c.now.Load(); n != nil && n.st == st {
		return n
	}
	c.renewing.Lock()
	defer c.renewing.Unlock()
	st = c.r.state.Load()
	was := c.now.Load()
	if was != nil && was.st == st {
		return was
	}
	n := &checking{st: st, byID: map[int]*compiled{}}
	if !c.o.Framed {
		number := c.o.Version
		if number == 0 {
			number = latest
		}
		switch v := st.find(c.o.Subject, number, false); {
		case v == nil:
			n.main = &compiled{err: c.noSchema()}
		case was != nil && was.main.of == v.content:
			n.main = was.main
		default:
			n.main = c.compile(st, v.content)
		}
	} else if was != nil {
		was.mu.RLock()
		for id, k := range was.byID {
			if v := c.version(st, id); v != nil && v.content == k.of {
				n.byID[id] = k
			}
		}
		was.mu.RUnlock()
	}
	c.now.Store(n)
	return n
}

func (c *Check) noSchema() *Invalid {
	if c.o.Version > 0 {
		return invalid(NoSchema, "the registry has no version %d of subject %q", c.o.Version, c.o.Subject)
	}
	return invalid(NoSchema, "the registry has no subject %q", c.o.Subject)
}

func (c *Check) compile(st *state, of *content) *compiled {
	k := &compiled{of: of}
	s, err := c.r.parse(st, of)
	if err == nil && c.o.Message != "" {
		k.validator, err = s.ProtoValidator(c.o.Message)
	} else if err == nil {
		k.validator, err = s.Validator()
	}
	if err != nil {
		k.err = &Invalid{UnusableSchema, fmt.Errorf("schema %d of subject %q: %w", of.id, c.o.Subject, err)}
	}
	return k
}

// framed validates a payload that begins with a zero and the id of its schema.
func (c *Check) framed(n *checking, payload []byte) *Invalid {
	if len(payload) < 5 || payload[0] != 0 {
		return invalid(InvalidFrame, "the payload does not begin with a zero byte and the id of a schema")
	}
	id := int(binary.BigEndian.Uint32(payload[1:]))
	k, why := c.byID(n, id)
	if why != nil {
		return why
	}
	var err error
	if p, ok := k.validator.(*schema.ProtoValidator); ok {
		err = p.ValidateIndexed(payload[5:])
	} else {
		err = k.validator.Validate(payload[5:])
	}
	if err != nil {
		return &Invalid{InvalidPayload, fmt.Errorf("schema %d: %w", id, err)}
	}
	return nil
}

// byID finds the schema of an id among the subject's.
func (c *Check) byID(n *checking, id int) (*compiled, *Invalid) {
	n.mu.RLock()
	k := n.byID[id]
	n.mu.RUnlock()
	if k == nil {
		v := c.version(n.st, id)
		if v == nil {
			return nil, invalid(UnknownSchema, "schema %d is none of subject %q", id, c.o.Subject)
		}
		k = c.compile(n.st, v.content)
		n.mu.Lock()
		n.byID[id] = k
		n.mu.Unlock()
	}
	if k.err != nil {
		return nil, k.err
	}
	return k, nil
}

// version finds the subject's version of an id; nil: it has none, or it is deleted.
func (c *Check) version(st *state, id int) *version {
	for _, v := range st.subjects[c.o.Subject] {
		if v.id == id && !v.deleted && (c.o.Version == 0 || c.o.Version == v.number) {
			return v
		}
	}
	return nil
}

// CheckStats is what a check has done.
type CheckStats struct {
	Valid   uint64
	Invalid map[string]uint64 // by reason
}

// Stats returns the counters.
func (c *Check) Stats() CheckStats {
	s := CheckStats{Valid: c.valid.Load(), Invalid: map[string]uint64{}}
	for reason, n := range c.invalid {
		s.Invalid[reason] = n.Load()
	}
	return s
}

// Took is the time that a payload takes.
func (c *Check) Took() *metrics.Histogram { return &c.took }

// ReasonOf is why a payload was found invalid, in a word.
func ReasonOf(err error) string {
	var why *Invalid
	if errors.As(err, &why) {
		return why.Reason
	}
	return InvalidPayload
}
