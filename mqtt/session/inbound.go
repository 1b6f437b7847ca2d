package session

// Inbound is the receiver's side of QoS 2 for one session (MQTT 5.0, 4.3.3 method A): which packet ids are open, and the last
// released use of each. The connection's reader and the core both use it, so it locks; it outlives connections and is handed
// to the next one on take-over, outstanding appends included.
//
// Agreed with its users:
//
//	Begin(id uint16) (t Triple, state State)   a PUBLISH QoS 2 came. Fresh: append it, with t in the record if t is not zero
//	                                            (persistent session). Pending: a copy is being appended, its PUBREC comes by
//	                                            itself. Open: it is stable; answer PUBREC at once, append nothing
//	Stable(id uint16, t Triple)                 its record is durable: the id is Open; PUBREC may go
//	Refused(id uint16, t Triple)                its append was refused: the id is free again, PUBREC carries the failure
//	Outstanding() int                           ids not yet released (for receive maximum)
type Inbound struct{}
