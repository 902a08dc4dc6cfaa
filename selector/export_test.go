// SPDX-License-Identifier: Apache-2.0

package selector

// IndexIsEmpty reports whether x holds nothing at all.
func IndexIsEmpty(x *Index) bool {
	return len(x.selectors)+len(x.endpoints)+len(x.parents)+len(x.labels)+len(x.free[0])+len(x.free[1])+len(x.locals) == 0
}
