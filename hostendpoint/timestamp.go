// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// NormalizeTimestamp reads an RFC 3339 time and returns it as Kubernetes and Calico write it: in UTC, without fractions
// of a second. Ref: RFC 3339, section 5.6; k8s.io/apimachinery/pkg/apis/meta/v1.Time.
func NormalizeTimestamp(s string) (string, error) {
	bad := fmt.Errorf("%w: %q is not an RFC 3339 time", field.ErrInvalid, s)
	var year, month, day, hour, minute, second int
	rest := s
	for _, f := range [...]struct {
		value  *int
		digits int
		lo, hi int
		after  string
	}{
		{&year, 4, 0, 9999, "-"}, {&month, 2, 1, 12, "-"}, {&day, 2, 1, 31, "T"},
		{&hour, 2, 0, 23, ":"}, {&minute, 2, 0, 59, ":"}, {&second, 2, 0, 59, ""},
	} {
		n, ok := digits(rest, f.digits)
		if !ok || n < f.lo || n > f.hi || len(rest) < f.digits+len(f.after) || rest[f.digits:f.digits+len(f.after)] != f.after {
			return "", bad
		}
		*f.value, rest = n, rest[f.digits+len(f.after):]
	}
	if day > daysIn(year, month) {
		return "", bad
	}
	if len(rest) > 1 && rest[0] == '.' {
		i := 1
		for i < len(rest) && '0' <= rest[i] && rest[i] <= '9' {
			i++
		}
		if i == 1 {
			return "", bad
		}
		rest = rest[i:]
	}
	if rest != "Z" {
		h, ok1 := digits(rest[min(1, len(rest)):], 2)
		m, ok2 := digits(rest[min(4, len(rest)):], 2)
		if len(rest) != 6 || !ok1 || !ok2 || rest[3] != ':' || h > 23 || m > 59 || rest[0] != '+' && rest[0] != '-' {
			return "", bad
		}
		offset := h*60 + m
		if rest[0] == '+' {
			offset = -offset
		}
		minute += hour*60 + offset
		switch { // an offset is less than a day, so at most one day is crossed
		case minute < 0:
			minute += 24 * 60
			if day--; day == 0 {
				if month--; month == 0 {
					year, month = year-1, 12
				}
				day = daysIn(year, month)
			}
		case minute >= 24*60:
			minute -= 24 * 60
			if day++; day > daysIn(year, month) {
				day = 1
				if month++; month > 12 {
					year, month = year+1, 1
				}
			}
		}
		hour, minute = minute/60, minute%60
		if year < 0 || year > 9999 {
			return "", bad
		}
	}
	return fmt.Sprintf("%04d-%02d-%02dT%02d:%02d:%02dZ", year, month, day, hour, minute, second), nil
}

// digits reads the first n bytes of s, which must be decimal digits.
func digits(s string, n int) (int, bool) {
	if len(s) < n {
		return 0, false
	}
	v := 0
	for i := range n {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		v = v*10 + int(s[i]-'0')
	}
	return v, true
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}
