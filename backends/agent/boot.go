// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
)

// bootPause is the least time between two writes of the boot file.
const bootPause = time.Second

// bootStale reports whether the boot file has something else than what is enforced for good.
func (a *Agent) bootStale() bool {
	return a.opts.BootFile != "" && a.enforced != nil && a.enforced.posture == Leave && a.booted != a.generation && a.pending == nil
}

// writeBoot writes the boot file, if what is enforced is another than what is in it and enough time has passed.
func (a *Agent) writeBoot(last bool) {
	e := a.enforced
	if !a.bootStale() {
		return
	}
	if !last && now().Before(a.bootTried.Add(bootPause)) {
		return
	}
	a.bootTried = now()
	err := a.safely("boot file", func() error {
		b, ok := a.opts.Backend.(backends.Booter)
		if !ok {
			return errors.New("the backend has no boot ruleset")
		}
		text, err := b.Boot(e.program, e.members())
		if err != nil {
			return err
		}
		return replaceFile(a.opts.BootFile, text)
	})
	a.booted = a.generation
	if err != nil {
		a.log.Error("the boot ruleset is not up to date", "file", a.opts.BootFile, "error", err)
	}
	a.update(func(s *Status) { s.BootErr = err })
}

// replaceFile makes an executable file what it should be at once, or not at all, so that it survives a crash.
func replaceFile(name string, data []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, data) {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o700), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
