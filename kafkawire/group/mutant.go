package group

// A mutant is a bug planted to show that the random test would catch it. They exist under the build tag mutants only, and one is
// chosen by MILLRACE_MUTANT; in every other build mutant is constantly false and the branches compile away.
const (
	mutantTakeHeld     = "take-what-others-hold"
	mutantNoWait       = "do-not-wait-for-revocation"
	mutantForgetRevoke = "forget-revocation"
	mutantKeepEpoch    = "believe-any-epoch"
	mutantAnyCommit    = "believe-any-commit-of-a-member"
	mutantUpgradeBare  = "upgrade-forgets-what-members-have"
	mutantNobodyJoins  = "downgrade-without-a-rebalance"
	mutantNoDowngrade  = "never-downgrade"
	mutantStarve       = "leave-out-a-partition"
	mutantUneven       = "level-without-chains"
)
