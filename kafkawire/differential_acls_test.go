package kafkawire

import (
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func aclsScript(d *differ) func() { return (&aclsState{differ: d}).step }

// aclsState is what the script of ACLs knows. All of its principals are its own: other scripts' ACLs are at the other side too.
type aclsState struct{ *differ }

func (d *aclsState) step() {
	switch d.rng.IntN(6) {
	case 0, 1, 2:
		d.create()
	case 3, 4:
		d.describe()
	case 5:
		d.remove()
	}
}

func (d *aclsState) principal() string {
	return "User:" + d.name + one(d.differ, "a", "b", "c d")
}

// createOddly makes what is wrong, or rare, of principals and resources that are not asked after: where it is taken by one side only, they differ
// from there on. Numbers that no version knows end the connection there.
func (d *aclsState) createOddly() {
	c := kmsg.NewCreateACLsRequestCreation()
	c.ResourceType, c.ResourceName, c.ResourcePatternType = 2, d.name+"odd", 3
	c.Principal, c.Host, c.Operation, c.PermissionType = "User:"+d.name+"odd", "*", 3, 3
	what := ""
	switch d.rng.IntN(9) {
	case 0:
		c.ResourceType, what = one[kmsg.ACLResourceType](d.differ, 1, 6, 7), "resource"
	case 1:
		c.ResourcePatternType, what = one[kmsg.ACLResourcePatternType](d.differ, 1, 2), "pattern"
	case 2:
		c.Operation, what = kmsg.ACLOperation(1), "operation"
	case 3:
		c.Operation, what = one[kmsg.ACLOperation](d.differ, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15), "operation on a topic"
	case 4:
		c.PermissionType, what = kmsg.ACLPermissionType(1), "permission"
	case 5:
		c.Principal, what = one(d.differ, "", d.name+"odd", "User:", ":odd", "Group:"+d.name+"odd"), "principal"
	case 6:
		c.ResourceName, what = one(d.differ, "", "a b", strings.Repeat("x", 300)), "name"
	case 7:
		c.Host, what = one(d.differ, "", "a host", "::1", "0:0::1", "10.0.0.0/8"), "host"
	case 8:
		c.ResourceType, c.ResourceName, what = 4, one(d.differ, "kafka-cluster", "another"), "cluster"
		c.Operation, c.ResourcePatternType = one[kmsg.ACLOperation](d.differ, 8, 7, 4), one[kmsg.ACLResourcePatternType](d.differ, 3, 4)
	}
	v := int16(1 + d.rng.IntN(3))
	d.ask(fmt.Sprintf("create an odd ACL, %s: %d %q %d %q %q %d %d, version %d", what, c.ResourceType, c.ResourceName, c.ResourcePatternType, c.Principal, c.Host, c.Operation, c.PermissionType, v),
		func(int) kmsg.Request {
			req := kmsg.NewPtrCreateACLsRequest()
			req.Creations = append(req.Creations, c)
			return versioned(req, v)
		}, d.all())
}

func (d *aclsState) create() {
	if d.chance(3) {
		d.createOddly()
		return
	}
	v := int16(1 + d.rng.IntN(3))
	var creations []kmsg.CreateACLsRequestCreation
	what := ""
	for range 1 + d.rng.IntN(2) {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType = one[kmsg.ACLResourceType](d.differ, 2, 2, 3, 5)
		c.ResourceName = d.name + one(d.differ, "x", "y", "x-y")
		c.ResourcePatternType = one[kmsg.ACLResourcePatternType](d.differ, 3, 3, 4)
		c.Principal, c.Host = d.principal(), one(d.differ, "*", "*", "10.0.0.1")
		ops := map[kmsg.ACLResourceType][]kmsg.ACLOperation{2: {2, 3, 4, 8}, 3: {2, 3, 8}, 5: {2, 4, 8}}[c.ResourceType]
		c.Operation, c.PermissionType = one(d.differ, ops...), one[kmsg.ACLPermissionType](d.differ, 3, 3, 2)
		creations = append(creations, c)
		what += fmt.Sprintf(" %d %q %d %q %q %d %d;", c.ResourceType, c.ResourceName, c.ResourcePatternType, c.Principal, c.Host, c.Operation, c.PermissionType)
	}
	d.ask(fmt.Sprintf("create ACLs:%s version %d", what, v), func(int) kmsg.Request {
		req := kmsg.NewPtrCreateACLsRequest()
		req.Creations = creations
		return versioned(req, v)
	}, func(side int, r kmsg.Response) string {
		var codes []int16 // in the order of the request
		for _, res := range r.(*kmsg.CreateACLsResponse).Results {
			codes = append(codes, res.ErrorCode)
		}
		return fmt.Sprint(codes)
	})
}

// filter is about the script's own ACLs, by whose they are or what they are of. What no version knows ends the connection there.
func (d *aclsState) filter() (f kmsg.DeleteACLsRequestFilter, what string) {
	f = kmsg.NewDeleteACLsRequestFilter()
	f.ResourceType = one[kmsg.ACLResourceType](d.differ, 1, 1, 2, 3, 4, 5)
	f.ResourcePatternType = one[kmsg.ACLResourcePatternType](d.differ, 1, 1, 2, 3, 4)
	f.Operation, f.PermissionType = one[kmsg.ACLOperation](d.differ, 1, 1, 3, 4, 8), one[kmsg.ACLPermissionType](d.differ, 1, 1, 2, 3)
	principal, name, host := d.principal(), d.name+one(d.differ, "x", "y", "x-y", "x-y-z"), "*"
	if f.Principal = &principal; d.chance(2) {
		f.ResourceName = &name
		if d.chance(2) && f.ResourcePatternType != 2 { // which is of everything's ACLs too, and those may be another script's
			f.Principal = nil
		}
	}
	if d.chance(4) {
		f.Host = &host
	}
	text := func(s *string) string {
		if s == nil {
			return "any"
		}
		return *s
	}
	return f, fmt.Sprintf("%d %s %d %s %s %d %d", f.ResourceType, text(f.ResourceName), f.ResourcePatternType, text(f.Principal), text(f.Host), f.Operation, f.PermissionType)
}

func (d *aclsState) describe() {
	v := int16(1 + d.rng.IntN(3))
	f, what := d.filter()
	d.read(fmt.Sprintf("describe ACLs: %s, version %d", what, v), func(int) kmsg.Request {
		req := kmsg.NewPtrDescribeACLsRequest()
		req.ResourceType, req.ResourceName, req.ResourcePatternType = f.ResourceType, f.ResourceName, f.ResourcePatternType
		req.Principal, req.Host, req.Operation, req.PermissionType = f.Principal, f.Host, f.Operation, f.PermissionType
		return versioned(req, v)
	}, d.all())
}

func (d *aclsState) remove() {
	v := int16(1 + d.rng.IntN(3))
	f, what := d.filter()
	d.ask(fmt.Sprintf("delete ACLs: %s, version %d", what, v), func(int) kmsg.Request {
		req := kmsg.NewPtrDeleteACLsRequest()
		req.Filters = append(req.Filters, f)
		return versioned(req, v)
	}, d.all())
}

func credentialsScript(d *differ) func() { return (&credentialsState{differ: d}).step }

// credentialsState is what the script of SCRAM credentials knows; all the users are its own.
type credentialsState struct{ *differ }

func (d *credentialsState) user() string { return d.name + one(d.differ, "u", "v", "w") }

func (d *credentialsState) step() {
	d.alter()
	var users []string
	for range 1 + d.rng.IntN(3) {
		users = append(users, d.user())
	}
	d.read("describe credentials of "+strings.Join(users, ", "), func(int) kmsg.Request {
		req := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
		for _, u := range users {
			req.Users = append(req.Users, kmsg.DescribeUserSCRAMCredentialsRequestUser{Name: u})
		}
		return req
	}, d.all())
}

func (d *credentialsState) alter() {
	req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	what := ""
	for range d.rng.IntN(3) {
		u := kmsg.NewAlterUserSCRAMCredentialsRequestUpsertion()
		u.Name, u.Mechanism, u.Iterations = d.user(), int8(1+d.rng.IntN(2)), int32(4096+d.rng.IntN(2)*1000)
		u.Salt, u.SaltedPassword = []byte("0123456789abcdef"), make([]byte, 32*int(u.Mechanism))
		switch d.rng.IntN(20) {
		case 0:
			u.Name = ""
		case 1:
			u.Mechanism = one[int8](d.differ, 0, 3, -1)
		case 2:
			u.Iterations = one[int32](d.differ, 0, 4095, 16384, 16385, -1)
		case 3: // of users that are not asked after: where one is taken by one side only, they differ from there on
			u.Name, u.Salt = d.name+"odd", nil
		case 4:
			u.Name, u.SaltedPassword = d.name+"odd", one(d.differ, nil, []byte("short"))
		}
		req.Upsertions = append(req.Upsertions, u)
		what += fmt.Sprintf(" set %q %d %d, salt %d, password %d;", u.Name, u.Mechanism, u.Iterations, len(u.Salt), len(u.SaltedPassword))
	}
	for range d.rng.IntN(2) {
		x := kmsg.NewAlterUserSCRAMCredentialsRequestDeletion()
		if x.Name, x.Mechanism = d.user(), int8(1+d.rng.IntN(2)); d.chance(15) {
			x.Mechanism = one[int8](d.differ, 0, 3)
		}
		req.Deletions = append(req.Deletions, x)
		what += fmt.Sprintf(" delete %q %d;", x.Name, x.Mechanism)
	}
	d.ask("alter credentials:"+what, func(int) kmsg.Request { return req }, d.all())
}
