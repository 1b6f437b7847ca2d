package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// peers are the brokers beside Millrace, as far as they are there: Mosquitto as the system has it, the others as scripts/bench builds
// them. None may drop for want of a limit, and each keeps what it can of what it ships with; BENCHMARKS.md says what that means.
func findPeers(dir string) (found []kind, missing []string) {
	if path := mosquittoPath(); path != "" {
		found = append(found, mosquitto(path))
	} else {
		missing = append(missing, "mosquitto")
	}
	for _, p := range []struct {
		file string
		kind func(path string) kind
	}{{"mochi", mochi}, {"nats-server", func(path string) kind { return nats("nats", path, "") }}} {
		path, err := filepath.Abs(filepath.Join(dir, p.file))
		if _, statErr := os.Stat(path); err != nil || statErr != nil {
			missing = append(missing, p.file)
			continue
		}
		found = append(found, p.kind(path))
		if p.file == "nats-server" {
			found = append(found, nats(natsSynced, path, "  sync_interval: always\n"))
		}
	}
	return found, missing
}

// natsSynced is NATS with an fsync before each ack, as Millrace has; it runs only where that is compared.
const natsSynced = "nats, sync_interval: always"

func mosquittoPath() string {
	for _, name := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// write puts a configuration into the server's folder.
func (s *server) write(name, text string) (path string, err error) {
	path = filepath.Join(s.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// mosquitto runs with persistence on as it ships and no limits on queues, as in peers' published comparisons.
func mosquitto(path string) kind {
	return kind{name: "mosquitto", command: func(s *server) (string, []string, error) {
		_, port, _ := net.SplitHostPort(s.mqtt)
		conf := "listener " + port + " 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location " + s.dir + "/\n" +
			"max_queued_messages 0\nmax_queued_bytes 0\nmax_inflight_messages 0\nlog_dest none\nset_tcp_nodelay true\nuser root\n"
		if a := s.secure; a != nil {
			conf += "cafile " + a.ca + "\ncertfile " + a.cert + "\nkeyfile " + a.key + "\nrequire_certificate true\n"
		}
		file, err := s.write("mosquitto.conf", conf)
		return path, []string{"-c", file}, err
	}}
}

// mochi has its defaults, and limits with which it does not drop what others do not (peers/mochi).
func mochi(path string) kind {
	return kind{name: "mochi", command: func(s *server) (string, []string, error) {
		args := []string{"-listen", s.mqtt}
		if a := s.secure; a != nil {
			args = append(args, "-cert", a.cert, "-key", a.key, "-client-ca", a.ca)
		}
		return path, args, nil
	}}
}

// nats has JetStream on disk, as its MQTT needs.
func nats(name, path, jetstream string) kind {
	return kind{name: name, command: func(s *server) (string, []string, error) {
		secure := ""
		if a := s.secure; a != nil {
			secure = "  tls { cert_file: \"" + a.cert + "\", key_file: \"" + a.key + "\", ca_file: \"" + a.ca + "\", verify: true }\n"
		}
		file, err := s.write("nats.conf", "listen: "+s.kafka+"\nserver_name: bench\nmax_connections: 250000\n"+
			"jetstream {\n  store_dir: \""+s.dir+"/js\"\n  max_mem: 4G\n  max_file: 20G\n"+jetstream+"}\n"+
			"mqtt {\n  listen: \""+s.mqtt+"\"\n  max_ack_pending: 65535\n"+secure+"}\n")
		return path, []string{"-c", file}, err
	}}
}

// millrace runs as it ships, or with a configuration and further flags.
func millrace(name, path, config string, flags ...string) kind {
	return kind{name: name, command: func(s *server) (string, []string, error) {
		args := []string{"serve", "--data", filepath.Join(s.dir, "data"), "--kafka-listen", s.kafka, "--http-listen", s.http}
		conf := config
		if a := s.secure; a != nil {
			conf += "listeners:\n  mqtt:\n    - {bind: \"" + s.mqtt + "\", tls: {cert: " + a.cert + ", key: " + a.key + ", client_ca: " + a.ca + "}}\n"
		} else {
			args = append(args, "--mqtt-listen", s.mqtt)
		}
		if conf != "" {
			file, err := s.write("millrace.yaml", conf)
			if err != nil {
				return "", nil, err
			}
			args = append(args, "--config", file)
		}
		return path, append(args, flags...), nil
	}}
}

// named picks kinds by their names; all, without names.
func named(kinds []kind, names string) []kind {
	if names == "" {
		return kinds
	}
	var picked []kind
	for _, k := range kinds {
		first, _, _ := strings.Cut(k.name, ",")
		for name := range strings.SplitSeq(names, ",") {
			if name == first {
				picked = append(picked, k)
			}
		}
	}
	return picked
}
