//go:build !mutants

package session

// mutant tells whether a planted defect is on; in a real build none is. See mutant_on.go.
func mutant(string) bool { return false }

// deliver hands c.out to a connection.
func (c *Core) deliver(l *link) (room bool) { return l.conn.Deliver(&c.out) }
