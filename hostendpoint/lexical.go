// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import "strings"

// The lexical rules below are those of the validators in libcalico-go/lib/validator/v3/validator.go and
// k8s.io/apimachinery/pkg/util/validation.

const (
	maxNameLen       = 253
	maxTierNameLen   = 63
	maxLabelNameLen  = 63
	maxLabelValueLen = 63
	maxPortNameLen   = 15
	maxInterfaceLen  = 15 // IFNAMSIZ without the final zero
	maxAnnotations   = 256 << 10
)

func isLowerAlnum(b byte) bool { return 'a' <= b && b <= 'z' || '0' <= b && b <= '9' }

func isAlnum(b byte) bool { return isLowerAlnum(b) || 'A' <= b && b <= 'Z' }

// inNameAlphabet reports whether all of s is in the alphabet that the HostEndpoint page gives names: letters, digits,
// underscore, full stop and hyphen.
func inNameAlphabet(s string) bool {
	for i := range len(s) {
		if b := s[i]; !isAlnum(b) && b != '.' && b != '_' && b != '-' {
			return false
		}
	}
	return true
}

// isNameText reports whether s is in the alphabet of object names: letters, digits, full stop, underscore and hyphen,
// with at least one letter or digit.
//
// Deviation: Calico 3.29 accepts lower-case RFC 1123 subdomains only. Its documentation of HostEndpoint promises this
// larger alphabet.
func isNameText(s string) bool {
	return strings.Trim(s, "._-") != "" && inNameAlphabet(s)
}

// isSubdomain reports whether s is a lower-case RFC 1123 subdomain, of any length.
func isSubdomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || !isLowerAlnum(label[0]) || !isLowerAlnum(label[len(label)-1]) {
			return false
		}
		for i := range len(label) {
			if !isLowerAlnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}

// isQualifiedText reports whether s has 1 to limit letters, digits, hyphens, underscores and full stops, and begins and
// ends with a letter or digit.
func isQualifiedText(s string, limit int) bool {
	if s == "" || len(s) > limit || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	return inNameAlphabet(s)
}

// isLabelKey reports whether s is a Kubernetes qualified name: [prefix/]name.
func isLabelKey(s string) bool {
	prefix, name, hasPrefix := strings.Cut(s, "/")
	if !hasPrefix {
		return isQualifiedText(s, maxLabelNameLen)
	}
	return len(prefix) <= maxNameLen && isSubdomain(prefix) && isQualifiedText(name, maxLabelNameLen)
}

func isLabelValue(s string) bool { return s == "" || isQualifiedText(s, maxLabelValueLen) }

// isPortName follows RFC 6335: at least one letter, single hyphens inside.
func isPortName(s string) bool {
	if s == "" || len(s) > maxPortNameLen || s[0] == '-' || s[len(s)-1] == '-' || strings.Contains(s, "--") {
		return false
	}
	letter := false
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z':
			letter = true
		case b != '-' && (b < '0' || b > '9'):
			return false
		}
	}
	return letter
}

func isInterfaceName(s string) bool {
	return s == AllInterfaces || s != "" && len(s) <= maxInterfaceLen && inNameAlphabet(s)
}
