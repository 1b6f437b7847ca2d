//go:build mutants

package kafkawire

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestSecurityMutants shows that the tests of who gets in, and of what he may do, have teeth: each planted bug is caught by the test that is
// for it. Each has a process of its own.
func TestSecurityMutants(t *testing.T) {
	if os.Getenv("MILLRACE_MUTANT") != "" {
		t.Skip("within another mutant")
	}
	for _, m := range []struct{ name, bug, test string }{
		{mutantProof, "whoever knows a name is let in by SCRAM", "TestSASLWithFranz"},
		{mutantNobody, "SCRAM's challenge tells which names there are", "TestUnknownNamesLookLikeWrongPasswords"},
		{mutantActAs, "PLAIN lets act for somebody else", "TestPlainActsForNobodyElse"},
		{mutantBecome, "a session goes on as another account's", "TestReauthentication"},
		{mutantBefore, "an API is answered before authentication", "TestNothingBeforeAuthentication"},
		{mutantOutlive, "a session goes on that is over", "TestReauthentication"},
		{mutantRevoked, "who was let in by a credential stays when it goes", "TestRevokedCredential"},
		{mutantCredential, "who was let in by a SCRAM credential stays when it goes", "TestSCRAMCredentials"},
		{mutantHalfOpen, "an address takes as many connections as it likes that are nobody's", "TestHalfOpen"},
		{mutantUnasked, "an API asks nobody whether it may", "TestEveryAPIAsks"},
		{mutantStale, "what was allowed once is allowed for ever", "TestRevokedRights"},
		{mutantWaiting, "a fetch that waits keeps its right", "TestRevokedRights"},
		{mutantListed, "topics are listed that may not be described", "TestEveryAPIAsks"},
		{mutantAdmin, "an ACL makes an administrator", "TestACLs"},
		{mutantPublish, "records go on to MQTT where their producer may not publish", "TestPublishingByKey"},
		{mutantUnwritten, "ACLs are in memory only", "TestACLs"},
		{"acl-ignores-deny", "an ACL's no is not heard", "TestACLs"},
		{"acl-prefix-as-literal", "a prefix is taken for a name", "TestACLs"},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+m.test+"$", "-test.failfast", "-test.v")
			cmd.Env = append(os.Environ(), "MILLRACE_MUTANT="+m.name)
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("not caught: %s\n%s", m.bug, out)
			case !strings.Contains(string(out), "--- FAIL: "+m.test):
				t.Errorf("%s did not run: %s", m.test, out)
			}
		})
	}
}
