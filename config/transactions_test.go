package config

import (
	"strings"
	"testing"
	"time"
)

func TestTransactions(t *testing.T) {
	c, err := Load(Source{Environ: []string{"MILLRACE_LOG_TRANSACTIONS_MAX_TIMEOUT=15m"}})
	if err != nil || c.Log.Transactions != (Transactions{Duration(15 * time.Minute), Duration(7 * 24 * time.Hour)}) {
		t.Errorf("%+v, %v", c.Log.Transactions, err)
	}
	for _, bad := range []string{"MAX_TIMEOUT=0", "MAX_TIMEOUT=25h", "ID_EXPIRY=30m"} {
		if _, err := Load(Source{Environ: []string{"MILLRACE_LOG_TRANSACTIONS_" + bad}}); err == nil || !strings.Contains(err.Error(), "log.transactions.") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
