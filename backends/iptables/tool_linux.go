// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// tools runs the commands of one variant in one network namespace.
type tools struct {
	netns   int
	variant Variant
	paths   map[string]string // of commands, by what they are for: "restore4", "save6", "ipset"

	conflict *ConflictError // what stands against any change but a teardown
}

// inNamespace runs fn on a thread that is in the namespace and does nothing else, and brings the thread back. A thread
// that cannot be brought back ends with its goroutine.
func inNamespace(fd int, fn func() error) error {
	if fd == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := func() error {
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				runtime.UnlockOSThread()
				return err
			}
			defer home.Close()
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				runtime.UnlockOSThread()
				return fmt.Errorf("iptables: enter the network namespace: %w", err)
			}
			err = fn()
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
			return err
		}()
		done <- err
	}()
	return <-done
}

// find returns the path of a command, which may be where only root looks.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: no command %s", ErrUnavailable, name)
}

func toolName(f inet.Family) string {
	if f == inet.IPv4 {
		return "iptables"
	}
	return "ip6tables"
}

// largeMemory is for the environment of the tools, which hold what they read in many small pieces of memory: with
// thousands of rules up to half of their time went into page faults. The GNU C library since 2.35 takes large pages if
// asked, and in large steps; others ignore it. Ref: glibc manual, "Memory Allocation Tunables".
const largeMemory = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.top_pad=67108864"

// run runs a command and returns its output. The error is an *Error, or that of ctx.
func run(ctx context.Context, netns int, op, path string, input *script, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", largeMemory}
	if input != nil {
		cmd.Stdin = bytes.NewReader(input.text)
	}
	// A command must not outlive this process: it would change tables behind the back of the next one. The kernel takes
	// the end of the thread that started it for that of the process, so that thread is ours until the command has ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := inNamespace(netns, cmd.Run)
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e := &Error{Op: op, Tool: filepath.Base(path), Text: strings.TrimSpace(stderr.String()), Err: err}
	if input != nil {
		e.Line, e.Origin = input.failed(e.Text)
	}
	return nil, e
}

// lineNumber finds what iptables-restore and ipset say about their input.
var lineNumber = regexp.MustCompile(`\bline:? (\d+)`)

// failed returns the line of the input that a message names, and its origin.
func (s *script) failed(message string) (string, flow.Origin) {
	m := lineNumber.FindStringSubmatch(message)
	if m == nil {
		return "", flow.Origin{}
	}
	n, _ := strconv.Atoi(m[1])
	var o flow.Origin
	for _, l := range s.origins {
		if l.line == n {
			o = *l.origin
		}
	}
	text := s.text
	for ; n > 1; n-- {
		_, rest, ok := bytes.Cut(text, []byte("\n"))
		if !ok {
			return "", o
		}
		text = rest
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return string(line), o
}

// restore runs a script for one family.
func (t *tools) restore(ctx context.Context, op string, f inet.Family, s *script) error {
	_, err := run(ctx, t.netns, op, t.paths["restore"+f.String()], s, "--noflush", "--wait")
	return err
}

// save returns what iptables-save prints for one family.
func (t *tools) save(ctx context.Context, op string, f inet.Family, counters bool) ([]byte, error) {
	var args []string
	if counters {
		args = append(args, "-c")
	}
	return run(ctx, t.netns, op, t.paths["save"+f.String()], nil, args...)
}

// list returns what "iptables -v -S" prints of one chain.
func (t *tools) list(ctx context.Context, op string, f inet.Family, n render.TableName, chain string) ([]byte, error) {
	return run(ctx, t.netns, op, t.paths["tool"+f.String()], nil, "-t", n.String(), "-v", "-S", chain)
}

// ipset runs a script of ipset; elements that are there, or are not there, are no error.
func (t *tools) ipset(ctx context.Context, op string, s *script) error {
	_, err := run(ctx, t.netns, op, t.paths["ipset"], s, "-exist", "restore")
	return err
}

// saveSets returns what "ipset save" prints.
func (t *tools) saveSets(ctx context.Context, op string) ([]byte, error) {
	return run(ctx, t.netns, op, t.paths["ipset"], nil, "save")
}

// version is the version of a tool: its numbers, and for iptables what stands in parentheses.
type version struct {
	numbers []int
	text    string
	variant string
}

var versionText = regexp.MustCompile(`v(\d+(?:\.\d+)*)[^\s(,]*(?: \((\w+)\))?`)

// versionOf asks a tool for its version.
func versionOf(ctx context.Context, netns int, path string) (version, error) {
	out, err := run(ctx, netns, "probe", path, nil, "--version")
	if err != nil {
		return version{}, errors.Join(ErrUnavailable, err)
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return version{}, &VersionError{Tool: filepath.Base(path), Have: strings.TrimSpace(string(out)), Need: "one that says its version"}
	}
	v := version{text: string(m[1]), variant: string(m[2])}
	for _, s := range strings.Split(v.text, ".") {
		n, _ := strconv.Atoi(s)
		v.numbers = append(v.numbers, n)
	}
	return v, nil
}

// atLeast reports whether the version is need or later.
func (v version) atLeast(need ...int) bool {
	for i, n := range need {
		switch {
		case i >= len(v.numbers):
			return false
		case v.numbers[i] != n:
			return v.numbers[i] > n
		}
	}
	return true
}
