package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/config"
	"github.com/millrace-io/millrace/metrics"
	"github.com/millrace-io/millrace/mqtt/broker"
	"github.com/millrace-io/millrace/mqtt/session"
	"github.com/millrace-io/millrace/policy"
)

// rights is who may do what, for as long as the node runs: the broker asks it, and a policy file that changes replaces what it says.
type rights struct {
	policy   atomic.Pointer[policy.Policy] // nil: there is none, and everything is allowed
	epoch    atomic.Uint64                 // counts policies
	unusable atomic.Int64                  // decisions in which a rule did not count for a client's hostile name
	reloads  atomic.Int64

	mu    sync.Mutex
	sum   [32]byte // of the policy file that was compiled last
	err   error    // from that
	wrong string   // with the file as it is now; "": it is in force
}

const (
	maxPolicyFile = 2 << 20
	lookAtPolicy  = 2 * time.Second
)

// Allowed answers the broker. Sessions are known by their account, whatever they have shown to come in.
func (r *rights) Allowed(k session.Key, a broker.Action, topicOrFilter string) bool {
	right := policy.Subscribe
	if a == broker.Publish {
		right = policy.Publish
	}
	v := r.policy.Load().Decide(policy.Subject{Account: k.Principal, Client: k.ClientID}, right, topicOrFilter)
	if v.Unusable {
		r.unusable.Add(1)
	}
	return v.Allowed
}

// authorizer is what the broker asks; nil: nothing is asked.
func (n *Node) authorizer() broker.Authorizer {
	if n.rights.policy.Load() == nil {
		return nil
	}
	return &n.rights
}

// openPolicy makes the policy that the configuration has or names. What cannot be read is no policy, and a node without the policy that it
// was given does not start.
func (n *Node) openPolicy(context.Context) error {
	p, text, err := loadPolicy(n.o.Config)
	if err != nil {
		return err
	}
	n.rights.policy.Store(p)
	n.rights.sum = sha256.Sum256([]byte(text))
	return nil
}

// CheckPolicy finds what is wrong with a policy, in its file too. The error is config.Problems.
func CheckPolicy(c *config.Config) error {
	_, _, err := loadPolicy(c)
	return err
}

// Policy compiles the policy of a configuration; nil: there is none, and everything is allowed. The error is config.Problems.
func Policy(c *config.Config) (*policy.Policy, error) {
	p, _, err := loadPolicy(c)
	return p, err
}

// loadPolicy compiles the policy of a configuration. text is that of its file, if it has one.
func loadPolicy(c *config.Config) (p *policy.Policy, text string, err error) {
	if !c.Policy.Configured() {
		return nil, "", nil
	}
	file := string(c.Policy.File)
	if file == "" {
		p, err = compilePolicy(c)
		return p, "", err
	}
	if text, err = readPolicyFile(file); err != nil {
		return nil, "", config.Problems{{Where: c.Where("policy.file"), Path: "policy.file", Text: "cannot be read: " + err.Error()}}
	}
	p, err = parsePolicy(text, file)
	return p, text, err
}

func readPolicyFile(name string) (string, error) {
	b, err := readSmall(name, maxPolicyFile)
	if err == nil && len(b) > maxPolicyFile {
		err = errors.New("the file is too large")
	}
	return string(b), err
}

func parsePolicy(text, name string) (*policy.Policy, error) {
	c, err := config.ParsePolicy(text, name)
	if err != nil {
		return nil, err
	}
	return compilePolicy(c)
}

// rightsOf are what the configuration's words mean.
var rightsOf = map[string]policy.Rights{
	"publish": policy.Of(policy.Publish), "subscribe": policy.Of(policy.Subscribe),
	"read": policy.Of(policy.Read), "write": policy.Of(policy.Write), "manage": policy.Of(policy.Manage), "all": policy.All,
}

// compilePolicy translates, and says where in the configuration a problem is.
func compilePolicy(c *config.Config) (*policy.Policy, error) {
	rs := policy.Rules{Allow: c.Policy.Default == "allow", Groups: c.Policy.Groups}
	for i, r := range c.Policy.Rules {
		rs.Rules = append(rs.Rules, policy.Rule{Who: r.Who, Deny: r.Deny != "", Rights: rightsOf[r.Allow+r.Deny], Topics: r.Topics,
			LogTopics: r.LogTopics, ConsumerGroups: r.ConsumerGroups, TransactionalIDs: r.TransactionalIDs, SchemaSubjects: r.SchemaSubjects, Cluster: r.Cluster,
			Where: c.Where(fmt.Sprintf("policy.rules[%d]", i))})
	}
	p, err := policy.Compile(rs)
	var wrong policy.Problems
	if errors.As(err, &wrong) {
		ps := make(config.Problems, len(wrong))
		for i, w := range wrong {
			path := "policy." + w.Path
			ps[i] = config.Problem{Where: c.Where(path), Path: path, Text: w.Text, Fix: w.Fix}
		}
		return nil, ps
	}
	return p, err
}

// reloadPolicy takes over a changed policy file. One that is wrong, or cannot be read, is not taken: what was in force stays.
func (n *Node) reloadPolicy() {
	r := &n.rights
	file := string(n.o.Config.Policy.File)
	if file == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	text, err := readPolicyFile(file)
	if err == nil {
		err = n.takePolicy(text, file)
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	if why != r.wrong && why != "" {
		n.o.Logger.Error("the policy file as it is now is not in force, what was read before is", "err", err)
	}
	r.wrong = why
}

// takePolicy puts the text of a policy file in force, unless it is the one that was looked at last. Under rights.mu.
func (n *Node) takePolicy(text, file string) error {
	r := &n.rights
	sum := sha256.Sum256([]byte(text))
	if sum == r.sum {
		return r.err
	}
	p, err := parsePolicy(text, file)
	r.sum, r.err = sum, err
	if err != nil {
		return err
	}
	r.policy.Store(p)
	r.epoch.Add(1)
	r.reloads.Add(1)
	n.broker.PolicyChanged()
	n.o.Logger.Info("the policy file has changed, and is in force", "file", file)
	return nil
}

// followPolicy looks at the policy file while the node runs.
func (n *Node) followPolicy(context.Context) error {
	if n.o.Config.Policy.File == "" {
		return nil
	}
	n.running.Go(func() {
		look := time.NewTicker(lookAtPolicy)
		defer look.Stop()
		for {
			select {
			case <-look.C:
				n.reloadPolicy()
			case <-n.quit:
				return
			}
		}
	})
	return nil
}

func (n *Node) policyWarnings() []string {
	ws := policyWarnings(n.o.Config, n.rights.policy.Load())
	n.rights.mu.Lock()
	defer n.rights.mu.Unlock()
	if n.rights.wrong != "" {
		ws = append(ws, "policy.file: the file as it is now is not in force: "+n.rights.wrong)
	}
	return ws
}

// Warnings name what a configuration leaves open that it should perhaps not.
func Warnings(c *config.Config) []string {
	p, err := Policy(c)
	if err != nil {
		return nil // a configuration that is wrong has other worries
	}
	return policyWarnings(c, p)
}

// policyWarnings are about listeners that other machines reach; p: the policy, nil if there is none.
func policyWarnings(c *config.Config, p *policy.Policy) (ws []string) {
	for _, l := range [...]struct {
		path string
		list []config.MQTT
	}{{"listeners.mqtt", c.Listeners.MQTT}, {"listeners.ws", c.Listeners.WS}} {
		for i := range l.list {
			m := &l.list[i]
			switch {
			case m.Address(l.path == "listeners.ws").Loopback():
			case p == nil:
				ws = append(ws, fmt.Sprintf("%s[%d]: whoever is let in may publish and subscribe to everything: write a policy (docs/authorisation.md)", l.path, i))
			case p.ByClient() && !m.BoundClientIDs():
				ws = append(ws, fmt.Sprintf("%s[%d]: clients choose their client ids, and the policy goes by ${client}: write ${account} in its rules, or client_id: bound here", l.path, i))
			}
		}
	}
	for i, k := range c.Listeners.Kafka {
		if p == nil && !k.Bind.Loopback() && len(c.Log.Kafka) == 0 {
			ws = append(ws, fmt.Sprintf("listeners.kafka[%d]: whoever is let in may read, write and administer everything: write a policy (docs/authorisation.md)", i))
		}
	}
	return ws
}

func (n *Node) collectPolicy(s *metrics.Samples) {
	b := n.broker.Stats()
	for action, denied := range map[string]int64{
		"publish": b.Denied["publish"], "subscribe": b.Denied["subscribe"], "receive": b.Dropped[session.DropDenied],
		"will": b.Denied["will"] + b.Dropped[session.DropWillDenied],
	} {
		s.Counter("mqtt_authz", "Decisions on what clients may do. Only denials are counted here: what was allowed is counted where it went on.",
			float64(denied), "action", action, "result", "denied")
	}
	s.Counter("mqtt_authz_unusable_names", "Decisions in which a rule did not count, since the client's name has a wildcard or a slash.", float64(n.rights.unusable.Load()))
	if n.o.Config.Policy.File == "" {
		return
	}
	n.rights.mu.Lock()
	wrong := n.rights.wrong != ""
	n.rights.mu.Unlock()
	s.Counter("policy_reloads", "Changed policy files that came into force.", float64(n.rights.reloads.Load()))
	in := 1.0
	if wrong {
		in = 0
	}
	s.Gauge("policy_file_in_force", "1 while the policy file as it is now is what is in force.", in)
}
