package engine

// CheckConfig says what is wrong with a topic's configs, as CreateTopic and ConfigureTopic would.
func (e *Engine) CheckConfig(set map[string]string) error { return e.checkConfigs(set) }

// Volume returns the bytes of the volume that holds the log, free and in total; -1 where the system does not say.
func (e *Engine) Volume() (free, total int64) {
	free, total, err := e.o.FS.Free()
	if err != nil {
		return -1, -1
	}
	return free, total
}

// DefaultConfig is a topic config's value where a topic does not set it.
func (e *Engine) DefaultConfig(name string) string { return e.defaults.value(name) }

// DefaultPartitions is how many partitions a topic has whose creator does not say.
func (e *Engine) DefaultPartitions() int32 { return e.o.DefaultPartitions }
