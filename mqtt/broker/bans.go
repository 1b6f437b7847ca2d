package broker

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/mqtt/packet"
)

// Ban keeps somebody out: a client id, whoever comes with it; a principal; a client id of one principal; or a network of addresses.
type Ban struct {
	Client, Principal string
	Network           netip.Prefix
	Since             time.Time // default: now
	Until             time.Time // zero: until it is lifted
	Reason, By        string    // for operators; the client hears neither
}

// Errors of Broker.Ban.
var (
	ErrNobodyBanned = errors.New("a ban names a client id, a principal, both, or a network")
	ErrTooManyBans  = errors.New("there are as many bans as the list takes")
	// ErrMappedNetwork: addresses are compared as IPv4, so a network that has all of IPv4 within it as ::ffff:0:0/96 would keep nobody out.
	ErrMappedNetwork = errors.New("an IPv4 network that is written as IPv6 has a length of 96 or more; write it as 192.0.2.0/24, and all of IPv4 as 0.0.0.0/0")
)

// banned is whom a ban is for.
type banned struct {
	client, principal string
	network           netip.Prefix
}

func (b *Ban) who() banned { return banned{b.Client, b.Principal, b.Network.Masked()} }

func (b *Ban) over(now time.Time) bool { return !b.Until.IsZero() && !b.Until.After(now) }

// banList is who is banned. Nearly always that is nobody, and then asking costs one load.
type banList struct {
	max  int
	tell func(Ban, bool) // Options.OnBan, or nil

	some atomic.Bool
	mu   sync.Mutex
	list map[banned]Ban
	bits [2][129]int // how many networks have so many bits: of IPv4, of IPv6
}

// add replaces what there was for the same one. heard: somebody else has written it down.
func (l *banList) add(now time.Time, b Ban, heard bool) error {
	who := b.who()
	b.Network = who.network
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, there := l.list[who]; !there {
		if len(l.list) >= l.max {
			l.expire(now)
		}
		if len(l.list) >= l.max {
			return ErrTooManyBans
		}
		l.count(who, 1)
	}
	if l.list == nil {
		l.list = map[banned]Ban{}
	}
	l.list[who] = b
	l.some.Store(true)
	if l.tell != nil && !heard {
		l.tell(b, true)
	}
	return nil
}

// remove lifts a ban. Under mu.
func (l *banList) remove(who banned, heard bool) bool {
	b, there := l.list[who]
	if !there {
		return false
	}
	delete(l.list, who)
	l.count(who, -1)
	l.some.Store(len(l.list) > 0)
	if l.tell != nil && !heard {
		l.tell(b, false)
	}
	return true
}

func (l *banList) count(who banned, n int) {
	if who.network.IsValid() {
		l.bits[family(who.network.Addr())][who.network.Bits()] += n
	}
}

// family is 0 for IPv4, 1 for IPv6.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// expire drops what is over. Under mu.
func (l *banList) expire(now time.Time) {
	for who, b := range l.list {
		if b.over(now) {
			l.remove(who, false)
		}
	}
}

// holds tells whether somebody is banned now. Under mu.
func (l *banList) holds(now time.Time, who banned) bool {
	b, there := l.list[who]
	if there && b.over(now) {
		l.remove(who, false)
		return false
	}
	return there
}

// client tells whether a client id is banned, whoever comes with it.
func (l *banList) client(now time.Time, id string) bool {
	if !l.some.Load() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holds(now, banned{client: id})
}

// principal tells whether a principal is banned, or this client of it.
func (l *banList) principal(now time.Time, name, id string) bool {
	if !l.some.Load() || name == "" {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holds(now, banned{principal: name}) || l.holds(now, banned{client: id, principal: name})
}

// address tells whether an address is in a banned network.
func (l *banList) address(now time.Time, a netip.Addr) bool {
	if !l.some.Load() || !a.IsValid() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for bits, n := range l.bits[family(a)][:a.BitLen()+1] {
		if n == 0 {
			continue
		}
		if p, err := a.Prefix(bits); err == nil && l.holds(now, banned{network: p}) {
			return true
		}
	}
	return false
}

// Ban keeps somebody out from now on: who is connected is sent away with 0x98, who comes is refused with 0x8A; wills fire, sessions stay. A ban
// of the same one that there was before is replaced.
func (b *Broker) Ban(x Ban) error { return b.ban(x, false) }

// HearBan is Ban for one that another node has made: OnBan is not told of it.
func (b *Broker) HearBan(x Ban) error { return b.ban(x, true) }

func (b *Broker) ban(x Ban, heard bool) error {
	if err := x.check(); err != nil {
		return err
	}
	now := b.o.Now()
	if x.Since.IsZero() {
		x.Since = now
	}
	if err := b.bans.add(now, x, heard); err != nil {
		return fmt.Errorf("ban: %w", err)
	}
	for _, c := range b.roster.all() {
		if c.within(&x) {
			c.endBanned()
		}
	}
	return nil
}

func (b *Ban) check() error {
	client, net := b.Client != "" || b.Principal != "", b.Network != netip.Prefix{}
	if client == net || net && !b.Network.IsValid() {
		return fmt.Errorf("ban: %w", ErrNobodyBanned)
	}
	switch a, bits := b.Network.Addr(), b.Network.Bits(); {
	case a.Is4In6() && bits >= 96: // addresses are compared as IPv4
		b.Network = netip.PrefixFrom(a.Unmap(), bits-96)
	case a.Is4In6(), bits > 80 && a.Is6() && b.Network.Contains(mapped): // masked, it does not look like one any more
		return fmt.Errorf("ban: %w", ErrMappedNetwork)
	}
	return nil
}

// mapped is where IPv4 addresses begin among those of IPv6.
var mapped = netip.MustParseAddr("::ffff:0:0")

// Unban lifts the ban of whom x names; false: there was none.
func (b *Broker) Unban(x Ban) bool { return b.unban(x, false) }

// HearUnban is Unban for a ban that another node has lifted: OnBan is not told of it.
func (b *Broker) HearUnban(x Ban) bool { return b.unban(x, true) }

func (b *Broker) unban(x Ban, heard bool) bool {
	if x.check() != nil {
		return false
	}
	b.bans.mu.Lock()
	defer b.bans.mu.Unlock()
	b.bans.expire(b.o.Now())
	return b.bans.remove(x.who(), heard)
}

// Banned tells whether an account or an address is kept out, for servers of other protocols.
func (b *Broker) Banned(principal string, a netip.Addr) bool {
	now := b.o.Now()
	return b.bans.principal(now, principal, "") || b.bans.address(now, a)
}

// BanOf is the ban of whom x names, if there is one.
func (b *Broker) BanOf(x Ban) (Ban, bool) {
	l := &b.bans
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(b.o.Now())
	have, banned := l.list[x.who()]
	return have, banned
}

// Bans lists who is banned, the latest first.
func (b *Broker) Bans() []Ban {
	l := &b.bans
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(b.o.Now())
	list := make([]Ban, 0, len(l.list))
	for _, x := range l.list {
		list = append(list, x)
	}
	slices.SortFunc(list, func(x, y Ban) int {
		return cmp.Or(y.Since.Compare(x.Since), cmp.Compare(x.Client, y.Client), cmp.Compare(x.Principal, y.Principal), cmp.Compare(x.Network.String(), y.Network.String()))
	})
	return list
}

// restoreBans takes over those of an earlier run.
func (b *Broker) restoreBans(list []Ban) {
	now := b.o.Now()
	for _, x := range list {
		if x.over(now) {
			continue
		}
		err := x.check()
		if err == nil {
			err = b.bans.add(now, x, false)
		}
		if err != nil {
			b.samples.warn("a ban of an earlier run is not in force", "error", err)
		}
	}
}

const textBanned = "banned"

var faultBanned = &fault{packet.Banned, textBanned}

// within tells whether a connection with a session is one of those that x keeps out. One that has none yet asks itself.
func (c *conn) within(x *Ban) bool {
	c.mu.Lock()
	accepted := c.accepted
	c.mu.Unlock()
	if !accepted { // key is still the reader's
		return false
	}
	if !x.Network.IsValid() {
		return (x.Client == "" || c.key.ClientID == x.Client) && (x.Principal == "" || c.key.Principal == x.Principal)
	}
	a := address(c.nc.RemoteAddr())
	return a.IsValid() && x.Network.Contains(a)
}

// bannedBefore is asked before anything is spent on a CONNECT.
func (c *conn) bannedBefore(clientID string) bool {
	l := &c.b.bans
	if !l.some.Load() {
		return false
	}
	now := c.b.o.Now()
	return l.client(now, clientID) || l.address(now, address(c.nc.RemoteAddr()))
}

// bannedSince is asked when the session is there.
func (c *conn) bannedSince() bool {
	return c.b.bans.some.Load() && (c.bannedBefore(c.key.ClientID) || c.b.bans.principal(c.b.o.Now(), c.key.Principal, c.key.ClientID))
}

// endBanned sends away who is connected. DISCONNECT has no code for it: 0x8A is CONNACK's.
func (c *conn) endBanned() {
	c.endAs(packet.AdministrativeAction, textBanned, label(packet.Banned))
}
