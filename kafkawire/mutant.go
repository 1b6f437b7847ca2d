package kafkawire

import (
	"errors"

	"github.com/millrace-io/millrace/eventlog"
)

// A mutant is a bug planted to show that a check would catch it. They exist under the build tag mutants only, and one
// is chosen by MILLRACE_MUTANT; in every other build mutant is constantly false and the branches compile away.
const (
	mutantWrongOffset = "answer-wrong-offset"
	mutantStaleOffset = "fetch-stale-offset"
	mutantFetchSkips  = "fetch-skips-a-batch"
)

// Those of what a client is told, which the comparison with other servers would catch.
const (
	mutantTimeAsked   = "list-the-time-asked"
	mutantForgetless  = "session-forgets-nothing"
	mutantAppendsOver = "append-config-replaces"
	mutantSameEpoch   = "end-keeps-the-epoch"
)

// Those of who gets in, and of what he may do.
const (
	mutantProof      = "scram-skip-proof"
	mutantNobody     = "scram-tell-nobody-apart"
	mutantActAs      = "plain-act-for-others"
	mutantBecome     = "become-somebody-else"
	mutantBefore     = "answer-before-login"
	mutantOutlive    = "session-outlives-its-end"
	mutantRevoked    = "keep-revoked"
	mutantHalfOpen   = "half-open-without-end"
	mutantUnasked    = "skip-authorization-of-an-api"
	mutantStale      = "remember-answers-for-ever"
	mutantWaiting    = "waiting-fetch-keeps-its-right"
	mutantListed     = "list-what-may-not-be-described"
	mutantAdmin      = "acl-makes-administrators"
	mutantPublish    = "publish-unasked"
	mutantUnwritten  = "acl-in-memory-only"
	mutantCredential = "credential-outlives-its-change"
)

// skipBatch leaves out the first of several batches, now and then.
func skipBatch(raw []byte) []byte {
	n, err := eventlog.BatchSize(raw)
	if err != nil || n == 0 || n >= len(raw) || eventlog.RawBatch(raw).Base()%4 != 1 {
		return raw
	}
	return raw[n:]
}

// forget takes entries in as if they were written.
func (a *acls) forget(entries []entryOf) (err error) {
	for _, e := range entries {
		err = errors.Join(err, a.learn(e.key, e.value))
	}
	a.compile()
	return err
}
