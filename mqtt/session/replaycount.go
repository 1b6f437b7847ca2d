package session

// replayCount is how many replays are under way or being asked for. The last quarter of what the node runs is kept for accounts that have few: one
// account, with however many sessions, cannot keep all others from asking.
type replayCount struct {
	all     int
	of      map[account]int
	refused ReplaysRefused
}

// account is who the replays of a session count for.
type account struct{ tenant, principal string }

func (k *Key) account() account { return account{k.Tenant, k.Principal} }

// ReplaysRefused counts the histories that were asked for in vain since the core began, by the limit in the way.
type ReplaysRefused struct {
	Session int64 // the session had as many as a session may
	Account int64 // its account had more than a sixteenth of all, and three quarters were taken
	Node    int64 // all were taken
}

func (r *replayCount) add(k *Key, n int) {
	if r.of == nil {
		r.of = map[account]int{}
	}
	a := k.account()
	r.all += n
	if r.of[a] += n; r.of[a] == 0 {
		delete(r.of, a)
	}
}

// refuses tells whether one more is too many, of max, where asked are already asked for by the same packet.
func (r *replayCount) refuses(k *Key, asked, max int) error {
	all, own := r.all+asked, r.of[k.account()]+asked
	switch {
	case all >= max:
		r.refused.Node++
		return errTooMany
	case all >= max-max/4 && own >= max/16+1:
		r.refused.Account++
		return errTooManyOfAccount
	}
	return nil
}
