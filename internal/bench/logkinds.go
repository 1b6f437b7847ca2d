package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The names of the servers in the tables.
const (
	namedKafka  = "kafka"
	kafkaSynced = "kafka, fsync per batch"
	natsStreams = "nats, sync always"
)

// logKind is a server with a log.
type logKind struct {
	kind
	java, nats bool
}

// logKinds are the servers side by side, as far as they are there.
func logKinds(b *bench) (found []logKind, missing []string) {
	for _, k := range b.ours {
		found = append(found, logKind{kind: k})
	}
	lib, err := kafkaLib()
	if err != nil {
		missing = append(missing, fmt.Sprintf("Apache Kafka (%v)", err))
	} else {
		found = append(found, logKind{kind: apacheKafka(namedKafka, lib, ""), java: true},
			logKind{kind: apacheKafka(kafkaSynced, lib, "log.flush.interval.messages=1\n"), java: true})
	}
	server, err := filepath.Abs(filepath.Join(b.onLog.peersDir, "nats-server"))
	if err == nil {
		_, err = os.Stat(server)
	}
	if err == nil {
		_, err = natsProducer(b.onLog.peersDir)
	}
	if err != nil {
		missing = append(missing, fmt.Sprintf("NATS (%v)", err))
	} else {
		found = append(found, logKind{kind: jetStream(server), nats: true})
	}
	if b.kinds == "" {
		return found, missing
	}
	return slices.DeleteFunc(found, func(k logKind) bool { return len(named([]kind{k.kind}, b.kinds)) == 0 }), nil
}

// kafkaLib is the folder that scripts/kafka has fetched Apache Kafka into.
func kafkaLib() (string, error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", err
	}
	done, err := filepath.Glob(filepath.Join(os.Getenv("KAFKA_LIB"), "lib-*", "complete"))
	if err != nil || len(done) == 0 {
		return "", fmt.Errorf("scripts/kafka has not fetched it into %q", os.Getenv("KAFKA_LIB"))
	}
	return filepath.Dir(done[len(done)-1]), nil
}

// versions says what is measured.
func (b *bench) versions() string {
	first := func(path string, args ...string) string {
		out, err := exec.CommandContext(interrupted, path, args...).CombinedOutput()
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if err != nil {
			return fmt.Sprintf("%s: %v", path, err)
		}
		return line
	}
	said := first(b.bin, "version")
	if lib, err := kafkaLib(); err == nil {
		said += "; Apache Kafka " + strings.TrimPrefix(filepath.Base(lib), "lib-") + " on " + first("java", "-version")
	}
	if path, err := filepath.Abs(filepath.Join(b.onLog.peersDir, "nats-server")); err == nil {
		said += "; " + first(path, "--version")
	}
	return said
}

// javaServer has the options that Kafka's own kafka-server-start.sh gives, its heap included.
var javaServer = []string{"-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
	"-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15", "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"}

// apacheKafka is one broker, its own controller, with the settings of the server.properties that it ships with and more, line by line. Files of deleted topics
// go at once instead of after a minute: what they hold is in the next load's way otherwise.
func apacheKafka(name, lib, more string) kind {
	return kind{name: name, starts: restartLimit, address: func(s *server) string { return s.kafka }, command: func(s *server) (string, []string, error) {
		java, err := exec.LookPath("java")
		if err != nil {
			return "", nil, err
		}
		data := filepath.Join(s.dir, "data")
		file, err := s.write("server.properties", fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://%[1]s,CONTROLLER://%[2]s
advertised.listeners=PLAINTEXT://%[1]s
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=%[3]s
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
num.partitions=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
log.segment.delete.delay.ms=0
%[4]s`, s.kafka, s.http, data, more))
		if err != nil {
			return "", nil, err
		}
		if _, err := os.Stat(filepath.Join(data, "meta.properties")); err != nil {
			out, err := exec.CommandContext(interrupted, java, "-cp", lib+"/*", "kafka.tools.StorageTool", "format", "-t", "millraceBenchLogAAAAAA", "-c", file).CombinedOutput()
			if err != nil {
				return "", nil, fmt.Errorf("format %s: %w: %s", data, err, out)
			}
		}
		return java, append(slices.Clone(javaServer), "-cp", lib+"/*", "kafka.Kafka", file), nil
	}}
}
