package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Network is how a device is connected, and how right its clock is. Durations are of a run at speed 1; a faster run has coverage come
// and go as much faster, while latency, bandwidth and clocks stay as they are.
//
// A connection without coverage is not closed: what either side writes vanishes, as it does when a device drives into a tunnel or gets
// another address. The server hears nothing of it; the device notices when an answer stays out for Patience. What it samples meanwhile
// waits on the device and is sent afterwards in order.
type Network struct {
	Name            string
	Latency, Jitter time.Duration // one way, each packet: Latency, and up to Jitter more
	Stall           float64       // share of packets before which the radio stalls
	StallFor        Span
	Up, Down        int     // bytes per second; 0: no limit
	Covered         Span    // how long there is coverage at a stretch; zero: always
	Away            Span    // how long there is none then
	Long            float64 // share of the times away that are LongAway instead
	LongAway        Span
	Patience        time.Duration // see ClientOptions
	Skew            time.Duration // the device's clock is off by up to this
	Drift           float64       // and goes wrong by up to this much more, as a part of the time that passes
	Jump            float64       // share of the new coverages that set the clock wrong, until the next
	JumpBy          time.Duration // by up to this
}

// Span is from and to; what is in between is drawn evenly.
type Span struct{ From, To time.Duration }

func (s Span) draw(r *rand.Rand) time.Duration {
	return s.From + time.Duration(r.Float64()*float64(s.To-s.From))
}

// Networks are the ones that have a name.
var Networks = []Network{
	{Name: "good", Latency: 12 * time.Millisecond, Jitter: 6 * time.Millisecond, Patience: 20 * time.Second, Skew: 50 * time.Millisecond},
	{Name: "3g", Latency: 70 * time.Millisecond, Jitter: 80 * time.Millisecond, Stall: 0.01, StallFor: Span{time.Second, 4 * time.Second},
		Up: 40 << 10, Down: 150 << 10, Covered: Span{2 * time.Minute, 20 * time.Minute}, Away: Span{3 * time.Second, 20 * time.Second},
		Patience: 20 * time.Second, Skew: time.Second, Drift: 20e-6},
	{Name: "tunnel", Latency: 40 * time.Millisecond, Jitter: 20 * time.Millisecond, Up: 1 << 20, Down: 4 << 20,
		Covered: Span{2 * time.Minute, 8 * time.Minute}, Away: Span{time.Minute, 5 * time.Minute},
		Patience: 10 * time.Second, Skew: time.Second, Drift: 20e-6},
	{Name: "roaming", Latency: 110 * time.Millisecond, Jitter: 90 * time.Millisecond, Stall: 0.002, StallFor: Span{time.Second, 4 * time.Second},
		Up: 200 << 10, Down: 1 << 20, Covered: Span{10 * time.Minute, time.Hour}, Away: Span{2 * time.Second, 15 * time.Second},
		Long: 0.2, LongAway: Span{time.Hour, 8 * time.Hour}, Patience: 15 * time.Second, Skew: 3 * time.Second, Drift: 50e-6,
		Jump: 0.25, JumpBy: 2 * time.Hour},
}

// NetworkNamed returns a copy of one of Networks.
func NetworkNamed(name string) (*Network, bool) {
	for i := range Networks {
		if Networks[i].Name == name {
			n := Networks[i]
			return &n, true
		}
	}
	return nil, false
}

// patience of a run that is faster. It stays above what latency alone makes of it.
func (n *Network) patience(speed float64) time.Duration {
	if n.Patience == 0 {
		return 0
	}
	slowest := 4*(n.Latency+n.Jitter) + 2*n.StallFor.To
	return max(time.Duration(float64(n.Patience)/max(speed, 1)), slowest)
}

// coverage is one device's place in its network: when it has one, what its clock says, and the connection that nobody closed. Two
// runs with the same seed and device have the same. A nil coverage is always there, and its clock is right.
type coverage struct {
	n     *Network
	speed float64
	start time.Time

	mu     sync.Mutex
	rng    *rand.Rand
	spells []spell       // the last of them
	gone   int           // those before
	healed chan struct{} // closed: there is coverage from now on
	over   time.Time     // when that was
	radio  *radio        // the last connection
	skew   time.Duration
	drift  float64
	buried net.Conn
	dice   *rand.Rand     // of latencies: what is drawn for them does not shift the spells
	radios sync.WaitGroup // what they have still to deliver
}

// spell is a time of coverage and the time without after it, in the network's time.
type spell struct {
	begin, away, end time.Duration
	jump             time.Duration // of the clock, during it
}

// never is the end of a time that has none.
const never = time.Duration(1<<63 - 1)

func newCoverage(n *Network, speed float64, seed uint64, device string, start time.Time) *coverage {
	rng := rand.New(rand.NewPCG(seed, ContentHash([]byte("network"), []byte(device))))
	c := &coverage{n: n, speed: speed, start: start, rng: rng, healed: make(chan struct{})}
	c.dice = rand.New(rand.NewPCG(rng.Uint64(), 0))
	c.skew = time.Duration((2*rng.Float64() - 1) * float64(n.Skew))
	c.drift = (2*rng.Float64() - 1) * n.Drift
	return c
}

// at returns the number of the spell that a time falls into, and the spell.
func (c *coverage) at(t time.Duration) (int, spell) {
	for len(c.spells) == 0 || c.spells[len(c.spells)-1].end <= t {
		c.spells = append(c.spells, c.next())
	}
	if drop := len(c.spells) - maxSpells; drop > maxSpells {
		c.spells = append(c.spells[:0], c.spells[drop:]...)
		c.gone += drop
	}
	i := len(c.spells) - 1
	for c.spells[i].begin > t && i > 0 {
		i--
	}
	return c.gone + i, c.spells[i]
}

// maxSpells is how many are kept at least: who asks for an earlier time gets the earliest of them.
const maxSpells = 128

func (c *coverage) next() spell {
	if c.n.Covered.To == 0 {
		return spell{away: never, end: never}
	}
	var s spell
	covered := c.n.Covered.draw(c.rng)
	if len(c.spells) > 0 {
		s.begin = c.spells[len(c.spells)-1].end
		if c.rng.Float64() < c.n.Jump {
			s.jump = time.Duration((2*c.rng.Float64() - 1) * float64(c.n.JumpBy))
		}
	} else {
		covered = time.Duration(float64(covered) * c.rng.Float64()) // in the middle of it
	}
	away := c.n.Away
	if c.rng.Float64() < c.n.Long {
		away = c.n.LongAway
	}
	s.away = s.begin + covered
	s.end = s.away + away.draw(c.rng)
	return s
}

// now says which spell it is, whether there is coverage, and, if there is none, for how long still. Once healed, the number is one
// that no spell has, unless there was coverage anyway.
func (c *coverage) now() (number int, covered bool, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := time.Now()
	if !c.over.IsZero() {
		number, s := c.at(c.scaled(c.over))
		if c.scaled(c.over) >= s.away {
			number = -1
		}
		return number, true, 0
	}
	at := c.scaled(t)
	number, s := c.at(at)
	if at < s.away {
		return number, true, 0
	}
	return number, false, time.Duration(float64(s.end-at)/c.speed) + time.Microsecond
}

func (c *coverage) scaled(t time.Time) time.Duration {
	return max(0, time.Duration(float64(t.Sub(c.start))*c.speed))
}

// heal gives the device coverage from now on: the run is over, and what is on its way is to arrive.
func (c *coverage) heal() {
	if c == nil {
		return
	}
	c.mu.Lock()
	r := c.radio
	if c.over.IsZero() {
		c.over = time.Now()
		close(c.healed)
	}
	c.mu.Unlock()
	if r != nil && !r.alive() {
		_ = r.Close() // the device need not find out by itself any more
	}
}

// clock is what the device's clock says at a time.
func (c *coverage) clock(t time.Time) time.Time {
	if c == nil {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, s := c.at(c.scaled(t))
	passed := t.Sub(c.start)
	return t.Add(c.skew + time.Duration(c.drift*float64(passed)) + s.jump)
}

// bury keeps a connection open whose other end is not to hear that it is over: until the next one is buried, or the device's end.
func (c *coverage) bury(conn net.Conn) {
	c.mu.Lock()
	before := c.buried
	c.buried = conn
	c.mu.Unlock()
	if before != nil {
		before.Close()
	}
}

// end waits until what is written is delivered, and closes what nobody has closed.
func (c *coverage) end() {
	if c == nil {
		return
	}
	c.radios.Wait()
	c.bury(nil)
}

// newDice returns randomness for one lane.
func (c *coverage) newDice() *rand.Rand {
	c.mu.Lock()
	defer c.mu.Unlock()
	return rand.New(rand.NewPCG(c.dice.Uint64(), 1))
}

// dialler waits for coverage, then dials.
func (c *coverage) dialler(dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		for {
			spell, covered, wait := c.now()
			if covered {
				conn, err := dial(ctx)
				if err != nil {
					return nil, err
				}
				r := newRadio(conn, c, spell)
				c.mu.Lock()
				c.radio = r
				c.mu.Unlock()
				return r, nil
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-c.healed:
				timer.Stop()
			case <-ctx.Done():
				timer.Stop()
				return nil, fmt.Errorf("no coverage: %w", ctx.Err())
			}
		}
	}
}
