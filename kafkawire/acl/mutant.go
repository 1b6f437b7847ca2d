package acl

// A mutant is a bug planted to show that the tests would catch it. They exist under the build tag mutants only, and one is chosen by
// MILLRACE_MUTANT; in every other build mutant is constantly false and the branches compile away.
const (
	mutantDeny    = "acl-ignores-deny"
	mutantLiteral = "acl-prefix-as-literal"
	mutantHost    = "acl-of-any-host"
	mutantImplied = "acl-denial-implies"
	mutantOrder   = "acl-last-one-wins"
)
