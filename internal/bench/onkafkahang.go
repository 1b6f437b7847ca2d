package main

import (
	"fmt"
	"os/exec"
	"strconv"
	"time"
)

// budgetMiB is what docs/on-kafka.md adds up for a node with the limits that it has by itself: 128 for the program, and twice what may be kept,
// which is 128 of publishes without an answer, 16 of the live log, and 8 for each of two tails that catch up.
const budgetMiB = 128 + 2*(128+16+2*8)

// hung stops all brokers for a minute under load, as they stand.
func hung(b *bench) error {
	c, err := findCluster()
	if err != nil {
		return err
	}
	topic, err := c.newTopic()
	if err != nil {
		return err
	}
	signal := func(name string) error {
		for _, pid := range c.pids {
			if err := exec.Command("kill", "-"+name, strconv.Itoa(pid)).Run(); err != nil {
				return fmt.Errorf("kill -%s %d: %w", name, pid, err)
			}
		}
		return nil
	}
	return b.with(b.millraceOn(&c, topic, fmt.Sprintf("limits: {memory: %dMiB}\n", budgetMiB)), func(s *server) error {
		type outcome struct {
			r   result
			got []uint32
			err error
		}
		over := make(chan outcome, 1)
		go func() {
			r, got, err := paced(s.mqtt, 200, 20_000, 100, pace{time.Second, 80 * time.Second}, func() {}, func() {})
			over <- outcome{r, got, err}
		}()
		time.Sleep(6 * time.Second)
		calm, _ := s.memory()
		if err := signal("STOP"); err != nil {
			return err
		}
		defer func() { _ = signal("CONT") }()
		time.Sleep(time.Minute)
		hanging, _ := s.memory()
		if err := signal("CONT"); err != nil {
			return err
		}
		o := <-over
		if o.err != nil {
			return o.err
		}
		_, peak := s.memory()
		out, err := c.counted(topic, o.got)
		if err != nil {
			return err
		}
		fmt.Println("| memory before / at the end of the hang / peak, MiB | budget | acknowledged, in all | not in the cluster | there twice |")
		fmt.Println("| --- | --- | --- | --- | --- |")
		fmt.Printf("| %d / %d / %d | %d | %d | %d | %d |\n", calm>>20, hanging>>20, peak>>20, budgetMiB, out.Acked, out.Lost, out.Twice)
		b.onCluster = append(b.onCluster,
			verdict{"a hang of 60 s: memory within the budget (docs/on-kafka.md)", fmt.Sprintf("%d of %d MiB at the most", peak>>20, budgetMiB), peak>>20 <= budgetMiB},
			verdict{"a hang of 60 s: what was acknowledged is in the cluster", fmt.Sprintf("%d of %d are not", out.Lost, out.Acked), out.Lost == 0 && out.Acked > 0})
		return nil
	})
}
