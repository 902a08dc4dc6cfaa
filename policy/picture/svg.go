// SPDX-License-Identifier: Apache-2.0

package picture

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// canvas collects the elements of an SVG document. Coordinates are whole pixels.
type canvas struct {
	strings.Builder
}

// rect draws a rectangle with round corners.
func (c *canvas) rect(class string, x, y, w, h, r int) {
	fmt.Fprintf(c, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="%d"/>`+"\n", class, x, y, w, h, r)
}

// text writes one line whose base line is y. What does not fit into most characters is cut, and the whole of it becomes
// a tooltip; most of 0 is no limit.
func (c *canvas) text(class string, x, y int, s string, most int) {
	short := cut(s, most)
	if short == s {
		fmt.Fprintf(c, `<text class="%s" x="%d" y="%d">%s</text>`+"\n", class, x, y, escape(s))
		return
	}
	fmt.Fprintf(c, `<text class="%s" x="%d" y="%d"><title>%s</title>%s</text>`+"\n", class, x, y, escape(s), escape(short))
}

// down draws an arrow from y1 down to y2.
func (c *canvas) down(x, y1, y2 int) {
	fmt.Fprintf(c, `<path class="arrow" d="M%d %dV%d"/><path class="head" d="M%d %dl4 -6h-8z"/>`+"\n", x, y1, y2-5, x, y2)
}

// cut shortens s to at most n characters; 0 is no limit.
func cut(s string, n int) string {
	if n <= 0 || utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return strings.TrimRight(string(r[:max(n-1, 0)]), " ,") + "…"
}

// escape makes text fit for XML and HTML, in elements and in quoted attributes.
func escape(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r == 0xfffe || r == 0xffff {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;").Replace(s)
}
