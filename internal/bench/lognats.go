package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// natsProducer is peers/natslog.
func natsProducer(peers string) (string, error) {
	path, err := filepath.Abs(filepath.Join(peers, "natslog"))
	if err != nil {
		return "", err
	}
	_, err = os.Stat(path)
	return path, err
}

// jetStream is NATS with its streams on files, each message synced before its acknowledgement, and nothing else.
func jetStream(path string) kind {
	return kind{name: natsStreams, address: func(s *server) string { return s.kafka }, command: func(s *server) (string, []string, error) {
		file, err := s.write("nats.conf", "listen: "+s.kafka+"\nserver_name: bench\n"+
			"jetstream {\n  store_dir: \""+s.dir+"/js\"\n  max_mem: 4G\n  max_file: 20G\n  sync_interval: always\n}\n")
		return path, []string{"-c", file}, err
	}}
}

// publish runs a cell on NATS: a stream for each partition, and at most 1,024 records that are not acknowledged.
func (l *logBench) publish(s *logServer, c produceCell, at pace) (p produced, err error) {
	path, err := natsProducer(l.peersDir)
	if err != nil {
		return p, err
	}
	settle()
	cmd := exec.CommandContext(interrupted, path, "-address", s.kafka, "-size", strconv.Itoa(c.size), "-producers", strconv.Itoa(c.producers),
		"-streams", strconv.Itoa(c.partitions), "-keys", strconv.Itoa(deviceKeys), "-warm", at.warm.String(), "-window", at.window.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return p, err
	}
	if err := cmd.Start(); err != nil {
		return p, err
	}
	var from time.Duration
	var saw struct {
		Count, Acked, Failed, Stored int64
		Elapsed                      time.Duration
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch text := lines.Text(); text {
		case "begin":
			from = s.cpu()
		case "end":
			p.cpu = s.cpu() - from
		default:
			if err := json.Unmarshal([]byte(text), &saw); err != nil {
				return p, err
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		return p, fmt.Errorf("%s, %v: %w", s.kind.name, c, err)
	}
	if saw.Failed > 0 || saw.Stored != saw.Acked {
		return p, fmt.Errorf("%s, %v: %d records were acknowledged, %d refused, the streams have %d", s.kind.name, c, saw.Acked, saw.Failed, saw.Stored)
	}
	p.records, p.size, p.elapsed = saw.Count, c.size, saw.Elapsed
	return p, nil
}
