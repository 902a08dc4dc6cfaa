// SPDX-License-Identifier: Apache-2.0

package selector

// Labels are what a Selector is matched against. Get returns the value of a label and whether it is there; a label
// with an empty value is there.
type Labels interface {
	Get(key string) (value string, ok bool)
}

// MapLabels are Labels in a map. The nil map has no labels. Matching a MapLabels does not allocate.
type MapLabels map[string]string

var _ Labels = MapLabels(nil)

// Get implements Labels.
func (m MapLabels) Get(key string) (string, bool) {
	v, ok := m[key]
	return v, ok
}

// Inherit resolves labels the way Calico does: an endpoint has its own labels, and those that its parents (profiles)
// define, of which the first in order wins. An own label hides an inherited one even if its value is empty.
// The result is a new map. Ref: felix/labelindex/label_inheritance_index.go.
func Inherit(own map[string]string, parents ...map[string]string) MapLabels {
	n := len(own)
	for _, p := range parents {
		n += len(p)
	}
	out := make(MapLabels, n)
	for i := len(parents) - 1; i >= 0; i-- {
		for k, v := range parents[i] {
			out[k] = v
		}
	}
	for k, v := range own {
		out[k] = v
	}
	return out
}

// maxLabel is the greatest length of a label's name in a selector, in bytes.
const maxLabel = 512

// labelByte holds the bytes that names of labels consist of.
var labelByte = func() (t [256]bool) {
	for _, r := range []struct{ lo, hi byte }{{'a', 'z'}, {'A', 'Z'}, {'0', '9'}, {'-', '/'}, {'_', '_'}} {
		for c := int(r.lo); c <= int(r.hi); c++ {
			t[c] = true
		}
	}
	return t
}()

// validLabel reports whether s can be written as the name of a label.
func validLabel(s string) bool {
	if s == "" || len(s) > maxLabel {
		return false
	}
	for i := range len(s) {
		if !labelByte[s[i]] {
			return false
		}
	}
	return true
}
