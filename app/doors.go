package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"github.com/millrace-io/millrace/config"
)

type doorKind string

const (
	doorMQTT  doorKind = "MQTT"
	doorKafka doorKind = "Kafka"
	doorHTTP  doorKind = "HTTP"
)

// door is one listener.
type door struct {
	kind      doorKind
	path      string // in the configuration
	flag      string // that sets it
	listener  net.Listener
	advertise string
}

// listen takes all addresses. Nobody is answered yet.
func (n *Node) listen(ctx context.Context) (err error) {
	l := &n.o.Config.Listeners
	for i, m := range l.MQTT {
		err = errors.Join(err, n.take(door{kind: doorMQTT, path: fmt.Sprintf("listeners.mqtt[%d]", i), flag: "--mqtt-listen"}, m.Bind))
	}
	if len(n.o.Config.Log.Kafka) == 0 {
		for i, k := range l.Kafka {
			err = errors.Join(err, n.take(door{kind: doorKafka, path: fmt.Sprintf("listeners.kafka[%d]", i), flag: "--kafka-listen",
				advertise: string(k.Advertise)}, k.Bind))
		}
	}
	if l.HTTP.Bind != "" {
		err = errors.Join(err, n.take(door{kind: doorHTTP, path: "listeners.http", flag: "--http-listen"}, l.HTTP.Bind))
	}
	if err != nil {
		err = errors.Join(err, n.unlisten(ctx))
	}
	return err
}

func (n *Node) take(d door, a config.Address) (err error) {
	if d.listener, err = n.o.Listen("tcp", string(a)); err != nil {
		return doorError(d, a, err)
	}
	n.doors = append(n.doors, d)
	return nil
}

// doorError says why an address cannot be listened on, and what to do, in one line.
func doorError(d door, a config.Address, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s (%s) is taken by another program: stop it, or choose another address with %s", a, d.path, d.flag)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s (%s) needs a privilege to listen on: choose a port from 1024 on with %s", a, d.path, d.flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s (%s) is not an address of this machine: choose one with %s", a, d.path, d.flag)
	}
	return fmt.Errorf("listen on %s (%s): %w", a, d.path, err)
}

// unlisten closes what the servers have not closed.
func (n *Node) unlisten(context.Context) error {
	for _, d := range n.doors {
		d.listener.Close()
	}
	return nil
}

func (n *Node) doorsOf(kind doorKind) (ds []door) {
	for _, d := range n.doors {
		if d.kind == kind {
			ds = append(ds, d)
		}
	}
	return ds
}

// Address is the first address of a kind ("MQTT", "Kafka", "HTTP") that the node listens on, or "".
func (n *Node) Address(kind string) string {
	for _, d := range n.doorsOf(doorKind(kind)) {
		return d.listener.Addr().String()
	}
	return ""
}
