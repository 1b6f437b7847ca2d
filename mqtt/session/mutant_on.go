//go:build mutants

package session

import "os"

// A build with the tag mutants has defects that MILLRACE_MUTANT names, so that the checks of the model test can be shown to
// catch them.
func mutant(name string) bool { return planted == name }

var (
	planted = os.Getenv("MILLRACE_MUTANT")
	stashed *Delivery
	victim  *link
)

// spared tells whether a planted defect overlooks that a message was barred for want of a right, on the way that it would have gone.
func spared(reason, way string) bool {
	return reason == DropDenied && mutant("skip-authorization-"+way)
}

// deliver hands c.out to a connection, but now and then twice, not at all, or after the one that follows.
func (c *Core) deliver(l *link) (room bool) {
	d := c.out
	switch {
	case mutant("duplicate") && d.QoS == 2 && d.PacketID%5 == 2:
		if !l.conn.Deliver(&d) {
			return false
		}
		d.PacketID += 1000
	case mutant("drop") && d.QoS > 0 && d.PacketID%5 == 2:
		return true
	case mutant("swap") && victim == l:
		victim = nil
		return l.conn.Deliver(&d) && l.conn.Deliver(stashed)
	case mutant("swap") && d.QoS > 0 && d.PacketID%5 == 2:
		m := *d.Msg
		d.Msg, stashed, victim = &m, &d, l
		return true
	}
	return l.conn.Deliver(&d)
}
