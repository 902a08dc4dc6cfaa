// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Build compiles the program of a module of its own, and returns its path. The binary is kept in the user's cache under a
// name made of the module's sources, since some test servers take many minutes to compile. Of several processes that want
// it one compiles, and the others wait.
func Build(t testing.TB, module string) string {
	t.Helper()
	dir, err := filepath.Abs(module)
	require.NoError(t, err)
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		sum.Write(data)
	}
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	cache = filepath.Join(cache, "hostpolicy-test")
	require.NoError(t, os.MkdirAll(cache, 0o755))
	out := filepath.Join(cache, filepath.Base(dir)+"-"+hex.EncodeToString(sum.Sum(nil)[:8]))
	unlock, err := lock(out + ".lock")
	require.NoError(t, err)
	defer unlock()
	if _, err := os.Stat(out); err == nil {
		return out
	}
	temp, err := os.MkdirTemp(cache, "build")
	require.NoError(t, err)
	defer func() { _ = os.RemoveAll(temp) }()
	cmd := exec.Command("go", "build", "-o", filepath.Join(temp, "out"), ".")
	cmd.Dir = dir
	// Outside of the workspace, whose other modules it must not be tied to; GOFLAGS must not say -trimpath.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly -buildvcs=false", "CGO_ENABLED=0")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	require.NoError(t, os.Rename(filepath.Join(temp, "out"), out))
	return out
}
