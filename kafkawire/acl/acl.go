// Package acl is Kafka's access control lists: what one says, which of them a filter means, and what all of them together decide.
//
// It is pure: no goroutines, nothing on disk, no clock. A Set never changes; who wants another one makes another one. Package
// kafkawire keeps the bindings in a topic and puts what is decided here together with the configuration's policy; this package
// will never know of either.
package acl

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The words of the protocol.
type (
	Operation  = kmsg.ACLOperation
	Resource   = kmsg.ACLResourceType
	Pattern    = kmsg.ACLResourcePatternType
	Permission = kmsg.ACLPermissionType
)

// Wildcard is every name of a kind (as a literal one), every principal (after User:) and every host.
const Wildcard = "*"

// UserPrefix begins a principal: accounts are the only kind there is.
const UserPrefix = "User:"

// ClusterName is the one resource of its kind.
const ClusterName = "kafka-cluster"

// Operations are those that there are on a kind of resource, in the order of their numbers. A kind that is not here has no ACLs.
var Operations = map[Resource][]Operation{
	kmsg.ACLResourceTypeTopic: {
		kmsg.ACLOperationRead, kmsg.ACLOperationWrite, kmsg.ACLOperationCreate, kmsg.ACLOperationDelete, kmsg.ACLOperationAlter,
		kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationAlterConfigs,
	},
	kmsg.ACLResourceTypeGroup: {
		kmsg.ACLOperationRead, kmsg.ACLOperationDelete, kmsg.ACLOperationDescribe, kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationAlterConfigs,
	},
	kmsg.ACLResourceTypeTransactionalId: {kmsg.ACLOperationWrite, kmsg.ACLOperationDescribe},
	kmsg.ACLResourceTypeCluster: {
		kmsg.ACLOperationCreate, kmsg.ACLOperationAlter, kmsg.ACLOperationDescribe, kmsg.ACLOperationClusterAction,
		kmsg.ACLOperationDescribeConfigs, kmsg.ACLOperationAlterConfigs, kmsg.ACLOperationIdempotentWrite,
	},
}

// Binding is one ACL: it allows or denies one operation (or all) on one resource, or on those whose names begin alike, to one
// principal from one host.
type Binding struct {
	Resource   Resource
	Pattern    Pattern
	Name       string
	Principal  string
	Host       string
	Operation  Operation
	Permission Permission
}

const (
	maxName      = 249 // of a topic
	maxGroupName = 1024
	maxPrincipal = 512

	maxOperation = 15 // TWO_PHASE_COMMIT
)

// Check says why a binding cannot be one, or nil.
func (b *Binding) Check() error {
	operations, known := Operations[b.Resource]
	limit := maxName
	if b.Resource != kmsg.ACLResourceTypeTopic {
		limit = maxGroupName
	}
	name, user := strings.CutPrefix(b.Principal, UserPrefix)
	_, hostErr := netip.ParseAddr(b.Host)
	switch {
	case !known:
		return fmt.Errorf("there are no ACLs on resources of type %v here: write TOPIC, GROUP, CLUSTER or TRANSACTIONAL_ID", b.Resource)
	case b.Pattern != kmsg.ACLResourcePatternTypeLiteral && b.Pattern != kmsg.ACLResourcePatternTypePrefixed:
		return errors.New("the pattern of a name is LITERAL or PREFIXED")
	case b.Name == "" || len(b.Name) > limit:
		return fmt.Errorf("the name of a resource has 1 to %d bytes", limit)
	case b.Resource == kmsg.ACLResourceTypeCluster && (b.Name != ClusterName || b.Pattern != kmsg.ACLResourcePatternTypeLiteral):
		return fmt.Errorf("the cluster is named %s", ClusterName)
	case !user || name == "" || len(b.Principal) > maxPrincipal:
		return errors.New("a principal is User: and the name of an account, or User:*")
	case b.Host != Wildcard && hostErr != nil:
		return errors.New("a host is an IP address, or *")
	case b.Permission != kmsg.ACLPermissionTypeAllow && b.Permission != kmsg.ACLPermissionTypeDeny:
		return errors.New("the permission is ALLOW or DENY")
	case b.Operation != kmsg.ACLOperationAll && !slices.Contains(operations, b.Operation):
		return fmt.Errorf("there is no operation %v on a %v", b.Operation, b.Resource)
	}
	return nil
}

// stored is a binding as a record's key has it.
type stored struct {
	Resource   string `json:"resource"`
	Pattern    string `json:"pattern"`
	Name       string `json:"name"`
	Principal  string `json:"principal"`
	Host       string `json:"host"`
	Operation  string `json:"operation"`
	Permission string `json:"permission"`
}

// Key is how a binding is written down: JSON, the same bytes for the same binding.
func (b *Binding) Key() []byte {
	key, err := json.Marshal(stored{b.Resource.String(), b.Pattern.String(), b.Name, b.Principal, b.Host, b.Operation.String(), b.Permission.String()})
	if err != nil {
		panic(err) // texts always have JSON
	}
	return key
}

// ParseKey reads what Key wrote.
func ParseKey(key []byte) (b Binding, err error) {
	var s stored
	if err := json.Unmarshal(key, &s); err != nil {
		return b, fmt.Errorf("an ACL's key: %w", err)
	}
	b = Binding{Name: s.Name, Principal: s.Principal, Host: s.Host}
	var errs [4]error
	b.Resource, errs[0] = kmsg.ParseACLResourceType(s.Resource)
	b.Pattern, errs[1] = kmsg.ParseACLResourcePatternType(s.Pattern)
	b.Operation, errs[2] = kmsg.ParseACLOperation(s.Operation)
	b.Permission, errs[3] = kmsg.ParseACLPermissionType(s.Permission)
	if err := errors.Join(errs[:]...); err != nil {
		return b, fmt.Errorf("an ACL's key: %w", err)
	}
	return b, b.Check()
}

// Filter says which bindings are meant; a nil text and Any are all.
type Filter struct {
	Resource   Resource
	Pattern    Pattern
	Name       *string
	Principal  *string
	Host       *string
	Operation  Operation
	Permission Permission
}

// Check says why a filter cannot be one, or nil.
func (f *Filter) Check() error {
	switch {
	case f.Resource < kmsg.ACLResourceTypeAny || f.Resource > kmsg.ACLResourceTypeUser,
		f.Pattern < kmsg.ACLResourcePatternTypeAny || f.Pattern > kmsg.ACLResourcePatternTypePrefixed,
		f.Operation < kmsg.ACLOperationAny || f.Operation > maxOperation,
		f.Permission < kmsg.ACLPermissionTypeAny || f.Permission > kmsg.ACLPermissionTypeAllow:
		return errors.New("the filter has a type, pattern, operation or permission that is not known")
	}
	return nil
}

// Matches tells whether a filter means a binding. The pattern MATCH means those that speak of a resource of that name.
func (f *Filter) Matches(b *Binding) bool {
	return (f.Resource == kmsg.ACLResourceTypeAny || f.Resource == b.Resource) &&
		(f.Operation == kmsg.ACLOperationAny || f.Operation == b.Operation) &&
		(f.Permission == kmsg.ACLPermissionTypeAny || f.Permission == b.Permission) &&
		(f.Principal == nil || *f.Principal == b.Principal) &&
		(f.Host == nil || *f.Host == b.Host) &&
		f.names(b)
}

// One is the only binding that a filter can mean; false: it can mean several.
func (f *Filter) One() (b Binding, ok bool) {
	if f.Resource <= kmsg.ACLResourceTypeAny || f.Operation <= kmsg.ACLOperationAny || f.Permission <= kmsg.ACLPermissionTypeAny ||
		f.Pattern != kmsg.ACLResourcePatternTypeLiteral && f.Pattern != kmsg.ACLResourcePatternTypePrefixed || f.Name == nil || f.Principal == nil || f.Host == nil {
		return b, false
	}
	return Binding{Resource: f.Resource, Pattern: f.Pattern, Name: *f.Name, Principal: *f.Principal, Host: *f.Host, Operation: f.Operation, Permission: f.Permission}, true
}

func (f *Filter) names(b *Binding) bool {
	switch f.Pattern {
	case kmsg.ACLResourcePatternTypeAny:
		return f.Name == nil || *f.Name == b.Name
	case kmsg.ACLResourcePatternTypeMatch:
		return f.Name == nil || *f.Name == b.Name ||
			b.Pattern == kmsg.ACLResourcePatternTypeLiteral && b.Name == Wildcard ||
			b.Pattern == kmsg.ACLResourcePatternTypePrefixed && strings.HasPrefix(*f.Name, b.Name)
	}
	return f.Pattern == b.Pattern && (f.Name == nil || *f.Name == b.Name)
}
