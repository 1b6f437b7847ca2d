package config

import "time"

// Transactions are those of Kafka clients of the embedded log.
type Transactions struct {
	MaxTimeout Duration `yaml:"max_timeout"` // what a producer may ask for
	IDExpiry   Duration `yaml:"id_expiry"`   // a transactional id that nobody used for so long is forgotten
}

func defaultTransactions() Transactions {
	return Transactions{MaxTimeout: Duration(time.Hour), IDExpiry: Duration(7 * 24 * time.Hour)}
}

func (ck *checker) transactions(t *Transactions) {
	if t.MaxTimeout < Duration(time.Second) || t.MaxTimeout > Duration(24*time.Hour) {
		ck.problem("log.transactions.max_timeout", "not between 1s and 24h", "write a time span such as 15m")
	}
	if t.IDExpiry < t.MaxTimeout {
		ck.problem("log.transactions.id_expiry", "less than log.transactions.max_timeout", "write a time span such as 7d")
	}
}
