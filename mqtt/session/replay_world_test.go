package session

// simHistory is an outstanding Host.History.
type simHistory struct {
	token uint64
	asks  []HistoryAsk
}

func (w *world) History(token uint64, asks []HistoryAsk) {
	w.histories = append(w.histories, &simHistory{token, asks})
}

func (*nullHost) History(uint64, []HistoryAsk) {}
