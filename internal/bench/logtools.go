package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// tool runs one of Kafka's own tools to its end.
func tool(class string, args ...string) (out []byte, err error) {
	lib, err := kafkaLib()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(interrupted, "java", append([]string{"-Xmx512M", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", lib + "/*", class}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if out, err = cmd.Output(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", class, err, said.Bytes())
	}
	return out, nil
}

// produceByJava runs ProducerPerformance with its defaults.
func (s *logServer) produceByJava(topic string, size int, records int64) error {
	out, err := tool("org.apache.kafka.tools.ProducerPerformance", "--bootstrap-server", s.kafka, "--topic", topic, "--num-records", strconv.FormatInt(records, 10),
		"--record-size", strconv.Itoa(size), "--throughput", "-1")
	if err == nil && !bytes.Contains(out, fmt.Appendf(nil, "%d records sent", records)) {
		err = fmt.Errorf("ProducerPerformance says: %s", out)
	}
	return err
}

// consumeByJava runs ConsumerPerformance; the time is what it says itself, without the start of its process.
func (s *logServer) consumeByJava(topic string, records int64) (time.Duration, error) {
	out, err := tool("org.apache.kafka.tools.ConsumerPerformance", "--bootstrap-server", s.kafka, "--topic", topic, "--num-records", strconv.FormatInt(records, 10),
		"--timeout", "30000", "--hide-header", "--date-format", "yyyy-MM-dd'T'HH:mm:ss.SSS")
	if err != nil {
		return 0, err
	}
	var last string
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		if strings.Count(lines.Text(), ",") >= 5 {
			last = lines.Text()
		}
	}
	f := strings.Split(last, ", ")
	if len(f) < 5 {
		return 0, fmt.Errorf("ConsumerPerformance says: %s", out)
	}
	from, err1 := time.Parse("2006-01-02T15:04:05.000", f[0])
	to, err2 := time.Parse("2006-01-02T15:04:05.000", f[1])
	if n, err := strconv.ParseInt(f[4], 10, 64); err1 != nil || err2 != nil || err != nil || n != records {
		return 0, fmt.Errorf("of %d records, ConsumerPerformance says: %s", records, last)
	}
	return to.Sub(from), nil
}

// byTools are the sizes and numbers of records that Kafka's own producer tool sends.
var byTools = []struct {
	size    int
	records int64
}{{100, 1_500_000}, {1000, 300_000}}

// produceByTools has Kafka's own tool produce to 16 partitions, several times, the servers in turn.
func produceByTools(b *bench) error {
	l, err := b.log()
	if err != nil {
		return err
	}
	if _, missing := kafkaLib(); missing != nil {
		fmt.Printf("Not measured: %v\n", missing)
		return nil
	}
	l.found.byTool = map[int]map[string][]produced{}
	for _, load := range byTools {
		of := map[string][]produced{}
		l.found.byTool[load.size] = of
		for range b.runs {
			for _, s := range l.kafkas() {
				p := produced{records: load.records, size: load.size}
				err := s.withTopic(16, func(topic string) error {
					settle()
					from, begin := s.cpu(), time.Now()
					if err := s.produceByJava(topic, load.size, load.records); err != nil {
						return err
					}
					p.cpu, p.elapsed = s.cpu()-from, time.Since(begin)
					return s.holds(topic, load.records)
				})
				if err != nil {
					b.gaveUp(s.kind, err)
					continue
				}
				of[s.kind.name] = append(of[s.kind.name], p)
			}
		}
	}
	l.toolTable()
	return nil
}

func (l *logBench) toolTable() {
	var names []string
	for _, s := range l.kafkas() {
		names = append(names, s.kind.name)
	}
	fmt.Println("Thousands of records per CPU second of the server, median (min–max) / CPU seconds per million / per GB; the rate is not told, it has the start of the tool in it:")
	fmt.Println()
	fmt.Println("| value | " + strings.Join(names, " | ") + " | of Kafka's | of Kafka's with fsync |")
	fmt.Println("|" + strings.Repeat(" --- |", len(names)+3))
	for _, load := range byTools {
		of := l.found.byTool[load.size]
		row := fmt.Sprintf("| %d B", load.size)
		for _, name := range names {
			row += fmt.Sprintf(" | %s / %.2f / %.2f", spreadOf(of[name], produced.perCPU).thousands(), spreadOf(of[name], produced.perMillion).mid, spreadOf(of[name], produced.perGB).mid)
		}
		ours := spreadOf(of[names[0]], produced.perCPU)
		fmt.Printf("%s | %s | %s |\n", row, ours.times(spreadOf(of[namedKafka], produced.perCPU)), ours.times(spreadOf(of[kafkaSynced], produced.perCPU)))
	}
}
