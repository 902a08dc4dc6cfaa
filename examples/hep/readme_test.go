// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func readme(t *testing.T) string {
	b, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	return string(b)
}

// The README shows what hep prints.
func TestReadmeShowsTheDiff(t *testing.T) {
	script, err := os.ReadFile("testdata/script/diff.txtar")
	require.NoError(t, err)
	_, brief, ok := strings.Cut(string(script), "-- brief --\n")
	require.True(t, ok)
	brief, _, _ = strings.Cut(brief, "-- ")
	require.True(t, strings.Contains(readme(t), "```\n$ hep diff old/ new/\n"+brief+"```\n"), "README.md does not show\n%s", brief)
	lines := strings.Count(brief, "\n")
	require.True(t, 3 <= lines && lines <= 10, "%d lines are not what a review reads", lines)
}

// The steps of the README for GitHub Actions are run as they stand, in a repository with a branch main and a pull request:
// a pull request that breaks a test, one that does not, and one that changes nothing. The repository of this project and
// its module proxy are those of this machine.
func TestReadmeActions(t *testing.T) {
	for _, tool := range []string{"git", "bash", "go"} {
		_, err := exec.LookPath(tool)
		require.NoError(t, err)
	}
	text := readme(t)
	_, text, ok := strings.Cut(text, "```yaml\njobs:\n")
	require.True(t, ok, "no jobs in README.md")
	text, _, _ = strings.Cut(text, "```")
	var w struct {
		Jobs map[string]struct {
			Steps []struct {
				Uses, Run, If string
				With          map[string]any
			}
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte("jobs:\n"+text), &w))
	steps := w.Jobs["policy"].Steps
	require.NotEmpty(t, steps)

	dir := t.TempDir()
	project, err := filepath.Abs("../..")
	require.NoError(t, err)
	repo := filepath.Join(dir, "repo")
	shop := func(name string) string { return filepath.Join(project, "examples/hep/testdata/shop", name) }
	// What the checkout of a pull request leaves: the branch, and origin/main.
	script := `set -euo pipefail
git init -q -b main origin && cd origin && git config user.email t@example.com && git config user.name t
mkdir policy tests && cp "$OLD"/* policy/ && cp "$TESTS" tests/ && git add . && git commit -qm policy
cd .. && git clone -q origin repo && cd repo && git config user.email t@example.com && git config user.name t
git checkout -q -b change`
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "OLD="+shop("old"), "TESTS="+shop("tests.yaml"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	// Only the places are others here: /tmp is not ours alone, and the project is not cloned from the network.
	here := strings.NewReplacer(
		"https://github.com/hostpolicy/hostpolicy /tmp/hostpolicy", "file://"+filepath.Join(dir, "project.git")+" "+filepath.Join(dir, "hostpolicy"),
		"/tmp/", dir+"/",
		"${{ github.base_ref || 'main' }}", "main",
	)
	bare := exec.Command("bash", "-c", `set -e
git init -q "$1/p" && cd "$2" && git ls-files -z --cached --others --exclude-standard | tar --null -T - --ignore-failed-read -cf - | tar -xf - -C "$1/p"
cd "$1/p" && git add -A && git -c user.email=t@example.com -c user.name=t commit -qm all && git clone -q --bare . "$1/project.git" && rm -rf "$1/p"`, "-", dir, project)
	out, err = bare.CombinedOutput()
	require.NoError(t, err, "%s", out)

	// job runs all steps, and returns the exit codes of those that are commands, by the word that tells them apart.
	job := func() (codes map[string]int, said string) {
		codes = map[string]int{}
		failed := false
		for _, s := range steps {
			if s.Run == "" || failed && s.If != "always()" {
				continue
			}
			run := exec.Command("bash", "-e", "-o", "pipefail", "-c", here.Replace(s.Run)) // as the runner does
			run.Dir = repo
			out, err := run.CombinedOutput()
			said += string(out)
			name := "hep"
			for _, n := range []string{"lint", "test", "diff"} {
				if strings.Contains(s.Run, "hep "+n+" ") {
					name = n
				}
			}
			if err != nil {
				require.IsType(t, &exec.ExitError{}, err)
			}
			codes[name] = run.ProcessState.ExitCode()
			failed = failed || codes[name] != 0
			if name == "hep" {
				require.NoError(t, err, "%s", out)
				require.NoError(t, os.RemoveAll(filepath.Join(dir, "hostpolicy")))
			}
		}
		forget := exec.Command("git", "worktree", "remove", "--force", filepath.Join(dir, "base"))
		forget.Dir = repo
		require.NoError(t, forget.Run())
		for _, s := range steps {
			if path, ok := s.With["path"].(string); ok {
				for f := range strings.FieldsSeq(path) {
					require.FileExists(t, filepath.Join(repo, f))
					require.NoError(t, os.Remove(filepath.Join(repo, f)))
				}
			}
		}
		return codes, said
	}
	write := func(from string) {
		for _, f := range []string{"hosts.yaml", "platform.yaml"} {
			b, err := os.ReadFile(filepath.Join(from, f))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(repo, "policy", f), b, 0o644))
		}
	}

	codes, said := job()
	require.Equal(t, map[string]int{"hep": 0, "lint": 0, "test": 0, "diff": 0}, codes, said)
	require.Contains(t, said, "no packet fares differently")

	write(shop("new"))
	codes, said = job()
	require.Equal(t, map[string]int{"hep": 0, "lint": 0, "test": 1, "diff": 0}, codes, said)
	require.Contains(t, said, "5 of 5 hosts change")
}
