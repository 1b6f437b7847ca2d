package app

import (
	"fmt"
	"net"

	"github.com/millrace-io/millrace/console"
)

// Status says whether the node does its work, and if not, why.
func (n *Node) Status() console.Status {
	st := console.Status{Version: n.o.Version}
	if phase := n.phase.Load(); phase != nil {
		st.Checks = []console.Check{{Name: "running", Detail: "not yet: " + *phase}}
		if n.stopping() {
			st.Checks[0].Detail = "stopping"
		}
		return st
	}
	st.Warnings = n.warnings() // of parts that are all there now, and not before
	log := console.Check{Name: "log", OK: true, Detail: "embedded"}
	if n.cluster != nil {
		log = n.clusterCheck()
	}
	if absent, all := n.absent(); n.cluster == nil && len(absent) > 0 {
		log.OK, log.Detail = !all, "embedded; publishers wait: "+absence(absent[0])
	}
	if err := n.health(); err != nil {
		log.OK, log.Detail = false, err.Error()
	}
	sessions := console.Check{Name: "sessions", OK: n.broker.Ready(), Detail: "restored"}
	if !sessions.OK {
		sessions.Detail = "the log is replayed; clients wait"
	}
	st.Checks = []console.Check{{Name: "running", OK: true}, log, sessions}
	st.Ready = log.OK && sessions.OK
	if e := n.broker.Evacuation(); e.Active {
		st.Ready = false
		st.Checks = append(st.Checks, console.Check{Name: "clients", Detail: fmt.Sprintf("none are let in: %d were sent away, %d are left", e.Told, e.Left)})
	}
	return st
}

// warnings names what is weaker than the default because somebody asked for it, and what of the log is damaged.
func (n *Node) warnings() (ws []string) {
	if n.o.Config.InsecureAllowAnonymous {
		what := "publish, subscribe, read and administer"
		if n.rights.policy.Load() != nil {
			what = "do what the policy allows to anonymous, and read and administer"
		}
		ws = append(ws, "insecure_allow_anonymous: everybody who reaches a listener may "+what)
	}
	ws = append(ws, n.accessWarnings()...)
	ws = append(ws, n.authWarnings()...)
	ws = append(ws, n.tlsWarnings()...)
	ws = append(ws, n.policyWarnings()...)
	ws = append(ws, n.damageWarnings()...)
	ws = append(ws, n.transactionWarnings()...)
	ws = append(ws, n.schemaWarnings()...)
	for i, r := range n.o.Config.Routes {
		if r.Ack == "memory" {
			ws = append(ws, fmt.Sprintf("routes[%d] (%s): ack: memory: acknowledged messages survive a crash of the program, not a power cut", i, r.MQTT))
		}
		if r.Spill {
			ws = append(ws, fmt.Sprintf("routes[%d] (%s): spill: true: acknowledged messages are on this machine's disk, and in the cluster later", i, r.MQTT))
		}
		if r.Store != nil && !*r.Store {
			ws = append(ws, fmt.Sprintf("routes[%d] (%s): store: false: messages are acknowledged without a receipt, and kept nowhere", i, r.MQTT))
		}
	}
	return ws
}

// announce says, once, what the node is and where.
func (n *Node) announce() {
	log := n.o.Logger
	for _, d := range n.doors {
		log.Info("listening", "protocol", string(d.kind), "address", d.listener.Addr().String())
	}
	log.Info("millrace is running", "version", n.o.Version, "mqtt_connections_at_most", n.budget.mqtt, "file_limit", n.budget.limit)
	for _, w := range n.warnings() {
		log.Warn(w)
	}
	if p := n.rights.policy.Load(); p != nil && !p.SpeaksOfLog() && len(n.doorsOf(doorKafka)) > 0 {
		log.Info("no rule of the policy speaks of log topics, so Kafka clients may do nothing but what ACLs allow: write rules with log_topics (docs/authorisation.md)")
	}
}

// consoleStatus is the status with the doors.
func (n *Node) consoleStatus() console.Status {
	st := n.Status()
	for _, d := range n.doors {
		does, try := n.try(&d)
		st.Doors = append(st.Doors, console.Door{Protocol: string(d.kind), Address: d.listener.Addr().String(), Does: does, Try: try})
	}
	if len(n.o.Config.Log.Kafka) > 0 {
		st.Doors = append(st.Doors, n.clusterDoor())
	}
	return st
}

// try is a line that uses the door, to be pasted into a terminal, and what it does.
func (n *Node) try(d *door) (does, line string) {
	host, port, _ := net.SplitHostPort(d.listener.Addr().String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() { // every address of the machine: this one too
		host = "127.0.0.1"
	}
	switch d.kind {
	case doorMQTT, doorWS:
		return d.tryMQTT()
	case doorKafka:
		return d.tryKafka()
	case doorRegistry:
		return d.tryRegistry()
	default:
		scheme, token := "http", ""
		if d.certs != nil {
			scheme = "https"
		}
		if n.access.passwords != nil {
			token = "-H 'Authorization: Bearer TOKEN' "
		}
		return "read the pipeline, as any program does", "curl -s " + token + scheme + "://" + net.JoinHostPort(host, port) + "/api/v1/pipeline"
	}
}
