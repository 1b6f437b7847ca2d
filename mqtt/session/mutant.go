//go:build !mutants

package session

// mutant tells whether a planted defect is on; in a real build none is. See mutant_on.go.
func mutant(string) bool { return false }

// spared tells whether a planted defect overlooks that a message was barred for want of a right, on the way that it would have gone.
func spared(reason, way string) bool {
	return reason == DropDenied && mutant("skip-authorization-"+way)
}

// deliver hands c.out to a connection.
func (c *Core) deliver(l *link) (room bool) { return l.conn.Deliver(&c.out) }
