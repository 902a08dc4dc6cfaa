// SPDX-License-Identifier: Apache-2.0

package picture_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/picture"
)

// chromium runs the browser on a page and returns what it printed, and what it logged of the page's console. It has no
// network: as root in a network namespace of its own, in which nothing is up; and in any case no proxy that answers.
func chromium(t *testing.T, page string, args ...string) (out, console string) {
	t.Helper()
	bin, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium in PATH; .ci/test installs it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	args = append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--hide-scrollbars", "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", "--user-data-dir=" + t.TempDir(),
	}, args...)
	cmd := exec.CommandContext(ctx, bin, append(args, "file://"+page)...)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s", stderr.String())
	var lines []string
	for l := range strings.Lines(stderr.String()) {
		if strings.Contains(l, ":CONSOLE") {
			lines = append(lines, strings.TrimSpace(l))
		}
	}
	return stdout.String(), strings.Join(lines, "\n")
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// screenshot returns what a page looks like.
func screenshot(t *testing.T, page string, width, height int, dark bool) image.Image {
	t.Helper()
	file := filepath.Join(t.TempDir(), "shot.png")
	args := []string{"--run-all-compositor-stages-before-draw", "--virtual-time-budget=5000", "--screenshot=" + file, fmt.Sprintf("--window-size=%d,%d", width, height)}
	if dark {
		args = append(args, "--blink-settings=preferredColorScheme=0")
	}
	_, console := chromium(t, page, args...)
	require.Empty(t, console)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	if dir := os.Getenv("PICTURES"); dir != "" { // to look at them
		name := strings.ReplaceAll(t.Name(), "/", "-") + fmt.Sprintf("-%d.png", width)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	img, err := png.Decode(bytes.NewReader(b))
	require.NoError(t, err)
	return img
}

func rgb(i image.Image, x, y int) string {
	r, g, b, _ := i.At(x, y).RGBA()
	return fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8)
}

func colours(i image.Image) map[string]int {
	out := map[string]int{}
	for y := 0; y < i.Bounds().Dy(); y += 2 {
		for x := 0; x < i.Bounds().Dx(); x += 2 {
			out[rgb(i, x, y)]++
		}
	}
	return out
}

// Both documents show in light and dark what they should, offline and without a word on the console.
func TestPicturesInABrowser(t *testing.T) {
	svg := write(t, "web.svg", webPicture(t))
	html := write(t, "shop.html", picture.Diff(shopDelta(t), picture.DiffOptions{Before: "old", After: "new"}))
	for _, c := range []struct {
		name, file   string
		dark         bool
		page         string
		some         []string // colours of chips and badges
		width, depth int
	}{
		{"endpoint light", svg, false, "#ffffff", []string{"#dcf3e2", "#fbe3e3", "#e0ebfb", "#fbeed0"}, 1320, 1400},
		{"endpoint dark", svg, true, "#0f141a", []string{"#16351f", "#431b1d", "#182f50", "#3d2e0c"}, 1320, 1400},
		{"diff light", html, false, "#ffffff", []string{"#fbe3e3", "#f4f6f8"}, 1280, 1400},
		{"diff dark", html, true, "#0f141a", []string{"#431b1d", "#161d25"}, 1280, 1400},
		{"diff on a telephone", html, false, "#ffffff", []string{"#fbe3e3"}, 500, 1400},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := screenshot(t, c.file, c.width, c.depth, c.dark)
			require.GreaterOrEqual(t, img.Bounds().Dx(), c.width)
			require.Equal(t, c.page, rgb(img, 3, 3))
			seen := colours(img)
			for _, want := range c.some {
				require.Greater(t, seen[want], 50, "%s is missing", want)
			}
			require.Greater(t, len(seen), 100, "letters have many shades")
		})
	}
}

// measure is a page around documents, in frames, that says which of their texts collide or leave their boxes.
const measure = `<!DOCTYPE html><html><body>%s<pre id="out">none</pre><script>
function look(f){
 const d=f.contentDocument,bad=[];
 const texts=[...d.querySelectorAll("svg text")].map(e=>[e,e.getBoundingClientRect()]);
 const page=d.querySelector("svg")?.getBoundingClientRect();
 for(const[e,r]of texts){
  if(r.right>page.right-12||r.left<page.left+12)bad.push("leaves the page: "+e.textContent);
  for(const[g,q]of texts){
   if(e!==g&&r.left<q.left&&r.right>q.left+1&&r.top<q.bottom-3&&r.bottom>q.top+3)bad.push("collide: "+e.textContent+" | "+g.textContent);
  }
 }
 for(const e of d.querySelectorAll("g")){
  const b=e.querySelector(".row").getBoundingClientRect();
  for(const x of e.querySelectorAll("text")){const r=x.getBoundingClientRect();if(r.right>b.right+1||r.left<b.left-1)bad.push("leaves its row: "+x.textContent)}
 }
 if(!page&&d.documentElement.scrollWidth>f.clientWidth)bad.push("wider than the window: "+d.documentElement.scrollWidth);
 for(const e of d.querySelectorAll("td,dd,h2,h3,.tile")){if(e.scrollWidth>e.clientWidth+1)bad.push("overflows: "+e.textContent)}
 return "measured "+(texts.length||d.querySelectorAll("td").length)+" "+bad.join("; ");
}
window.onload=()=>{document.getElementById("out").textContent=[...document.querySelectorAll("iframe")].map(look).join("\n")};
</script></body></html>`

// document is what is measured, in a window of a width.
type document struct {
	text  string
	width int
}

func attribute(s string) string { return strings.NewReplacer("&", "&amp;", `"`, "&quot;").Replace(s) }

// measured loads documents into the browser and returns how many texts each has, and what is wrong with them.
func measured(t *testing.T, docs ...document) (n []int, bad []string) {
	t.Helper()
	var frames strings.Builder
	for _, d := range docs {
		fmt.Fprintf(&frames, `<iframe style="border:0" width="%d" height="900" srcdoc="%s"></iframe>`, d.width, attribute(d.text))
	}
	dom, console := chromium(t, write(t, "measure.html", fmt.Sprintf(measure, frames.String())), "--dump-dom", "--virtual-time-budget=5000")
	require.Empty(t, console)
	_, result, _ := strings.Cut(dom, `<pre id="out">`)
	result, _, _ = strings.Cut(result, "</pre>")
	for _, m := range regexp.MustCompile(`measured (\d+) (.*)`).FindAllStringSubmatch(result, -1) {
		i, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		n, bad = append(n, i), append(bad, m[2])
	}
	require.Len(t, n, len(docs), "not everything was measured")
	return n, bad
}

func TestTextsFit(t *testing.T) {
	html := picture.Diff(shopDelta(t), picture.DiffOptions{Before: "old", After: strings.Repeat("a-very-long-name/", 20)})
	docs := []document{{webPicture(t), 1400}, {html, 1280}, {html, 700}, {html, 360}}
	n, bad := measured(t, docs...)
	for i := range docs {
		require.Greater(t, n[i], 20)
		require.Empty(t, bad[i], "at %d", docs[i].width)
	}
	require.Greater(t, n[0], 100)
}

// What the tests above call an error is one: a page that asks for something, and texts that collide.
func TestTheBrowserSeesErrors(t *testing.T) {
	_, console := chromium(t, write(t, "x.html", `<html><body><script>console.error("here")</script></body></html>`), "--dump-dom")
	require.Contains(t, console, "here")
	svg := webPicture(t)
	i := strings.Index(svg, `<text class="rule"`)
	y := regexp.MustCompile(`y="\d+"`).FindString(svg[i:])
	_, bad := measured(t,
		document{svg[:i] + `<text class="rule" x="10" ` + y + `>` + strings.Repeat("long ", 400) + `</text>` + svg[i:], 1400},
		document{picture.Diff(&fleet.Delta{}, picture.DiffOptions{}) + `<div style="width:3000px">x</div>`, 800})
	require.Contains(t, bad[0], "collide")
	require.Contains(t, bad[0], "leaves")
	require.Contains(t, bad[1], "wider than the window")
	// The page's own policy forbids whatever somebody might get into it.
	_, console = chromium(t, write(t, "y.html", strings.Replace(picture.Diff(&fleet.Delta{}, picture.DiffOptions{}), "<main>", `<main><script>console.error("ran")</script>`, 1)), "--dump-dom")
	require.Contains(t, console, "Content Security Policy")
	require.NotContains(t, console, "ran")
}
