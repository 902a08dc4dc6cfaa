// SPDX-License-Identifier: Apache-2.0

package policytest

import (
	"embed"
	"errors"
	"io/fs"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy"
)

//go:embed testdata
var corpus embed.FS

// defectPrefix begins the names of the cases that record what Calico does where this project decided otherwise.
const defectPrefix = "calico/dev-"

// Cases returns the corpus, sorted by name: what every implementation must agree with. The error lists the cases that
// cannot be read; it is nil unless this package is broken.
func Cases() ([]*Case, error) {
	return cases(func(name string) bool { return !strings.HasPrefix(name, defectPrefix) })
}

// Defects returns the cases with the verdicts of Calico where they are not ours. What we do there, and why, is in the
// case of the same name in the folder deviations, which Cases returns.
func Defects() ([]*Case, error) {
	return cases(func(name string) bool { return strings.HasPrefix(name, defectPrefix) })
}

func cases(want func(name string) bool) ([]*Case, error) {
	var out []*Case
	var errs []error
	err := fs.WalkDir(corpus, "testdata", func(path string, d fs.DirEntry, err error) error {
		name, ok := strings.CutSuffix(strings.TrimPrefix(path, "testdata/"), ".txtar")
		if err != nil || d.IsDir() || !ok || !want(name) {
			return err
		}
		data, err := corpus.ReadFile(path)
		if err != nil {
			return err
		}
		c, err := Parse(name, data)
		if err != nil {
			errs = append(errs, err)
			return nil
		}
		out = append(out, c)
		return nil
	})
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return out, nil
}

// Report returns what validation and resolving have to say about a case, one "severity object path: message" a line, as
// the errors section of a case has it.
func Report(c *Case) ([]string, error) {
	s, err := policy.Resolve(c.Resources, c.Host, c.Config)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(s.Problems))
	for i, p := range s.Problems {
		out[i] = p.String()
	}
	return out, nil
}
