package console

import (
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Bans and the sending away of all clients.

func (s *Server) bans(r *http.Request) (answer, error) {
	m, _, _, cancel, err := s.broker(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	return answer{body: Bans{Bans: listed(m.Bans())}}, nil
}

func (s *Server) ban(r *http.Request, v visitor) (answer, error) {
	m, _, _, cancel, err := s.broker(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	var n NewBan
	if err := readBody(r, &n); err != nil {
		return answer{}, err
	}
	b, err := banned(n.Client, n.Principal, n.Network)
	if err != nil {
		return answer{}, err
	}
	now := s.o.Now()
	b.Since, b.Reason, b.By = millis(now), n.Reason, v.who.Name
	if len(n.Reason) > 256 {
		return answer{}, problem(http.StatusBadRequest, "the reason has more than 256 bytes")
	}
	if n.For != "" {
		d, err := time.ParseDuration(n.For)
		if err != nil || d <= 0 {
			return answer{}, problem(http.StatusBadRequest, `"for" is not a time like 30m or 24h; without it the ban holds until it is lifted`)
		}
		b.Until = new(millis(now.Add(d)))
	}
	if err := m.Ban(b); err != nil {
		return answer{}, err
	}
	return answer{body: b}, nil
}

// banned is a ban of exactly one of the three.
func banned(id, principal, network string) (b Ban, err error) {
	set := 0
	for _, v := range []string{id, principal, network} {
		if v != "" {
			set++
		}
	}
	if set != 1 {
		return b, problem(http.StatusBadRequest, "name exactly one of client, principal and network")
	}
	if network != "" {
		text := network
		if !strings.Contains(text, "/") {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return b, problem(http.StatusBadRequest, "the network is neither an address nor one with a length, like 192.0.2.0/24")
			}
			text = netip.PrefixFrom(a, a.BitLen()).String()
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return b, problem(http.StatusBadRequest, "the network is neither an address nor one with a length, like 192.0.2.0/24")
		}
		if a := p.Addr(); a.Is4In6() { // addresses are compared as IPv4
			if p.Bits() < 96 {
				return b, problem(http.StatusBadRequest, "an IPv4 network that is written as IPv6 has a length of 96 or more; write it as 192.0.2.0/24, and all of IPv4 as 0.0.0.0/0")
			}
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		network = p.Masked().String()
	}
	return Ban{Client: id, Principal: principal, Network: network}, nil
}

var unbanParams = []param{
	{"client", "query", "string", "the client id that was banned, or"},
	{"principal", "query", "string", "the account, or"},
	{"network", "query", "string", "the network"},
}

func (s *Server) unban(r *http.Request, _ visitor) (answer, error) {
	m, q, _, cancel, err := s.broker(r, unbanParams)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	b, err := banned(q["client"], q["principal"], q["network"])
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, m.Unban(b)
}

func (s *Server) drained(r *http.Request) (answer, error) {
	m, _, _, cancel, err := s.broker(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	return answer{body: m.Drained()}, nil
}

const maxReference = 1024 // bytes of a server reference

func (s *Server) drain(r *http.Request, _ visitor) (answer, error) {
	m, _, _, cancel, err := s.broker(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	n := NewDrain{Rate: 500}
	if r.ContentLength != 0 {
		if err := readBody(r, &n); err != nil {
			return answer{}, err
		}
	}
	if n.Rate < 0 || len(n.Server) > maxReference || strings.ContainsFunc(n.Server, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return answer{}, problem(http.StatusBadRequest, "the rate is below 0, or the server is no host:port")
	}
	if err := m.Drain(n.Server, n.Rate); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusAccepted, body: m.Drained()}, nil
}

func (s *Server) admitClients(r *http.Request, _ visitor) (answer, error) {
	m, _, _, cancel, err := s.broker(r, nil)
	if err != nil {
		return answer{}, err
	}
	defer cancel()
	return answer{status: http.StatusNoContent}, m.Admit()
}
