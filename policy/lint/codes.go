// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"slices"

	"github.com/hostpolicy/hostpolicy/policy"
)

// Code describes one kind of finding. Codes are stable: a code never comes to mean something else.
type Code struct {
	Name     string          `json:"code"`
	Severity policy.Severity `json:"severity"` // the worst that findings of it have
	What     string          `json:"what"`     // what was found
	Why      string          `json:"why"`      // why that matters
	Fix      string          `json:"fix"`      // what to write instead
}

// Codes returns all codes, sorted by name.
func Codes() []Code { return slices.Clone(codes[:]) }

// CodeOf returns what is known of a code; false if it is none.
func CodeOf(name string) (Code, bool) {
	i, ok := slices.BinarySearchFunc(codes[:], name, func(c Code, n string) int {
		if c.Name < n {
			return -1
		}
		if c.Name > n {
			return 1
		}
		return 0
	})
	if !ok {
		return Code{}, false
	}
	return codes[i], true
}

var codes = [...]Code{
	{"bad-rule", policy.Error, "a rule that cannot be understood",
		"It denies whatever reaches it, because nobody can say what it was meant to let through.",
		"Correct the field that the message names."},
	{"bad-selector", policy.Error, "a policy whose selector cannot be understood",
		"It selects nothing, so that nothing of it is enforced.",
		"Correct the selector; hep selector shows how selectors are read."},
	{"builtin-profile", policy.Warning, "a profile with the name of a built-in one",
		"The built-in profile is used instead.",
		"Give the profile another name, and use that in spec.profiles."},
	{"closed-endpoint", policy.Warning, "an endpoint that nothing opens",
		"No policy governs this direction and no profile allows anything in it: everything but failsafes is denied.",
		"Add a policy that selects the endpoint, or the profile projectcalico-default-allow if it is to be open."},
	{"dead-policy", policy.Warning, "a policy none of whose rules can match",
		"On every host that it selects, other rules take all of its packets first, or its rules contradict themselves.",
		"Remove the policy, or move it before the rules that take its packets (a lower order, an earlier tier)."},
	{"duplicate-object", policy.Error, "two objects of one name",
		"Only the first is used.",
		"Give them different names, or remove one."},
	{"empty-rule", policy.Warning, "a rule that can match no packet",
		"Its criteria exclude each other, or it asks for something that no packet has.",
		"Remove the rule, or the criterion that contradicts the others."},
	{"empty-set", policy.Info, "a selector of a rule that selects no address",
		"The rule matches nothing now, and will when an address appears that the selector selects.",
		"If that is not intended, correct the selector or the labels, or give the endpoints expectedIPs."},
	{"failsafe-added", policy.Info, "a failsafe port that Calico does not have by default",
		"Failsafes come before all policy: no rule can close the port again.",
		"Give the failsafe a net, or open the port by policy instead."},
	{"failsafe-missing", policy.Warning, "a default failsafe port that the configuration leaves out",
		"A wrong policy can then cut off the service, and with tcp/22 the way to repair it.",
		"Add the port to the failsafes, with a net if it need not be open to everybody."},
	{"failsafe-overrides", policy.Warning, "a rule that denies a failsafe port",
		"Failsafes come before all policy: the port stays open whatever the rule says.",
		"Give the failsafe a net, or take the port off the list of failsafes; then the rule decides."},
	{"failsafe-wider", policy.Warning, "a rule that opens a failsafe port to some, which is open to all",
		"Failsafes come before all policy: the restriction of the rule has no effect.",
		"Give the failsafe the net that the rule allows, or take the port off the list of failsafes."},
	{"foreign-address", policy.Info, "an expected address that is not on the interface",
		"With an interface name, addresses only feed the selectors of rules.",
		"Correct the address, or leave it if rules are to know the host by it."},
	{"forward-one-direction", policy.Info, "apply-on-forward policy of one direction",
		"Forwarded traffic of the other direction is no longer allowed by default, and goes on to the host's own rules.",
		"Add the other direction to spec.types, with a rule for what may pass."},
	{"http-criteria", policy.Error, "HTTP criteria on a host endpoint",
		"Nothing on a host sees HTTP, so that the rule never matches.",
		"Remove spec...http, or apply the policy to workloads."},
	{"http-ignored", policy.Warning, "HTTP criteria that are ignored",
		"The rule matches more than it says.",
		"Remove the criteria, or the configuration that ignores them."},
	{"inert-policy", policy.Warning, "a policy that selects no endpoint",
		"Nothing of it is enforced anywhere.",
		"Correct the selector, or the labels of the endpoints."},
	{"invalid", policy.Error, "an object that is not valid",
		"Calico would refuse to store it; here it is used as far as it can be understood.",
		"Correct the field that the message names."},
	{"isolates", policy.Warning, "a policy that moves endpoints to default deny",
		"Without it their profiles decide; with it, what it does not allow is denied at the end of its tier.",
		"If that is not intended, take the direction out of spec.types, or end the rules with {action: Allow} or {action: Pass}."},
	{"log-only", policy.Warning, "a policy that only logs, and by that denies",
		"Log does not decide; what has been logged is denied at the end of the tier.",
		"Add {action: Pass} behind the Log rules if the policy is only meant to watch."},
	{"loopback-policed", policy.Warning, "an all-interfaces endpoint that cuts the host off from itself",
		"It governs lo, too.",
		"Allow 127.0.0.0/8 and ::1 in both directions, or set exemptLoopback."},
	{"missing-profile", policy.Error, "a profile that does not exist",
		"Everything that reaches it is denied.",
		"Create the profile, or take its name out of spec.profiles."},
	{"no-types", policy.Warning, "a stored policy without types",
		"It was written around Calico's client, which infers them, and governs both directions, with rules or without.",
		"List in spec.types the directions that are meant."},
	{"pass-only", policy.Info, "rules that packets reach only because another rule passes them",
		"They stand behind the end of an earlier tier, and work as long as that Pass rule does.",
		"Nothing if that is meant. If they are to hold whatever stands before, move them to an earlier tier, or end that with {action: Pass}."},
	{"peer-without-ips", policy.Warning, "an endpoint that rules select and whose addresses are not known",
		"The rules do not match its traffic.",
		"Give the endpoint its expectedIPs."},
	{"policy-never-decides", policy.Info, "a policy that never has the last word",
		"Its rules match, but pass, log, or are overruled at a later stage: it settles nothing by itself.",
		"Remove it if nothing else depends on what it passes, or give it a rule that decides."},
	{"prednat-needed", policy.Warning, "a rule on a port that is translated before the rule is asked",
		"Normal and forward policy see packets behind destination NAT: with the translated address and port.",
		"Set preDNAT: true (and applyOnForward: true) on a policy for the original port, or write the translated one."},
	{"redundant-rule", policy.Info, "a rule without which nothing would change",
		"Other rules decide the same for all of its packets.",
		"Remove it, if it is not there for its readers."},
	{"service-match", policy.Error, "a rule on a Kubernetes service",
		"The endpoints of services are not known here, so that the rule never matches.",
		"Write the addresses of the service, or a network set of them."},
	{"shadowed-endpoint", policy.Warning, "an endpoint of an interface that another one governs",
		"Of several endpoints that match an interface, the one whose name is first wins; this one is not used there.",
		"Remove one of them, or make them match different interfaces."},
	{"shadowed-rule", policy.Warning, "a rule whose packets other rules take first",
		"It never matches on any host that has it.",
		"Move it before the rules that shadow it, or remove it."},
	{"tier-never-decides", policy.Info, "a tier that never has the last word",
		"Every packet passes through it to the next tier or to a later rule.",
		"Remove the tier, or give it a rule that decides."},
	{"unknown-tier", policy.Warning, "a tier that does not exist",
		"The policy applies after all tiers that exist, and what it does not decide is denied.",
		"Create the tier, or correct spec.tier."},
	{"unmatched-endpoint", policy.Warning, "an endpoint that matches no interface of its host",
		"Its policy is enforced nowhere.",
		"Correct spec.interfaceName or spec.expectedIPs."},
	{"untracked-on-wildcard", policy.Error, "doNotTrack policy on the all-interfaces endpoint",
		"That is not supported: the policy is not applied there.",
		"Select an endpoint that names its interface, or drop doNotTrack."},
	{"untracked-one-way", policy.Warning, "untracked traffic whose answers are not allowed",
		"Without connection tracking nobody knows an answer for one: it needs a doNotTrack rule of its own.",
		"Add a doNotTrack rule for the other direction, with source and destination exchanged."},
	{"unused-rules", policy.Warning, "rules of a direction that spec.types does not list",
		"They are never used.",
		"Add the direction to spec.types, or remove the rules."},
}
