package broker

import (
	"context"

	"github.com/millrace-io/millrace/mqtt/session"
)

func (*instantStore) History(context.Context, session.HistoryAsk) session.History {
	return session.History{}
}
